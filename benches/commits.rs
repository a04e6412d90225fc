//! SQLite through the mount against SQLite in the plain directory beside it: commits, reads, checkpoints.
//!
//! Both sides do the same in the same round, in turns, and the ratio is taken within the round; the median of the
//! rounds is printed. This process is the application; the daemon is another one, and replicates to a directory.
//! `cargo bench --bench commits -- WORD` runs those whose name has that word; with `CAPTURE=intercept` in the
//! environment writes to logs go through the daemon.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::{Connection, params};

#[path = "../tests/support/mod.rs"]
#[allow(dead_code, reason = "most of it is the tests'")]
mod support;

use support::daemon::{Daemon, Options, guid};

/// Rounds of what writes, and of what only reads and is over sooner; odd, so that there is one in the middle.
const ROUNDS: usize = 11;
const READ_ROUNDS: usize = 41;
/// About 60 MB, so that a small cache of SQLite's own holds next to nothing of it.
const ROWS: u32 = 500_000;
const POINT_READS: u32 = 20_000;
/// Bytes of one row in a transaction that makes about 10 MB of log.
const BULK_ROW: u32 = 3_000;
const BULK_ROWS: u32 = 3_300;

/// Something to be timed on a database, which it may find as an earlier round left it.
struct Case {
    name: &'static str,
    /// Operations of one round.
    count: u32,
    /// The highest ratios that are aimed at, with logs passed through and intercepted.
    aims: [Option<f64>; 2],
    /// It reads rows that are there already.
    filled: bool,
    run: fn(&Connection, u32) -> Duration,
    /// What is set on the connection of a round.
    settings: &'static str,
}

const CASES: [Case; 9] = [
    Case {
        name: "commit, synchronous OFF",
        count: 3_000,
        aims: [Some(1.15), None],
        filled: false,
        run: commits,
        settings: "PRAGMA synchronous = OFF",
    },
    Case {
        name: "commit, synchronous NORMAL",
        count: 3_000,
        aims: [Some(1.15), Some(3.0)],
        filled: false,
        run: commits,
        settings: "PRAGMA synchronous = NORMAL",
    },
    Case {
        name: "commit, synchronous FULL",
        count: 300,
        aims: [Some(1.15), Some(1.15)],
        filled: false,
        run: commits,
        settings: "PRAGMA synchronous = FULL",
    },
    Case {
        name: "bulk commit of 10 MB",
        count: 1,
        aims: [None; 2],
        filled: false,
        run: bulk_commit,
        settings: "PRAGMA wal_autocheckpoint = 0",
    },
    Case {
        name: "checkpoint TRUNCATE of 10 MB",
        count: 1,
        aims: [Some(1.05), None],
        filled: false,
        run: checkpoint,
        settings: "PRAGMA wal_autocheckpoint = 0",
    },
    Case {
        name: "point read, in SQLite's cache",
        count: POINT_READS,
        aims: [Some(1.05); 2],
        filled: true,
        run: point_reads_behind_a_commit,
        settings: "PRAGMA cache_size = -200000",
    },
    Case {
        name: "point read, in the page cache",
        count: POINT_READS,
        aims: [Some(1.05); 2],
        filled: true,
        run: point_reads_behind_a_commit,
        settings: "PRAGMA cache_size = 20",
    },
    Case {
        name: "point read, log empty, page cache",
        count: POINT_READS,
        aims: [None; 2],
        filled: true,
        run: point_reads,
        settings: "PRAGMA cache_size = 20",
    },
    Case {
        name: "full scan, in the page cache",
        count: 1,
        aims: [Some(1.05); 2],
        filled: true,
        run: scan,
        settings: "PRAGMA cache_size = 20",
    },
];

fn main() {
    let word = std::env::args().skip(1).find(|word| !word.starts_with('-'));
    let capture = std::env::var("CAPTURE").unwrap_or_else(|_| "passthrough".to_owned());
    println!("mount.capture: {capture}");
    let daemon = Daemon::start(Options {
        sync_interval: "1s",
        config: format!("mount: {{capture: {capture}}}\n"),
        time_limit: Duration::from_secs(1_800),
        ..Options::default()
    });
    let aim = |case: &Case| case.aims[usize::from(capture != "passthrough")];
    let plain = daemon.path("plain");
    std::fs::create_dir(&plain).expect("the plain directory");
    println!(
        "{:<36}{:>12}{:>12}{:>8}{:>16}{:>7}",
        "", "plain", "mount", "ratio", "least to most", "aim"
    );
    for (number, case) in (1..).zip(&CASES) {
        if word.as_deref().is_none_or(|word| case.name.contains(word)) {
            let client = guid(number);
            let mount = daemon.database(&client);
            let plain = plain.join(format!("{client}.db"));
            compare(case, aim(case), &plain, &mount, &|| {
                daemon.sync(&client);
            });
        }
    }
}

