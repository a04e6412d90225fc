//! Sees every commit: what the mount tells of a database's files, and what is read from them. Threads, no async.

mod adopt;
mod answers;
mod arrival;
mod authority;
pub mod backing;
mod behind;
mod calls;
mod comings;
mod commits;
mod comparisons;
mod control;
mod copy;
pub mod database;
mod dirty_pages;
mod disk;
mod drain;
mod encrypted;
mod error;
mod files;
mod foreign;
mod gate;
mod handles;
mod history;
mod hot_journal;
mod identities;
mod image;
mod kept;
mod late;
mod leaving;
mod lent;
mod links;
mod locks;
mod mark;
mod merge;
mod merging;
#[cfg(test)]
mod model;
mod newcomers;
mod next_state;
mod notes;
mod once;
mod owner;
mod packed;
mod page_sums;
mod parked;
mod prepared;
mod queue;
mod read_ahead;
#[cfg(test)]
pub(crate) mod recorder;
mod registration;
mod requests;
pub mod reserve;
mod resets;
mod rest;
mod segment;
mod shares;
mod sight;
mod snapshot;
pub mod spool;
mod state;
mod state_folder;
mod state_vfs;
mod survey;
mod tail;
mod together;
mod turns;
mod wal_reader;
mod watch;
mod whole_log;
pub mod wishes;
mod workers;
mod writes;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, RwLock};
use std::time::Duration;

use dashmap::DashMap;
use tokio::sync::{Notify, mpsc};

use crate::clock::{UnixMs, now_ms};
use crate::random;
use crate::store::Body;
use crate::tenant::discovery::Rules;
use crate::tenant::roster::{Client, Roster, Status};

pub use crate::tenant::discovery::{FileKind, STATE_FOLDER};
pub use adopt::StoredSegment;
pub use commits::{Decide, Verdict, WalWrite};
pub use control::{AtPlace, Recalled};
pub use database::Database;
pub use drain::{Drained, Next};
pub use error::CaptureError;
pub use files::{is_better_seen, makes_hot};
pub use gate::{Gate, Passing};
pub use handles::OpenedAs;
pub use history::Earlier;
pub use links::BackingInode;
pub use mark::{Mark, Segment};
pub use merge::Number;
pub use newcomers::{Newcomer, TakeOver};
pub use registration::Unregistered;
pub use requests::{Looked, Noted};
pub use snapshot::Made;
pub use state::{SnapshotNote, Stamps, Upkeep};

use backing::Backing;
use comings::Comings;
use late::Late;
use links::RegisteredFiles;
use newcomers::Newcomers;
use queue::Queue;
use reserve::SpoolRoom;
use spool::{Spool, SpoolError, SpoolLimits};
use state::StateDb;
pub use state::StateError;
use state_folder::{SPOOL, StateFolder};
use survey::UnseenFolders;
use together::Others;
use turns::Write;
#[cfg(test)]
pub(crate) use watch::Heard;
use watch::Watching;
use wishes::Wish;
use workers::Workers;
#[cfg(test)]
pub(crate) use workers::{ByHand, Kind};

/// How the capture works.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub gate_timeout: Duration,
    pub spool: SpoolLimits,
    /// Whether the kernel is to pass writes to logs through.
    pub log_passing: LogPassing,
}

/// Whether the kernel is to pass writes to logs through.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogPassing {
    Never,
    /// Where they can be heard of; elsewhere they go through the daemon.
    WherePossible,
    /// Where they can't be heard of at all nothing starts.
    Required,
}

/// What all databases of a watch path share.
#[derive(Debug)]
struct Shared {
    state: StateDb,
    spool: Arc<Spool>,
    watching: Watching,
    /// Major and minor number of the mount's device, once it is there.
    mount_device: OnceLock<(u32, u32)>,
    /// Of the page sums and of scratch files.
    directory: Arc<Path>,
    /// `directory`, which no other process may use meanwhile.
    folder: StateFolder,
    /// Dropped last: who waits for the next start until this is free finds the claim free as well.
    backing: Backing,
}

impl Shared {
    fn open(
        root: Arc<OwnedFd>,
        folder: StateFolder,
        directory: &Path,
        spool: SpoolLimits,
        watching: Watching,
    ) -> Result<Arc<Self>, StartError> {
        folder.make_state(directory)?;
        Ok(Arc::new(Self {
            state: StateDb::open(&directory.join("state.db"), random::number())?,
            spool: Arc::new(Spool::open(directory.join(SPOOL), spool)?),
            watching,
            mount_device: OnceLock::new(),
            directory: directory.into(),
            folder,
            backing: Backing::new(root),
        }))
    }

