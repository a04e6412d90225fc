//! What stands on disk of one database: its header, its log, and the stamps of both.

use std::os::fd::AsFd;

use super::Shared;
use super::backing::{Opened, Stamp, companion, read_up_to};
use super::database::Database;
use super::error::CaptureError;
use super::state::Stamps;
use super::wal_reader::WalReader;
use super::watch::HeardLog;
use crate::clock::now_ms;
use crate::format::sqlite::{
    DatabaseHeader, HEADER_SIZE as DATABASE_HEADER_SIZE, JOURNAL_HEADER_SIZE, journal_is_hot,
};
use crate::format::wal::HeaderError;

/// What stands at `<database>-wal`.
pub(super) enum Log {
    None,
    Valid(WalReader),
}

/// Opens the log; one that SQLite itself would ignore is none.
pub(super) fn open_log(db: &Database, shared: &Shared) -> Result<Log, CaptureError> {
    let opened = db.open_companion(&shared.backing, "-wal");
    match opened.map_err(CaptureError::io("open the log"))? {
        Some(opened) => read_log(opened),
        None => Ok(Log::None),
    }
}

/// The same of one that is open.
fn read_log(Opened { file, stamp }: Opened) -> Result<Log, CaptureError> {
    match WalReader::open(file, stamp.size).map_err(CaptureError::io("read the log's header"))? {
        Ok(log) => Ok(Log::Valid(log)),
        Err(error @ HeaderError::Version(_)) => Err(error.into()),
        Err(_) => Ok(Log::None),
    }
}

/// The log that stands there: where it is open already, with the size that it had when its name was looked at.
pub(super) fn log_now(
    db: &Database,
    shared: &Shared,
    heard: Option<HeardLog>,
    stamps: &Stamps,
) -> Result<Log, CaptureError> {
    let stamp = stamps.wal;
    let heard = heard.filter(|heard| heard.inode == stamp.inode);
    let file = heard.map(|heard| heard.file);
    match file.or_else(|| db.lent(stamp.inode)) {
        Some(file) => read_log(Opened { file, stamp }),
        None => open_log(db, shared),
    }
}

/// What was read of a log counts only where it is the same one still: whoever writes over it has begun it anew before.
pub(super) fn refuse_replaced(log: &WalReader) -> Result<(), CaptureError> {
    match log.is_replaced() {
        Ok(false) => Ok(()),
        Ok(true) => Err(CaptureError::Disturbed),
        Err(error) => Err(CaptureError::io("look at the log")(error)),
    }
}

/// Whether the file says that its changes go through a log.
pub(super) fn in_wal_mode(db: &Database, shared: &Shared) -> Result<bool, CaptureError> {
    Ok(read_header(db, shared)?.is_some_and(|header| header.wal_mode))
}

/// The database's header, where it has one.
pub(super) fn read_header(
    db: &Database,
    shared: &Shared,
) -> Result<Option<DatabaseHeader>, CaptureError> {
    let read = || -> std::io::Result<Option<DatabaseHeader>> {
        let Some(file) = shared.backing.open(&db.path)? else {
            return Ok(None);
        };
        let mut bytes = [0; DATABASE_HEADER_SIZE];
        let len = read_up_to(&file, &mut bytes, 0)?;
        Ok(DatabaseHeader::decode(&bytes[..len]))
    };
    read().map_err(CaptureError::io("read the database's header"))
}

/// A database without a log and of this size is served by the daemon, so that it sees what is written.
pub(super) const SEEN_FROM: u64 = 4 << 20;

/// Whether the writes of a database file have to be seen, so that not all of it has to be compared after each commit.
pub fn is_better_seen(file: impl AsFd) -> bool {
    let mut header = [0; DATABASE_HEADER_SIZE];
    let read = rustix::io::pread(&file, &mut header, 0);
    let by_journal = read
        .ok()
        .and_then(|read| DatabaseHeader::decode(&header[..read]))
        .is_some_and(|header| !header.wal_mode);
    let size = rustix::fs::fstat(&file).map_or(0, |stat| stat.st_size as u64);
    by_journal && size >= SEEN_FROM
}

/// Whether a write to a rollback journal makes it one that has to be rolled back.
pub fn makes_hot(journal: impl AsFd, offset: u64, bytes: &[u8]) -> bool {
    if offset != 0 || !journal_is_hot(bytes) {
        return false;
    }
    let mut header = [0; JOURNAL_HEADER_SIZE];
    let read = rustix::io::pread(&journal, &mut header, 0);
    !read.is_ok_and(|read| journal_is_hot(&header[..read]))
}

impl Shared {
    /// The stamps of the database's file and of its log.
    pub(super) fn stamps(&self, db: &Database) -> Result<Stamps, CaptureError> {
        let stamp = |path| -> Result<Stamp, CaptureError> {
            self.backing
                .stamp(path)
                .map_err(CaptureError::io("look at the files"))
        };
        Ok(Stamps {
            database: stamp(&db.path)?,
            wal: stamp(&companion(&db.path, "-wal"))?,
        })
    }
}

/// A file that is written without log and journal counts as finished when it was left alone for so long.
const QUIET_MS: i64 = 300;

/// Whether a file that is written without log and journal counts as finished.
pub(super) fn is_quiet(
    db: &Database,
    shared: &Shared,
    stamp: &Stamp,
) -> Result<bool, CaptureError> {
    if !db.has_writers() {
        return Ok(true);
    }
    Ok(is_left_alone(stamp) && !shared.has_writer(stamp.inode)?)
}

/// Whether nobody has written a file for a moment.
pub(super) fn is_left_alone(stamp: &Stamp) -> bool {
    now_ms() - stamp.modified_ns / 1_000_000 > QUIET_MS
}
