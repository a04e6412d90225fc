//! `hold` and `purge`: what is held outlives every retention, and what is erased was removed before.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use super::support::daemon::{Daemon, Options, guid, names};
use super::support::process::{binary, output};
use super::support::sqlite;

const CREATE: &str = "PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES (1)";

/// What a command that must fail says.
fn refused(daemon: &Daemon, words: &[&str]) -> String {
    let mut command: Command = binary();
    let ended = output(command.args(words).arg("-config").arg(daemon.config()));
    let said = String::from_utf8(ended.stderr).expect("text");
    assert_eq!(ended.status.code(), Some(1), "{words:?}: {said}");
    said
}

fn stored(daemon: &Daemon) -> Vec<String> {
    names(&daemon.path("store/databases"))
}

/// Waits until only these clients have a replica.
fn wait_for(daemon: &Daemon, clients: &[String]) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while stored(daemon) != clients {
        assert!(
            Instant::now() < deadline,
            "{:?}\n{}",
            stored(daemon),
            daemon.log.text()
        );
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

#[test]
fn a_removed_client_stays_while_it_is_held_and_goes_when_it_is_purged() {
    let mut daemon = Daemon::start(Options {
        tenant_defaults: ", removedRetention: 1s",
        ..Options::default()
    });
    let [held, free, active] = [1, 2, 3].map(guid);
    for client in [&held, &free, &active] {
        sqlite::query(&daemon.database(client), CREATE);
        daemon.sync(client);
    }
    let said = daemon.command(&["hold", &held], |_| {});
    assert!(said.contains("is held"), "{said}");
    daemon.command(&["hold", &held], |_| {});
    for client in [&held, &free] {
        fs::remove_file(daemon.database(client)).expect("removed");
    }
    // The other's time came later than that of the one that is held.
    wait_for(&daemon, &[held.clone(), active.clone()]);
    daemon.command(&["retain"], |_| {});
    assert_eq!(stored(&daemon), [held.clone(), active.clone()]);
    let restored = daemon.restore(&held, &[], "restored.db");
    assert_eq!(sqlite::query(&restored, "SELECT x FROM t"), "1");

    let said = refused(&daemon, &["purge", &held]);
    assert!(said.contains("--off"), "{said}");
    let said = refused(&daemon, &["purge", &active]);
    assert!(said.contains("not removed"), "{said}");
    let said = refused(&daemon, &["purge", &free]);
    assert!(said.contains("no such client"), "{said}");
    let said = refused(&daemon, &["hold", &free]);
    assert!(said.contains("no such client"), "{said}");

    daemon.command(&["hold", &held, "--off"], |_| {});
    let said = daemon.command(&["purge", &held], |_| {});
    assert!(said.contains("erased"), "{said}");
    assert_eq!(stored(&daemon), std::slice::from_ref(&active));
    let listed = daemon.command(&["list"], |_| {});
    assert!(
        !listed.contains(&held) && listed.contains(&active),
        "{listed}"
    );
    assert!(daemon.terminate().success());
}

/// How many snapshots a client has in the store.
fn snapshots(daemon: &Daemon, client: &str) -> usize {
    let folder = daemon.path(&format!("store/databases/{client}/snapshots"));
    let generations = fs::read_dir(folder).expect("a replica");
    let of = |generation: fs::DirEntry| names(&generation.path());
    let all = generations.flat_map(|generation| of(generation.expect("an entry")));
    all.filter(|name| name.ends_with(".snapshot")).count()
}

#[test]
fn what_has_outlived_its_retention_stays_while_it_is_held() {
    let mut daemon = Daemon::start(Options {
        tenant_defaults: ", snapshotInterval: 200ms, retention: 1s",
        ..Options::default()
    });
    let [held, free] = [1, 2].map(guid);
    for client in [&held, &free] {
        sqlite::query(&daemon.database(client), CREATE);
        daemon.sync(client);
    }
    daemon.command(&["hold", &held], |_| {});
    // First the one that is held, so that its time is over when that of the other is.
    for client in [&held, &free] {
        sqlite::query(&daemon.database(client), "INSERT INTO t VALUES (2)");
        let (status, json) = daemon.post(&format!("/api/databases/{client}/{client}/snapshot"));
        assert_eq!(status, 200, "{json}");
    }
    let deadline = Instant::now() + Duration::from_secs(30);
    while snapshots(&daemon, &free) > 1 {
        assert!(Instant::now() < deadline, "{}", daemon.log.text());
        std::thread::park_timeout(Duration::from_millis(20));
    }
    daemon.command(&["retain"], |_| {});
    // The first, the newest, and what the schedule has made between them.
    assert!(snapshots(&daemon, &held) >= 2);
    assert_eq!(
        daemon.restore(&held, &["--txid", "1"], "old.db"),
        daemon.path("old.db")
    );
    daemon.command(&["hold", &held, "--off"], |_| {});
    daemon.command(&["retain"], |_| {});
    assert_eq!(snapshots(&daemon, &held), 1);
    assert!(daemon.terminate().success());
}
