//! Sees every commit: what the mount tells of a database's files, and what is read from them. Threads, no async.

mod adopt;
mod authority;
pub mod backing;
mod copy;
pub mod database;
mod drain;
mod error;
mod history;
mod image;
mod mark;
#[cfg(test)]
mod model;
mod page_sums;
mod segment;
mod snapshot;
pub mod spool;
mod state;
mod state_vfs;
mod wal_reader;
mod workers;

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use tokio::sync::{mpsc, oneshot};

use crate::clock::{UnixMs, now_ms};
use crate::store::Body;
use crate::store::keys::{GenerationId, ObjectKey};
use crate::tenant::discovery::Rules;
use crate::tenant::ids::ClientId;
use crate::tenant::roster::{Client, Registration, Roster, Status};

pub use crate::tenant::discovery::FileKind;
pub use adopt::StoredSegment;
pub use database::{Database, Gate, OpenedAs};
pub use drain::{Drained, Next};
pub use error::CaptureError;
pub use mark::{Mark, Segment};

use backing::Backing;
use spool::{Spool, SpoolError, SpoolLimits};
use state::{Stamps, StateDb, StateError};
use workers::{Look, Workers, caught};

/// The folder at the backing directory's root that holds the state, and that the mount does not show.
pub const STATE_FOLDER: &str = ".litestream-multitenant";

/// How the capture works.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Each captured transaction becomes a segment (`syncInterval: 0`).
    pub every_transaction: bool,
    /// Of one database; larger things go to the spool.
    pub memory_bytes: u64,
    pub gate_timeout: Duration,
    pub spool: SpoolLimits,
}

/// What all databases of a watch path share.
#[derive(Debug)]
struct Shared {
    backing: Backing,
    state: StateDb,
    spool: Spool,
    settings: Settings,
    /// Of the page sums and of scratch files.
    directory: PathBuf,
}

impl Shared {
    fn sums_path(&self, id: i64) -> PathBuf {
        self.directory.join(format!("{id}.sums"))
    }

    /// Removes what lies in the spool of a segment that nobody needs any more.
    fn remove_body(&self, segment: &Segment) -> Result<(), CaptureError> {
        match &segment.body {
            Body::File(path) => Ok(self.spool.remove(path)?),
            Body::Bytes(_) => Ok(()),
        }
    }

    /// For names that two writers must not choose alike.
    fn random_bits(&self) -> u32 {
        random() as u32
    }
}

fn random() -> u64 {
    // Without the kernel's randomness the clock has to do: the ids need be different, not secret.
    getrandom::u64().unwrap_or_else(|_| now_ms() as u64)
}

/// The present moment, or the one after `last` where the clock has not come so far.
fn now_after(last: Option<UnixMs>) -> UnixMs {
    last.map_or_else(now_ms, |last| now_ms().max(last + 1))
}

