//! What outlives a file: the numbers of its transactions, and its identity, for which another file may wait.

use std::fs;
use std::path::{Path, PathBuf};

use super::support::daemon::{Daemon, Options, guid};
use super::support::sqlite::{self, Session};

const CREATE: &str =
    "PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES ('first life')";

impl Daemon {
    /// What is captured has nowhere to go until `reach_store`.
    fn lose_store(&self) {
        fs::rename(self.path("store"), self.path("aside")).expect("renamed");
        fs::write(self.path("store"), "").expect("a file in its place");
    }

    fn reach_store(&self) {
        fs::remove_file(self.path("store")).expect("the file in its place");
        fs::rename(self.path("aside"), self.path("store")).expect("renamed");
    }

    fn refused(&self) -> Vec<(PathBuf, String)> {
        let (status, json) = self.get("/api/health/clients?status=refused");
        assert_eq!(status, 200, "{json}");
        let clients = json["clients"].as_array().expect("a list");
        let text =
            |client: &serde_json::Value, key: &str| client[key].as_str().expect("text").to_owned();
        clients
            .iter()
            .map(|client| (text(client, "dbPath").into(), text(client, "lastError")))
            .collect()
    }

    /// The file whose rows the newest stored state has.
    fn assert_stored(&self, client: &str, database: &Path, name: &str) {
        self.wait_health(client, |health| {
            health["status"] == "active" && health["dbPath"] == database.to_str().expect("text")
        });
        self.sync(client);
        let restored = self.restore(client, &["--force"], name);
        sqlite::assert_same(database, &restored);
    }
}

/// While the store is out of reach a database is written, removed and made anew, several times and across a death: no number
/// is given twice, and each moment that is listed can be restored.
#[test]
fn numbers_go_on_where_a_database_is_made_anew_while_the_store_is_out_of_reach() {
    for dies in [false, true] {
        let mut daemon = Daemon::start(Options {
            tenant_defaults: ", snapshotInterval: 1h",
            ..Options::default()
        });
        daemon.may_miss_gates();
        let client = guid(1);
        let database = daemon.database(&client);
        sqlite::query(&database, CREATE);
        daemon.sync(&client);
        daemon.lose_store();
        for life in 1..=3 {
            let mut session = Session::open(&database);
            if life > 1 {
                session.run(&format!(
                    "PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES ('life {life}');"
                ));
            }
            let before = daemon.health(&client)["txid"].as_u64().expect("a number");
            for n in 0..20 {
                // What waits for the store stays in the log but for what a reset would destroy.
                session.run(&format!(
                    "INSERT INTO t VALUES ({n}); PRAGMA wal_checkpoint(TRUNCATE);"
                ));
            }
            daemon.wait_health(&client, |health| {
                health["txid"].as_u64().expect("a number") > before + 10
            });
            drop(session);
            fs::remove_file(&database).expect("removed");
            if dies {
                daemon.kill9();
                daemon.restart();
            }
        }
        sqlite::query(
            &database,
            "PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES ('last life')",
        );
        daemon.reach_store();
        daemon.assert_stored(&client, &database, "newest.db");
        let moments = daemon.moments(&client);
        assert!(moments.is_sorted_by(|a, b| a < b), "{moments:?}");
        for txid in &moments {
            let restored =
                daemon.restore(&client, &["--force", "--txid", &txid.to_string()], "m.db");
            assert_eq!(sqlite::query(&restored, "PRAGMA integrity_check"), "ok");
        }
        let newest = moments.last().expect("some").to_string();
        let restored = daemon.restore(&client, &["--force", "--txid", &newest], "m.db");
        assert_eq!(sqlite::query(&restored, "SELECT x FROM t"), "last life");
        assert!(moments.len() >= 3, "{moments:?}");
    }
}

