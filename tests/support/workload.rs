//! A writer in another process, and the commits that were acknowledged to it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::process::{example, signal, wait_until};
use super::sqlite;

/// Longer than any workload runs.
const TIME_LIMIT: Duration = Duration::from_secs(90);

pub struct Workload {
    child: Child,
    acks: PathBuf,
}

impl Workload {
    /// Starts `examples/workload` on a database; acknowledged numbers go to the file `acks`.
    pub fn start(database: &Path, acks: &Path, arguments: &str) -> Self {
        let mut command = example("workload");
        command
            .arg(database)
            .arg("--ack")
            .arg(acks)
            .args(arguments.split_whitespace());
        Self::of(&mut command, acks)
    }

    /// Starts a command that writes, and acknowledges in the file `acks`.
    pub fn of(command: &mut Command, acks: &Path) -> Self {
        let child = command.stderr(Stdio::piped()).spawn();
        Self {
            child: child.expect("the workload starts"),
            acks: acks.to_owned(),
        }
    }

    /// Waits until it has done what it was told; it must succeed.
    pub fn finish(mut self) {
        let deadline = Instant::now() + TIME_LIMIT;
        let Some(status) = wait_until(&mut self.child, deadline) else {
            panic!("the workload hangs");
        };
        assert!(status.success(), "{status}");
    }

    /// Waits until at least `count` commits have been acknowledged.
    pub fn wait_for_acks(&self, count: usize) {
        let deadline = Instant::now() + TIME_LIMIT;
        while acknowledged(&self.acks).len() < count {
            assert!(Instant::now() < deadline, "too few commits");
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }

    pub fn kill9(mut self) {
        signal(&self.child, libc::SIGKILL);
        self.child.wait().expect("a child of ours");
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // Whether it had ended, or what it was waiting for.
            let waits_in = std::fs::read_to_string(format!("/proc/{}/wchan", self.child.id()));
            let acks = std::fs::read_to_string(&self.acks);
            let commits = acks.map(|acks| acks.lines().count());
            let ended = self.child.try_wait();
            eprintln!(
                "the workload: {ended:?}, in {waits_in:?}, acknowledged commits: {commits:?}"
            );
        }
        // Neither fails for a child that has ended and was waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The numbers of the commits that were acknowledged, in order.
pub fn acknowledged(acks: &Path) -> Vec<u64> {
    let text = fs::read_to_string(acks).unwrap_or_default();
    // A line without its end is still being written.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let mut numbers: Vec<u64> = whole
        .lines()
        .map(|line| line.parse().expect("a number a line"))
        .collect();
    numbers.sort_unstable();
    numbers
}

/// Fails unless the database is sound, has every commit up to its last, and all that were acknowledged.
pub fn assert_has_all(database: &Path, acknowledged: &[u64]) {
    assert_eq!(sqlite::query(database, "PRAGMA integrity_check"), "ok");
    let counted = sqlite::query(
        database,
        "SELECT count(*), coalesce(max(n), 0) FROM commits",
    );
    let (count, last) = counted.split_once('|').expect("two columns");
    assert_eq!(count, last, "commits are missing in between");
    let last: u64 = last.parse().expect("a number");
    let newest = acknowledged.last().copied().unwrap_or(0);
    assert!(
        last >= newest,
        "{newest} was acknowledged, {last} is the last"
    );
}
