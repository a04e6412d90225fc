//! What changes while a client is known: its place in a store, its admission, its registration by hand, its directory, its
//! terms. Nothing of it may be lost or mixed on the way.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::support::daemon::{Daemon, Options, guid, names};
use super::support::sqlite::{self, Session};

const CREATE: &str = "PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES (1)";

impl Daemon {
    /// Has it read another configuration while it runs, and waits until it says this of it.
    fn reload(&mut self, config: String, message: &str) {
        self.configure(config);
        let mark = self.log.mark();
        self.signal(libc::SIGHUP);
        let soon = Instant::now() + Duration::from_secs(10);
        self.log.wait_from(mark, message, soon);
    }

    fn assert_restored(&self, client: &str, database: &Path, name: &str) {
        let restored = self.restore(client, &[], name);
        sqlite::assert_same(database, &restored);
    }

    fn route(&self, client: &str, rest: &str) -> String {
        format!("/api/databases/{client}/{client}{rest}")
    }
}

fn is_stored(health: &Value) -> bool {
    health["status"] == "active" && health["replicatedTxid"].as_u64() > Some(0)
}

const READ_AGAIN: &str = "The configuration was read again";

#[test]
fn a_replica_begins_anew_where_its_place_is_another_one() {
    let mut daemon = Daemon::start(Options::default());
    let client = guid(1);
    let database = daemon.database(&client);
    sqlite::query(&database, CREATE);
    daemon.sync(&client);
    let before = daemon.path("store/databases").join(&client);

    // While it runs its objects go on to where its snapshot is.
    let own = daemon.path("own");
    let config = format!(
        "tenants: [{{tenantId: {client}, s3Config: {{bucket: 'file://{}'}}}}]",
        own.display()
    );
    daemon.reload(
        config.clone(),
        "Replicas can't change their place while it runs; the present configuration holds on until the next start",
    );
    sqlite::query(&database, "INSERT INTO t VALUES (2)");
    daemon.sync(&client);
    assert_eq!(names(&before.join("wal")).len(), 1, "it has gone on there");
    assert!(!own.exists());
    // A tenant that has no databases yet may get a store of its own.
    let other = guid(2);
    daemon.reload(config.replace(&client, &other), READ_AGAIN);
    sqlite::query(&daemon.database(&other), CREATE);
    daemon.sync(&other);
    daemon.assert_restored(&other, &daemon.database(&other), "other.db");
    fs::remove_file(daemon.database(&other)).expect("removed");

    // Unchanged, and yet not at the new place: one that was named, then in another store, then back.
    let named = format!(
        "clients: [{{clientId: {client}, dbPath: '{}', s3Prefix: else/where}}]",
        database.display()
    );
    let places = [
        (named.clone(), daemon.path("store/else/where")),
        (config, own.join("databases").join(&client)),
        (named, daemon.path("store/else/where")),
    ];
    for (n, (config, place)) in places.into_iter().enumerate() {
        assert!(daemon.terminate().success());
        daemon.configure(config);
        daemon.restart();
        daemon.wait_health(&client, is_stored);
        daemon.sync(&client);
        assert!(place.join("snapshots").exists(), "{}", daemon.log.text());
        sqlite::query(&database, &format!("INSERT INTO t VALUES ('again {n}')"));
        daemon.sync(&client);
        if n != 1 {
            daemon.assert_restored(&client, &database, &format!("restored-{n}.db"));
        }
    }
    assert_eq!(daemon.generations(&client).len(), 2, "it was there twice");
    assert!(before.join("snapshots").exists(), "what was there stays");
    let removed = daemon.path("store/registry/removed");
    daemon.wait_for(Duration::from_secs(20), "it is told", || {
        removed.exists() && names(&removed).contains(&format!("databases%2F{client}"))
    });
}

