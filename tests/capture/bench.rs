//! A database under capture, without a mount: the tests make the calls that it would make.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use litestream_multitenant::capture::spool::SpoolLimits;
use litestream_multitenant::capture::{
    Capture, Database, FileKind, Gate, LogPassing, Next, OpenedAs, Settings,
};
use litestream_multitenant::restore::{At, Target, restore_to_file};
use litestream_multitenant::store::directory::DirectoryStore;
use litestream_multitenant::store::{ObjectStore, Put};
use litestream_multitenant::tenant::discovery::{Rules, RulesWritten};
use litestream_multitenant::tenant::ids::ClientId;
use litestream_multitenant::tenant::roster::{Client, Roster};
use rusqlite::Connection;
use tokio::runtime::Runtime;

const GUID: &str = "12345678-1234-5678-9abc-123456789012";

/// How many seeds are tried; `MODEL_ROUNDS` multiplies them for a long run.
pub fn rounds(normally: u64) -> u64 {
    let factor = std::env::var("MODEL_ROUNDS").ok();
    normally
        * factor.map_or(1, |factor| {
            factor.parse().expect("MODEL_ROUNDS is a number")
        })
}

/// A small generator whose seed is printed with every failure.
pub struct Random(u64);

impl Random {
    /// Different for each seed.
    pub fn of(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    pub fn blob(&mut self, most: u64) -> Vec<u8> {
        let len = self.below(most + 1) as usize;
        (0..len).map(|_| self.next() as u8).collect()
    }
}

/// A database with its capture and a store.
pub struct Bench {
    pub dir: tempfile::TempDir,
    runtime: Runtime,
    capture: Arc<Capture>,
    pub db: Arc<Database>,
    client: Arc<Client>,
    store: Arc<dyn ObjectStore>,
    is_log_passed: bool,
}

pub const VISIBLE: OpenedAs = OpenedAs {
    writable: true,
    passthrough: true,
    external: false,
};

impl Bench {
    pub fn new(every_transaction: bool, memory_bytes: u64) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        for folder in ["data", "state", "store", "scratch"] {
            std::fs::create_dir(dir.path().join(folder)).expect("a folder");
        }
        let roster = Arc::new(Roster::new(10));
        let (capture, _) = start_capture(dir.path(), every_transaction, memory_bytes, &roster);
        let runtime = Runtime::new().expect("a runtime");
        std::fs::File::create(dir.path().join("data").join(format!("{GUID}.db"))).expect("a file");
        let name = PathBuf::from(format!("{GUID}.db"));
        capture.appeared(&name, false);
        let client = roster
            .get(&ClientId::single("", GUID))
            .expect("registered at its creation");
        let db = capture.of_client(&client).expect("known");
        let store: Arc<dyn ObjectStore> = Arc::new(DirectoryStore::new(dir.path().join("store")));
        Self {
            dir,
            runtime,
            capture,
            db,
            client,
            store,
            is_log_passed: false,
        }
    }

    pub fn path(&self, suffix: &str) -> PathBuf {
        self.dir
            .path()
            .join("data")
            .join(format!("{GUID}.db{suffix}"))
    }

    pub fn connect(&self) -> Connection {
        let connection = Connection::open(self.path("")).expect("open");
        connection
            .busy_timeout(Duration::from_secs(5))
            .expect("busy timeout");
        connection
    }

    /// The first connection opens the wal-index, and cuts it before anything else.
    pub fn open_index(&self) {
        self.db.opened(FileKind::Shm, VISIBLE);
        self.db.resized(FileKind::Shm, 3);
    }

    /// From now on the kernel passes writes to the log through, so that its resets are not seen.
    pub fn pass_log(&mut self) {
        self.db.opened(FileKind::Wal, VISIBLE);
        self.is_log_passed = true;
    }

    /// What the mount would do before any operation that may reset the log.
    pub fn gates(&self) {
        self.gate(Gate::DatabaseTruncate);
        if !self.is_log_passed {
            self.gate(Gate::WalOverwrite);
        }
    }

    /// Before the log may be destroyed.
    pub fn gates_of_truncation(&self) {
        self.gates();
        self.gate(Gate::WalTruncate { kept: 0 });
    }

