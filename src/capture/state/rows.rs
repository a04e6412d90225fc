//! How the state's rows are written and read.

use std::ops::Deref;

use rusqlite::{Connection, Row, Statement, ToSql, params};

use super::{Entry, Known, SnapshotNote, Stamps, StateError, StoredNote};
use crate::capture::mark::{Mark, PageSum, WalMark};
use crate::format::ltx::DatabaseChecksum;
use crate::format::wal::Position;
use crate::store::keys::GenerationId;

/// A mark with what belongs to it, as `entry` reads it.
pub(super) const ENTRY: &str = "seq, generation, txid, checksum, commit_pages, page_size, time_ms,
     salt1, salt2, wal_offset, sum1, sum2, committed_at, file_checksum, snapshot, sums";
/// Columns of that.
const IN_ENTRY: usize = 16;

/// So many checksums of stored states are kept of each database beside those in its row.
pub(super) const PAST: u32 = 256;
/// As a rule there are no more in the row itself: with a segment of each such number all are moved out of it.
pub(super) const PAST_IN_ROW: u32 = 16;
const PAST_SUM_SIZE: u32 = 8;

/// A transaction that is made once for each segment: its ends are not parsed each time. It is undone unless it is
/// committed.
pub(super) struct Often<'a> {
    connection: &'a Connection,
    is_over: bool,
}

impl<'a> Often<'a> {
    pub fn begin(connection: &'a Connection) -> Result<Self, StateError> {
        connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        Ok(Self {
            connection,
            is_over: false,
        })
    }

    pub fn commit(mut self) -> Result<(), StateError> {
        self.prepare_cached("COMMIT")?.execute([])?;
        self.is_over = true;
        Ok(())
    }
}

impl Deref for Often<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.connection
    }
}

impl Drop for Often<'_> {
    fn drop(&mut self) {
        if !self.is_over
            && let Err(error) = self.connection.execute_batch("ROLLBACK")
        {
            // An error of the disk may have ended it by itself.
            tracing::debug!(%error, "A transaction of the state was over already");
        }
    }
}

pub(super) fn update_stamps(
    connection: &Connection,
    id: i64,
    stamps: Option<Stamps>,
) -> Result<(), StateError> {
    let mut statement = connection.prepare_cached(
        "UPDATE database SET db_inode = ?2, db_size = ?3, db_modified = ?4,
                             wal_inode = ?5, wal_size = ?6, wal_modified = ?7,
                             db_changed = ?8, wal_changed = ?9
         WHERE id = ?1",
    )?;
    statement.raw_bind_parameter(1, id)?;
    bind_stamps(&mut statement, (2, 8), stamps)?;
    statement.raw_execute()?;
    Ok(())
}

/// The database's row gets all that is known when a segment is stored. Without stamps those before stay: files that were
/// written since have others.
pub(super) fn update_stored(connection: &Connection, note: &StoredNote) -> Result<(), StateError> {
    let mark = &note.entry.mark;
    let moves = mark.seq.is_multiple_of(PAST_IN_ROW);
    if moves {
        move_past(connection, note.id)?;
    }
    let mut statement = connection.prepare_cached(
        "UPDATE database SET
             seq = ?2, generation = ?3, txid = ?4, checksum = ?5, commit_pages = ?6, page_size = ?7, time_ms = ?8,
             salt1 = ?9, salt2 = ?10, wal_offset = ?11, sum1 = ?12, sum2 = ?13,
             committed_at = ?14, file_checksum = ?15, snapshot = ?16, sums = ?17,
             snapshot_generation = ?18, snapshot_seq = ?19, snapshot_at = ?20, log_bytes = ?21,
             db_inode = coalesce(?22, db_inode), db_size = coalesce(?23, db_size),
             db_modified = coalesce(?24, db_modified),
             wal_inode = coalesce(?25, wal_inode), wal_size = coalesce(?26, wal_size),
             wal_modified = coalesce(?27, wal_modified),
             db_changed = coalesce(?31, db_changed), wal_changed = coalesce(?32, wal_changed),
             past = CASE WHEN ?28 OR past IS NULL THEN ?29 ELSE substr(CAST(past || ?29 AS BLOB), -?30) END
         WHERE id = ?1",
    )?;
    bind_entry(&mut statement, note.id, &note.entry)?;
    bind_snapshot(&mut statement, 18, &note.snapshot)?;
    bind_stamps(&mut statement, (22, 31), note.stamps)?;
    statement.raw_bind_parameter(28, moves)?;
    statement.raw_bind_parameter(29, mark.checksum.value().to_le_bytes())?;
    statement.raw_bind_parameter(30, 2 * PAST_IN_ROW * PAST_SUM_SIZE)?;
    is_one(statement.raw_execute()?)
}

