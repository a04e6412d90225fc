//! Databases that are not in WAL mode: compared page by page once a change of theirs is whole.

use super::support::daemon::{Daemon, Options, guid};
use super::support::sqlite;

/// Changes a database in one journal mode; after each change the replica equals it.
fn replica_follows(mode: &str) {
    let mut daemon = Daemon::start(Options::default());
    let client = guid(1);
    let database = daemon.database(&client);
    let changes = [
        "CREATE TABLE t(x); INSERT INTO t VALUES (zeroblob(100000))",
        "INSERT INTO t VALUES ('more')",
        "DELETE FROM t WHERE x = 'more'; UPDATE t SET x = 'short'",
        "VACUUM",
    ];
    for (number, change) in changes.iter().enumerate() {
        sqlite::query(&database, &format!("PRAGMA journal_mode={mode}; {change}"));
        daemon.sync(&client);
        let restored = daemon.restore(&client, &[], &format!("{number}.db"));
        sqlite::assert_same(&database, &restored);
    }
    assert_eq!(daemon.generations(&client).len(), 1, "one history");
    // Into WAL mode and back.
    for (mode, number) in [("wal", 10), (mode, 11)] {
        sqlite::query(
            &database,
            &format!("PRAGMA journal_mode={mode}; INSERT INTO t VALUES ('{number}')"),
        );
        daemon.sync(&client);
        let restored = daemon.restore(&client, &[], &format!("{number}.db"));
        sqlite::assert_same(&database, &restored);
    }
    assert_eq!(daemon.health(&client)["status"], "active");
    daemon.command(&["verify"], |_| {});
    assert!(daemon.terminate().success());
}

#[test]
fn a_journal_that_is_deleted() {
    replica_follows("delete");
}

#[test]
fn a_journal_that_is_truncated() {
    replica_follows("truncate");
}

#[test]
fn a_journal_that_persists() {
    replica_follows("persist");
}

#[test]
fn a_journal_in_memory() {
    replica_follows("memory");
}

/// Without a journal nothing is heard of what a handle writes that the kernel passes through.
#[test]
fn a_connection_without_a_journal_is_followed_while_it_stays_open() {
    let daemon = Daemon::start(Options::default());
    let client = guid(1);
    let database = daemon.database(&client);
    let mut session = sqlite::Session::open(&database);
    session.run("PRAGMA journal_mode = MEMORY; CREATE TABLE t(x);");
    for row in 1..=3 {
        let before = daemon.health(&client)["replicatedTxid"].as_u64();
        session.run(&format!("INSERT INTO t VALUES ({row});"));
        daemon.wait_health(&client, |health| health["replicatedTxid"].as_u64() > before);
        let restored = daemon.restore(&client, &[], &format!("{row}.db"));
        sqlite::assert_same(&database, &restored);
    }
}

#[test]
fn no_journal() {
    replica_follows("off");
}
