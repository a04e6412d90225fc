//! The clients that are known to this instance, who counts against which limit, and the files that are none of ours.

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashMap};
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;

pub use super::client::Client;
use super::events::{EventKind, Events};
use super::ids::{ClientId, Identity};
use super::places::Places;
pub use super::progress::{Progress, Status};
pub use super::waiting::{Awaits, WaitingFile, WaitingFiles};

/// Files that are shown as ignored, at most; further ones are only logged.
const MAX_IGNORED: usize = 10_000;

/// All registered clients, by their identity.
#[derive(Debug)]
pub struct Roster {
    clients: DashMap<Known, ()>,
    census: Mutex<Census>,
    /// Files that look like databases and are none of ours, by the path that applications see.
    ignored: Mutex<BTreeMap<PathBuf, Ignored>>,
    waiting: WaitingFiles,
    events: Events,
}

/// A file that is none of ours, and is, or was, there.
#[derive(Debug)]
struct Ignored {
    reason: &'static str,
    is_there: bool,
}

/// Who counts against which limit, and who has which place in the stores. Refused clients are not in it.
#[derive(Debug)]
struct Census {
    /// `limits.maxTenantsPerInstance`
    max_tenants: usize,
    /// Databases of each tenant.
    tenants: HashMap<Tenant, usize>,
    places: Places<Arc<Client>>,
    /// Clients that were not admitted.
    refused: BTreeMap<ClientId, Arc<Client>>,
}

/// A client under its identity, which is kept in it alone.
#[derive(Debug)]
struct Known(Arc<Client>);

impl Borrow<ClientId> for Known {
    fn borrow(&self) -> &ClientId {
        &self.0.id
    }
}

impl Hash for Known {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.id.hash(state);
    }
}

impl PartialEq for Known {
    fn eq(&self, other: &Self) -> bool {
        self.0.id == other.0.id
    }
}

impl Eq for Known {}

/// A tenant below watch paths of one prefix, for which the first of its clients stands.
#[derive(Debug)]
struct Tenant(Arc<Client>);

impl Tenant {
    fn names(&self) -> (&str, &str) {
        (&self.0.id.prefix, &self.0.id.tenant)
    }
}

impl Hash for Tenant {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.names().hash(state);
    }
}

impl PartialEq for Tenant {
    fn eq(&self, other: &Self) -> bool {
        self.names() == other.names()
    }
}

impl Eq for Tenant {}

/// What came of a registration.
#[derive(Debug)]
pub enum Registration {
    New(Arc<Client>),
    /// The same identity was registered before with the same file.
    Known(Arc<Client>),
    /// The identity belongs to another file, which is named as applications see it.
    Taken(PathBuf),
}

impl Roster {
    pub fn new(max_tenants: usize) -> Self {
        Self {
            clients: DashMap::new(),
            census: Mutex::new(Census {
                max_tenants,
                tenants: HashMap::new(),
                places: Places::default(),
                refused: BTreeMap::new(),
            }),
            ignored: Mutex::default(),
            waiting: WaitingFiles::default(),
            events: Events::default(),
        }
    }

    /// Files whose identity another one has.
    pub fn waiting(&self) -> &WaitingFiles {
        &self.waiting
    }

    /// What happens to all of them.
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// Adds a client. Past a limit, or without a place in a store, it is added with the status `refused`, so that it can
    /// be seen.
    pub fn register(
        &self,
        identity: Identity,
        db_path: Arc<Path>,
        seen_at: &Arc<Path>,
    ) -> Registration {
        let client = Client::new(identity, db_path.clone(), seen_at.clone());
        let client = Arc::new(client.heard_by(self.events.clone()));
        match self.clients.entry(Known(client.clone())) {
            Entry::Occupied(known) => {
                let Known(client) = known.key();
                if client.db_path == db_path && client.seen_at == *seen_at {
                    return Registration::Known(client.clone());
                }
                Registration::Taken(client.seen_path())
            }
            Entry::Vacant(vacant) => {
                let mut census = self.census();
                if let Err(reason) = census.admit(&client) {
                    refuse(&client, reason);
                    census.refused.insert(client.id.clone(), client.clone());
                }
                drop(census);
                vacant.insert(());
                self.events
                    .tell(EventKind::Registered, &client.id, &client.label);
                Registration::New(client)
            }
        }
    }