    /// Removes what is on local disk of the database with that number, but for the state.
    fn remove_files(&self, id: i64) -> Result<(), CaptureError> {
        self.spool.forget(id)?;
        match disk::remove(&page_sums::path_in(&self.directory, id)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(CaptureError::io("remove the page sums")(error))
            }
            _ => Ok(()),
        }
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
        random::number() as u32
    }
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
    #[error(
        "state directory: {path}: {reason}, so that others could choose what is read and written there; move it away, or make it this user's own (chown, chmod go-w), or give another place with -state-dir"
    )]
    Untrusted { path: PathBuf, reason: String },
    #[error(
        "state directory {path}: another instance uses it; end that, or give another one with -state-dir"
    )]
    InUse { path: PathBuf },
    #[error("{0}; it may be deleted while nothing runs, and is made anew")]
    State(#[from] StateError),
    #[error(transparent)]
    Spool(#[from] SpoolError),
    #[error("look through the watch path: {0}")]
    Walk(std::io::Error),
    #[error(
        "watch for writes: {0}; raise fs.inotify.max_user_instances, or write `mount: {{capture: intercept}}`"
    )]
    Watch(std::io::Error),
    #[error("start the capture's threads: {0}")]
    Threads(std::io::Error),
}

impl StartError {
    /// Whether somebody has to change something before another start can succeed.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Untrusted { .. })
    }

    /// Shows the state directory by this name, where its path leads through a descriptor.
    pub fn of_directory(mut self, used: &Path, shown: &Path) -> Self {
        if let Self::Directory { path, .. } | Self::InUse { path } | Self::Untrusted { path, .. } =
            &mut self
            && let Ok(below) = path.strip_prefix(used)
        {
            *path = match below.as_os_str().is_empty() {
                true => shown.to_owned(),
                false => shown.join(below),
            };
        }
        self
    }
}

/// The capture of one watch path. The mount calls it; its calls never wait for I/O on a database's content.
#[derive(Debug)]
pub struct Capture {
    shared: Arc<Shared>,
    /// Where applications see the watch path.
    seen_at: Arc<Path>,
    rules: RwLock<Arc<Rules>>,
    wishes: DashMap<PathBuf, Wish>,
    newcomers: Newcomers,
    /// Databases that were removed have to be told to the store.
    removed: Notify,
    late: Late,
    roster: Arc<Roster>,
    /// The mount is gone, and the directory is there without it.
    unmounted: AtomicBool,
    /// One registration by hand, or its end, at a time.
    by_hand: Mutex<()>,
    databases: DashMap<Arc<Path>, Arc<Database>>,
    unseen: UnseenFolders,
    comings: Comings,
    files: RegisteredFiles,
    /// Those that were removed and have something left to store, by their number in the state.
    leaving: DashMap<i64, Arc<Database>>,
    queue: Arc<Queue>,
    others: Others,
    workers: Workers,
}

/// A file operation that waits for its gate: it carries the operation out and answers the kernel.
/// What it is given lives until then.
pub type Proceed = Box<dyn FnOnce(Passing) + Send>;

/// The capture, the databases that come out of it, and its work.
#[cfg(test)]
pub(crate) type StartedByHand = (Arc<Capture>, mpsc::Receiver<Arc<Database>>, ByHand);

impl Capture {
    /// Opens the state in `directory` and starts the threads. Databases with something to look at come out of the
    /// receiver, each at most once at a time; `room` is how many there may be.
    pub fn start(
        root: Arc<OwnedFd>,
        seen_at: &Path,
        directory: &Path,
        settings: Settings,
        rules: Rules,
        roster: Arc<Roster>,
        room: usize,
    ) -> Result<(Arc<Self>, mpsc::Receiver<Arc<Database>>), StartError> {
        let watching = Watching::begin(settings.log_passing).map_err(StartError::Watch)?;
        let folder = StateFolder::open(directory)?;
        let directory = folder.path();
        let shared = Shared::open(root, folder, &directory, settings.spool, watching)?;
        let workers =
            Workers::start(&shared, settings.gate_timeout, room).map_err(StartError::Threads)?;
        Self::with((shared, workers), seen_at, rules, roster, room)
    }

    /// The same without threads: their work is done by hand.
    #[cfg(test)]
    pub(crate) fn start_by_hand(
        root: Arc<OwnedFd>,
        seen_at: &Path,
        directory: &Path,
        settings: Settings,
        rules: Rules,
        roster: Arc<Roster>,
    ) -> Result<StartedByHand, StartError> {
        const ROOM: usize = 16;
        let mut watching = Watching::default();
        watching.is_simulated = true;
        // By its name, by which the simulation knows what is written.
        let folder = StateFolder::open(directory)?;
        let shared = Shared::open(root, folder, directory, settings.spool, watching)?;
        let (workers, by_hand) = ByHand::new(&shared, settings.gate_timeout, ROOM);
        let (capture, dirty) = Self::with((shared, workers), seen_at, rules, roster, ROOM)?;
        Ok((capture, dirty, by_hand))
    }

