//! How the state's rows are written and read.

use std::ops::Deref;

use rusqlite::{Connection, Row, params};

use super::{Entry, SnapshotNote, Stamps, StateError};
use crate::capture::backing::Stamp;
use crate::capture::mark::{Mark, WalMark};
use crate::format::ltx::DatabaseChecksum;
use crate::format::wal::Position;
use crate::store::keys::GenerationId;

/// So many checksums of stored states are kept of each database, and some more: those before are looked for only once for
/// so many segments.
pub(super) const PAST: u32 = 256;
pub(super) const PRUNE_EVERY: u32 = 32;

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
    let part = |stamp: fn(&Stamps) -> Stamp| stamps.as_ref().map(stamp);
    let (database, wal) = (part(|s| s.database), part(|s| s.wal));
    connection
        .prepare_cached(
            "UPDATE database SET db_inode = ?2, db_size = ?3, db_modified = ?4,
                                 wal_inode = ?5, wal_size = ?6, wal_modified = ?7
             WHERE id = ?1",
        )?
        .execute(params![
            id,
            database.map(|s| s.inode as i64),
            database.map(|s| s.size as i64),
            database.map(|s| s.modified_ns),
            wal.map(|s| s.inode as i64),
            wal.map(|s| s.size as i64),
            wal.map(|s| s.modified_ns),
        ])?;
    Ok(())
}

pub(super) fn insert_past(connection: &Connection, id: i64, mark: &Mark) -> Result<(), StateError> {
    let (txid, checksum) = (mark.txid as i64, mark.checksum.value() as i64);
    connection
        .prepare_cached("INSERT OR REPLACE INTO past VALUES (?1, ?2, ?3)")?
        .execute(params![id, txid, checksum])?;
    if !mark.seq.is_multiple_of(PRUNE_EVERY) {
        return Ok(());
    }
    connection
        .prepare_cached(
            "DELETE FROM past WHERE database = ?1 AND txid <=
             (SELECT txid FROM past WHERE database = ?1 ORDER BY txid DESC LIMIT 1 OFFSET ?2)",
        )?
        .execute(params![id, PAST])?;
    Ok(())
}

pub(super) fn insert_snapshot(
    connection: &Connection,
    id: i64,
    note: &SnapshotNote,
) -> Result<(), StateError> {
    connection
        .prepare_cached(
            "INSERT INTO snapshot VALUES (?1, ?2, ?3, ?4, ?5, NULL)
             ON CONFLICT DO UPDATE SET generation = excluded.generation, seq = excluded.seq,
                 stored_at = excluded.stored_at, log_bytes = excluded.log_bytes",
        )?
        .execute(params![
            id,
            note.generation.0 as i64,
            note.seq,
            note.stored_at,
            note.log_bytes as i64,
        ])?;
    Ok(())
}

pub(super) fn insert(
    connection: &Connection,
    id: i64,
    entry: &Entry,
    stored: bool,
) -> Result<(), StateError> {
    let mark = &entry.mark;
    let wal = mark.wal;
    let sums: Vec<u8> = entry
        .sums
        .iter()
        .flat_map(|(pgno, sum)| pgno.to_le_bytes().into_iter().chain(sum.to_le_bytes()))
        .collect();
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO mark VALUES
             (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18)",
        )?
        .execute(params![
            id,
            mark.seq,
            stored,
            mark.generation.0 as i64,
            mark.txid as i64,
            mark.checksum.value() as i64,
            mark.commit,
            mark.page_size,
            mark.time_ms,
            wal.map(|w| w.salt.0),
            wal.map(|w| w.salt.1),
            wal.map(|w| w.position.offset as i64),
            wal.map(|w| w.position.checksum.0),
            wal.map(|w| w.position.checksum.1),
            entry.committed_at,
            entry.file_checksum as i64,
            entry.snapshot,
            sums,
        ])?;
    Ok(())
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
