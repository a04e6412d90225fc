//! The API over a real connection, on a roster made by hand.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use super::{State, Wanted, server};
use crate::mount::MountStatus;
use crate::replicate::{StoreHealth, SyncError, Synced};
use crate::tenant::ids::ClientId;
use crate::tenant::roster::{Client, Registration, Roster, Status};

const GUID: &str = "12345678-1234-5678-9abc-123456789012";
const DEADLINE: Duration = Duration::from_secs(10);

struct Served {
    addr: SocketAddr,
    roster: Arc<Roster>,
    mount_state: Arc<Mutex<&'static str>>,
    shutdown: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<()>,
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    fn code(&self) -> String {
        let json = self.json();
        assert!(json["error"]["message"].is_string(), "{json}");
        json["error"]["code"].as_str().expect("a code").to_owned()
    }
}

impl Served {
    async fn start() -> Self {
        let roster = Arc::new(Roster::new(10));
        let mount_state = Arc::new(Mutex::new("mounted"));
        let mounts = mount_state.clone();
        let state = State {
            roster: roster.clone(),
            watch_path: "/data".into(),
            max_lag: Duration::from_secs(30),
            started: Instant::now(),
            mounts: Box::new(move || vec![mount(*mounts.lock().expect("not poisoned"))]),
            store_health: Box::new(|| StoreHealth {
                reachable: Some(true),
                conditional_put: Some(true),
                error: None,
            }),
            sync: Box::new(|wanted, client, timeout| Box::pin(sync(wanted, client, timeout))),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("an address");
        let (shutdown, stop) = oneshot::channel::<()>();
        let task = tokio::spawn(server::serve(listener, Arc::new(state), async move {
            stop.await.expect("the sender is kept");
        }));
        Self {
            addr,
            roster,
            mount_state,
            shutdown,
            task,
        }
    }

    fn register(&self, prefix: &str, guid: &str) -> Arc<Client> {
        let path = format!("{guid}.db");
        match self
            .roster
            .register(ClientId::guid(prefix, guid), Path::new(&path))
        {
            Registration::New(client) => client,
            other => panic!("{other:?}"),
        }
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[]).await
    }

    async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        let mut head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
        if !headers.iter().any(|(name, _)| *name == "Host") {
            head.push_str(&format!("Host: {}\r\n", self.addr));
        }
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        self.exchange(&format!("{head}\r\n")).await
    }

    async fn exchange(&self, request: &str) -> Answer {
        let text = tokio::time::timeout(DEADLINE, async {
            let mut stream = TcpStream::connect(self.addr).await.expect("connected");
            stream.write_all(request.as_bytes()).await.expect("sent");
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).await.expect("answered");
            String::from_utf8(bytes).expect("text")
        })
        .await
        .expect("an answer in time");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        Answer {
            status: status.expect("a status"),
            head: head.to_lowercase(),
            body: body.to_owned(),
        }
    }
}

fn mount(state: &'static str) -> MountStatus {
    MountStatus {
        watch_path: "/data".into(),
        mountpoint: "/data".into(),
        prefix: String::new(),
        capture: "intercept",
        file_passthrough: true,
        state,
        error: None,
    }
}

/// A store that holds everything at once, but for paused clients, and for those who can't wait at all.
async fn sync(wanted: Wanted, client: Arc<Client>, timeout: Duration) -> Result<Synced, SyncError> {
    match client.progress().status {
        Status::Paused => Err(SyncError::NotActive("paused")),
        _ if timeout.is_zero() => Err(SyncError::TimedOut(timeout)),
        _ => Ok(Synced {
            txid: match wanted {
                Wanted::Sync => 7,
                Wanted::Snapshot => 8,
            },
            duration: Duration::from_millis(12),
        }),
    }
}

