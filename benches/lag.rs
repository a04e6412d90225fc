//! Time from a commit's return until it is an object of the store, at one active database and ten commits a second.
//!
//! An object counts from the moment that its name is there to be opened; it is read for the newest transaction that
//! it holds.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use litestream_multitenant::format::keys::{GenerationId, ObjectKey};
use litestream_multitenant::format::ltx::Header;
use rusqlite::Connection;

#[path = "../tests/support/mod.rs"]
#[allow(dead_code, reason = "most of it is the tests'")]
mod support;

use support::daemon::{Daemon, Options, guid, names};

const COMMITS: u32 = 200;
const PAUSE: Duration = Duration::from_millis(100);
const POLL: Duration = Duration::from_micros(200);
const AIM: Duration = Duration::from_millis(100);

fn main() {
    let daemon = Daemon::start(Options {
        sync_interval: "10ms",
        time_limit: Duration::from_secs(600),
        ..Options::default()
    });
    let client = guid(1);
    let connection = Connection::open(daemon.database(&client)).expect("a database");
    connection
        .execute_batch(
            "PRAGMA journal_mode = wal; PRAGMA synchronous = normal;
             CREATE TABLE rows (id INTEGER PRIMARY KEY, body BLOB NOT NULL);",
        )
        .expect("valid SQL");
    let first = daemon.sync(&client) + 1;
    let objects = Objects::after(&daemon.path("store"), &client);
    let last = first + u64::from(COMMITS) - 1;
    let watching = std::thread::spawn(move || objects.watch_until(last));
    let committed = commit(&connection);
    let stored = watching.join().expect("the watcher does not panic");

    let mut lags: Vec<Duration> = (first..)
        .zip(&committed)
        .map(|(txid, committed)| {
            let (_, seen) = stored
                .iter()
                .find(|(newest, _)| *newest >= txid)
                .expect("watched until the last");
            seen.saturating_duration_since(*committed)
        })
        .collect();
    lags.sort_unstable();
    let percentile = |percent: usize| lags[(lags.len() * percent).div_ceil(100) - 1];
    println!(
        "lag from commit to object, {COMMITS} commits, {} objects: p50 {:.1} ms, p99 {:.1} ms, most {:.1} ms; aim: p99 under {} ms: {}",
        stored.len(),
        milliseconds(percentile(50)),
        milliseconds(percentile(99)),
        milliseconds(percentile(100)),
        AIM.as_millis(),
        if percentile(99) < AIM {
            "met"
        } else {
            "missed"
        },
    );
    drop(connection);
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Commits one row after another; when each COMMIT returned.
fn commit(connection: &Connection) -> Vec<Instant> {
    let begun = Instant::now();
    (0..COMMITS)
        .map(|number| {
            let due = begun + PAUSE * number;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            connection
                .execute("INSERT INTO rows (body) VALUES (randomblob(100))", [])
                .expect("committed");
            Instant::now()
        })
        .collect()
}

/// The segments of the client's only generation, as they come.
struct Objects {
    replica: PathBuf,
    generation: GenerationId,
    next: u32,
}

impl Objects {
    /// Those that are not there yet.
    fn after(store: &Path, client: &str) -> Self {
        let replica = store.join("databases").join(client);
        let generations = names(&replica.join("snapshots"));
        let [generation] = generations.as_slice() else {
            panic!("not one generation: {generations:?}");
        };
        let mut objects = Self {
            replica,
            generation: generation.parse().expect("a generation's name"),
            next: 1,
        };
        while objects.path().exists() {
            objects.next += 1;
        }
        objects
    }

    fn path(&self) -> PathBuf {
        let key = ObjectKey::Segment(self.generation, self.next);
        self.replica.join(key.to_string())
    }

    /// The newest transaction of each object, and when it was there, up to the one that holds `last`.
    fn watch_until(mut self, last: u64) -> Vec<(u64, Instant)> {
        let deadline = Instant::now() + PAUSE * COMMITS + Duration::from_secs(30);
        let mut seen = Vec::new();
        while seen.last().is_none_or(|(newest, _)| *newest < last) {
            match File::open(self.path()) {
                Ok(file) => {
                    let now = Instant::now();
                    seen.push((newest_transaction(file), now));
                    self.next += 1;
                }
                Err(_) => std::thread::sleep(POLL),
            }
            assert!(
                Instant::now() < deadline,
                "{} never came",
                self.path().display()
            );
        }
        seen
    }
}

fn newest_transaction(mut file: File) -> u64 {
    let mut bytes = [0; Header::SIZE];
    file.read_exact(&mut bytes).expect("a whole object");
    Header::decode(&bytes).expect("a segment").max_txid
}
