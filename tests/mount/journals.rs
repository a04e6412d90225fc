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

#[test]
fn no_journal() {
    replica_follows("off");
}
