//! What the store has acknowledged and no longer has: seen with the next upload, with a sync, and by the patrol where nothing is
//! written, told, and mended by a new generation.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::support::daemon::{Daemon, Options, guid};
use super::support::sqlite;

const CREATE: &str = "PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES (0)";
const LIMIT: Duration = Duration::from_secs(30);
const LOST: &str = "store_incomplete: ";

/// All files below a folder.
fn files(below: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(below).into_iter().flatten() {
        let entry = entry.expect("an entry");
        match entry.file_type().expect("a type").is_dir() {
            true => found.extend(files(&entry.path())),
            false => found.push(entry.path()),
        }
    }
    found.sort();
    found
}

/// What is taken away of a replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Loss {
    Everything,
    FirstSegment,
    LastSegment,
    Snapshot,
    Description,
}

const LOSSES: [Loss; 5] = [
    Loss::Everything,
    Loss::FirstSegment,
    Loss::LastSegment,
    Loss::Snapshot,
    Loss::Description,
];

impl Daemon {
    fn replica(&self, client: &str) -> PathBuf {
        self.path("store").join("databases").join(client)
    }

    /// A database of some segments, all of them stored.
    fn stored(&self, client: &str) {
        sqlite::query(&self.database(client), CREATE);
        for n in 1..4 {
            self.sync(client);
            sqlite::query(
                &self.database(client),
                &format!("INSERT INTO t VALUES ({n})"),
            );
        }
        self.sync(client);
    }

    fn lose(&self, client: &str, loss: Loss) {
        let replica = self.replica(client);
        let mut segments = files(&replica.join("wal")).into_iter();
        let snapshots = files(&replica.join("snapshots")).into_iter();
        let with = |end: &'static str| move |file: &PathBuf| file.to_string_lossy().ends_with(end);
        let lost = match loss {
            Loss::Everything => {
                let store = self.path("store");
                for entry in fs::read_dir(&store).expect("the store") {
                    fs::remove_dir_all(entry.expect("an entry").path()).expect("removed");
                }
                return;
            }
            Loss::FirstSegment => segments.next(),
            Loss::LastSegment => segments.next_back(),
            Loss::Snapshot => snapshots.into_iter().find(with(".snapshot")),
            Loss::Description => snapshots.into_iter().find(with("database.json")),
        };
        fs::remove_file(lost.expect("there is one")).expect("removed");
    }

    /// The loss was told, and the newest state can be restored.
    fn assert_mended(&self, client: &str, loss: Loss) {
        let health = self.wait_health(client, |health| health["status"] == "active");
        let told = health["lastError"].as_str().unwrap_or_default();
        assert!(told.starts_with(LOST), "{loss:?}: {health}");
        let restored = self.restore(client, &["--force"], "restored.db");
        sqlite::assert_same(&self.database(client), &restored);
        let all = self.path(&format!("all-{client}"));
        self.command(
            &["restore", "--force", "--all", all.to_str().expect("text")],
            |_| {},
        );
        let again = all.join(format!("{client}.db"));
        sqlite::assert_same(&self.database(client), &again);
    }
}

/// No upload is due: the sync that somebody asks for is not answered before the newest state can be restored.
#[test]
fn a_sync_is_not_answered_where_the_store_has_lost_something() {
    let daemon = Daemon::start(Options::default());
    for (n, loss) in LOSSES.into_iter().enumerate() {
        let client = guid(1 + n as u32);
        daemon.stored(&client);
        daemon.lose(&client, loss);
        daemon.sync(&client);
        daemon.assert_mended(&client, loss);
    }
    let log = daemon.log.text();
    let told = log
        .matches("Objects of the replica are gone from the store")
        .count();
    // With the whole store the replicas of those before it went as well, which nobody asked for.
    assert_eq!(told, LOSSES.len(), "{log}");
}

/// Nobody asks: the next upload sees it.
#[test]
fn the_next_upload_sees_what_the_store_has_lost() {
    let mut daemon = Daemon::start(Options::default());
    for (n, loss) in LOSSES.into_iter().enumerate() {
        let client = guid(1 + n as u32);
        daemon.stored(&client);
        assert!(daemon.terminate().success());
        daemon.lose(&client, loss);
        daemon.restart();
        sqlite::query(&daemon.database(&client), "INSERT INTO t VALUES (99)");
        daemon.wait_for(LIMIT, "it is told", || {
            let health = daemon.health(&client);
            let told = health["lastError"].as_str().unwrap_or_default();
            told.starts_with(LOST) && health["status"] == "active"
        });
        daemon.assert_mended(&client, loss);
    }
}

/// Nothing is written and nobody asks.
#[test]
fn of_idle_clients_the_patrol_sees_it() {
    let mut daemon = Daemon::prepare(Options::default());
    daemon.configure("verification: {storeListing: 2s}\n".to_owned());
    daemon.restart();
    let clients: Vec<_> = (1..8).map(guid).collect();
    for client in &clients {
        daemon.stored(client);
    }
    for (client, loss) in clients.iter().zip(&LOSSES[1..]) {
        daemon.lose(client, *loss);
    }
    for client in &clients[..LOSSES.len() - 1] {
        daemon.wait_for(LIMIT, "it is told", || {
            let health = daemon.health(client);
            let told = health["lastError"].as_str().unwrap_or_default();
            told.starts_with(LOST) && health["status"] == "active"
        });
    }
    for (client, loss) in clients.iter().zip(&LOSSES[1..]) {
        daemon.assert_mended(client, *loss);
    }
    for client in &clients[LOSSES.len() - 1..] {
        assert_eq!(daemon.health(client)["lastError"], serde_json::Value::Null);
        assert_eq!(
            daemon.generations(client).len(),
            1,
            "nothing was lost of it"
        );
    }
    daemon.lose(&clients[0], Loss::Everything);
    for client in &clients {
        daemon.wait_for(LIMIT, "it is stored again", || {
            files(&daemon.replica(client)).len() >= 2
        });
    }
    for client in &clients {
        daemon.assert_mended(client, Loss::Everything);
    }
}
