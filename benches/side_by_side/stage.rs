//! One of the sides at work: a directory for the application, what replicates it, and a bucket that counts.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::application::{Database, Position};
use crate::bucket::{Arrival, Bucket, Count};
use crate::litestream::Litestream;
use crate::meter::{holdings, processor_time};
use crate::support::daemon::{Daemon, Options, S3, guid};
use crate::support::s3::S3Server;

const TIME_LIMIT: Duration = Duration::from_secs(3_600);
const STORE_TIME: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(5);

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Nothing replicates it.
    Plain,
    Litestream,
    /// This program, with its `mount.capture`.
    Mount(&'static str),
}

pub const PASSTHROUGH: Side = Side::Mount("passthrough");
pub const INTERCEPT: Side = Side::Mount("intercept");

impl Side {
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Litestream => "litestream",
            Self::Mount(capture) => capture,
        }
    }
}

pub struct Stage {
    // Before the server, for its last upload.
    running: Running,
    pub bucket: Bucket,
    _server: S3Server,
}

enum Running {
    Plain(TempDir),
    Litestream(Litestream),
    Mount(Box<Daemon>),
}

/// What was seen at some moment, to be taken from what is seen later.
pub struct Reading {
    at: Instant,
    processor_time: Duration,
    counts: BTreeMap<&'static str, Count>,
}

impl Stage {
    /// Over an empty directory. `interval`: how often is uploaded, each side's default of a second without one.
    pub fn set(side: Side, interval: Option<&'static str>) -> Self {
        let bucket = Bucket::default();
        let server = S3Server::over(bucket.clone());
        let s3 = S3 {
            endpoint: server.endpoint.clone(),
            bucket: server.bucket.clone(),
            access_key: server.access_key.clone(),
            secret_key: server.secret_key.clone(),
        };
        let running = match side {
            Side::Plain => Running::Plain(tempfile::tempdir().expect("a scratch directory")),
            Side::Litestream => Running::Litestream(Litestream::start(&s3, interval)),
            Side::Mount(capture) => Running::Mount(Box::new(Daemon::start(Options {
                sync_interval: interval.unwrap_or("1s"),
                store: Some(s3),
                config: format!(
                    "mount: {{capture: {capture}}}\nlimits: {{maxTenantsPerInstance: 20000}}\n"
                ),
                time_limit: TIME_LIMIT,
                ..Options::default()
            }))),
        };
        Self {
            running,
            bucket,
            _server: server,
        }
    }

    /// The database with this number, as the application sees it.
    pub fn database(&self, number: u32) -> PathBuf {
        let data = match &self.running {
            Running::Plain(dir) => dir.path().to_owned(),
            Running::Litestream(litestream) => litestream.data(),
            Running::Mount(daemon) => daemon.data(),
        };
        data.join(format!("{}.db", guid(number)))
    }

    pub fn create(&self, count: u32, synchronous: &str) -> Vec<Database> {
        (0..count)
            .map(|number| Database::create(&self.database(number), synchronous))
            .collect()
    }

    /// The process that replicates; none where none does.
    fn pid(&self) -> Option<u32> {
        match &self.running {
            Running::Plain(_) => None,
            Running::Litestream(litestream) => Some(litestream.pid()),
            Running::Mount(daemon) => Some(daemon.pid()),
        }
    }

    pub fn read(&self) -> Reading {
        Reading {
            at: Instant::now(),
            processor_time: self.pid().map(processor_time).unwrap_or_default(),
            counts: self.bucket.counts(),
        }
    }

    /// What the side took since then: seconds, processor time, requests and bytes by operation, and what it holds now.
    pub fn since(&self, before: &Reading) -> Value {
        let now = self.read();
        let mut operations = Map::new();
        for (operation, count) in now.counts {
            let past = before.counts.get(operation).copied().unwrap_or_default();
            if count.requests > past.requests {
                let told = json!({
                    "requests": count.requests - past.requests,
                    "to_store": count.received - past.received,
                    "from_store": count.sent - past.sent,
                });
                operations.insert(operation.to_owned(), told);
            }
        }
        json!({
            "seconds": (now.at - before.at).as_secs_f64(),
            "cpu_s": (now.processor_time - before.processor_time).as_secs_f64(),
            "operations": operations,
            "holds": self.pid().map(holdings),
        })
    }

    /// Waits until each of the databases up to this number has an object.
    pub fn wait_for_first_objects(&self, count: u32) {
        let mut missing: BTreeSet<_> = (0..count).map(guid).collect();
        let mut seen = 0;
        self.wait(|| {
            let arrivals = self.bucket.arrivals_from(seen);
            seen += arrivals.len();
            for arrival in arrivals {
                missing.retain(|guid| !arrival.key.contains(guid.as_str()));
            }
            missing.is_empty().then_some(())
        });
    }

    /// When the object came that reaches so far, of those from number `first` on.
    pub fn wait_until_stored(&self, first: usize, position: Position) -> Instant {
        let mut seen = first;
        self.wait(|| {
            let arrivals = self.bucket.arrivals_from(seen);
            seen += arrivals.len();
            let arrival = arrivals.iter().find(|arrival| reaches(arrival, position));
            arrival.map(|arrival| arrival.at)
        })
    }

    /// When the first object of the database with this number came.
    pub fn wait_for_first_object(&self, number: u32) -> Instant {
        let name = guid(number);
        let mut seen = 0;
        self.wait(|| {
            let arrivals = self.bucket.arrivals_from(seen);
            seen += arrivals.len();
            let of_it = arrivals
                .iter()
                .find(|arrival| arrival.header.is_some() && arrival.key.contains(&name));
            of_it.map(|arrival| arrival.at)
        })
    }

    fn wait<T>(&self, mut look: impl FnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + STORE_TIME;
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(
                Instant::now() < deadline,
                "what was waited for is not stored:\n{}",
                self.log()
            );
            std::thread::sleep(POLL);
        }
    }

    fn log(&self) -> String {
        match &self.running {
            Running::Plain(_) => "nothing replicates here".to_owned(),
            Running::Litestream(litestream) => litestream.log(),
            Running::Mount(daemon) => daemon.log.text(),
        }
    }

    /// Restores a database by the side's own command into a new file; how long that took.
    pub fn restore(&self, number: u32, output: &str) -> (PathBuf, Duration) {
        let begun = Instant::now();
        let path = match &self.running {
            Running::Plain(_) => panic!("nothing was replicated"),
            Running::Litestream(litestream) => {
                let path = litestream.data().with_file_name(output);
                litestream.restore(&self.database(number), &path);
                path
            }
            Running::Mount(daemon) => daemon.restore(&guid(number), &[], output),
        };
        (path, begun.elapsed())
    }
}

/// Whether an object holds all of a log up to there.
pub fn reaches(arrival: &Arrival, position: Position) -> bool {
    arrival.header.is_some_and(|header| {
        header.wal_salt == position.salt && header.wal_offset + header.wal_size >= position.end
    })
}
