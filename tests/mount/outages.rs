//! A store that fails under a writing application: the application notices nothing, health shows it, and when it is
//! over replication recovers by itself, with nothing lost and an unbroken history.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::support::daemon::{Daemon, Options, S3, guid};
use super::support::proxy::{Fault, Proxy};
use super::support::s3::S3Server;
use super::support::sqlite;
use super::support::workload::{Workload, acknowledged, assert_has_all};

/// The log is reset every few commits, so that what waits for the store has to be kept elsewhere.
const WITH_RESETS: &str = "--seconds 80 --autocheckpoint 40 --pause-ms 2";
/// What waits for the store stays in the log.
const WITHOUT_RESETS: &str = "--seconds 80 --autocheckpoint 0 --pause-ms 2";
/// Commits whose time is compared.
const COMMITS: usize = 150;
const PATIENCE: Duration = Duration::from_secs(40);

/// One writing client of a daemon whose store can be made to fail.
struct Scene {
    // In the order in which they have to end: the writer before the mount, the mount before its store.
    writer: Option<Workload>,
    daemon: Daemon,
    client: String,
    acks: PathBuf,
}

/// A server behind a proxy, and how a daemon reaches it.
pub fn remote_store(fault: Fault) -> (S3Server, Proxy, S3) {
    let server = S3Server::start();
    let proxy = Proxy::start(&server.endpoint, fault);
    let s3 = S3 {
        endpoint: proxy.endpoint.clone(),
        bucket: server.bucket.clone(),
        access_key: server.access_key.clone(),
        secret_key: server.secret_key.clone(),
    };
    (server, proxy, s3)
}

impl Scene {
    fn new(store: Option<S3>) -> Self {
        Self::with_limits(store, "maxLag: 1s")
    }

    fn with_limits(store: Option<S3>, limits: &str) -> Self {
        let daemon = Daemon::start(Options {
            store,
            config: format!("limits: {{{limits}}}\n"),
            ..Options::default()
        });
        Self {
            writer: None,
            client: guid(1),
            acks: daemon.path("acks"),
            daemon,
        }
    }

    /// A writer is at work, and the store has what it wrote first.
    fn replicating(store: Option<S3>, writing: &str) -> Self {
        Self::new(store).begin(writing)
    }

    fn begin(mut self, writing: &str) -> Self {
        self.write(writing);
        self.wait_for_commits(20);
        self.daemon.sync(&self.client);
        // With small limits a busy machine may have been behind for a moment.
        self.wait_instance(|json| json["status"] == "ok");
        self
    }

    fn write(&mut self, writing: &str) {
        let database = self.daemon.database(&self.client);
        self.writer = Some(Workload::start(&database, &self.acks, writing));
    }

    fn stop_writing(&mut self) {
        self.writer.take().expect("it writes").kill9();
    }

    /// How long the next `count` commits take.
    fn wait_for_commits(&self, count: usize) -> Duration {
        let begun = Instant::now();
        let writer = self.writer.as_ref().expect("it writes");
        writer.wait_for_acks(acknowledged(&self.acks).len() + count);
        begun.elapsed()
    }

    fn instance(&self) -> Value {
        self.daemon.get("/api/health").1
    }

