//! The overlay against a model: page reads, torn ones too, with commits, checkpoints and resets in between at random.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;

use super::*;
use crate::capture::spool::SpoolLimits;
use crate::capture::{Capture, FileKind, OpenedAs, Settings};
use crate::format::ltx::Decoder;
use crate::store::Body;
use crate::tenant::discovery::{DEFAULT_GUID_PATTERN, Rules};
use crate::tenant::ids::ClientId;
use crate::tenant::roster::Roster;

const GUID: &str = "12345678-1234-5678-9abc-123456789012";

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// A database that is written by a connection, with the calls that the mount would make around it.
struct Model {
    dir: tempfile::TempDir,
    capture: Arc<Capture>,
    db: Arc<Database>,
    connection: Connection,
    random: Random,
    /// Whether each reset passes its gate, as it has to.
    gated: bool,
}

impl Model {
    fn new(seed: u64, memory_bytes: u64) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let data = dir.path().join("data");
        std::fs::create_dir(&data).expect("a folder");
        let path = data.join(format!("{GUID}.db"));
        File::create(&path).expect("a file");
        let (capture, db) = start(dir.path(), &data, memory_bytes);
        db.opened(
            FileKind::Shm,
            OpenedAs {
                writable: true,
                passthrough: true,
            },
        );
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
        }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("data").join(format!("{GUID}.db"))
    }

    fn gate(&self, gate: Gate) {
        let (passed, wait) = std::sync::mpsc::channel();
        let proceed = Box::new(move || passed.send(()).expect("waits"));
        self.capture.gate(&self.db, gate, proceed);
        wait.recv_timeout(Duration::from_secs(10))
            .expect("the gate");
    }

    /// One operation. Any of them may reset the log, so each passes the gate first.
    fn step(&mut self) {
        self.gate(Gate::DatabaseTruncate);
        if self.gated {
            self.gate(Gate::WalOverwrite);
        }
        let run = |sql: &str| self.connection.execute_batch(sql).expect("run");
        match self.random.below(100) {
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
        self.gate(Gate::DatabaseTruncate);
    }

    /// A snapshot whose page reads are torn apart by operations; its pages.
    fn snapshot(&mut self) -> Result<Vec<u8>, CaptureError> {
        let capture = self.capture.clone();
        let (db, shared) = (self.db.clone(), capture.shared.clone());
        let file = begin(&db, &shared)?.expect("the database is not empty");
        let mut steps = 0;
        let mut read = |bytes: &mut [u8], at: u64| {
            let half = bytes.len() / 2;
            let first = read_up_to(&file, &mut bytes[..half], at)?;
            if steps < 12 && self.random.below(100) < 25 {
                steps += 1;
                self.step();
            }
            if first < half {
                return Ok(first);
            }
            Ok(half + read_up_to(&file, &mut bytes[half..], at + half as u64)?)
        };
        let mut image = copy(&mut read, &db, &shared, 1)?;
        let work = db.history().finish_image(&db, &shared, &mut image)?;
        write_down(&db, &shared, &image, work, 0)?;
        let segment = db.history().pending.back().cloned().expect("a snapshot");
        assert!(segment.snapshot);
        Ok(pages_of(&segment.body))
    }

    /// What SQLite itself shows: a copy of the files, recovered and checkpointed.
    fn shown(&self) -> Vec<u8> {
        let scratch = tempfile::tempdir_in(self.dir.path()).expect("a directory");
        let copy = scratch.path().join("copy.db");
        for suffix in ["", "-wal"] {
            let from = format!("{}{suffix}", self.path().display());
            if Path::new(&from).exists() {
                std::fs::copy(from, format!("{}{suffix}", copy.display())).expect("copy");
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

fn start(dir: &Path, data: &Path, memory_bytes: u64) -> (Arc<Capture>, Arc<Database>) {
    let root = Arc::new(OwnedFd::from(File::open(data).expect("open")));
    let settings = Settings {
        every_transaction: false,
        memory_bytes,
        gate_timeout: Duration::from_secs(5),
        spool: SpoolLimits {
            bytes: 1 << 30,
            reserve: 0,
            reserve_percent: 0,
        },
    };
    let roster = Arc::new(Roster::new(10));
    let rules = Rules::new("", &["*.db".to_owned()], DEFAULT_GUID_PATTERN).expect("rules");
    let state = dir.join("state");
    let (capture, _) =
        Capture::start(root, &state, settings, rules, roster.clone(), 10).expect("start");
    capture.appeared(Path::new(&format!("{GUID}.db")), false);
    let client = roster.get(&ClientId::guid("", GUID)).expect("registered");
    let db = capture.of_client(&client).expect("known");
    (capture, db)
}

fn pages_of(body: &Body) -> Vec<u8> {
    let bytes = match body {
        Body::Bytes(bytes) => bytes.to_vec(),
        Body::File(path) => std::fs::read(path).expect("read the spool"),
    };
    let mut decoder = Decoder::new(bytes.as_slice()).expect("a header");
    let mut page = vec![0; decoder.header().page_size as usize];
    let mut pages = Vec::new();
    while decoder.next_page(&mut page).expect("a page").is_some() {
        pages.extend_from_slice(&page);
    }
    decoder.finish().expect("a whole file");
    pages
}

#[test]
fn a_snapshot_among_writes_equals_what_sqlite_shows() {
    for seed in 1..=60 {
        // Both in memory and in a scratch file.
        let mut model = Model::new(seed, if seed % 2 == 0 { 16 << 20 } else { 1 });
        for _ in 0..model.random.below(20) {
            model.step();
        }
        let snapshot = model.snapshot().expect("a snapshot");
        assert!(snapshot == model.shown(), "seed {seed}");
    }
}

#[test]
fn without_its_gates_a_snapshot_would_be_wrong_or_refused() {
    let wrong = (1..=60).filter(|seed| {
        let mut model = Model::new(*seed, 16 << 20);
        for _ in 0..model.random.below(20) {
            model.step();
        }
        model.gated = false;
        // An error is no wrong snapshot.
        model
            .snapshot()
            .is_ok_and(|snapshot| snapshot != model.shown())
    });
    assert!(
        wrong.count() > 0,
        "the model would not notice a missing gate"
    );
}

#[test]
fn a_journal_that_comes_up_meanwhile_drops_the_image() {
    let mut model = Model::new(1, 16 << 20);
    model.step();
    let shared = model.capture.shared.clone();
    let file = begin(&model.db, &shared).expect("begun").expect("a file");
    let mut read = |bytes: &mut [u8], at: u64| {
        model.db.journal_changed();
        read_up_to(&file, bytes, at)
    };
    let mut image = copy(&mut read, &model.db, &shared, CHUNK).expect("copied");
    let finished = model
        .db
        .history()
        .finish_image(&model.db, &shared, &mut image);
    assert!(matches!(finished, Err(CaptureError::Disturbed)));
    assert!(model.db.history().mark.is_none());
}

/// While the segment of an image is written, commits are captured and pass gates: the sums must become durable in the
/// order of the history all the same.
#[test]
fn what_is_captured_while_an_image_is_written_comes_after_it() {
    for seed in 1..=20 {
        let mut model = Model::new(seed, 16 << 20);
        for _ in 0..5 {
            model.step();
        }
        model.snapshot().expect("a snapshot");
        let (db, shared) = (model.db.clone(), model.capture.shared.clone());
        db.history().stored(&db, &shared).expect("stored");
        // Unseen by any look, as while the daemon was away.
        model.gated = false;
        for _ in 0..3 {
            model.step();
        }
        model.gated = true;
        db.history().resync = Some("test");

        let file = begin(&db, &shared).expect("begun").expect("a file");
        let mut read = |bytes: &mut [u8], at: u64| read_up_to(&file, bytes, at);
        let mut image = copy(&mut read, &db, &shared, CHUNK).expect("copied");
        let work = db
            .history()
            .finish_image(&db, &shared, &mut image)
            .expect("finished");
        for _ in 0..6 {
            model.step();
        }
        write_down(&db, &shared, &image, work, 0).expect("written down");
        model.gate(Gate::WalOverwrite);

        let mut history = db.history();
        let end = history.mark.expect("a mark");
        while history.front().is_some() {
            history.stored(&db, &shared).expect("stored");
        }
        let table = history.sums.as_ref().expect("a table");
        let (header, total) = table.load().expect("load").expect("a whole table");
        assert_eq!(header, sums_header(&end), "seed {seed}");
        assert_eq!(total, end.checksum, "seed {seed}");
    }
}
