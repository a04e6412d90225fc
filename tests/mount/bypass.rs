//! Ways past the mount that come up while it is served: found, shown in health, and what they wrote is captured.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::outages::remote_store;
use super::support::daemon::{Daemon, Options, guid};
use super::support::process::{Bystander, succeeded};
use super::support::proxy::Fault;
use super::support::sqlite;
use super::support::workload::{Workload, acknowledged, assert_has_all};

/// A second mount of a directory.
struct BindMount(PathBuf);

impl BindMount {
    fn new(dir: &Path, at: PathBuf) -> Self {
        std::fs::create_dir(&at).expect("a mount point");
        succeeded(Command::new("mount").arg("--bind").arg(dir).arg(&at));
        Self(at)
    }
}

impl Drop for BindMount {
    fn drop(&mut self) {
        // Lazily, since the test may have failed while somebody holds a file of it.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Waits until health shows the one mount so; the answer's status.
fn wait_for(daemon: &Daemon, accepted: impl Fn(&Value) -> bool) -> (u16, Value) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let (status, health) = daemon.get("/api/health");
        let mount = health["mounts"][0].clone();
        if accepted(&mount) {
            return (status, mount);
        }
        assert!(Instant::now() < deadline, "{health}");
        std::thread::park_timeout(Duration::from_millis(50));
    }
}

fn says(mount: &Value, words: &[&str]) -> bool {
    let error = mount["error"].as_str().unwrap_or_default();
    words.iter().all(|word| error.contains(word))
}

#[test]
fn a_file_that_is_opened_past_the_mount_fails_health_until_it_is_closed() {
    let mut daemon = Daemon::prepare(Options::default());
    let other = BindMount::new(&daemon.data(), daemon.path("other"));
    daemon.restart();
    let client = guid(1);
    sqlite::query(
        &daemon.database(&client),
        "PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES (1)",
    );
    daemon.sync(&client);
    let (status, _) = wait_for(&daemon, |mount| {
        says(mount, &["sees the directory at", "other"])
    });
    assert_eq!(status, 200, "nobody uses it yet");

    let database = other.0.join(format!("{client}.db"));
    let bypass = Bystander::with_open(&database);
    let (status, mount) = wait_for(&daemon, |mount| mount["state"] == "bypassed");
    assert_eq!(status, 503);
    let pid = format!("sleep (pid {})", bypass.pid());
    assert!(
        says(&mount, &[&pid, database.to_str().expect("text")]),
        "{mount}"
    );
    sqlite::query(&database, "INSERT INTO t VALUES (2)");
    drop(bypass);
    let (status, _) = wait_for(&daemon, |mount| mount["state"] == "mounted");
    assert_eq!(status, 200);
    daemon.sync(&client);
    let restored = daemon.restore(&client, &[], "restored.db");
    assert_eq!(sqlite::query(&restored, "SELECT x FROM t"), "1\n2");
    assert!(daemon.terminate().success());
}

/// What was written past the mount makes a comparison due; until then each reset of the log would cost moments.
#[test]
fn a_store_that_is_down_does_not_keep_the_capture_from_finding_its_way_back() {
    let (_server, proxy, store) = remote_store(Fault::None);
    let mut daemon = Daemon::prepare(Options {
        store: Some(store),
        ..Options::default()
    });
    let other = BindMount::new(&daemon.data(), daemon.path("other"));
    daemon.restart();
    let (client, acks) = (guid(1), daemon.path("acks"));
    let writing = "--seconds 80 --autocheckpoint 40 --pause-ms 2";
    let writer = Workload::start(&daemon.database(&client), &acks, writing);
    writer.wait_for_acks(20);
    daemon.sync(&client);
    proxy.set(Fault::Answer(503, "SlowDown"));
    // One upload that has failed says that none is on its way that the store had taken before.
    let health = daemon.wait_health(&client, |health| {
        health["pendingBytes"] != 0 && !health["lastError"].is_null()
    });
    let stored = health["replicatedTxid"].clone();

    let bypass = Bystander::with_open(&other.0.join(format!("{client}.db")));
    wait_for(&daemon, |mount| mount["state"] == "bypassed");
    drop(bypass);
    wait_for(&daemon, |mount| mount["state"] == "mounted");
    let deadline = Instant::now() + Duration::from_secs(20);
    let message = "A database has to be compared page by page";
    daemon.log.wait_from(0, message, deadline);
    let captured = || daemon.health(&client)["txid"].as_u64().expect("a number");
    let (before, commits) = (captured(), 200);
    writer.wait_for_acks(acknowledged(&acks).len() + commits);
    let grown = captured() - before;
    assert!(grown > commits as u64 / 2, "{grown} of {commits} captured");
    assert_eq!(daemon.health(&client)["replicatedTxid"], stored);
    writer.kill9();

    proxy.set(Fault::None);
    daemon.sync(&client);
    let restored = daemon.restore(&client, &[], "restored.db");
    assert_has_all(&restored, &acknowledged(&acks));
    assert!(daemon.terminate().success());
}

#[test]
fn a_mount_namespace_without_the_mount_is_named() {
    let mut daemon = Daemon::prepare(Options::default());
    // As a container that was started earlier.
    let mut container = Command::new("unshare");
    container
        .args(["-m", "sh", "-c", "exec sleep 300 <\"$0\""])
        .arg(daemon.config());
    let container = Bystander::reading(&mut container);
    container.wait_until_open(&daemon.config());
    daemon.restart();
    let name = format!("sleep (pid {})", container.pid());
    let data = daemon.data();
    let words = ["mount namespace of", &name, data.to_str().expect("text")];
    let (status, mount) = wait_for(&daemon, |mount| says(mount, &words));
    assert_eq!((status, &mount["state"]), (200, &Value::from("mounted")));
    drop(container);
    wait_for(&daemon, |mount| !says(mount, &[&name]));
    assert!(daemon.terminate().success());
}
