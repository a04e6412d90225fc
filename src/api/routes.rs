//! Which call a method and a path mean, by the table of routes. Pure.

use percent_encoding::percent_decode_str;
use warp::http::Method;

use super::access::Access;
use super::page;
use super::table::ROUTES;

/// What is asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Call {
    Databases,
    Register,
    SetStatus(Named),
    Unregister(Named),
    Sync(Named),
    Snapshot(Named),
    Moments(Named),
    Download(Named),
    Health,
    ClientsHealth,
    ClientHealth(Named),
    Events,
    Metrics,
    OpenApi,
    Page(page::File),
}

/// The parts of the path that name a database.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Named {
    pub tenant: String,
    pub db_name: String,
}

/// One line of the table.
pub struct Route {
    pub method: &'static str,
    /// With `{name}` for a part that names something.
    pub path: &'static str,
    pub summary: &'static str,
    /// What the query may have.
    pub query: &'static [Parameter],
    /// The schema of the body that it takes.
    pub body: Option<&'static str>,
    /// The answers that are its own; those that any call may give come on top.
    pub answers: &'static [Answer],
    pub access: Access,
    pub make: Make,
}

/// Makes the call of the path's names.
pub type Make = fn(Vec<String>) -> Call;

/// One parameter of a query.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Parameter {
    pub name: &'static str,
    pub doc: &'static str,
    pub kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Text,
    Status,
    Duration,
    Time,
    Number,
}

/// A status, when it is given, and what the body is.
pub struct Answer(pub u16, pub &'static str, pub Content);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Content {
    Nothing,
    /// JSON of this schema.
    Json(&'static str),
    /// Something else of this media type.
    Media(&'static str),
}

/// The database that a path names.
pub fn named(parts: Vec<String>) -> Named {
    let mut parts = parts.into_iter();
    let mut next = || parts.next().expect("BUG: the path has two names");
    Named {
        tenant: next(),
        db_name: next(),
    }
}

/// Why a request has no call.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NoCall {
    /// There is nothing at this path.
    UnknownPath,
    /// There is, with these methods.
    WrongMethod(Vec<&'static str>),
    /// A name in it is no text.
    NoText,
}

/// The route of `method` at `path`, and its call. HEAD is answered as GET without the body.
pub fn find(method: &Method, path: &str) -> Result<(&'static Route, Call), NoCall> {
    let method = match method.as_str() {
        "HEAD" => "GET",
        other => other,
    };
    let mut allowed = Vec::new();
    for route in ROUTES {
        match parts(route.path, path) {
            Some(parts) if route.method == method => {
                let parts = decoded(parts).ok_or(NoCall::NoText)?;
                return Ok((route, (route.make)(parts)));
            }
            Some(_) => allowed.push(route.method),
            None => {}
        }
    }
    Err(if allowed.is_empty() {
        NoCall::UnknownPath
    } else {
        NoCall::WrongMethod(allowed)
    })
}

/// Whether a part of a route's path is a name.
pub fn is_name(part: &str) -> bool {
    part.starts_with('{')
}

/// The parts of `path` that stand where `pattern` has a name; none where they don't match.
fn parts<'a>(pattern: &str, path: &'a str) -> Option<Vec<&'a str>> {
    if pattern.split('/').count() != path.split('/').count() {
        return None;
    }
    let mut found = Vec::new();
    for (expected, part) in pattern.split('/').zip(path.split('/')) {
        if is_name(expected) && !part.is_empty() {
            found.push(part);
        } else if expected != part {
            return None;
        }
    }
    Some(found)
}

fn decoded(parts: Vec<&str>) -> Option<Vec<String>> {
    let text = |part| {
        let text = percent_decode_str(part).decode_utf8().ok()?;
        Some(text.into_owned())
    };
    parts.into_iter().map(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find_call(method: &str, path: &str) -> Result<Call, NoCall> {
        let method = Method::from_bytes(method.as_bytes()).expect("a method");
        find(&method, path).map(|(_, call)| call)
    }

    #[test]
    fn calls_by_method_and_path() {
        let named = |tenant: &str, db_name: &str| Named {
            tenant: tenant.to_owned(),
            db_name: db_name.to_owned(),
        };
        for (method, path, call) in [
            ("GET", "/api/databases", Call::Databases),
            ("POST", "/api/databases", Call::Register),
            ("GET", "/metrics", Call::Metrics),
            ("HEAD", "/api/health", Call::Health),
            (
                "GET",
                "/api/health/clients/g",
                Call::ClientHealth(named("g", "g")),
            ),
            (
                "POST",
                "/api/databases/t/d/sync",
                Call::Sync(named("t", "d")),
            ),
            (
                "DELETE",
                "/api/databases/a%20b/%2e%2E",
                Call::Unregister(named("a b", "..")),
            ),
        ] {
            assert_eq!(find_call(method, path), Ok(call), "{method} {path}");
        }
    }

    #[test]
    fn unknown_paths_and_wrong_methods() {
        for path in [
            "/api",
            "/api/",
            "/api/databases/",
            "/api/health/clients/",
            "/api/health/clients/a/b/c",
            "/api/databases//d/sync",
            "//metrics",
            "/metrics/",
            "",
        ] {
            assert_eq!(find_call("GET", path), Err(NoCall::UnknownPath), "{path}");
        }
        assert_eq!(
            find_call("DELETE", "/api/databases"),
            Err(NoCall::WrongMethod(vec!["GET", "POST"]))
        );
        assert_eq!(
            find_call("GET", "/api/databases/t/d/sync"),
            Err(NoCall::WrongMethod(vec!["POST"]))
        );
        assert_eq!(
            find_call("GET", "/api/health/clients/%ff"),
            Err(NoCall::NoText)
        );
    }

    #[test]
    fn no_request_has_two_calls() {
        for (at, route) in ROUTES.iter().enumerate() {
            let path = route.path.replace(['{', '}'], "");
            let method = Method::from_bytes(route.method.as_bytes()).expect("a method");
            let (first, _) = find(&method, &path).expect("its own");
            assert!(std::ptr::eq(first, &ROUTES[at]), "{}", route.path);
        }
    }
}
