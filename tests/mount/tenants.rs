//! Whose databases there are: tenants' directories, named clients, several watch paths, registrations by hand, limits,
//! and what becomes of those that are removed.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::support::daemon::{Daemon, Options, guid, names};
use super::support::process::{Bystander, output};
use super::support::{mounts, sqlite};

const CREATE: &str = "PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES (1)";

/// How long something may take that is waited for.
const LIMIT: Duration = Duration::from_secs(20);

fn statuses(daemon: &Daemon) -> Vec<(String, String)> {
    let (_, json) = daemon.get("/api/health/clients");
    let clients = json["clients"].as_array().expect("a list");
    let word = |client: &Value, key: &str| client[key].as_str().expect("text").to_owned();
    let pairs = clients
        .iter()
        .map(|client| (word(client, "clientId"), word(client, "status")));
    pairs.collect()
}

fn sync(daemon: &Daemon, path: &str) -> u64 {
    let (status, json) = daemon.post(&format!("/api/databases/{path}/sync"));
    assert_eq!(status, 200, "{json}\n{}", daemon.log.text());
    json["txid"].as_u64().expect("a number")
}

#[test]
fn a_tenant_has_several_databases_in_its_directory() {
    let daemon = Daemon::start(Options {
        discovery: ", filePatterns: ['*.db', '*.sqlite'], tenantRegex: 'data/(?P<tenant>[^/]+)/'",
        ..Options::default()
    });
    fs::create_dir(daemon.data().join("acme")).expect("a directory");
    let (orders, stock) = (
        daemon.data().join("acme/orders.db"),
        daemon.data().join("acme/stock.sqlite"),
    );
    for database in [&orders, &stock] {
        sqlite::query(database, CREATE);
    }
    sync(&daemon, "acme/orders");
    sync(&daemon, "acme/stock");
    let listed = daemon.command(&["list"], |_| {});
    for name in ["acme/orders", "databases/acme/stock"] {
        assert!(listed.contains(name), "{listed}");
    }
    let restored = daemon.restore("acme/stock", &[], "stock.db");
    sqlite::assert_same(&stock, &restored);
    assert!(daemon.metrics().contains("{client=\"acme/orders\"} 1"));
}

#[test]
fn several_watch_paths_have_the_same_names_under_prefixes() {
    let mut daemon = Daemon::start(Options {
        watch_paths: &["staging"],
        ..Options::default()
    });
    let client = guid(1);
    let (first, second) = (
        daemon.database(&client),
        daemon.path("staging").join(format!("{client}.db")),
    );
    sqlite::query(&first, CREATE);
    sqlite::query(&second, &CREATE.replace("(1)", "(2)"));
    let ambiguous = daemon.post(&format!("/api/databases/{client}/{client}/sync"));
    assert_eq!(
        (ambiguous.0, &ambiguous.1["error"]["code"]),
        (409, &json!("ambiguous_client"))
    );
    for prefix in ["", "staging"] {
        let (status, json) = daemon.post(&format!(
            "/api/databases/{client}/{client}/sync?prefix={prefix}"
        ));
        assert_eq!(status, 200, "{json}");
    }
    let restored = daemon.restore(&format!("staging/{client}"), &[], "second.db");
    assert_eq!(sqlite::query(&restored, "SELECT x FROM t"), "2");
    let (_, health) = daemon.get("/api/health");
    assert_eq!(health["mounts"].as_array().expect("a list").len(), 2);

    // One may go; the other goes on.
    assert!(
        output(std::process::Command::new("umount").arg(daemon.path("staging")))
            .status
            .success()
    );
    sqlite::query(&first, "INSERT INTO t VALUES (3)");
    let (status, _) = daemon.post(&format!("/api/databases/{client}/{client}/sync?prefix="));
    assert_eq!(status, 200);
    // Of what is written there nobody would know any more.
    daemon.wait_for(LIMIT, "it is shown that nothing is seen of it", || {
        let (_, health) = daemon.get(&format!("/api/health/clients/{client}?prefix=staging"));
        health["status"] == "failing" && health["lastError"].as_str() > Some("unmounted: ")
    });
    let (status, json) = daemon.post(&format!(
        "/api/databases/{client}/{client}/sync?prefix=staging"
    ));
    assert_eq!(
        (status, &json["error"]["code"]),
        (409, &json!("not_active"))
    );
    let file = daemon.path("staging").join(format!("{}.db", guid(2)));
    let body = json!({"tenantId": guid(2), "dbPath": file}).to_string();
    let (status, json) = daemon.send("POST", "/api/databases", &body);
    assert_eq!(json["error"]["code"], "unmounted", "{status}");
    assert_eq!(daemon.get("/api/health").0, 503);
    assert!(daemon.terminate().success());
}

