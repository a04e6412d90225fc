//! What a store says of a client is a claim: the rules of the configuration decide which file is whose.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;

use super::support::daemon::{Daemon, Options};
use super::support::sqlite;

const CREATE: &str = "PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES (1)";
const REFUSED: &str = "A registration that the store tells of is not taken up again";

/// The `database.json` of a tenant's database `orders`, which has one generation.
fn description(daemon: &Daemon, tenant: &str) -> PathBuf {
    let snapshots = daemon.path(&format!("store/databases/{tenant}/orders/snapshots"));
    let mut generations = fs::read_dir(snapshots).expect("generations");
    let generation = generations.next().expect("one").expect("readable").path();
    generation.join("database.json")
}

/// Has a tenant's description name another file.
fn claim(daemon: &Daemon, tenant: &str, path: &str) {
    let file = description(daemon, tenant);
    let text = fs::read_to_string(&file).expect("text");
    let changed = text.replace(&format!("{tenant}/orders.dat"), path);
    assert_ne!(changed, text);
    fs::write(file, changed).expect("written");
}

#[test]
fn a_replica_names_no_file_that_the_rules_do_not_give_to_its_client() {
    let claims = [
        ("a", "private.dat"),
        ("b", "bank/orders.dat"),
        ("c", "bank/c/other.dat"),
        ("d", "d/orders.dat-wal"),
        ("e", ".litestream-multitenant/e/orders.dat"),
        ("f", "sound/f/orders.dat"),
    ];
    let mut daemon = Daemon::start(Options::default());
    let with_files = ["a", "b", "c", "d", "e", "f", "link", "given", "sound"];
    for tenant in with_files {
        let file = daemon.data().join(tenant).join("orders.dat");
        fs::create_dir(file.parent().expect("a directory")).expect("a directory");
        sqlite::query(&file, CREATE);
        let body = json!({"tenantId": tenant, "dbPath": file}).to_string();
        assert_eq!(daemon.send("POST", "/api/databases", &body).0, 201);
        let sync = format!("/api/databases/{tenant}/orders/sync");
        assert_eq!(daemon.post(&sync).0, 200);
    }
    for folder in ["bank/c", "sound/f"] {
        fs::create_dir_all(daemon.data().join(folder)).expect("folders");
    }
    let secrets = [
        "private.dat",
        "bank/orders.dat",
        "bank/c/other.dat",
        "sound/f/orders.dat",
    ];
    let secrets = secrets.map(|name| daemon.data().join(name));
    for secret in &secrets {
        sqlite::query(secret, CREATE);
        fs::set_permissions(secret, Permissions::from_mode(0o600)).expect("its mode");
    }
    assert!(daemon.terminate().success());
    fs::remove_dir_all(daemon.data().join(".litestream-multitenant")).expect("the state");
    for (tenant, path) in claims {
        claim(&daemon, tenant, path);
    }
    let linked = daemon.data().join("link/orders.dat");
    fs::remove_file(&linked).expect("removed");
    symlink(&secrets[0], &linked).expect("a link");
    let given = daemon.data().join("given/orders.dat");
    chown(&given, Some(1234), None).expect("another owner");

    daemon.restart();
    for (tenant, _) in claims {
        let client = format!("{tenant}/orders");
        daemon.wait_for(Duration::from_secs(20), "it is told", || {
            let log = daemon.log.text();
            let is_told = |line: &&str| line.contains(REFUSED) && line.contains(&client);
            log.lines().filter(is_told).count() == 1
        });
    }
    for reason in ["regular file", "belongs to uid 1234"] {
        let log = daemon.log.text();
        let is_told = |line: &&str| line.contains(REFUSED) && line.contains(reason);
        assert_eq!(log.lines().filter(is_told).count(), 1, "{log}");
    }
    daemon.wait_for(Duration::from_secs(20), "the sound one is back", || {
        daemon.get("/api/health/clients/sound/orders").0 == 200
    });
    let (_, clients) = daemon.get("/api/health/clients");
    let clients = clients["clients"].as_array().expect("a list").clone();
    assert_eq!(clients.len(), 1, "{clients:?}");
    for secret in &secrets {
        sqlite::query(secret, "INSERT INTO t VALUES (2)");
    }
    assert_eq!(daemon.post("/api/databases/sound/orders/sync").0, 200);
    assert_eq!(
        daemon.generations("a/orders").len(),
        1,
        "nothing was uploaded"
    );
}