    /// Takes a client out; none if it was not registered with this file.
    pub fn unregister(&self, id: &ClientId, db_path: &Path) -> Option<Arc<Client>> {
        let (Known(client), ()) = self
            .clients
            .remove_if(id, |Known(client), ()| *client.db_path == *db_path)?;
        let mut census = self.census();
        if census.refused.remove(id).is_none() {
            census.dismiss(&client);
        }
        drop(census);
        self.events.tell(EventKind::Unregistered, id, &client.label);
        Some(client)
    }

    /// Admits those refused clients that there is room for by now; `max_tenants` is that limit where it has changed.
    pub fn readmit(&self, max_tenants: Option<usize>) {
        let mut admitted = Vec::new();
        {
            let mut census = self.census();
            census.max_tenants = max_tenants.unwrap_or(census.max_tenants);
            for (id, client) in std::mem::take(&mut census.refused) {
                match census.admit(&client) {
                    Ok(()) => admitted.push(client),
                    Err(reason) => {
                        refuse(&client, reason);
                        census.refused.insert(id, client);
                    }
                }
            }
        }
        for client in admitted {
            client.admit();
        }
    }

    pub fn get(&self, id: &ClientId) -> Option<Arc<Client>> {
        self.clients.get(id).map(|entry| entry.key().0.clone())
    }

    /// Every client, ordered by identity.
    pub fn all(&self) -> Vec<Arc<Client>> {
        let mut clients: Vec<_> = self
            .clients
            .iter()
            .map(|entry| entry.key().0.clone())
            .collect();
        clients.sort_by(|a, b| a.id.cmp(&b.id));
        clients
    }

    pub fn len(&self) -> usize {
        self.clients.len()
    }

    pub fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    /// A file looks like a database and is none of ours. True where that is new: a file that comes and goes is told once.
    pub fn ignore(&self, seen_path: PathBuf, reason: &'static str) -> bool {
        let mut ignored = self.lock_ignored();
        if let Some(known) = ignored.get_mut(&seen_path) {
            *known = Ignored {
                reason,
                is_there: true,
            };
            return false;
        }
        if ignored.len() >= MAX_IGNORED {
            let gone = ignored.iter().find(|(_, file)| !file.is_there);
            let Some(gone) = gone.map(|(path, _)| path.clone()) else {
                return false;
            };
            ignored.remove(&gone);
        }
        ignored.insert(
            seen_path,
            Ignored {
                reason,
                is_there: true,
            },
        );
        true
    }

    /// The file has gone, or has become a client's.
    pub fn no_longer_ignored(&self, seen_path: &Path) {
        if let Some(known) = self.lock_ignored().get_mut(seen_path) {
            known.is_there = false;
        }
    }

    /// Files that are ignored, as applications see them, with the reason.
    pub fn ignored(&self) -> Vec<(PathBuf, &'static str)> {
        let ignored = self.lock_ignored();
        let present = ignored.iter().filter(|(_, file)| file.is_there);
        present
            .map(|(path, file)| (path.clone(), file.reason))
            .collect()
    }

