//! What users have asked for through the API, and which databases were removed: kept in the state, so that it survives
//! a restart.

use std::collections::HashMap;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::state::{StateDb, StateError};
use crate::clock::{UnixMs, now_ms};
use crate::format::keys::GenerationId;
use crate::tenant::client::Place;
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
        PRIMARY KEY (s3_prefix, tenant, removed_at)
    ) STRICT;
    CREATE TABLE IF NOT EXISTS given (
        location TEXT PRIMARY KEY, txid INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
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

/// What becomes of a database's entries when it is removed.
#[derive(Clone, Copy, Debug)]
pub struct RemovedClient<'a> {
    /// Of its file.
    pub path: &'a Path,
    /// What is asked for the file from now on; none for what was.
    pub wish: Option<&'a Wish>,
    /// Who was removed, and when; none where nobody was registered.
    pub removal: Option<(&'a Client, UnixMs)>,
    /// Its number in the state, where it has one.
    pub id: Option<i64>,
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
        save_wish(&self.lock(), path, wish)
    }

    /// Notes in one that a database was removed, or nothing of it: what is asked for its file from now on, that its replica
    /// may go in time, and that its path is free for another one. What waits of it stays under its number.
    pub fn remove_client(&self, removed: &RemovedClient<'_>) -> Result<(), StateError> {
        let mut connection = self.lock();
        let transaction = connection.transaction()?;
        if let Some(wish) = removed.wish {
            save_wish(&transaction, removed.path, wish)?;
        }
        if let Some((client, at)) = removed.removal {
            save_removal(&transaction, client, client.s3_prefix(), at)?;
        }
        if let Some((client, _)) = removed.removal {
            let txid = client.progress().txid;
            if txid > 0 {
                save_given(&transaction, client, txid)?;
            }
        }
        if let (Some(id), Some((client, _))) = (removed.id, removed.removal) {
            super::leaving::save(&transaction, id, client)?;
        }
        if let Some(id) = removed.id {
            transaction.execute(
                "UPDATE database SET path = CAST('/removed/' || id AS BLOB) WHERE id = ?1",
                [id],
            )?;
        }
        Ok(transaction.commit()?)
    }

    /// Notes the newest number of a removed database's transactions: those of whatever has its place next go on from it.
    pub fn save_given(&self, client: &Client, txid: u64) -> Result<(), StateError> {
        save_given(&self.lock(), client, txid)
    }

    /// The highest transaction number that was given to any database that was removed from a client's place, stored or
    /// not; 0 where there was none.
    pub fn newest_given(&self, client: &Client) -> Result<u64, StateError> {
        let newest = self
            .lock()
            .prepare_cached("SELECT txid FROM given WHERE location = ?1")?
            .query_row([place_of(client)], |row| row.get::<_, i64>(0))
            .optional()?;
        Ok(newest.unwrap_or(0) as u64)
    }

    /// When a database was last removed whose replica is still there, at such a place of whichever store.
    pub fn newest_removal(&self, s3_prefix: &str) -> Result<Option<UnixMs>, StateError> {
        Ok(self
            .lock()
            .prepare_cached("SELECT max(removed_at) FROM removal WHERE s3_prefix = ?1")?
            .query_row([s3_prefix], |row| row.get(0))?)
    }

    /// Notes where the replica of a database lies.
    pub fn save_place(&self, id: i64, place: &Place) -> Result<(), StateError> {
        self.lock()
            .prepare_cached("INSERT OR REPLACE INTO place VALUES (?1, ?2, ?3)")?
            .execute(params![id, place.location, place.s3_prefix])?;
        Ok(())
    }

    /// Where the replica of a database lies; none where that was not noted.
    pub fn place_of(&self, id: i64) -> Result<Option<Place>, StateError> {
        Ok(self
            .lock()
            .prepare_cached("SELECT location, s3_prefix FROM place WHERE database = ?1")?
            .query_row([id], |row| {
                Ok(Place {
                    location: row.get(0)?,
                    s3_prefix: row.get(1)?,
                })
            })
            .optional()?)
    }

    /// Forgets a database whose replica has another place now, and notes what was left at the one `before`, where that is
    /// in the same store: it goes in time, like that of a removed database.
    pub fn leave_place(&self, id: i64, client: &Client, before: &Place) -> Result<(), StateError> {
        let mut connection = self.lock();
        let transaction = connection.transaction()?;
        let newest: Option<i64> = transaction.query_row(
            "SELECT max(generation) FROM
                 (SELECT generation FROM database WHERE id = ?1
                  UNION ALL SELECT generation FROM mark WHERE database = ?1)",
            [id],
            |row| row.get(0),
        )?;
        let begun = newest.map(|generation| GenerationId(generation as u64).started_ms());
        transaction.execute(
            "INSERT INTO given SELECT ?2, max(txid) FROM
                 (SELECT txid FROM database WHERE id = ?1
                  UNION ALL SELECT txid FROM mark WHERE database = ?1)
             HAVING max(txid) IS NOT NULL
             ON CONFLICT (location) DO UPDATE SET txid = max(given.txid, excluded.txid)",
            params![id, before.location],
        )?;
        if client
            .place()
            .is_some_and(|now| now.store() == before.store())
        {
            let at = begun.map_or_else(now_ms, |begun| begun.max(now_ms()));
            save_removal(&transaction, client, &before.s3_prefix, at)?;
        }
        transaction.execute("DELETE FROM database WHERE id = ?1", [id])?;
        Ok(transaction.commit()?)
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

    /// Those of the same place that came before it.
    pub fn earlier_removals(&self, removal: &Removal) -> Result<Vec<Removal>, StateError> {
        let mut removals = self.removals()?;
        removals.retain(|one| {
            one.s3_prefix == removal.s3_prefix
                && one.tenant == removal.tenant
                && one.removed_at < removal.removed_at
        });
        Ok(removals)
    }

    /// The store knows of a removal.
    pub fn removal_noted(&self, removal: &Removal) -> Result<(), StateError> {
        self.lock()
            .prepare_cached(
                "UPDATE removal SET noted = 1 WHERE s3_prefix = ?1 AND tenant = ?2 AND removed_at = ?3",
            )?
            .execute(params![removal.s3_prefix, removal.tenant, removal.removed_at])?;
        Ok(())
    }

    /// A removal that nobody was told of is none any more. The numbers that its place has seen are kept.
    pub fn drop_removal(&self, removal: &Removal) -> Result<(), StateError> {
        self.lock()
            .prepare_cached(
                "DELETE FROM removal WHERE s3_prefix = ?1 AND tenant = ?2 AND removed_at = ?3",
            )?
            .execute(params![
                removal.s3_prefix,
                removal.tenant,
                removal.removed_at
            ])?;
        Ok(())
    }

    /// Nothing is to be done for a removal any more.
    pub fn forget_removal(&self, removal: &Removal) -> Result<(), StateError> {
        let mut connection = self.lock();
        let transaction = connection.transaction()?;
        transaction.execute(
            "DELETE FROM removal WHERE s3_prefix = ?1 AND tenant = ?2 AND removed_at = ?3",
            params![removal.s3_prefix, removal.tenant, removal.removed_at],
        )?;
        // Its replica is gone, or another database's history has gone on from its numbers.
        transaction.execute(
            "DELETE FROM given WHERE (location = ?1 OR substr(location, -length(?1) - 1) = '/' || ?1)
             AND NOT EXISTS (SELECT 1 FROM removal WHERE s3_prefix = ?1)",
            [&removal.s3_prefix],
        )?;
        Ok(transaction.commit()?)
    }
}

fn save_wish(connection: &Connection, path: &Path, wish: &Wish) -> Result<(), StateError> {
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

/// Its store and its place there; the place alone where there is no store for it.
fn place_of(client: &Client) -> &str {
    client.location().map_or(client.s3_prefix(), |place| place)
}

fn save_given(connection: &Connection, client: &Client, txid: u64) -> Result<(), StateError> {
    connection
        .prepare_cached(
            "INSERT INTO given VALUES (?1, ?2)
             ON CONFLICT (location) DO UPDATE SET txid = max(txid, excluded.txid)",
        )?
        .execute(params![place_of(client), txid as i64])?;
    Ok(())
}

fn save_removal(
    connection: &Connection,
    client: &Client,
    s3_prefix: &str,
    at: UnixMs,
) -> Result<(), StateError> {
    let retention = client.policy().removed_retention.as_millis() as i64;
    // Of one that the store was not told of nobody knows.
    connection
        .prepare_cached("DELETE FROM removal WHERE s3_prefix = ?1 AND tenant = ?2 AND NOT noted")?
        .execute(params![s3_prefix, client.id.tenant])?;
    connection
        .prepare_cached("INSERT OR IGNORE INTO removal VALUES (?1, ?2, ?3, ?4, ?5, 0)")?
        .execute(params![
            s3_prefix,
            client.id.tenant,
            client.label,
            at,
            at.saturating_add(retention),
        ])?;
    Ok(())
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
    use crate::tenant::terms::Terms;

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

    #[test]
    fn a_removal_is_noted_whole_and_each_tenants_for_itself() {
        let dir = tempfile::tempdir().expect("a directory");
        let state = StateDb::open(&dir.path().join("state.db"), 1).expect("a state");
        let path = Path::new("x.db");
        let client = |tenant: &str| {
            let named = Named {
                tenant: tenant.to_owned(),
                s3_prefix: Some("data/main".to_owned()),
                ..Named::single("main")
            };
            let identity = Terms::default().identity("", &named);
            Client::new(identity, path.into(), Path::new("/data").into())
        };
        let (first, second) = (client("a"), client("b"));
        let id = state.id_of(path).expect("a number");
        let excluded = Wish {
            excluded: true,
            ..Wish::default()
        };
        for client in [&first, &second] {
            let removed = RemovedClient {
                path,
                wish: Some(&excluded),
                removal: Some((client, 7)),
                id: Some(id),
            };
            state.remove_client(&removed).expect("noted");
        }
        assert_eq!(state.wishes().expect("read")[path], excluded);
        assert_ne!(state.id_of(path).expect("a number"), id, "the path is free");
        // In buckets of their own two tenants may have equal places.
        let removals = state.removals().expect("read");
        assert_eq!(removals.len(), 2);
        // One that comes and goes is removed once, until the store was told.
        let again = |at| {
            let removed = RemovedClient {
                path,
                wish: None,
                removal: Some((&first, at)),
                id: None,
            };
            state.remove_client(&removed).expect("noted");
        };
        again(8);
        assert_eq!(state.removals().expect("read").len(), 2);
        again(7);
        let told = removals
            .iter()
            .find(|one| one.tenant == "a")
            .expect("there");
        state.removal_noted(told).expect("noted");
        again(9);
        let removals_now = state.removals().expect("read");
        assert_eq!(removals_now.len(), 3);
        let last = removals_now
            .iter()
            .find(|one| one.removed_at == 9)
            .expect("there");
        let earlier = state.earlier_removals(last).expect("read");
        assert_eq!(
            earlier.iter().map(|one| one.removed_at).collect::<Vec<_>>(),
            [7]
        );
        state.forget_removal(last).expect("forgotten");
        state.forget_removal(&removals[0]).expect("forgotten");
        let newest = |place| state.newest_removal(place).expect("read");
        assert_eq!((newest("data/main"), newest("data")), (Some(7), None));
    }
}
