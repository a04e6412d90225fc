//! Other builds of SQLite, whose logs the kernel passes through: each commit that was acknowledged is a transaction of the
//! history, once, with every level of `synchronous` and every kind of checkpoint.

use std::path::Path;
use std::time::Duration;

use super::support::daemon::{Daemon, Options, Served, guid};
use super::support::process::succeeded;
use super::support::python::script;
use super::support::sqlite;
use super::support::workload::{Workload, acknowledged, assert_has_all};

/// From here on SQLite resets no log that was not checkpointed to its end.
const SOUND: (u32, u32, u32) = (3, 51, 3);
const LEVELS: [&str; 3] = ["off", "normal", "full"];

/// Who writes.
#[derive(Clone, Copy)]
enum Build {
    /// Of the crate rusqlite, in `examples/workload`.
    Bundled,
    /// Of a module of Python.
    Python(&'static str),
}

impl Build {
    fn version(self) -> (u32, u32, u32) {
        let text = match self {
            Build::Bundled => rusqlite::version().to_owned(),
            Build::Python(module) => succeeded(script("writer.py").arg(module)),
        };
        let mut numbers = text.trim().split('.').map(|number| number.parse());
        let mut next = || numbers.next().expect("three").expect("a number");
        (next(), next(), next())
    }

    fn write(self, database: &Path, acks: &Path, seed: usize, level: &str) -> Workload {
        let (seconds, autocheckpoint) = (seconds(), [7, 20, 50][seed % 3]);
        match self {
            Build::Bundled => Workload::start(
                database,
                acks,
                &format!(
                    "--seconds {seconds} --seed {seed} --synchronous {level} --autocheckpoint {autocheckpoint} \
                     --steps insert,insert,update,rollback,checkpoint-passive,checkpoint-full,checkpoint-restart,checkpoint-truncate,reopen"
                ),
            ),
            Build::Python(module) => {
                let mut command = script("writer.py");
                command.arg(module).arg(database).arg(acks);
                let numbers = [seconds.to_string(), seed.to_string()];
                command.args(numbers).arg(level);
                Workload::of(command.arg(autocheckpoint.to_string()), acks)
            }
        }
    }
}

/// How long each writes; `LOAD_SECONDS` says so for a long run.
fn seconds() -> u64 {
    let asked = std::env::var("LOAD_SECONDS").ok();
    asked.map_or(2, |asked| asked.parse().expect("LOAD_SECONDS is a number"))
}

fn missed_gates(daemon: &Daemon) -> u64 {
    let metrics = daemon.metrics();
    let mut lines = metrics.lines();
    let value = lines.find_map(|line| line.strip_prefix("litestream_gates_missed_total "));
    value.expect("it is shown").parse().expect("a number")
}

/// All of them write to a database for each level of `synchronous`, at the same time.
fn write(builds: &[Build]) {
    let mut options = Options::served(Served::LogsPassed);
    // A debug build takes long to capture what is written at full speed.
    options.config = "mount: {capture: passthrough, gateTimeout: 60s}\n".to_owned();
    options.time_limit += Duration::from_secs(10 * seconds());
    let daemon = Daemon::start(options);
    let scenes: Vec<_> = LEVELS
        .iter()
        .zip(1..)
        .map(|(level, number)| {
            let client = guid(number);
            let database = daemon.database(&client);
            let acks = daemon.path(&format!("acks-{level}"));
            // Makes the tables, and is the first snapshot.
            Workload::start(&database, &daemon.path("first"), "--transactions 1").finish();
            let before = daemon.sync(&client);
            (level, client, database, acks, before)
        })
        .collect();
    let writers: Vec<Workload> = scenes
        .iter()
        .flat_map(|(level, _, database, acks, _)| {
            let write = |(build, seed): (&Build, _)| build.write(database, acks, seed, level);
            builds.iter().zip(1..).map(write)
        })
        .collect();
    writers.into_iter().for_each(Workload::finish);
    for (level, client, database, acks, before) in &scenes {
        let acks = acknowledged(acks);
        assert!(acks.len() > 20, "{level}: {}", acks.len());
        let txid = daemon.sync(client);
        let restored = daemon.restore(client, &[], &format!("restored-{level}.db"));
        sqlite::assert_same(database, &restored);
        if missed_gates(&daemon) > 0 {
            continue;
        }
        let all = daemon.log.text();
        assert_eq!(txid, before + acks.len() as u64, "{level}: {all}");
        assert!(!all.contains("has to be compared page by page"), "{all}");
        assert_has_all(&restored, &acks);
        assert_moments(&daemon, client, *before, level);
    }
    let missed = missed_gates(&daemon);
    let is_told = daemon.log.text().contains("the history is gapped");
    assert_eq!(missed > 0, is_told, "{missed}: {}", daemon.log.text());
    let is_sound = builds.iter().all(|build| build.version() >= SOUND);
    assert!(missed == 0 || !is_sound, "{}", daemon.log.text());
    daemon.command(&["verify"], |_| {});
}

/// A moment has the commits up to its own, and no other.
fn assert_moments(daemon: &Daemon, client: &str, before: u64, level: &str) {
    let generations = daemon.generations(client);
    assert_eq!(generations.len(), 1, "an unbroken history");
    let moments = generations[0]["moments"].as_array().expect("a list");
    let txids = moments.iter().map(|moment| moment["txid"].as_u64());
    let txids: Vec<u64> = txids.map(|txid| txid.expect("a number")).collect();
    let later: Vec<u64> = txids.into_iter().filter(|txid| *txid > before).collect();
    for part in 1..=3 {
        let txid = later[later.len() * part / 4];
        let name = format!("moment-{level}-{txid}.db");
        let restored = daemon.restore(client, &["--force", "--txid", &txid.to_string()], &name);
        let newest = sqlite::query(&restored, "SELECT max(n), count(*) FROM commits");
        let expected = 1 + txid - before;
        assert_eq!(newest, format!("{expected}|{expected}"), "{level}, {txid}");
    }
}

#[test]
fn each_commit_of_a_sound_sqlite_is_captured_once() {
    let builds = [Build::Bundled, Build::Python("apsw")];
    assert!(builds.iter().all(|build| build.version() >= SOUND));
    write(&builds);
    write(&[Build::Python("apsw"), Build::Python("apsw")]);
}

/// Up to 3.51.2 SQLite may lose frames when it resets its log: where that happens it is told, and the replica is the database.
#[test]
fn each_commit_of_an_older_sqlite_is_captured_once_or_its_loss_is_told() {
    for module in ["pysqlite3", "sqlite3"] {
        write(&[Build::Python(module), Build::Python(module)]);
    }
}

#[test]
fn each_commit_of_different_versions_on_one_database_is_captured_once() {
    let python = ["apsw", "pysqlite3", "sqlite3"].map(Build::Python);
    write(&[&[Build::Bundled][..], &python[..]].concat());
}
