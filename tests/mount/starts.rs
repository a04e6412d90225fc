//! Whoever may make files below a watch path keeps nobody from the next start: it serves all that it can, and names the
//! rest.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::support::daemon::{Daemon, Options, guid};
use super::support::process::{Bystander, succeeded};
use super::support::{mounts, sqlite};

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
# As shutil.rmtree has it: a directory that is open, and was not opened as one.
held = os.open('.', os.O_RDONLY)
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
            let folder = daemon.data().join(format!("busy{n}"));
            let one = Bystander::reading(command.arg(&folder));
            // Before anything is mounted: it must not stand in the mount.
            daemon.wait_for(LIMIT, "it works there", || {
                fs::read_link(format!("/proc/{}/cwd", one.pid())).is_ok_and(|cwd| cwd == folder)
            });
            one
        })
        .collect();
    for _ in 0..12 {
        daemon.restart();
        daemon.wait_health(&client, |health| health["status"] == "active");
        assert!(daemon.terminate().success());
    }
    drop(busy);
}

/// Whoever waits for health finds the mount, and all that was known.
#[test]
fn health_is_ok_once_the_mount_answers_and_all_is_registered() {
    const KNOWN: u32 = 60;
    let mut daemon = Daemon::start(Options::default());
    for n in 0..KNOWN {
        sqlite::query(&daemon.database(&guid(n)), CREATE);
        daemon.sync(&guid(n));
    }
    assert!(daemon.terminate().success());
    let free = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = free.local_addr().expect("an address");
    drop(free);
    daemon.add_flags(["-listen".to_owned(), address.to_string()]);
    let data = daemon.data();
    for _ in 0..5 {
        let data = data.clone();
        let asker = std::thread::spawn(move || ask_until_ok(address, &data));
        daemon.restart();
        let (said, clients) = asker.join().expect("it has asked");
        assert!(said.iter().all(|status| status == "starting"), "{said:?}");
        assert_eq!(clients, u64::from(KNOWN));
        assert!(daemon.terminate().success());
    }
}

/// Asks for health until it is ok; what it was before, and how many clients were active then. The directory is mounted by
/// then.
fn ask_until_ok(address: SocketAddr, data: &Path) -> (Vec<String>, u64) {
    let deadline = Instant::now() + LIMIT;
    let mut said = Vec::new();
    loop {
        assert!(Instant::now() < deadline, "it is not ok: {said:?}");
        let Some(health) = ask_health(address) else {
            continue;
        };
        let status = health["status"].as_str().expect("a word").to_owned();
        if status == "ok" {
            assert!(mounts::connection_at(data).is_some(), "it is not mounted");
            return (said, health["counts"]["active"].as_u64().expect("a number"));
        }
        said.push(status);
    }
}

fn ask_health(address: SocketAddr) -> Option<Value> {
    let mut stream = TcpStream::connect(address).ok()?;
    let request = format!("GET /api/health HTTP/1.0\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (_, body) = answer.split_once("\r\n\r\n")?;
    serde_json::from_str(body).ok()
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
