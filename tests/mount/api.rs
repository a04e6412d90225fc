//! The API of a real daemon: what can be restored, a download of it, and what is told as it happens.

use std::fs;

use super::support::daemon::{Daemon, Options, guid};
use super::support::sqlite;

const CREATE: &str =
    "PRAGMA journal_mode=WAL; CREATE TABLE t(x, y); INSERT INTO t VALUES (1, 'first')";

#[test]
fn a_download_is_the_database_as_it_was() {
    let daemon = Daemon::start(Options::default());
    let client = guid(1);
    let database = daemon.database(&client);
    sqlite::query(&database, CREATE);
    let first = daemon.sync(&client);
    sqlite::query(&database, "INSERT INTO t VALUES (2, 'second')");
    daemon.sync(&client);

    let path = format!("/api/databases/{client}/{client}");
    let (status, moments) = daemon.get(&format!("{path}/moments"));
    assert_eq!(status, 200, "{moments}");
    let listed = serde_json::json!({"generations": daemon.generations(&client)});
    assert_eq!(moments, listed);

    let download = |query: &str, name: &str| {
        let bytes = daemon.download(&format!("{path}/download{query}"));
        let file = daemon.path(name);
        fs::write(&file, bytes).expect("written");
        file
    };
    sqlite::assert_same(&database, &download("", "newest.db"));
    let file = download(&format!("?txid={first}"), "first.db");
    assert_eq!(sqlite::query(&file, "SELECT count(*) FROM t"), "1");
    let restored = daemon.restore(&client, &["--txid", &first.to_string()], "same.db");
    assert_eq!(
        fs::read(file).expect("read"),
        fs::read(restored).expect("read")
    );
    let (status, answer) = daemon.get(&format!("{path}/download?timestamp=2001-01-01T00:00:00Z"));
    assert_eq!(
        (status, &answer["error"]["code"]),
        (404, &"unknown_moment".into())
    );
}

#[test]
fn what_happens_to_a_database_is_told() {
    let daemon = Daemon::start(Options::default());
    let mut events = daemon.events();
    let client = guid(1);
    let database = daemon.database(&client);
    sqlite::query(&database, CREATE);
    assert_eq!(events.next_of(&client).0, "registered");
    let stored = loop {
        let (kind, data) = events.next_of(&client);
        assert_eq!(kind, "synced", "{data}");
        if data["txid"] == data["replicatedTxid"] {
            break data;
        }
    };
    // The last of them may have been told while a look was due that then found nothing more.
    daemon.wait_health(&client, |health| health["replicationLagMs"] == 0);
    assert!(stored["waitedMs"].is_u64(), "{stored}");
    assert!(stored["databaseBytes"].as_u64() > Some(0), "{stored}");
    fs::remove_file(&database).expect("the database goes");
    let (kind, data) = loop {
        let told = events.next_of(&client);
        if told.0 != "synced" {
            break told;
        }
    };
    assert_eq!(
        (kind.as_str(), &data["dbName"]),
        ("unregistered", &client.as_str().into())
    );
}