#[test]
fn whoever_is_admitted_later_is_captured_as_it_is_then() {
    let mut daemon = Daemon::prepare(Options {
        watch_paths: &["staging"],
        ..Options::default()
    });
    let (first, second) = (guid(1), guid(2));
    let limited = "limits: {maxTenantsPerInstance: 1}";
    daemon.configure(limited.to_owned());
    daemon.restart();
    sqlite::query(&daemon.database(&first), CREATE);
    daemon.sync(&first);
    let below_another = daemon.path("staging").join(format!("{second}.db"));
    sqlite::query(&below_another, CREATE);
    sqlite::query(
        &below_another,
        "CREATE TABLE u(y); INSERT INTO u SELECT randomblob(3000) FROM generate_series(1, 9)",
    );
    daemon.wait_health(&second, |health| health["status"] == "refused");
    // Nobody writes to it any more, nor asks for it.
    fs::remove_file(daemon.database(&first)).expect("removed");
    daemon.wait_health(&second, is_stored);
    daemon.assert_restored(&format!("staging/{second}"), &below_another, "second.db");
    assert!(daemon.terminate().success());

    // Refused after a restart, with a history that what is written meanwhile does not follow.
    sqlite::query(&daemon.database(&first), CREATE);
    daemon.configure("limits: {maxTenantsPerInstance: 2}".to_owned());
    daemon.restart();
    daemon.wait_health(&first, is_stored);
    assert!(daemon.terminate().success());
    daemon.configure(limited.to_owned());
    daemon.restart();
    assert_eq!(daemon.health(&second)["status"], "refused");
    // The closing connection takes its log away.
    sqlite::query(&below_another, "UPDATE u SET y = randomblob(3000)");
    let mut open = Session::open(&below_another);
    open.run("INSERT INTO t VALUES (2);");
    daemon.reload("limits: {maxTenantsPerInstance: 5}".to_owned(), READ_AGAIN);
    daemon.wait_health(&second, is_stored);
    open.run("INSERT INTO t VALUES (3);");
    let (status, json) = daemon.post(&daemon.route(&second, "/sync"));
    assert_eq!(status, 200, "{json}");
    daemon.assert_restored(&format!("staging/{second}"), &below_another, "admitted.db");
}

#[test]
fn what_was_unregistered_comes_back_when_its_file_is_made_anew() {
    let mut daemon = Daemon::prepare(Options::default());
    let named = daemon.data().join("named.dat");
    daemon.configure(format!(
        "clients: [{{clientId: named, dbPath: '{}'}}]",
        named.display()
    ));
    daemon.restart();
    // Before it had a file.
    assert_eq!(daemon.send("DELETE", &daemon.route("named", ""), "").0, 204);
    sqlite::query(&named, CREATE);
    daemon.sync("named");

    // One that only a registration by hand names.
    let by_hand = daemon.data().join("orders.dat");
    let body = json!({"tenantId": "acme", "dbPath": by_hand}).to_string();
    assert_eq!(daemon.send("POST", "/api/databases", &body).0, 201);
    sqlite::query(&by_hand, CREATE);
    let route = "/api/databases/acme/orders";
    assert_eq!(daemon.post(&format!("{route}/sync")).0, 200);
    assert_eq!(daemon.send("DELETE", route, "").0, 204);
    sqlite::query(&by_hand, "INSERT INTO t VALUES (2)");
    assert_eq!(daemon.post(&format!("{route}/sync")).0, 404);
    // A death in between changes nothing.
    daemon.kill9();
    daemon.restart();
    assert_eq!(daemon.post(&format!("{route}/sync")).0, 404, "it stays so");
    fs::remove_file(&by_hand).expect("removed");
    sqlite::query(&by_hand, &CREATE.replace("(1)", "('anew')"));
    assert_eq!(daemon.post(&format!("{route}/sync")).0, 200);
    daemon.assert_restored("acme/orders", &by_hand, "anew.db");
    assert_eq!(daemon.generations("acme/orders").len(), 2);
}

#[test]
fn a_directory_that_comes_under_a_tenants_name_brings_its_databases() {
    let daemon = Daemon::start(Options {
        discovery: ", tenantRegex: '/live/(?P<tenant>[^/]+)/'",
        ..Options::default()
    });
    for folder in ["live", "aside", "aside/acme"] {
        fs::create_dir(daemon.data().join(folder)).expect("a directory");
    }
    sqlite::query(&daemon.data().join("aside/acme/orders.db"), CREATE);
    let live = daemon.data().join("live/acme");
    fs::rename(daemon.data().join("aside/acme"), &live).expect("renamed");
    assert_eq!(daemon.post("/api/databases/acme/orders/sync").0, 200);
    daemon.assert_restored("acme/orders", &live.join("orders.db"), "orders.db");
    // And takes them away again.
    fs::rename(&live, daemon.data().join("aside/acme")).expect("renamed");
    assert_eq!(daemon.post("/api/databases/acme/orders/sync").0, 404);
}

