//! The child that checks a restored database: it limits itself, opens the file, and says in one line what SQLite found.

use std::io::Write;
use std::path::Path;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, ffi};
use rustix::process::{Resource, Rlimit, Signal, set_parent_process_death_signal, setrlimit};

/// What the program is started with; the next word is the processor time in seconds. It is no command for users.
pub const COMMAND: &str = "check_database";
/// The name of the database, in the directory that the child is started in.
pub(super) const DATABASE: &str = "restored.db";

/// Bytes of address space.
const MEMORY: u64 = 512 << 20;
/// Bytes of it that SQLite may take.
const HEAP: i64 = 256 << 20;
/// Bytes of a file that it writes: the wal-index of a database with a log, in the directory of the database.
const WRITTEN: u64 = 1 << 20;
/// Descriptors: the three that it has, the database with what lies beside it, and what its libraries need.
const DESCRIPTORS: u64 = 16;

/// What SQLite says of a database.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Told {
    Sound,
    /// `PRAGMA integrity_check` names this.
    Finding(String),
    /// It can't be read as a database.
    Corrupt(String),
    /// The check could not be carried to its end.
    Failed(String),
}

impl Told {
    fn to_line(&self) -> String {
        let (word, text) = match self {
            Self::Sound => ("sound", ""),
            Self::Finding(text) => ("finding", text.as_str()),
            Self::Corrupt(text) => ("corrupt", text.as_str()),
            Self::Failed(text) => ("failed", text.as_str()),
        };
        let text: String = text.chars().take(1000).collect();
        format!("{word} {}\n", text.replace('\n', " "))
    }

    pub(super) fn parse(line: &str) -> Option<Self> {
        let line = line
            .strip_suffix('\n')
            .filter(|line| !line.contains('\n'))?;
        let (word, text) = line.split_once(' ')?;
        let text = text.to_owned();
        Some(match word {
            "sound" => Self::Sound,
            "finding" => Self::Finding(text),
            "corrupt" => Self::Corrupt(text),
            "failed" => Self::Failed(text),
            _ => return None,
        })
    }
}

/// The child's whole work, in the directory of the database; its exit code. `seconds`: of processor time.
pub fn run(seconds: Option<u64>) -> u8 {
    let Some(seconds) = seconds else {
        return 2;
    };
    if limit(seconds).is_err() {
        return 1;
    }
    let line = check(Path::new(DATABASE)).to_line();
    let mut out = std::io::stdout().lock();
    let written = out.write_all(line.as_bytes()).and_then(|()| out.flush());
    u8::from(written.is_err())
}

/// Ends with its parent, and gets no more than this.
fn limit(seconds: u64) -> rustix::io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    for (resource, most) in [
        (Resource::As, MEMORY),
        (Resource::Cpu, seconds),
        (Resource::Fsize, WRITTEN),
        (Resource::Nofile, DESCRIPTORS),
        (Resource::Core, 0),
    ] {
        let limit = Rlimit {
            current: Some(most),
            maximum: Some(most),
        };
        setrlimit(resource, limit)?;
    }
    // SAFETY: a setting of the library, which is not in use yet.
    unsafe { ffi::sqlite3_hard_heap_limit64(HEAP) };
    Ok(())
}

/// Asks SQLite about the database at `path`, which nobody writes.
pub(super) fn check(path: &Path) -> Told {
    let checked = open(path).and_then(|connection| {
        connection.query_row("PRAGMA integrity_check(1)", [], |row| {
            row.get::<_, String>(0)
        })
    });
    match checked {
        Ok(finding) if finding == "ok" => Told::Sound,
        Ok(finding) => Told::Finding(finding),
        Err(error) if is_corruption(&error) => Told::Corrupt(error.to_string()),
        Err(error) => Told::Failed(error.to_string()),
    }
}

/// Nothing that the schema has may do more than compute.
fn open(path: &Path) -> rusqlite::Result<Connection> {
    // Of what is opened to be read alone SQLite checks no CHECK constraint.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    for (setting, value) in [
        (DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true),
        (DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false),
    ] {
        connection.set_db_config(setting, value)?;
    }
    for (limit, most) in [
        (ffi::SQLITE_LIMIT_ATTACHED, 0),
        (ffi::SQLITE_LIMIT_WORKER_THREADS, 0),
    ] {
        // SAFETY: the connection is open, and the limits are those of the library.
        unsafe { ffi::sqlite3_limit(connection.handle(), limit, most) };
    }
    connection.execute_batch("PRAGMA temp_store = MEMORY; PRAGMA mmap_size = 0")?;
    Ok(connection)
}

fn is_corruption(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    matches!(
        error.sqlite_error_code(),
        Some(DatabaseCorrupt | NotADatabase)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_reads_back() {
        for told in [
            Told::Sound,
            Told::Finding("row 1 missing from index i".to_owned()),
            Told::Corrupt("file is not a database".to_owned()),
            Told::Failed(String::new()),
        ] {
            assert_eq!(Told::parse(&told.to_line()), Some(told));
        }
        for line in ["", "sound", "sound \nmore", "sounds \n"] {
            assert_eq!(Told::parse(line), None, "{line:?}");
        }
    }
}
