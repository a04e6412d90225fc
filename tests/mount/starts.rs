//! Whoever may make files below a watch path keeps nobody from the next start: it serves all that it can, and names the
//! rest.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::json;

use super::support::daemon::{Daemon, Options, guid};
use super::support::process::{Bystander, succeeded};
use super::support::sqlite;

const CREATE: &str = "PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES (1)";
const LIMIT: Duration = Duration::from_secs(20);

/// Makes folders within one another, and a file in the last one, whose path no system call takes as a whole.
const DEEP: &str = "
import os, sys
os.chdir(sys.argv[1])
for n in range(30):
    name = f'{n:02}' + 'd' * 198
    os.mkdir(name)
    os.chdir(name)
open(sys.argv[2], 'w').close()
";

/// Makes and removes folders, in one another and beside each other, as quickly as it can.
const COME_AND_GO: &str = "
import os, sys
os.chdir(sys.argv[1])
while True:
    for n in range(40):
        os.makedirs(f'job{n}/a/b', exist_ok=True)
    for n in range(40):
        os.rename(f'job{n}', f'done{n}')
        os.removedirs(f'done{n}/a/b')
";

fn lines(daemon: &Daemon, message: &str) -> Vec<String> {
    let text = daemon.log.text();
    let lines = text.lines().filter(|line| line.contains(message));
    lines.map(str::to_owned).collect()
}

#[test]
fn folders_too_deep_to_be_named_keep_nobody_from_a_start() {
    let mut daemon = Daemon::start(Options::default());
    let client = guid(1);
    sqlite::query(&daemon.database(&client), CREATE);
    daemon.sync(&client);
    assert!(daemon.terminate().success());
    let deep = format!("{}.db", guid(2));
    succeeded(
        Command::new("python3")
            .args(["-c", DEEP])
            .arg(daemon.data())
            .arg(deep),
    );
    daemon.restart();
    sqlite::query(&daemon.database(&client), "INSERT INTO t VALUES (2)");
    daemon.sync(&client);
    let restored = daemon.restore(&client, &[], "restored.db");
    sqlite::assert_same(&daemon.database(&client), &restored);
    let (_, health) = daemon.get("/api/health");
    assert_eq!(health["status"], "ok", "{health}");
    let (_, ignored) = daemon.get("/api/health/clients?status=ignored");
    let ignored = ignored["clients"].as_array().expect("a list");
    let [folder] = &ignored[..] else {
        panic!("one is named: {ignored:?}");
    };
    let path = folder["dbPath"].as_str().expect("a path");
    assert!(path.len() > 4_000 && path.ends_with("ddd"), "{path}");
    let error = folder["lastError"].as_str().expect("a reason");
    assert!(error.contains("tried again each minute"), "{error}");
    let told = lines(&daemon, "A folder can't be looked through");
    assert_eq!(told.len(), 1, "{told:?}");
}

#[test]
fn folders_that_come_and_go_keep_nobody_from_a_start() {
    let mut daemon = Daemon::prepare(Options::default());
    let client = guid(1);
    sqlite::query(&daemon.database(&client), CREATE);
    for n in 0..8 {
        let folder = daemon.data().join(format!("busy{n}"));
        fs::create_dir(&folder).expect("a folder");
    }
    let busy: Vec<_> = (0..2)
        .map(|n| {
            let mut command = Command::new("python3");
            command.args(["-c", COME_AND_GO]);
            command.arg(daemon.data().join(format!("busy{n}")));
            Bystander::reading(&mut command)
        })
        .collect();
    for _ in 0..12 {
        daemon.restart();
        daemon.wait_health(&client, |health| health["status"] == "active");
        assert!(daemon.terminate().success());
    }
    drop(busy);
}

/// The files of two watch paths that share a place: one of them has its history there.
#[test]
fn of_two_watch_paths_the_one_with_the_history_keeps_the_name() {
    let mut daemon = Daemon::prepare(Options::default());
    let other = daemon.path("other");
    fs::create_dir(&other).expect("a folder");
    // The one without the history comes first.
    daemon.add_flag("-watch-path", &other);
    let data = daemon.data();
    daemon.add_flag("-watch-path", &data);
    daemon.restart();
    let client = guid(1);
    let (known, taken): (PathBuf, _) =
        (daemon.database(&client), other.join(format!("{client}.db")));
    sqlite::query(&known, CREATE);
    daemon.sync(&client);
    assert!(daemon.terminate().success());
    sqlite::query(&taken, &CREATE.replace("(1)", "('another')"));
    daemon.restart();
    daemon.sync(&client);
    let health = daemon.health(&client);
    assert_eq!(health["dbPath"], json!(known));
    let (_, refused) = daemon.get("/api/health/clients?status=refused");
    assert_eq!(refused["clients"][0]["dbPath"], json!(taken), "{refused}");
    let told = lines(&daemon, "A database is refused");
    assert!(told[0].contains("`prefix`"), "what to do: {told:?}");
    fs::remove_file(&known).expect("removed");
    daemon.wait_for(LIMIT, "the other one has the name", || {
        let (status, health) = daemon.get(&format!("/api/health/clients/{client}"));
        status == 200 && health["dbPath"] == json!(taken)
    });
}

/// Tenants' directories and GUIDs in one watch path: a folder whose databases would lie within another's place.
#[test]
fn a_place_within_that_of_another_is_refused_by_name() {
    let mut daemon = Daemon::start(Options {
        discovery: ", tenantRegex: '/tenants/(?P<tenant>[^/]+)/$'",
        ..Options::default()
    });
    let client = guid(1);
    sqlite::query(&daemon.database(&client), CREATE);
    daemon.sync(&client);
    let folder = daemon.data().join("tenants").join(&client);
    fs::create_dir_all(&folder).expect("folders");
    let within = folder.join("orders.db");
    sqlite::query(&within, CREATE);
    for _ in 0..2 {
        let (_, refused) = daemon.get("/api/health/clients?status=refused");
        assert_eq!(refused["clients"][0]["dbPath"], json!(within), "{refused}");
        daemon.sync(&client);
        assert!(daemon.terminate().success());
        daemon.restart();
    }
}
