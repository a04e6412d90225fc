//! Which files of the watch path are databases: found at the start, and followed as names come and go.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use dashmap::mapref::entry::Entry;

use super::backing::companion;
use super::database::Database;
use super::newcomers::Newcomer;
use super::state::Seen;
use super::survey::{IS_LINK, NO_RULE};
use super::wishes::{RemovedClient, Wish};
use super::{Capture, CaptureError, StartError, StateError};
use crate::clock::now_ms;
use crate::fault::Point;
use crate::tenant::discovery::{Rules, Verdict};
use crate::tenant::ids::{ClientId, Identity};
use crate::tenant::roster::{Client, Progress, Registration, Status};

/// What `lastError` begins with where the state could give a client no number.
const STATE: &str = "state: ";

fn is_of_state(progress: &Progress) -> bool {
    let told = progress.last_error.as_deref();
    progress.status == Status::Failing && told.is_some_and(|error| error.starts_with(STATE))
}

/// What a start has still to register, once the databases that earlier runs have captured have their names.
#[derive(Debug)]
pub struct Unregistered {
    /// Those that are there and that no run has captured.
    newcomers: Vec<PathBuf>,
    /// Those that an earlier run has seen and that are not there.
    absent: HashMap<PathBuf, Seen>,
}

impl Capture {
    /// Registers the databases that are there and that earlier runs have captured, and looks at those that are not as they
    /// were when all was stored. Called once the mount answers, of all watch paths before `take_over_others` of any: of
    /// databases with one name, or with one place in the store, the one with its history there keeps it.
    ///
    /// # Errors
    /// The state, or the watch path itself, can't be read.
    pub fn take_over_known(&self) -> Result<Unregistered, StartError> {
        let mut known = self.shared.state.all()?;
        let found = self.look_through()?;
        self.note_found(&found);
        let (mut newcomers, mut known_ones) = (Vec::new(), 0_u64);
        for path in found.databases {
            let known = known.remove(&path).filter(|seen| {
                let identity = self.identify(&path);
                let location = identity.and_then(|identity| identity.location);
                seen.has_history && !seen.was_elsewhere(location.as_deref())
            });
            match known {
                Some(seen) => {
                    known_ones += 1;
                    self.take_over_one(&path, &seen);
                }
                None => newcomers.push(path),
            }
        }
        if known_ones > 0 {
            tracing::info!(clients = known_ones, "Known clients registered");
        }
        Ok(Unregistered {
            newcomers,
            absent: known,
        })
    }

    /// Registers the others: those that configuration or the API names, then those that are there, then those that are not,
    /// which are `missing`, or `waiting` where they were named.
    ///
    /// # Errors
    /// The state can't be written.
    pub fn take_over_others(&self, others: Unregistered) -> Result<(), StartError> {
        let Unregistered { newcomers, absent } = others;
        let (named, unnamed): (Vec<_>, Vec<_>) =
            newcomers.iter().partition(|path| self.is_named(path));
        let mut taken_up: Vec<_> = named.iter().filter_map(|path| self.take_up(path)).collect();
        // An absent one that is known by its history is missing, and does not wait.
        let is_absent = |path: &Path| absent.contains_key(path);
        self.await_named(&is_absent);
        taken_up.extend(unnamed.iter().filter_map(|path| self.take_up(path)));
        self.newcomers.add(taken_up);
        for (path, seen) in absent {
            if !self.take_up_leaving(path.clone(), &seen)? {
                self.note_missing(&path, seen.id)?;
            }
        }
        self.await_named(&|_| false);
        Ok(())
    }

    fn is_named(&self, path: &Path) -> bool {
        let is_by_hand = |wish: &Wish| wish.named.is_some();
        self.rules().named().contains_key(path)
            || self.wishes.get(path).is_some_and(|wish| is_by_hand(&wish))
    }

    /// Registers a database that has no history yet; it is taken over in its turn.
    fn take_up(&self, path: &Path) -> Option<Newcomer> {
        let db = self.database(path)?;
        self.register(path, &db);
        // Another file may have its identity.
        db.client()?;
        Some(self.newcomer(path, &db))
    }

