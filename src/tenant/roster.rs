//! The clients that are known to this instance, with what is known of each: status, positions, lag, errors.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use tokio::sync::watch;

use super::events::{EventKind, Events};
use super::ids::ClientId;
use crate::clock::UnixMs;
use crate::store::keys::GenerationId;

/// What a client does at present (INTERFACE: the statuses of the API).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum Status {
    /// Registered; there is no file yet.
    Waiting,
    /// Replicating, or idle with everything stored.
    Active,
    /// Told to stop uploading.
    Paused,
    /// A stretch of history lost its resolution; being mended.
    Gapped,
    /// Known from an earlier run, and absent at start.
    Missing,
    /// Past a limit: the application is not hindered, nothing is uploaded.
    Refused,
    /// Something is wrong; `last_error` says what. Retried.
    Failing,
}

impl Status {
    pub const ALL: [Status; 7] = [
        Status::Waiting,
        Status::Active,
        Status::Paused,
        Status::Gapped,
        Status::Missing,
        Status::Refused,
        Status::Failing,
    ];

    /// The word that the API and the metrics use.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Waiting => "waiting",
            Status::Active => "active",
            Status::Paused => "paused",
            Status::Gapped => "gapped",
            Status::Missing => "missing",
            Status::Refused => "refused",
            Status::Failing => "failing",
        }
    }
}

/// How far one client has come. Times are Unix milliseconds.
#[derive(Clone, Debug)]
pub struct Progress {
    pub status: Status,
    /// The newest captured transaction; 0 before the first.
    pub txid: u64,
    /// The newest transaction in the store; 0 before the first.
    pub replicated_txid: u64,
    /// The newest transaction of which this run knows a snapshot in the store; 0 for none.
    pub snapshot_txid: u64,
    /// Bytes of the database as it was last captured; none before.
    pub database_bytes: Option<u64>,
    /// Bytes of captured segments that are not in the store yet.
    pub pending_bytes: u64,
    /// When the oldest commit was seen that is not in the store yet.
    pub oldest_pending_at: Option<UnixMs>,
    pub generation: Option<GenerationId>,
    pub last_sync_at: Option<UnixMs>,
    pub last_snapshot_at: Option<UnixMs>,
    /// Failed attempts to store something, since the start.
    pub sync_errors: u64,
    /// Why the client is failing, gapped or refused: a code, a colon and a sentence.
    pub last_error: Option<String>,
}

impl Progress {
    fn new() -> Self {
        Self {
            status: Status::Active,
            txid: 0,
            replicated_txid: 0,
            snapshot_txid: 0,
            database_bytes: None,
            pending_bytes: 0,
            oldest_pending_at: None,
            generation: None,
            last_sync_at: None,
            last_snapshot_at: None,
            sync_errors: 0,
            last_error: None,
        }
    }

    /// Age of the oldest commit that is not in the store; 0 when all are.
    pub fn lag_ms(&self, now: UnixMs) -> u64 {
        self.oldest_pending_at
            .map_or(0, |since| now.saturating_sub(since).max(0) as u64)
    }
}

/// One registered database.
#[derive(Debug)]
pub struct Client {
    pub id: ClientId,
    /// The database file, relative to the watch path.
    pub db_path: PathBuf,
    /// Where its objects lie below the store's root, without a slash at either end.
    pub s3_prefix: String,
    progress: Mutex<Progress>,
    replicated: watch::Sender<u64>,
    snapshot: watch::Sender<u64>,
    /// None outside of a roster.
    events: Option<Events>,
}

impl Client {
    pub fn new(id: ClientId, db_path: PathBuf) -> Self {
        Self {
            s3_prefix: id.replica_prefix(),
            id,
            db_path,
            progress: Mutex::new(Progress::new()),
            replicated: watch::Sender::new(0),
            snapshot: watch::Sender::new(0),
            events: None,
        }
    }

    /// A copy of how far this client has come.
    pub fn progress(&self) -> Progress {
        self.lock().clone()
    }

    /// Changes the progress in place; whoever waits for `replicated_txid` or `snapshot_txid` sees it move, and whoever
    /// listens hears of what was stored and of failures.
    pub fn update(&self, change: impl FnOnce(&mut Progress)) {
        let (replicated, snapshot, event) = {
            let mut progress = self.lock();
            let before = Noted::of(&progress);
            change(&mut progress);
            let event = before.event_at(&Noted::of(&progress));
            (progress.replicated_txid, progress.snapshot_txid, event)
        };
        if let (Some(event), Some(events)) = (event, &self.events) {
            events.tell(event, &self.id);
        }
        let publish = |sender: &watch::Sender<u64>, txid| {
            sender.send_if_modified(|known| std::mem::replace(known, txid) != txid);
        };
        publish(&self.replicated, replicated);
        publish(&self.snapshot, snapshot);
    }

    /// Follows `replicated_txid`.
    pub fn watch_replicated(&self) -> watch::Receiver<u64> {
        self.replicated.subscribe()
    }

