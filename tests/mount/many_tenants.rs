//! Outages with many tenants: none of their commits takes longer, memory stays flat, one that floods costs the others
//! nothing, and what is written over again and again takes its room once.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use litestream_multitenant::clock::now_ms;

use super::support::daemon::{Daemon, Options, S3, guid};
use super::support::process::example;
use super::support::proxy::{Fault, Proxy};
use super::support::s3::S3Server;
use super::support::sqlite;
use super::support::workload::{Workload, acknowledged, assert_has_all};

const PATIENCE: Duration = Duration::from_secs(40);

/// A daemon whose store can be made to fail.
struct Scene {
    // In the order in which they have to end.
    daemon: Daemon,
    proxy: Proxy,
    _server: S3Server,
}

impl Scene {
    fn new(limits: &str) -> Self {
        let server = S3Server::start();
        let proxy = Proxy::start(&server.endpoint, Fault::None);
        let daemon = Daemon::start(Options {
            store: Some(S3 {
                endpoint: proxy.endpoint.clone(),
                bucket: server.bucket.clone(),
                access_key: server.access_key.clone(),
                secret_key: server.secret_key.clone(),
            }),
            sync_interval: "200ms",
            config: format!("limits: {{{limits}}}\n"),
            ..Options::default()
        });
        Self {
            daemon,
            proxy,
            _server: server,
        }
    }

    fn acks(&self, client: &str) -> PathBuf {
        self.daemon.path("acks").join(client)
    }

    fn write(&self, client: &str, arguments: &str) -> Workload {
        fs::create_dir_all(self.daemon.path("acks")).expect("a folder");
        let database = self.daemon.database(client);
        Workload::start(&database, &self.acks(client), arguments)
    }

    /// After the outage: all that was acknowledged is stored, in one history.
    fn assert_stored(&self, client: &str) {
        self.daemon.sync(client);
        let health = self
            .daemon
            .wait_health(client, |health| health["lastError"].is_null());
        assert_eq!(health["status"], "active", "{health}");
        let restored = self.daemon.restore(client, &[], &format!("{client}.db"));
        sqlite::assert_same(&self.daemon.database(client), &restored);
        assert_has_all(&restored, &acknowledged(&self.acks(client)));
        let log = self.daemon.log.text();
        assert_eq!(self.daemon.generations(client).len(), 1, "{client}: {log}");
    }

    /// What the log says of its first gap.
    fn gap(&self, client: &str) -> Option<String> {
        let log = self.daemon.log.text();
        let is_gap = |line: &&str| line.contains(client) && line.contains("the history is gapped");
        log.lines().find(is_gap).map(str::to_owned)
    }

    fn spool_bytes(&self) -> u64 {
        let metrics = self.daemon.metrics();
        let mut lines = metrics.lines();
        let value = lines.find_map(|line| line.strip_prefix("litestream_spool_bytes "));
        value.expect("the metric").parse().expect("a number")
    }
}

/// Kilobytes of memory that a process has.
fn resident_kb(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    number.expect("its memory").parse().expect("a number")
}

/// An application that commits to many databases.
struct Application {
    child: Child,
    times: PathBuf,
}

impl Application {
    fn start(scene: &Scene, databases: u32) -> Self {
        fs::create_dir_all(scene.daemon.path("acks")).expect("a folder");
        let times = scene.daemon.path("times");
        let child = example("many_tenants")
            .arg(scene.daemon.data())
            .arg("--acks")
            .arg(scene.daemon.path("acks"))
            .arg("--times")
            .arg(&times)
            .args([
                "--seconds",
                "80",
                "--pause-ms",
                "100",
                "--autocheckpoint",
                "20",
            ])
            .args(["--databases", &databases.to_string()])
            .spawn()
            .expect("it starts");
        Self { child, times }
    }

