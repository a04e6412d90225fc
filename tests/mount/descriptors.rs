//! One user's open files leave descriptors for others and for the daemon.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::support::daemon::{Daemon, Options, guid};
use super::support::process::succeeded;
use super::support::sqlite;
use super::support::users::Users;

const LIMIT: Duration = Duration::from_secs(30);
/// Of which 128 are kept, and a user alone may hold 43 files.
const DESCRIPTORS: &str = "--nofile=300:300";
const SHARE: usize = 43;

/// Opens files as another user until it may not, says how many there were, and holds them for some seconds.
const GREEDY: &str = "
import errno, os, sys, time
os.setgid(65534); os.setuid(65534)
held = []
try:
    while len(held) < 200:
        held.append(os.open(os.path.join(sys.argv[1], f'greedy-{len(held)}'), os.O_CREAT | os.O_RDWR))
except OSError as error:
    refused = errno.errorcode[error.errno]
for again in range(50):
    try:
        held.append(os.open(sys.argv[1], os.O_RDONLY))
    except OSError:
        pass
with open(sys.argv[2], 'w') as told:
    told.write(f'{refused} {len(held)}')
time.sleep(3)
for descriptor in held:
    os.close(descriptor)
time.sleep(0.5)
os.close(os.open(sys.argv[1], os.O_RDONLY))
";

#[test]
fn a_user_at_its_share_leaves_others_and_the_capture_alone() {
    let daemon = Daemon::start(Options {
        wrapper: vec!["prlimit".to_owned(), DESCRIPTORS.to_owned()],
        ..Options::default()
    });
    let database = daemon.database(&guid(1));
    sqlite::query(&database, "PRAGMA journal_mode=WAL; CREATE TABLE t(x)");
    fs::set_permissions(daemon.data(), fs::Permissions::from_mode(0o777)).expect("a mode");
    let told = daemon.path("told");
    fs::write(&told, "").expect("a file");
    fs::set_permissions(&told, fs::Permissions::from_mode(0o666)).expect("a mode");

    let mut greedy = Command::new("python3");
    greedy.args(["-c", GREEDY]).arg(daemon.data()).arg(&told);
    let users = Users::start(&daemon, [greedy]);
    daemon.wait_for(LIMIT, "it opens no files", || {
        fs::read_to_string(&told).is_ok_and(|told| !told.is_empty())
    });
    let said = fs::read_to_string(&told).expect("text");
    assert_eq!(said, format!("ENFILE {SHARE}"), "{}", daemon.log.text());

    for n in 1..5 {
        sqlite::query(
            &daemon.database(&guid(n)),
            "CREATE TABLE IF NOT EXISTS u(x)",
        );
        sqlite::query(&daemon.database(&guid(n)), "INSERT INTO u VALUES (1)");
        daemon.sync(&guid(n));
    }
    let mut others = Command::new("python3");
    others.args([
        "-c",
        "import os, sys; print(len([os.open(sys.argv[1], os.O_RDONLY) for _ in range(10)]))",
    ]);
    others.arg(&database).stderr(Stdio::inherit());
    assert_eq!(succeeded(&mut others).trim(), "10");
    let (status, health) = daemon.get("/api/health");
    assert_eq!((status, &health["status"]), (200, &"ok".into()), "{health}");
    let error = health["mounts"][0]["error"].as_str().unwrap_or_default();
    assert!(error.contains("uid 65534 (43 open files)"), "{health}");
    let log = daemon.log.text();
    assert_eq!(log.matches("share of open files").count(), 1, "{log}");
    assert!(!log.contains("A file operation failed"), "{log}");

    users.all_succeed(LIMIT);
    let deadline = Instant::now() + LIMIT;
    while !daemon.get("/api/health").1["mounts"][0]["error"].is_null() {
        assert!(Instant::now() < deadline, "{}", daemon.log.text());
        std::thread::sleep(Duration::from_millis(50));
    }
}
