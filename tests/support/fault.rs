//! Debian's SQLite with `examples/fault_shim.rs` before it: dies, or meets an error, at one exact point of its work.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output};

use super::process::{example_library, output};
use super::sqlite::Session;

/// In the order in which a commit in WAL mode makes them: after the header of its last frame, and before the page.
pub const AFTER_COMMIT_HEADER: &str = "die-after commit-header -wal 1";
/// The log has the whole commit, and the wal-index does not know of it.
pub const AFTER_COMMIT: &str = "die-after commit-page -wal 1";

/// `sqlite3` that meets the fault, as the shim's first comment describes it.
fn sqlite3(fault: &str) -> Command {
    let mut command = Command::new("sqlite3");
    command
        .env("LD_PRELOAD", example_library("fault_shim"))
        .env("SQLITE_FAULT", fault)
        .args(["-batch", "-cmd", ".timeout 10000"]);
    command
}

fn ran(database: &Path, fault: &str, sql: &str) -> Output {
    output(sqlite3(fault).arg(database).arg(sql))
}

/// Runs statements in a process that has to die of the fault.
pub fn dies(database: &Path, fault: &str, sql: &str) {
    let output = ran(database, fault, sql);
    assert_eq!(
        output.status.signal(),
        Some(libc::SIGKILL),
        "{fault}: {output:?}"
    );
}

/// A connection that meets the fault, in whatever it is told to run then.
pub fn session(database: &Path, fault: &str) -> Session {
    Session::of(sqlite3(fault).arg(database))
}