/// Moves the checksums out of a database's row to those before them, of which the oldest are forgotten.
fn move_past(connection: &Connection, id: i64) -> Result<(), StateError> {
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO past
             SELECT id, txid, past FROM database WHERE id = ?1 AND past IS NOT NULL",
        )?
        .execute([id])?;
    connection
        .prepare_cached(
            "DELETE FROM past WHERE database = ?1 AND txid <=
             (SELECT txid FROM past WHERE database = ?1 ORDER BY txid DESC LIMIT 1 OFFSET ?2)",
        )?
        .execute(params![id, PAST / PAST_IN_ROW])?;
    Ok(())
}

pub(super) fn past_of(blob: &[u8]) -> impl Iterator<Item = u64> {
    let sums = blob.as_chunks().0.iter();
    sums.map(|bytes| u64::from_le_bytes(*bytes))
}

pub(super) fn update_snapshot(
    connection: &Connection,
    id: i64,
    note: &SnapshotNote,
) -> Result<(), StateError> {
    let mut statement = connection.prepare_cached(
        "UPDATE database SET snapshot_generation = ?2, snapshot_seq = ?3, snapshot_at = ?4, log_bytes = ?5
         WHERE id = ?1",
    )?;
    statement.raw_bind_parameter(1, id)?;
    bind_snapshot(&mut statement, 2, note)?;
    is_one(statement.raw_execute()?)
}

/// There has to be such a database.
fn is_one(changed: usize) -> Result<(), StateError> {
    match changed {
        1 => Ok(()),
        other => Err(rusqlite::Error::StatementChangedRows(other).into()),
    }
}

pub(super) fn insert_spooled(
    connection: &Connection,
    id: i64,
    entry: &Entry,
) -> Result<(), StateError> {
    let mut statement = connection.prepare_cached(&format!(
        "INSERT OR REPLACE INTO mark (database, {ENTRY}) VALUES
         (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17)"
    ))?;
    bind_entry(&mut statement, id, entry)?;
    statement.raw_execute()?;
    Ok(())
}

/// The first seventeen parameters of a statement: the database's number, and `ENTRY`.
fn bind_entry(statement: &mut Statement<'_>, id: i64, entry: &Entry) -> rusqlite::Result<()> {
    let (mark, wal) = (&entry.mark, entry.mark.wal);
    let mut bind = |at, value: &dyn ToSql| statement.raw_bind_parameter(at, value);
    bind(1, &id)?;
    bind(2, &mark.seq)?;
    bind(3, &(mark.generation.0 as i64))?;
    bind(4, &(mark.txid as i64))?;
    bind(5, &(mark.checksum.value() as i64))?;
    bind(6, &mark.commit)?;
    bind(7, &mark.page_size)?;
    bind(8, &mark.time_ms)?;
    bind(9, &wal.map(|w| w.salt.0))?;
    bind(10, &wal.map(|w| w.salt.1))?;
    bind(11, &wal.map(|w| w.position.offset as i64))?;
    bind(12, &wal.map(|w| w.position.checksum.0))?;
    bind(13, &wal.map(|w| w.position.checksum.1))?;
    bind(14, &entry.committed_at)?;
    bind(15, &(entry.file_checksum as i64))?;
    bind(16, &entry.snapshot)?;
    bind(17, &encoded(&entry.sums))
}