#[tokio::test]
async fn databases_with_and_without_filters() {
    let api = Served::start().await;
    assert_eq!(
        api.get("/api/databases").await.json(),
        json!({"databases": [], "total": 0})
    );
    api.register("", GUID);
    api.register("eu", "other")
        .update(|progress| progress.status = Status::Failing);
    let answer = api.get("/api/databases").await;
    assert_eq!(answer.status, 200);
    assert!(answer.head.contains("content-type: application/json"));
    let json = answer.json();
    assert_eq!(json["total"], 2);
    assert_eq!(json["databases"][0]["dbPath"], format!("/data/{GUID}.db"));
    for (query, total) in [
        (format!("tenant={GUID}"), 1),
        ("tenant=nobody".to_owned(), 0),
        ("status=failing".to_owned(), 1),
        ("status=active&prefix=eu".to_owned(), 0),
        ("prefix=eu".to_owned(), 1),
        ("prefix=".to_owned(), 1),
    ] {
        let json = api.get(&format!("/api/databases?{query}")).await.json();
        assert_eq!(json["total"], total, "{query}");
        assert_eq!(json["databases"].as_array().expect("a list").len(), total);
    }
}

#[tokio::test]
async fn health_of_the_instance_and_of_clients() {
    let api = Served::start().await;
    let client = api.register("", GUID);
    let json = api.get("/api/health").await.json();
    assert_eq!(json["status"], "ok");
    assert_eq!(json["counts"]["active"], 1);
    assert_eq!(json["store"]["conditionalPut"], true);
    assert_eq!(json["mounts"][0]["mountpoint"], "/data");
    assert_eq!(json["version"], env!("CARGO_PKG_VERSION"));

    client.update(|progress| progress.status = Status::Failing);
    let answer = api.get("/api/health").await;
    assert_eq!(
        (answer.status, answer.json()["status"].clone()),
        (200, json!("degraded"))
    );
    *api.mount_state.lock().expect("not poisoned") = "bypassed";
    let answer = api.get("/api/health").await;
    assert_eq!(
        (answer.status, answer.json()["status"].clone()),
        (503, json!("failing"))
    );

    let all = api.get("/api/health/clients").await.json();
    let one = api.get(&format!("/api/health/clients/{GUID}")).await.json();
    let named = api.get(&format!("/api/health/clients/{GUID}/{GUID}")).await;
    assert_eq!(all, json!({"clients": [one.clone()]}));
    assert_eq!(named.json(), one);
    let none = api.get("/api/health/clients?status=gapped").await.json();
    assert_eq!(none, json!({"clients": []}));
    let unknown = api.get("/api/health/clients/nobody").await;
    assert_eq!(
        (unknown.status, unknown.code()),
        (404, "unknown_client".to_owned())
    );
}

#[tokio::test]
async fn the_same_guid_under_two_prefixes_needs_the_prefix() {
    let api = Served::start().await;
    api.register("eu", GUID);
    api.register("us", GUID);
    let path = format!("/api/health/clients/{GUID}");
    let answer = api.get(&path).await;
    assert_eq!(answer.status, 409);
    let message = answer.json()["error"]["message"].to_string();
    assert!(
        message.contains(&format!("eu/{GUID}, us/{GUID}")),
        "{message}"
    );
    let one = api.get(&format!("{path}?prefix=us")).await.json();
    assert_eq!(one["s3Prefix"], format!("us/databases/{GUID}"));
    assert_eq!(api.get(&format!("{path}?prefix=asia")).await.status, 404);
}

#[tokio::test]
async fn a_sync_or_a_snapshot_on_demand() {
    let api = Served::start().await;
    let client = api.register("", GUID);
    let path = format!("/api/databases/{GUID}/{GUID}/sync");
    let answer = api.ask("POST", &path, &[]).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json(), json!({"txid": 7, "durationMs": 12}));
    let snapshot = path.replace("/sync", "/snapshot");
    let answer = api.ask("POST", &snapshot, &[]).await;
    assert_eq!(
        (answer.status, answer.json()["txid"].clone()),
        (200, json!(8))
    );
    let late = api.ask("POST", &format!("{path}?timeout=0"), &[]).await;
    assert_eq!((late.status, late.code()), (504, "timed_out".to_owned()));
    client.update(|progress| progress.status = Status::Paused);
    let paused = api.ask("POST", &path, &[]).await;
    assert_eq!(
        (paused.status, paused.code()),
        (409, "not_active".to_owned())
    );
    let unknown = api.ask("POST", "/api/databases/a/b/sync", &[]).await;
    assert_eq!(unknown.status, 404);
    for timeout in ["soon", "6m", "-1s"] {
        let bad = api
            .ask("POST", &format!("{path}?timeout={timeout}"), &[])
            .await;
        assert_eq!((bad.status, bad.code()), (400, "bad_query".to_owned()));
    }
}