/// The state directory can't be used.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("state directory {path}: {source}; give another one with -state-dir")]
    Directory {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{0}; it may be deleted while nothing runs, and is made anew")]
    State(#[from] StateError),
    #[error(transparent)]
    Spool(#[from] SpoolError),
    #[error("look through the watch path: {0}")]
    Walk(std::io::Error),
    #[error("start the capture's threads: {0}")]
    Threads(std::io::Error),
}

/// The capture of one watch path. The mount calls it; its calls never wait for I/O on a database's content.
#[derive(Debug)]
pub struct Capture {
    shared: Arc<Shared>,
    rules: Rules,
    roster: Arc<Roster>,
    databases: DashMap<PathBuf, Arc<Database>>,
    queue: mpsc::Sender<Arc<Database>>,
    workers: Workers,
}

/// A file operation that waits for its gate: it carries the operation out and answers the kernel.
pub type Proceed = Box<dyn FnOnce() + Send>;

impl Capture {
    /// Opens the state in `directory` and starts the threads. Databases with something to look at come out of the
    /// receiver, each at most once at a time; `room` is how many there may be.
    pub fn start(
        root: Arc<OwnedFd>,
        directory: &Path,
        settings: Settings,
        rules: Rules,
        roster: Arc<Roster>,
        room: usize,
    ) -> Result<(Arc<Self>, mpsc::Receiver<Arc<Database>>), StartError> {
        std::fs::create_dir_all(directory).map_err(|source| StartError::Directory {
            path: directory.to_owned(),
            source,
        })?;
        let shared = Arc::new(Shared {
            backing: Backing::new(root),
            state: StateDb::open(&directory.join("state.db"), random())?,
            spool: Spool::open(directory.join("spool"), settings.spool)?,
            settings,
            directory: directory.to_owned(),
        });
        let (queue, dirty) = mpsc::channel(room);
        let workers =
            Workers::start(&shared, settings.gate_timeout, room).map_err(StartError::Threads)?;
        let capture = Arc::new(Self {
            shared,
            rules,
            roster,
            databases: DashMap::new(),
            queue,
            workers,
        });
        Ok((capture, dirty))
    }

    /// Registers every database that is there, and looks at those that are not as they were when all was stored.
    /// Called once the mount answers. Those that are known and absent are `missing`.
    pub fn take_over(&self) -> Result<(), StartError> {
        let mut known = self.shared.state.all()?;
        let mut found = Vec::new();
        self.shared
            .backing
            .walk(STATE_FOLDER, &mut |path| {
                if self.rules.identify(&path).is_some() {
                    found.push(path);
                }
            })
            .map_err(StartError::Walk)?;
        for path in found {
            let stamps = known.remove(&path).and_then(|(_, stamps)| stamps);
            self.take_over_one(&path, stamps);
        }
        for (path, (id, _)) in known {
            self.note_missing(&path, id)?;
        }
        Ok(())
    }

    fn take_over_one(&self, path: &Path, stamps: Option<Stamps>) {
        let Some(db) = self.database(path) else {
            return;
        };
        let unchanged = stamps.is_some_and(|stamps| {
            self.shared
                .stamps(&db)
                .is_ok_and(|present| present == stamps)
        });
        if unchanged && !db.is_dirty() {
            db.set_as_stored();
        }
        self.register(path, &db);
        if let Some(client) = db.client().filter(|_| unchanged) {
            self.show_stored(&db, &client);
        } else {
            db.mark_dirty();
        }
    }

    /// Health of a client that nothing is to be done for, from the state alone.
    fn show_stored(&self, db: &Database, client: &Client) {
        let known = self
            .shared
            .state
            .id_of(&db.path)
            .and_then(|id| self.shared.state.load(id));
        match known {
            Ok(known) => {
                if let Some(stored) = known.stored {
                    client.update(|progress| {
                        progress.txid = stored.mark.txid;
                        progress.replicated_txid = stored.mark.txid;
                        progress.generation = Some(stored.mark.generation);
                    });
                }
            }
            Err(error) => {
                tracing::warn!(client = %db.label(), error = %error, "The state could not be read");
            }
        }
    }

    fn note_missing(&self, path: &Path, id: i64) -> Result<(), StartError> {
        let Some(identity) = self.rules.identify(path) else {
            // Removed in an earlier run, or no longer taken by the rules: nobody will ask for what waits of it.
            self.shared.spool.remove_others(id, &HashSet::new())?;
            return Ok(self.shared.state.remove(id)?);
        };
        if let Registration::New(client) = self.roster.register(identity, path) {
            client.update(|progress| {
                progress.status = Status::Missing;
                progress.last_error = Some("missing: the file was gone at start".to_owned());
            });
        }
        Ok(())
    }

    /// The database that the file at `path` (relative to the watch path's root) belongs to, and as what;
    /// none for a plain file. Cheap: a file name is matched and a map is asked.
    pub fn classify(&self, path: &Path) -> Option<(Arc<Database>, FileKind)> {
        let (database, kind) = self.rules.classify(path)?;
        // Without its database a companion is a plain file: names alone must not make entries.
        let known = match kind {
            FileKind::Database => Some(self.entry(&database)),
            _ => self.databases.get(&database).map(|entry| entry.clone()),
        };
        known.map(|db| (db, kind))
    }

    /// A registered client's database.
    pub fn of_client(&self, client: &Client) -> Option<Arc<Database>> {
        self.databases
            .get(&client.db_path)
            .map(|entry| entry.clone())
            .filter(|db| db.client().is_some_and(|known| known.id == client.id))
    }

    /// Every database that has been seen.
    pub fn all(&self) -> Vec<Arc<Database>> {
        self.databases.iter().map(|entry| entry.clone()).collect()
    }

    /// A regular file has come to stand at `path`: created, linked, or renamed to it. Called after the operation,
    /// before its reply. `replaced` says that another file stood there before.
    pub fn appeared(&self, path: &Path, replaced: bool) {
        let Some(db) = self.database(path) else {
            return;
        };
        if replaced {
            tracing::warn!(client = %db.label(), "Another file was put in the database's place");
            db.replaced();
        }
        self.register(path, &db);
        db.mark_dirty();
    }

    /// The name `path` is gone: unlinked, or renamed away. Called after the operation, before its reply.
    pub fn vanished(&self, path: &Path) {
        let Some(identity) = self.rules.identify(path) else {
            return;
        };
        let Some((_, db)) = self.databases.remove(path) else {
            return;
        };
        self.unregister(&identity, &db);
    }

    /// A directory with all below it has another name now.
    pub fn directory_moved(&self, from: &Path, to: &Path) {
        let moved: Vec<PathBuf> = self
            .databases
            .iter()
            .map(|entry| entry.key().clone())
            .filter(|path| path.starts_with(from))
            .collect();
        for path in moved {
            self.vanished(&path);
            if let Ok(rest) = path.strip_prefix(from) {
                self.appeared(&to.join(rest), false);
            }
        }
    }

    /// Captures what the operation would destroy, then calls `proceed` on a capture worker; at the latest after
    /// `mount.gateTimeout`, and then the client is `gapped`. Returns at once.
    pub fn gate(&self, db: &Arc<Database>, gate: Gate, proceed: Proceed) {
        if db
            .client()
            .is_none_or(|client| client.progress().status == Status::Refused)
        {
            return proceed();
        }
        if gate.destroys_frames() {
            return self.workers.gate(db, gate, proceed);
        }
        match db.take_record(&self.shared.backing) {
            Ok(true) => proceed(),
            Ok(false) => self.workers.gate(db, gate, proceed),
            Err(error) => {
                tracing::warn!(client = %db.label(), error = %error, "The wal-index could not be read");
                proceed();
            }
        }
    }

    // ---- what the pipelines ask ----

    /// The object that has to be looked for before anything is captured: an earlier run may have stored it and died
    /// before it noted that. To be given to `adopt`. Named once.
    pub async fn doubtful_successor(
        &self,
        db: &Arc<Database>,
    ) -> Result<Option<ObjectKey>, CaptureError> {
        self.ask(db, |db, shared| {
            let mut history = db.history();
            history.load(db, shared)?;
            Ok(history.doubtful_successor())
        })
        .await
    }

    /// Captures what was committed since the last look.
    pub async fn drain(&self, db: &Arc<Database>) -> Result<Drained, CaptureError> {
        self.ask(db, workers::drain).await
    }

    /// Reads the whole database: a new generation, or what differs.
    pub async fn image(&self, db: &Arc<Database>) -> Result<(), CaptureError> {
        self.ask_for_all_pages(db, workers::make_image).await
    }

    /// Makes a further snapshot of the present generation; none where there is nothing new to make one of. It is not
    /// part of what waits: stored once its state is, and then told by `snapshot_stored`, or given up by `drop_snapshot`.
    pub async fn snapshot(&self, db: &Arc<Database>) -> Result<Option<Segment>, CaptureError> {
        self.ask_for_all_pages(db, snapshot::make).await
    }

    /// A snapshot that `snapshot` gave is in the store.
    pub async fn snapshot_stored(
        &self,
        db: &Arc<Database>,
        segment: Segment,
    ) -> Result<(), CaptureError> {
        self.ask(db, move |db, shared| {
            db.history().snapshot_stored(shared, &segment)?;
            shared.remove_body(&segment)
        })
        .await
    }

    /// A snapshot that `snapshot` gave will not be stored.
    pub async fn drop_snapshot(
        &self,
        db: &Arc<Database>,
        segment: Segment,
    ) -> Result<(), CaptureError> {
        self.ask(db, move |_, shared| shared.remove_body(&segment))
            .await
    }

    /// The next segment to be stored.
    pub async fn front(&self, db: &Arc<Database>) -> Result<Option<Segment>, CaptureError> {
        self.ask(db, |db, _| Ok(db.history().front())).await
    }

    /// The segment that `front` gave is in the store. Gives the next one.
    pub async fn stored(&self, db: &Arc<Database>) -> Result<Option<Segment>, CaptureError> {
        self.ask(db, |db, shared| {
            let mut history = db.history();
            history.stored(db, shared)?;
            Ok(history.front())
        })
        .await
    }

    /// What waits can't be stored under its names: a new generation has to begin, after `newest` of the store.
    pub async fn abandon(
        &self,
        db: &Arc<Database>,
        newest: Option<GenerationId>,
    ) -> Result<(), CaptureError> {
        self.ask(db, move |db, shared| db.history().abandon(shared, newest))
            .await
    }

    /// Goes on from a segment that is in the store under the number of the oldest one that waits. False where it does
    /// not follow what was stored before.
    pub async fn adopt(
        &self,
        db: &Arc<Database>,
        object: StoredSegment,
    ) -> Result<bool, CaptureError> {
        self.ask(db, move |db, shared| {
            db.history().adopt(db, shared, &object)
        })
        .await
    }

    /// All is stored, and nothing was written since `stamps` were taken: the next start need not look.
    pub async fn settled(
        &self,
        db: &Arc<Database>,
        stamps: Option<Stamps>,
    ) -> Result<(), CaptureError> {
        self.ask(db, move |db, shared| {
            let stamps = stamps.filter(|_| !db.is_dirty());
            db.history().save_stamps(shared, stamps)
        })
        .await
    }

    /// A removed database has nothing left to store: forgets it.
    pub async fn forget(&self, db: &Arc<Database>) -> Result<(), CaptureError> {
        self.ask(db, |db, shared| db.history().forget(shared)).await
    }

    /// Has a worker do something with one database; only workers wait for a database's history.
    async fn ask<T: Send + 'static>(
        &self,
        db: &Arc<Database>,
        work: impl FnOnce(&Database, &Shared) -> Result<T, CaptureError> + Send + 'static,
    ) -> Result<T, CaptureError> {
        let (look, answer) = asked(db, work);
        self.workers.look(look);
        answer.await.unwrap_or(Err(CaptureError::Stopped))
    }

    /// The same for what reads the whole database.
    async fn ask_for_all_pages<T: Send + 'static>(
        &self,
        db: &Arc<Database>,
        work: impl FnOnce(&Database, &Shared) -> Result<T, CaptureError> + Send + 'static,
    ) -> Result<T, CaptureError> {
        let (look, answer) = asked(db, work);
        self.workers.image(look);
        answer.await.unwrap_or(Err(CaptureError::Stopped))
    }

    /// This instance's id, which stands in every segment.
    pub fn node_id(&self) -> u64 {
        self.shared.state.node_id()
    }

    /// Bytes that wait on local disk.
    pub fn spool_bytes(&self) -> u64 {
        self.shared.spool.used()
    }

    // ---- registration ----

    /// The database at `path`, where a rule takes it.
    fn database(&self, path: &Path) -> Option<Arc<Database>> {
        self.rules.identify(path).map(|_| self.entry(path))
    }

    fn entry(&self, path: &Path) -> Arc<Database> {
        if let Some(known) = self.databases.get(path) {
            return known.clone();
        }
        self.databases
            .entry(path.to_owned())
            .or_insert_with(|| Arc::new(Database::new(path.to_owned(), self.queue.clone())))
            .clone()
    }

    fn register(&self, path: &Path, db: &Arc<Database>) {
        let Some(identity) = self.rules.identify(path) else {
            return;
        };
        let client = match self.roster.register(identity, path) {
            Registration::New(client) => {
                log_client(&client, "register", "New client registered");
                client
            }
            Registration::Known(client) => {
                // Absent at start, and back.
                client.update(|progress| {
                    if progress.status == Status::Missing {
                        progress.status = Status::Active;
                        progress.last_error = None;
                    }
                });
                client
            }
            Registration::Taken(other) => {
                tracing::warn!(
                    client = %db.label(),
                    error = %format!("{} has this identity already", other.display()),
                    "A database can't be registered"
                );
                return;
            }
        };
        match self.shared.state.id_of(path) {
            Ok(id) => db.set_client(client, id),
            Err(error) => client.update(|progress| {
                progress.status = Status::Failing;
                progress.last_error = Some(format!("state: {error}"));
            }),
        }
    }

    fn unregister(&self, identity: &ClientId, db: &Arc<Database>) {
        if let Some(client) = self.roster.unregister(identity, &db.path) {
            log_client(&client, "unregister", "Client unregistered");
        }
        // The name may come back at once, for another database.
        if let Some(id) = db.id()
            && let Err(error) = self.shared.state.detach(id)
        {
            tracing::warn!(client = %db.label(), error = %error, "The state could not be written");
        }
        db.set_removed();
    }
}

/// The answer to what a worker was asked.
type Answer<T> = oneshot::Receiver<Result<T, CaptureError>>;

/// Work for a worker, and where its answer comes.
fn asked<T: Send + 'static>(
    db: &Arc<Database>,
    work: impl FnOnce(&Database, &Shared) -> Result<T, CaptureError> + Send + 'static,
) -> (Look, Answer<T>) {
    let (done, answer) = oneshot::channel();
    let db = db.clone();
    let look = move |shared: &Shared| {
        // An asker that has gone away does not need the answer.
        drop(done.send(caught(|| work(&db, shared))));
    };
    (Box::new(look), answer)
}

fn log_client(client: &Client, operation: &str, message: &str) {
    let label = client.id.label();
    tracing::info!(
        client = %label,
        prefix = (!client.id.prefix.is_empty()).then_some(client.id.prefix.as_str()),
        operation,
        s3_path = %format!("{}/", client.s3_prefix),
        "{message}: {label}"
    );
}
