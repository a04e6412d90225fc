//! The newest states in the store, as the state notes them.

use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use rusqlite::Row;

use super::{StateDb, StateError};
use crate::format::plan::newest::NewestState;
use crate::store::keys::GenerationId;

/// Of a database of which something is stored. A generation whose further snapshots are not noted has its first.
const NEWEST: &str = "SELECT path, generation, seq,
        CASE WHEN snapshot_generation = generation THEN snapshot_seq ELSE 0 END
     FROM database WHERE generation IS NOT NULL";

impl StateDb {
    /// Of one database; none where nothing of it is stored.
    pub fn newest_state(&self, id: i64) -> Result<Option<NewestState>, StateError> {
        let connection = self.lock();
        let mut statement = connection.prepare_cached(&format!("{NEWEST} AND id = ?1"))?;
        let mut rows = statement.query([id])?;
        let found = rows.next()?.map(newest).transpose()?;
        Ok(found.map(|(_, newest)| newest))
    }

    /// Of all databases, by their paths below the watch path.
    pub fn newest_states(&self) -> Result<Vec<(PathBuf, NewestState)>, StateError> {
        let connection = self.lock();
        let mut statement = connection.prepare(NEWEST)?;
        let rows = statement.query_map([], newest)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}

fn newest(row: &Row<'_>) -> rusqlite::Result<(PathBuf, NewestState)> {
    let path = std::ffi::OsString::from_vec(row.get(0)?);
    let newest = NewestState {
        generation: GenerationId(row.get::<_, i64>(1)? as u64),
        newest: row.get(2)?,
        snapshot: row.get(3)?,
    };
    Ok((path.into(), newest))
}
