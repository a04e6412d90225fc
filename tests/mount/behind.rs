//! Databases that are behind their replica at start, as after a power cut: never gone on from as if an application had
//! undone what is stored.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::support::daemon::{Daemon, Options, guid};
use super::support::process::succeeded;
use super::support::sqlite::{self, Session, companion};

const EVENT_TIME: Duration = Duration::from_secs(10);
const CREATE: &str = "PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES ('kept')";

/// As it is, with its times; over what is there, whose inode stays.
fn copy(from: &Path, to: &Path) {
    succeeded(Command::new("cp").arg("-a").arg(from).arg(to));
}

fn moments(generation: &Value) -> Vec<u64> {
    let moments = generation["moments"].as_array().expect("a list");
    let txids = moments.iter().map(|moment| moment["txid"].as_u64());
    txids.collect::<Option<_>>().expect("numbers")
}

impl Daemon {
    fn insert(&self, client: &str, text: &str) {
        let sql = format!("INSERT INTO t VALUES ('{text}')");
        sqlite::query(&self.database(client), &sql);
        self.sync(client);
    }

    fn assert_not_behind(&self, client: &str) {
        let log = self.log.text();
        assert!(!log.contains("is behind its replica"), "{log}");
        assert_eq!(self.generations(client).len(), 1);
    }

    /// It is told; the new generation has what the file has, the one before everything that was stored.
    fn assert_behind(&mut self, client: &str, stored: &str, kept: &str) {
        let health = self.wait_health(client, |health| !health["lastError"].is_null());
        self.sync(client);
        assert_eq!(self.health(client)["status"], "active", "{health}");
        let error = health["lastError"].as_str().expect("text");
        assert!(error.starts_with("behind_replica: "), "{error}");
        let told = self.log.wait_from(
            0,
            "The database's file is behind its replica",
            Instant::now() + EVENT_TIME,
        );
        assert_eq!(told["level"], "warn");
        let all = "SELECT group_concat(x) FROM t";
        let newest = self.restore(client, &[], "newest.db");
        sqlite::assert_same(&self.database(client), &newest);
        assert_eq!(sqlite::query(&newest, all), kept);

        let mut generations = self.generations(client);
        generations.sort_by_key(|generation| generation["id"].to_string());
        let [old, new] = &generations[..] else {
            panic!("two generations: {generations:?}");
        };
        assert!(
            moments(old).last() < moments(new).first(),
            "{generations:?}"
        );
        let id = old["id"].as_str().expect("text");
        let before = self.restore(client, &["--generation", id], "before.db");
        assert_eq!(sqlite::query(&before, all), stored);
        self.command(&["verify"], |_| {});
        assert!(self.terminate().success());
    }
}

#[test]
fn sqlite_16_a_log_that_lost_its_end_is_behind() {
    let mut daemon = Daemon::start(Options::default());
    let client = guid(1);
    let (database, older) = (daemon.database(&client), daemon.path("older.db"));
    sqlite::query(&database, CREATE);
    let mut session = Session::open(&database);
    session.run("INSERT INTO t VALUES ('flushed');");
    daemon.sync(&client);
    for suffix in ["", "-wal"] {
        copy(&companion(&database, suffix), &companion(&older, suffix));
    }
    session.run("INSERT INTO t VALUES ('stored');");
    daemon.sync(&client);
    session.kill9();
    assert!(daemon.terminate().success());
    for suffix in ["", "-wal"] {
        copy(&companion(&older, suffix), &companion(&database, suffix));
    }
    std::fs::remove_file(companion(&database, "-shm")).expect("a power cut takes it");
    daemon.restart();
    daemon.assert_behind(&client, "kept,flushed,stored", "kept,flushed");
}

#[test]
fn an_older_copy_is_behind() {
    let mut daemon = Daemon::start(Options::default());
    let client = guid(1);
    let (database, older) = (daemon.database(&client), daemon.path("older.db"));
    sqlite::query(&database, CREATE);
    daemon.insert(&client, "before");
    copy(&database, &older);
    daemon.insert(&client, "stored");
    assert!(daemon.terminate().success());
    daemon.restart();
    daemon.sync(&client);
    daemon.assert_not_behind(&client);
    daemon.insert(&client, "then");
    assert!(daemon.terminate().success());
    copy(&older, &database);
    daemon.restart();
    daemon.assert_behind(&client, "kept,before,stored,then", "kept,before");
}

/// The whole disk went back: the state believes in the files, and knows of nothing that came after.
#[test]
fn an_older_copy_with_the_state_of_its_time_is_behind() {
    for looks_as_stored in [true, false] {
        let mut daemon = Daemon::start(Options::default());
        let client = guid(1);
        let (data, older) = (daemon.data(), daemon.path("older"));
        sqlite::query(&daemon.database(&client), CREATE);
        daemon.insert(&client, "before");
        assert!(daemon.terminate().success());
        copy(&data, &older);
        daemon.restart();
        daemon.sync(&client);
        daemon.assert_not_behind(&client);
        for text in ["stored", "and", "more"] {
            daemon.insert(&client, text);
        }
        assert!(daemon.terminate().success());
        std::fs::remove_dir_all(data.join(".litestream-multitenant"))
            .expect("the newer state goes");
        copy(&older.join("."), &data);
        if !looks_as_stored {
            succeeded(Command::new("touch").arg(daemon.database(&client)));
        }
        daemon.restart();
        let new = "INSERT INTO t VALUES ('new')";
        sqlite::query(&daemon.database(&client), new);
        let stored = "kept,before,stored,and,more";
        daemon.assert_behind(&client, stored, "kept,before,new");
    }
}