#[tokio::test]
async fn what_does_not_work_is_said_by_name() {
    let api = Served::start().await;
    for (method, path) in [
        ("POST", "/api/databases"),
        ("PUT", "/api/databases/t/d/status"),
        ("DELETE", "/api/databases/t/d"),
        ("GET", "/api/databases/t/d/moments"),
        ("GET", "/api/databases/t/d/download?timestamp=x"),
        ("GET", "/api/events"),
        ("GET", "/api/openapi.json"),
        ("GET", "/"),
        ("GET", "/api/databases?status=ignored"),
    ] {
        let answer = api.ask(method, path, &[]).await;
        assert_eq!(
            (answer.status, answer.code()),
            (501, "not_supported_yet".to_owned()),
            "{path}"
        );
    }
    let answer = api.get("/api/nothing").await;
    assert_eq!(
        (answer.status, answer.code()),
        (404, "unknown_route".to_owned())
    );
    let answer = api.ask("DELETE", "/api/health", &[]).await;
    assert_eq!(
        (answer.status, answer.code()),
        (405, "wrong_method".to_owned())
    );
    assert!(answer.head.contains("allow: get"), "{}", answer.head);
    for query in ["status=odd", "nobody=1", "status=active&status=active"] {
        let answer = api.get(&format!("/api/databases?{query}")).await;
        assert_eq!(
            (answer.status, answer.code()),
            (400, "bad_query".to_owned()),
            "{query}"
        );
    }
}

#[tokio::test]
async fn pages_of_other_sites_are_refused() {
    let api = Served::start().await;
    let own = api.addr.to_string();
    let origin = format!("http://{own}");
    for (headers, status) in [
        (vec![("Host", "localhost")], 200),
        (vec![("Host", "[::1]:8080")], 200),
        (
            vec![("Host", own.as_str()), ("Origin", origin.as_str())],
            200,
        ),
        (vec![("Host", "evil.example")], 403),
        (vec![("Host", "evil.example:80")], 403),
        (vec![("Host", "127.0.0.1.evil.example")], 403),
        (vec![("Host", "10.0.0.1")], 403),
        (vec![("Origin", "http://evil.example")], 403),
        (vec![("Origin", "http://127.0.0.1:1")], 403),
        (vec![("Origin", "null")], 403),
    ] {
        let answer = api.ask("GET", "/api/health", &headers).await;
        assert_eq!(answer.status, status, "{headers:?}");
    }
}

#[tokio::test]
async fn metrics_are_text() {
    let api = Served::start().await;
    api.register("", GUID);
    let answer = api.get("/metrics").await;
    assert!(
        answer
            .head
            .contains("content-type: text/plain; version=0.0.4")
    );
    let line = format!("litestream_databases_active{{client=\"{GUID}\"}} 1");
    assert!(
        answer.body.lines().any(|one| one == line),
        "{}",
        answer.body
    );
}

#[tokio::test]
async fn a_head_without_end_is_cut_off() {
    let api = Served::start().await;
    let long = "x".repeat(64 << 10);
    let request = format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {long}");
    let mut stream = TcpStream::connect(api.addr).await.expect("connected");
    // The server may close before it has read all of it.
    let _ = stream.write_all(request.as_bytes()).await;
    let mut answer = Vec::new();
    let read = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer)).await;
    let read = read.expect("cut off in time");
    let text = String::from_utf8_lossy(&answer);
    assert!(read.is_err() || text.starts_with("HTTP/1.1 431"), "{text}");
    assert_eq!(api.get("/api/health").await.status, 200, "it goes on");
}

#[tokio::test]
async fn shutdown_ends_idle_connections() {
    let api = Served::start().await;
    let mut idle = TcpStream::connect(api.addr).await.expect("connected");
    assert_eq!(api.get("/api/health").await.status, 200);
    api.shutdown.send(()).expect("it is served");
    tokio::time::timeout(DEADLINE, api.task)
        .await
        .expect("ended in time")
        .expect("ended well");
    let mut rest = Vec::new();
    let read = idle.read_to_end(&mut rest).await;
    assert!(read.is_err() || rest.is_empty());
    assert!(TcpStream::connect(api.addr).await.is_err());
}
