//! The capture against a model: random operations of a real SQLite, and what SQLite itself shows after each of them.
//!
//! No mount is needed here: the test makes the calls that the mount would make.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use litestream_multitenant::capture::spool::SpoolLimits;
use litestream_multitenant::capture::{
    Capture, Database, FileKind, Gate, Next, OpenedAs, Settings,
};
use litestream_multitenant::format::scanner::Scanner;
use litestream_multitenant::format::wal::WalHeader;
use litestream_multitenant::restore::{At, Target, restore_to_file};
use litestream_multitenant::store::directory::DirectoryStore;
use litestream_multitenant::store::{ObjectStore, Put};
use litestream_multitenant::tenant::discovery::{DEFAULT_GUID_PATTERN, Rules};
use litestream_multitenant::tenant::ids::ClientId;
use litestream_multitenant::tenant::roster::{Client, Roster};
use rusqlite::Connection;
use tokio::runtime::Runtime;

const GUID: &str = "12345678-1234-5678-9abc-123456789012";

/// How many seeds are tried; `MODEL_ROUNDS` multiplies them for a long run.
fn rounds(normally: u64) -> u64 {
    let factor = std::env::var("MODEL_ROUNDS").ok();
    normally
        * factor.map_or(1, |factor| {
            factor.parse().expect("MODEL_ROUNDS is a number")
        })
}

/// A small generator whose seed is printed with every failure.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    fn blob(&mut self, most: u64) -> Vec<u8> {
        let len = self.below(most + 1) as usize;
        (0..len).map(|_| self.next() as u8).collect()
    }
}

/// A database with its capture and a store, and the states that SQLite has shown.
struct Bench {
    dir: tempfile::TempDir,
    runtime: Runtime,
    capture: Arc<Capture>,
    db: Arc<Database>,
    client: Arc<Client>,
    store: Arc<dyn ObjectStore>,
    /// By TXID.
    states: BTreeMap<u64, Vec<u8>>,
}

const VISIBLE: OpenedAs = OpenedAs {
    writable: true,
    passthrough: true,
};

impl Bench {
    fn new(memory_bytes: u64) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        for folder in ["data", "state", "store", "scratch"] {
            std::fs::create_dir(dir.path().join(folder)).expect("a folder");
        }
        let roster = Arc::new(Roster::new(10));
        let (capture, _) = start_capture(dir.path(), memory_bytes, &roster);
        let runtime = Runtime::new().expect("a runtime");
        std::fs::File::create(dir.path().join("data").join(format!("{GUID}.db"))).expect("a file");
        let name = PathBuf::from(format!("{GUID}.db"));
        capture.appeared(&name, false);
        let client = roster
            .get(&ClientId::guid("", GUID))
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
            states: BTreeMap::new(),
        }
    }

    fn path(&self, suffix: &str) -> PathBuf {
        self.dir
            .path()
            .join("data")
            .join(format!("{GUID}.db{suffix}"))
    }

    fn connect(&self) -> Connection {
        let connection = Connection::open(self.path("")).expect("open");
        connection
            .busy_timeout(Duration::from_secs(5))
            .expect("busy timeout");
        connection
    }

    /// The first connection opens the wal-index, and cuts it before anything else.
    fn open_index(&self) {
        self.db.opened(FileKind::Shm, VISIBLE);
        self.db.resized(FileKind::Shm, 3);
    }

    /// What the mount would do before any operation that may reset the log.
    fn gates(&self) {
        for gate in [Gate::DatabaseTruncate, Gate::WalOverwrite] {
            let (passed, wait) = std::sync::mpsc::channel();
            self.capture.gate(
                &self.db,
                gate,
                Box::new(move || passed.send(()).expect("waits")),
            );
            wait.recv_timeout(Duration::from_secs(10))
                .expect("the gate");
        }
    }

    /// Looks until there is nothing more to see, and moves what was captured into the store.
    fn look(&self) -> u64 {
        self.runtime.block_on(async {
            self.db.written(FileKind::Wal);
            for _ in 0..1_000 {
                let drained = self.capture.drain(&self.db).await.expect("drain");
                if drained.next == Next::Image {
                    self.capture.image(&self.db).await.expect("image");
                }
                while let Some(segment) = self.capture.front(&self.db).await.expect("front") {
                    let key = segment.key().below(&self.client.s3_prefix);
                    let put = self.store.put_new(&key, &segment.body).await.expect("put");
                    assert_eq!(put, Put::Created, "{key}");
                    self.capture.stored(&self.db).await.expect("stored");
                }
                if drained.next != Next::Image {
                    return self.client.progress().txid;
                }
            }
            panic!("the capture never comes to an end")
        })
    }

    /// The database as SQLite itself shows it: a copy of its files, recovered and checkpointed.
    fn shown(&self) -> Vec<u8> {
        let wal = std::fs::read(self.path("-wal")).unwrap_or_default();
        recovered(
            self.dir.path(),
            &std::fs::read(self.path("")).expect("read"),
            &wal,
        )
    }

    fn restored(&self, at: At) -> Vec<u8> {
        let output = self.dir.path().join("scratch").join("restored.db");
        let target = Target {
            generation: None,
            at,
        };
        self.runtime
            .block_on(restore_to_file(
                &self.store,
                &self.client.s3_prefix,
                &target,
                &output,
                true,
                &|_| {},
            ))
            .unwrap_or_else(|error| panic!("restore: {error}"));
        std::fs::read(&output).expect("read")
    }
}