#[test]
fn a_start_whose_databases_would_share_a_place_is_refused_with_the_lines_to_add() {
    let daemon = Daemon::prepare(Options::default());
    let other = daemon.path("other");
    fs::create_dir(&other).expect("a directory");
    let name = format!("{}.db", guid(1));
    for directory in [&daemon.data(), &other] {
        sqlite::query(&directory.join(&name), CREATE);
    }
    let mut command = daemon.mount_command();
    for directory in [&daemon.data(), &other] {
        command.arg("-watch-path").arg(directory);
    }
    let refused = output(&mut command);
    let text = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2), "{text}");
    assert!(
        text.contains("prefix: other}") && text.trim_end().lines().count() == 1,
        "{text}"
    );
    assert_eq!(mounts::connection_at(&other), None);
}

#[test]
fn a_client_that_was_named_waits_for_its_file() {
    let mut daemon = Daemon::prepare(Options::default());
    let file = daemon.data().join("shared/system.data");
    daemon.configure(format!(
        "clients: [{{clientId: system, dbPath: '{}', s3Prefix: elsewhere/system, retention: 5h}}]",
        file.display()
    ));
    daemon.restart();
    assert_eq!(
        statuses(&daemon),
        [("system".to_owned(), "waiting".to_owned())]
    );
    let (status, json) = daemon.post("/api/databases/system/system/sync");
    assert_eq!(
        (status, &json["error"]["code"]),
        (409, &json!("not_active"))
    );
    fs::create_dir(file.parent().expect("a directory")).expect("a directory");
    sqlite::query(&file, CREATE);
    sync(&daemon, "system/system");
    let health = daemon.health("system");
    assert_eq!(
        (&health["s3Prefix"], &health["retention"]),
        (&json!("elsewhere/system"), &json!("5h"))
    );
    // From the store alone, though its place is none that its name tells.
    assert!(
        daemon
            .command(&["list"], |_| {})
            .contains("elsewhere/system")
    );
    let restored = daemon.restore("system", &[], "system.db");
    sqlite::assert_same(&file, &restored);
}

