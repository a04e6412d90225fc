//! Keys that may do exactly what docs/security.md writes down, against a server that enforces it: what works with them, and
//! what they do not reach.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use litestream_multitenant::store::{Body, ObjectStore, StoreError};
use serde_json::{Value, json};

use super::support::daemon::{Daemon, Options, guid};
use super::support::moto::{Keys, Moto, documented_policy};
use super::support::process::{binary, output, succeeded};
use super::support::sqlite::{self, Session};

const CREATE: &str = "PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES (1)";
/// The tenant of the documented policy, and its database.
const TENANT: &str = "tenant-001/orders";
/// Its place.
const PREFIX: &str = "tenants/tenant-001";

/// A daemon whose one tenant has keys of its own.
fn with_tenant(moto: &Moto, instance: &Keys, tenant: &Keys) -> Daemon {
    Daemon::start(Options {
        store: Some(moto.as_store(instance)),
        discovery: ", tenantRegex: '/(?P<tenant>tenant-[^/]+)/'",
        tenant_defaults: ", retention: 1s, snapshotInterval: 300ms",
        config: format!(
            "tenants: [{{tenantId: tenant-001, s3Config: {{bucket: {}, prefix: {PREFIX}, accessKey: '{}', secretKey: '{}'}}}}]",
            moto.bucket, tenant.access, tenant.secret
        ),
        ..Options::default()
    })
}

fn write(daemon: &Daemon, client: &str, sql: &str) {
    let file = daemon.data().join(format!("{client}.db"));
    fs::create_dir_all(file.parent().expect("a directory")).expect("a directory");
    sqlite::query(&file, sql);
}

fn sync(daemon: &Daemon, client: &str) {
    let path = match client.contains('/') {
        true => client.to_owned(),
        false => format!("{client}/{client}"),
    };
    let (status, json) = daemon.post(&format!("/api/databases/{path}/sync"));
    assert_eq!(status, 200, "{json}\n{}", daemon.log.text());
}

fn assert_restores(daemon: &Daemon, client: &str) {
    let name = format!("{}.restored", client.replace('/', "-"));
    let restored = daemon.restore(client, &["-force"], &name);
    let source = daemon.data().join(format!("{client}.db"));
    sqlite::assert_same(&source, &restored);
}

/// No request was refused, of all that the daemon has made since its start.
fn assert_nothing_was_refused(daemon: &Daemon) {
    let metrics = daemon.metrics();
    let refused = metrics
        .lines()
        .filter(|line| line.starts_with("litestream_store_requests_total"))
        .filter(|line| line.contains("result=\"denied\"") && !line.ends_with(" 0"));
    let refused: Vec<_> = refused.collect();
    assert!(refused.is_empty(), "{refused:?}\n{}", daemon.log.text());
}

/// How long something may take that is waited for.
const LIMIT: Duration = Duration::from_secs(30);

fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(work)
}

fn assert_denied<T>(what: &str, outcome: Result<T, StoreError>) {
    assert!(
        matches!(outcome, Err(StoreError::Denied { .. })),
        "{what} is refused"
    );
}

/// Keys reach nothing of an object, nor learn that it is there.
async fn assert_out_of_reach(store: &Arc<dyn ObjectStore>, key: &str) {
    let body = Body::Bytes(Bytes::from_static(b"foreign"));
    let (folder, _) = key.rsplit_once('/').expect("a folder");
    assert_denied("reading", store.get(key).await);
    assert_denied("writing", store.put_new(&format!("{key}x"), &body).await);
    assert_denied("deleting", store.delete(&[key.to_owned()]).await);
    assert_denied("listing", store.list(&format!("{folder}/")).await);
    assert_denied("listing all", store.list("").await);
}