    fn take_over_one(&self, path: &Path, seen: &Seen) {
        let Some(db) = self.database(path) else {
            return;
        };
        let present = self.shared.stamps(&db).ok();
        let unchanged = present.filter(|present| {
            seen.stamps == Some(*present) && !self.shared.may_have_hot_journal(&db)
        });
        if let Some(stamps) = unchanged.filter(|_| !db.is_dirty()) {
            db.set_as_stored(stamps);
        }
        // It is the file that the state was read of, so that its number holds.
        let seen_same = Some(seen).filter(|_| unchanged.is_some());
        self.register_as(path, &db, seen_same, true);
        if let Some(client) = db.client().filter(|_| unchanged.is_some()) {
            self.show_stored(&db, &client, seen.id);
        } else {
            db.mark_dirty();
        }
    }

    /// Health of a client that nothing is to be done for, from the state alone.
    fn show_stored(&self, db: &Database, client: &Client, id: i64) {
        match self.shared.state.newest_stored(id) {
            Ok(stored) => {
                if let Some(stored) = stored {
                    client.update(|progress| {
                        progress.txid = stored.txid;
                        progress.replicated_txid = stored.txid;
                        progress.generation = Some(stored.generation);
                        progress.database_bytes = Some(stored.database_bytes());
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
            self.shared.spool.forget(id)?;
            return Ok(self.shared.state.remove(id)?);
        };
        if let Registration::New(client) =
            self.roster.register(identity, path.into(), &self.seen_at)
        {
            self.apply_wish(&client);
            client.when_admitted(|client| {
                client.update(|progress| {
                    progress.status = Status::Missing;
                    progress.last_error = Some("missing: the file was gone at start".to_owned());
                });
            });
        }
        Ok(())
    }

    /// Registers databases that were named, and whose files do not exist yet.
    pub(super) fn await_named(&self, is_left_out: &dyn Fn(&Path) -> bool) {
        let rules = self.rules();
        let by_hand = self.wishes.iter().filter(|wish| wish.named.is_some());
        let by_hand: Vec<PathBuf> = by_hand.map(|wish| wish.key().clone()).collect();
        let named = rules.named().keys().chain(&by_hand);
        for path in named.filter(|path| !is_left_out(path)) {
            if let Some(identity) = self.identify(path) {
                self.await_file(identity, path);
            }
        }
    }

    /// Registers a database before its file is there.
    pub(super) fn await_file(&self, identity: Identity, path: &Path) -> Registration {
        let registration = self.roster.register(identity, path.into(), &self.seen_at);
        if let Registration::New(client) = &registration {
            self.apply_wish(client);
            client.when_admitted(|client| {
                client.update(|progress| progress.status = Status::Waiting);
            });
            log_client(client, "register", "New client registered");
        }
        registration
    }

    /// A regular file has come to stand at `path`: created, linked, or renamed to it. Called after the operation,
    /// before its reply. `replaced` says that another file stood there before.
    pub fn appeared(&self, path: &Path, replaced: bool) {
        // It was unregistered until its file is made anew.
        self.wish_or_warn(path, |wish| wish.excluded = false);
        if self.examine(path) == Verdict::Ignored {
            return self.note_ignored(path, NO_RULE);
        }
        let Some(db) = self.database(path) else {
            return;
        };
        db.note_arrival();
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
        if replaced {
            // Another name of the file that stood there has it to itself now.
            self.tell_free(db.client().map(|client| client.id.clone()));
        }
    }

    /// A symbolic link has come to stand at `path`: it is never followed.
    pub fn link_appeared(&self, path: &Path) {
        if self.examine(path) != Verdict::Plain {
            self.note_ignored(path, IS_LINK);
        }
    }

    /// The name `path` is gone: unlinked, or renamed away. Called after the operation, before its reply.
    pub fn vanished(&self, path: &Path) {
        let freed = self.vanish(path);
        self.tell_free(freed);
    }

    /// The same; gives the identity that belongs to no file any more, which has to be told.
    pub(super) fn vanish(&self, path: &Path) -> Option<ClientId> {
        self.roster.no_longer_ignored(&self.seen_at.join(path));
        self.roster.waiting().remove(&self.seen_at.join(path));
        // What was asked for the file goes with it; what it is called stays.
        self.wish_or_warn(path, |wish| (wish.paused, wish.excluded) = (false, false));
        let db = self.at_path(path)?;
        let client = db.client().or_else(|| self.unnumbered_at(path));
        Point::Vanished.reach();
        let removed = self.removed_now(path, client.as_deref(), None);
        if let Err(error) = self.shared.state.remove_client(&removed) {
            tracing::warn!(client = %db.label(), error = %error, "A removal could not be noted; it is tried again");
            self.note_removed_late(&removed, client.as_ref());
        }
        Point::RemovalNoted.reach();
        self.take_out(path, client.as_deref());
        client.map(|client| client.id.clone())
    }

    /// A directory with all below it has another name now.
    pub fn directory_moved(&self, from: &Path, to: &Path) {
        let moved: Vec<PathBuf> = self
            .databases
            .iter()
            .map(|entry| entry.key().to_path_buf())
            .filter(|path| path.starts_with(from))
            .collect();
        let mut freed = Vec::new();
        for path in moved {
            let before = self.at_path(&path);
            let vacated = self.vanish(&path);
            vacated.iter().for_each(|id| self.note_vacated(id));
            freed.extend(vacated);
            if let Ok(rest) = path.strip_prefix(from) {
                let path = to.join(rest);
                self.appeared(&path, false);
                if let (Some(before), Some(now)) = (before, self.at_path(&path)) {
                    before.move_to(&now);
                }
            }
        }
        self.take_up_below(to);
        self.tell_free(freed);
    }

    pub(super) fn note_ignored(&self, path: &Path, reason: &'static str) {
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
    pub(super) fn examine(&self, path: &Path) -> Verdict {
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
        let path: Arc<Path> = path.into();
        self.databases
            .entry(path.clone())
            .or_insert_with(|| Arc::new(Database::new(path, self.queue.clone())))
            .clone()
    }

    pub(super) fn register(&self, path: &Path, db: &Arc<Database>) {
        self.register_as(path, db, None, false);
    }

    /// The same of one that the state was just read of: with many of them a start is as short as that makes it. Of those
    /// that are known from an earlier run not each has a line of the log.
    fn register_as(&self, path: &Path, db: &Arc<Database>, seen: Option<&Seen>, is_known: bool) {
        let Some(identity) = self.identify(path) else {
            return;
        };
        let id = identity.id.clone();
        if let Some(holder) = self.other_name_of(path) {
            return self.wait_for_file(path, &holder);
        }
        let client = match self
            .roster
            .register(identity, db.path.clone(), &self.seen_at)
        {
            Registration::New(client) => {
                self.apply_wish(&client);
                if !is_known {
                    log_client(&client, "register", "New client registered");
                }
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
            Registration::Taken(holder) => return self.wait_for_identity(path, id, holder),
        };
        self.roster.no_longer_ignored(&client.seen_path());
        self.roster.waiting().remove(&client.seen_path());
        if let Some(inode) = self.inode_at(path) {
            self.files.insert(db, inode);
        }
        let number = match seen.filter(|seen| seen.place.is_some() && seen.place == client.place())
        {
            Some(seen) => Ok(seen.id),
            None => self.number_of(path, &client),
        };
        match number {
            Ok(id) => {
                client.update(|progress| {
                    // It could not be written before.
                    if is_of_state(progress) {
                        (progress.status, progress.last_error) = (Status::Active, None);
                    }
                });
                db.set_client(client.clone(), id);
                if client.progress().status == Status::Refused {
                    let db = Arc::downgrade(db);
                    // It was not followed until then.
                    client.when_admitted(move |_| {
                        if let Some(db) = db.upgrade() {
                            db.mark_dirty();
                            db.resume();
                        }
                    });
                }
            }
            Err(error) => {
                client.update(|progress| {
                    if progress.status != Status::Refused {
                        progress.status = Status::Failing;
                        progress.last_error = Some(format!("{STATE}{error}"));
                        progress.oldest_pending_at.get_or_insert_with(now_ms);
                    }
                });
                self.register_late(path);
            }
        }
    }

    fn apply_wish(&self, client: &Client) {
        if self
            .wishes
            .get(&*client.db_path)
            .is_some_and(|wish| wish.paused)
        {
            client.update(|progress| progress.paused = true);
        }
    }

    /// The number under which the state knows a database. What it knows of another place than the client's is forgotten: in
    /// this one the store has nothing that could be gone on from.
    fn number_of(&self, path: &Path, client: &Client) -> Result<i64, CaptureError> {
        self.note_late_removals(Some(path))?;
        let state = &self.shared.state;
        let id = state.id_of(path)?;
        let Some(place) = client.place() else {
            return Ok(id);
        };
        let before = state.place_of(id)?;
        if before.as_ref() == Some(&place) {
            return Ok(id);
        }
        let id = match before {
            None => id,
            Some(before) => {
                tracing::warn!(
                    client = %client.label,
                    s3_path = %format!("{}/", client.s3_prefix()),
                    before = %before.location,
                    "The replica has another place now: a new generation begins there, and nothing more goes to the place before"
                );
                self.shared.remove_files(id)?;
                state.leave_place(id, client, &before)?;
                self.removed.notify_one();
                state.id_of(path)?
            }
        };
        state.save_place(id, &place)?;
        Ok(id)
    }

    /// Notes that a database is removed, and what is asked for its file from now on: its replica stays for a while, and its
    /// name may come back at once, for another database.
    pub(super) fn note_removed(
        &self,
        path: &Path,
        client: Option<&Client>,
        wish: Option<&Wish>,
    ) -> Result<(), StateError> {
        let removed = self.removed_now(path, client, wish);
        self.shared.state.remove_client(&removed)
    }

    fn removed_now<'a>(
        &self,
        path: &'a Path,
        client: Option<&'a Client>,
        wish: Option<&'a Wish>,
    ) -> RemovedClient<'a> {
        let registered = client.filter(|client| {
            let known = self.roster.get(&client.id);
            known.is_some_and(|known| *known.db_path == *path && known.seen_at == self.seen_at)
        });
        let removal = registered.map(|client| {
            // A generation that begins later is of another database, whatever the clock does.
            let begun = client.progress().generation.map(|id| id.started_ms());
            (
                client,
                begun.map_or_else(now_ms, |begun| begun.max(now_ms())),
            )
        });
        RemovedClient {
            path,
            wish,
            removal,
            id: self.at_path(path).and_then(|db| db.id()),
        }
    }

    /// Whether it is a client's, and the state could give it no number.
    pub fn has_no_number(&self, db: &Database) -> bool {
        db.client().is_none() && self.unnumbered_at(&db.path).is_some()
    }

    /// The client of a database to which the state could give no number.
    fn unnumbered_at(&self, path: &Path) -> Option<Arc<Client>> {
        let client = self.roster.get(&self.identify(path)?.id)?;
        (*client.db_path == *path && client.seen_at == self.seen_at).then_some(client)
    }

    /// Stops the replication of what stood at `path`, once that is noted.
    pub(super) fn take_out(&self, path: &Path, client: Option<&Client>) {
        if let Some(client) = client
            && self.roster.unregister(&client.id, path).is_some()
        {
            log_client(client, "unregister", "Client unregistered");
            self.removed.notify_one();
        }
        if let Some((_, db)) = self.databases.remove(path) {
            self.files.remove(&db);
            self.leave(&db);
        }
        self.roster.readmit(None);
    }

    /// Changes what is asked for a file.
    pub(super) fn wish(
        &self,
        path: &Path,
        change: impl FnOnce(&mut Wish),
    ) -> Result<(), StateError> {
        let entry = self.wishes.entry(path.to_owned());
        let before = match &entry {
            Entry::Occupied(known) => known.get().clone(),
            Entry::Vacant(_) => Wish::default(),
        };
        let mut wish = before.clone();
        change(&mut wish);
        if wish == before {
            return Ok(());
        }
        self.shared.state.save_wish(path, &wish)?;
        match entry {
            Entry::Occupied(known) if wish == Wish::default() => drop(known.remove()),
            entry => drop(entry.insert(wish)),
        }
        Ok(())
    }

    fn wish_or_warn(&self, path: &Path, change: impl FnOnce(&mut Wish)) {
        if self.wishes.contains_key(path)
            && let Err(error) = self.wish(path, change)
        {
            tracing::warn!(path = %path.display(), error = %error, "The state could not be written");
        }
    }
}

pub(super) fn log_client(client: &Client, operation: &str, message: &str) {
    tracing::info!(
        client = %client.label,
        prefix = client.prefix(),
        operation,
        s3_path = %format!("{}/", client.s3_prefix()),
        "{message}: {}", client.label
    );
}
