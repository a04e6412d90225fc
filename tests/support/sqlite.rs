//! What Debian's SQLite, in a process of its own, says of a database.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::process::succeeded;

/// What the statements print.
pub fn query(database: &Path, sql: &str) -> String {
    let text = succeeded(
        Command::new("sqlite3")
            .args(["-batch", "-cmd", ".timeout 10000"])
            .arg(database)
            .arg(sql),
    );
    text.trim_end().to_owned()
}

/// Runs statements in WAL mode and leaves what they wrote in the log, as a process that dies would.
pub fn with_unflushed_log(database: &Path, sql: &str) {
    let statements = format!("PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0; {sql}");
    succeeded(
        Command::new("sqlite3")
            .args(["-batch", "-cmd", ".dbconfig no_ckpt_on_close on"])
            .arg(database)
            .arg(statements),
    );
    let log = companion(database, "-wal");
    let left = std::fs::metadata(&log).map_or(0, |log| log.len());
    assert!(left > 0, "{} was flushed", log.display());
}

/// The path of `-wal` or another file beside a database.
pub fn companion(database: &Path, suffix: &str) -> PathBuf {
    let mut path = database.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

/// Fails unless both are sound, and hold the same schema and rows.
pub fn assert_same(left: &Path, right: &Path) {
    for database in [left, right] {
        assert_eq!(query(database, "PRAGMA integrity_check"), "ok");
    }
    let dump = |database: &Path| query(database, ".dump");
    assert!(
        dump(left) == dump(right),
        "{} and {} hold different data",
        left.display(),
        right.display()
    );
}
