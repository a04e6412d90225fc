//! Several writers at once, on several databases and on one: a restore equals its source, in both ways of serving.

use std::path::PathBuf;

use super::support::daemon::{Daemon, Options, Served, guid};
use super::support::sqlite;
use super::support::workload::{Workload, acknowledged, assert_has_all};

const ALL_STEPS: &str = "--steps insert,insert,update,delete,rollback,savepoint,checkpoint-passive,\
checkpoint-full,checkpoint-restart,checkpoint-truncate,vacuum,reopen --cache-pages 10 --autocheckpoint 50";

/// Four writers of five seconds each, on as many databases as `databases` says.
fn four_writers(options: Options, databases: u32, arguments: &str) {
    let daemon = Daemon::start(options);
    let client = |writer: u32| guid(1 + writer % databases);
    let acks = |writer: u32| -> PathBuf { daemon.path(&format!("acks-{}", client(writer))) };
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let arguments = format!("--seconds 5 --seed {} {arguments}", writer + 1);
            Workload::start(&daemon.database(&client(writer)), &acks(writer), &arguments)
        })
        .collect();
    writers.into_iter().for_each(Workload::finish);
    assert_eq!(
        daemon.get("/api/health").1["mounts"][0]["error"],
        serde_json::Value::Null
    );
    for writer in 0..databases {
        let client = client(writer);
        daemon.sync(&client);
        let restored = daemon.restore(&client, &[], &format!("restored-{writer}.db"));
        assert_has_all(&restored, &acknowledged(&acks(writer)));
        sqlite::assert_same(&daemon.database(&client), &restored);
        let generations = daemon.command(&["list", &client, "-json"], |_| {});
        let generations: serde_json::Value = serde_json::from_str(&generations).expect("JSON");
        let count = generations["generations"].as_array().map_or(0, Vec::len);
        assert_eq!(count, 1, "an unbroken history");
        let health = daemon.health(&client);
        assert_eq!(health["status"], "active", "{health}");
    }
    daemon.command(&["verify"], |_| {});
}

/// Each checkpoint captures what it ends for itself; what of that is of one sync interval is stored together.
#[test]
fn a_sync_interval_costs_few_requests_however_often_is_checkpointed() {
    const SECONDS: u64 = 5;
    let daemon = Daemon::start(Options {
        sync_interval: "1s",
        ..Options::default()
    });
    let (client, acks) = (guid(1), daemon.path("acks"));
    let arguments = format!("--seconds {SECONDS} --autocheckpoint 20");
    Workload::start(&daemon.database(&client), &acks, &arguments).finish();
    daemon.sync(&client);
    let acknowledged = acknowledged(&acks);
    assert!(acknowledged.len() > 1_000, "{}", acknowledged.len());
    let moments = daemon.generations(&client)[0]["moments"].clone();
    let objects = moments.as_array().map_or(0, Vec::len) as u64;
    // Of each interval the one that may be on its way, and one for the rest; more where a round comes late.
    assert!(objects <= 5 * SECONDS, "{objects} objects");
    assert_has_all(&daemon.restore(&client, &[], "restored.db"), &acknowledged);
}

#[test]
fn four_writers_on_four_databases() {
    four_writers(Options::served(Served::LogsPassed), 4, "");
}

#[test]
fn four_writers_on_one_database() {
    four_writers(Options::served(Served::LogsPassed), 1, "");
}

#[test]
fn four_writers_on_four_databases_without_passthrough() {
    four_writers(Options::served(Served::ByDaemon), 4, "");
}

#[test]
fn four_writers_on_one_database_without_passthrough() {
    four_writers(Options::served(Served::ByDaemon), 1, "");
}

#[test]
fn four_writers_with_every_kind_of_step() {
    four_writers(Options::served(Served::LogsPassed), 2, ALL_STEPS);
}

#[test]
fn four_writers_with_every_kind_of_step_without_passthrough() {
    four_writers(Options::served(Served::ByDaemon), 2, ALL_STEPS);
}

#[test]
fn four_writers_with_every_kind_of_step_intercepted() {
    four_writers(Options::served(Served::LogsIntercepted), 2, ALL_STEPS);
}

/// Nothing is lost between a checkpoint and the reset of the log that follows: every commit is a transaction of the history.
fn each_commit_is_captured_once(capture: &str, synchronous: &str) {
    let daemon = Daemon::start(Options {
        // A debug build takes long to capture what three writers make at full speed.
        config: format!("mount: {{capture: {capture}, gateTimeout: 60s}}\n"),
        ..Options::default()
    });
    assert_eq!(daemon.get("/api/health").1["mounts"][0]["capture"], capture);
    let client = guid(1);
    let database = daemon.database(&client);
    // Makes the tables, and is the first snapshot.
    let first = daemon.path("first");
    Workload::start(&database, &first, "--transactions 1").finish();
    let before = daemon.sync(&client);
    let acks = daemon.path("acks");
    let writers: Vec<_> = (1..=3)
        .map(|seed| {
            let autocheckpoint = [7, 20, 50][seed % 3];
            let writing = format!(
                "--seconds 3 --seed {seed} --synchronous {synchronous} --autocheckpoint {autocheckpoint} \
                 --steps insert,insert,update,rollback,checkpoint-passive,checkpoint-full,checkpoint-restart,checkpoint-truncate"
            );
            Workload::start(&database, &acks, &writing)
        })
        .collect();
    writers.into_iter().for_each(Workload::finish);
    let commits = acknowledged(&acks).len() as u64;
    assert!(commits > 100, "{commits}");
    let log = daemon.log.text();
    assert_eq!(
        daemon.sync(&client),
        before + commits,
        "{synchronous}: {log}"
    );
    assert!(!log.contains("has to be compared page by page"), "{log}");
    let metrics = daemon.metrics();
    assert!(
        metrics.contains("litestream_gates_missed_total 0\n"),
        "{metrics}"
    );
    let restored = daemon.restore(&client, &[], "restored.db");
    sqlite::assert_same(&database, &restored);
}

#[test]
fn each_commit_is_captured_once_where_the_kernel_passes_logs_through() {
    for synchronous in ["off", "normal", "full"] {
        each_commit_is_captured_once("passthrough", synchronous);
    }
}

#[test]
fn each_commit_is_captured_once_where_logs_go_through_the_daemon() {
    for synchronous in ["off", "normal", "full"] {
        each_commit_is_captured_once("intercept", synchronous);
    }
}
