//! The capture against a model: random operations of a real SQLite, and what SQLite itself shows after each of them.

use std::collections::BTreeMap;

use litestream_multitenant::capture::FileKind;
use litestream_multitenant::restore::At;
use rusqlite::Connection;

use super::bench::{Bench, Random, VISIBLE, rounds};

pub fn prepare(connection: &Connection, page_size: u64, auto_vacuum: u64) {
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

/// Checkpoints from here on, since their kinds are the last ones.
const CHECKPOINTS: u64 = 65;

/// One random operation, of those below 100. Returns whether it committed something.
pub fn step(operation: u64, random: &mut Random, connection: &Connection, page_size: u64) -> bool {
    let run = |sql: &str| connection.execute_batch(sql).expect("run");
    let before = connection.total_changes();
    match operation {
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
        60..CHECKPOINTS => {
            let number = |pragma: &str| -> i64 {
                let number =
                    connection.query_row(&format!("PRAGMA {pragma}"), [], |row| row.get(0));
                number.expect("a number")
            };
            let (free, kind) = (number("freelist_count"), number("auto_vacuum"));
            run("PRAGMA incremental_vacuum(5)");
            free > 0 && kind == 2
        }
        kind => {
            checkpoint(
                connection,
                match kind {
                    CHECKPOINTS..75 => "PASSIVE",
                    75..83 => "FULL",
                    83..92 => "RESTART",
                    _ => "TRUNCATE",
                },
            );
            false
        }
    }
}

fn checkpoint(connection: &Connection, kind: &str) {
    connection
        .query_row(&format!("PRAGMA wal_checkpoint({kind})"), [], |_| Ok(()))
        .expect("checkpoint");
}

/// One run: how it captures, and the states that SQLite has shown, by TXID.
struct Run {
    bench: Bench,
    random: Random,
    connection: Option<Connection>,
    /// Whether the connection has its index to itself, so that nobody can see it.
    exclusive: bool,
    /// Whether all of the log is in the database, so that the next transaction may begin it anew.
    backfilled: bool,
    states: BTreeMap<u64, Vec<u8>>,
}

impl Run {
    /// Before the log may be begun anew or destroyed: nobody reads, so that all of it gets into the database.
    fn checkpoint_all(&mut self) {
        checkpoint(self.connection.as_ref().expect("open"), "PASSIVE");
        self.backfilled = true;
    }

    /// The last close: checkpoint, and log and index are gone.
    fn reopen(&mut self) {
        self.checkpoint_all();
        self.bench.gates_of_truncation();
        drop(self.connection.take());
        if !self.exclusive {
            self.bench.db.released(FileKind::Shm, VISIBLE);
        }
        self.exclusive = self.random.chance(40);
        let connection = self.bench.connect();
        let locking = if self.exclusive {
            "EXCLUSIVE"
        } else {
            "NORMAL"
        };
        connection
            .execute_batch(&format!(
                "PRAGMA locking_mode = {locking}; PRAGMA wal_autocheckpoint = 0;
                 PRAGMA synchronous = OFF; PRAGMA cache_size = 10; SELECT count(*) FROM t;"
            ))
            .expect("reopen");
        if !self.exclusive {
            self.bench.open_index();
        }
        self.connection = Some(connection);
    }

    fn note_state(&mut self, txid: u64, at: &str) {
        let shown = self.bench.shown();
        if let Some(known) = self.states.get(&txid) {
            assert!(*known == shown, "{at}: the state changed without a TXID");
        }
        self.states.insert(txid, shown);
    }
}

const PAGE_SIZES: [u64; 8] = [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536];

/// `looks`: how many of a hundred operations the capture looks after; else several transactions become one segment.
/// `passed`: the kernel passes writes to the log through.
fn run_against_the_model(seed: u64, looks: u64, memory_bytes: u64, passed: bool) {
    let mut random = Random::of(seed);
    let page_size = PAGE_SIZES[seed as usize % PAGE_SIZES.len()];
    let auto_vacuum = random.below(3);
    let mut bench = Bench::new(looks == 100, memory_bytes);
    if passed {
        bench.pass_log();
    }
    let connection = bench.connect();
    bench.open_index();
    prepare(&connection, page_size, auto_vacuum);
    let mut run = Run {
        bench,
        random,
        connection: Some(connection),
        exclusive: false,
        backfilled: false,
        states: BTreeMap::new(),
    };
    let mut txid = run.bench.look();
    assert_eq!(txid, 1, "seed {seed}: the first snapshot");
    run.note_state(txid, "at first");

    for number in 0..25 {
        let at = format!("seed {seed}, step {number}, page size {page_size}");
        if run.random.chance(8) {
            run.reopen();
        }
        let operation = run.random.below(100);
        if operation >= CHECKPOINTS {
            run.checkpoint_all();
        }
        if operation >= CHECKPOINTS {
            run.bench.gates_of_truncation();
        } else if run.backfilled {
            run.bench.gates();
        }
        let connection = run.connection.as_ref().expect("open");
        let committed = step(operation, &mut run.random, connection, page_size);
        run.backfilled &= !committed;
        txid += u64::from(committed);
        if run.random.chance(looks) || number == 24 {
            assert_eq!(run.bench.look(), txid, "{at}: TXID");
            run.note_state(txid, &at);
        }
    }
    for (txid, state) in &run.states {
        let restored = run.bench.restored(At::Txid(*txid));
        assert!(restored == *state, "seed {seed}: TXID {txid} differs");
    }
    assert!(
        run.bench.restored(At::Newest) == run.states[&txid],
        "seed {seed}: newest"
    );
}

#[test]
fn every_captured_transaction_restores_to_what_sqlite_showed() {
    for seed in 1..=rounds(24) {
        run_against_the_model(seed, 100, 16 << 20, seed % 2 == 0);
    }
}

#[test]
fn every_end_of_several_transactions_restores_to_what_sqlite_showed() {
    for seed in 201..=200 + rounds(16) {
        run_against_the_model(seed, 35, 16 << 20, seed % 2 == 0);
    }
}

#[test]
fn the_same_where_everything_goes_to_the_spool() {
    for seed in 101..=100 + rounds(8) {
        run_against_the_model(seed, 100, 1, seed % 2 == 0);
    }
}
