//! A database under capture for tests: a real SQLite that writes it, and the calls that the mount would make around that.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;

use super::database::Database;
use super::gate::{Gate, Passing};
use super::spool::SpoolLimits;
use super::{Capture, FileKind, LogPassing, OpenedAs, Settings, workers};
use crate::format::ltx::Decoder;
use crate::format::wal_index::INDEX_HEADERS_SIZE;
use crate::store::Body;
use crate::tenant::discovery::{Rules, RulesWritten};
use crate::tenant::ids::ClientId;
use crate::tenant::roster::Roster;

const GUID: &str = "12345678-1234-5678-9abc-123456789012";

/// How its files are opened.
const SEEN: OpenedAs = OpenedAs {
    writable: true,
    passthrough: true,
    external: false,
};

/// A small generator, for runs that a seed repeats.
pub struct Random(u64);

impl Random {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// A database that is written by a connection, with the calls that the mount would make around it.
pub struct Model {
    pub dir: tempfile::TempDir,
    pub capture: Arc<Capture>,
    pub db: Arc<Database>,
    connection: Connection,
    pub random: Random,
    /// Whether each reset passes its gate, as it has to.
    pub gated: bool,
    /// Whether the kernel passes writes to the log through: then that gate is the complete checkpoint.
    passed: bool,
}

impl Model {
    pub fn new(seed: u64, memory_bytes: u64) -> Self {
        Self::with_spool(seed, memory_bytes, 1 << 30)
    }

    pub fn with_spool(seed: u64, memory_bytes: u64, spool_bytes: u64) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let data = dir.path().join("data");
        std::fs::create_dir(&data).expect("a folder");
        let path = data.join(format!("{GUID}.db"));
        File::create(&path).expect("a file");
        let (capture, db) = start(dir.path(), &data, memory_bytes, spool_bytes);
        db.opened(FileKind::Shm, SEEN);
        db.resized(FileKind::Shm, 3);
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let connection = Connection::open(&path).expect("open");
        let page_size = [512, 1024, 4096][random.below(3) as usize];
        let auto_vacuum = random.below(3);
        connection
            .execute_batch(&format!(
                "PRAGMA page_size = {page_size}; PRAGMA auto_vacuum = {auto_vacuum};
                 PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF;
                 PRAGMA wal_autocheckpoint = 0; PRAGMA cache_size = 10;
                 CREATE TABLE t (a INTEGER PRIMARY KEY, b BLOB);"
            ))
            .expect("prepare");
        Self {
            dir,
            capture,
            db,
            connection,
            random,
            gated: true,
            passed: false,
        }
    }

    /// From now on resets of the log are not seen.
    pub fn pass_log(&mut self) {
        self.db.opened(FileKind::Wal, SEEN);
        self.passed = true;
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("data").join(format!("{GUID}.db"))
    }

    /// What it gives lives until the operation has been carried out.
    pub fn gate(&self, gate: Gate) -> Passing {
        let (passed, wait) = std::sync::mpsc::channel();
        let proceed = Box::new(move |passing| passed.send(passing).expect("waits"));
        self.capture.gate(&self.db, gate, proceed);
        wait.recv_timeout(Duration::from_secs(10))
            .expect("the gate")
    }

    /// One statement, or several, between the gates that it may pass.
    pub fn run(&mut self, sql: &str) {
        self.gate(Gate::DatabaseTruncate);
        let passing = (!self.passed).then(|| self.gate(Gate::WalOverwrite));
        self.connection.execute_batch(sql).expect("run");
        drop(passing);
        self.gate(Gate::DatabaseTruncate);
    }

    /// A commit whose writer dies before it updates the wal-index: the log has it, and no connection sees it.
    pub fn commit_unpublished(&mut self, sql: &str) {
        let index = self.companion("-shm");
        let index = File::options().read(true).write(true).open(index);
        let index = index.expect("the wal-index");
        let mut published = [0; INDEX_HEADERS_SIZE];
        index.read_exact_at(&mut published, 0).expect("read");
        self.execute(sql);
        index.write_all_at(&published, 0).expect("write");
    }

    /// Statements past all gates.
    pub fn execute(&mut self, sql: &str) {
        self.connection.execute_batch(sql).expect("run");
        self.db.written(FileKind::Wal);
    }

    /// A further connection.
    pub fn connect(&self) -> Connection {
        Connection::open(self.path()).expect("open")
    }

    /// As the last close does, whose handle is still open.
    pub fn remove_index(&self) {
        std::fs::remove_file(self.companion("-shm")).expect("removed");
    }

    /// As in the middle of a checkpoint with TRUNCATE: the wal-index tells of the next log, and this one is there still.
    pub fn restart_index(&mut self) {
        let path = self.companion("-wal");
        let log = std::fs::read(&path).expect("a log");
        self.execute("PRAGMA wal_checkpoint(TRUNCATE)");
        std::fs::write(&path, log).expect("put back");
    }

