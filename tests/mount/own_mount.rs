//! The daemon never asks its own mount, and no request to the mount waits for another one.

use std::fs;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use super::support::daemon::{Daemon, Options, Served};
use super::support::mounts;
use super::support::process::wait_until;

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
        let spawn = |mut command: Command| command.spawn().expect("a program");
        Self {
            connection,
            children: commands.into_iter().map(spawn).collect(),
        }
    }

    /// Waits for all of them; the names of what does not end in time.
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
