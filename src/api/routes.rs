//! Every route in one table: which call a method and a path mean, and what the description says of it. Pure.

use percent_encoding::percent_decode_str;
use warp::http::Method;

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
    NotYet,
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
    /// Answered without a token, too.
    pub open: bool,
    make: fn(Vec<String>) -> Call,
}

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

const PREFIX: Parameter = Parameter {
    name: "prefix",
    doc: "the watch path's prefix; empty for the one without",
    kind: Kind::Text,
};
const TENANT: Parameter = Parameter {
    name: "tenant",
    doc: "only this tenant's",
    kind: Kind::Text,
};
const STATUS: Parameter = Parameter {
    name: "status",
    doc: "only those with this status",
    kind: Kind::Status,
};
const TIMEOUT: Parameter = Parameter {
    name: "timeout",
    doc: "how long to wait, at most 5m; 30s by default",
    kind: Kind::Duration,
};

const TIMESTAMP: Parameter = Parameter {
    name: "timestamp",
    doc: "the newest moment at or before this time; not together with txid",
    kind: Kind::Time,
};
const TXID: Parameter = Parameter {
    name: "txid",
    doc: "the moment of exactly this transaction",
    kind: Kind::Number,
};

const DAMAGED: Answer = Answer(500, "the replica is damaged", Content::Json("Error"));
const BUSY: Answer = Answer(
    503,
    "the store does not answer, or too many read replicas",
    Content::Json("Error"),
);

/// The routes of one database begin so.
const DATABASE: &str = "/api/databases/{tenantId}/{dbName}";

const WAITED: &[Answer] = &[
    Answer(200, "all of it is in the store", Content::Json("Synced")),
    Answer(
        409,
        "the client is not active, or has nothing",
        Content::Json("Error"),
    ),
    Answer(504, "not within the timeout", Content::Json("Error")),
];

