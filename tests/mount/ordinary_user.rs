//! An instance that an ordinary user runs: mounted by fusermount3, without passthrough, and seen by that user alone.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::support::daemon::{Daemon, Options, guid};
use super::support::process::{Bystander, binary, output, succeeded};
use super::support::users::Users;
use super::support::{mounts, sqlite};

/// `nobody`: fusermount3 wants a user with a name.
const USER: u32 = 65534;
const AS_USER: [&str; 6] = [
    "setpriv",
    "--reuid",
    "65534",
    "--regid",
    "65534",
    "--clear-groups",
];

fn as_user(words: &[&str]) -> Command {
    let mut command = Command::new(AS_USER[0]);
    command.args(&AS_USER[1..]).args(words).current_dir("/");
    command
}

fn query(database: &Path, sql: &str) -> String {
    let path = database.to_str().expect("text");
    let said = succeeded(&mut as_user(&[
        "sqlite3",
        "-cmd",
        ".timeout 10000",
        path,
        sql,
    ]));
    said.trim_end().to_owned()
}

/// A daemon of the user's, over directories of the user's.
fn daemon() -> Daemon {
    let mode = fs::metadata("/dev/fuse").expect("the device").mode();
    assert_eq!(
        mode & 0o666,
        0o666,
        "/dev/fuse is closed to ordinary users: chmod 666 /dev/fuse, as udev does"
    );
    let mut daemon = Daemon::prepare(Options::default());
    let data = daemon.data();
    let scratch = data.parent().expect("a parent");
    for path in [scratch, &data, &daemon.config()] {
        chown(path, Some(USER), Some(USER)).expect("given to the user");
    }
    // A copy, since the user need not reach the directory of the build.
    let copy = daemon.path("binary");
    fs::copy(binary().get_program(), &copy).expect("copied");
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).expect("executable");
    let instead = format!("shift; exec {} \"$@\"", copy.display());
    let words = AS_USER.into_iter().chain(["sh", "-c", &instead, "sh"]);
    daemon.set_wrapper(words.map(str::to_owned).collect());
    daemon
}

#[test]
fn everything_works_but_passthrough() {
    let mut daemon = daemon();
    daemon.restart();
    let database = daemon.database(&guid(1));
    query(
        &database,
        "PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES (1)",
    );
    daemon.sync(&guid(1));
    let table = fs::read_to_string("/proc/self/mountinfo").expect("the table of mounts");
    let data = daemon.data();
    let line = table
        .lines()
        .find(|line| line.contains(data.to_str().expect("text")));
    let line = line.expect("it is mounted");
    assert!(
        line.contains("fuse.litestream-multitenant") && line.contains("user_id=65534"),
        "{line}"
    );
    let refused = fs::read_dir(&data).expect_err("root is another user");
    assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied);

    // After a kill the dead mount is cleared, and the history goes on.
    query(&database, "INSERT INTO t VALUES (2)");
    daemon.kill9();
    daemon.restart();
    query(&database, "INSERT INTO t VALUES (3)");
    daemon.sync(&guid(1));
    assert_eq!(daemon.generations(&guid(1)).len(), 1);
    assert!(daemon.terminate().success(), "{}", daemon.log.text());
    assert_eq!(mounts::connection_at(&data), None);
    let restored = daemon.restore(&guid(1), &[], "restored.db");
    assert_eq!(sqlite::query(&restored, "SELECT x FROM t"), "1\n2\n3");
    let owner = fs::metadata(&database).expect("there").uid();
    assert_eq!(owner, USER);
}

#[test]
fn a_busy_mount_stays_and_its_user_is_named() {
    let mut daemon = daemon();
    daemon.restart();
    let database = daemon.database(&guid(1));
    query(&database, "CREATE TABLE t(x)");
    let user = Bystander::reading(&mut as_user(&[
        "sh",
        "-c",
        "exec sleep 300 <\"$0\"",
        database.to_str().expect("text"),
    ]));
    user.wait_until_open(&database);
    assert_eq!(daemon.terminate().code(), Some(1));
    let said = daemon.log.text();
    assert!(
        said.contains(&format!("sleep (pid {})", user.pid())),
        "{said}"
    );
    assert!(mounts::connection_at(&daemon.data()).is_some());
}

#[test]
fn a_directory_of_somebody_else_is_refused() {
    let daemon = daemon();
    chown(daemon.data(), Some(0), Some(0)).expect("root's");
    fs::set_permissions(daemon.data(), fs::Permissions::from_mode(0o755)).expect("readable");
    let state = daemon.path("state");
    let mut command = daemon.mount_command();
    let refused = output(command.arg("-state-dir").arg(state));
    let said = String::from_utf8_lossy(&refused.stderr);
    let last = said.lines().last().unwrap_or_default();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(
        last.contains("no write access to mountpoint") && last.contains("of your own"),
        "{said}"
    );
    assert_eq!(mounts::connection_at(&daemon.data()), None);
}

/// Where the directory can't be had apart from what is mounted over it.
#[test]
fn directories_of_the_first_level_are_listed_at_once() {
    let mut daemon = daemon();
    daemon.restart();
    let data = daemon.data();
    let loops = "for i in $(seq 200); do ls -la \"$1\" > /dev/null; done";
    let listers = ["a", "b"].map(|name| {
        let directory = data.join(name);
        let directory = directory.to_str().expect("text").to_owned();
        succeeded(&mut as_user(&["mkdir", &directory]));
        as_user(&["sh", "-c", loops, "sh", &directory])
    });
    Users::start(&daemon, listers).all_succeed(Duration::from_secs(30));
    assert!(daemon.terminate().success(), "{}", daemon.log.text());
}
