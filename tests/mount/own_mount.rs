//! The daemon never asks its own mount, and no request to the mount waits for another one.

use std::fs;
use std::io::Read;
use std::os::unix::fs::symlink;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::support::daemon::{Daemon, OWN_MOUNT, Options, Served, guid};
use super::support::mounts;
use super::support::process::{succeeded, wait_until};
use super::support::sqlite::{self, Session};

/// What is hanging is freed by then.
const LIMIT: Duration = Duration::from_secs(20);

/// Processes that use a mount; where they hang its connection is aborted, since nothing else ends them.
struct Users {
    connection: u32,
    children: Vec<Child>,
}

impl Users {
    fn start(daemon: &Daemon, commands: impl IntoIterator<Item = Command>) -> Self {
        let connection = mounts::connection_at(&daemon.data()).expect("it is mounted");
        Self::of(connection, commands)
    }

    fn of(connection: u32, commands: impl IntoIterator<Item = Command>) -> Self {
        let spawn = |mut command: Command| command.spawn().expect("a program");
        Self {
            connection,
            children: commands.into_iter().map(spawn).collect(),
        }
    }

    /// Waits for the only one; what it said.
    fn told(mut self) -> String {
        let deadline = Instant::now() + LIMIT;
        let mut child = self.children.pop().expect("there is one");
        let Some(_) = wait_until(&mut child, deadline) else {
            self.children.push(child);
            panic!("it hangs");
        };
        let mut said = String::new();
        let mut told = child.stderr.take().expect("it is piped");
        told.read_to_string(&mut said).expect("text");
        said
    }

    /// Waits until all of them have ended well.
    fn all_succeed(mut self) {
        let deadline = Instant::now() + LIMIT;
        for child in &mut self.children {
            let status = wait_until(child, deadline).expect("it hangs");
            assert!(status.success(), "{status}");
        }
        self.children.clear();
    }
}

impl Drop for Users {
    fn drop(&mut self) {
        if !self.children.is_empty() {
            mounts::abort(self.connection);
        }
        for child in &mut self.children {
            child.kill().expect("a child of ours");
            child.wait().expect("a child of ours");
        }
    }
}

/// Lists a directory again and again for a while.
fn lister(directory: &std::path::Path) -> Command {
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
        Users::start(&daemon, directories.iter().map(|one| lister(one))).all_succeed();
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
    let told = users.told();
    assert!(told.contains("connection abort"), "{told}");

    assert_eq!(daemon.ended().code(), Some(1), "{}", daemon.log.text());
    let log = daemon.log.text();
    for line in [
        "this instance asked its own mount",
        "all threads of the mount wait for the mount itself; its connection is aborted",
        "it waited for itself (lookup, lookup), and was aborted: start the instance again",
    ] {
        assert!(log.contains(line), "{line}\n{log}");
    }
    let refused = fs::read_dir(&data).expect_err("nothing reaches the bare directory");
    assert_eq!(refused.raw_os_error(), Some(libc::ENOTCONN), "{refused}");
    daemon.restart();
    fs::write(data.join("file"), "").expect("it serves again");
    assert!(daemon.terminate().success());
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
    succeeded(
        Command::new("mount")
            .arg("--bind")
            .args([&elsewhere, &data.join("sub")]),
    );
    let lists = ["sub", "."].map(|name| lister(&elsewhere.join(name)));
    let connection = mounts::connection_at(&elsewhere).expect("it is mounted");
    Users::of(connection, lists).all_succeed();
    let seen = fs::read_to_string(elsewhere.join("sub/file")).expect("what is covered");
    assert_eq!(seen, "below");
    succeeded(Command::new("umount").arg(data.join("sub")));
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

/// A folder of a database becomes a link that leads through the mount.
#[test]
fn a_folder_that_becomes_a_link_is_not_followed() {
    for served in Served::ALL {
        let daemon = Daemon::start(Options::served(served));
        // Its names come and go under its log.
        daemon.may_miss_gates();
        let (folder, client) = (daemon.data().join("folder"), guid(1));
        fs::create_dir(&folder).expect("a folder");
        let database = folder.join(format!("{client}.db"));
        let mut session = Session::open(&database);
        session.run("PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES (1);");
        daemon.sync(&client);
        for round in 0..20 {
            let moved = daemon.data().join(format!("moved-{round}"));
            fs::rename(&folder, &moved).expect("renamed");
            symlink(&moved, &folder).expect("a link");
            session.run("INSERT INTO t VALUES (2);");
            fs::remove_file(&folder).expect("removed");
            fs::rename(&moved, &folder).expect("renamed back");
        }
        session.run("INSERT INTO t VALUES (3);");
        drop(session);
        daemon.sync(&client);
    }
}
