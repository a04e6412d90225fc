//! What happens to a replica in the course of time: further snapshots, and the end of what is too old.

use std::time::{Duration, Instant};

use super::support::daemon::{Daemon, Options, guid, names};
use super::support::sqlite;

const CREATE: &str =
    "PRAGMA journal_mode=WAL; CREATE TABLE t(x, y); INSERT INTO t VALUES (1, 'first')";

/// Waits until the names of a replica's snapshots are as they should be; what they are.
fn wait_snapshots(
    daemon: &Daemon,
    client: &str,
    accepted: impl Fn(&[String]) -> bool,
) -> Vec<String> {
    let folder = daemon.path("store/databases").join(client);
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let found = names(&folder.join("snapshots"))
            .iter()
            .flat_map(|generation| names(&folder.join("snapshots").join(generation)))
            .filter(|name| name.ends_with(".snapshot"))
            .collect::<Vec<_>>();
        if accepted(&found) {
            return found;
        }
        assert!(
            Instant::now() < deadline,
            "{found:?}\n{}",
            daemon.log.text()
        );
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

#[test]
fn a_snapshot_follows_what_has_changed_and_nothing_else() {
    let mut daemon = Daemon::start(Options {
        tenant_defaults: ", snapshotInterval: 1500ms",
        ..Options::default()
    });
    let client = guid(1);
    let database = daemon.database(&client);
    sqlite::query(&database, CREATE);
    daemon.sync(&client);
    sqlite::query(&database, "INSERT INTO t VALUES (2, 'second')");
    let txid = daemon.sync(&client);
    // It is told as soon as it is there.
    let health = daemon.wait_health(&client, |_| {
        wait_snapshots(&daemon, &client, |found| found.len() == 2);
        true
    });
    assert!(health["lastSnapshotAt"].is_string(), "{health}");
    let restored = daemon.restore(&client, &["--txid", &txid.to_string()], "second.db");
    assert_eq!(sqlite::query(&restored, "SELECT count(*) FROM t"), "2");
    let plan = daemon.command(&["restore", &client, "--dry-run"], |_| {});
    assert!(!plan.contains("00000000.snapshot"), "{plan}");

    // After a restart it is still known what has changed, and what has not.
    assert!(daemon.terminate().success());
    daemon.restart();
    sqlite::query(&database, "INSERT INTO t VALUES (3, 'third')");
    daemon.sync(&client);
    assert!(daemon.terminate().success());
    let mark = daemon.log.mark();
    daemon.restart();
    wait_snapshots(&daemon, &client, |found| found.len() == 3);
    // It is logged once it is acknowledged, which is after it can be seen.
    let soon = Instant::now() + Duration::from_secs(10);
    daemon.log.wait_from(mark, "Snapshot stored", soon);
    let log = daemon.log.text();
    assert_eq!(log.matches("\"Snapshot stored\"").count(), 3, "{log}");
    let restored = daemon.restore(&client, &[], "third.db");
    sqlite::assert_same(&database, &restored);
    assert_eq!(daemon.generations(&client).len(), 1);
}

#[test]
fn a_snapshot_on_demand_is_there_when_it_is_answered() {
    let daemon = Daemon::start(Options::default());
    let client = guid(1);
    let database = daemon.database(&client);
    let path = format!("/api/databases/{client}/{client}/snapshot");
    sqlite::query(&database, "PRAGMA journal_mode=WAL");
    std::fs::File::create(daemon.database(&guid(2))).expect("an empty one");
    let (status, json) = daemon.post(&path.replace(&client, &guid(2)));
    assert_eq!((status, &json["error"]["code"]), (409, &"empty".into()));

    sqlite::query(
        &database,
        "CREATE TABLE t(x, y); INSERT INTO t VALUES (1, 2)",
    );
    let (status, json) = daemon.post(&path);
    assert_eq!(status, 200, "{json}");
    let first = wait_snapshots(&daemon, &client, |_| true);
    sqlite::query(&database, "INSERT INTO t VALUES (3, 4)");
    let (status, json) = daemon.post(&path);
    assert_eq!(status, 200, "{json}");
    assert_eq!(json["txid"], daemon.health(&client)["txid"], "{json}");
    assert_eq!(
        wait_snapshots(&daemon, &client, |_| true).len(),
        first.len() + 1
    );
    // The state has its snapshot already.
    let (status, again) = daemon.post(&path);
    assert_eq!((status, &again["txid"]), (200, &json["txid"]));
    assert_eq!(
        wait_snapshots(&daemon, &client, |_| true).len(),
        first.len() + 1
    );
}

#[test]
fn a_log_that_outgrows_its_database_makes_a_snapshot() {
    let daemon = Daemon::start(Options::default());
    let client = guid(1);
    let database = daemon.database(&client);
    sqlite::query(&database, CREATE);
    daemon.sync(&client);
    for _ in 0..8 {
        sqlite::query(&database, "UPDATE t SET y = hex(randomblob(100000))");
        daemon.sync(&client);
    }
    wait_snapshots(&daemon, &client, |found| found.len() >= 2);
    let restored = daemon.restore(&client, &[], "restored.db");
    sqlite::assert_same(&database, &restored);
}

#[test]
fn what_has_outlived_its_retention_goes_and_the_rest_stays_restorable() {
    let mut daemon = Daemon::start(Options {
        tenant_defaults: ", snapshotInterval: 200ms, retention: 1s",
        ..Options::default()
    });
    let client = guid(1);
    let database = daemon.database(&client);
    sqlite::query(&database, CREATE);
    daemon.sync(&client);
    sqlite::query(&database, "INSERT INTO t VALUES (2, 'second')");
    daemon.sync(&client);
    wait_snapshots(&daemon, &client, |found| found.len() == 2);
    // The first one goes by itself, when the second is old enough.
    let left = wait_snapshots(&daemon, &client, |found| found.len() == 1);
    assert_ne!(left, ["00000000.snapshot"]);
    let generations = daemon.generations(&client);
    let moments = generations[0]["moments"].as_array().expect("moments");
    assert_eq!(moments.len(), 1, "{moments:?}");
    let restored = daemon.restore(&client, &[], "restored.db");
    sqlite::assert_same(&database, &restored);
    assert!(daemon.log.text().contains("\"operation\":\"retain\""));

    // And history goes on from there, over a restart.
    assert!(daemon.terminate().success());
    daemon.restart();
    sqlite::query(&database, "INSERT INTO t VALUES (3, 'third')");
    daemon.sync(&client);
    let restored = daemon.restore(&client, &[], "again.db");
    sqlite::assert_same(&database, &restored);
    assert_eq!(daemon.generations(&client).len(), 1);
}

#[test]
fn retention_by_hand_is_printed_before_it_is_carried_out() {
    let mut daemon = Daemon::start(Options {
        tenant_defaults: ", snapshotInterval: 200ms, retention: 3s",
        ..Options::default()
    });
    let client = guid(1);
    let database = daemon.database(&client);
    sqlite::query(&database, CREATE);
    daemon.sync(&client);
    sqlite::query(&database, "INSERT INTO t VALUES (2, 'second')");
    daemon.sync(&client);
    wait_snapshots(&daemon, &client, |found| found.len() == 2);
    let none = daemon.command(&["retain", "--dry-run"], |_| {});
    assert_eq!(none, "Nothing has outlived its retention.\n");
    // Nobody retains from now on but the commands.
    assert!(daemon.terminate().success());

    let deadline = Instant::now() + Duration::from_secs(30);
    let plan = loop {
        let plan = daemon.command(&["retain", "--dry-run"], |_| {});
        if plan != none {
            break plan;
        }
        assert!(Instant::now() < deadline, "{plan}");
    };
    assert!(plan.contains("/00000000.snapshot\n"), "{plan}");
    assert!(plan.contains("TO DELETE"), "{plan}");
    assert_eq!(wait_snapshots(&daemon, &client, |_| true).len(), 2);

    let done = daemon.command(&["retain"], |_| {});
    assert!(done.contains("DELETED") && done.contains(&client), "{done}");
    assert_eq!(wait_snapshots(&daemon, &client, |_| true).len(), 1);
    assert_eq!(daemon.command(&["retain"], |_| {}), none);
    let restored = daemon.restore(&client, &[], "restored.db");
    sqlite::assert_same(&database, &restored);
}