    fn lock_ignored(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Ignored>> {
        self.ignored.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn census(&self) -> MutexGuard<'_, Census> {
        self.census.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn refuse(client: &Client, reason: String) {
    client.update(|progress| {
        progress.status = Status::Refused;
        progress.last_error = Some(reason);
    });
}

impl Census {
    /// Counts a client, and takes its place; the error is a code and a sentence.
    fn admit(&mut self, client: &Arc<Client>) -> Result<(), String> {
        let Some(location) = client.location() else {
            return Err(format!(
                "no_store: tenant {} has no store of its own, and there is none for all; set `bucket`",
                client.id.tenant
            ));
        };
        let tenant = Tenant(client.clone());
        let databases = self.tenants.get(&tenant).copied().unwrap_or(0);
        if databases == 0 && self.tenants.len() >= self.max_tenants {
            return Err(format!(
                "too_many_tenants: limits.maxTenantsPerInstance is {}",
                self.max_tenants
            ));
        }
        let most = client.policy().limits.max_databases;
        if databases >= most {
            return Err(format!(
                "too_many_databases: limits.maxDatabasesPerTenant is {most}"
            ));
        }
        if let Err(other) = self.places.take(location, client.clone()) {
            return Err(format!(
                "prefix_taken: its objects would lie at {}, where those of {} are",
                client.s3_prefix(),
                other.seen_path().display()
            ));
        }
        self.tenants.insert(tenant, databases + 1);
        Ok(())
    }

    fn dismiss(&mut self, client: &Arc<Client>) {
        if let Some(location) = client.location() {
            self.places.leave(location);
        }
        let tenant = Tenant(client.clone());
        match self.tenants.get_mut(&tenant) {
            Some(databases) if *databases > 1 => *databases -= 1,
            _ => {
                self.tenants.remove(&tenant);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tenant::discovery::Named;
    use crate::tenant::terms::Terms;

    fn identity(tenant: &str, db_name: &str) -> Identity {
        let terms = Terms {
            store: Some("s3://b".to_owned()),
            ..Terms::default()
        };
        let named = Named {
            db_name: db_name.to_owned(),
            single: tenant == db_name,
            ..Named::single(tenant)
        };
        terms.identity("", &named)
    }

    fn add(roster: &Roster, tenant: &str, db_name: &str) -> Arc<Client> {
        let path = format!("{tenant}/{db_name}.db");
        match roster.register(
            identity(tenant, db_name),
            Path::new(&path).into(),
            &seen_at(),
        ) {
            Registration::New(client) => client,
            other => panic!("{other:?}"),
        }
    }

    fn seen_at() -> Arc<Path> {
        Path::new("/data").into()
    }

    fn refusal(client: &Client) -> String {
        let progress = client.progress();
        assert_eq!(progress.status, Status::Refused);
        progress.last_error.expect("a reason")
    }

    #[test]
    fn past_a_limit_a_client_is_refused_and_visible_and_admitted_when_there_is_room() {
        let roster = Roster::new(1);
        let first = add(&roster, "a", "a");
        let second = add(&roster, "b", "b");
        assert!(refusal(&second).starts_with("too_many_tenants: "));
        assert_eq!(roster.len(), 2);
        roster.readmit(None);
        assert!(refusal(&second).starts_with("too_many_tenants: "));
        let (told, admissions) = std::sync::mpsc::channel();
        second.when_admitted(move |client| told.send(client.id.clone()).expect("heard"));
        roster.unregister(&first.id, &first.db_path).expect("there");
        assert!(admissions.try_recv().is_err(), "not yet");
        roster.readmit(None);
        assert_eq!(admissions.try_recv(), Ok(second.id.clone()));
        assert_eq!(second.progress().status, Status::Active);
        let third = add(&roster, "c", "c");
        roster.readmit(Some(2));
        assert_eq!(third.progress().last_error, None, "a limit that was raised");
        let (told, admissions) = std::sync::mpsc::channel();
        third.when_admitted(move |_| told.send(()).expect("heard"));
        assert_eq!(admissions.try_recv(), Ok(()), "it is admitted already");
    }

    #[test]
    fn one_that_was_refused_gives_no_place_away_whatever_it_is_shown_as() {
        let roster = Roster::new(10);
        add(&roster, "acme", "orders");
        let around = add(&roster, "acme", "acme");
        around.update(|progress| progress.status = Status::Failing);
        roster
            .unregister(&around.id, &around.db_path)
            .expect("there");
        let again = add(&roster, "acme", "acme");
        assert!(refusal(&again).contains("/data/acme/orders.db"));
    }

    #[test]
    fn a_tenant_has_so_many_databases_and_counts_once() {
        let roster = Roster::new(1);
        for n in 0..20 {
            let client = add(&roster, "acme", &format!("db{n}"));
            assert_eq!(client.progress().status, Status::Active);
        }
        let over = add(&roster, "acme", "db20");
        assert!(refusal(&over).starts_with("too_many_databases: "));
    }

    #[test]
    fn no_place_is_shared_and_each_has_a_store() {
        let roster = Roster::new(10);
        add(&roster, "acme", "orders");
        let around = add(&roster, "acme", "acme");
        assert!(refusal(&around).contains("/data/acme/orders.db"));
        let mut homeless = identity("x", "x");
        homeless.location = None;
        match roster.register(homeless, Path::new("x.db").into(), &seen_at()) {
            Registration::New(client) => assert!(refusal(&client).starts_with("no_store: ")),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn one_identity_belongs_to_one_file() {
        let roster = Roster::new(10);
        let client = add(&roster, "x", "x");
        let again =
            |path: &str| roster.register(identity("x", "x"), Path::new(path).into(), &seen_at());
        assert!(matches!(again("x/x.db"), Registration::Known(_)));
        assert!(matches!(
            again("b/x.db"),
            Registration::Taken(path) if path == Path::new("/data/x/x.db")
        ));
        assert!(roster.unregister(&client.id, Path::new("b/x.db")).is_none());
        assert!(roster.unregister(&client.id, Path::new("x/x.db")).is_some());
    }

    #[test]
    fn what_happens_to_a_client_is_told() {
        let roster = Roster::new(10);
        let mut listener = roster.events().listen();
        let client = add(&roster, "a", "a");
        // What an earlier run had stored is no news.
        client.update(|progress| progress.replicated_txid = 5);
        client.update(|progress| progress.sync_errors += 1);
        client.update(|progress| progress.last_sync_at = Some(1));
        client.update(|progress| progress.oldest_pending_at = Some(0));
        client.update(|progress| {
            progress.replicated_txid = 6;
            progress.oldest_pending_at = None;
        });
        client.update(|progress| progress.status = Status::Failing);
        client.update(|progress| progress.status = Status::Failing);
        roster.unregister(&client.id, &client.db_path);
        let mut told = Vec::new();
        let mut waited = Vec::new();
        while let Ok(event) = listener.try_recv() {
            assert_eq!((event.id, event.label.as_str()), (client.id.clone(), "a"));
            told.push(event.kind.as_str());
            if let EventKind::Synced { waited_ms } = event.kind {
                waited.push(waited_ms > 0);
            }
        }
        assert_eq!(
            told,
            [
                "registered",
                "failed",
                "synced",
                "synced",
                "failed",
                "unregistered"
            ]
        );
        assert_eq!(waited, [false, true]);
    }

    #[test]
    fn ignored_files_are_told_once_and_bounded() {
        let roster = Roster::new(1);
        assert!(roster.ignore("/data/a.db".into(), "no rule"));
        roster.no_longer_ignored(Path::new("/data/a.db"));
        assert!(roster.ignored().is_empty());
        assert!(
            !roster.ignore("/data/a.db".into(), "no rule"),
            "told before"
        );
        assert_eq!(roster.ignored().len(), 1);
        roster.no_longer_ignored(Path::new("/data/a.db"));
        for n in 0..MAX_IGNORED {
            assert!(roster.ignore(format!("/data/{n}.db").into(), "no rule"));
        }
        assert!(!roster.ignore("/data/a.db".into(), "no rule"), "no room");
        assert_eq!(roster.ignored().len(), MAX_IGNORED);
    }
}