    /// Waits until what the API says of the instance is as it should be.
    fn wait_instance(&self, accepted: impl Fn(&Value) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let json = self.instance();
            if accepted(&json) {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "{json}\n{}",
                self.daemon.log.text()
            );
            std::thread::park_timeout(Duration::from_millis(10));
        }
    }

    /// During an outage: the lag grows and degrades health, while the application goes on as before.
    fn assert_lag_is_visible(&self, healthy: Duration) {
        let during = self.wait_for_commits(COMMITS);
        assert!(
            during < healthy * 10 + Duration::from_secs(3),
            "{COMMITS} commits took {during:?} in the outage, {healthy:?} before"
        );
        let lag = |health: &Value| health["replicationLagMs"].as_u64().expect("a number");
        let health = self
            .daemon
            .wait_health(&self.client, |health| lag(health) > 1_000);
        assert!(health["pendingBytes"].as_u64() > Some(0), "{health}");
        assert!(
            health["txid"].as_u64() > health["replicatedTxid"].as_u64(),
            "{health}"
        );
        let before = lag(&health);
        self.daemon
            .wait_health(&self.client, |health| lag(health) > before + 500);
        assert_eq!(self.instance()["status"], "degraded");
        assert!(
            self.daemon
                .metrics()
                .lines()
                .filter_map(|line| line.strip_prefix("litestream_replication_lag{"))
                .any(|line| line.rsplit(' ').next().and_then(|ms| ms.parse().ok()) > Some(1_000.0)),
            "{}",
            self.daemon.metrics()
        );
    }

    /// During an outage that the store itself has told of: it is counted, and said what it is.
    fn assert_failure_is_told(&self, reachable: bool) {
        let health = self.daemon.wait_health(&self.client, |health| {
            health["syncErrors"].as_u64() > Some(0)
        });
        let said = health["lastError"].as_str().unwrap_or_default();
        assert!(said.starts_with("store: "), "{health}");
        let status = if reachable { "failing" } else { "active" };
        assert_eq!(health["status"], status, "{health}");
        let store = &self.instance()["store"];
        assert_eq!(store["reachable"], reachable, "{store}");
        assert!(store["error"].is_string(), "{store}");
    }

    /// After an outage, without anybody's help: all is stored, and the history has no break.
    fn assert_recovers(mut self) {
        self.wait_for_commits(20);
        self.stop_writing();
        let deadline = Instant::now() + PATIENCE;
        let path = format!(
            "/api/databases/{0}/{0}/sync?timeout={1}s",
            self.client,
            PATIENCE.as_secs() - 5
        );
        let (status, synced) = self.daemon.post(&path);
        assert_eq!(status, 200, "{synced}\n{}", self.daemon.log.text());
        assert!(Instant::now() < deadline);
        let health = self.daemon.wait_health(&self.client, |health| {
            health["replicationLagMs"] == 0 && health["lastError"].is_null()
        });
        assert_eq!(health["status"], "active", "{health}");
        assert_eq!(health["pendingBytes"], 0, "{health}");
        assert_eq!(health["txid"], health["replicatedTxid"], "{health}");
        self.wait_instance(|json| json["status"] == "ok" && json["store"]["reachable"] == true);
        self.assert_replica_equals_source();
    }

    fn assert_replica_equals_source(&self) {
        let acknowledged = acknowledged(&self.acks);
        let restored = self.daemon.restore(&self.client, &[], "restored.db");
        assert_has_all(&restored, &acknowledged);
        sqlite::assert_same(&self.daemon.database(&self.client), &restored);
        let listed = self
            .daemon
            .command(&["list", &self.client, "-json"], |_| {});
        let listed: Value = serde_json::from_str(&listed).expect("JSON");
        let count = listed["generations"].as_array().map_or(0, Vec::len);
        assert_eq!(count, 1, "an unbroken history:\n{}", self.daemon.log.text());
        self.daemon.command(&["verify"], |_| {});
    }

    fn assert_is_not_told(&self, secret: &str) {
        assert!(!self.daemon.log.text().contains(secret), "in the log");
        for path in ["/api/health", "/api/health/clients", "/api/databases"] {
            let answer = self.daemon.get(path).1.to_string();
            assert!(!answer.contains(secret), "in {path}");
        }
        assert!(!self.daemon.metrics().contains(secret), "in /metrics");
    }
}

fn outage(fault: Fault) {
    let (_server, proxy, s3) = remote_store(Fault::None);
    let secret = s3.secret_key.clone();
    let scene = Scene::replicating(Some(s3), WITH_RESETS);
    let healthy = scene.wait_for_commits(COMMITS);
    proxy.set(fault);
    scene.assert_lag_is_visible(healthy);
    scene.assert_failure_is_told(false);
    assert!(proxy.met() > 0, "the fault was never met");
    scene.assert_is_not_told(&secret);
    proxy.set(Fault::None);
    scene.assert_recovers();
}

