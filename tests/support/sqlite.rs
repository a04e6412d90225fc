//! What Debian's SQLite, in a process of its own, says of a database.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

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

/// A connection of Debian's SQLite that stays open, in a process of its own.
pub struct Session {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Session {
    pub fn open(database: &Path) -> Self {
        let mut command = Command::new("sqlite3");
        Self::of(
            command
                .args(["-batch", "-cmd", ".timeout 10000"])
                .arg(database),
        )
    }

    /// What a command that is such a shell has open.
    pub fn of(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the shell starts");
        let to = child.stdin.take().expect("it is piped");
        let from = BufReader::new(child.stdout.take().expect("it is piped"));
        Self { child, to, from }
    }

    /// Runs statements, and gives what they print.
    pub fn run(&mut self, sql: &str) -> String {
        const END: &str = "-- end --\n";
        writeln!(self.to, "{sql}\n.print {}", END.trim_end()).expect("sqlite3 reads");
        let mut text = String::new();
        while !text.ends_with(END) {
            let read = self.from.read_line(&mut text).expect("sqlite3 answers");
            assert_ne!(read, 0, "sqlite3 ended: {text}");
        }
        text.truncate(text.len() - END.len());
        text.trim_end().to_owned()
    }

    /// Ends the process without letting it close its files in order.
    pub fn kill9(mut self) {
        self.child.kill().expect("a child of ours");
        self.child.wait().expect("a child of ours");
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // The end of its input ends it, after it has closed the database; after `kill9` there is nothing to ask.
        let _ = self.to.write_all(b"\n.quit\n");
        let _ = self.child.wait();
    }
}
