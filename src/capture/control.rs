//! What is asked for while it runs: registering and unregistering by hand, pauses, and other rules.

use std::path::{Path, PathBuf};
use std::sync::{Arc, MutexGuard, PoisonError};

use super::wishes::{Removal, Wish};
use super::{Capture, STATE_FOLDER, StartError, StateError};
use crate::format::description::Attributes;
use crate::tenant::discovery::{Named, Rules, is_of_another};
use crate::tenant::policy::Policy;
use crate::tenant::request::{Registered, RequestError};
use crate::tenant::roster::{Client, Registration, Status};

/// The code of a registration that has to wait until its file is closed.
const FILE_OPEN: &str = "file_open";

/// A registration that the store tells of, once the rules have given its file to it.
#[derive(Clone, Debug)]
pub struct Recalled<'a> {
    /// Below the watch path.
    pub path: &'a Path,
    pub named: Named,
    /// Whose the file was, where the store says so.
    pub owner: Option<Attributes>,
}

/// What a change of the rules could not do while it runs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AtNextStart {
    /// As applications see it.
    pub path: PathBuf,
    pub reason: &'static str,
}

/// What has a place in the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AtPlace {
    Nobody,
    /// A database that is registered.
    Client,
    /// One that was removed, and of which something has still to be stored.
    Leaving,
}

impl Capture {
    /// Where applications see the watch path.
    pub fn seen_at(&self) -> &Path {
        &self.seen_at
    }

    /// Whether there was no state before, so that the store has to be asked what was registered.
    pub fn has_new_state(&self) -> bool {
        self.shared.state.is_new()
    }

    /// Removes the state again where this start has made it, and nothing was mounted.
    ///
    /// # Errors
    /// Those of the removal.
    pub fn withdraw(&self) -> std::io::Result<()> {
        if !self.has_new_state() {
            return Ok(());
        }
        self.shared.folder.withdraw()
    }

    /// The rules as they are now.
    pub fn present_rules(&self) -> Arc<Rules> {
        self.rules()
    }

    /// What holds for the database at `path`, registered or not.
    pub fn policy_at(&self, path: &Path) -> Arc<Policy> {
        self.identify(path)
            .map_or_else(Arc::default, |identity| identity.policy)
    }

    /// Registers the database at `path` (relative to the watch path) under the names that were asked for. `is_open` says
    /// whether an application has the file open through the mount.
    ///
    /// # Errors
    /// See `RequestError`; then nothing has changed.
    pub fn register_by_hand(
        &self,
        path: &Path,
        named: Named,
        is_open: impl FnOnce() -> bool,
    ) -> Result<Registered, RequestError> {
        let _one = self.one_by_hand();
        let rules = self.rules();
        let identity = rules.identity(&named);
        if let Some(known) = self.roster.get(&identity.id)
            && *known.db_path == *path
            && known.seen_at == self.seen_at
        {
            return match known.s3_prefix() == identity.s3_prefix {
                true => Ok(Registered::Known(known)),
                false => Err(taken(format!(
                    "{} is registered at {} already",
                    known.label,
                    known.s3_prefix()
                ))),
            };
        }
        if let Some(db) = self.at_path(path).and_then(|db| db.client()) {
            return Err(taken(format!(
                "{} is registered as {} already",
                self.seen_at.join(path).display(),
                db.label
            )));
        }
        self.refuse_unusable(path)?;
        let before = self.wishes.get(path).map(|wish| wish.clone());
        self.note_wish(path, |wish| {
            wish.excluded = false;
            wish.named = Some(named);
        })?;
        let registered = self.register_wished(path, is_open);
        if registered.is_err() {
            self.note_wish(path, |wish| *wish = before.unwrap_or_default())?;
        }
        registered
    }

    /// Whether there is a file; not one that could be no database's.
    fn refuse_unusable(&self, path: &Path) -> Result<bool, RequestError> {
        let unusable = |message: String| RequestError::Invalid {
            code: "bad_path",
            message,
        };
        let seen = self.seen_at.join(path);
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if is_of_another(&name) {
            return Err(unusable(format!(
                "{} would be a log, an index or a journal",
                seen.display()
            )));
        }
        if path.starts_with(STATE_FOLDER) {
            return Err(unusable(format!(
                "{} would lie in the folder of this program's own state",
                seen.display()
            )));
        }
        match self.shared.backing.is_regular(path) {
            Ok(found) => found.ok_or_else(|| {
                unusable(format!(
                    "{} is no regular file, or is reached through a symbolic link",
                    seen.display()
                ))
            }),
            Err(error) => Err(unusable(format!("look at {}: {error}", seen.display()))),
        }
    }

    /// Whether a regular file stands at `path` below the watch path, which no link leads to.
    pub fn has_file(&self, path: &Path) -> bool {
        matches!(self.shared.backing.is_regular(path), Ok(Some(true)))
    }