#[test]
fn a_store_that_answers_500() {
    outage(Fault::Answer(500, "InternalError"));
}

#[test]
fn a_store_that_throttles() {
    outage(Fault::Answer(503, "SlowDown"));
}

#[test]
fn a_store_that_resets_connections() {
    outage(Fault::Reset);
}

/// A request that was taken is never answered, even when the store works again: it has to be given up.
#[test]
fn a_store_that_never_answers() {
    let (_server, proxy, s3) = remote_store(Fault::None);
    // Slowly, since it takes half a minute.
    let scene = Scene::replicating(Some(s3), "--seconds 80 --autocheckpoint 40 --pause-ms 20");
    let healthy = scene.wait_for_commits(COMMITS);
    proxy.set(Fault::Hang);
    scene.assert_lag_is_visible(healthy);
    assert!(proxy.met() > 0, "the fault was never met");
    // Long before it is given up.
    scene.wait_instance(|json| json["store"]["reachable"] == false);
    let failures = scene.daemon.health(&scene.client)["syncErrors"].clone();
    assert_eq!(failures, 0, "{}", scene.daemon.log.text());
    proxy.set(Fault::None);
    scene.daemon.log.wait_from(
        0,
        "The store did not take a segment",
        Instant::now() + PATIENCE,
    );
    assert!(scene.daemon.health(&scene.client)["syncErrors"].as_u64() > Some(0));
    scene.assert_recovers();
}

#[test]
fn a_store_that_does_its_work_and_never_answers() {
    outage(Fault::LoseEveryAnswer);
}

#[test]
fn lost_acknowledgements_are_recognised_one_by_one() {
    let (_server, proxy, s3) = remote_store(Fault::None);
    let scene = Scene::replicating(Some(s3), WITH_RESETS);
    let before = scene.daemon.health(&scene.client);
    proxy.set(Fault::LoseAcknowledgement);
    let replicated = |health: &Value| health["replicatedTxid"].as_u64().expect("a number");
    // It goes on though no PUT is ever acknowledged.
    scene.daemon.wait_health(&scene.client, |health| {
        health["syncErrors"].as_u64() > Some(4) && replicated(health) > replicated(&before) + 4
    });
    assert!(proxy.met() > 4);
    proxy.set(Fault::None);
    scene.assert_recovers();
}

fn killed_in(fault: Fault, writing: &str) {
    let (_server, proxy, s3) = remote_store(Fault::None);
    let mut scene = Scene::replicating(Some(s3), writing);
    let healthy = scene.wait_for_commits(COMMITS);
    proxy.set(fault);
    scene.assert_lag_is_visible(healthy);
    scene.daemon.kill9();
    scene.stop_writing();
    scene.daemon.restart();
    scene.write(writing);
    scene.assert_lag_is_visible(healthy);
    proxy.set(Fault::None);
    scene.assert_recovers();
}

#[test]
fn killed_while_the_store_throttles() {
    killed_in(Fault::Answer(503, "SlowDown"), WITH_RESETS);
}

#[test]
fn killed_while_no_answer_comes_through() {
    killed_in(Fault::LoseEveryAnswer, WITH_RESETS);
}

/// What the store has and the daemon did not know when it died is not what it captures anew: it is taken over.
#[test]
fn killed_before_anything_of_the_outage_was_on_local_disk() {
    killed_in(Fault::LoseEveryAnswer, WITHOUT_RESETS);
}

#[test]
fn started_before_its_store() {
    let (_server, proxy, s3) = remote_store(Fault::Reset);
    let mut scene = Scene::new(Some(s3));
    scene.wait_instance(|json| json["store"]["reachable"] == false);
    assert_eq!(scene.instance()["status"], "degraded");
    scene.write(WITH_RESETS);
    let healthy = scene.wait_for_commits(COMMITS);
    scene.assert_lag_is_visible(healthy);
    scene.assert_failure_is_told(false);
    proxy.set(Fault::None);
    scene.wait_instance(|json| json["store"]["conditionalPut"] == true);
    scene.assert_recovers();
}