fn start_capture(
    dir: &Path,
    memory_bytes: u64,
    roster: &Arc<Roster>,
) -> (Arc<Capture>, tokio::sync::mpsc::Receiver<Arc<Database>>) {
    let root = std::fs::File::open(dir.join("data")).expect("open");
    let settings = Settings {
        every_transaction: true,
        memory_bytes,
        gate_timeout: Duration::from_secs(5),
        spool: SpoolLimits {
            bytes: 1 << 30,
            reserve: 0,
            reserve_percent: 0,
        },
    };
    let rules = Rules::new("", &["*.db".to_owned()], DEFAULT_GUID_PATTERN).expect("rules");
    Capture::start(
        Arc::new(OwnedFd::from(root)),
        &dir.join("state"),
        settings,
        rules,
        roster.clone(),
        100,
    )
    .expect("start")
}

fn recovered(dir: &Path, database: &[u8], wal: &[u8]) -> Vec<u8> {
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

fn prepare(connection: &Connection, page_size: u64, auto_vacuum: u64) {
    connection
        .execute_batch(&format!(
            "PRAGMA page_size = {page_size}; PRAGMA auto_vacuum = {auto_vacuum};
             PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF; PRAGMA wal_autocheckpoint = 0;
             PRAGMA cache_size = 10; CREATE TABLE t (a INTEGER PRIMARY KEY, b BLOB);"
        ))
        .expect("prepare");
}

fn write(random: &mut Random, connection: &Connection, page_size: u64) {
    for _ in 0..1 + random.below(6) {
        let (a, b) = (
            random.below(60) as i64,
            random.blob(3 * page_size.min(4096)),
        );
        connection
            .execute("INSERT OR REPLACE INTO t VALUES (?1, ?2)", (a, b))
            .expect("insert");
    }
    if random.chance(30) {
        let from = random.below(60) as i64;
        connection
            .execute("DELETE FROM t WHERE a BETWEEN ?1 AND ?2", (from, from + 20))
            .expect("delete");
    }
}

/// One random operation. Returns whether it committed something.
fn step(random: &mut Random, connection: &Connection, page_size: u64) -> bool {
    let run = |sql: &str| connection.execute_batch(sql).expect("run");
    let before = connection.total_changes();
    match random.below(100) {
        0..50 => {
            run("BEGIN");
            write(random, connection, page_size);
            if random.chance(30) {
                run("SAVEPOINT s");
                write(random, connection, page_size);
                run(if random.chance(50) {
                    "ROLLBACK TO s; RELEASE s"
                } else {
                    "RELEASE s"
                });
            }
            if random.chance(15) {
                run("ROLLBACK");
                return false;
            }
            run("COMMIT");
            connection.total_changes() != before
        }
        50..60 => {
            run("VACUUM");
            true
        }
        60..65 => {
            let free: i64 = connection
                .query_row("PRAGMA freelist_count", [], |row| row.get(0))
                .expect("freelist");
            let kind: i64 = connection
                .query_row("PRAGMA auto_vacuum", [], |row| row.get(0))
                .expect("auto_vacuum");
            run("PRAGMA incremental_vacuum(5)");
            free > 0 && kind == 2
        }
        kind => {
            let kind = match kind {
                65..75 => "PASSIVE",
                75..83 => "FULL",
                83..92 => "RESTART",
                _ => "TRUNCATE",
            };
            connection
                .query_row(&format!("PRAGMA wal_checkpoint({kind})"), [], |_| Ok(()))
                .expect("checkpoint");
            false
        }
    }
}

fn run_against_the_model(seed: u64, memory_bytes: u64) {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let page_size = random.pick(&[512, 1024, 4096, 8192, 65536]);
    let auto_vacuum = random.below(3);
    let mut bench = Bench::new(memory_bytes);
    let mut connection = bench.connect();
    bench.open_index();
    prepare(&connection, page_size, auto_vacuum);
    let mut txid = bench.look();
    assert_eq!(txid, 1, "seed {seed}: the first snapshot");
    let shown = bench.shown();
    bench.states.insert(txid, shown);

    for number in 0..25 {
        let at = format!("seed {seed}, step {number}, page size {page_size}");
        bench.gates();
        if random.chance(6) {
            // The last close: checkpoint, and log and index are gone.
            drop(connection);
            bench.db.released(FileKind::Shm, VISIBLE);
            connection = bench.connect();
            connection
                .execute_batch("PRAGMA wal_autocheckpoint = 0; PRAGMA synchronous = OFF; PRAGMA cache_size = 10")
                .expect("reopen");
            bench.open_index();
        }
        let committed = step(&mut random, &connection, page_size);
        let now = bench.look();
        assert_eq!(now, txid + u64::from(committed), "{at}: TXID");
        txid = now;
        let shown = bench.shown();
        if let Some(known) = bench.states.get(&txid) {
            assert!(*known == shown, "{at}: the state changed without a TXID");
        }
        bench.states.insert(txid, shown);
    }
    for (txid, state) in &bench.states {
        let restored = bench.restored(At::Txid(*txid));
        assert!(restored == *state, "seed {seed}: TXID {txid} differs");
    }
    assert!(
        bench.restored(At::Newest) == bench.states[&txid],
        "seed {seed}: newest"
    );
}

#[test]
fn every_captured_transaction_restores_to_what_sqlite_showed() {
    for seed in 1..=rounds(24) {
        run_against_the_model(seed, 16 << 20);
    }
}

#[test]
fn the_same_where_everything_goes_to_the_spool() {
    for seed in 101..=100 + rounds(6) {
        run_against_the_model(seed, 1);
    }
}

/// The pages of a database after the committed transactions that a log shows, cut at any byte, were put in.
fn replayed(database: &[u8], wal: &[u8]) -> Vec<u8> {
    let mut pages = database.to_vec();
    let Ok(header) = WalHeader::decode(wal) else {
        return pages;
    };
    let mut transactions = Vec::new();
    Scanner::new(header, header.start()).feed(&wal[32..], &mut transactions);
    let size = header.page_size as usize;
    for transaction in transactions {
        for page in transaction.pages {
            let to = (page.pgno as usize - 1) * size;
            if pages.len() < to + size {
                pages.resize(to + size, 0);
            }
            let from = page.offset as usize;
            pages[to..to + size].copy_from_slice(&wal[from..from + size]);
        }
        pages.resize(transaction.commit as usize * size, 0);
    }
    pages
}

#[test]
fn a_log_that_is_cut_anywhere_shows_what_recovery_finds() {
    for seed in 1..=rounds(8) {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("source.db");
        let page_size = random.pick(&[512, 1024, 2048, 4096, 16384, 32768]);
        let auto_vacuum = random.below(3);
        let connection = Connection::open(&path).expect("open");
        prepare(&connection, page_size, auto_vacuum);
        for _ in 0..12 {
            step(&mut random, &connection, page_size);
        }
        let database = std::fs::read(&path).expect("read");
        let wal = std::fs::read(dir.path().join("source.db-wal")).expect("read");
        let frame = page_size as usize + 24;
        // Ends of frames and their neighbours, where it matters, and any other bytes.
        let mut cuts: Vec<usize> = (0..12)
            .map(|_| random.below(wal.len() as u64 + 1) as usize)
            .collect();
        for _ in 0..8 {
            let whole = 32 + random.below((wal.len() / frame) as u64 + 1) as usize * frame;
            cuts.extend([whole.saturating_sub(1), whole, whole + 1]);
        }
        for cut in cuts.into_iter().map(|cut| cut.min(wal.len())) {
            let shown = recovered(dir.path(), &database, &wal[..cut]);
            assert!(
                replayed(&database, &wal[..cut]) == shown,
                "seed {seed}, page size {page_size}, cut at {cut} of {}",
                wal.len()
            );
        }
    }
}