    /// Takes a registration up again that was forgotten with the state; one that is open has to wait for the next start,
    /// and then false is given back.
    ///
    /// # Errors
    /// See `RequestError`; `Taken` where the file is another client's, or has another owner than the one that was replicated.
    pub fn recall(
        &self,
        recalled: Recalled<'_>,
        is_open: impl FnOnce() -> bool,
    ) -> Result<bool, RequestError> {
        let Recalled { path, named, owner } = recalled;
        let _one = self.one_by_hand();
        let identity = self.rules().identity(&named);
        if let Some(known) = self.at_path(path).and_then(|db| db.client()) {
            if known.id != identity.id {
                let path = self.seen_at.join(path);
                return Err(taken(format!(
                    "{} is registered as {}",
                    path.display(),
                    known.label
                )));
            }
            if known.s3_prefix() != identity.s3_prefix {
                tracing::warn!(
                    client = %known.label,
                    s3_path = %format!("{}/", known.s3_prefix()),
                    before = %identity.s3_prefix,
                    "The store knows another place of this client, where it was replicated before the state was lost"
                );
            }
            return Ok(true);
        }
        let asked = self.wishes.get(path).map(|wish| wish.clone());
        if let Some(wish) = asked {
            return match wish.excluded || wish.named.is_none_or(|asked| asked == named) {
                true => Ok(true),
                false => Err(taken(format!(
                    "{} was registered otherwise since this start",
                    self.seen_at.join(path).display()
                ))),
            };
        }
        self.refuse_unusable(path)?;
        self.refuse_other_owner(path, owner)?;
        self.note_wish(path, |wish| wish.named = Some(named))?;
        match self.register_wished(path, is_open) {
            Ok(_) => Ok(true),
            Err(RequestError::Taken {
                code: FILE_OPEN, ..
            }) => Ok(false),
            Err(error) => {
                self.note_wish(path, |wish| wish.named = None)?;
                Err(error)
            }
        }
    }

    /// A file of another owner than the one that was replicated under this name is another file.
    fn refuse_other_owner(
        &self,
        path: &Path,
        owner: Option<Attributes>,
    ) -> Result<(), RequestError> {
        let seen = || self.seen_at.join(path).display().to_string();
        let present = self.shared.backing.attributes(path);
        let present = present.map_err(|error| RequestError::Invalid {
            code: "bad_path",
            message: format!("look at {}: {error}", seen()),
        })?;
        match (owner, present) {
            (Some(before), Some(now)) if before.uid != now.uid => Err(taken(format!(
                "{} belongs to uid {}, and the file that was replicated to uid {}",
                seen(),
                now.uid,
                before.uid
            ))),
            _ => Ok(()),
        }
    }

    /// Registers what was asked for. A file that is made or opened after that was noted is followed from its beginning, so
    /// that here it is only asked for one that was there and open before.
    fn register_wished(
        &self,
        path: &Path,
        is_open: impl FnOnce() -> bool,
    ) -> Result<Registered, RequestError> {
        let identity = self
            .identify(path)
            .ok_or_else(|| RequestError::Unavailable {
                code: "unregistered_meanwhile",
                message: "it was unregistered at the same time; try again".to_owned(),
            })?;
        if let Some(client) = self.at_path(path).and_then(|db| db.client())
            && client.id == identity.id
        {
            return Ok(Registered::New(client));
        }
        let exists = self.refuse_unusable(path)?;
        if exists && is_open() {
            return Err(RequestError::Taken {
                code: FILE_OPEN,
                message: format!(
                    "an application has {} open, whose writes are not seen until it opens the file again; let it close the file first",
                    self.seen_at.join(path).display()
                ),
            });
        }
        let client = match self.await_file(identity, path) {
            Registration::New(client) => client,
            Registration::Known(client) => return Ok(Registered::Known(client)),
            Registration::Taken(other) => {
                return Err(taken(format!("{} has this name already", other.display())));
            }
        };
        let progress = client.progress();
        if progress.status == Status::Refused {
            self.roster.unregister(&client.id, path);
            let reason = progress.last_error.unwrap_or_default();
            return Err(match reason.starts_with("prefix_taken") {
                true => taken(reason),
                false => RequestError::Limit {
                    code: "limit_reached",
                    message: reason,
                },
            });
        }
        if exists {
            let db = self.entry(path);
            self.register(path, &db);
            db.mark_dirty();
        }
        Ok(Registered::New(client))
    }

    /// Stops the replication of a client, as if its file were removed; it comes back by hand, or when its file is made anew.
    ///
    /// # Errors
    /// `Unavailable` where that can't be noted; then nothing has changed.
    pub fn exclude(&self, client: &Client) -> Result<(), RequestError> {
        let _one = self.one_by_hand();
        let path = &client.db_path;
        let asked = self.wishes.get(&**path).map(|wish| wish.clone());
        let wish = Wish {
            paused: false,
            excluded: true,
            ..asked.unwrap_or_default()
        };
        self.note_removed(path, Some(client), Some(&wish))
            .map_err(unavailable)?;
        self.wishes.insert(path.to_path_buf(), wish);
        self.take_out(path, Some(client));
        self.roster.waiting().tell_free(&client.id);
        Ok(())
    }

