//! Which files of the watch path are databases: found at the start, and followed as names come and go.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use super::backing::companion;
use super::database::Database;
use super::newcomers::Newcomer;
use super::state::Stamps;
use super::wishes::Wish;
use super::{Capture, STATE_FOLDER, StartError};
use crate::clock::now_ms;
use crate::tenant::discovery::{Rules, Verdict};
use crate::tenant::ids::Identity;
use crate::tenant::roster::{Client, Registration, Status};

/// Why a file that looks like a database is not one of ours.
const NO_RULE: &str = "no rule says whose it is";
const IS_LINK: &str = "it is a symbolic link";
const IS_TAKEN: &str = "another file has its identity";

/// What a look through the watch path has found.
#[derive(Debug, Default)]
struct Found {
    databases: Vec<PathBuf>,
    ignored: Vec<(PathBuf, &'static str)>,
}

impl Capture {
    /// Registers every database that is there, and looks at those that are not as they were when all was stored.
    /// Called once the mount answers. Those that are known and absent are `missing`, or `waiting` where they were named.
    pub fn take_over(&self) -> Result<(), StartError> {
        let mut known = self.shared.state.all()?;
        let found = self.look_through()?;
        let mut newcomers = Vec::new();
        for path in found.databases {
            match known.remove(&path) {
                Some(seen) if seen.has_history => self.take_over_one(&path, seen.stamps),
                _ => newcomers.extend(self.take_up(&path)),
            }
        }
        self.newcomers.add(newcomers);
        for (path, reason) in found.ignored {
            self.note_ignored(&path, reason);
        }
        for (path, seen) in known {
            self.note_missing(&path, seen.id)?;
        }
        self.await_named();
        Ok(())
    }

    /// The identities of all databases that are there or were named, by the path that applications see; before anything
    /// is registered.
    ///
    /// # Errors
    /// `Walk`
    pub fn survey(&self) -> Result<Vec<(PathBuf, Identity)>, StartError> {
        let rules = self.rules();
        let mut paths: HashSet<PathBuf> = self.look_through()?.databases.into_iter().collect();
        paths.extend(rules.named().keys().cloned());
        let identified = paths.into_iter().filter_map(|path| {
            let identity = self.identify(&path)?;
            Some((self.seen_at.join(path), identity))
        });
        Ok(identified.collect())
    }

    /// The files that are clients' by the rules of now.
    pub(super) fn files_of_clients(&self) -> Result<Vec<PathBuf>, StartError> {
        Ok(self.look_through()?.databases)
    }

    fn look_through(&self) -> Result<Found, StartError> {
        let mut found = Found::default();
        self.shared
            .backing
            .walk(
                STATE_FOLDER,
                &mut |path, is_link| match (self.examine(&path), is_link) {
                    (Verdict::Plain, _) => {}
                    (_, true) => found.ignored.push((path, IS_LINK)),
                    (Verdict::Client(_), false) => found.databases.push(path),
                    (Verdict::Ignored, false) => found.ignored.push((path, NO_RULE)),
                },
            )
            .map_err(StartError::Walk)?;
        Ok(found)
    }

    /// Registers a database that has no history yet; it is taken over in its turn.
    fn take_up(&self, path: &Path) -> Option<Newcomer> {
        let db = self.database(path)?;
        self.register(path, &db);
        Some(self.newcomer(path, &db))
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
        let Some(identity) = self.identify(path) else {
            // Removed in an earlier run, or no longer taken by the rules: nobody will ask for what waits of it.
            self.shared.spool.remove_others(id, &HashSet::new())?;
            return Ok(self.shared.state.remove(id)?);
        };
        if let Registration::New(client) = self.roster.register(identity, path, &self.seen_at) {
            client.update(|progress| {
                progress.status = Status::Missing;
                progress.last_error = Some("missing: the file was gone at start".to_owned());
            });
        }
        Ok(())
    }

    /// Databases that were named, and whose files do not exist yet.
    pub(super) fn await_named(&self) {
        let rules = self.rules();
        let by_hand = self.wishes.iter().filter(|wish| wish.named.is_some());
        let by_hand: Vec<PathBuf> = by_hand.map(|wish| wish.key().clone()).collect();
        for path in rules.named().keys().chain(&by_hand) {
            if let Some(identity) = self.identify(path) {
                self.await_file(identity, path);
            }
        }
    }

    /// Registers a database before its file is there.
    pub(super) fn await_file(&self, identity: Identity, path: &Path) -> Registration {
        let registration = self.roster.register(identity, path, &self.seen_at);
        if let Registration::New(client) = &registration {
            self.apply_wish(client);
            client.update(|progress| {
                if progress.status == Status::Active {
                    progress.status = Status::Waiting;
                }
            });
            log_client(client, "register", "New client registered");
        }
        registration
    }

