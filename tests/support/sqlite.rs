//! What Debian's SQLite, in a process of its own, says of a database.

use std::path::Path;
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
