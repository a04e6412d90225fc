//! Which files of the watch path are databases: found at the start, and followed as names come and go.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::backing::companion;
use super::database::Database;
use super::state::Stamps;
use super::{Capture, STATE_FOLDER, StartError};
use crate::tenant::ids::ClientId;
use crate::tenant::roster::{Client, Registration, Status};

impl Capture {
    /// Registers every database that is there, and looks at those that are not as they were when all was stored.
    /// Called once the mount answers. Those that are known and absent are `missing`.
    pub fn take_over(&self) -> Result<(), StartError> {
        let mut known = self.shared.state.all()?;
        let mut found = Vec::new();
        self.shared
            .backing
            .walk(STATE_FOLDER, &mut |path| {
                if self.rules.identify(&path).is_some() {
                    found.push(path);
                }
            })
            .map_err(StartError::Walk)?;
        for path in found {
            let stamps = known.remove(&path).and_then(|(_, stamps)| stamps);
            self.take_over_one(&path, stamps);
        }
        for (path, (id, _)) in known {
            self.note_missing(&path, id)?;
        }
        Ok(())
    }

    fn take_over_one(&self, path: &Path, stamps: Option<Stamps>) {
        let Some(db) = self.database(path) else {
            return;
        };
        let unchanged = stamps.is_some_and(|stamps| {
            self.shared
                .stamps(&db)
                .is_ok_and(|present| present == stamps)
        });
        if unchanged && !db.is_dirty() {
            db.set_as_stored();
        }
        self.register(path, &db);
        if let Some(client) = db.client().filter(|_| unchanged) {
            self.show_stored(&db, &client);
        } else {
            db.mark_dirty();
        }
    }

    /// Health of a client that nothing is to be done for, from the state alone.
    fn show_stored(&self, db: &Database, client: &Client) {
        let known = self
            .shared
            .state
            .id_of(&db.path)
            .and_then(|id| self.shared.state.load(id));
        match known {
            Ok(known) => {
                if let Some(stored) = known.stored {
                    client.update(|progress| {
                        progress.txid = stored.mark.txid;
                        progress.replicated_txid = stored.mark.txid;
                        progress.generation = Some(stored.mark.generation);
                        progress.database_bytes = Some(stored.mark.database_bytes());
                    });
                }
            }
            Err(error) => {
                tracing::warn!(client = %db.label(), error = %error, "The state could not be read");
            }
        }
    }

    fn note_missing(&self, path: &Path, id: i64) -> Result<(), StartError> {
        let Some(identity) = self.rules.identify(path) else {
            // Removed in an earlier run, or no longer taken by the rules: nobody will ask for what waits of it.
            self.shared.spool.remove_others(id, &HashSet::new())?;
            return Ok(self.shared.state.remove(id)?);
        };
        if let Registration::New(client) = self.roster.register(identity, path) {
            client.update(|progress| {
                progress.status = Status::Missing;
                progress.last_error = Some("missing: the file was gone at start".to_owned());
            });
        }
        Ok(())
    }

    /// A regular file has come to stand at `path`: created, linked, or renamed to it. Called after the operation,
    /// before its reply. `replaced` says that another file stood there before.
    pub fn appeared(&self, path: &Path, replaced: bool) {
        let Some(db) = self.database(path) else {
            return;
        };
        if replaced {
            // A log that can't be looked at counts as one.
            let log = self.shared.backing.stamp(&companion(path, "-wal"));
            let keeps_log = log.map_or(true, |log| log.size > 0);
            tracing::warn!(
                client = %db.label(),
                keeps_log,
                "Another file was put in the database's place"
            );
            db.replaced(keeps_log);
        }
        self.register(path, &db);
        db.mark_dirty();
    }

    /// The name `path` is gone: unlinked, or renamed away. Called after the operation, before its reply.
    pub fn vanished(&self, path: &Path) {
        let Some(identity) = self.rules.identify(path) else {
            return;
        };
        let Some((_, db)) = self.databases.remove(path) else {
            return;
        };
        self.unregister(&identity, &db);
    }

    /// A directory with all below it has another name now.
    pub fn directory_moved(&self, from: &Path, to: &Path) {
        let moved: Vec<PathBuf> = self
            .databases
            .iter()
            .map(|entry| entry.key().clone())
            .filter(|path| path.starts_with(from))
            .collect();
        for path in moved {
            let before = self.at_path(&path);
            self.vanished(&path);
            if let Ok(rest) = path.strip_prefix(from) {
                let path = to.join(rest);
                self.appeared(&path, false);
                if let (Some(before), Some(now)) = (before, self.at_path(&path)) {
                    before.move_to(&now);
                }
            }
        }
    }

    /// The database at `path`, where a rule takes it.
    fn database(&self, path: &Path) -> Option<Arc<Database>> {
        self.rules.identify(path).map(|_| self.entry(path))
    }

    pub(super) fn entry(&self, path: &Path) -> Arc<Database> {
        if let Some(known) = self.databases.get(path) {
            return known.clone();
        }
        self.databases
            .entry(path.to_owned())
            .or_insert_with(|| Arc::new(Database::new(path.to_owned(), self.queue.clone())))
            .clone()
    }

    fn register(&self, path: &Path, db: &Arc<Database>) {
        let Some(identity) = self.rules.identify(path) else {
            return;
        };
        let client = match self.roster.register(identity, path) {
            Registration::New(client) => {
                log_client(&client, "register", "New client registered");
                client
            }
            Registration::Known(client) => {
                // Absent at start, and back.
                client.update(|progress| {
                    if progress.status == Status::Missing {
                        progress.status = Status::Active;
                        progress.last_error = None;
                    }
                });
                client
            }
            Registration::Taken(other) => {
                tracing::warn!(
                    client = %db.label(),
                    error = %format!("{} has this identity already", other.display()),
                    "A database can't be registered"
                );
                return;
            }
        };
        match self.shared.state.id_of(path) {
            Ok(id) => db.set_client(client, id),
            Err(error) => client.update(|progress| {
                progress.status = Status::Failing;
                progress.last_error = Some(format!("state: {error}"));
            }),
        }
    }

    fn unregister(&self, identity: &ClientId, db: &Arc<Database>) {
        if let Some(client) = self.roster.unregister(identity, &db.path) {
            log_client(&client, "unregister", "Client unregistered");
        }
        // The name may come back at once, for another database.
        if let Some(id) = db.id()
            && let Err(error) = self.shared.state.detach(id)
        {
            tracing::warn!(client = %db.label(), error = %error, "The state could not be written");
        }
        db.set_removed();
    }
}

fn log_client(client: &Client, operation: &str, message: &str) {
    let label = client.id.label();
    tracing::info!(
        client = %label,
        prefix = (!client.id.prefix.is_empty()).then_some(client.id.prefix.as_str()),
        operation,
        s3_path = %format!("{}/", client.s3_prefix),
        "{message}: {label}"
    );
}