pub static ROUTES: &[Route] = &[
    Route {
        method: "GET",
        path: "/api/databases",
        summary: "All databases",
        query: &[TENANT, STATUS, PREFIX],
        body: None,
        answers: &[Answer(200, "the databases", Content::Json("Databases"))],
        open: false,
        make: |_| Call::Databases,
    },
    Route {
        method: "POST",
        path: "/api/databases",
        summary: "Register a database",
        query: &[],
        body: Some("NewDatabase"),
        answers: &[
            Answer(
                200,
                "it was registered so already",
                Content::Json("Database"),
            ),
            Answer(201, "it is registered", Content::Json("Database")),
            Answer(
                409,
                "the prefix or the path is taken",
                Content::Json("Error"),
            ),
            Answer(422, "a limit is reached", Content::Json("Error")),
            Answer(503, "it can't be noted at present", Content::Json("Error")),
        ],
        open: false,
        make: |_| Call::Register,
    },
    Route {
        method: "PUT",
        path: "/api/databases/{tenantId}/{dbName}/status",
        summary: "Pause a database's uploads, or have them go on",
        query: &[PREFIX],
        body: Some("NewStatus"),
        answers: &[
            Answer(200, "it is so", Content::Json("Database")),
            Answer(422, "a limit is reached", Content::Json("Error")),
            Answer(503, "it can't be noted at present", Content::Json("Error")),
        ],
        open: false,
        make: |parts| Call::SetStatus(named(parts)),
    },
    Route {
        method: "DELETE",
        path: DATABASE,
        summary: "Stop replicating a database; its objects stay",
        query: &[PREFIX],
        body: None,
        answers: &[
            Answer(204, "it is unregistered", Content::Nothing),
            Answer(503, "it can't be noted at present", Content::Json("Error")),
        ],
        open: false,
        make: |parts| Call::Unregister(named(parts)),
    },
    Route {
        method: "POST",
        path: "/api/databases/{tenantId}/{dbName}/sync",
        summary: "Wait until all that was committed before is in the store",
        query: &[TIMEOUT, PREFIX],
        body: None,
        answers: WAITED,
        open: false,
        make: |parts| Call::Sync(named(parts)),
    },
    Route {
        method: "POST",
        path: "/api/databases/{tenantId}/{dbName}/snapshot",
        summary: "Wait until a new snapshot is in the store",
        query: &[TIMEOUT, PREFIX],
        body: None,
        answers: WAITED,
        open: false,
        make: |parts| Call::Snapshot(named(parts)),
    },
    Route {
        method: "GET",
        path: "/api/databases/{tenantId}/{dbName}/moments",
        summary: "What can be restored",
        query: &[PREFIX],
        body: None,
        answers: &[
            Answer(
                200,
                "each generation with its moments, oldest first",
                Content::Json("Moments"),
            ),
            DAMAGED,
            BUSY,
        ],
        open: false,
        make: |parts| Call::Moments(named(parts)),
    },
    Route {
        method: "GET",
        path: "/api/databases/{tenantId}/{dbName}/download",
        summary: "A database as it was, verified; without timestamp and txid its newest moment",
        query: &[TIMESTAMP, TXID, PREFIX],
        body: None,
        answers: &[
            Answer(
                200,
                "the database",
                Content::Media("application/vnd.sqlite3"),
            ),
            DAMAGED,
            BUSY,
        ],
        open: false,
        make: |parts| Call::Download(named(parts)),
    },
    Route {
        method: "GET",
        path: "/api/health",
        summary: "The whole instance",
        query: &[],
        body: None,
        answers: &[
            Answer(200, "ok or degraded", Content::Json("Instance")),
            Answer(503, "failing", Content::Json("Instance")),
        ],
        open: true,
        make: |_| Call::Health,
    },
    Route {
        method: "GET",
        path: "/api/health/clients",
        summary: "How far every client has come",
        query: &[STATUS, PREFIX],
        body: None,
        answers: &[Answer(200, "the clients", Content::Json("Clients"))],
        open: false,
        make: |_| Call::ClientsHealth,
    },
    Route {
        method: "GET",
        path: "/api/health/clients/{guid}",
        summary: "How far the client with this GUID has come",
        query: &[PREFIX],
        body: None,
        answers: &[Answer(200, "the client", Content::Json("Health"))],
        open: false,
        make: |mut parts| {
            parts.push(parts[0].clone());
            Call::ClientHealth(named(parts))
        },
    },
    Route {
        method: "GET",
        path: "/api/health/clients/{tenantId}/{dbName}",
        summary: "How far one client has come",
        query: &[PREFIX],
        body: None,
        answers: &[Answer(200, "the client", Content::Json("Health"))],
        open: false,
        make: |parts| Call::ClientHealth(named(parts)),
    },
    Route {
        method: "GET",
        path: "/api/events",
        summary: "What happens, as it happens: registered, unregistered, synced, failed, missed",
        query: &[],
        body: None,
        answers: &[
            Answer(
                200,
                "server-sent events; data is Health, but only the name for unregistered, and a number for missed",
                Content::Media("text/event-stream"),
            ),
            Answer(503, "too many listen already", Content::Json("Error")),
        ],
        open: false,
        make: |_| Call::Events,
    },
    Route {
        method: "GET",
        path: "/api/openapi.json",
        summary: "This description",
        query: &[],
        body: None,
        answers: &[Answer(200, "OpenAPI 3.1", Content::Json("Description"))],
        open: false,
        make: |_| Call::OpenApi,
    },
    Route {
        method: "GET",
        path: "/metrics",
        summary: "Metrics for Prometheus",
        query: &[],
        body: None,
        answers: &[Answer(
            200,
            "the exposition format",
            Content::Media("text/plain"),
        )],
        open: false,
        make: |_| Call::Metrics,
    },
    not_yet("GET", "/", "A page for people"),
];

const fn not_yet(method: &'static str, path: &'static str, summary: &'static str) -> Route {
    Route {
        method,
        path,
        summary,
        query: &[],
        body: None,
        answers: &[],
        open: false,
        make: |_| Call::NotYet,
    }
}

fn named(parts: Vec<String>) -> Named {
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
