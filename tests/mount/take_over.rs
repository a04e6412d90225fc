//! A first start over databases that were there before: the smallest first, at a bounded pace, with its progress in health;
//! and the share of the processor that a tenant may use.

use std::fs;
use std::time::{Duration, Instant};

use super::support::daemon::{Daemon, Options, guid};
use super::support::sqlite::{self, Session};

const CREATE: &str = "PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES (1)";
/// More than are taken over in one second.
const MANY: u32 = 1_200;

/// The clients in the order in which their first snapshots were stored.
fn taken_over(log: &str) -> Vec<String> {
    log.lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|line| line["message"] == "Snapshot stored")
        .map(|line| line["client"].as_str().expect("a client").to_owned())
        .collect()
}

fn copies(daemon: &Daemon, count: u32) {
    let first = daemon.path("first.db");
    sqlite::query(&first, CREATE);
    for n in 0..count {
        fs::copy(&first, daemon.database(&guid(n))).expect("a copy");
    }
}

#[test]
fn many_databases_are_taken_over_at_a_pace_and_health_says_how_far() {
    let mut daemon = Daemon::prepare(Options::default());
    daemon.configure("limits: {maxTenantsPerInstance: 5000}".to_owned());
    copies(&daemon, MANY);
    daemon.restart();
    let begun = Instant::now();
    let (_, health) = daemon.get("/api/health");
    let progress = &health["mounts"][0]["takeOver"];
    assert_eq!(progress["total"], MANY, "{health}");
    assert!(
        progress["done"].as_u64().expect("a number") < u64::from(MANY),
        "{health}"
    );
    loop {
        let (_, health) = daemon.get("/api/health");
        if health["mounts"][0]["takeOver"].is_null() {
            assert_eq!(health["status"], "ok", "{health}");
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{health}");
        std::thread::park_timeout(Duration::from_millis(100));
    }
    assert!(
        begun.elapsed() >= Duration::from_secs(1),
        "it keeps to a pace"
    );
    let (_, clients) = daemon.get("/api/health/clients");
    let clients = clients["clients"].as_array().expect("a list");
    assert!(clients.iter().all(|client| client["replicatedTxid"] == 1));
    assert!(daemon.terminate().success());

    // Known ones are not taken over again.
    let mark = daemon.log.mark();
    daemon.restart();
    let (_, health) = daemon.get("/api/health");
    assert_eq!(health["mounts"][0]["takeOver"], serde_json::Value::Null);
    assert!(taken_over(&daemon.log.text_from(mark)).is_empty());
}

#[test]
fn one_that_is_written_does_not_wait_for_its_turn() {
    let mut daemon = Daemon::prepare(Options::default());
    daemon.configure("limits: {maxTenantsPerInstance: 5000}".to_owned());
    copies(&daemon, MANY);
    // The largest has the last turn.
    let last = guid(MANY);
    let database = daemon.database(&last);
    sqlite::query(&database, CREATE);
    sqlite::query(&database, GROW);
    daemon.restart();
    sqlite::query(&database, "INSERT INTO t VALUES ('written')");
    daemon.sync(&last);
    let (_, health) = daemon.get("/api/health");
    let progress = &health["mounts"][0]["takeOver"];
    assert!(
        progress["done"].as_u64().expect("it lasts") < u64::from(MANY),
        "{health}"
    );
    let restored = daemon.restore(&last, &[], "restored.db");
    sqlite::assert_same(&database, &restored);
}

#[test]
fn nobody_waits_for_those_that_are_not_replicated() {
    let mut daemon = Daemon::prepare(Options {
        tenant_defaults: ", enabled: false",
        ..Options::default()
    });
    copies(&daemon, 40);
    let last = guid(39);
    daemon.configure(format!("tenants: [{{tenantId: {last}, enabled: true}}]"));
    daemon.restart();
    let begun = Instant::now();
    daemon.wait_health(&last, |health| health["replicatedTxid"] == 1);
    assert!(
        begun.elapsed() < Duration::from_secs(8),
        "{:?}",
        begun.elapsed()
    );
    let (_, health) = daemon.get("/api/health");
    assert_eq!(
        (&health["counts"]["paused"], &health["status"]),
        (&39.into(), &"ok".into())
    );
}

#[test]
fn a_tenants_work_keeps_to_its_share_of_the_processor() {
    let mut daemon = Daemon::prepare(Options::default());
    let (slow, quick) = (guid(1), guid(2));
    daemon.configure(format!(
        "tenants: [{{tenantId: {slow}, cpuPercentPerTenant: 1}}]"
    ));
    daemon.restart();
    let time = |client: &str| {
        // It stays open, so that nothing has to be captured before it is overwritten: that is not held up.
        let mut session = Session::open(&daemon.database(client));
        session.run(&format!("PRAGMA wal_autocheckpoint=0; {CREATE};"));
        let begun = Instant::now();
        for _ in 0..3 {
            session.run(GROW);
            daemon.sync(client);
        }
        begun.elapsed()
    };
    let (with_limit, without) = (time(&slow), time(&quick));
    assert!(
        with_limit > 2 * without,
        "{with_limit:?} with a hundredth of a core, {without:?} without a limit"
    );
}

const GROW: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 400)
                    INSERT INTO t SELECT randomblob(4000) FROM n;";
