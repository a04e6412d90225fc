//! Mount, write, sync, restore, compare; and again after a stop and after a kill.

use std::fs;
use std::io::Read;
use std::process::Command;
use std::time::{Duration, Instant};

use super::support::daemon::{Daemon, Options, Served, guid, names};
use super::support::process::output;
use super::support::sqlite::Session;
use super::support::workload::{Workload, acknowledged, assert_has_all};
use super::support::{mounts, sqlite};

#[test]
fn what_is_written_is_restored() {
    let mut daemon = Daemon::start(Options::default());
    let client = guid(1);
    let database = daemon.database(&client);
    let acks = daemon.path("acks");
    Workload::start(&database, &acks, "--transactions 200").finish();
    std::fs::write(daemon.data().join("notes.txt"), "not a database").expect("a plain file");

    daemon.log.wait_from(
        0,
        &format!("New client registered: {client}"),
        Instant::now() + Duration::from_secs(5),
    );
    let txid = daemon.sync(&client);
    let health = daemon.health(&client);
    assert_eq!(health["replicatedTxid"], txid, "{health}");
    assert_eq!(health["replicationLagMs"], 0, "{health}");
    assert_eq!(health["status"], "active", "{health}");
    assert!(daemon.metrics().contains(&format!(
        "litestream_databases_active{{client=\"{client}\"}} 1"
    )));
    assert_eq!(daemon.get("/api/databases").1["total"], 1);

    let restored = daemon.restore(&client, &[], "restored.db");
    assert_has_all(&restored, &acknowledged(&acks));
    sqlite::assert_same(&database, &restored);
    daemon.command(&["verify"], |_| {});
    let listed = daemon.command(&["list", "-json"], |_| {});
    assert!(listed.contains(&client), "{listed}");

    assert!(daemon.terminate().success());
    assert_eq!(mounts::connection_at(&daemon.data()), None);
    sqlite::assert_same(&database, &restored);
}

#[test]
fn a_kill_loses_nothing_that_was_acknowledged() {
    let mut daemon = Daemon::start(Options::default());
    let client = guid(2);
    let database = daemon.database(&client);
    let acks = daemon.path("acks");
    let writer = Workload::start(&database, &acks, "--seconds 60 --synchronous full");
    writer.wait_for_acks(50);
    daemon.kill9();
    writer.kill9();
    daemon.restart();
    daemon.wait_health(&client, |health| health["status"] == "active");
    Workload::start(&database, &acks, "--transactions 20").finish();
    daemon.sync(&client);
    let restored = daemon.restore(&client, &[], "restored.db");
    assert_has_all(&restored, &acknowledged(&acks));
    sqlite::assert_same(&database, &restored);
}

#[test]
fn a_second_daemon_over_the_same_directory_is_refused() {
    let daemon = Daemon::start(Options::default());
    let refused = output(&mut daemon.mount_command());
    let text = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{text}");
    let last = text.lines().last().unwrap_or_default();
    assert!(last.starts_with("litestream-multitenant: "), "{text}");
    let alive = Command::new("test")
        .arg("-d")
        .arg(format!("/proc/{}", daemon.pid()))
        .status()
        .expect("test is a program");
    assert!(alive.success(), "the first daemon goes on");
    assert!(!names(&daemon.data()).contains(&".litestream-multitenant".to_owned()));
}

/// Its file is empty at the first look; the one that finds its first commit does not come an interval later.
#[test]
fn a_new_database_is_in_the_store_long_before_its_first_interval_ends() {
    let daemon = Daemon::start(Options {
        sync_interval: "60s",
        ..Options::default()
    });
    let client = guid(1);
    let mut session = Session::open(&daemon.database(&client));
    session.run("PRAGMA journal_mode = WAL; CREATE TABLE t (a); INSERT INTO t VALUES (1);");
    // The time limit of that is 30 s.
    daemon.wait_health(&client, |health| health["replicatedTxid"] != 0);
}

/// A large transaction is read, summed and compressed while its log is synced; its gate gives what was made of it a name.
#[test]
fn a_large_commit_is_made_ready_before_its_checkpoint_asks_for_it() {
    for served in Served::ALL {
        let mut daemon = Daemon::prepare(Options {
            sync_interval: "1h",
            ..Options::served(served)
        });
        let state = daemon.path("state");
        daemon.add_flag("-state-dir", &state);
        daemon.restart();
        let client = guid(1);
        let database = daemon.database(&client);
        let mut session = Session::open(&database);
        session
            .run("PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0; CREATE TABLE t (a);");
        daemon.sync(&client);
        let of_path = names(&state);
        assert_eq!(of_path.len(), 1, "{of_path:?}");
        let spool = state.join(&of_path[0]).join("spool");
        // Open, it can be read also when it was stored and is gone.
        let made = || {
            let mut names = names(&spool).into_iter();
            let name = names.find(|name| name.ends_with("-ahead.tmp"))?;
            fs::File::open(spool.join(name)).ok()
        };
        session.run(
            "PRAGMA synchronous = FULL; WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)
             INSERT INTO t SELECT randomblob(3000) FROM n;",
        );
        let mut ahead = None;
        if Served::PASSED.contains(&served) {
            daemon.wait_for(Duration::from_secs(10), "what is made ahead", || {
                ahead = made();
                ahead.is_some()
            });
        } else {
            // Nothing but the chain says what is committed, so that all of it would have to be read again.
            std::thread::sleep(Duration::from_millis(300));
            assert!(made().is_none());
        }
        session.run("PRAGMA wal_checkpoint(TRUNCATE);");
        assert!(made().is_none(), "it is captured");
        daemon.sync(&client);
        if let Some(mut ahead) = ahead {
            let mut bytes = Vec::new();
            ahead.read_to_end(&mut bytes).expect("read");
            let log = daemon.path("store/databases").join(&client).join("wal");
            let generation = log.join(&names(&log)[0]);
            let stored = names(&generation).into_iter();
            let mut stored = stored.map(|name| fs::read(generation.join(name)).expect("read"));
            assert!(stored.any(|object| object == bytes), "it is what is stored");
        }
        let restored = daemon.restore(&client, &[], "restored.db");
        sqlite::assert_same(&database, &restored);
    }
}