#[test]
fn a_tenants_keys_reach_its_prefix_and_nothing_else() {
    let moto = Moto::start();
    let instance = moto.user("instance", &documented_policy("Instance"));
    let tenant = moto.user("tenant", &documented_policy("One tenant"));
    let mut daemon = with_tenant(&moto, &instance, &tenant);
    let other = guid(1);
    for client in [TENANT, &other] {
        write(&daemon, client, CREATE);
        sync(&daemon, client);
    }
    // Everything that it does in the course of time: further snapshots, the end of what is too old, a crash.
    let first = |client: &str| {
        let place = match client {
            TENANT => format!("{PREFIX}/orders"),
            guid => format!("databases/{guid}"),
        };
        let keys = moto.keys();
        let own = keys.iter().filter(|key| key.starts_with(&place));
        own.filter(|key| key.ends_with("/00000000.snapshot"))
            .count()
    };
    for client in [TENANT, &other] {
        write(&daemon, client, "INSERT INTO t VALUES (2)");
        sync(&daemon, client);
    }
    daemon.wait_for(LIMIT, "what is too old goes", || {
        first(TENANT) == 0 && first(&other) == 0
    });
    assert_nothing_was_refused(&daemon);
    // What is committed and not stored when it dies: the next run asks whether it was, and is answered.
    moto.user_without_rights("tenant");
    let mut session = Session::open(&daemon.data().join(format!("{TENANT}.db")));
    session.run("INSERT INTO t VALUES (3);");
    daemon.wait_health(TENANT, |health| health["status"] == "failing");
    daemon.kill9();
    drop(session);
    moto.user("tenant", &documented_policy("One tenant"));
    daemon.restart();
    for client in [TENANT, &other] {
        write(&daemon, client, "INSERT INTO t VALUES (4)");
        sync(&daemon, client);
        assert_restores(&daemon, client);
    }
    assert_nothing_was_refused(&daemon);
    let listed = daemon.command(&["list"], |_| {});
    assert!(
        listed.contains(TENANT) && listed.contains(&other),
        "{listed}"
    );
    assert_eq!(daemon.command(&["verify"], |_| {}).lines().count(), 2);
    daemon.command(&["retain"], |_| {});

    let keys = moto.keys();
    let one_below = |place: &str| keys.iter().find(|key| key.starts_with(place)).expect(place);
    run(async {
        let of_tenant = moto.open(&tenant).await;
        assert_out_of_reach(&of_tenant, one_below("databases/")).await;
        assert_out_of_reach(&of_tenant, one_below("registry/")).await;
        let own = of_tenant.list(&format!("{PREFIX}/")).await;
        assert!(!own.expect("its own").is_empty());
        // And the instance's do not reach what goes with the tenant's.
        let of_instance = moto.open(&instance).await;
        assert_out_of_reach(&of_instance, one_below(PREFIX)).await;
    });
}

#[test]
fn a_tenant_whose_keys_are_refused_fails_alone_and_goes_on_when_they_are_allowed() {
    let moto = Moto::start();
    let instance = moto.user("instance", &documented_policy("Instance"));
    let tenant = moto.user_without_rights("tenant");
    let daemon = with_tenant(&moto, &instance, &tenant);
    let other = guid(1);
    write(&daemon, TENANT, CREATE);
    let health = daemon.wait_health(TENANT, |health| health["status"] == "failing");
    let error = health["lastError"].as_str().expect("a reason");
    assert!(
        error.starts_with("store: ") && error.contains("the store refused access"),
        "{error}"
    );
    assert!(health["syncErrors"].as_u64() > Some(0), "{health}");
    for n in 0..5 {
        write(
            &daemon,
            &other,
            &format!("CREATE TABLE IF NOT EXISTS t(x); INSERT INTO t VALUES ({n})"),
        );
        sync(&daemon, &other);
    }
    assert_restores(&daemon, &other);
    assert_eq!(daemon.health(&other)["syncErrors"], 0);
    let (_, instance) = daemon.get("/api/health");
    assert_eq!(
        (
            &instance["status"],
            &instance["store"]["reachable"],
            &instance["store"]["error"]
        ),
        (&json!("degraded"), &json!(true), &Value::Null),
        "{instance}"
    );
    assert_eq!(instance["store"]["conditionalPut"], json!(true));
    // The command says what it could not look into, and does the rest.
    let outcome = output(binary().args(["verify", "-config"]).arg(daemon.config()));
    let (out, err) = (
        String::from_utf8_lossy(&outcome.stdout),
        String::from_utf8_lossy(&outcome.stderr),
    );
    assert_eq!(outcome.status.code(), Some(1), "{out}{err}");
    assert!(
        out.contains(&other) && err.contains("tenant-001"),
        "{out}{err}"
    );

    moto.user("tenant", &documented_policy("One tenant"));
    daemon.wait_health(TENANT, |health| {
        health["status"] == "active" && health["replicationLagMs"] == 0
    });
    assert_restores(&daemon, TENANT);
    assert_eq!(daemon.get("/api/health").1["status"], "ok");
}