    /// Follows `snapshot_txid`.
    pub fn watch_snapshot(&self) -> watch::Receiver<u64> {
        self.snapshot.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// What of a client's progress makes an event when it changes.
struct Noted {
    status: Status,
    sync_errors: u64,
    /// 0 until something was stored in this run: what is only read from the state is no event.
    stored_txid: u64,
}

impl Noted {
    fn of(progress: &Progress) -> Self {
        let stored = progress.last_sync_at.map(|_| progress.replicated_txid);
        Self {
            status: progress.status,
            sync_errors: progress.sync_errors,
            stored_txid: stored.unwrap_or(0),
        }
    }

    fn event_at(&self, after: &Self) -> Option<EventKind> {
        let fails = after.status == Status::Failing && self.status != Status::Failing;
        if fails || after.sync_errors > self.sync_errors {
            Some(EventKind::Failed)
        } else if after.stored_txid > self.stored_txid {
            Some(EventKind::Synced)
        } else {
            None
        }
    }
}

/// All registered clients, by their identity.
#[derive(Debug)]
pub struct Roster {
    clients: DashMap<ClientId, Arc<Client>>,
    /// `limits.maxTenantsPerInstance`; those beyond are known, and refused.
    max_tenants: usize,
    events: Events,
}

/// What came of a registration.
#[derive(Debug)]
pub enum Registration {
    New(Arc<Client>),
    /// The same identity was registered before with the same file.
    Known(Arc<Client>),
    /// The identity belongs to another file of the watch path, which is named.
    Taken(PathBuf),
}

impl Roster {
    pub fn new(max_tenants: usize) -> Self {
        Self {
            clients: DashMap::new(),
            max_tenants,
            events: Events::default(),
        }
    }

    /// What happens to all of them.
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// Adds a client. Past the limit it is added with the status `refused`, so that it can be seen.
    pub fn register(&self, id: ClientId, db_path: &Path) -> Registration {
        let full = self.clients.len() >= self.max_tenants;
        match self.clients.entry(id) {
            Entry::Occupied(known) if known.get().db_path == db_path => {
                Registration::Known(known.get().clone())
            }
            Entry::Occupied(known) => Registration::Taken(known.get().db_path.clone()),
            Entry::Vacant(vacant) => {
                let client = Arc::new(Client {
                    events: Some(self.events.clone()),
                    ..Client::new(vacant.key().clone(), db_path.to_owned())
                });
                if full {
                    let limit = self.max_tenants;
                    client.update(|progress| {
                        progress.status = Status::Refused;
                        progress.last_error = Some(format!(
                            "too_many_tenants: limits.maxTenantsPerInstance is {limit}"
                        ));
                    });
                }
                vacant.insert(client.clone());
                self.events.tell(EventKind::Registered, &client.id);
                Registration::New(client)
            }
        }
    }

    /// Takes a client out; none if it was not registered with this file.
    pub fn unregister(&self, id: &ClientId, db_path: &Path) -> Option<Arc<Client>> {
        let removed = self
            .clients
            .remove_if(id, |_, client| client.db_path == db_path)
            .map(|(_, client)| client)?;
        self.events.tell(EventKind::Unregistered, id);
        Some(removed)
    }

    pub fn get(&self, id: &ClientId) -> Option<Arc<Client>> {
        self.clients.get(id).map(|entry| entry.clone())
    }

    /// Every client, ordered by identity.
    pub fn all(&self) -> Vec<Arc<Client>> {
        let mut clients: Vec<_> = self.clients.iter().map(|entry| entry.clone()).collect();
        clients.sort_by(|a, b| a.id.cmp(&b.id));
        clients
    }

    pub fn len(&self) -> usize {
        self.clients.len()
    }

    pub fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guid(n: u8) -> ClientId {
        ClientId::guid("", &format!("{n:08x}-0000-0000-0000-000000000000"))
    }

    #[test]
    fn past_the_limit_a_client_is_refused_and_visible() {
        let roster = Roster::new(1);
        assert!(matches!(
            roster.register(guid(1), Path::new("a.db")),
            Registration::New(_)
        ));
        let Registration::New(second) = roster.register(guid(2), Path::new("b.db")) else {
            panic!("a second client must be visible");
        };
        assert_eq!(second.progress().status, Status::Refused);
        assert_eq!(roster.len(), 2);
    }

    #[test]
    fn one_identity_belongs_to_one_file() {
        let roster = Roster::new(10);
        roster.register(guid(1), Path::new("a/x.db"));
        assert!(matches!(
            roster.register(guid(1), Path::new("b/x.db")),
            Registration::Taken(path) if path == Path::new("a/x.db")
        ));
        assert!(roster.unregister(&guid(1), Path::new("b/x.db")).is_none());
        assert!(roster.unregister(&guid(1), Path::new("a/x.db")).is_some());
    }

    #[test]
    fn what_happens_to_a_client_is_told() {
        let roster = Roster::new(10);
        let mut listener = roster.events().listen();
        let path = Path::new("a.db");
        let Registration::New(client) = roster.register(guid(1), path) else {
            panic!("a new client");
        };
        // What an earlier run had stored is no news.
        client.update(|progress| progress.replicated_txid = 5);
        client.update(|progress| progress.sync_errors += 1);
        client.update(|progress| progress.last_sync_at = Some(1));
        client.update(|progress| progress.replicated_txid = 6);
        client.update(|progress| progress.status = Status::Failing);
        client.update(|progress| progress.status = Status::Failing);
        roster.unregister(&guid(1), path);
        let mut told = Vec::new();
        while let Ok(event) = listener.try_recv() {
            assert_eq!(event.id, guid(1));
            told.push(event.kind);
        }
        use EventKind::{Failed, Registered, Synced, Unregistered};
        assert_eq!(
            told,
            [Registered, Failed, Synced, Synced, Failed, Unregistered]
        );
    }

    #[test]
    fn lag_is_the_age_of_the_oldest_commit_that_waits() {
        let client = Client::new(guid(1), PathBuf::from("a.db"));
        assert_eq!(client.progress().lag_ms(5_000), 0);
        client.update(|progress| progress.oldest_pending_at = Some(4_000));
        assert_eq!(client.progress().lag_ms(5_000), 1_000);
        assert_eq!(client.progress().lag_ms(3_000), 0, "a clock that went back");
    }
}