    fn gate(&self, gate: Gate) {
        let (passed, wait) = std::sync::mpsc::channel();
        let proceed = Box::new(move |_| passed.send(()).expect("waits"));
        self.capture.gate(&self.db, gate, proceed);
        wait.recv_timeout(Duration::from_secs(10))
            .expect("the gate");
    }

    /// Looks until there is nothing more to see, and moves what was captured into the store.
    pub fn look(&self) -> u64 {
        self.runtime.block_on(async {
            self.db.written(FileKind::Wal);
            for _ in 0..1_000 {
                let drained = self.capture.drain(&self.db).await.expect("drain");
                if drained.next == Next::Image {
                    self.capture.image(&self.db).await.expect("image");
                }
                while let Some(segment) = self.capture.front(&self.db).await.expect("front") {
                    let key = segment.key().below(self.client.s3_prefix());
                    let put = self.store.put_new(&key, &segment.body).await.expect("put");
                    assert_eq!(put, Put::Created, "{key}");
                    self.capture
                        .stored(&self.db, &segment, None, false)
                        .await
                        .expect("stored");
                }
                if drained.next != Next::Image {
                    return self.client.progress().txid;
                }
            }
            panic!("the capture never comes to an end")
        })
    }

    /// The database as SQLite itself shows it: a copy of its files, recovered and checkpointed.
    pub fn shown(&self) -> Vec<u8> {
        let wal = std::fs::read(self.path("-wal")).unwrap_or_default();
        recovered(
            self.dir.path(),
            &std::fs::read(self.path("")).expect("read"),
            &wal,
        )
    }

    pub fn restored(&self, at: At) -> Vec<u8> {
        std::fs::read(self.restore(at)).expect("read")
    }

    /// Into a file, whose path is given.
    pub fn restore(&self, at: At) -> PathBuf {
        let output = self.dir.path().join("scratch").join("restored.db");
        let target = Target {
            generation: None,
            at,
        };
        self.runtime
            .block_on(restore_to_file(
                &self.store,
                self.client.s3_prefix(),
                &target,
                &output,
                true,
                &|_| {},
            ))
            .unwrap_or_else(|error| panic!("restore: {error}"));
        output
    }
}

fn start_capture(
    dir: &Path,
    every_transaction: bool,
    memory_bytes: u64,
    roster: &Arc<Roster>,
) -> (Arc<Capture>, tokio::sync::mpsc::Receiver<Arc<Database>>) {
    let root = std::fs::File::open(dir.join("data")).expect("open");
    let settings = Settings {
        gate_timeout: Duration::from_secs(5),
        log_passing: LogPassing::Never,
        spool: SpoolLimits {
            bytes: 1 << 30,
            reserve: litestream_multitenant::capture::reserve::SpoolReserve::Bytes(0),
        },
    };
    let mut rules = RulesWritten::default_for(&dir.join("data"));
    let mut terms = (*rules.terms).clone();
    let policy = Arc::make_mut(&mut terms.defaults);
    policy.limits.memory_bytes = memory_bytes;
    if every_transaction {
        policy.sync_interval = Duration::ZERO;
    }
    rules.terms = Arc::new(terms);
    let rules = Rules::new(rules).expect("rules");
    Capture::start(
        Arc::new(OwnedFd::from(root)),
        &dir.join("data"),
        &dir.join("state"),
        settings,
        rules,
        roster.clone(),
        100,
    )
    .expect("start")
}

/// What SQLite shows of these files: recovered and checkpointed.
pub fn recovered(dir: &Path, database: &[u8], wal: &[u8]) -> Vec<u8> {
    let scratch = tempfile::tempdir_in(dir).expect("a directory");
    let path = scratch.path().join("copy.db");
    std::fs::write(&path, database).expect("copy");
    std::fs::write(scratch.path().join("copy.db-wal"), wal).expect("copy");
    let connection = Connection::open(&path).expect("open the copy");
    connection
        .query_row("SELECT count(*) FROM sqlite_master", [], |_| Ok(()))
        .expect("read the copy");
    connection
        .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        .expect("checkpoint the copy");
    drop(connection);
    std::fs::read(&path).expect("read the copy")
}