#[test]
fn started_before_its_keys_are_allowed() {
    let (_server, proxy, s3) = remote_store(Fault::Answer(403, "AccessDenied"));
    let mut scene = Scene::new(Some(s3));
    // Before there is any client.
    scene.wait_instance(|json| json["status"] == "degraded");
    scene.write(WITH_RESETS);
    let healthy = scene.wait_for_commits(COMMITS);
    scene.assert_lag_is_visible(healthy);
    scene.assert_failure_is_told(true);
    proxy.set(Fault::None);
    scene.assert_recovers();
}

#[test]
fn started_with_the_wrong_key() {
    let (server, _proxy, mut s3) = remote_store(Fault::None);
    let wrong = "the-key-of-somebody-else";
    s3.secret_key = wrong.to_owned();
    let mut scene = Scene::new(Some(s3));
    scene.write(WITH_RESETS);
    scene.wait_for_commits(COMMITS);
    scene.assert_failure_is_told(true);
    let health = scene.daemon.health(&scene.client);
    let said = health["lastError"].as_str().unwrap_or_default();
    assert!(
        said.contains("the store refused access") && said.contains("check the credentials"),
        "{health}"
    );
    scene.assert_is_not_told(wrong);
    scene.assert_is_not_told(&server.secret_key);

    scene.daemon.kill9();
    scene.stop_writing();
    let config = fs::read_to_string(scene.daemon.config()).expect("the configuration");
    let config = config.replace(wrong, &server.secret_key);
    fs::write(scene.daemon.config(), config).expect("the configuration");
    scene.daemon.restart();
    scene.write(WITH_RESETS);
    scene.assert_recovers();
}

#[test]
fn a_file_in_the_place_of_a_directory_store() {
    let scene = Scene::replicating(None, WITH_RESETS);
    let healthy = scene.wait_for_commits(COMMITS);
    let (store, away) = (scene.daemon.path("store"), scene.daemon.path("away"));
    fs::rename(&store, &away).expect("moved away");
    fs::write(&store, "no directory").expect("a file");
    scene.assert_lag_is_visible(healthy);
    scene.assert_failure_is_told(true);
    fs::remove_file(&store).expect("removed");
    fs::rename(&away, &store).expect("moved back");
    scene.assert_recovers();
}

/// Neither memory nor the spool may take more: the application goes on, health says `gapped`, what waits stays within
/// the bounds, and afterwards one comparison mends the history.
#[test]
fn a_full_spool_costs_moments_and_no_commit() {
    const MOST: u64 = 256 << 10;
    let (_server, proxy, s3) = remote_store(Fault::None);
    let limits = "maxLag: 1s, memoryBytesPerTenant: 64KiB, spoolBytes: 64KiB";
    let scene = Scene::with_limits(Some(s3), limits).begin(WITH_RESETS);
    scene.daemon.may_miss_gates();
    let healthy = scene.wait_for_commits(COMMITS);
    proxy.set(Fault::Answer(503, "SlowDown"));
    let health = scene
        .daemon
        .wait_health(&scene.client, |health| health["status"] == "gapped");
    assert!(
        health["lastError"]
            .as_str()
            .is_some_and(|error| error.contains("spool")),
        "{health}"
    );
    let during = scene.wait_for_commits(COMMITS);
    assert!(during < healthy * 10 + Duration::from_secs(3), "{during:?}");
    let pending = scene.daemon.health(&scene.client)["pendingBytes"].as_u64();
    assert!(pending < Some(MOST), "{pending:?} bytes wait");
    assert_eq!(scene.instance()["status"], "degraded");
    proxy.set(Fault::None);
    scene.assert_recovers();
}
