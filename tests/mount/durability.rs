//! Commits that wait for the store: what was acknowledged is there whoever dies, and a store that does not answer in
//! time lets them go on, or fail.

use std::time::{Duration, Instant};

use super::outages::remote_store;
use super::support::daemon::{Daemon, Options, S3, guid};
use super::support::proxy::Fault;
use super::support::sqlite::{self, Session};
use super::support::workload::{Workload, acknowledged, assert_has_all};

/// Spilled transactions, rollbacks and resets among the commits.
const WRITING: &str = "--seconds 100 --autocheckpoint 40 --cache-pages 10 --rows 40 --row-bytes 900 \
     --steps insert,update,delete,rollback,savepoint,checkpoint-restart,checkpoint-truncate,reopen";

fn waiting(store: Option<S3>, more: &'static str) -> Daemon {
    Daemon::start(Options {
        // The interval is not waited for.
        sync_interval: "1h",
        tenant_defaults: more,
        store,
        time_limit: Duration::from_secs(150),
        ..Options::default()
    })
}

fn kills(synchronous: &str, flags: &[&str]) {
    let mut daemon = waiting(None, ", durability: store, durabilityTimeout: 30s");
    if !flags.is_empty() {
        daemon.add_flags(flags.iter().map(|flag| (*flag).to_owned()));
        daemon.terminate();
        daemon.restart();
    }
    let client = guid(1);
    let database = daemon.database(&client);
    for round in 0..4 {
        let acks = daemon.path(&format!("acks-{round}"));
        let writing = format!("{WRITING} --synchronous {synchronous} --seed {}", round + 1);
        let writer = Workload::start(&database, &acks, &writing);
        writer.wait_for_acks(30 + round);
        daemon.kill9();
        // Nobody has asked for a sync.
        let restored = daemon.restore(&client, &[], &format!("killed-{round}.db"));
        assert_has_all(&restored, &acknowledged(&acks));
        writer.kill9();
        daemon.restart();
        daemon.sync(&client);
        let restored = daemon.restore(&client, &[], &format!("settled-{round}.db"));
        assert_has_all(&restored, &acknowledged(&acks));
        sqlite::assert_same(&database, &restored);
    }
    daemon.command(&["verify"], |_| {});
    assert!(daemon.terminate().success());
}

#[test]
fn what_was_acknowledged_is_in_the_store_when_the_daemon_is_killed() {
    kills("normal", &[]);
}

#[test]
fn it_is_in_every_way_of_writing() {
    kills("full", &[]);
    kills("off", &["-no-passthrough"]);
}

/// A commit returns when the store has answered, and not before; readers do not wait.
#[test]
fn a_commit_takes_as_long_as_its_store() {
    let (_server, proxy, store) = remote_store(Fault::None);
    let daemon = waiting(Some(store), ", durability: store, durabilityTimeout: 20s");
    let mut session = Session::open(&daemon.database(&guid(1)));
    session.run("PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES (0);");
    let mut reader = Session::open(&daemon.database(&guid(1)));
    reader.run("SELECT count(*) FROM t;");
    proxy.set(Fault::Answer(503, "SlowDown"));
    std::thread::scope(|scope| {
        let insert = scope.spawn(|| {
            session.run("INSERT INTO t VALUES (1);");
            Instant::now()
        });
        daemon.wait_health(&guid(1), |health| health["syncErrors"].as_u64() >= Some(2));
        // It sees what was committed before, at once.
        let begun = Instant::now();
        assert_eq!(reader.run("SELECT count(*) FROM t;"), "1");
        assert!(
            begun.elapsed() < Duration::from_secs(2),
            "{:?}",
            begun.elapsed()
        );
        let healthy = Instant::now();
        proxy.set(Fault::None);
        assert!(
            insert.join().expect("no panic") > healthy,
            "it did not wait"
        );
    });
    assert_eq!(session.run("SELECT count(*) FROM t;"), "2");
    let restored = daemon.restore(&guid(1), &[], "restored.db");
    assert_eq!(sqlite::query(&restored, "SELECT max(x) FROM t"), "1");
}

