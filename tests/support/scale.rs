//! Many databases below one mount: made by copying, and what the daemon's process takes for them.

use std::collections::HashMap;
use std::fs;
use std::ops::Range;
use std::time::Duration;

use super::daemon::{Daemon, Options, guid};
use super::sqlite;

const CREATE: &str = "PRAGMA journal_mode=WAL; CREATE TABLE commits (n INTEGER PRIMARY KEY, body BLOB NOT NULL); INSERT INTO commits (body) VALUES ('first')";
/// Lets many clients in.
pub const LIMITS: &str = "limits: {maxTenantsPerInstance: 20000}\n";
/// So many databases are taken over in a second, at most.
const PACE: u32 = 500;

/// A daemon that does not run yet, and whose limits let many clients in.
pub fn prepare(time_limit: Duration) -> Daemon {
    Daemon::prepare(Options {
        sync_interval: "1s",
        config: LIMITS.to_owned(),
        time_limit,
        ..Options::default()
    })
}

/// Puts databases of one row into the watch path; nothing may be mounted there.
pub fn add_databases(daemon: &Daemon, numbers: Range<u32>) {
    let first = daemon.path("first.db");
    if !first.exists() {
        sqlite::query(&first, CREATE);
    }
    for number in numbers {
        fs::copy(&first, daemon.database(&guid(number))).expect("a copy");
    }
}

/// Starts it, has it take over the databases that are new to it, and ends it.
pub fn make_known(daemon: &mut Daemon, databases: u32) {
    daemon.restart();
    let limit = Duration::from_secs(u64::from(60 + 3 * databases / PACE));
    daemon.wait_for(limit, "they are not taken over", || {
        let (_, health) = daemon.get("/api/health");
        let active = health["counts"]["active"].as_u64();
        health["mounts"][0]["takeOver"].is_null() && active == Some(databases.into())
    });
    assert!(daemon.terminate().success());
}

/// What a process takes at one moment.
#[derive(Clone, Debug)]
pub struct Vitals {
    /// Bytes of its own memory: what is not of a file.
    pub anonymous: u64,
    pub descriptors: usize,
    /// How often each of its threads has waited.
    waits: HashMap<String, u64>,
    /// User and system, in ticks of a hundredth of a second.
    pub processor_ticks: u64,
}

impl Vitals {
    pub fn of(pid: u32) -> Self {
        let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}"));
        let rollup = read("smaps_rollup").expect("it runs");
        let listed = |name| fs::read_dir(format!("/proc/{pid}/{name}")).expect("it runs");
        let threads = listed("task").map(|entry| entry.expect("an entry").file_name());
        // One that ends meanwhile has none.
        let waits = threads.filter_map(|thread| {
            let thread = thread.to_string_lossy().into_owned();
            let status = read(&format!("task/{thread}/status")).ok()?;
            Some((thread, number(&status, "\nvoluntary_ctxt_switches:")))
        });
        let stat = read("stat").expect("it runs");
        let after_name = stat.rsplit_once(')').expect("a name").1;
        // `utime` and `stime` are the 14th and 15th word, and the name is the second.
        let times = after_name.split_whitespace().skip(11).take(2);
        Self {
            anonymous: number(&rollup, "Anonymous:") * 1024,
            descriptors: listed("fd").count(),
            waits: waits.collect(),
            processor_ticks: times
                .map(|time| time.parse::<u64>().expect("a number"))
                .sum(),
        }
    }

    pub fn threads(&self) -> usize {
        self.waits.len()
    }

    /// How often any of its threads woke up since `before`.
    pub fn wake_ups_since(&self, before: &Self) -> u64 {
        let since = |(thread, waits): (&String, &u64)| {
            waits - before.waits.get(thread).unwrap_or(&0).min(waits)
        };
        self.waits.iter().map(since).sum()
    }
}

fn number(text: &str, name: &str) -> u64 {
    let rest = text.split_once(name).map(|(_, rest)| rest);
    let word = rest.and_then(|rest| rest.split_whitespace().next());
    let word = word.unwrap_or_else(|| panic!("no {name} in {text}"));
    word.parse().expect("a number")
}

/// Requests to the store that were made until now.
pub fn store_requests(daemon: &Daemon) -> u64 {
    let metrics = daemon.metrics();
    let series = metrics
        .lines()
        .filter(|line| line.starts_with("litestream_store_requests_total{"));
    let counts = series.map(|line| line.rsplit(' ').next().expect("a value"));
    counts
        .map(|count| count.parse::<u64>().expect("a number"))
        .sum()
}