#[test]
fn a_database_is_registered_paused_and_unregistered_by_hand() {
    let mut daemon = Daemon::start(Options::default());
    let file = daemon.data().join("tenant-001/orders.db");
    fs::create_dir(file.parent().expect("a directory")).expect("a directory");
    sqlite::query(&file, CREATE);
    let body = json!({"tenantId": "tenant-001", "dbPath": file, "dbName": "orders"}).to_string();
    let route = "/api/databases/tenant-001/orders";

    // What has it open writes past what is watched.
    let user = Bystander::with_open(&file);
    let (status, json) = daemon.send("POST", "/api/databases", &body);
    assert_eq!((status, &json["error"]["code"]), (409, &json!("file_open")));
    drop(user);
    let (status, json) = daemon.send("POST", "/api/databases", &body);
    assert_eq!(
        (status, &json["s3Prefix"]),
        (201, &json!("databases/tenant-001/orders")),
        "{json}"
    );
    assert_eq!(daemon.send("POST", "/api/databases", &body).0, 200);
    sync(&daemon, "tenant-001/orders");

    let (status, json) = daemon.send("PUT", &format!("{route}/status"), r#"{"status":"paused"}"#);
    assert_eq!((status, &json["status"]), (200, &json!("paused")));
    for n in 2..50 {
        // Each closing connection resets the log, so that the pause has to keep what was in it.
        sqlite::query(&file, &format!("INSERT INTO t VALUES ({n})"));
    }
    assert_eq!(daemon.post(&format!("{route}/sync")).0, 409);
    assert!(daemon.terminate().success());
    daemon.restart();
    assert_eq!(
        statuses(&daemon),
        [("tenant-001/orders".to_owned(), "paused".to_owned())]
    );
    let (_, health) = daemon.get("/api/health");
    assert_eq!(health["status"], "ok", "{health}");
    let before = daemon.restore("tenant-001/orders", &[], "before.db");
    assert_eq!(sqlite::query(&before, "SELECT count(*) FROM t"), "1");
    daemon.send("PUT", &format!("{route}/status"), r#"{"status":"active"}"#);
    sync(&daemon, "tenant-001/orders");
    let after = daemon.restore("tenant-001/orders", &[], "after.db");
    sqlite::assert_same(&file, &after);
    let generations = daemon.generations("tenant-001/orders");
    assert_eq!(generations.len(), 1, "nothing was lost by the pause");

    assert_eq!(daemon.send("DELETE", route, "").0, 204);
    assert_eq!(daemon.get("/api/health/clients/tenant-001/orders").0, 404);
    sqlite::query(&file, "INSERT INTO t VALUES (99)");
    assert!(daemon.terminate().success());
    daemon.restart();
    assert!(statuses(&daemon).is_empty(), "it stays so");
    assert_eq!(daemon.send("POST", "/api/databases", &body).0, 201);
    sync(&daemon, "tenant-001/orders");
    let again = daemon.restore("tenant-001/orders", &[], "again.db");
    sqlite::assert_same(&file, &again);
}

#[test]
fn registrations_come_back_from_the_store_where_the_state_was_lost() {
    let mut daemon = Daemon::start(Options::default());
    let file = daemon.data().join("t/orders.dat");
    fs::create_dir(file.parent().expect("a directory")).expect("a directory");
    sqlite::query(&file, CREATE);
    let body = json!({"tenantId": "t", "dbPath": file}).to_string();
    assert_eq!(daemon.send("POST", "/api/databases", &body).0, 201);
    sync(&daemon, "t/orders");
    assert!(daemon.terminate().success());
    fs::remove_dir_all(daemon.data().join(".litestream-multitenant")).expect("the state");
    daemon.restart();
    daemon.wait_for(LIMIT, "the registration is back", || {
        statuses(&daemon).len() == 1
    });
    sync(&daemon, "t/orders");
    assert_eq!(daemon.generations("t/orders").len(), 2);
}

/// A description that leads out of the watch path, and one that is another tenant's.
#[test]
fn no_registration_comes_back_as_another_database() {
    let mut daemon = Daemon::start(Options::default());
    for tenant in ["a", "b", "c"] {
        let file = daemon.data().join(tenant).join("orders.dat");
        fs::create_dir(file.parent().expect("a directory")).expect("a directory");
        sqlite::query(&file, CREATE);
        let body = json!({"tenantId": tenant, "dbPath": file}).to_string();
        assert_eq!(daemon.send("POST", "/api/databases", &body).0, 201);
        sync(&daemon, &format!("{tenant}/orders"));
    }
    assert!(daemon.terminate().success());
    fs::remove_dir_all(daemon.data().join(".litestream-multitenant")).expect("the state");
    let description = |tenant: &str| {
        let snapshots = daemon.path(&format!("store/databases/{tenant}/orders/snapshots"));
        let mut generations = fs::read_dir(snapshots).expect("generations");
        let generation = generations.next().expect("one").expect("readable").path();
        generation.join("database.json")
    };
    let text = fs::read_to_string(description("b")).expect("text");
    let escaping = text.replace("b/orders.dat", "../orders.dat");
    assert_ne!(escaping, text);
    fs::write(description("b"), escaping).expect("written");
    fs::copy(description("a"), description("c")).expect("copied");

    daemon.restart();
    let soon = Instant::now() + Duration::from_secs(10);
    // The last one in order.
    let refused =
        "What lies at the place of a registration is another database's; it is not taken up again";
    daemon.log.wait_from(0, refused, soon);
    assert_eq!(daemon.get("/api/health/clients/a/orders").0, 200);
    assert_eq!(statuses(&daemon).len(), 1);
    sync(&daemon, "a/orders");
    assert_eq!(daemon.generations("c/orders").len(), 1);
}

#[test]
fn what_is_removed_is_told_to_the_store_and_goes_in_time() {
    let daemon = Daemon::start(Options {
        tenant_defaults: ", removedRetention: 2s",
        ..Options::default()
    });
    let client = guid(1);
    let database = daemon.database(&client);
    sqlite::query(&database, CREATE);
    daemon.sync(&client);
    fs::remove_file(&database).expect("removed");
    daemon.log.wait_from(
        0,
        &format!("Client unregistered: {client}"),
        Instant::now() + Duration::from_secs(10),
    );
    assert!(!daemon.metrics().contains(&client), "its series go with it");
    let removed = || {
        let listed = daemon.command(&["list", "-json"], |_| {});
        let listed: Value = serde_json::from_str(&listed).expect("JSON");
        listed["clients"].clone()
    };
    daemon.wait_for(LIMIT, "the removal is told", || {
        removed()[0]["removedAt"].is_string()
    });
    let objects = daemon.path("store/databases").join(&client);
    assert!(objects.exists(), "its objects are kept for a while");
    daemon.wait_for(LIMIT, "its replica goes", || !objects.exists());
    daemon.wait_for(LIMIT, "and the note of it", || removed() == json!([]));
    assert!(!daemon.path("store/registry/removed").exists());

    // What was made anew meanwhile is another one's.
    sqlite::query(&database, CREATE);
    daemon.sync(&client);
    fs::remove_file(&database).expect("removed");
    sqlite::query(&database, &CREATE.replace("(1)", "(7)"));
    daemon.sync(&client);
    daemon.wait_for(LIMIT, "the removal is looked after", || {
        !daemon.path("store/registry/removed").exists()
    });
    let restored = daemon.restore(&client, &[], "anew.db");
    assert_eq!(sqlite::query(&restored, "SELECT x FROM t"), "7");
    assert_eq!(removed()[0]["removedAt"], Value::Null);
}

#[test]
fn past_a_limit_clients_are_refused_and_admitted_when_there_is_room() {
    let mut daemon = Daemon::prepare(Options::default());
    daemon.configure("limits: {maxTenantsPerInstance: 1}".to_owned());
    daemon.restart();
    let (first, second) = (guid(1), guid(2));
    for client in [&first, &second] {
        sqlite::query(&daemon.database(client), CREATE);
    }
    daemon.sync(&first);
    let health = daemon.wait_health(&second, |health| health["status"] == "refused");
    let error = health["lastError"].as_str().expect("a reason");
    assert!(error.starts_with("too_many_tenants: "), "{error}");
    let (_, health) = daemon.get("/api/health");
    assert_eq!(health["status"], "degraded");
    fs::remove_file(daemon.database(&first)).expect("removed");
    daemon.wait_health(&second, |health| health["status"] == "active");
    daemon.sync(&second);
    assert!(
        !daemon
            .path("store/databases")
            .join(&first)
            .join("x")
            .exists()
    );
}

#[test]
fn a_reload_brings_clients_and_limits_and_says_what_cannot_change() {
    let mut daemon = Daemon::prepare(Options::default());
    daemon.configure("limits: {maxTenantsPerInstance: 1}".to_owned());
    daemon.restart();
    let (first, second) = (guid(1), guid(2));
    for client in [&first, &second] {
        sqlite::query(&daemon.database(client), CREATE);
    }
    daemon.sync(&first);
    let named = daemon.data().join("named.dat");
    let reload = |daemon: &mut Daemon, config: String| {
        daemon.configure(config);
        let mark = daemon.log.mark();
        daemon.signal(libc::SIGHUP);
        mark
    };
    let mark = reload(
        &mut daemon,
        format!(
            "limits: {{maxTenantsPerInstance: 5, spoolBytes: 1 GiB}}\nclients: [{{clientId: named, dbPath: '{}'}}]\n\
             tenants: [{{tenantId: {first}, retention: 7h}}]",
            named.display()
        ),
    );
    let soon = Instant::now() + Duration::from_secs(10);
    daemon
        .log
        .wait_from(mark, "The configuration was read again", soon);
    assert!(
        daemon.log.text().contains("limits.spoolBytes"),
        "{}",
        daemon.log.text()
    );
    daemon.wait_health(&second, |health| health["status"] == "active");
    daemon.sync(&second);
    assert_eq!(daemon.health(&first)["retention"], "7h");
    sqlite::query(&named, CREATE);
    sync(&daemon, "named/named");

    let mark = reload(&mut daemon, "limits: {maxLagg: 1s}".to_owned());
    let failed = "The configuration can't be used; the present one holds on";
    let line = daemon
        .log
        .wait_from(mark, failed, Instant::now() + Duration::from_secs(10));
    assert!(
        line["error"]
            .as_str()
            .expect("text")
            .contains("`limits.maxLag`"),
        "{line}"
    );
    daemon.sync(&first);
}

#[test]
fn what_looks_like_a_database_and_is_none_of_ours_is_ignored_and_told_once() {
    let daemon = Daemon::start(Options::default());
    let plain = daemon.data().join("plain.db");
    sqlite::query(&plain, CREATE);
    sqlite::query(&plain, "INSERT INTO t VALUES (2)");
    let real = daemon.path("real.db");
    fs::write(&real, "").expect("a file");
    symlink(&real, daemon.database(&guid(1))).expect("a link");
    let told = || {
        let text = daemon.log.text();
        text.matches("A file is ignored").count()
    };
    daemon.wait_for(LIMIT, "both are told", || told() == 2);
    assert!(statuses(&daemon).is_empty());
    assert!(!daemon.path("store/databases").exists());
    let (_, health) = daemon.get("/api/health");
    assert_eq!(health["status"], "ok");
    let (_, ignored) = daemon.get("/api/health/clients?status=ignored");
    let ignored = ignored["clients"].as_array().expect("a list");
    assert_eq!(ignored.len(), 2, "{ignored:?}");
    assert!(ignored.iter().all(|file| file["lastError"].is_string()));
    assert_eq!(told(), 2);
    assert_eq!(names(&daemon.data()).len(), 2);
}

#[test]
fn a_tenant_goes_no_faster_than_it_may() {
    let mut daemon = Daemon::prepare(Options::default());
    let (slow, quick) = (guid(1), guid(2));
    daemon.configure(format!(
        "tenants: [{{tenantId: {slow}, requestsPerSecond: 2}}]"
    ));
    daemon.restart();
    for client in [&slow, &quick] {
        sqlite::query(&daemon.database(client), CREATE);
        daemon.sync(client);
    }
    let rounds = |client: &str| {
        let begun = Instant::now();
        for n in 0..6 {
            sqlite::query(
                &daemon.database(client),
                &format!("INSERT INTO t VALUES ({n})"),
            );
            daemon.sync(client);
        }
        begun.elapsed()
    };
    assert!(
        rounds(&slow) >= Duration::from_secs(2),
        "six requests at two a second"
    );
    assert!(
        rounds(&quick) < Duration::from_secs(2),
        "its neighbour is not held up"
    );
}
