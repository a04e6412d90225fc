//! Two instances with one bucket and one database's name: who replicates it, and what each says of the other.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::support::daemon::{Daemon, Options, S3, guid};
use super::support::s3::S3Server;
use super::support::sqlite;

const CREATE: &str = "PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES (1)";

fn daemon(server: &S3Server, tenant_defaults: &'static str) -> Daemon {
    Daemon::start(Options {
        store: Some(S3 {
            endpoint: server.endpoint.clone(),
            bucket: server.bucket.clone(),
            access_key: server.access_key.clone(),
            secret_key: server.secret_key.clone(),
        }),
        tenant_defaults,
        ..Options::default()
    })
}

fn write(daemon: &Daemon, client: &str, sql: &str) {
    sqlite::query(&daemon.database(client), sql);
    daemon.sync(client);
}

fn sees_rival(health: &Value) -> bool {
    let error = health["lastError"].as_str().unwrap_or_default();
    health["status"] == "failing" && error.starts_with("two_writers: ")
}

/// Writes until health is as it should be.
fn write_until(daemon: &Daemon, client: &str, what: &str, accepted: impl Fn(&Value) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        write(daemon, client, "INSERT INTO t VALUES (7)");
        let health = daemon.health(client);
        if accepted(&health) {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{what}: {health}\n{}",
            daemon.log.text()
        );
        std::thread::park_timeout(Duration::from_millis(50));
    }
}

fn assert_newest_is(daemon: &Daemon, client: &str, name: &str) {
    let restored = daemon.restore(client, &[], name);
    sqlite::assert_same(&daemon.database(client), &restored);
}

#[test]
fn two_that_write_see_each_other_and_the_one_that_stays_recovers() {
    let server = S3Server::start();
    let often = ", snapshotInterval: 700ms";
    let (first, mut second) = (daemon(&server, often), daemon(&server, often));
    let client = guid(1);
    write(&first, &client, CREATE);
    // The second one finds a replica, and goes on after it: it may have been moved.
    write(&second, &client, CREATE);
    assert!(!sees_rival(&second.health(&client)));
    write_until(&first, &client, "the first sees the second", sees_rival);
    write_until(&second, &client, "the second sees the first", sees_rival);
    let (_, instance) = second.get("/api/health");
    assert_eq!(instance["status"], "degraded");
    let told = "Two instances replicate the same database";
    assert!(first.log.text().contains(told));

    assert!(second.terminate().success());
    write_until(&first, &client, "the first is alone", |health| {
        health["status"] == "active"
    });
    assert_newest_is(&first, &client, "newest.db");
    first.command(&["verify"], |_| {});
}

/// Nobody writes at the same time: a move there, and back, is no fault, and the newest state is the newest in the store.
#[test]
fn a_database_that_moves_there_and_back_goes_on_in_new_generations() {
    let server = S3Server::start();
    let often = ", snapshotInterval: 300ms";
    let (mut first, mut second) = (daemon(&server, often), daemon(&server, often));
    let client = guid(1);
    write(&first, &client, CREATE);
    assert!(first.terminate().success());
    fs::copy(first.database(&client), second.database(&client)).expect("a copy");
    write(&second, &client, "INSERT INTO t VALUES (2)");
    assert_newest_is(&second, &client, "second.db");
    assert!(second.terminate().success());
    first.restart();
    let deadline = Instant::now() + Duration::from_secs(20);
    while first.generations(&client).len() < 3 {
        assert!(Instant::now() < deadline, "{}", first.log.text());
        write(&first, &client, "INSERT INTO t VALUES (3)");
        assert!(!sees_rival(&first.health(&client)));
    }
    write(&first, &client, "INSERT INTO t VALUES (4)");
    assert_newest_is(&first, &client, "first.db");
    assert_eq!(first.health(&client)["status"], "active");
}