#[test]
fn append_only_keys_replicate_and_another_role_deletes() {
    let moto = Moto::start();
    let instance = moto.user("instance", &documented_policy("Append-only"));
    let daemon = Daemon::start(Options {
        store: Some(moto.as_store(&instance)),
        tenant_defaults: ", retention: 1s, snapshotInterval: 300ms, removedRetention: 1ms",
        ..Options::default()
    });
    let clients = [guid(1), guid(2), guid(3)];
    for client in &clients {
        write(&daemon, client, CREATE);
        sync(&daemon, client);
        write(&daemon, client, "INSERT INTO t VALUES (2)");
        sync(&daemon, client);
    }
    fs::remove_file(daemon.database(&clients[2])).expect("removed");
    let soon = Instant::now() + Duration::from_secs(20);
    let refused = "The keys may not delete here";
    let line = daemon.log.wait_from(0, refused, soon);
    assert!(
        line["error"]
            .as_str()
            .expect("a reason")
            .contains("refused access"),
        "{line}"
    );
    let snapshots = || {
        let keys = moto.keys();
        let all = keys.iter().filter(|key| key.ends_with(".snapshot"));
        all.count()
    };
    daemon.wait_for(LIMIT, "further snapshots", || snapshots() >= 5);
    for client in &clients[..2] {
        sync(&daemon, client);
        let health = daemon.health(client);
        assert_eq!(
            (&health["status"], &health["syncErrors"]),
            (&json!("active"), &json!(0))
        );
        assert_restores(&daemon, client);
    }
    let (_, health) = daemon.get("/api/health");
    assert_eq!(health["status"], "ok", "{health}");

    // Nobody deletes or overwrites anything with these keys.
    let key = moto
        .keys()
        .into_iter()
        .find(|key| key.ends_with("/00000000.snapshot"));
    let key = key.expect("a snapshot");
    run(async {
        let store = moto.open(&instance).await;
        assert_denied("deleting", store.delete(std::slice::from_ref(&key)).await);
        let body = Body::Bytes(Bytes::from_static(b"other"));
        let put = store.put_new(&key, &body).await.expect("an answer");
        assert_eq!(put, litestream_multitenant::store::Put::Exists);
    });

    let retain = moto.user("retain", &documented_policy("Retain"));
    let config = daemon.path("retain.yml");
    fs::write(
        &config,
        format!(
            "bucket: {}\ns3: {{endpoint: '{}', accessKey: '{}', secretKey: '{}'}}\ntenantDefaults: {{retention: 1s, removedRetention: 1ms}}\n",
            moto.bucket, moto.endpoint, retain.access, retain.secret
        ),
    )
    .expect("a configuration");
    daemon.wait_for(LIMIT, "another role deletes", || {
        let done = succeeded(binary().args(["retain", "-config"]).arg(&config));
        assert!(!done.contains("no such"), "{done}");
        snapshots() == 2
    });
    assert!(moto.keys().iter().all(|key| !key.contains(&clients[2])));
    for client in &clients[..2] {
        assert_restores(&daemon, client);
    }
    assert_eq!(daemon.log.text().matches(refused).count(), 1, "said once");
    let file = daemon.path("none.db");
    let refused = output(
        binary()
            .args(["restore", &clients[0], "-o"])
            .arg(&file)
            .arg("-config")
            .arg(&config),
    );
    assert_eq!(refused.status.code(), Some(1), "it can read no database");
    assert!(!file.exists());
}

#[test]
fn keys_to_restore_read_and_change_nothing() {
    let moto = Moto::start();
    let instance = moto.user("instance", &documented_policy("Instance"));
    let daemon = Daemon::start(Options {
        store: Some(moto.as_store(&instance)),
        ..Options::default()
    });
    let client = guid(1);
    write(&daemon, &client, CREATE);
    sync(&daemon, &client);
    let keys = moto.user("restore", &documented_policy("Restore"));
    let command = |words: &[&str]| {
        let mut command = binary();
        command
            .args(words)
            .args(["-bucket", &moto.bucket, "-endpoint", &moto.endpoint])
            .env("AWS_ACCESS_KEY_ID", &keys.access)
            .env("AWS_SECRET_ACCESS_KEY", &keys.secret);
        command
    };
    let restored = daemon.path("restored.db");
    let file = restored.to_str().expect("text");
    for words in [
        &["list"][..],
        &["list", &client],
        &["verify"],
        &["restore", &client, "-o", file],
        &["retain"],
    ] {
        succeeded(&mut command(words));
    }
    sqlite::assert_same(&daemon.database(&client), &restored);
    run(async {
        let store = moto.open(&keys).await;
        let key = moto.keys().into_iter().find(|key| key.contains(&client));
        let key = key.expect("a replica");
        assert_denied("deleting", store.delete(std::slice::from_ref(&key)).await);
        let body = Body::Bytes(Bytes::from_static(b"x"));
        assert_denied("writing", store.put_new(&format!("{key}x"), &body).await);
    });
}

/// Old keys, or those of somebody careful: replicas may be written, the registry may not.
#[test]
fn keys_without_the_registry_replicate_and_say_what_is_not_known() {
    let moto = Moto::start();
    let mut policy = documented_policy("Instance");
    let statements = policy["Statement"].as_array_mut().expect("a list");
    statements.pop();
    let instance = moto.user("instance", &policy);
    let daemon = Daemon::start(Options {
        store: Some(moto.as_store(&instance)),
        ..Options::default()
    });
    let client = guid(1);
    write(&daemon, &client, CREATE);
    sync(&daemon, &client);
    let soon = Instant::now() + Duration::from_secs(10);
    daemon
        .log
        .wait_from(0, "The registry can't be written", soon);
    assert_restores(&daemon, &client);
    let (_, health) = daemon.get("/api/health");
    assert_eq!(
        (&health["status"], &health["store"]),
        (
            &json!("ok"),
            &json!({"reachable": true, "conditionalPut": null, "error": null})
        )
    );
}