#[test]
fn a_commit_that_the_store_does_not_take_in_time_goes_on_and_says_so() {
    let (_server, proxy, store) = remote_store(Fault::None);
    let daemon = waiting(Some(store), ", durability: store, durabilityTimeout: 500ms");
    let client = guid(1);
    let mut session = Session::open(&daemon.database(&client));
    session.run("PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES (0);");
    proxy.set(Fault::Answer(503, "SlowDown"));
    let begun = Instant::now();
    session.run("INSERT INTO t VALUES (1);");
    assert!(
        begun.elapsed() >= Duration::from_millis(500),
        "{:?}",
        begun.elapsed()
    );
    let deadline = Instant::now() + Duration::from_secs(10);
    let warned = daemon.log.wait_from(
        0,
        "A commit went on without the store; those of this database are on local disk alone until the store has caught up",
        deadline,
    );
    assert_eq!(warned["client"], client.as_str());
    // Not each of them waits as long again.
    let begun = Instant::now();
    for n in 2..12 {
        session.run(&format!("INSERT INTO t VALUES ({n});"));
    }
    assert!(
        begun.elapsed() < Duration::from_secs(4),
        "{:?}",
        begun.elapsed()
    );
    let metrics = daemon.metrics();
    assert!(
        metrics.contains("litestream_durability_timeouts_total 1\n"),
        "{metrics}"
    );

    proxy.set(Fault::None);
    let deadline = Instant::now() + Duration::from_secs(30);
    daemon
        .log
        .wait_from(0, "Commits wait for the store again", deadline);
    session.run("INSERT INTO t VALUES (99);");
    let restored = daemon.restore(&client, &[], "restored.db");
    assert_eq!(
        sqlite::query(&restored, "SELECT count(*), max(x) FROM t"),
        "13|99"
    );
    assert!(daemon.health(&client)["lastError"].is_null());
}

#[test]
fn a_commit_that_the_store_does_not_take_in_time_fails_where_that_is_asked_for() {
    let (_server, proxy, store) = remote_store(Fault::None);
    let more = ", durability: store, durabilityTimeout: 500ms, onDurabilityTimeout: error";
    let daemon = waiting(Some(store), more);
    // What failed is compared, and the log may begin anew before that.
    daemon.may_miss_gates();
    let client = guid(1);
    let database = daemon.database(&client);
    let mut session = Session::open(&database);
    session.run("PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES (0);");
    for fault in [Fault::Answer(503, "SlowDown"), Fault::LoseEveryAnswer] {
        proxy.set(fault);
        let begun = Instant::now();
        // Its error goes to the standard error output; the next one sees that nothing is committed.
        session.run("INSERT INTO t VALUES (1);");
        assert!(begun.elapsed() >= Duration::from_millis(500), "{fault:?}");
        assert_eq!(session.run("SELECT count(*) FROM t;"), "1", "{fault:?}");
        assert_eq!(
            sqlite::query(&database, "SELECT count(*) FROM t"),
            "1",
            "{fault:?}"
        );
    }
    proxy.set(Fault::None);
    daemon.sync(&client);
    let restored = daemon.restore(&client, &[], "retracted.db");
    sqlite::assert_same(&database, &restored);
    session.run("INSERT INTO t VALUES (2);");
    let restored = daemon.restore(&client, &[], "restored.db");
    assert_eq!(
        sqlite::query(&restored, "SELECT group_concat(x) FROM t"),
        "0,2"
    );
}

/// The store has a commit whose writer died before it was published: the other connections never see it, nor does the
/// replica keep it.
#[test]
fn a_commit_whose_writer_dies_while_it_waits_is_taken_back() {
    let (_server, proxy, store) = remote_store(Fault::None);
    let daemon = waiting(Some(store), ", durability: store, durabilityTimeout: 20s");
    let client = guid(1);
    let database = daemon.database(&client);
    let mut live = Session::open(&database);
    live.run("PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES (0);");
    let acks = daemon.path("acks");
    proxy.set(Fault::Answer(503, "SlowDown"));
    let writer = Workload::start(&database, &acks, "--transactions 1");
    daemon.wait_health(&client, |health| health["syncErrors"].as_u64() >= Some(2));
    let dying = std::thread::spawn(move || writer.kill9());
    proxy.set(Fault::None);
    dying.join().expect("it has ended");
    assert_eq!(
        live.run("SELECT count(*) FROM sqlite_schema;"),
        "1",
        "it was published"
    );

    let begun = Instant::now();
    live.run("INSERT INTO t VALUES (1);");
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(live.run("SELECT group_concat(x) FROM t;"), "0,1");
    daemon.sync(&client);
    let restored = daemon.restore(&client, &[], "restored.db");
    sqlite::assert_same(&database, &restored);
    daemon.command(&["verify"], |_| {});
}

#[test]
fn a_rollback_journal_can_not_wait_and_health_says_so() {
    let daemon = Daemon::start(Options {
        tenant_defaults: ", durability: store",
        ..Options::default()
    });
    let client = guid(1);
    let database = daemon.database(&client);
    sqlite::query(&database, "CREATE TABLE t(x); INSERT INTO t VALUES (1)");
    let said = |health: &serde_json::Value| {
        let error = health["lastError"].as_str();
        error.is_some_and(|error| error.starts_with("durability: commits of a rollback journal"))
    };
    daemon.wait_health(&client, said);
    sqlite::query(
        &database,
        "PRAGMA journal_mode=WAL; INSERT INTO t VALUES (2)",
    );
    daemon.wait_health(&client, |health| health["lastError"].is_null());
    let restored = daemon.restore(&client, &[], "restored.db");
    sqlite::assert_same(&database, &restored);
}