/// Four parameters from `first` on.
fn bind_snapshot(
    statement: &mut Statement<'_>,
    first: usize,
    note: &SnapshotNote,
) -> rusqlite::Result<()> {
    statement.raw_bind_parameter(first, note.generation.0 as i64)?;
    statement.raw_bind_parameter(first + 1, note.seq)?;
    statement.raw_bind_parameter(first + 2, note.stored_at)?;
    statement.raw_bind_parameter(first + 3, note.log_bytes as i64)
}

/// Six parameters from `first` on, and two from `changed` on; null without stamps.
fn bind_stamps(
    statement: &mut Statement<'_>,
    (first, changed): (usize, usize),
    stamps: Option<Stamps>,
) -> Result<(), StateError> {
    let (database, log) = (stamps.map(|s| s.database), stamps.map(|s| s.wal));
    for (first, changed, stamp) in [(first, changed, database), (first + 3, changed + 1, log)] {
        statement.raw_bind_parameter(first, stamp.map(|s| s.inode as i64))?;
        statement.raw_bind_parameter(first + 1, stamp.map(|s| s.size as i64))?;
        statement.raw_bind_parameter(first + 2, stamp.map(|s| s.modified_ns))?;
        statement.raw_bind_parameter(changed, stamp.map(|s| s.changed_ns))?;
    }
    Ok(())
}

fn encoded(sums: &[PageSum]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(sums.len() * 12);
    for (pgno, sum) in sums {
        bytes.extend(pgno.to_le_bytes());
        bytes.extend(sum.to_le_bytes());
    }
    bytes
}

/// What a database's row tells: `ENTRY`, its past, and its newest snapshot.
pub(super) fn known(row: &Row<'_>) -> rusqlite::Result<Known> {
    let generation: Option<i64> = row.get(1)?;
    let past = row.get_ref(IN_ENTRY)?.as_blob_or_null()?;
    let snapshot = match row.get::<_, Option<i64>>(IN_ENTRY + 1)? {
        None => None,
        Some(generation) => Some(SnapshotNote {
            generation: GenerationId(generation as u64),
            seq: row.get(IN_ENTRY + 2)?,
            stored_at: row.get(IN_ENTRY + 3)?,
            log_bytes: row.get::<_, i64>(IN_ENTRY + 4)? as u64,
        }),
    };
    Ok(Known {
        stored: generation.map(|_| entry(row)).transpose()?,
        spooled: Vec::new(),
        snapshot,
        past: past_of(past.unwrap_or_default()).collect(),
    })
}

pub(super) fn entry(row: &Row<'_>) -> rusqlite::Result<Entry> {
    let wal = match row.get::<_, Option<i64>>(9)? {
        None => None,
        Some(offset) => Some(WalMark {
            salt: (row.get(7)?, row.get(8)?),
            position: Position {
                offset: offset as u64,
                checksum: (row.get(10)?, row.get(11)?),
            },
        }),
    };
    let checksum = row.get::<_, i64>(3)? as u64;
    let sums: Vec<u8> = row.get(15)?;
    Ok(Entry {
        mark: Mark {
            seq: row.get(0)?,
            generation: GenerationId(row.get::<_, i64>(1)? as u64),
            txid: row.get::<_, i64>(2)? as u64,
            checksum: DatabaseChecksum::from_value(checksum)
                .ok_or(rusqlite::Error::IntegralValueOutOfRange(3, checksum as i64))?,
            commit: row.get(4)?,
            page_size: row.get(5)?,
            time_ms: row.get(6)?,
            wal,
        },
        committed_at: row.get(12)?,
        file_checksum: row.get::<_, i64>(13)? as u64,
        snapshot: row.get(14)?,
        sums: sums
            .chunks_exact(12)
            .map(|bytes| {
                let (pgno, sum) = bytes.split_at(4);
                (
                    u32::from_le_bytes(pgno.try_into().expect("4 bytes")),
                    u64::from_le_bytes(sum.try_into().expect("8 bytes")),
                )
            })
            .collect(),
    })
}
