//! What a start refuses: each with one clear line and its exit code, and without touching the application's files.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::support::daemon::{Daemon, Options, guid, names};
use super::support::mounts;
use super::support::process::{Bystander, binary, wait_until};
use super::support::sqlite;
use super::support::tree::tree;

/// A refusal is quick; what goes on after this has started by mistake.
const REFUSAL_TIME: Duration = Duration::from_secs(20);

/// Runs what must be refused; the line that says why.
fn refused(command: &mut Command, code: i32, words: &[&str]) -> String {
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let Some(status) = wait_until(&mut child, Instant::now() + REFUSAL_TIME) else {
        // The test's own end clears what it has mounted.
        let _ = child.kill();
        let _ = child.wait();
        panic!("{command:?} was not refused");
    };
    let stderr = child.stderr.take().expect("it is piped");
    let text = std::io::read_to_string(stderr).expect("text");
    assert_eq!(status.code(), Some(code), "{text}");
    let (said, log): (Vec<&str>, Vec<&str>) = text
        .lines()
        .partition(|line| line.starts_with("litestream-multitenant: "));
    assert_eq!(said.len(), 1, "one line says why:\n{text}");
    assert!(log.iter().all(|line| line.starts_with('{')), "{text}");
    for word in words {
        assert!(said[0].contains(word), "{word:?} is not in {}", said[0]);
    }
    said[0].to_owned()
}

/// A daemon that has not started, over a directory with two databases, one with a log beside it, and plain files.
fn prepared() -> Daemon {
    let daemon = Daemon::prepare(Options::default());
    sqlite::query(
        &daemon.database(&guid(1)),
        "PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES (1)",
    );
    sqlite::with_unflushed_log(&daemon.database(&guid(2)), "CREATE TABLE t(x)");
    fs::create_dir(daemon.data().join("folder")).expect("a folder");
    fs::write(daemon.data().join("folder/notes.txt"), "plain").expect("a plain file");
    daemon
}

/// Refused, and everything is as it was.
fn refused_over(daemon: &Daemon, command: &mut Command, code: i32, words: &[&str]) {
    let before = tree(&daemon.data());
    refused(command, code, words);
    assert_eq!(
        mounts::connection_at(&daemon.data()),
        None,
        "nothing is mounted"
    );
    assert!(
        tree(&daemon.data()) == before,
        "the application's files are untouched"
    );
    assert!(
        !daemon.data().join(".litestream-multitenant").exists(),
        "no state is left behind"
    );
}

/// `mount` with flags alone.
fn mount(bucket: &str, watch_path: &Path) -> Command {
    let mut command = binary();
    command
        .args(["-bucket", bucket, "-listen", "127.0.0.1:0", "-watch-path"])
        .arg(watch_path);
    command
}

#[test]
fn a_directory_that_is_missing_or_a_file() {
    let daemon = prepared();
    let store = format!("file://{}", daemon.path("store").display());
    let missing = daemon.path("missing");
    let file = daemon.data().join("folder/notes.txt");
    let path = missing.to_str().expect("text");
    refused_over(
        &daemon,
        &mut mount(&store, &missing),
        2,
        &[path, "create it"],
    );
    assert!(!missing.exists(), "it is not made");
    let path = file.to_str().expect("text");
    refused_over(&daemon, &mut mount(&store, &file), 2, &[path, "directory"]);
}

#[test]
fn a_pattern_or_a_store_that_makes_no_sense() {
    let daemon = prepared();
    let store = format!("file://{}", daemon.path("store").display());
    let mut command = mount(&store, &daemon.data());
    command.args(["-guid-pattern", "[0-9"]);
    refused_over(&daemon, &mut command, 2, &["guid-pattern", "[0-9"]);
    for store in ["gs://bucket", "file://relative", "s3://", "no such bucket"] {
        refused_over(&daemon, &mut mount(store, &daemon.data()), 2, &["bucket"]);
    }
}

#[test]
fn a_store_or_a_state_directory_below_the_watch_path() {
    let daemon = prepared();
    let inside = daemon.data().join("folder");
    let store = format!("file://{}", inside.display());
    refused_over(&daemon, &mut mount(&store, &daemon.data()), 2, &["folder"]);
    let mut command = daemon.mount_command();
    command.arg("-state-dir").arg(&inside);
    refused_over(&daemon, &mut command, 2, &["folder"]);
}

#[test]
fn an_address_that_is_taken() {
    let daemon = prepared();
    let other = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = other.local_addr().expect("bound").to_string();
    let mut command = daemon.mount_command();
    command.args(["-listen", &address]);
    refused_over(&daemon, &mut command, 1, &[&address]);
}