/// Runs a case on both sides in turns. `settle` waits until nothing of the mount's side is left to replicate.
fn compare(case: &Case, aim: Option<f64>, plain: &Path, mount: &Path, settle: &dyn Fn()) {
    create(plain, case.filled);
    create(mount, case.filled);
    settle();
    let count = if case.filled { READ_ROUNDS } else { ROUNDS };
    let mut rounds = Vec::with_capacity(count);
    for round in 0..count {
        let on_mount = || {
            let took = once(case, mount);
            settle();
            took
        };
        rounds.push(if round % 2 == 0 {
            let plain = once(case, plain);
            (plain, on_mount())
        } else {
            let mount = on_mount();
            (once(case, plain), mount)
        });
    }
    let ratios = sorted(rounds.iter().map(|(plain, mount)| mount / plain));
    let each = |times: Vec<f64>| duration(times[count / 2] / f64::from(case.count));
    let ratio = ratios[count / 2];
    println!(
        "{:<36}{:>12}{:>12}{:>8.2}{:>16}{:>7}",
        case.name,
        each(sorted(rounds.iter().map(|(plain, _)| *plain))),
        each(sorted(rounds.iter().map(|(_, mount)| *mount))),
        ratio,
        format!("{:.2} to {:.2}", ratios[0], ratios[count - 1]),
        match aim {
            None => String::new(),
            Some(aim) if ratio <= aim => format!("<= {aim}"),
            Some(aim) => format!("> {aim}!"),
        },
    );
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 1e-3 => format!("{:.1} us", s * 1e6),
        s => format!("{:.1} ms", s * 1e3),
    }
}

fn create(path: &Path, filled: bool) {
    let connection = Connection::open(path).expect("a database");
    connection
        .execute_batch(
            "PRAGMA journal_mode = wal; PRAGMA synchronous = OFF;
             CREATE TABLE rows (id INTEGER PRIMARY KEY, body BLOB NOT NULL);",
        )
        .expect("valid SQL");
    if filled {
        connection
            .execute(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)
                 INSERT INTO rows SELECT i, randomblob(100) FROM n",
                [ROWS],
            )
            .expect("filled");
    }
}

/// One round of one side, on a connection of its own: seconds.
fn once(case: &Case, path: &Path) -> f64 {
    let connection = Connection::open(path).expect("a database");
    connection.execute_batch(case.settings).expect("valid SQL");
    let took = (case.run)(&connection, case.count);
    connection.close().expect("closed");
    took.as_secs_f64()
}

fn commit(connection: &Connection) {
    let mut insert = connection
        .prepare_cached("INSERT INTO rows (body) VALUES (randomblob(100))")
        .expect("valid SQL");
    insert.execute([]).expect("committed");
}

fn commits(connection: &Connection, count: u32) -> Duration {
    commit(connection);
    let begun = Instant::now();
    for _ in 0..count {
        commit(connection);
    }
    begun.elapsed()
}

fn bulk_commit(connection: &Connection, _: u32) -> Duration {
    connection.execute("DELETE FROM rows", []).expect("emptied");
    let begun = Instant::now();
    connection
        .execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)
             INSERT INTO rows SELECT i, randomblob(?) FROM n",
            params![BULK_ROWS, BULK_ROW],
        )
        .expect("committed");
    begun.elapsed()
}

fn checkpoint(connection: &Connection, count: u32) -> Duration {
    bulk_commit(connection, count);
    let begun = Instant::now();
    let left: (u32, u32) = connection
        .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .expect("checkpointed");
    let took = begun.elapsed();
    assert_eq!(left, (0, 0), "nothing was in its way, and nothing is left");
    took
}

fn point_reads_behind_a_commit(connection: &Connection, count: u32) -> Duration {
    commit(connection);
    point_reads(connection, count)
}

/// The same rows twice, of which the second time counts.
fn point_reads(connection: &Connection, count: u32) -> Duration {
    let mut read = connection
        .prepare("SELECT body FROM rows WHERE id = ?")
        .expect("valid SQL");
    let mut all = || {
        let begun = Instant::now();
        for number in 0..count {
            let id = number.wrapping_mul(2_654_435_761) % ROWS + 1;
            let body: Vec<u8> = read.query_row([id], |row| row.get(0)).expect("a row");
            assert_eq!(body.len(), 100);
        }
        begun.elapsed()
    };
    all();
    all()
}

fn scan(connection: &Connection, _: u32) -> Duration {
    commit(connection);
    let all = || {
        let begun = Instant::now();
        let bytes: i64 = connection
            .query_row("SELECT sum(length(body)) FROM rows", [], |row| row.get(0))
            .expect("scanned");
        assert!(bytes >= i64::from(ROWS) * 100);
        begun.elapsed()
    };
    all();
    all()
}
