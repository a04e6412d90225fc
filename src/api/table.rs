//! The table of routes: what is answered, and what the description says of it.

use super::access::Access;
use super::page;
use super::routes::{Answer, Call, Content, Kind, Make, Parameter, Route, named};

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

const HTML: &[Answer] = &[Answer(200, "the page", Content::Media("text/html"))];
const CSS: &[Answer] = &[Answer(200, "a style", Content::Media("text/css"))];
const SVG: &[Answer] = &[Answer(200, "a picture", Content::Media("image/svg+xml"))];
const JAVASCRIPT: &[Answer] = &[Answer(200, "a script", Content::Media("text/javascript"))];
const SCRIPT: &str = "A script of the page";

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
        access: Access::Token,
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
        access: Access::Token,
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
        access: Access::Owner,
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
        access: Access::Owner,
        make: |parts| Call::Unregister(named(parts)),
    },
    Route {
        method: "POST",
        path: "/api/databases/{tenantId}/{dbName}/sync",
        summary: "Wait until all that was committed before is in the store",
        query: &[TIMEOUT, PREFIX],
        body: None,
        answers: WAITED,
        access: Access::Token,
        make: |parts| Call::Sync(named(parts)),
    },
    Route {
        method: "POST",
        path: "/api/databases/{tenantId}/{dbName}/snapshot",
        summary: "Wait until a new snapshot is in the store",
        query: &[TIMEOUT, PREFIX],
        body: None,
        answers: WAITED,
        access: Access::Token,
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
        access: Access::Token,
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
        access: Access::Administrator,
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
            Answer(503, "starting or failing", Content::Json("Instance")),
        ],
        access: Access::Open,
        make: |_| Call::Health,
    },
    Route {
        method: "GET",
        path: "/api/health/clients",
        summary: "How far every client has come",
        query: &[STATUS, PREFIX],
        body: None,
        answers: &[Answer(200, "the clients", Content::Json("Clients"))],
        access: Access::Token,
        make: |_| Call::ClientsHealth,
    },
    Route {
        method: "GET",
        path: "/api/health/clients/{guid}",
        summary: "How far the client with this GUID has come",
        query: &[PREFIX],
        body: None,
        answers: &[Answer(200, "the client", Content::Json("Health"))],
        access: Access::Token,
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
        access: Access::Token,
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
                "server-sent events; data is Health, with waitedMs for synced; only the name for unregistered, a number for missed",
                Content::Media("text/event-stream"),
            ),
            Answer(503, "too many listen already", Content::Json("Error")),
        ],
        access: Access::Token,
        make: |_| Call::Events,
    },
    Route {
        method: "GET",
        path: "/api/openapi.json",
        summary: "This description",
        query: &[],
        body: None,
        answers: &[Answer(200, "OpenAPI 3.1", Content::Json("Description"))],
        access: Access::Token,
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
        access: Access::Token,
        make: |_| Call::Metrics,
    },
    file("/", "A page for people", HTML, |_| Call::Page(page::INDEX)),
    file("/page.css", "The page's style", CSS, |_| {
        Call::Page(page::STYLE)
    }),
    file("/icon.svg", "The page's icon", SVG, |_| {
        Call::Page(page::ICON)
    }),
    file("/page.js", SCRIPT, JAVASCRIPT, |_| Call::Page(page::PAGE)),
    file("/clients.js", SCRIPT, JAVASCRIPT, |_| {
        Call::Page(page::CLIENTS)
    }),
    file("/detail.js", SCRIPT, JAVASCRIPT, |_| {
        Call::Page(page::DETAIL)
    }),
    file("/format.js", SCRIPT, JAVASCRIPT, |_| {
        Call::Page(page::FORMAT)
    }),
    file("/source.js", SCRIPT, JAVASCRIPT, |_| {
        Call::Page(page::SOURCE)
    }),
    file("/table.js", SCRIPT, JAVASCRIPT, |_| Call::Page(page::TABLE)),
];

/// A file of the page, which everybody may have.
const fn file(
    path: &'static str,
    summary: &'static str,
    answers: &'static [Answer],
    make: Make,
) -> Route {
    Route {
        method: "GET",
        path,
        summary,
        query: &[],
        body: None,
        answers,
        access: Access::Open,
        make,
    }
}
