//! What users have asked for through the API, and which databases were removed: kept in the state, so that it survives
//! a restart.

use std::collections::HashMap;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rusqlite::{Row, params};

use super::state::{StateDb, StateError};
use crate::clock::UnixMs;
use crate::tenant::discovery::Named;
use crate::tenant::policy::PolicyWritten;
use crate::tenant::roster::Client;

pub(super) const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS wish (
        path BLOB PRIMARY KEY,
        paused INTEGER NOT NULL, excluded INTEGER NOT NULL,
        tenant TEXT, db_name TEXT, single INTEGER, s3_prefix TEXT
    ) STRICT;
    CREATE TABLE IF NOT EXISTS removal (
        s3_prefix TEXT NOT NULL, tenant TEXT NOT NULL, label TEXT NOT NULL,
        removed_at INTEGER NOT NULL, due_at INTEGER NOT NULL, noted INTEGER NOT NULL,
        PRIMARY KEY (s3_prefix, removed_at)
    ) STRICT;
";

/// What was asked for one file.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Wish {
    /// Its uploads are stopped.
    pub paused: bool,
    /// It was unregistered, and stays so until its file is made anew.
    pub excluded: bool,
    /// It was registered by hand.
    pub named: Option<Named>,
}

/// A database that was removed, and whose replica is still there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Removal {
    pub s3_prefix: String,
    pub tenant: String,
    /// What logs call it.
    pub label: String,
    pub removed_at: UnixMs,
    /// When its replica may go.
    pub due_at: UnixMs,
    /// Whether the store knows of it.
    pub noted: bool,
}

impl StateDb {
    /// Everything that was asked for, by file.
    pub fn wishes(&self) -> Result<HashMap<PathBuf, Wish>, StateError> {
        let connection = self.lock();
        let mut statement = connection.prepare(
            "SELECT path, paused, excluded, tenant, db_name, single, s3_prefix FROM wish",
        )?;
        let rows = statement.query_map([], |row| {
            let path = PathBuf::from(std::ffi::OsString::from_vec(row.get(0)?));
            Ok((path, wish(row)?))
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Notes what was asked for a file; nothing asked forgets it.
    pub fn save_wish(&self, path: &Path, wish: &Wish) -> Result<(), StateError> {
        let connection = self.lock();
        if *wish == Wish::default() {
            connection
                .prepare_cached("DELETE FROM wish WHERE path = ?1")?
                .execute([path.as_os_str().as_bytes()])?;
            return Ok(());
        }
        let named = wish.named.as_ref();
        connection
            .prepare_cached("INSERT OR REPLACE INTO wish VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?
            .execute(params![
                path.as_os_str().as_bytes(),
                wish.paused,
                wish.excluded,
                named.map(|named| &named.tenant),
                named.map(|named| &named.db_name),
                named.map(|named| named.single),
                named.and_then(|named| named.s3_prefix.as_ref()),
            ])?;
        Ok(())
    }

    /// Notes that a database was removed.
    pub fn save_removal(&self, client: &Client, at: UnixMs) -> Result<(), StateError> {
        let retention = client.policy().removed_retention.as_millis() as i64;
        self.lock()
            .prepare_cached("INSERT OR IGNORE INTO removal VALUES (?1, ?2, ?3, ?4, ?5, 0)")?
            .execute(params![
                client.s3_prefix,
                client.id.tenant,
                client.label,
                at,
                at.saturating_add(retention),
            ])?;
        Ok(())
    }

    /// Every removal whose replica is still there, the first that is due before the others.
    pub fn removals(&self) -> Result<Vec<Removal>, StateError> {
        let connection = self.lock();
        let mut statement = connection.prepare_cached(
            "SELECT s3_prefix, tenant, label, removed_at, due_at, noted FROM removal ORDER BY due_at",
        )?;
        let rows = statement.query_map([], |row| {
            Ok(Removal {
                s3_prefix: row.get(0)?,
                tenant: row.get(1)?,
                label: row.get(2)?,
                removed_at: row.get(3)?,
                due_at: row.get(4)?,
                noted: row.get(5)?,
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// The store knows of a removal.
    pub fn removal_noted(&self, removal: &Removal) -> Result<(), StateError> {
        self.lock()
            .prepare_cached(
                "UPDATE removal SET noted = 1 WHERE s3_prefix = ?1 AND removed_at = ?2",
            )?
            .execute(params![removal.s3_prefix, removal.removed_at])?;
        Ok(())
    }

    /// Nothing is to be done for a removal any more.
    pub fn forget_removal(&self, removal: &Removal) -> Result<(), StateError> {
        self.lock()
            .prepare_cached("DELETE FROM removal WHERE s3_prefix = ?1 AND removed_at = ?2")?
            .execute(params![removal.s3_prefix, removal.removed_at])?;
        Ok(())
    }
}

fn wish(row: &Row) -> rusqlite::Result<Wish> {
    let tenant: Option<String> = row.get(3)?;
    let named = match tenant {
        None => None,
        Some(tenant) => Some(Named {
            tenant,
            db_name: row.get(4)?,
            single: row.get(5)?,
            s3_prefix: row.get(6)?,
            policy: PolicyWritten::default(),
        }),
    };
    Ok(Wish {
        paused: row.get(1)?,
        excluded: row.get(2)?,
        named,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_for_reads_back_and_is_forgotten() {
        let dir = tempfile::tempdir().expect("a directory");
        let open = || StateDb::open(&dir.path().join("state.db"), 1).expect("a state");
        let asked = Wish {
            paused: true,
            excluded: false,
            named: Some(Named {
                s3_prefix: Some("a/b".to_owned()),
                ..Named::single("x")
            }),
        };
        let path = Path::new("a/x.db");
        open().save_wish(path, &asked).expect("saved");
        assert_eq!(
            open().wishes().expect("read"),
            [(path.to_owned(), asked)].into()
        );
        open().save_wish(path, &Wish::default()).expect("forgotten");
        assert!(open().wishes().expect("read").is_empty());
    }
}