    /// A regular file has come to stand at `path`: created, linked, or renamed to it. Called after the operation,
    /// before its reply. `replaced` says that another file stood there before.
    pub fn appeared(&self, path: &Path, replaced: bool) {
        if self.examine(path) == Verdict::Ignored {
            return self.note_ignored(path, NO_RULE);
        }
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

    /// A symbolic link has come to stand at `path`: it is never followed.
    pub fn link_appeared(&self, path: &Path) {
        if self.examine(path) != Verdict::Plain {
            self.note_ignored(path, IS_LINK);
        }
    }

    /// The name `path` is gone: unlinked, or renamed away. Called after the operation, before its reply.
    pub fn vanished(&self, path: &Path) {
        self.roster.no_longer_ignored(&self.seen_at.join(path));
        // What was asked for the file went with it; what it is called stays.
        if let Some(mut wish) = self.wishes.get_mut(path) {
            (wish.paused, wish.excluded) = (false, false);
            self.save_wish(path, &wish);
        }
        if let Some((_, db)) = self.databases.remove(path) {
            self.unregister(&db);
        }
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

    fn note_ignored(&self, path: &Path, reason: &'static str) {
        let seen_path = self.seen_at.join(path);
        if self.roster.ignore(seen_path.clone(), reason) {
            tracing::warn!(path = %seen_path.display(), error = reason, "A file is ignored");
        }
    }

    pub(super) fn rules(&self) -> Arc<Rules> {
        self.rules
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// What the file at `path` is: what was asked for it comes before the rules.
    fn examine(&self, path: &Path) -> Verdict {
        let rules = self.rules();
        let Some(wish) = self.wishes.get(path) else {
            return rules.examine(path);
        };
        match &wish.named {
            _ if wish.excluded => Verdict::Plain,
            Some(named) => Verdict::Client(Identity {
                is_listed: true,
                ..rules.identity(named)
            }),
            None => rules.examine(path),
        }
    }

    pub(super) fn identify(&self, path: &Path) -> Option<Identity> {
        match self.examine(path) {
            Verdict::Client(identity) => Some(identity),
            Verdict::Ignored | Verdict::Plain => None,
        }
    }

    /// The database at `path`, where a rule takes it.
    fn database(&self, path: &Path) -> Option<Arc<Database>> {
        self.identify(path).map(|_| self.entry(path))
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

    pub(super) fn register(&self, path: &Path, db: &Arc<Database>) {
        let Some(identity) = self.identify(path) else {
            return;
        };
        let client = match self.roster.register(identity, path, &self.seen_at) {
            Registration::New(client) => {
                self.apply_wish(&client);
                log_client(&client, "register", "New client registered");
                client
            }
            Registration::Known(client) => {
                // Absent until now.
                client.update(|progress| {
                    if matches!(progress.status, Status::Missing | Status::Waiting) {
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
                return self.note_ignored(path, IS_TAKEN);
            }
        };
        self.roster.no_longer_ignored(&client.seen_path());
        match self.shared.state.id_of(path) {
            Ok(id) => db.set_client(client, id),
            Err(error) => client.update(|progress| {
                progress.status = Status::Failing;
                progress.last_error = Some(format!("state: {error}"));
            }),
        }
    }

    fn apply_wish(&self, client: &Client) {
        if self
            .wishes
            .get(&client.db_path)
            .is_some_and(|wish| wish.paused)
        {
            client.update(|progress| progress.paused = true);
        }
    }

    /// The database is removed: its replica stays for a while, which the store is told.
    pub(super) fn unregister(&self, db: &Arc<Database>) {
        if let Some(client) = db.client()
            && self.roster.unregister(&client.id, &db.path).is_some()
        {
            log_client(&client, "unregister", "Client unregistered");
            self.note_removal(&client);
        }
        // The name may come back at once, for another database.
        if let Some(id) = db.id()
            && let Err(error) = self.shared.state.detach(id)
        {
            tracing::warn!(client = %db.label(), error = %error, "The state could not be written");
        }
        db.set_removed();
        self.admit_refused(None);
    }

    pub(super) fn note_removal(&self, client: &Client) {
        // A generation that begins later is of another database, whatever the clock does.
        let begun = client.progress().generation.map(|id| id.started_ms());
        let at = begun.map_or_else(now_ms, |begun| begun.max(now_ms()));
        match self.shared.state.save_removal(client, at) {
            Ok(()) => self.removed.notify_one(),
            Err(error) => {
                tracing::warn!(client = %client.label, error = %error, "The state could not be written");
            }
        }
    }

    /// Takes up those refused clients that there is room for by now.
    pub(super) fn admit_refused(&self, max_tenants: Option<usize>) {
        for client in self.roster.readmit(max_tenants) {
            if client.seen_at == self.seen_at
                && let Some(db) = self.at_path(&client.db_path)
            {
                db.mark_dirty();
                db.resume();
            }
        }
    }

    pub(super) fn save_wish(&self, path: &Path, wish: &Wish) {
        if let Err(error) = self.shared.state.save_wish(path, wish) {
            tracing::warn!(path = %path.display(), error = %error, "The state could not be written");
        }
    }
}

pub(super) fn log_client(client: &Client, operation: &str, message: &str) {
    tracing::info!(
        client = %client.label,
        prefix = client.prefix(),
        operation,
        s3_path = %format!("{}/", client.s3_prefix),
        "{message}: {}", client.label
    );
}
