//! Every route in one table: which call a method and a path mean. Pure.

use warp::http::Method;

/// What is asked for, with the parts of the path that name a database.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Call {
    Databases,
    Sync { tenant: String, db_name: String },
    Snapshot { tenant: String, db_name: String },
    Health,
    ClientsHealth,
    ClientHealth { tenant: String, db_name: String },
    Metrics,
    NotYet,
}

/// Why a request has no call.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NoCall {
    /// There is nothing at this path.
    UnknownPath,
    /// There is, with these methods.
    WrongMethod(Vec<&'static str>),
}

type Make = fn(&[&str]) -> Call;

/// Method, path with `*` for a part that names something, and the call that those parts make.
const ROUTES: &[(&str, &str, Make)] = &[
    ("GET", "/api/databases", |_| Call::Databases),
    ("POST", "/api/databases", not_yet),
    ("PUT", "/api/databases/*/*/status", not_yet),
    ("DELETE", "/api/databases/*/*", not_yet),
    ("POST", "/api/databases/*/*/sync", |parts| Call::Sync {
        tenant: parts[0].to_owned(),
        db_name: parts[1].to_owned(),
    }),
    ("POST", "/api/databases/*/*/snapshot", |parts| {
        Call::Snapshot {
            tenant: parts[0].to_owned(),
            db_name: parts[1].to_owned(),
        }
    }),
    ("GET", "/api/databases/*/*/moments", not_yet),
    ("GET", "/api/databases/*/*/download", not_yet),
    ("GET", "/api/health", |_| Call::Health),
    ("GET", "/api/health/clients", |_| Call::ClientsHealth),
    ("GET", "/api/health/clients/*", |parts| Call::ClientHealth {
        tenant: parts[0].to_owned(),
        db_name: parts[0].to_owned(),
    }),
    ("GET", "/api/health/clients/*/*", |parts| {
        Call::ClientHealth {
            tenant: parts[0].to_owned(),
            db_name: parts[1].to_owned(),
        }
    }),
    ("GET", "/api/events", not_yet),
    ("GET", "/api/openapi.json", not_yet),
    ("GET", "/metrics", |_| Call::Metrics),
    ("GET", "/", not_yet),
];

fn not_yet(_: &[&str]) -> Call {
    Call::NotYet
}

/// The call that `method` at `path` means. HEAD is answered as GET without the body.
pub fn find(method: &Method, path: &str) -> Result<Call, NoCall> {
    let method = match method.as_str() {
        "HEAD" => "GET",
        other => other,
    };
    let mut allowed = Vec::new();
    for (known, pattern, make) in ROUTES {
        match parts(pattern, path) {
            Some(parts) if *known == method => return Ok(make(&parts)),
            Some(_) => allowed.push(*known),
            None => {}
        }
    }
    Err(if allowed.is_empty() {
        NoCall::UnknownPath
    } else {
        NoCall::WrongMethod(allowed)
    })
}

/// The parts of `path` that stand where `pattern` has a `*`; none where they don't match.
fn parts<'a>(pattern: &str, path: &'a str) -> Option<Vec<&'a str>> {
    if pattern.split('/').count() != path.split('/').count() {
        return None;
    }
    let mut found = Vec::new();
    for (expected, part) in pattern.split('/').zip(path.split('/')) {
        if expected == "*" && !part.is_empty() {
            found.push(part);
        } else if expected != part {
            return None;
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(path: &str) -> Result<Call, NoCall> {
        find(&Method::GET, path)
    }

    #[test]
    fn calls_by_method_and_path() {
        assert_eq!(get("/api/databases"), Ok(Call::Databases));
        assert_eq!(get("/metrics"), Ok(Call::Metrics));
        assert_eq!(find(&Method::HEAD, "/api/health"), Ok(Call::Health));
        let named = |tenant: &str, db_name: &str| (tenant.to_owned(), db_name.to_owned());
        let (tenant, db_name) = named("g", "g");
        assert_eq!(
            get("/api/health/clients/g"),
            Ok(Call::ClientHealth { tenant, db_name })
        );
        let (tenant, db_name) = named("t", "d");
        assert_eq!(
            find(&Method::POST, "/api/databases/t/d/sync"),
            Ok(Call::Sync { tenant, db_name })
        );
        assert_eq!(
            find(&Method::DELETE, "/api/databases/t/d"),
            Ok(Call::NotYet)
        );
        assert_eq!(get("/"), Ok(Call::NotYet));
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
            assert_eq!(get(path), Err(NoCall::UnknownPath), "{path}");
        }
        assert_eq!(
            find(&Method::DELETE, "/api/databases"),
            Err(NoCall::WrongMethod(vec!["GET", "POST"]))
        );
        assert_eq!(
            get("/api/databases/t/d/sync"),
            Err(NoCall::WrongMethod(vec!["POST"]))
        );
    }
}