    /// Stops a client's uploads, or lets them go on.
    ///
    /// # Errors
    /// `Unavailable` where that can't be noted; then nothing has changed.
    pub fn set_paused(&self, client: &Client, paused: bool) -> Result<(), RequestError> {
        let _one = self.one_by_hand();
        self.note_wish(&client.db_path, |wish| wish.paused = paused)?;
        self.apply_pause(client);
        Ok(())
    }

    fn apply_pause(&self, client: &Client) {
        let asked = self
            .wishes
            .get(&*client.db_path)
            .is_some_and(|wish| wish.paused);
        let paused = asked || !client.policy().enabled;
        client.update(|progress| progress.paused = paused);
        if !paused && let Some(db) = self.at_path(&client.db_path) {
            db.look_soon();
            db.resume();
        }
    }

    /// Puts other rules in force: policies and limits at once; databases that are registered keep their names and places,
    /// and those that the rules take now are registered unless they are open. Returns what has to wait for the next start.
    ///
    /// # Errors
    /// `Walk`
    pub fn set_rules(
        &self,
        rules: Rules,
        is_open: impl Fn(&Path) -> bool,
    ) -> Result<Vec<AtNextStart>, StartError> {
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(rules);
        let mut waiting = Vec::new();
        let mut later = |path: &Path, reason| {
            waiting.push(AtNextStart {
                path: self.seen_at.join(path),
                reason,
            });
        };
        let clients = self.roster.all().into_iter();
        for client in clients.filter(|client| client.seen_at == self.seen_at) {
            match self.identify(&client.db_path) {
                Some(identity)
                    if identity.id == client.id
                        && identity.s3_prefix == client.s3_prefix()
                        && identity.location.as_ref() == client.location() =>
                {
                    client.set_policy(identity.policy);
                    self.apply_pause(&client);
                }
                Some(_) => later(&client.db_path, "its names or its place are others now"),
                None => later(&client.db_path, "no rule takes it any more"),
            }
        }
        let found = self.look_through()?;
        self.note_found(&found);
        for path in &found.databases {
            if self.at_path(path).and_then(|db| db.client()).is_some() {
                continue;
            }
            if is_open(path) {
                later(path, "an application has it open");
                continue;
            }
            self.take_in(path);
        }
        self.await_named(&|_| false);
        Ok(waiting)
    }

    /// What of removed databases is still in the store, the first that is due before the others.
    ///
    /// # Errors
    /// The state can't be read.
    pub fn removals(&self) -> Result<Vec<Removal>, StateError> {
        self.shared.state.removals()
    }

    /// Those of the same place that came before it.
    ///
    /// # Errors
    /// The state can't be read.
    pub fn earlier_removals(&self, removal: &Removal) -> Result<Vec<Removal>, StateError> {
        self.shared.state.earlier_removals(removal)
    }

    /// What has the place of a removed database at present.
    pub fn at_place_of(&self, removal: &Removal) -> AtPlace {
        let is_there = |client: &Client| {
            *client.id.tenant == *removal.tenant && client.s3_prefix() == removal.s3_prefix
        };
        // One that could not be forgotten has nothing left to store all the same.
        let leaving = self.leaving.iter().filter(|entry| entry.is_busy());
        let mut leaving = leaving.filter_map(|entry| entry.client());
        if leaving.any(|client| is_there(&client)) {
            return AtPlace::Leaving;
        }
        let mut present = self.databases.iter().filter_map(|entry| entry.client());
        match present.any(|client| is_there(&client)) {
            true => AtPlace::Client,
            false => AtPlace::Nobody,
        }
    }

    /// The store knows of a removal.
    ///
    /// # Errors
    /// The state can't be written.
    pub fn removal_noted(&self, removal: &Removal) -> Result<(), StateError> {
        self.shared.state.removal_noted(removal)
    }

    /// A removal that the store was not told of is none any more.
    ///
    /// # Errors
    /// The state can't be written.
    pub fn drop_removal(&self, removal: &Removal) -> Result<(), StateError> {
        self.shared.state.drop_removal(removal)
    }

    /// Nothing is to be done for a removal any more.
    ///
    /// # Errors
    /// The state can't be written.
    pub fn forget_removal(&self, removal: &Removal) -> Result<(), StateError> {
        self.shared.state.forget_removal(removal)
    }

    /// Waits until a database was removed.
    pub async fn removed(&self) {
        self.removed.notified().await;
    }

    fn note_wish(&self, path: &Path, change: impl FnOnce(&mut Wish)) -> Result<(), RequestError> {
        self.wish(path, change).map_err(unavailable)
    }

    fn one_by_hand(&self) -> MutexGuard<'_, ()> {
        self.by_hand.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unavailable(error: StateError) -> RequestError {
    RequestError::Unavailable {
        code: "state_unavailable",
        message: error.to_string(),
    }
}

fn taken(message: String) -> RequestError {
    RequestError::Taken {
        code: "taken",
        message,
    }
}