/// Neither by another mount point nor by another state directory can two instances work on one directory; and two
/// directories have no state in common.
#[test]
fn what_another_instance_works_on() {
    let mut daemon = Daemon::prepare(Options::default());
    let (data, other) = (daemon.data(), daemon.path("other"));
    let (state, mountpoint) = (daemon.path("state"), daemon.path("elsewhere"));
    for folder in [&other, &mountpoint] {
        fs::create_dir(folder).expect("a folder");
    }
    daemon.add_flag("-mountpoint", &mountpoint);
    daemon.add_flag("-state-dir", &state);
    daemon.restart();
    let store = format!("file://{}", daemon.path("store").display());
    let refused_with = |watch_path: &Path, state: &Path, named: &Path| {
        let mut command = mount(&store, watch_path);
        command.arg("-state-dir").arg(state);
        let named = named.to_str().expect("text");
        refused(&mut command, 1, &[named, "another instance"]);
        assert_eq!(mounts::connection_at(watch_path), None);
    };
    refused_with(&data, &daemon.path("state of its own"), &data);
    assert!(!daemon.path("state of its own").exists());
    assert!(daemon.terminate().success());
}

#[test]
fn no_device() {
    let daemon = prepared();
    // In a mount namespace of its own, so that nothing of the machine changes.
    for script in [
        "mount -t tmpfs none /dev && mknod /dev/null c 1 3 && exec \"$@\"",
        "mount --bind \"$0\" /dev/fuse && exec \"$@\"",
    ] {
        let empty = daemon.path("empty");
        File::create(&empty).expect("a file");
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", script]).arg(&empty);
        add_command(&mut command, &daemon.mount_command());
        refused_over(&daemon, &mut command, 1, &["/dev/fuse", "modprobe"]);
    }
}

#[test]
fn no_rights() {
    let daemon = prepared();
    for dropped in ["-sys_admin", "-all"] {
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set", dropped, "--inh-caps", dropped]);
        add_command(&mut command, &daemon.mount_command());
        let path = daemon.data();
        let path = path.to_str().expect("text");
        refused_over(&daemon, &mut command, 1, &[path, "CAP_SYS_ADMIN"]);
    }
}

fn add_command(command: &mut Command, other: &Command) {
    command.arg(other.get_program()).args(other.get_args());
}

#[test]
fn a_process_that_holds_a_database_open_is_named() {
    let daemon = prepared();
    let database = daemon.database(&guid(1));
    let holder = Bystander::with_open(&database);
    let pid = holder.pid().to_string();
    let words = ["sleep", &pid, database.to_str().expect("text")];
    refused_over(&daemon, &mut daemon.mount_command(), 1, &words);
}

#[test]
fn a_process_that_only_stands_there_is_a_warning() {
    let mut daemon = prepared();
    let bystander = Bystander::in_directory(&daemon.data().join("folder"));
    daemon.restart();
    let warned = daemon.log.wait_from(
        0,
        "Files that are opened past the mount are not captured",
        Instant::now() + Duration::from_secs(5),
    );
    let holder = warned["holder"].as_str().unwrap_or_default();
    assert!(holder.contains(&bystander.pid().to_string()), "{warned}");
    assert!(daemon.terminate().success());
}

#[test]
fn plain_files_are_never_uploaded() {
    let mut daemon = prepared();
    sqlite::query(&daemon.data().join("system.db"), "CREATE TABLE t(x)");
    daemon.restart();
    let deep = daemon.data().join("folder/deeper");
    fs::create_dir(&deep).expect("a folder");
    for name in ["app.db", "12345678.db", "notes.md"] {
        sqlite::query(
            &deep.join(name),
            "PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES (1)",
        );
    }
    // A database in a folder is one all the same.
    let below = deep.join(format!("{}.db", guid(3)));
    sqlite::query(&below, "PRAGMA journal_mode=WAL; CREATE TABLE t(x)");
    for client in [guid(1), guid(2), guid(3)] {
        daemon.sync(&client);
    }
    assert!(daemon.terminate().success());
    let stored = names(&daemon.path("store/databases"));
    assert_eq!(stored, [guid(1), guid(2), guid(3)]);
    let known = ["databases", ".incoming", "registry/probe"];
    let is_strange = |path: &PathBuf| {
        path != Path::new("registry") && !known.iter().any(|start| path.starts_with(start))
    };
    let mut kept = tree(&daemon.path("store")).into_keys();
    assert_eq!(kept.find(is_strange), None);
}
