//! Restore drills in the background: a sound replica is proven, and a damaged one is told until it is sound again.

use std::fs;

use serde_json::Value;

use super::support::daemon::{Daemon, Options, guid, names};
use super::support::sqlite;

const CREATE: &str = "PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES (1)";

#[test]
fn a_replica_is_proven_and_damage_is_told_until_it_is_mended() {
    let mut daemon = Daemon::prepare(Options::default());
    daemon.configure("verification: {interval: 200ms, sample: 100%}".to_owned());
    daemon.restart();
    let client = guid(1);
    sqlite::query(&daemon.database(&client), CREATE);
    daemon.sync(&client);
    let proven = daemon.wait_health(&client, |health| health["lastProvenAt"].is_string());
    assert_eq!(proven["status"], "active");

    let folder = daemon
        .path("store/databases")
        .join(&client)
        .join("snapshots");
    let snapshot = folder.join(&names(&folder)[0]).join("00000000.snapshot");
    let sound = fs::read(&snapshot).expect("a snapshot");
    let mut spoilt = sound.clone();
    let middle = spoilt.len() / 2;
    spoilt[middle] ^= 1;
    fs::write(&snapshot, &spoilt).expect("spoilt");
    let failing = daemon.wait_health(&client, |health| health["status"] == "failing");
    let error = failing["lastError"].as_str().expect("a reason");
    assert!(
        error.starts_with("damaged: ") && error.contains("00000000.snapshot"),
        "{error}"
    );
    assert_eq!(daemon.get("/api/health").1["status"], "degraded");
    // It goes on being replicated, and that alone mends nothing.
    sqlite::query(&daemon.database(&client), "INSERT INTO t VALUES (2)");
    daemon.sync(&client);
    assert_eq!(daemon.health(&client)["status"], "failing");

    fs::write(&snapshot, &sound).expect("mended");
    let mended = daemon.wait_health(&client, |health| health["status"] == "active");
    assert_eq!(mended["lastError"], Value::Null);
}
