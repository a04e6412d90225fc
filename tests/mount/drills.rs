//! Restore drills in the background: a sound replica is proven, and a damaged one is told until it is sound again.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::support::daemon::{Daemon, Options, guid, names};
use super::support::process::{binary, output};
use super::support::sqlite;

const CREATE: &str = "PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES (1)";

#[test]
fn a_replica_is_proven_and_damage_is_told_until_it_is_mended() {
    let mut daemon = Daemon::prepare(Options::default());
    daemon.configure("verification: {interval: 200ms, sample: 100%}".to_owned());
    daemon.restart();
    let client = guid(1);
    sqlite::query(&daemon.database(&client), CREATE);
    daemon.sync(&client);
    let proven = daemon.wait_health(&client, |health| health["lastProvenAt"].is_string());
    assert_eq!(proven["status"], "active");

    let folder = daemon
        .path("store/databases")
        .join(&client)
        .join("snapshots");
    let snapshot = folder.join(&names(&folder)[0]).join("00000000.snapshot");
    let sound = fs::read(&snapshot).expect("a snapshot");
    let mut spoilt = sound.clone();
    let middle = spoilt.len() / 2;
    spoilt[middle] ^= 1;
    fs::write(&snapshot, &spoilt).expect("spoilt");
    let failing = daemon.wait_health(&client, |health| health["status"] == "failing");
    let error = failing["lastError"].as_str().expect("a reason");
    assert!(
        error.starts_with("damaged: ") && error.contains("00000000.snapshot"),
        "{error}"
    );
    assert_eq!(daemon.get("/api/health").1["status"], "degraded");
    // It goes on being replicated, and that alone mends nothing.
    sqlite::query(&daemon.database(&client), "INSERT INTO t VALUES (2)");
    daemon.sync(&client);
    assert_eq!(daemon.health(&client)["status"], "failing");

    fs::write(&snapshot, &sound).expect("mended");
    let mended = daemon.wait_health(&client, |health| health["status"] == "active");
    assert_eq!(mended["lastError"], Value::Null);
}

/// What SQLite evaluates in `PRAGMA integrity_check`: one that takes all memory, and one that takes a processor for ever.
const GREEDY: &str = "CREATE TABLE greedy(x CHECK(length(randomblob(999999999)) > 0));";
const ENDLESS: &str = "CREATE TABLE endless(x CHECK(instr(zeroblob(90000000), CAST(zeroblob(50000) || x'01' AS BLOB)) = 0));";

/// Makes a database whose check is such, without evaluating it.
fn hostile(daemon: &Daemon, client: &str, table: &str) {
    let name = if table == GREEDY { "greedy" } else { "endless" };
    let rows = format!("PRAGMA ignore_check_constraints = 1; INSERT INTO {name} VALUES (1)");
    sqlite::query(
        &daemon.database(client),
        &format!("{CREATE}; {table} {rows}"),
    );
    daemon.sync(client);
}

fn resident_kb(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    number.expect("its memory").parse().expect("a number")
}

/// The ids of the processes that it has started.
fn children(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("its threads");
    let children = tasks.filter_map(|task| {
        fs::read_to_string(task.expect("a thread").path().join("children")).ok()
    });
    let ids = children.collect::<Vec<_>>().join(" ");
    ids.split_whitespace()
        .map(|id| id.parse().expect("a number"))
        .collect()
}

#[test]
fn what_a_tenant_wrote_is_evaluated_in_a_child_with_limits_and_the_others_are_proven() {
    let mut daemon = Daemon::prepare(Options::default());
    daemon.configure("verification: {interval: 200ms, sample: 1}".to_owned());
    daemon.restart();
    let (greedy, sound) = (guid(1), guid(2));
    hostile(&daemon, &greedy, GREEDY);
    let health = daemon.wait_health(&greedy, |health| health["lastError"].is_string());
    let error = health["lastError"].as_str().expect("a reason");
    assert!(
        error.starts_with("drill: ") && error.contains("could not tell"),
        "{error}"
    );
    assert_eq!(
        (&health["status"], &health["lastProvenAt"]),
        (&Value::from("active"), &Value::Null)
    );
    sqlite::query(&daemon.database(&sound), CREATE);
    daemon.sync(&sound);
    daemon.wait_health(&sound, |health| health["lastProvenAt"].is_string());
    assert!(
        resident_kb(daemon.pid()) < 400 << 10,
        "it took that memory itself"
    );

    // By hand it is neither sound nor damaged.
    let mut verify = binary();
    verify
        .arg("verify")
        .arg(format!("-bucket=file://{}", daemon.path("store").display()));
    let ended = output(&mut verify);
    let said = String::from_utf8_lossy(&ended.stdout);
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("{greedy}  unknown")), "{said}");
    assert!(said.contains(&format!("{sound}  ok")), "{said}");
}

#[test]
fn a_drill_ends_with_its_instance_at_once() {
    let mut daemon = Daemon::prepare(Options::default());
    daemon.configure("verification: {interval: 200ms, sample: 1}".to_owned());
    daemon.add_environment("LITESTREAM_TEST_SECRET", "in the environment".to_owned());
    daemon.restart();
    let client = guid(1);
    hostile(&daemon, &client, ENDLESS);
    let mut child = None;
    daemon.wait_for(Duration::from_secs(20), "a child checks it", || {
        child = children(daemon.pid()).into_iter().find(|id| {
            let line = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains("check_database")
        });
        child.is_some_and(|id| {
            let limits = fs::read_to_string(format!("/proc/{id}/limits")).unwrap_or_default();
            limits.contains("536870912")
        })
    });
    let child = child.expect("it was found");
    let environment = fs::read(format!("/proc/{child}/environ")).expect("it runs");
    assert!(
        environment.is_empty(),
        "{}",
        String::from_utf8_lossy(&environment)
    );
    let open = fs::read_dir(format!("/proc/{child}/fd")).expect("it runs");
    let open: Vec<_> = open
        .map(|entry| fs::read_link(entry.expect("an entry").path()).unwrap_or_default())
        .collect();
    let is_its_own = |path: &PathBuf| {
        let path = path.to_string_lossy();
        path == "/dev/null" || path.starts_with("pipe:") || path.contains("/restored.db")
    };
    assert!(open.iter().all(is_its_own), "{open:?}");
    let begun = Instant::now();
    assert!(daemon.terminate().success(), "{}", daemon.log.text());
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
    assert!(!Path::new(&format!("/proc/{child}")).exists(), "it goes on");
}
