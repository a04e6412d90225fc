//! Processes that use a mount, and that are freed where they hang.

use std::io::Read;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use super::daemon::Daemon;
use super::mounts;
use super::process::wait_until;

/// Processes that use a mount; where they hang its connection is aborted, since nothing else ends them.
pub struct Users {
    connection: u32,
    children: Vec<Child>,
}

impl Users {
    pub fn start(daemon: &Daemon, commands: impl IntoIterator<Item = Command>) -> Self {
        let connection = mounts::connection_at(&daemon.data()).expect("it is mounted");
        Self::of(connection, commands)
    }

    pub fn of(connection: u32, commands: impl IntoIterator<Item = Command>) -> Self {
        let spawn = |mut command: Command| command.spawn().expect("a program");
        Self {
            connection,
            children: commands.into_iter().map(spawn).collect(),
        }
    }

    /// Waits for the only one; what it said.
    pub fn told(mut self, limit: Duration) -> String {
        let deadline = Instant::now() + limit;
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
    pub fn all_succeed(mut self, limit: Duration) {
        let deadline = Instant::now() + limit;
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
