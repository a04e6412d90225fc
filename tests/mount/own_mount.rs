//! The daemon never asks its own mount, and no request to the mount waits for another one.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::support::daemon::{Daemon, OWN_MOUNT, Options, Served, guid};
use super::support::mounts;
use super::support::process::succeeded;
use super::support::sqlite;
use super::support::users::Users;

const LIMIT: Duration = Duration::from_secs(20);

/// A mount of the daemon's that is bound to another place, and taken away there in any case.
struct Bound(PathBuf);

impl Bound {
    fn new(mount: &Path, at: PathBuf) -> Self {
        succeeded(Command::new("mount").arg("--bind").args([mount, &at]));
        Self(at)
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        mounts::clear(&self.0);
    }
}

/// Lists a directory again and again for a while.
fn lister(directory: &Path) -> Command {
    let mut command = Command::new("python3");
    let loops = "import os, sys, time\nend = time.time() + 3\nwhile time.time() < end:\n    [e.stat() for e in os.scandir(sys.argv[1])]";
    command.args(["-c", loops]).arg(directory);
    command
}

#[test]
fn directories_of_the_first_level_are_listed_at_once() {
    for served in Served::ALL {
        let daemon = Daemon::start(Options::served(served));
        let directories = ["a", "b"].map(|name| daemon.data().join(name));
        for directory in &directories {
            fs::create_dir(directory).expect("a directory");
            fs::write(directory.join("file"), "").expect("a file");
        }
        Users::start(&daemon, directories.iter().map(|one| lister(one))).all_succeed(LIMIT);
    }
}

/// A thread that asks its own mount is told, and where all do the applications get an error and the instance ends.
#[test]
fn a_mount_that_waits_for_itself_is_aborted_and_says_so() {
    let mut daemon = Daemon::prepare(Options::default());
    let data = daemon.data();
    daemon.add_environment(OWN_MOUNT, data.to_str().expect("text").to_owned());
    daemon.restart();
    let mut stat = Command::new("stat");
    // The look-up of this name asks the mount for another such name, and so on.
    stat.arg(data.join("own-mount-")).env("LC_ALL", "C");
    stat.stderr(Stdio::piped()).stdout(Stdio::null());
    let users = Users::start(&daemon, [stat]);
    let told = users.told(LIMIT);
    assert!(told.contains("connection abort"), "{told}");

    assert_eq!(daemon.ended().code(), Some(1), "{}", daemon.log.text());
    let log = daemon.log.text();
    for line in [
        "this instance asked its own mount",
        "all threads of the mount wait for the mount itself; its connection is aborted",
        "it waited for itself (lookup, lookup, lookup), and was aborted: start the instance again",
    ] {
        assert!(log.contains(line), "{line}\n{log}");
    }
    let refused = fs::read_dir(&data).expect_err("nothing reaches the bare directory");
    assert_eq!(refused.raw_os_error(), Some(libc::ENOTCONN), "{refused}");
    daemon.restart();
    fs::write(data.join("file"), "").expect("it serves again");
    assert!(daemon.terminate().success());
}

/// Its files are those of another file system, in listings and as databases.
#[test]
fn what_is_mounted_below_before_the_start_is_served() {
    for served in Served::PASSED {
        let mut daemon = Daemon::prepare(Options::served(served));
        let below = daemon.data().join("below");
        fs::create_dir(&below).expect("a folder");
        succeeded(
            Command::new("mount")
                .args(["-t", "tmpfs", "none"])
                .arg(&below),
        );
        fs::write(below.join("file"), "of another").expect("a file");
        daemon.restart();
        let seen = fs::read_to_string(below.join("file")).expect("served");
        assert_eq!(seen, "of another");
        let database = below.join(format!("{}.db", guid(1)));
        sqlite::query(
            &database,
            "PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES (1)",
        );
        Users::start(
            &daemon,
            [".", "below"].map(|name| lister(&daemon.data().join(name))),
        )
        .all_succeed(LIMIT);
        daemon.sync(&guid(1));
        let restored = daemon.restore(&guid(1), &[], "restored.db");
        assert_eq!(sqlite::query(&restored, "SELECT x FROM t"), "1");
        assert!(daemon.terminate().success(), "{}", daemon.log.text());
        succeeded(Command::new("umount").arg(&below));
    }
}