#[test]
fn what_was_committed_last_is_kept_when_the_database_is_removed() {
    let daemon = Daemon::start(Options {
        sync_interval: "1h",
        ..Options::default()
    });
    let client = guid(1);
    let database = daemon.database(&client);
    let mut open = Session::open(&database);
    open.run(&format!("{CREATE};"));
    daemon.sync(&client);
    for n in 2..=5 {
        open.run(&format!("INSERT INTO t VALUES ({n});"));
    }
    fs::remove_file(&database).expect("removed");
    let deadline = Instant::now() + Duration::from_secs(10);
    let rows = |n: u32| {
        let restored = daemon.restore(&client, &[], &format!("removed-{n}.db"));
        sqlite::query(&restored, "SELECT count(*) FROM t")
    };
    let mut n = 0;
    while rows(n) != "5" {
        n += 1;
        assert!(Instant::now() < deadline, "{}", daemon.log.text());
    }
}

#[test]
fn what_a_removed_database_left_is_stored_after_a_death() {
    let mut daemon = Daemon::start(Options::default());
    // Where nobody has the database open, the end of its log can't be told from what nobody has seen.
    daemon.may_miss_gates();
    let client = guid(1);
    let database = daemon.database(&client);
    let mut open = Session::open(&database);
    open.run(&format!("{CREATE};"));
    daemon.sync(&client);
    // The store is out of reach.
    let (store, aside) = (daemon.path("store"), daemon.path("aside"));
    fs::rename(&store, &aside).expect("renamed");
    fs::write(&store, "").expect("a file in its place");
    for n in 2..=5 {
        open.run(&format!("INSERT INTO t VALUES ({n});"));
    }
    fs::remove_file(&database).expect("removed");
    drop(open);
    // Its successor has nothing to do with it.
    sqlite::query(&database, &CREATE.replace("(1)", "('anew')"));
    daemon.kill9();
    fs::remove_file(&store).expect("removed");
    fs::rename(&aside, &store).expect("renamed");
    daemon.restart();
    daemon.sync(&client);
    let deadline = Instant::now() + Duration::from_secs(10);
    let generation = daemon.generations(&client)[0]["id"].clone();
    let generation = generation.as_str().expect("text");
    let mut n = 0;
    let rows = |n: u32| {
        let flags = ["--generation", generation];
        let restored = daemon.restore(&client, &flags, &format!("left-{n}.db"));
        sqlite::query(&restored, "SELECT count(*) FROM t")
    };
    while rows(n) != "5" {
        n += 1;
        assert!(Instant::now() < deadline, "{}", daemon.log.text());
    }
    daemon.assert_restored(&client, &database, "anew.db");
    assert_eq!(daemon.generations(&client).len(), 2);
    assert!(daemon.terminate().success());
}

#[test]
fn a_pause_outlives_the_absence_of_the_file() {
    let mut daemon = Daemon::start(Options::default());
    let client = guid(1);
    let database = daemon.database(&client);
    sqlite::query(&database, CREATE);
    daemon.sync(&client);
    let paused = r#"{"status":"paused"}"#;
    let route = daemon.route(&client, "/status");
    assert_eq!(daemon.send("PUT", &route, paused).0, 200);
    assert!(daemon.terminate().success());
    let aside = daemon.path("aside.db");
    fs::rename(&database, &aside).expect("moved away");
    daemon.restart();
    assert_eq!(daemon.health(&client)["status"], "missing");
    fs::copy(&aside, &database).expect("a copy");
    daemon.wait_health(&client, |health| health["status"] == "paused");
}

