//! What SQLite does to its log beside appending commits: padding it, cutting it, leaving it for another page size.

use std::path::{Path, PathBuf};

use super::support::daemon::{Daemon, Options, guid};
use super::support::sqlite::{self, Session, companion};

/// A daemon, and the database of its one client.
fn scene(passthrough: bool) -> (Daemon, String, PathBuf) {
    let daemon = Daemon::start(Options::served(passthrough));
    let client = guid(1);
    let database = daemon.database(&client);
    (daemon, client, database)
}

fn assert_replica_equals(daemon: &Daemon, client: &str, database: &Path, name: &str) {
    daemon.sync(client);
    let restored = daemon.restore(client, &[], name);
    sqlite::assert_same(database, &restored);
}

/// `journal_size_limit` cuts the log in the first commit after a reset, behind the new frames: SQLITE.md 6.
#[test]
fn a_log_that_is_cut_behind_its_commits_goes_on() {
    for passthrough in [true, false] {
        let (mut daemon, client, database) = scene(passthrough);
        let mut session = Session::open(&database);
        session.run("PRAGMA journal_mode = WAL; PRAGMA journal_size_limit = 20000;");
        session.run("CREATE TABLE t (a); INSERT INTO t VALUES (zeroblob(200000));");
        let mut txid = daemon.sync(&client);
        for round in 0..3 {
            session.run("UPDATE t SET a = randomblob(200000);");
            session.run("PRAGMA wal_checkpoint(PASSIVE);");
            let log = companion(&database, "-wal");
            let long = std::fs::metadata(&log).expect("a log").len();
            session.run("INSERT INTO t VALUES ('small');");
            let cut = std::fs::metadata(&log).expect("a log").len();
            assert!(long > 200_000 && cut <= 20_000, "{long} bytes, then {cut}");
            let now = daemon.sync(&client);
            assert_eq!(now, txid + 2, "round {round}");
            txid = now;
        }
        assert_replica_equals(&daemon, &client, &database, "restored.db");
        assert_eq!(daemon.generations(&client).len(), 1);
        drop(session);
        assert!(daemon.terminate().success());
        let log = daemon.log.text();
        assert!(
            !log.contains("A commit that no connection has seen"),
            "{log}"
        );
    }
}

/// Without powersafe overwrite the commit frame is repeated up to the end of the sector: SQLITE.md 12.
#[test]
fn padding_to_the_sectors_end_is_no_transaction() {
    let (daemon, client, database) = scene(true);
    let uri = format!("file:{}?psow=0", database.display());
    let mut session = Session::open(Path::new(&uri));
    session.run("PRAGMA page_size = 512; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;");
    session.run("CREATE TABLE t (a); INSERT INTO t VALUES (0);");
    let before = daemon.sync(&client);
    let log = companion(&database, "-wal");
    let length = || std::fs::metadata(&log).expect("a log").len();
    let short = length();
    for row in 1..=5 {
        session.run(&format!("INSERT INTO t VALUES ({row});"));
    }
    assert!(length() > short + 5 * 2 * 536, "nothing is padded");
    assert_eq!(daemon.sync(&client), before + 5);
    assert_replica_equals(&daemon, &client, &database, "restored.db");
}

/// The page size can change only outside WAL mode, by VACUUM: SQLITE.md 9. No segment spans it.
#[test]
fn another_page_size_begins_a_generation() {
    let (daemon, client, database) = scene(true);
    let mut session = Session::open(&database);
    session.run("PRAGMA page_size = 4096; PRAGMA journal_mode = WAL;");
    session.run("CREATE TABLE t (a); INSERT INTO t VALUES ('before');");
    let before = daemon.sync(&client);
    session.run("PRAGMA journal_mode = DELETE; PRAGMA page_size = 1024; VACUUM;");
    session.run("PRAGMA journal_mode = WAL; INSERT INTO t VALUES ('after');");
    assert_eq!(session.run("PRAGMA page_size;"), "1024");
    assert_replica_equals(&daemon, &client, &database, "after.db");
    assert_eq!(daemon.generations(&client).len(), 2);
    let first = daemon.generations(&client)[0]["id"].clone();
    let flags = ["-generation", first.as_str().expect("text")];
    let restored = daemon.restore(&client, &flags, "before.db");
    assert_eq!(
        sqlite::query(&restored, "SELECT a FROM t WHERE a = 'before'"),
        "before"
    );
    assert!(daemon.sync(&client) > before);
    daemon.command(&["verify"], |_| {});
}
