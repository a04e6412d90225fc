//! Logs that the kernel could pass through, and whose writes can't be watched: they go through the daemon, and health says so.

use std::fs;
use std::path::Path;

use super::support::daemon::{Daemon, Options, Served, guid};
use super::support::process::{Bystander, output};
use super::support::sqlite::{self, Session};

/// A start to whom the kernel refuses a system call, as it does at a limit.
fn refusing(call: &str, capture: &str) -> Options {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/refused.py");
    let words = ["python3", script.to_str().expect("text"), call];
    Options {
        wrapper: words.map(str::to_owned).to_vec(),
        config: format!("mount: {{capture: {capture}}}\n"),
        ..Options::default()
    }
}

/// Writes that the daemon was asked for.
fn writes(daemon: &Daemon) -> u64 {
    let metrics = daemon.metrics();
    let name = "litestream_fuse_operations_total{operation=\"write\"} ";
    let value = metrics.lines().find_map(|line| line.strip_prefix(name));
    value.expect("it is shown").parse().expect("a number")
}

/// Ten commits, each of which is captured; so many writes came to the daemon meanwhile.
fn ten_commits(daemon: &Daemon) -> u64 {
    let client = guid(1);
    let mut session = Session::open(&daemon.database(&client));
    session.run("PRAGMA journal_mode = WAL; CREATE TABLE t (a);");
    let (first, before) = (daemon.sync(&client), writes(daemon));
    for row in 1..=10 {
        session.run(&format!("INSERT INTO t VALUES ({row});"));
    }
    assert_eq!(daemon.sync(&client), first + 10);
    let written = writes(daemon) - before;
    session.run("PRAGMA wal_checkpoint(TRUNCATE); INSERT INTO t VALUES (11);");
    assert_eq!(daemon.sync(&client), first + 11);
    let restored = daemon.restore(&client, &[], "restored.db");
    sqlite::assert_same(&daemon.database(&client), &restored);
    written
}

#[test]
fn a_log_that_can_not_be_watched_goes_through_the_daemon_and_health_says_so() {
    for (call, limit) in [
        ("inotify_add_watch", "fs.inotify.max_user_watches"),
        ("inotify_init1", "fs.inotify.max_user_instances"),
    ] {
        let daemon = Daemon::start(refusing(call, "auto"));
        let written = ten_commits(&daemon);
        assert!(written >= 20, "{call}: {written}");
        let health = daemon.get("/api/health").1;
        assert_eq!(health["mounts"][0]["state"], "mounted", "{health}");
        let error = health["mounts"][0]["error"].as_str().unwrap_or_default();
        assert!(error.contains(limit), "{health}");
    }
}

#[test]
fn a_log_that_is_watched_is_passed_through() {
    let daemon = Daemon::start(Options::default());
    assert_eq!(ten_commits(&daemon), 0);
    let health = daemon.get("/api/health").1;
    assert!(health["mounts"][0]["error"].is_null(), "{health}");
}

#[test]
fn nothing_starts_where_logs_are_to_be_passed_through_and_nothing_can_be_watched() {
    let daemon = Daemon::prepare(refusing("inotify_init1", "passthrough"));
    let refused = output(&mut daemon.mount_command());
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success(), "{said}");
    assert!(said.contains("fs.inotify.max_user_instances"), "{said}");
}

/// The kernel serves an inode in one way: a log that somebody has open under another name, as a plain file, is passed
/// through, whatever is wanted.
#[test]
fn a_log_that_was_open_under_another_name_is_captured_all_the_same() {
    for served in Served::PASSED {
        let daemon = Daemon::start(Options::served(served));
        let client = guid(1);
        let database = daemon.database(&client);
        sqlite::query(&database, "PRAGMA journal_mode = WAL; CREATE TABLE t (a)");
        let first = daemon.sync(&client);
        let aside = daemon.data().join("aside");
        fs::write(&aside, "").expect("a file");
        let holder = Bystander::with_open(&aside);
        fs::rename(&aside, sqlite::companion(&database, "-wal")).expect("renamed");
        let mut session = Session::open(&database);
        session.run("PRAGMA wal_autocheckpoint = 3;");
        for row in 1..=20 {
            session.run(&format!("INSERT INTO t VALUES ({row});"));
            daemon.wait_health(&client, |health| health["txid"] == first + row);
        }
        drop(holder);
        let restored = daemon.restore(&client, &[], "restored.db");
        sqlite::assert_same(&database, &restored);
    }
}

/// The directory of a database is renamed while its log is passed through, and applications go on.
#[test]
fn a_log_whose_directory_is_renamed_is_heard_of() {
    let daemon = Daemon::start(Options::served(Served::LogsPassed));
    let client = guid(1);
    let folder = daemon.data().join("before");
    fs::create_dir(&folder).expect("a folder");
    let mut session = Session::open(&folder.join(format!("{client}.db")));
    session.run("PRAGMA journal_mode = WAL; CREATE TABLE t (a);");
    daemon.sync(&client);
    fs::rename(&folder, daemon.data().join("after")).expect("renamed");
    let first = daemon.sync(&client);
    for row in 1..=20 {
        session.run(&format!("INSERT INTO t VALUES ({row});"));
        daemon.wait_health(&client, |health| health["txid"] == first + row);
    }
}