    fn with(
        (shared, workers): (Arc<Shared>, Workers),
        seen_at: &Path,
        rules: Rules,
        roster: Arc<Roster>,
        room: usize,
    ) -> Result<(Arc<Self>, mpsc::Receiver<Arc<Database>>), StartError> {
        let (queue, dirty) = Queue::new(room, shared.directory.clone());
        let wishes = shared.state.wishes()?.into_iter().collect();
        let capture = Arc::new(Self {
            shared,
            seen_at: seen_at.into(),
            rules: RwLock::new(Arc::new(rules)),
            wishes,
            newcomers: Newcomers::default(),
            removed: Notify::new(),
            late: Late::default(),
            roster,
            unmounted: AtomicBool::new(false),
            by_hand: Mutex::default(),
            databases: DashMap::new(),
            unseen: UnseenFolders::default(),
            comings: Comings::default(),
            files: RegisteredFiles::default(),
            leaving: DashMap::new(),
            queue,
            others: Others::default(),
            workers,
        });
        let again = Arc::downgrade(&capture);
        capture.roster.waiting().when_free(move |id| {
            if let Some(capture) = again.upgrade() {
                capture.take_up_waiting(id);
            }
        });
        capture.listen().map_err(StartError::Threads)?;
        Ok((capture, dirty))
    }

    /// The database that the file at `path` (relative to the watch path's root) belongs to, and as what;
    /// none for a plain file. Cheap: a map is asked, and a file name is matched.
    pub fn classify(&self, path: &Path) -> Option<(Arc<Database>, FileKind)> {
        // Without its database a companion is a plain file: names alone must not make entries.
        if let Some((database, kind)) = Rules::companion(path) {
            return Some((self.at_path(&database)?, kind));
        }
        let known = self.at_path(path);
        let db = known.or_else(|| self.identify(path).map(|_| self.entry(path)));
        db.map(|db| (db, FileKind::Database))
    }

    /// A registered client's database.
    pub fn of_client(&self, client: &Client) -> Option<Arc<Database>> {
        self.databases
            .get(&*client.db_path)
            .map(|entry| entry.clone())
            .filter(|db| db.client().is_some_and(|known| known.id == client.id))
    }

    /// The database at `path` below the watch path, where one has been seen there.
    pub fn at_path(&self, path: &Path) -> Option<Arc<Database>> {
        self.databases.get(path).map(|entry| entry.clone())
    }

    /// Every database that has been seen, and those that are removed and have something left to store.
    pub fn all(&self) -> Vec<Arc<Database>> {
        let present = self.databases.iter().map(|entry| entry.clone());
        let leaving = self.leaving.iter().map(|entry| entry.clone());
        present.chain(leaving).collect()
    }

    /// Captures what the operation would destroy, then calls `proceed` on a capture worker; at the latest after
    /// `mount.gateTimeout`, and then the client is `gapped`. Returns at once.
    pub fn gate(&self, db: &Arc<Database>, gate: Gate, proceed: Proceed) {
        let db = &db.newest();
        if db
            .client()
            .is_none_or(|client| client.progress().status == Status::Refused)
        {
            if gate.destroys_frames() || db.is_log_passed() {
                // Should it be admitted later: nothing that an earlier run knew goes on from here.
                db.note_gate_missed();
            }
            return proceed(Passing::begin(db, gate));
        }
        if gate.destroys_frames() || db.ends_unseen(Some(gate)) {
            return self.workers.gate(db, gate, proceed);
        }
        match db.take_record(&self.shared.backing, gate) {
            Ok(true) => proceed(Passing::begin(db, gate)),
            Ok(false) => self.workers.gate(db, gate, proceed),
            Err(error) => {
                tracing::warn!(client = %db.label(), error = %error, "The wal-index could not be read");
                proceed(Passing::begin(db, gate));
            }
        }
    }

    /// A write to a rollback journal after which its transaction changes the database: carried out now, or once a
    /// comparison that has waited for its turn is done, and after `mount.gateTimeout` in any case. Returns at once.
    pub fn transaction_begins(&self, db: &Arc<Database>, write: Write) {
        self.workers.hold(&db.newest(), write);
    }

    /// The watch path is mounted: its files' locks are those of this device.
    pub fn set_mount_device(&self, device: (u32, u32)) {
        self.shared.mount_device.get_or_init(|| device);
    }

    /// The mount was taken away while others go on: nothing more is seen of its clients.
    pub fn set_unmounted(&self) {
        self.unmounted.store(true, Ordering::SeqCst);
        let clients = self.roster.all().into_iter();
        for client in clients.filter(|client| client.seen_at == self.seen_at) {
            client.update(|progress| progress.unmounted = true);
        }
    }

    pub fn is_unmounted(&self) -> bool {
        self.unmounted.load(Ordering::SeqCst)
    }

    /// The file at `path` was, or may have been, written past the mount: its database is compared page by page.
    pub fn written_past(&self, path: &Path) {
        if let Some((db, _)) = self.classify(path) {
            db.set_gate_missed();
        }
    }

    /// A pipeline has ended, so that there may be room for a database that found none before.
    pub fn let_in(&self) {
        self.queue.let_in();
    }

    /// This instance's id, which stands in every segment.
    pub fn node_id(&self) -> u64 {
        self.shared.state.node_id()
    }

    /// What the spool's disk has room for now.
    ///
    /// # Errors
    /// `Io` where the disk can't be asked.
    pub fn spool_room(&self) -> Result<SpoolRoom, SpoolError> {
        self.shared.spool.room()
    }

    /// Bytes that wait on local disk.
    pub fn spool_bytes(&self) -> u64 {
        self.shared.spool.used()
    }
}
