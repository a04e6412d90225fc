//! The way of a mount between containers, as docs/kubernetes.md has it: made in the instance's mount namespace, and seen
//! in the application's, which is older.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::support::daemon::{Daemon, Options, guid};
use super::support::process::{succeeded, wait_until};
use super::support::{mounts, sqlite};

/// A directory through which mounts travel.
struct Shared(PathBuf);

impl Shared {
    fn new(dir: PathBuf) -> Self {
        fs::create_dir_all(dir.join("data")).expect("made");
        succeeded(Command::new("mount").arg("--bind").args([&dir, &dir]));
        let shared = Self(dir);
        succeeded(Command::new("mount").arg("--make-shared").arg(&shared.0));
        shared
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        mounts::clear(&self.0.join("data"));
        // Lazily, since the test may have failed while somebody uses it.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// A shell in a mount namespace that takes mounts and gives none.
struct Application(Child);

impl Application {
    fn start() -> Self {
        let mut command = Command::new("unshare");
        command.args(["-m", "--propagation", "slave", "sh", "-e"]);
        Self(
            command
                .stdin(Stdio::piped())
                .spawn()
                .expect("unshare is a program"),
        )
    }

    /// Waits until it has the namespace of its own.
    fn wait_for_namespace(&self) {
        let namespace =
            |pid: &str| fs::read_link(format!("/proc/{pid}/ns/mnt")).expect("a namespace");
        let deadline = Instant::now() + Duration::from_secs(10);
        while namespace(&self.0.id().to_string()) == namespace("self") {
            assert!(Instant::now() < deadline);
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }

    /// Runs a script, and ends.
    fn run(mut self, script: &str) {
        let mut input = self.0.stdin.take().expect("it is piped");
        writeln!(input, "{script}").expect("written");
        drop(input);
        let ended = wait_until(&mut self.0, Instant::now() + Duration::from_secs(20));
        assert!(ended.is_some_and(|status| status.success()), "{script}");
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        // Neither fails for a child that was not waited for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn command_for(database: &Path) -> String {
    let sql = "PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES (1)";
    format!("sqlite3 '{}' '{sql}'", database.display())
}

#[test]
fn an_application_that_started_earlier_sees_the_mount_of_another_container() {
    let wrapper = ["unshare", "-m", "--propagation", "unchanged"];
    let mut daemon = Daemon::prepare(Options {
        wrapper: wrapper.map(str::to_owned).to_vec(),
        ..Options::default()
    });
    let shared = Shared::new(daemon.path("mounts"));
    let target = shared.0.join("data");
    daemon.add_flag("-mountpoint", &target);
    let application = Application::start();
    application.wait_for_namespace();
    daemon.restart();
    application.run(&command_for(&target.join(format!("{}.db", guid(1)))));
    daemon.sync(&guid(1));
    let restored = daemon.restore(&guid(1), &[], "restored.db");
    assert_eq!(sqlite::query(&restored, "SELECT x FROM t"), "1");
    // What else health may name are the namespaces of other tests.
    let (status, health) = daemon.get("/api/health");
    assert_eq!(
        (status, &health["mounts"][0]["state"]),
        (200, &"mounted".into()),
        "{health}"
    );
    assert!(daemon.terminate().success(), "{}", daemon.log.text());
    assert_eq!(mounts::connection_at(&target), None);
}