/// What somebody mounts below the watch path afterwards is no way into the mount.
#[test]
fn a_mount_that_is_bound_below_its_own_directory_is_not_entered() {
    let mut daemon = Daemon::prepare(Options::default());
    let (data, elsewhere) = (daemon.data(), daemon.path("elsewhere"));
    for folder in [&data.join("sub"), &elsewhere] {
        fs::create_dir(folder).expect("a folder");
    }
    fs::write(data.join("sub/file"), "below").expect("a file");
    daemon.add_flag("-mountpoint", &elsewhere);
    daemon.restart();
    let bound = Bound::new(&elsewhere, data.join("sub"));
    let lists = ["sub", "."].map(|name| lister(&elsewhere.join(name)));
    let connection = mounts::connection_at(&elsewhere).expect("it is mounted");
    Users::of(connection, lists).all_succeed(LIMIT);
    let seen = fs::read_to_string(elsewhere.join("sub/file")).expect("what is covered");
    assert_eq!(seen, "below");
    drop(bound);
    assert!(daemon.terminate().success(), "{}", daemon.log.text());
}

/// The configuration is read again while the watch path, its links and what lies below are behind the mount.
#[test]
fn a_configuration_that_is_read_again_asks_no_mount() {
    let mut daemon = Daemon::prepare(Options::default());
    let (data, link) = (daemon.data(), daemon.path("link"));
    symlink(&data, &link).expect("a link");
    let client = format!(
        "clients: [{{clientId: {}, dbPath: {}/sub/x.db, s3Prefix: x}}]\n",
        guid(1),
        link.display()
    );
    fs::create_dir(data.join("sub")).expect("a folder");
    daemon.configure(client);
    daemon.restart();
    let mark = daemon.log.mark();
    daemon.signal(libc::SIGHUP);
    let deadline = Instant::now() + LIMIT;
    let read = daemon
        .log
        .find_from(mark, "The configuration was read again", deadline);
    assert!(read.is_some(), "{}", daemon.log.text());

    // What has become a way into the mount is not taken.
    let moved = daemon.path("elsewhere.yml");
    fs::copy(daemon.config(), data.join("config.yml")).expect("a copy");
    fs::rename(daemon.config(), &moved).expect("renamed");
    symlink(data.join("config.yml"), daemon.config()).expect("a link");
    let mark = daemon.log.mark();
    daemon.signal(libc::SIGHUP);
    let refused = daemon
        .log
        .find_from(mark, "The configuration can't be used", deadline);
    let refused = refused.expect("it is told").to_string();
    assert!(
        refused.contains("which this instance has mounted"),
        "{refused}"
    );
    fs::remove_file(daemon.config()).expect("removed");
    fs::rename(&moved, daemon.config()).expect("renamed back");

    // Neither is a store that was moved behind the mount.
    let store = daemon.path("store");
    let database = daemon.database(&guid(2));
    sqlite::query(&database, "PRAGMA journal_mode=WAL; CREATE TABLE t(x)");
    daemon.sync(&guid(2));
    fs::rename(&store, daemon.path("kept")).expect("renamed");
    fs::create_dir(data.join("store")).expect("a folder");
    symlink(data.join("store"), &store).expect("a link");
    sqlite::query(&database, "INSERT INTO t VALUES (1)");
    daemon.wait_health(&guid(2), |health| {
        let error = health["lastError"].as_str().unwrap_or_default();
        error.contains("which this instance has mounted")
    });
    fs::remove_file(&store).expect("removed");
    fs::rename(daemon.path("kept"), &store).expect("renamed back");
    daemon.sync(&guid(2));
}

/// Uses the mount in every way, and the API as well.
const ORDINARY_USE: &str = r#"
set -e
cd "$1"
mkdir -p a/b && echo text > a/file && cp a/file a/b/copy && ln a/file a/link && ln -s file a/symbolic
ls -laR . > /dev/null && find . -newer a/file > /dev/null && du -s . > /dev/null && stat -f . > /dev/null
mv a/b a/c && mv a/file a/other && cat a/c/copy a/symbolic 2> /dev/null > /dev/null || true
truncate -s 10 a/other && chmod 600 a/other && touch -d yesterday a/other && chown 1:1 a/other
python3 -c 'import os; os.setxattr("a/other", "user.x", b"1"); os.listxattr("a/other"); os.getxattr("a/other", "user.x"); os.removexattr("a/other", "user.x"); os.mkfifo("a/fifo")'
tar cf /dev/null . && rm -r a/c && rmdir a 2> /dev/null || true
df . > /dev/null
"#;

