//! The state's tables, and what becomes of those that an earlier version of the program has made.

use rusqlite::{Connection, params};

use super::StateError;
use super::rows::{ENTRY, PAST_IN_ROW};

/// Noted in the file as its `user_version`.
const VERSION: i64 = 2;

/// What is known of a database beside its path and its stamps; null until it is. What is long stands last.
const KNOWN: &str = "
    seq INTEGER, generation INTEGER, txid INTEGER, checksum INTEGER, commit_pages INTEGER, page_size INTEGER,
    time_ms INTEGER, salt1 INTEGER, salt2 INTEGER, wal_offset INTEGER, sum1 INTEGER, sum2 INTEGER,
    committed_at INTEGER, file_checksum INTEGER, snapshot INTEGER,
    snapshot_generation INTEGER, snapshot_seq INTEGER, snapshot_at INTEGER, log_bytes INTEGER, retain_at INTEGER,
    past BLOB, sums BLOB";

/// Beside the rows of databases: segments in the spool, and the checksums that no longer stand in the row, sixteen in one.
const BESIDE: &str = "
    CREATE TABLE IF NOT EXISTS instance (node_id INTEGER NOT NULL);
    CREATE TABLE IF NOT EXISTS mark (
        database INTEGER NOT NULL REFERENCES database(id) ON DELETE CASCADE,
        seq INTEGER NOT NULL,
        generation INTEGER NOT NULL, txid INTEGER NOT NULL, checksum INTEGER NOT NULL,
        commit_pages INTEGER NOT NULL, page_size INTEGER NOT NULL, time_ms INTEGER NOT NULL,
        salt1 INTEGER, salt2 INTEGER, wal_offset INTEGER, sum1 INTEGER, sum2 INTEGER,
        committed_at INTEGER NOT NULL, file_checksum INTEGER NOT NULL,
        snapshot INTEGER NOT NULL, sums BLOB NOT NULL,
        PRIMARY KEY (database, generation, seq)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS past (
        database INTEGER NOT NULL REFERENCES database(id) ON DELETE CASCADE,
        txid INTEGER NOT NULL, sums BLOB NOT NULL,
        PRIMARY KEY (database, txid)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS place (
        database INTEGER PRIMARY KEY REFERENCES database(id) ON DELETE CASCADE,
        location TEXT NOT NULL, s3_prefix TEXT NOT NULL
    ) STRICT;
";

/// Makes the tables, all of them or none.
///
/// # Errors
/// One that names their version, where a later one of the program has made them: it may know what this one does not.
pub(super) fn bring_up_to_date(connection: &mut Connection) -> Result<(), StateError> {
    let transaction = connection.transaction()?;
    let version = transaction.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if version == VERSION {
        return Ok(());
    }
    if version > VERSION {
        return Err(StateError::Newer { version });
    }
    match transaction.table_exists(None, "database")? {
        true => {
            if version == 0 {
                from_version_0(&transaction)?;
            }
            from_version_1(&transaction)?;
        }
        false => transaction.execute_batch(&format!(
            "CREATE TABLE database (
                 id INTEGER PRIMARY KEY AUTOINCREMENT,
                 path BLOB NOT NULL UNIQUE,
                 db_inode INTEGER, db_size INTEGER, db_modified INTEGER,
                 wal_inode INTEGER, wal_size INTEGER, wal_modified INTEGER,
                 db_changed INTEGER, wal_changed INTEGER,
                 {KNOWN}
             ) STRICT;
             {BESIDE}"
        ))?,
    }
    transaction.pragma_update(None, "user_version", VERSION)?;
    Ok(transaction.commit()?)
}

/// There nothing was known of when files were changed: each is looked at once.
fn from_version_1(connection: &Connection) -> Result<(), StateError> {
    Ok(connection.execute_batch(
        "ALTER TABLE database ADD COLUMN db_changed INTEGER;
         ALTER TABLE database ADD COLUMN wal_changed INTEGER;",
    )?)
}

/// There the newest stored mark stood among those of the spool, the newest snapshot had a table of its own, and each
/// checksum a row.
fn from_version_0(connection: &Connection) -> Result<(), StateError> {
    for column in KNOWN.split(',') {
        connection.execute_batch(&format!("ALTER TABLE database ADD COLUMN {column}"))?;
    }
    connection.execute_batch(&format!(
        "UPDATE database SET ({ENTRY}) =
             (SELECT {ENTRY} FROM mark WHERE mark.database = id AND stored);
         DELETE FROM mark WHERE stored;
         ALTER TABLE mark DROP COLUMN stored;
         UPDATE database SET (snapshot_generation, snapshot_seq, snapshot_at, log_bytes, retain_at) =
             (SELECT generation, seq, stored_at, log_bytes, retain_at FROM snapshot WHERE snapshot.database = id);
         DROP TABLE snapshot;
         ALTER TABLE past RENAME TO former_past;
         {BESIDE}"
    ))?;
    let mut statement = connection
        .prepare("SELECT database, txid, checksum FROM former_past ORDER BY database, txid")?;
    let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
    let rows = statement.query_map([], read)?;
    let rows: Vec<(i64, i64, i64)> = rows.collect::<Result<_, _>>()?;
    for of_one in rows.chunk_by(|a, b| a.0 == b.0) {
        for some in of_one.chunks(PAST_IN_ROW as usize) {
            let sums: Vec<u8> = some.iter().flat_map(|row| row.2.to_le_bytes()).collect();
            let (database, txid, _) = some[some.len() - 1];
            connection.execute(
                "INSERT INTO past VALUES (?1, ?2, ?3)",
                params![database, txid, sums],
            )?;
        }
    }
    Ok(connection.execute_batch("DROP TABLE former_past")?)
}

#[cfg(test)]
mod tests;
