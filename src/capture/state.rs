//! What has to survive a restart: one small SQLite database in the state directory, which only the daemon opens.
//!
//! Per database, in one row: the newest stored mark; the newest stored snapshot, from which the next one's time is
//! reckoned; and the checksums of the states that were stored last, by which a file is known that is behind its replica.
//! Beside it the marks of segments that wait in the spool. With each mark go the page sums of its segment, so that the
//! table of page sums can be brought to that mark after a death in the middle.

use std::collections::HashMap;
use std::ffi::CStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, params};

use self::rows::{
    ENTRY, Often, entry, insert_spooled, known, past_of, update_snapshot, update_stamps,
    update_stored,
};
use super::backing::Stamp;
use super::mark::{Mark, PageSum};
use crate::clock::{UnixMs, now_ms};
use crate::store::keys::GenerationId;
use crate::tenant::client::Place;

mod newest;
mod rows;
mod schema;

/// Statements that are kept ready: all that there are.
const READY: usize = 64;

/// The state can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("state database: {0}")]
    Sqlite(#[from] rusqlite::Error),
    #[error(
        "state database: a later version of the program has made it (schema {version}); start that one"
    )]
    Newer { version: i64 },
}

/// A mark with what belongs to its segment.
#[derive(Clone, PartialEq, Debug)]
pub struct Entry {
    pub mark: Mark,
    pub snapshot: bool,
    pub committed_at: i64,
    pub file_checksum: u64,
    pub sums: Vec<PageSum>,
}

/// The stamps of a database's files at a moment when all of it was stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stamps {
    pub database: Stamp,
    pub wal: Stamp,
}

/// A database that an earlier run has seen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seen {
    pub id: i64,
    /// Its files' when all of it was stored; none where it was not.
    pub stamps: Option<Stamps>,
    /// Whether anything of it was captured.
    pub has_history: bool,
    /// Where its replica lies; none where that was not noted.
    pub place: Option<Place>,
}

impl Seen {
    /// Whether what is known of it is of another place than this one, where the store has nothing of it.
    pub fn was_elsewhere(&self, location: Option<&str>) -> bool {
        let before = self.place.as_ref().map(|place| place.location.as_str());
        before
            .zip(location)
            .is_some_and(|(before, now)| before != now)
    }
}

/// The newest snapshot in the store, and what has come after it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SnapshotNote {
    pub generation: GenerationId,
    pub seq: u32,
    pub stored_at: UnixMs,
    /// Bytes of the segments that were stored since.
    pub log_bytes: u64,
}

impl SnapshotNote {
    /// The snapshot that a generation begins with has just been stored.
    pub fn first(generation: GenerationId) -> Self {
        Self {
            generation,
            seq: 0,
            stored_at: now_ms(),
            log_bytes: 0,
        }
    }
}

/// That a segment is in the store.
#[derive(Clone, PartialEq, Debug)]
pub struct StoredNote {
    /// The database's number.
    pub id: i64,
    pub entry: Entry,
    /// The newest snapshot then.
    pub snapshot: SnapshotNote,
    /// The files' where all is stored with it.
    pub stamps: Option<Stamps>,
}

/// What upkeep has to come back to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Upkeep {
    pub path: PathBuf,
    /// When the newest snapshot was stored, where segments have come after it.
    pub outdated_since: Option<UnixMs>,
    /// When something of the replica may have outlived its retention.
    pub retain_at: Option<UnixMs>,
}

/// What is known of one database from earlier.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Known {
    pub stored: Option<Entry>,
    /// Segments in the spool, ascending.
    pub spooled: Vec<Entry>,
    pub snapshot: Option<SnapshotNote>,
    /// Checksums of the database at the ends of what was stored last.
    pub past: Vec<u64>,
}

impl Known {
    /// Whether nothing of it was captured.
    pub fn is_empty(&self) -> bool {
        self.stored.is_none() && self.spooled.is_empty()
    }
}

/// The open state database.
#[derive(Debug)]
pub struct StateDb {
    connection: Mutex<Connection>,
    node_id: u64,
    is_new: bool,
}