/// Every path that a system call of the daemon names is looked at: none is that of the mount, or below it.
#[test]
fn no_system_call_of_the_daemon_names_its_mount() {
    for served in Served::PASSED {
        let mut daemon = Daemon::prepare(Options::served(served));
        let trace = daemon.path("trace");
        let file = trace.to_str().expect("text").to_owned();
        let drills = "verification: {interval: 200ms, sample: 100%}\n".to_owned();
        daemon.configure(drills);
        // The tracer is a child of a child, so that the daemon stays the test's.
        let words = [
            "strace",
            "-D",
            "-f",
            "-y",
            "-s",
            "4096",
            "-e",
            "trace=%file",
            "-o",
        ];
        let words = words.map(str::to_owned).into_iter().chain([file]);
        daemon.set_wrapper(words.collect());
        daemon.restart();
        let mark = fs::read_to_string(&trace).expect("a trace").len();
        succeeded(
            Command::new("sh")
                .args(["-c", ORDINARY_USE, "sh"])
                .arg(daemon.data()),
        );
        let database = daemon.database(&guid(1));
        for journal in ["WAL", "DELETE", "WAL"] {
            let sql = format!(
                "PRAGMA journal_mode={journal}; CREATE TABLE IF NOT EXISTS t(x); INSERT INTO t VALUES (1); PRAGMA wal_checkpoint(TRUNCATE)"
            );
            sqlite::query(&database, &sql);
            daemon.sync(&guid(1));
        }
        let renamed = daemon.database(&guid(2));
        fs::rename(&database, &renamed).expect("renamed");
        daemon.sync(&guid(2));
        daemon.wait_health(&guid(2), |health| health["lastProvenAt"].is_string());
        daemon.get("/api/health");
        let seen = daemon.log.mark();
        daemon.signal(libc::SIGHUP);
        let deadline = Instant::now() + LIMIT;
        assert!(
            daemon
                .log
                .find_from(seen, "The configuration was read again", deadline)
                .is_some()
        );
        daemon.download(&format!("/api/databases/{0}/{0}/download", guid(2)));
        fs::remove_file(&renamed).expect("removed");
        assert!(
            daemon
                .metrics()
                .contains("litestream_own_requests_total 0\n")
        );

        let all = fs::read_to_string(&trace).expect("a trace");
        let calls: Vec<_> = all[mark..]
            .lines()
            .filter(|line| line.contains('('))
            .collect();
        assert!(calls.len() > 500, "{} calls", calls.len());
        let data = daemon.data();
        let data = data.to_str().expect("text");
        let names_it = |call: &&&str| {
            // Of a link that is read the text follows the name.
            let names = match (call.contains(" readlink("), call.contains(" readlinkat(")) {
                (true, _) => 1,
                (_, true) => 2,
                _ => usize::MAX,
            };
            let arguments = call.split(") = ").next().unwrap_or_default();
            let mut arguments = arguments.split(", ").take(names);
            let [named, opened] = [format!("\"{data}"), format!("<{data}")];
            arguments.any(|argument| argument.contains(&named) || argument.contains(&opened))
                || call
                    .split_once(") = ")
                    .is_some_and(|(_, opens)| opens.contains(&opened))
        };
        // What is opened there to be told from other places, as the mount's root, and the child that asks whether it answers.
        let is_told = |call: &&&str| {
            call.contains("O_PATH)")
                || call.contains("\"\", AT_STATX_DONT_SYNC|AT_EMPTY_PATH, 0, ")
                || call.contains(" statfs(")
        };
        let found: Vec<_> = calls
            .iter()
            .filter(names_it)
            .filter(|call| !is_told(call))
            .collect();
        assert!(found.is_empty(), "{found:#?}");
        assert!(daemon.terminate().success(), "{}", daemon.log.text());
    }
}
