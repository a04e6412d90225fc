//! Files that are no databases, and logs that are broken: never uploaded or taken for more than SQLite takes them for.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::support::daemon::{Daemon, Options, guid};
use super::support::sqlite::{self, companion};

const HEADER: u64 = 32;
/// With pages of 4096 bytes.
const FRAME: u64 = 24 + 4096;

#[test]
fn what_is_no_database_is_shown_and_never_uploaded() {
    let mut daemon = Daemon::prepare(Options::default());
    let (broken, sound) = (guid(1), guid(2));
    fs::write(daemon.database(&broken), vec![b'x'; 8192]).expect("a file");
    daemon.restart();
    sqlite::query(
        &daemon.database(&sound),
        "PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES (1)",
    );
    daemon.sync(&sound);
    let health = daemon.wait_health(&broken, |health| health["status"] == "failing");
    let error = health["lastError"].as_str().unwrap_or_default();
    assert!(error.starts_with("not_a_database"), "{health}");
    assert_eq!(daemon.health(&sound)["status"], "active");
    assert!(!daemon.path("store/databases").join(&broken).exists());
    let content = fs::read(daemon.database(&broken)).expect("readable");
    assert_eq!(content, vec![b'x'; 8192], "it is as it was");

    let real = daemon.data().join("real");
    sqlite::query(
        &real,
        "PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES (2)",
    );
    fs::rename(&real, daemon.database(&broken)).expect("renamed");
    daemon.wait_health(&broken, |health| health["status"] == "active");
    daemon.sync(&broken);
    let restored = daemon.restore(&broken, &[], "restored.db");
    sqlite::assert_same(&daemon.database(&broken), &restored);
    assert!(daemon.terminate().success());
}

/// A log that `spoil` has changed stands beside a database at start: the replica is what SQLite itself recovers.
fn replica_equals_recovery(spoil: impl Fn(&Path), commits: u64) {
    let mut daemon = Daemon::prepare(Options::default());
    let client = guid(1);
    let database = daemon.database(&client);
    sqlite::query(
        &database,
        "PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES ('flushed')",
    );
    sqlite::with_unflushed_log(
        &database,
        "INSERT INTO t VALUES (1); INSERT INTO t VALUES (2); INSERT INTO t VALUES (3)",
    );
    spoil(&companion(&database, "-wal"));
    // The process that wrote it is long gone.
    fs::remove_file(companion(&database, "-shm")).expect("its index");

    let recovered = daemon.path("recovered.db");
    fs::copy(&database, &recovered).expect("copied");
    fs::copy(companion(&database, "-wal"), companion(&recovered, "-wal")).expect("copied");
    let count = sqlite::query(&recovered, "SELECT count(*) FROM t");
    assert_eq!(count, (1 + commits).to_string(), "what SQLite recovers");

    // What is written behind garbage begins a log that nothing leads to, and may be over before it is compared.
    daemon.may_miss_gates();
    daemon.restart();
    daemon.sync(&client);
    let restored = daemon.restore(&client, &[], "restored.db");
    sqlite::assert_same(&recovered, &restored);
    // And it goes on.
    sqlite::query(&database, "INSERT INTO t VALUES ('more')");
    daemon.sync(&client);
    let restored = daemon.restore(&client, &[], "more.db");
    sqlite::assert_same(&database, &restored);
    assert_eq!(daemon.health(&client)["status"], "active");
    assert!(daemon.terminate().success());
}

fn overwrite(log: &Path, offset: u64, bytes: &[u8]) {
    let log = OpenOptions::new().write(true).open(log).expect("a log");
    log.write_all_at(bytes, offset).expect("written");
}

#[test]
fn a_log_whose_header_is_garbage() {
    replica_equals_recovery(|log| overwrite(log, 0, &[0xa5; HEADER as usize]), 0);
}

#[test]
fn a_log_that_is_all_garbage_behind_its_header() {
    replica_equals_recovery(|log| overwrite(log, HEADER, &[0xa5; 3 * FRAME as usize]), 0);
}

#[test]
fn a_log_with_a_broken_frame_in_the_middle() {
    replica_equals_recovery(|log| overwrite(log, HEADER + FRAME + 1000, b"x"), 1);
}

#[test]
fn a_log_that_is_cut_at_an_odd_byte() {
    let cut = |log: &Path| {
        let log = OpenOptions::new().write(true).open(log).expect("a log");
        log.set_len(HEADER + 2 * FRAME + 333).expect("cut");
    };
    replica_equals_recovery(cut, 2);
}