    /// As where all who have it open have died.
    pub fn close_index(&self) {
        self.db.released(FileKind::Shm, SEEN);
    }

    fn companion(&self, suffix: &str) -> PathBuf {
        super::backing::companion(&self.path(), suffix)
    }

    /// One operation. Any of them may reset the log, so each passes the gate first.
    pub fn step(&mut self) {
        let operation = self.random.below(100);
        let passing = self.gated.then(|| {
            self.gate(Gate::DatabaseTruncate);
            match self.passed {
                false => Some(self.gate(Gate::WalOverwrite)),
                true => (operation >= 70).then(|| self.gate(Gate::WalTruncate { kept: 0 })),
            }
        });
        if passing.is_some() && self.random.below(3) == 0 {
            // A look may come between a gate and what it was for.
            workers::drain(&self.db, &self.capture.shared).expect("looked");
        }
        let run = |sql: &str| self.connection.execute_batch(sql).expect("run");
        match operation {
            0..60 => {
                run("BEGIN");
                for _ in 0..1 + self.random.below(6) {
                    let (a, size) = (self.random.below(60) as i64, self.random.below(3000) as i64);
                    self.connection
                        .execute(
                            "INSERT OR REPLACE INTO t VALUES (?1, randomblob(?2))",
                            (a, size),
                        )
                        .expect("insert");
                }
                if self.random.below(100) < 30 {
                    run("DELETE FROM t WHERE a % 3 = 1");
                }
                run(if self.random.below(100) < 15 {
                    "ROLLBACK"
                } else {
                    "COMMIT"
                });
            }
            60..70 => run("VACUUM"),
            kind => {
                let kind = ["PASSIVE", "FULL", "RESTART", "TRUNCATE"][kind as usize % 4];
                self.connection
                    .query_row(&format!("PRAGMA wal_checkpoint({kind})"), [], |_| Ok(()))
                    .expect("checkpoint");
            }
        }
        drop(passing);
        if self.gated {
            self.gate(Gate::DatabaseTruncate);
        }
    }

    /// What SQLite itself shows: a copy of the files, recovered and checkpointed.
    pub fn shown(&self) -> Vec<u8> {
        let scratch = tempfile::tempdir_in(self.dir.path()).expect("a directory");
        let copy = scratch.path().join("copy.db");
        for suffix in ["", "-wal"] {
            let from = self.companion(suffix);
            if from.exists() {
                std::fs::copy(from, super::backing::companion(&copy, suffix)).expect("copy");
            }
        }
        let connection = Connection::open(&copy).expect("open the copy");
        connection
            .query_row("SELECT count(*) FROM t", [], |_| Ok(()))
            .expect("read the copy");
        connection
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
            .expect("checkpoint the copy");
        drop(connection);
        std::fs::read(&copy).expect("read the copy")
    }
}

fn start(
    dir: &Path,
    data: &Path,
    memory_bytes: u64,
    spool_bytes: u64,
) -> (Arc<Capture>, Arc<Database>) {
    let root = Arc::new(OwnedFd::from(File::open(data).expect("open")));
    let settings = Settings {
        gate_timeout: Duration::from_secs(5),
        log_passing: LogPassing::Never,
        spool: SpoolLimits {
            bytes: spool_bytes,
            reserve: super::reserve::SpoolReserve::Bytes(0),
        },
    };
    let roster = Arc::new(Roster::new(10));
    let mut rules = RulesWritten::default_for(data);
    let mut terms = (*rules.terms).clone();
    let defaults = Arc::make_mut(&mut terms.defaults);
    defaults.limits.memory_bytes = memory_bytes;
    // Nothing is merged for being captured within it.
    defaults.sync_interval = Duration::from_millis(1);
    rules.terms = Arc::new(terms);
    let rules = Rules::new(rules).expect("rules");
    let state = dir.join("state");
    let (capture, _) =
        Capture::start(root, data, &state, settings, rules, roster.clone(), 10).expect("start");
    capture.appeared(Path::new(&format!("{GUID}.db")), false);
    let client = roster.get(&ClientId::single("", GUID)).expect("registered");
    let db = capture.of_client(&client).expect("known");
    (capture, db)
}

pub fn bytes_of(body: &Body) -> Vec<u8> {
    match body {
        Body::Bytes(bytes) => bytes.to_vec(),
        Body::File(path) => std::fs::read(path).expect("read the spool"),
    }
}

/// The pages of a snapshot, one after the other.
pub fn pages_of(body: &Body) -> Vec<u8> {
    let bytes = bytes_of(body);
    let mut decoder = Decoder::new(bytes.as_slice()).expect("a header");
    let mut page = vec![0; decoder.header().page_size as usize];
    let mut pages = Vec::new();
    while decoder.next_page(&mut page).expect("a page").is_some() {
        pages.extend_from_slice(&page);
    }
    decoder.finish().expect("a whole file");
    pages
}
