//! The API over a real connection, on a roster made by hand.

mod access;
mod changes;
mod connections;
mod contract;
mod downloads;
mod listening;
mod page;
mod reads;

use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, oneshot, watch};

use super::listen::{Listen, Listener};
use super::{Changes, State, Wanted, events, replicas, server};
use crate::format::keys::GenerationId;
use crate::mount::MountStatus;
use crate::replicate::{StoreHealth, SyncError, Synced};
use crate::restore::{At, ListedGeneration, Moment, RestoreError, Restored, Target};
use crate::tenant::discovery::Named;
use crate::tenant::ids::Identity;
use crate::tenant::request::{RegisterRequest, Registered, RequestError};
use crate::tenant::roster::{Client, Registration, Roster, Status};
use crate::tenant::terms::Terms;

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
        serde_json::from_str(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {:.200}", self.body))
    }

    fn code(&self) -> String {
        let json = self.json();
        assert!(json["error"]["message"].is_string(), "{json}");
        json["error"]["code"].as_str().expect("a code").to_owned()
    }
}

impl Served {
    async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// What the API works with is changed by `change` before.
    async fn start_with(change: impl FnOnce(&mut State)) -> Self {
        Self::start_for(10, change).await
    }

    /// With room for so many tenants.
    async fn start_for(max_tenants: usize, change: impl FnOnce(&mut State)) -> Self {
        let roster = Arc::new(Roster::new(max_tenants));
        let mount_state = Arc::new(Mutex::new("mounted"));
        let mounts = mount_state.clone();
        let mut state = State {
            is_ready: Arc::new(AtomicBool::new(true)),
            roster: roster.clone(),
            max_lag: Duration::from_secs(30),
            started: Instant::now(),
            mounts: Box::new(move || vec![mount(*mounts.lock().expect("not poisoned"))]),
            changes: changes(&roster),
            token: None,
            moments: Box::new(|client| {
                let found = moments(&client);
                Box::pin(async { found })
            }),
            restore: Box::new(|client, target| {
                let restored = restore(&client, &target);
                Box::pin(async { restored })
            }),
            lists: Arc::new(Semaphore::new(replicas::MAX_LISTS)),
            downloads: Arc::new(Semaphore::new(replicas::MAX_DOWNLOADS)),
            owner: Box::new(|_| None),
            owner_of_place: Box::new(|_| None),
            listeners: Arc::new(Semaphore::new(events::MAX_LISTENERS)),
            closing: watch::Sender::new(false),
            store_health: Box::new(|| StoreHealth {
                reachable: Some(true),
                conditional_put: Some(true),
                error: None,
            }),
            sync: Box::new(|wanted, client, timeout| Box::pin(sync(wanted, client, timeout))),
        };
        change(&mut state);
        let listen = "127.0.0.1:0".parse().expect("an address");
        let listener = Listener::bind(&listen).await.expect("a port");
        let Ok(Listen::Tcp(addr)) = listener.listen() else {
            panic!("an address");
        };
        let (shutdown, stop) = oneshot::channel::<()>();
        let task = tokio::spawn(server::serve(listener, Arc::new(state), async move {
            // Also where a test that failed has dropped the sender.
            drop(stop.await);
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
        match self.roster.register(
            Identity::plain(prefix, guid),
            Path::new(&path).into(),
            &seen_at(),
        ) {
            Registration::New(client) => client,
            other => panic!("{other:?}"),
        }
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[]).await
    }

    async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.send(method, path, headers, "").await
    }

    /// With a body.
    async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
        if !headers.iter().any(|(name, _)| *name == "Host") {
            head.push_str(&format!("Host: {}\r\n", self.addr));
        }
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if !body.is_empty() {
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        self.exchange(&format!("{head}\r\n{body}")).await
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
        take_over: None,
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

/// One generation with the transactions 1 and 3; of the client `nothing` nothing is stored, and that of `damaged` is.
fn moments(client: &Client) -> Result<Vec<ListedGeneration>, RestoreError> {
    match &*client.id.tenant {
        "nothing" => Err(RestoreError::UnknownReplica {
            prefix: client.s3_prefix().to_owned(),
        }),
        "damaged" => Err(RestoreError::Missing {
            key: format!("{}/wal/x", client.s3_prefix()),
        }),
        _ => Ok(vec![ListedGeneration {
            id: GenerationId(0x1a),
            moments: [(1, 0), (3, 2_000)]
                .map(|(txid, time_ms)| Moment { txid, time_ms })
                .to_vec(),
        }]),
    }
}

/// The digit of the transaction all over; of `large` more than a connection takes before anything of it is read.
fn restore(client: &Client, target: &Target) -> Result<(Restored, File), RestoreError> {
    let found = moments(client)?.remove(0);
    let place = match target.at {
        At::Newest => 1,
        At::Time(time_ms) => match found.moments.iter().rposition(|m| m.time_ms <= time_ms) {
            Some(place) => place,
            None => {
                return Err(RestoreError::BeforeFirst {
                    prefix: client.s3_prefix().to_owned(),
                    asked: time_ms,
                    first: 0,
                });
            }
        },
        At::Txid(txid) => match found.moments.iter().position(|m| m.txid == txid) {
            Some(place) => place,
            None => {
                return Err(RestoreError::NoSuchTxid {
                    prefix: client.s3_prefix().to_owned(),
                    txid,
                    before: Some(1),
                    after: Some(3),
                });
            }
        },
    };
    let Moment { txid, time_ms } = found.moments[place];
    let mut file = tempfile::tempfile().expect("a file");
    let content = txid.to_string().repeat(512 * 1000);
    file.write_all(content.as_bytes()).expect("written");
    let pages = if &*client.id.tenant == "large" {
        100_000
    } else {
        1000
    };
    file.set_len(pages * 512).expect("its size");
    let restored = Restored {
        generation: found.id,
        txid,
        time_ms,
        pages: pages as u32,
        page_size: 512,
        checksum: 0,
        objects: 1,
        bytes: 1,
        basis: None,
    };
    Ok((restored, file))
}

/// Changes of the roster alone: a second file has no identity, tenants are at most ten, and nothing can be noted of the
/// client `unwritable`.
fn changes(roster: &Arc<Roster>) -> Changes {
    let (registers, unregisters) = (roster.clone(), roster.clone());
    Changes {
        register: Box::new(move |request| {
            let registered = register(&registers, request);
            Box::pin(async { registered })
        }),
        set_paused: Box::new(|client, paused| {
            client.update(|progress| {
                progress.status = if paused {
                    Status::Paused
                } else {
                    Status::Active
                };
            });
            Box::pin(async { Ok(()) })
        }),
        unregister: Box::new(move |client| {
            unregisters.unregister(&client.id, &client.db_path);
            Box::pin(async { Ok(()) })
        }),
    }
}

fn seen_at() -> Arc<Path> {
    Path::new("/data").into()
}

fn register(roster: &Roster, request: RegisterRequest) -> Result<Registered, RequestError> {
    let tenant = request.tenant_id.or(request.client_id);
    let tenant = tenant.expect("one of them is there");
    if tenant == "unwritable" {
        return Err(RequestError::Unavailable {
            code: "state",
            message: "the state can't be written".to_owned(),
        });
    }
    let path = request
        .db_path
        .unwrap_or_else(|| format!("/data/{tenant}.db").into());
    let stem = path.file_stem().and_then(|stem| stem.to_str());
    let named = Named {
        single: Some(tenant.as_str()) == stem,
        db_name: stem.expect("a name").to_owned(),
        ..Named::single(&tenant)
    };
    let identity = Terms {
        store: Some("a store".to_owned()),
        ..Terms::default()
    };
    let identity = identity.identity("", &named);
    let below = path.strip_prefix("/data").expect("below the watch path");
    match roster.register(identity, below.into(), &seen_at()) {
        Registration::New(client) if client.progress().status == Status::Refused => {
            roster.unregister(&client.id, below);
            Err(RequestError::Limit {
                code: "too_many_tenants",
                message: "limits.maxTenantsPerInstance is 10".to_owned(),
            })
        }
        Registration::New(client) => Ok(Registered::New(client)),
        Registration::Known(client) => Ok(Registered::Known(client)),
        Registration::Taken(path) => Err(RequestError::Taken {
            code: "path_taken",
            message: format!("{} has this identity already", path.display()),
        }),
    }
}
