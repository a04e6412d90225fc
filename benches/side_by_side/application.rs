//! The application: one connection a database, one-row transactions, and where each of them ends in its log.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::Connection;

use crate::meter::own_thread_time;

const PAGE_SIZE: u64 = 4_096;
const FRAME_SIZE: u64 = PAGE_SIZE + 24;
/// Commits between two looks at the size of the log.
const LOG_LOOK: usize = 1_000;
const LOG_HEADER_SIZE: u64 = 32;

pub struct Database {
    connection: Connection,
    path: PathBuf,
}

/// How far a log reaches after some commit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Position {
    pub salt: (u32, u32),
    pub end: u64,
}

impl Database {
    /// Makes it, in WAL mode, with one row.
    pub fn create(path: &Path, synchronous: &str) -> Self {
        let database = Self::open(path, synchronous);
        database
            .connection
            .execute_batch(
                "PRAGMA journal_mode = wal;
                 CREATE TABLE rows (id INTEGER PRIMARY KEY, body BLOB NOT NULL);",
            )
            .expect("valid SQL");
        database.commit();
        database
    }

    pub fn open(path: &Path, synchronous: &str) -> Self {
        let connection = Connection::open(path).expect("a database");
        let wait = Duration::from_secs(30);
        connection.busy_timeout(wait).expect("a time");
        let setting = format!("PRAGMA synchronous = {synchronous}");
        connection.execute_batch(&setting).expect("valid SQL");
        Self {
            connection,
            path: path.to_owned(),
        }
    }

    pub fn commit(&self) {
        self.add(1);
    }

    /// One transaction of so many rows.
    pub fn add(&self, rows: u32) {
        let mut insert = self
            .connection
            .prepare_cached(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)
                 INSERT INTO rows (body) SELECT randomblob(100) FROM n",
            )
            .expect("valid SQL");
        insert.execute([rows]).expect("committed");
    }

    pub fn rows(&self) -> i64 {
        let count = "SELECT count(*) FROM rows";
        let count = self.connection.query_row(count, [], |row| row.get(0));
        count.expect("counted")
    }

    /// Bytes of its log's file.
    pub fn log_size(&self) -> u64 {
        self.beside("-wal").metadata().expect("it has a log").len()
    }

    /// Where the newest commit ends, as the index of the log says.
    pub fn position(&self) -> Position {
        let mut header = [0; 48];
        let index = self.beside("-shm");
        index.read_exact_at(&mut header, 0).expect("an index");
        let frames = u32::from_ne_bytes(header[16..20].try_into().expect("four bytes"));
        // The salts are as they stand in the log.
        let salt = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().expect("four"));
        Position {
            salt: (salt(32), salt(36)),
            end: LOG_HEADER_SIZE + u64::from(frames) * FRAME_SIZE,
        }
    }

    fn beside(&self, suffix: &str) -> File {
        let mut path = self.path.clone().into_os_string();
        path.push(suffix);
        File::open(path).expect("it is open in SQLite")
    }
}

/// What one thread did.
pub struct Work {
    pub commits: u64,
    pub took: Duration,
    pub processor_time: Duration,
    /// From when a commit was due (or begun, where none was due) until it returned.
    pub times: Vec<Duration>,
}

impl Work {
    /// `commits` is called with nothing else to do; it gives the time of each commit.
    fn measure(commits: impl FnOnce() -> Vec<Duration>) -> Self {
        let (begun, before) = (Instant::now(), own_thread_time());
        let times = commits();
        Self {
            commits: times.len() as u64,
            took: begun.elapsed(),
            processor_time: own_thread_time() - before,
            times,
        }
    }
}

/// One commit after another for so long, and the most bytes that the log had.
pub fn closed_loop(database: &Database, time: Duration) -> (Work, u64) {
    let mut most_log = 0;
    let work = Work::measure(|| {
        let mut times = Vec::with_capacity(1 << 21);
        let end = Instant::now() + time;
        let mut now = Instant::now();
        while now < end {
            database.commit();
            let done = Instant::now();
            times.push(done - now);
            now = done;
            if times.len() % LOG_LOOK == 0 {
                most_log = most_log.max(database.log_size());
            }
        }
        times
    });
    (work, most_log.max(database.log_size()))
}

/// One commit of each database in turn, each at its due time, whether those before were late or not; `each` is called
/// after each of them.
pub fn open_loop(
    databases: &[Database],
    per_second: f64,
    time: Duration,
    mut each: impl FnMut(&Database),
) -> Work {
    let count = (time.as_secs_f64() * per_second) as u32;
    let pause = Duration::from_secs_f64(1.0 / per_second);
    Work::measure(|| {
        let begun = Instant::now();
        let commit = |(number, database): (u32, &Database)| {
            let due = begun + pause * number;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            database.commit();
            let took = due.elapsed();
            each(database);
            took
        };
        (0..count)
            .zip(databases.iter().cycle())
            .map(commit)
            .collect()
    })
}