    /// When each commit until now was acknowledged, in Unix milliseconds, and the microseconds that it took.
    fn commits(&self) -> Vec<(i64, u64)> {
        let text = fs::read_to_string(&self.times).unwrap_or_default();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let line = |line: &str| {
            let (at, took) = line.split_once(' ').expect("two numbers");
            (at.parse().expect("a time"), took.parse().expect("a time"))
        };
        whole.lines().map(line).collect()
    }

    /// Waits for so many more commits; from when to when these were made.
    fn window(&mut self, commits: usize) -> std::ops::Range<i64> {
        let (begun, before) = (now_ms(), self.commits().len());
        let deadline = Instant::now() + PATIENCE;
        while self.commits().len() < before + commits {
            let ended = self.child.try_wait().expect("a child of ours");
            assert!(ended.is_none(), "the application has failed: {ended:?}");
            assert!(Instant::now() < deadline, "too few commits");
            std::thread::park_timeout(Duration::from_millis(20));
        }
        begun..now_ms()
    }

    /// The microseconds that 99 of a hundred commits within these windows did not exceed.
    fn p99(&self, windows: &[std::ops::Range<i64>]) -> u64 {
        let within = |at: &i64| windows.iter().any(|window| window.contains(at));
        let commits = self.commits().into_iter().filter(|(at, _)| within(at));
        let mut took: Vec<u64> = commits.map(|(_, took)| took).collect();
        took.sort_unstable();
        took[took.len() * 99 / 100]
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        // Neither fails for a child that was not waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Windows of a healthy store and of outages take turns, so that what else the machine does falls on both.
#[test]
fn outages_under_the_load_of_fifty_tenants_are_not_noticed() {
    const TENANTS: u32 = 50;
    /// About two seconds.
    const WINDOW: usize = 1_000;
    let scene = Scene::new("maxLag: 1s, memoryBytesPerTenant: 256KiB");
    let mut application = Application::start(&scene, TENANTS);
    application.window(WINDOW);
    let before = resident_kb(scene.daemon.pid());
    let (mut healthy, mut outage) = (Vec::new(), Vec::new());
    for fault in [
        Fault::Answer(503, "SlowDown"),
        Fault::Reset,
        Fault::LoseEveryAnswer,
        Fault::Answer(500, "InternalError"),
    ] {
        healthy.push(application.window(WINDOW));
        scene.proxy.set(fault);
        outage.push(application.window(WINDOW));
        assert!(scene.proxy.met() > 0, "{fault:?} was never met");
        assert!(scene.spool_bytes() > 0, "the logs were reset meanwhile");
        scene.proxy.set(Fault::None);
    }
    let (healthy, outage) = (application.p99(&healthy), application.p99(&outage));
    let after = resident_kb(scene.daemon.pid());
    eprintln!("p99 healthy {healthy} us, outage {outage} us; memory {before} kB, then {after} kB");
    assert!(
        outage < healthy * 2 + 10_000,
        "p99 of a commit: {healthy} us, in outages {outage} us"
    );
    // What each may hold in memory, and as much again for what is on its way.
    let most = before + u64::from(TENANTS) * 2 * 256;
    assert!(after < most, "{before} kB before, {after} kB after");
    drop(application);
    assert_restores_all(&scene, TENANTS);
}

fn assert_restores_all(scene: &Scene, tenants: u32) {
    let clients = || (1..=tenants).map(guid);
    for client in clients() {
        scene.daemon.sync(&client);
        let health = scene.daemon.health(&client);
        assert_eq!(health["status"], "active", "{health}");
        assert_eq!(scene.gap(&client), None);
    }
    let restored = scene.daemon.path("restored");
    scene
        .daemon
        .command(&["restore", "--all"], |command| _ = command.arg(&restored));
    for client in clients() {
        let database = restored.join(format!("{client}.db"));
        let commits = acknowledged(&scene.acks(&client));
        assert!(!commits.is_empty());
        assert_holds(&database, commits.len(), *commits.last().expect("some"));
    }
}

fn assert_holds(database: &Path, commits: usize, last: u64) {
    let held = sqlite::query(database, "SELECT count(*), max(n) FROM commits");
    let (count, newest) = held.split_once('|').expect("two columns");
    let number = |text: &str| text.parse::<u64>().expect("a number");
    assert_eq!(number(count), number(newest), "commits are missing between");
    assert!(number(count) >= commits as u64 && number(newest) >= last);
}

#[test]
fn one_that_floods_the_spool_costs_the_others_no_moment() {
    const QUIET: u32 = 6;
    const SPOOL: u64 = 16 << 20;
    let scene = Scene::new("maxLag: 1s, memoryBytesPerTenant: 64KiB, spoolBytes: 16MiB");
    scene.daemon.may_miss_gates();
    let (noisy, quiet) = (guid(100), || (1..=QUIET).map(guid));
    let writers: Vec<_> = quiet()
        .map(|client| scene.write(&client, "--seconds 80 --autocheckpoint 5 --pause-ms 60"))
        .collect();
    // Rows that are all new, so that nothing of it is superseded.
    let flooding =
        "--seconds 80 --steps insert --rows 20 --row-bytes 4000 --autocheckpoint 60 --pause-ms 5";
    let flood = scene.write(&noisy, flooding);
    for (client, writer) in quiet().zip(&writers) {
        writer.wait_for_acks(5);
        scene.daemon.sync(&client);
    }
    flood.wait_for_acks(5);
    scene.daemon.sync(&noisy);

    scene.proxy.set(Fault::Answer(503, "SlowDown"));
    scene.daemon.wait_health(&noisy, |health| {
        let error = health["lastError"].as_str().unwrap_or_default();
        health["status"] == "gapped" && error.contains("no more than three times")
    });
    // The others go on with resets, each of which takes room.
    for (client, writer) in quiet().zip(&writers) {
        let before = acknowledged(&scene.acks(&client)).len();
        writer.wait_for_acks(before + 40);
        let health = scene.daemon.health(&client);
        assert_eq!(health["status"], "active", "{health}");
        assert!(health["pendingBytes"].as_u64() > Some(0), "{health}");
    }
    assert!(scene.spool_bytes() <= SPOOL, "{}", scene.spool_bytes());
    scene.proxy.set(Fault::None);
    flood.kill9();
    writers.into_iter().for_each(Workload::kill9);
    for client in quiet() {
        scene.assert_stored(&client);
        assert_eq!(scene.gap(&client), None);
    }
    // It has lost moments, and no commit.
    scene.assert_stored(&noisy);
}

#[test]
fn what_is_written_over_again_and_again_takes_its_room_once() {
    const SPOOL: u64 = 4 << 20;
    let scene = Scene::new("maxLag: 1s, memoryBytesPerTenant: 64KiB, spoolBytes: 4MiB");
    let client = guid(1);
    let filled = "--transactions 20 --steps insert --rows 30";
    scene.write(&client, filled).finish();
    let writing = "--seconds 80 --steps update --autocheckpoint 40 --pause-ms 4";
    let writer = scene.write(&client, writing);
    scene.daemon.sync(&client);
    scene.proxy.set(Fault::Answer(503, "SlowDown"));
    let merged = "Segments that wait for the store were merged";
    for _ in 0..3 {
        let mark = scene.daemon.log.mark();
        let line = scene
            .daemon
            .log
            .wait_from(mark, merged, Instant::now() + PATIENCE);
        assert_eq!(line["client"], client);
        assert!(line["left"].as_u64() < line["bytes"].as_u64(), "{line}");
    }
    let health = scene.daemon.health(&client);
    assert_eq!(health["status"], "active", "{health}");
    assert!(health["pendingBytes"].as_u64() < Some(SPOOL), "{health}");
    scene.proxy.set(Fault::None);
    writer.kill9();
    scene.assert_stored(&client);
    assert_eq!(scene.gap(&client), None);
}