impl StateDb {
    /// Opens or makes the database at `path`. `random` becomes the instance's id where it has none yet.
    pub fn open(path: &Path, random: u64) -> Result<Self, StateError> {
        let vfs = super::state_vfs::register().map_err(|code| {
            rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None)
        })?;
        let connect = |locking| connect(path, vfs, locking);
        // Nobody else opens it, and so no lock has to be taken for each transaction. Who does so all the same keeps no
        // instance from its start.
        let mut connection = match connect("EXCLUSIVE") {
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => {
                tracing::warn!("Another program has the state database open");
                connect("NORMAL")?
            }
            connected => connected?,
        };
        connection.set_prepared_statement_cache_capacity(READY);
        // The plans don't depend on what is bound: statements with a range would be parsed anew each time.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
        schema::bring_up_to_date(&mut connection)?;
        connection.execute_batch(super::wishes::SCHEMA)?;
        connection.execute_batch(super::leaving::SCHEMA)?;
        connection.execute_batch(super::encrypted::SCHEMA)?;
        let known: Option<i64> = connection
            .query_row("SELECT node_id FROM instance", [], |row| row.get(0))
            .optional()?;
        let node_id = match known {
            Some(id) => id as u64,
            None => {
                connection.execute("INSERT INTO instance VALUES (?1)", [random as i64])?;
                random
            }
        };
        Ok(Self {
            connection: Mutex::new(connection),
            node_id,
            is_new: known.is_none(),
        })
    }

    /// Whether there was none before: what the store knows of registrations has to be asked for.
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// This instance's id, which stands in every LTX header.
    pub fn node_id(&self) -> u64 {
        self.node_id
    }

    /// The number under which a database's files lie in the state directory; given at the first call.
    pub fn id_of(&self, path: &Path) -> Result<i64, StateError> {
        let connection = self.lock();
        connection
            .prepare_cached("INSERT INTO database (path) VALUES (?1) ON CONFLICT DO NOTHING")?
            .execute([path.as_os_str().as_bytes()])?;
        Ok(connection
            .prepare_cached("SELECT id FROM database WHERE path = ?1")?
            .query_row([path.as_os_str().as_bytes()], |row| row.get(0))?)
    }

    /// Every database that has been seen.
    pub fn all(&self) -> Result<HashMap<PathBuf, Seen>, StateError> {
        let connection = self.lock();
        let mut statement = connection.prepare(
            "SELECT path, id, db_inode, db_size, db_modified, wal_inode, wal_size, wal_modified,
                    generation IS NOT NULL OR EXISTS (SELECT 1 FROM mark WHERE mark.database = id),
                    location, s3_prefix, db_changed, wal_changed
             FROM database LEFT JOIN place ON place.database = id",
        )?;
        let rows = statement.query_map([], |row| {
            let path: Vec<u8> = row.get(0)?;
            let stamp = |at: usize, changed: usize| -> rusqlite::Result<Option<Stamp>> {
                let (inode, changed): (Option<i64>, Option<i64>) =
                    (row.get(at)?, row.get(changed)?);
                let (Some(inode), Some(changed_ns)) = (inode, changed) else {
                    return Ok(None);
                };
                Ok(Some(Stamp {
                    inode: inode as u64,
                    size: row.get::<_, i64>(at + 1)? as u64,
                    modified_ns: row.get(at + 2)?,
                    changed_ns,
                }))
            };
            let stamps = match (stamp(2, 11)?, stamp(5, 12)?) {
                (Some(database), Some(wal)) => Some(Stamps { database, wal }),
                _ => None,
            };
            let path = PathBuf::from(std::ffi::OsString::from_vec(path));
            let place = match row.get(9)? {
                Some(location) => Some(Place {
                    location,
                    s3_prefix: row.get(10)?,
                }),
                None => None,
            };
            let seen = Seen {
                id: row.get(1)?,
                stamps,
                has_history: row.get(8)?,
                place,
            };
            Ok((path, seen))
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// The newest state of a database that is in the store.
    pub fn newest_stored(&self, id: i64) -> Result<Option<Mark>, StateError> {
        let connection = self.lock();
        let mut statement = connection.prepare_cached(&format!(
            "SELECT {ENTRY} FROM database WHERE id = ?1 AND generation IS NOT NULL"
        ))?;
        let newest = statement.query_row([id], entry).optional()?;
        Ok(newest.map(|entry| entry.mark))
    }

    /// What is known of one database.
    pub fn load(&self, id: i64) -> Result<Known, StateError> {
        let connection = self.lock();
        let mut known = connection
            .prepare_cached(&format!(
                "SELECT {ENTRY}, past, snapshot_generation, snapshot_seq, snapshot_at, log_bytes
                 FROM database WHERE id = ?1"
            ))?
            .query_row([id], known)
            .optional()?
            .unwrap_or_default();
        known.spooled = connection
            .prepare_cached(&format!(
                "SELECT {ENTRY} FROM mark WHERE database = ?1 ORDER BY generation, seq"
            ))?
            .query_map([id], entry)?
            .collect::<Result<_, _>>()?;
        let mut statement =
            connection.prepare_cached("SELECT sums FROM past WHERE database = ?1")?;
        let mut rows = statement.query([id])?;
        while let Some(row) = rows.next()? {
            known.past.extend(past_of(&row.get::<_, Vec<u8>>(0)?));
        }
        Ok(known)
    }

    /// Notes that a segment waits in the spool.
    pub fn save_spooled(&self, id: i64, entry: &Entry) -> Result<(), StateError> {
        insert_spooled(&self.lock(), id, entry)
    }

    /// Notes that a segment has taken the place of several, up to that with the number `last`: those after it have numbers
    /// that are less by `fewer`.
    pub fn replace_spooled(
        &self,
        id: i64,
        merged: &Entry,
        last: u32,
        fewer: u32,
    ) -> Result<(), StateError> {
        let generation = merged.mark.generation.0 as i64;
        let mut connection = self.lock();
        let transaction = connection.transaction()?;
        transaction
            .prepare_cached(
                "DELETE FROM mark WHERE database = ?1 AND generation = ?2 AND seq BETWEEN ?3 AND ?4",
            )?
            .execute(params![id, generation, merged.mark.seq, last])?;
        insert_spooled(&transaction, id, merged)?;
        transaction
            .prepare_cached(
                "UPDATE mark SET seq = seq - ?4 WHERE database = ?1 AND generation = ?2 AND seq > ?3",
            )?
            .execute(params![id, generation, last, fewer])?;
        Ok(transaction.commit()?)
    }

    /// Notes that segments are stored, all of them or none: each becomes the newest stored mark of its database, and nothing
    /// before it is needed any more.
    pub fn save_all_stored(&self, notes: &[StoredNote]) -> Result<(), StateError> {
        let connection = self.lock();
        let transaction = Often::begin(&connection)?;
        for note in notes {
            let (id, mark) = (note.id, &note.entry.mark);
            transaction
                .prepare_cached(
                    "DELETE FROM mark WHERE database = ?1 AND
                     (generation < ?3 OR (generation = ?3 AND seq <= ?2))",
                )?
                .execute(params![id, mark.seq, mark.generation.0 as i64])?;
            update_stored(&transaction, note)?;
        }
        transaction.commit()
    }

    /// The same of one segment.
    pub fn save_stored(
        &self,
        id: i64,
        entry: &Entry,
        snapshot: &SnapshotNote,
        stamps: Option<Stamps>,
    ) -> Result<(), StateError> {
        self.save_all_stored(&[StoredNote {
            id,
            entry: entry.clone(),
            snapshot: *snapshot,
            stamps,
        }])
    }

    /// Notes the newest stored snapshot.
    pub fn save_snapshot(&self, id: i64, snapshot: &SnapshotNote) -> Result<(), StateError> {
        update_snapshot(&self.lock(), id, snapshot)
    }

    /// Notes when something of the replica may have outlived its retention; none for never, as it is now.
    pub fn save_retain_at(&self, id: i64, at: Option<UnixMs>) -> Result<(), StateError> {
        self.lock()
            .prepare_cached("UPDATE database SET retain_at = ?2 WHERE id = ?1")?
            .execute(params![id, at])?;
        Ok(())
    }

    /// Every database that upkeep has to come back to.
    pub fn upkeep(&self) -> Result<Vec<Upkeep>, StateError> {
        let connection = self.lock();
        let mut statement = connection.prepare(
            "SELECT path, CASE WHEN log_bytes > 0 THEN snapshot_at END, retain_at FROM database
             WHERE log_bytes > 0 OR retain_at IS NOT NULL",
        )?;
        let rows = statement.query_map([], |row| {
            Ok(Upkeep {
                path: PathBuf::from(std::ffi::OsString::from_vec(row.get(0)?)),
                outdated_since: row.get(1)?,
                retain_at: row.get(2)?,
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Forgets the marks of segments in the spool.
    pub fn drop_spooled(&self, id: i64) -> Result<(), StateError> {
        self.lock()
            .execute("DELETE FROM mark WHERE database = ?1", [id])?;
        Ok(())
    }

    /// Notes the stamps of the files at a moment when all was stored; none says that the next start has to look.
    pub fn save_stamps(&self, id: i64, stamps: Option<Stamps>) -> Result<(), StateError> {
        update_stamps(&self.lock(), id, stamps)
    }

    /// Forgets a database.
    pub fn remove(&self, id: i64) -> Result<(), StateError> {
        self.lock()
            .execute("DELETE FROM database WHERE id = ?1", [id])?;
        Ok(())
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Connection> {
        self.connection
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

fn connect(path: &Path, vfs: &CStr, locking: &str) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags_and_vfs(path, OpenFlags::default(), vfs)?;
    connection.execute_batch(&format!(
        "PRAGMA locking_mode = {locking}; PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA foreign_keys = ON;
         PRAGMA cache_size = -512;"
    ))?;
    Ok(connection)
}

#[cfg(test)]
mod tests;