/// The second file with a GUID is refused, named with the first, and becomes the client when that goes: by its removal, by a
/// rename to another GUID, by the removal of its folder's name, or when it is unregistered.
#[test]
fn a_second_file_of_an_identity_becomes_the_client_when_the_first_goes() {
    let daemon = Daemon::start(Options::default());
    // Of what was refused until now nothing is captured yet, and its log may be reset before it is.
    daemon.may_miss_gates();
    let (a, b) = (daemon.data().join("a"), daemon.data().join("b"));
    for folder in [&a, &b] {
        fs::create_dir(folder).expect("a folder");
    }
    for (n, goes) in [
        "removed",
        "renamed",
        "moved with its folder",
        "unregistered",
    ]
    .iter()
    .enumerate()
    {
        let client = guid(10 + n as u32);
        let name = format!("{client}.db");
        let (first, second) = (a.join(&name), b.join(&name));
        sqlite::query(
            &first,
            &format!("{CREATE}; INSERT INTO t VALUES ('{goes}')"),
        );
        daemon.assert_stored(&client, &first, &format!("{client}.first"));
        sqlite::query(
            &second,
            &format!("{CREATE}; INSERT INTO t VALUES ('second')"),
        );
        let refused = daemon.refused();
        let [(path, error)] = &refused[..] else {
            panic!("one is refused: {refused:?}");
        };
        assert_eq!(*path, second);
        for named in [&first, &second] {
            assert!(error.contains(named.to_str().expect("text")), "{error}");
        }
        // It moves, and keeps its identity.
        fs::rename(&first, a.join("aside")).expect("renamed");
        fs::rename(a.join("aside"), &first).expect("renamed");
        let moved = daemon.data().join(&name);
        let owner = daemon.health(&client)["dbPath"].clone();
        let owner = PathBuf::from(owner.as_str().expect("text"));
        if owner == first {
            fs::rename(&first, &moved).expect("renamed");
            fs::rename(&moved, &first).expect("renamed");
        }
        let (owner, other) = match owner == first {
            true => (&first, &second),
            false => (&second, &first),
        };
        daemon.assert_stored(&client, owner, &format!("{client}.owner"));
        match *goes {
            "removed" => fs::remove_file(owner).expect("removed"),
            "renamed" => {
                fs::rename(owner, daemon.database(&guid(90 + n as u32))).expect("renamed");
            }
            "moved with its folder" => {
                let folder = owner.parent().expect("a folder");
                let aside = daemon.data().join("c");
                fs::create_dir(&aside).expect("a folder");
                fs::rename(owner, aside.join(&name)).expect("renamed");
                // The rename takes the identity along; the removal gives it away.
                assert_eq!(daemon.refused().len(), 1);
                fs::remove_file(aside.join(&name)).expect("removed");
                assert!(folder.exists());
            }
            _ => {
                let path = format!("/api/databases/{client}/{client}");
                assert_eq!(daemon.send("DELETE", &path, "").0, 204);
            }
        }
        daemon.assert_stored(&client, other, &format!("{client}.second"));
        assert!(daemon.refused().is_empty());
    }
}

/// Both were there before the start: it is not refused, the one that has its history keeps the name, and the other one has
/// it when that goes.
#[test]
fn of_two_files_at_the_start_the_one_with_its_history_is_the_client() {
    let mut daemon = Daemon::start(Options::default());
    // The one with the history comes later in the order of names.
    let (a, z) = (daemon.data().join("a"), daemon.data().join("z"));
    for folder in [&a, &z] {
        fs::create_dir(folder).expect("a folder");
    }
    let client = guid(1);
    let name = format!("{client}.db");
    let (known, other) = (z.join(&name), a.join(&name));
    sqlite::query(&known, CREATE);
    daemon.assert_stored(&client, &known, "first.db");
    assert!(daemon.terminate().success());
    sqlite::query(&other, &format!("{CREATE}; INSERT INTO t VALUES ('other')"));
    daemon.restart();
    daemon.assert_stored(&client, &known, "second.db");
    assert_eq!(daemon.refused()[0].0, other);
    fs::remove_file(&known).expect("removed");
    daemon.assert_stored(&client, &other, "third.db");
}
