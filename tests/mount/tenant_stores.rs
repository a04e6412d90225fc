//! Tenants with buckets of their own: what reaches them, and what says that it does not; and `retain` by each one's terms.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

use super::support::daemon::{Daemon, Options, guid};
use super::support::process::{binary, output};
use super::support::sqlite;

const CREATE: &str = "PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES (1)";

/// A data command on the store of all alone, which has to fail: what it printed, and its one line of error.
fn fails_without_config(daemon: &Daemon, words: &[&str]) -> (String, String) {
    let mut command = binary();
    command.args(words).arg("-bucket");
    command.arg(format!("file://{}", daemon.path("store").display()));
    let outcome = output(&mut command);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&outcome.stdout), text(&outcome.stderr));
    assert_eq!(outcome.status.code(), Some(1), "{words:?}: {out}{err}");
    assert_eq!(err.lines().count(), 1, "{words:?}: {err}");
    (out, err)
}

fn removed(daemon: &Daemon) -> Vec<(String, bool)> {
    let listed = daemon.command(&["list", "-json"], |_| {});
    let listed: Value = serde_json::from_str(&listed).expect("JSON");
    let clients = listed["clients"].as_array().expect("a list").iter();
    let pairs = clients.map(|client| {
        let name = client["client"].as_str().expect("text").to_owned();
        (name, client["removedAt"].is_string())
    });
    pairs.collect()
}

/// How long something may take that is waited for.
const LIMIT: Duration = Duration::from_secs(20);

#[test]
fn commands_reach_a_tenants_own_bucket_with_the_configuration_and_name_it_without() {
    let mut daemon = Daemon::prepare(Options::default());
    let (shared, own, placed) = (guid(1), guid(2), guid(3));
    let bucket = |name: &str| format!("file://{}", daemon.path(name).display());
    daemon.configure(format!(
        "tenants: [{{tenantId: {own}, s3Config: {{bucket: '{}'}}}},\
         {{tenantId: {placed}, s3Config: {{bucket: '{}', prefix: tenants/three}}}}]",
        bucket("own"),
        bucket("placed"),
    ));
    daemon.restart();
    for client in [&shared, &own, &placed] {
        sqlite::query(&daemon.database(client), CREATE);
        daemon.sync(client);
    }
    let replica = daemon
        .path("placed/tenants/three")
        .join(&placed)
        .join("snapshots");
    assert!(replica.is_dir());
    for name in ["own", "placed"] {
        let registry = daemon.path(name).join("registry");
        assert!(!registry.exists(), "it lies once, in the store of all");
    }
    for client in [&shared, &own, &placed] {
        let restored = daemon.restore(client, &[], &format!("{client}.restored"));
        sqlite::assert_same(&daemon.database(client), &restored);
        assert_eq!(daemon.generations(client).len(), 1);
    }
    let verified = daemon.command(&["verify"], |_| {});
    assert_eq!(verified.lines().count(), 3, "{verified}");

    for words in [&["list"][..], &["verify"], &["retain", "-dry-run"]] {
        let (out, err) = fails_without_config(&daemon, words);
        assert!(words[0] == "retain" || out.contains(&shared), "{out}");
        assert!(
            !out.contains(&own) && !err.contains(&shared) && err.contains("-config"),
            "{out}{err}"
        );
        for client in [&own, &placed] {
            assert!(err.contains(client.as_str()), "{words:?}: {err}");
        }
    }
    let file = daemon.path("none.db");
    let file = file.to_str().expect("text");
    let (_, err) = fails_without_config(&daemon, &["restore", &own, "-o", file]);
    assert!(err.contains("s3Config"), "{err}");

    // The configuration knows where to look, whatever became of the registry.
    assert!(daemon.terminate().success());
    fs::remove_dir_all(daemon.path("store/registry")).expect("the registry");
    assert_eq!(removed(&daemon).len(), 3);
    daemon.restore(&placed, &[], "again.db");

    // A store that can't be asked holds up none of the others.
    fs::remove_dir_all(daemon.path("own")).expect("its bucket");
    fs::write(daemon.path("own"), "no directory").expect("a file");
    let outcome = output(binary().args(["list", "-config"]).arg(daemon.config()));
    let text = String::from_utf8_lossy(&outcome.stdout).into_owned();
    let error = String::from_utf8_lossy(&outcome.stderr).into_owned();
    assert_eq!(outcome.status.code(), Some(1), "{error}");
    assert!(text.contains(&shared) && text.contains(&placed), "{text}");
    assert!(error.contains(&format!("tenant {own}: ")), "{error}");
}

#[test]
fn retain_erases_what_was_removed_long_ago_and_nothing_that_is_in_use_again() {
    let mut daemon = Daemon::prepare(Options::default());
    let (shared, own, again) = (guid(1), guid(2), guid(3));
    let tenants = |retention: &str| {
        format!(
            "tenants: [{{tenantId: {own}, removedRetention: {retention}, s3Config: {{bucket: 'file://{}'}}}}]",
            daemon.path("own").display()
        )
    };
    let (long, short) = (tenants("1h"), tenants("1ms"));
    daemon.configure(long);
    daemon.restart();
    for client in [&shared, &own, &again] {
        sqlite::query(&daemon.database(client), CREATE);
        daemon.sync(client);
        fs::remove_file(daemon.database(client)).expect("removed");
    }
    daemon.wait_for(LIMIT, "all removals are told", || {
        removed(&daemon).iter().all(|(_, removed)| *removed)
    });
    sqlite::query(&daemon.database(&again), CREATE);
    daemon.sync(&again);
    assert_eq!(
        removed(&daemon),
        [
            (shared.clone(), true),
            (own.clone(), true),
            (again.clone(), false)
        ]
    );
    assert!(daemon.terminate().success());

    // Each by its own terms: only one's time has come, 2 seconds after it by the grain of stores' clocks.
    daemon.configure(short);
    let mut plan = String::new();
    daemon.wait_for(LIMIT, "its time comes", || {
        plan = daemon.command(&["retain", "-dry-run"], |_| {});
        plan.contains("(removed)")
    });
    let gone = daemon.path("own/databases").join(&own);
    assert!(
        plan.contains(&format!("databases/{own}/snapshots/")),
        "{plan}"
    );
    assert!(!plan.contains(&shared) && !plan.contains(&again), "{plan}");
    assert!(gone.exists());
    let done = daemon.command(&["retain", "-json"], |_| {});
    let done: Value = serde_json::from_str(&done).expect("JSON");
    let of = |client: &str| {
        let clients = done["clients"].as_array().expect("a list");
        let found = clients.iter().find(|one| one["client"] == client);
        found.expect("listed").clone()
    };
    assert_eq!(of(&own)["removed"], json!(true));
    assert!(of(&own)["objects"].as_u64() > Some(1), "{done}");
    assert_eq!(of(&shared)["objects"], json!(0));
    assert!(!gone.exists());
    assert_eq!(
        removed(&daemon),
        [(shared.clone(), true), (again.clone(), false)]
    );
    let restored = daemon.restore(&again, &[], "again.db");
    sqlite::assert_same(&daemon.database(&again), &restored);
    // Its removal in the registry, and where it was.
    let left = daemon.path("store/registry/removed");
    let left = super::support::daemon::names(&left);
    assert!(left.iter().all(|place| !place.contains(&own)), "{left:?}");
    assert!(!daemon.path("store/registry/elsewhere").exists());
    // The instance finds it done.
    daemon.restart();
    daemon.sync(&again);
}
