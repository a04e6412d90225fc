//! Databases' files that are changed past SQLite: told with their pages, stored, and the state before stays restorable.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::support::daemon::{Daemon, Options, Served, guid};
use super::support::sqlite::{self, Session};

const CREATE: &str =
    "PRAGMA page_size=4096; PRAGMA journal_mode=WAL; CREATE TABLE t(x); CREATE TABLE u(x);
    INSERT INTO t VALUES ('the first text'); INSERT INTO u VALUES (0)";
const EVENT_TIME: Duration = Duration::from_secs(10);

/// Writes bytes into a file by `dd`, without SQLite.
fn dd(file: &Path, at: usize, bytes: &[u8]) {
    let mut child = Command::new("dd")
        .arg(format!("of={}", file.display()))
        .arg(format!("bs={}", bytes.len()))
        .args([&format!("seek={at}"), "oflag=seek_bytes", "conv=notrunc"])
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("dd starts");
    let mut stdin = child.stdin.take().expect("it is piped");
    stdin.write_all(bytes).expect("dd reads");
    drop(stdin);
    assert!(child.wait().expect("a child of ours").success());
}

/// Puts another text of the same length in the place of one that the file holds; the page.
fn change_text(database: &Path, from: &str, to: &str) -> usize {
    assert_eq!(from.len(), to.len());
    let bytes = fs::read(database).expect("the file");
    let mut places = bytes.windows(from.len());
    let at = places.position(|place| place == from.as_bytes());
    let at = at.expect("the text is in the file");
    dd(database, at, to.as_bytes());
    at / 4096 + 1
}

impl Daemon {
    /// The change is told with its only page, and the replica has the file as it is now.
    fn assert_told(&self, client: &str, page: usize, name: &str) {
        let told = self.log.wait_from(
            0,
            "The database's file differs from its captured history",
            Instant::now() + EVENT_TIME,
        );
        assert_eq!(told["level"], "warn");
        assert_eq!(told["client"], client);
        assert_eq!(told["pages"], page.to_string());
        assert_eq!(told["count"], 1);
        self.sync(client);
        let health = self.health(client);
        assert_eq!(health["status"], "active", "{health}");
        let error = health["lastError"].as_str().expect("it is shown");
        assert!(error.starts_with("foreign_change: 1 pages"), "{error}");
        let metrics = self.metrics();
        assert!(
            metrics.contains("\nlitestream_foreign_changes_total 1\n"),
            "{metrics}"
        );
        let restored = self.restore(client, &[], name);
        sqlite::assert_same(&self.database(client), &restored);
        assert_eq!(self.generations(client).len(), 1);
        self.command(&["verify"], |_| {});
    }

    fn assert_untold(&self, client: &str) {
        let log = self.log.text();
        assert!(!log.contains("differs from its captured"), "{log}");
        assert_eq!(self.health(client)["lastError"], serde_json::Value::Null);
    }

    fn assert_restores(&self, client: &str, txid: u64, sql: &str, expected: &str) {
        let name = format!("at-{txid}.db");
        let restored = self.restore(client, &["--txid", &txid.to_string()], &name);
        assert_eq!(sqlite::query(&restored, sql), expected);
    }
}

#[test]
fn sqlite_17_a_page_that_is_written_past_sqlite_is_named_and_stored() {
    for served in Served::ALL {
        let mut daemon = Daemon::start(Options::served(served));
        let client = guid(1);
        let database = daemon.database(&client);
        sqlite::query(&database, CREATE);
        for row in 1..=3 {
            sqlite::query(&database, &format!("INSERT INTO u VALUES ({row})"));
            daemon.sync(&client);
        }
        let mut session = Session::open(&database);
        session.run("INSERT INTO u VALUES (4); PRAGMA wal_checkpoint(TRUNCATE);");
        drop(session);
        // Known as it was when all was stored, and to a new run as well.
        assert!(daemon.terminate().success());
        daemon.restart();
        let before = daemon.sync(&client);
        daemon.assert_untold(&client);

        let page = change_text(&database, "the first text", "a foreign text");
        daemon.assert_told(&client, page, "after.db");
        daemon.assert_restores(&client, before, "SELECT x FROM t", "the first text");
        assert!(daemon.terminate().success());
    }
}

#[test]
fn sqlite_17_a_page_that_is_written_beside_a_log_is_found_by_a_snapshot() {
    let mut daemon = Daemon::start(Options::default());
    let client = guid(1);
    let database = daemon.database(&client);
    sqlite::query(&database, CREATE);
    daemon.sync(&client);
    let mut session = Session::open(&database);
    session.run("INSERT INTO u VALUES (1);");
    let before = daemon.sync(&client);
    let page = change_text(&database, "the first text", "a foreign text");
    daemon.sync(&client);
    daemon.assert_untold(&client);
    let (status, answer) = daemon.post(&format!(
        "/api/databases/{client}/{client}/snapshot?timeout=30s"
    ));
    assert_eq!(status, 200, "{answer}");
    daemon.assert_told(&client, page, "after.db");
    daemon.assert_restores(&client, before, "SELECT x FROM t", "the first text");
    drop(session);
    assert!(daemon.terminate().success());
}

#[test]
fn sqlite_17_a_commit_that_its_checkpoint_lost_is_kept() {
    let mut daemon = Daemon::start(Options::default());
    let client = guid(1);
    let database = daemon.database(&client);
    sqlite::query(&database, CREATE);
    let old = fs::read(&database).expect("the file");
    let mut session = Session::open(&database);
    session.run("UPDATE t SET x = 'a newer  text';");
    session.run("PRAGMA wal_checkpoint;");
    let before = daemon.sync(&client);
    // As if the checkpoint had left the page out: its frame goes with the next commit, which resets the log.
    let new = fs::read(&database).expect("the file");
    let pages = old.chunks(4096).zip(new.chunks(4096));
    let changed: Vec<usize> = pages
        .enumerate()
        .filter(|(_, (old, new))| old != new)
        .map(|(index, _)| index)
        .collect();
    let [index] = changed[..] else {
        panic!("one page was changed: {changed:?}");
    };
    dd(&database, index * 4096, &old[index * 4096..][..4096]);
    session.run("INSERT INTO u VALUES (1);");
    daemon.assert_told(&client, index + 1, "after.db");
    daemon.assert_restores(&client, before, "SELECT x FROM t", "a newer  text");
    drop(session);
    assert!(daemon.terminate().success());
}

#[test]
fn sqlite_17_a_file_that_is_copied_over_beside_its_log_is_told() {
    let mut daemon = Daemon::start(Options::default());
    let client = guid(1);
    let database = daemon.database(&client);
    sqlite::query(&database, CREATE);
    let mut session = Session::open(&database);
    session.run("INSERT INTO u VALUES (1);");
    let before = daemon.sync(&client);
    let other = daemon.path("other.db");
    sqlite::query(&other, CREATE);
    let page = change_text(&other, "the first text", "another's text");
    let copied = Command::new("cp").arg(&other).arg(&database).status();
    assert!(copied.expect("cp starts").success());
    daemon.assert_told(&client, page, "after.db");
    daemon.assert_restores(&client, before, "SELECT x FROM t", "the first text");
    session.kill9();
    assert!(daemon.terminate().success());
}
