//! Databases that were removed while something of them still had to be stored: it is, after a restart too.

use std::path::PathBuf;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params};

use super::database::Database;
use super::state::{Seen, StateDb, StateError};
use super::{Capture, CaptureError};
use crate::tenant::discovery::Named;
use crate::tenant::policy::PolicyWritten;
use crate::tenant::roster::{Client, Status};

pub(super) const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS leaving (
        database INTEGER PRIMARY KEY REFERENCES database(id) ON DELETE CASCADE,
        path BLOB NOT NULL, tenant TEXT NOT NULL, db_name TEXT NOT NULL, single INTEGER NOT NULL,
        s3_prefix TEXT NOT NULL
    ) STRICT;
";

/// A removed database as it was called.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Leaving {
    path: PathBuf,
    named: Named,
}

/// Notes how a database was called that is removed, unless all of it is forgotten already.
pub(super) fn save(connection: &Connection, id: i64, client: &Client) -> Result<(), StateError> {
    use std::os::unix::ffi::OsStrExt;
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO leaving SELECT ?1, ?2, ?3, ?4, ?5, ?6
             WHERE EXISTS (SELECT 1 FROM database WHERE id = ?1)",
        )?
        .execute(params![
            id,
            client.db_path.as_os_str().as_bytes(),
            client.id.tenant,
            client.id.db_name,
            client.label == client.id.tenant,
            client.s3_prefix(),
        ])?;
    Ok(())
}

impl StateDb {
    fn leaving(&self, id: i64) -> Result<Option<Leaving>, StateError> {
        use std::os::unix::ffi::OsStringExt;
        Ok(self
            .lock()
            .prepare_cached(
                "SELECT path, tenant, db_name, single, s3_prefix FROM leaving WHERE database = ?1",
            )?
            .query_row([id], |row| {
                Ok(Leaving {
                    path: std::ffi::OsString::from_vec(row.get(0)?).into(),
                    named: Named {
                        tenant: row.get(1)?,
                        db_name: row.get(2)?,
                        single: row.get(3)?,
                        s3_prefix: Some(row.get(4)?),
                        policy: PolicyWritten::default(),
                    },
                })
            })
            .optional()?)
    }
}

impl Capture {
    /// A database is gone from its path; what is captured of it is still stored.
    pub(super) fn leave(&self, db: &Arc<Database>) {
        let is_stored = |client: Arc<Client>| client.progress().status != Status::Refused;
        if let Some(id) = db.id()
            && db.client().is_some_and(is_stored)
        {
            self.leaving.insert(id, db.clone());
        }
        db.set_removed();
    }

    /// Takes up what an earlier run left to be stored of a removed database. False where there is nothing, or where it does
    /// not belong to where its replica would lie now.
    pub(super) fn take_up_leaving(&self, at: PathBuf, seen: &Seen) -> Result<bool, StateError> {
        let Some(Leaving { path, named }) = self.shared.state.leaving(seen.id)? else {
            return Ok(false);
        };
        let identity = self.rules().identity(&named);
        let waits = !self.shared.state.load(seen.id)?.spooled.is_empty();
        if !waits || seen.was_elsewhere(identity.location.as_deref()) {
            return Ok(false);
        }
        let client = Client::new(identity, path.into(), self.seen_at.clone());
        let db = Arc::new(Database::new(at.into(), self.queue.clone()));
        db.set_client(Arc::new(client), seen.id);
        self.leave(&db);
        Ok(true)
    }

    /// A removed database has nothing left to store: forgets it.
    pub async fn forget(&self, db: &Arc<Database>) -> Result<(), CaptureError> {
        self.ask(db, |db, shared| db.history().forget(db, shared))
            .await?;
        if let Some(id) = db.id() {
            self.leaving.remove(&id);
        }
        Ok(())
    }
}
