//! The disk under the state directory is full: applications notice nothing, health tells it, databases come and go
//! meanwhile, and all of it is mended when there is room again.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use super::support::daemon::{Daemon, Options, S3, guid};
use super::support::process::succeeded;
use super::support::proxy::{Fault, Proxy};
use super::support::s3::S3Server;
use super::support::sqlite;
use super::support::workload::{Workload, acknowledged, assert_has_all};

const COMMITS: usize = 150;
const WRITING: &str = "--seconds 80 --autocheckpoint 40 --pause-ms 2";
const CREATE: &str = "PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES (1)";
const PATIENCE: Duration = Duration::from_secs(40);

/// A small file system of its own.
struct Disk(TempDir);

impl Disk {
    fn new(size: &str) -> Self {
        let disk = Self(tempfile::tempdir().expect("a mount point"));
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]);
        succeeded(mount.arg(disk.0.path()));
        disk
    }

    fn filler(&self) -> PathBuf {
        self.0.path().join("filler")
    }

    fn fill(&self) {
        let mut filler = File::create(self.filler()).expect("a file");
        let full = loop {
            if let Err(error) = filler.write_all(&[1; 4096]) {
                break error;
            }
        };
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull, "{full}");
    }

    fn make_room(&self) {
        fs::remove_file(self.filler()).expect("removed");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // What could not be unmounted is left behind, and its directory with it.
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

struct Scene {
    // In the order in which they have to end.
    writer: Option<Workload>,
    daemon: Daemon,
    proxy: Proxy,
    _server: S3Server,
    disk: Disk,
}

impl Scene {
    /// With so little room that it is soon full.
    fn new() -> Self {
        Self::with("6m", ", spoolReserve: 4KiB")
    }

    /// `limits`: further ones, each after a comma.
    fn with(size: &str, limits: &str) -> Self {
        let (server, disk) = (S3Server::start(), Disk::new(size));
        let proxy = Proxy::start(&server.endpoint, Fault::None);
        let mut daemon = Daemon::prepare(Options {
            store: Some(S3 {
                endpoint: proxy.endpoint.clone(),
                bucket: server.bucket.clone(),
                access_key: server.access_key.clone(),
                secret_key: server.secret_key.clone(),
            }),
            config: format!("limits: {{maxLag: 1s, memoryBytesPerTenant: 64KiB{limits}}}\n"),
            ..Options::default()
        });
        daemon.add_flag("-state-dir", disk.0.path());
        daemon.restart();
        daemon.may_miss_gates();
        Self {
            writer: None,
            daemon,
            proxy,
            _server: server,
            disk,
        }
    }

    fn acks(&self) -> PathBuf {
        self.daemon.path("acks")
    }

    fn write(&mut self) {
        let database = self.daemon.database(&guid(1));
        self.writer = Some(Workload::start(&database, &self.acks(), WRITING));
    }

    /// How long the next commits take.
    fn wait_for_commits(&self) -> Duration {
        let begun = Instant::now();
        let writer = self.writer.as_ref().expect("it writes");
        writer.wait_for_acks(acknowledged(&self.acks()).len() + COMMITS);
        begun.elapsed()
    }

    fn create(&self, client: &str) {
        sqlite::query(&self.daemon.database(client), CREATE);
    }

    fn assert_restores(&self, client: &str, name: &str) -> PathBuf {
        self.daemon.sync(client);
        let health = self
            .daemon
            .wait_health(client, |health| health["lastError"].is_null());
        assert_eq!(health["status"], "active", "{health}");
        let restored = self.daemon.restore(client, &[], name);
        sqlite::assert_same(&self.daemon.database(client), &restored);
        restored
    }

    fn assert_writers_is_whole(&self, name: &str) {
        let restored = self.assert_restores(&guid(1), name);
        assert_has_all(&restored, &acknowledged(&self.acks()));
        let generations = self.daemon.generations(&guid(1)).len();
        assert_eq!(generations, 1, "an unbroken history");
    }

    fn is_removed(&self, client: &str) -> bool {
        let listed = self.daemon.command(&["list", "-json"], |_| {});
        let listed: Value = serde_json::from_str(&listed).expect("JSON");
        let clients = listed["clients"].as_array().expect("a list");
        let found = clients.iter().find(|one| one["client"] == client);
        !found.expect("it is listed")["removedAt"].is_null()
    }
}

#[test]
fn a_full_disk_under_the_state_is_told_and_mends_itself() {
    let mut scene = Scene::new();
    let (new, removed) = (guid(2), guid(3));
    scene.create(&removed);
    scene.daemon.sync(&removed);
    scene.write();
    scene.wait_for_commits();
    scene.daemon.sync(&guid(1));
    let healthy = scene.wait_for_commits();

    scene.disk.fill();
    scene.proxy.set(Fault::Answer(503, "SlowDown"));
    let during = scene.wait_for_commits();
    assert!(during < healthy * 10 + Duration::from_secs(3), "{during:?}");
    // Databases come and go all the same.
    scene.create(&new);
    fs::remove_file(scene.daemon.database(&removed)).expect("removed");
    let health = scene.daemon.wait_health(&guid(1), |health| {
        let error = health["lastError"].as_str().unwrap_or_default();
        // Where the first gap was mended before the store went, the next one is said to come from it.
        let reasons = [
            "space",
            "reserved",
            "a comparison of the whole database was due",
        ];
        health["status"] == "gapped" && reasons.iter().any(|reason| error.contains(reason))
    });
    assert!(health["replicationLagMs"].as_u64() > Some(0), "{health}");
    let told = scene.daemon.wait_health(&new, |health| {
        health["status"] == "failing" && health["replicationLagMs"].as_u64() > Some(0)
    });
    assert!(told["lastError"].is_string(), "{told}");
    let instance = scene.daemon.get("/api/health").1;
    assert_eq!(instance["status"], "degraded", "{instance}");
    // The store alone does not help.
    scene.proxy.set(Fault::None);
    scene.wait_for_commits();

    scene.disk.make_room();
    scene.wait_for_commits();
    scene.writer.take().expect("it writes").kill9();
    scene.assert_writers_is_whole("first.db");
    // Its registration is noted at the next attempt.
    scene
        .daemon
        .wait_health(&new, |health| health["status"] == "active");
    scene.assert_restores(&new, "new.db");
    scene
        .daemon
        .wait_for(PATIENCE, "the removal is not told", || {
            scene.is_removed(&removed)
        });
    assert_goes_on_after_a_death(&mut scene, &new, &removed);
}

/// The state says what it would say if its disk had never been full.
fn assert_goes_on_after_a_death(scene: &mut Scene, new: &str, removed: &str) {
    scene.daemon.kill9();
    scene.daemon.restart();
    let status = scene
        .daemon
        .get(&format!("/api/health/clients/{removed}"))
        .0;
    assert_eq!(status, 404, "it is removed");
    scene.write();
    scene.wait_for_commits();
    scene.writer.take().expect("it writes").kill9();
    scene.assert_writers_is_whole("second.db");
    assert_eq!(scene.daemon.generations(new).len(), 1);
    assert!(Path::new(&scene.daemon.database(new)).exists());
}

/// The reserve follows the disk: one that has less than it would be on a large one is used all the same, and what room there
/// is stands in the log of the start.
#[test]
fn a_small_disk_has_room_with_the_limits_that_hold_by_default() {
    let mut scene = Scene::with("300m", "");
    let told = scene.daemon.log.wait_from(
        0,
        "The disk of the state directory has less room",
        Instant::now() + PATIENCE,
    );
    let number = |key: &str| told[key].as_u64().expect("a number");
    assert!(
        number("reserve") >= 64 << 20 && number("reserve") <= 150 << 20,
        "{told}"
    );
    assert_eq!(number("room"), number("free") - number("reserve"), "{told}");
    scene.create(&guid(1));
    scene.daemon.sync(&guid(1));

    scene.proxy.set(Fault::Reset);
    scene.write();
    scene.wait_for_commits();
    let health = scene
        .daemon
        .wait_health(&guid(1), |health| health["lastError"].is_string());
    let told = health["lastError"].as_str().expect("text");
    assert!(told.starts_with("store: "), "{health}");
    let waits = |metrics: &str| {
        metrics.lines().any(|line| {
            let bytes = line.strip_prefix("litestream_spool_bytes ");
            bytes.is_some_and(|bytes| bytes != "0")
        })
    };
    scene
        .daemon
        .wait_for(PATIENCE, "the spool", || waits(&scene.daemon.metrics()));
    scene.proxy.set(Fault::None);
    scene.writer.take().expect("it writes").kill9();
    scene.assert_writers_is_whole("restored.db");
    let log = scene.daemon.log.text();
    assert!(!log.contains("spool_full:"), "{log}");
}