#[test]
fn a_shorter_retention_holds_from_the_reload_on() {
    let mut daemon = Daemon::start(Options::default());
    let client = guid(1);
    sqlite::query(&daemon.database(&client), CREATE);
    daemon.sync(&client);
    sqlite::query(&daemon.database(&client), "INSERT INTO t VALUES (2)");
    let route = daemon.route(&client, "/snapshot");
    assert_eq!(daemon.post(&route).0, 200);
    let config = format!("tenants: [{{tenantId: {client}, retention: 1s}}]");
    daemon.reload(config, READ_AGAIN);
    let deleted = "Deleted what has outlived its retention";
    let soon = Instant::now() + Duration::from_secs(20);
    daemon.log.wait_from(0, deleted, soon);
    daemon.assert_restored(&client, &daemon.database(&client), "kept.db");
}

#[test]
fn a_registration_may_race_with_the_making_of_its_file() {
    let daemon = Daemon::start(Options::default());
    let mut followed = 0;
    for n in 0..12 {
        let database = daemon.data().join(format!("d{n}.dat"));
        let body = json!({"tenantId": "acme", "dbPath": database}).to_string();
        let status = std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let mut open = Session::open(&database);
                open.run(&format!("{CREATE};"));
                open.run("INSERT INTO t VALUES (2);");
                open
            });
            let (status, _) = daemon.send("POST", "/api/databases", &body);
            let mut open = writer.join().expect("it writes");
            open.run("INSERT INTO t VALUES (3);");
            if status != 409 {
                let (synced, json) = daemon.post(&format!("/api/databases/acme/d{n}/sync"));
                assert_eq!(synced, 200, "{json}\n{}", daemon.log.text());
                let restored = daemon.restore(&format!("acme/d{n}"), &[], &format!("d{n}.db"));
                let rows = sqlite::query(&restored, "SELECT count(*) FROM t");
                assert_eq!(rows, "3", "{n}");
            }
            status
        });
        // Somebody had it open who was not followed: then it is not registered, either.
        let known = daemon.get(&format!("/api/health/clients/acme/d{n}")).0;
        assert_eq!(known, if status == 409 { 404 } else { 200 }, "{status}");
        followed += u32::from(status != 409);
    }
    assert!(followed > 0, "no registration came in time");
}

#[test]
fn a_pause_that_outgrows_the_spool_and_meets_deaths_ends_in_what_is_there() {
    let mut daemon = Daemon::prepare(Options::default());
    daemon.configure(
        "limits: {spoolBytes: 300 KiB, spoolReserve: 1 MiB, memoryBytesPerTenant: 64 KiB}"
            .to_owned(),
    );
    daemon.restart();
    daemon.may_miss_gates();
    let client = guid(1);
    let database = daemon.database(&client);
    sqlite::query(&database, CREATE);
    daemon.sync(&client);
    let route = daemon.route(&client, "/status");
    assert_eq!(daemon.send("PUT", &route, r#"{"status":"paused"}"#).0, 200);
    let fill = "INSERT INTO t SELECT randomblob(3000) FROM generate_series(1, 20)";
    for _ in 0..3 {
        for _ in 0..4 {
            // Each closing connection takes its log away.
            sqlite::query(&database, fill);
        }
        daemon.kill9();
        daemon.restart();
        assert_eq!(daemon.health(&client)["status"], "paused");
    }
    let stored = daemon.restore(&client, &[], "paused.db");
    assert_eq!(sqlite::query(&stored, "SELECT count(*) FROM t"), "1");
    assert_eq!(daemon.send("PUT", &route, r#"{"status":"active"}"#).0, 200);
    sqlite::query(&database, fill);
    daemon.sync(&client);
    daemon.assert_restored(&client, &database, "resumed.db");
    daemon.command(&["verify"], |_| {});
    let health = daemon.wait_health(&client, |health| health["status"] == "active");
    assert_eq!(health["pendingBytes"], 0, "{health}");
}

#[test]
fn a_link_that_is_renamed_over_a_database_removes_it() {
    let daemon = Daemon::start(Options::default());
    let client = guid(1);
    let database = daemon.database(&client);
    sqlite::query(&database, CREATE);
    daemon.sync(&client);
    let link = daemon.data().join("link");
    std::os::unix::fs::symlink("/nowhere", &link).expect("a link");
    fs::rename(&link, &database).expect("renamed");
    assert_eq!(daemon.get(&format!("/api/health/clients/{client}")).0, 404);
    let (_, ignored) = daemon.get("/api/health/clients?status=ignored");
    assert_eq!(ignored["clients"].as_array().expect("a list").len(), 1);
}
