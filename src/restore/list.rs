//! What the stores hold, from the stores alone: clients, generations and moments.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, stream};
use serde::{Serialize, Serializer};

use super::RestoreError;
use super::replica::{ATTEMPTS, Moment, Replica};
use crate::clock::UnixMs;
use crate::format::keys::{GenerationId, ObjectKey};
use crate::format::registry::RegistryKey;
use crate::store::retry::repeat;
use crate::store::stores::Stores;
use crate::store::{ObjectStore, StoreError};
use crate::tenant::ids::{full_label, tenant_of_label};

/// Requests in flight at once.
const AT_ONCE: usize = 50;

/// A client that has objects in a store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListedClient {
    /// The GUID, or `tenant/dbName`.
    pub client: String,
    /// The watch path's prefix; empty where it has none.
    pub prefix: String,
    /// Where its objects lie, without a slash at either end.
    pub s3_prefix: String,
    /// They lie in its tenant's own bucket, and not in the store of all.
    pub elsewhere: bool,
    /// None while it is not removed.
    pub removed: Option<Removed>,
}

/// When a database was removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Removed {
    /// By the clock of its instance.
    pub at: UnixMs,
    /// By the store's clock, which was told of it then.
    pub told: UnixMs,
}

impl ListedClient {
    pub fn tenant(&self) -> &str {
        tenant_of_label(&self.client)
    }

    /// `PREFIX/` before its label where there is a prefix.
    pub fn name(&self) -> String {
        full_label(&self.prefix, &self.client)
    }

    /// The store that has its objects; none where it can't be reached.
    pub fn store(&self, stores: &Stores) -> Option<Arc<dyn ObjectStore>> {
        stores.at(self.tenant(), self.elsewhere)
    }

    /// Its place as the registry tells of removals.
    pub fn registered_place(&self, stores: &Stores) -> String {
        match self.elsewhere {
            true => stores.registered_place(self.tenant(), &self.s3_prefix),
            false => self.s3_prefix.clone(),
        }
    }

    /// Whether both lie at one place.
    pub fn lies_with(&self, other: &Self) -> bool {
        let same_store = self.elsewhere == other.elsewhere
            && (!self.elsewhere || self.tenant() == other.tenant());
        same_store && self.s3_prefix == other.s3_prefix
    }
}

/// Where a configuration says that replicas lie, whether or not the registry tells of them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Expected {
    /// One database.
    Client(ListedClient),
    /// Those of a tenant: each in a folder, or one that goes by the tenant's name in this folder itself.
    Folder {
        tenant: String,
        /// The watch path's.
        prefix: String,
        folder: String,
        elsewhere: bool,
    },
}

/// What there is in all stores that can be reached.
#[derive(Debug, Default)]
pub struct Listing {
    /// Ordered by prefix and client.
    pub clients: Vec<ListedClient>,
    /// Clients whose tenants have buckets that nothing here reaches, each with `PREFIX/` before it where it has one.
    pub elsewhere: Vec<String>,
    /// What could not be asked for: a tenant or client, a colon, and why.
    pub failed: Vec<String>,
}

/// A generation and the states in it that can be restored.
#[derive(Serialize, Clone, PartialEq, Eq, Debug)]
pub struct ListedGeneration {
    #[serde(serialize_with = "as_text")]
    pub id: GenerationId,
    /// Ascending.
    pub moments: Vec<Moment>,
}

fn as_text<S: Serializer>(id: &GenerationId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(id)
}

/// Every client below `databases/` of the store of all, and below that of every watch path's prefix that its registry
/// names, and at each place that it names, and in tenants' own stores also what is expected there.
///
/// # Errors
/// Those of the store of all. Where a tenant's own does not answer, that is in the listing.
pub async fn list_clients(stores: &Stores, expected: &[Expected]) -> Result<Listing, RestoreError> {
    let mut listing = Listing::default();
    let mut candidates = Vec::new();
    if let Some(shared) = stores.shared() {
        let mut prefixes = vec![String::new()];
        for (key, _) in registry(&**shared, RegistryKey::WATCH_PATHS).await? {
            if let RegistryKey::WatchPath(prefix) = key {
                prefixes.push(prefix);
            }
        }
        for prefix in prefixes {
            listing
                .clients
                .extend(clients_below(shared, &prefix).await?);
        }
        candidates = placed_clients(stores).await?;
    }
    let (mut reached, mut refused) = (HashSet::new(), Vec::new());
    for one in expected {
        match one {
            Expected::Client(client) => candidates.push(client.clone()),
            Expected::Folder { tenant, .. } => match expected_in(stores, one).await {
                Ok(found) => {
                    reached.insert(tenant);
                    candidates.extend(found);
                }
                // Keys may be for one watch path's folder alone.
                Err(error @ StoreError::Denied { .. }) => refused.push((tenant, error)),
                Err(error) => listing.failed.push(format!("tenant {tenant}: {error}")),
            },
        }
    }
    for (tenant, error) in refused {
        if reached.insert(tenant) {
            listing.failed.push(format!("tenant {tenant}: {error}"));
        }
    }
    for candidate in candidates {
        listing.add(stores, candidate).await?;
    }
    listing.note_removals(stores).await?;
    listing
        .clients
        .sort_by(|a, b| (&a.prefix, &a.client).cmp(&(&b.prefix, &b.client)));
    Ok(listing)
}

impl Listing {
    /// Adds a client if anything is at its place.
    async fn add(&mut self, stores: &Stores, candidate: ListedClient) -> Result<(), StoreError> {
        if self.clients.iter().any(|known| known.lies_with(&candidate)) {
            return Ok(());
        }
        let Some(store) = candidate.store(stores) else {
            let name = candidate.name();
            if !self.elsewhere.contains(&name) {
                self.elsewhere.push(name);
            }
            return Ok(());
        };
        match folders(&store, format!("{}/", candidate.s3_prefix)).await {
            Ok(found) if found.is_empty() => {}
            Ok(_) => self.clients.push(candidate),
            Err(error) if stores.has_own(candidate.tenant()) => {
                self.failed.push(format!("{}: {error}", candidate.name()));
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// A client is removed where its newest removal is noted and no generation has begun since.
    async fn note_removals(&mut self, stores: &Stores) -> Result<(), StoreError> {
        let Some(shared) = stores.shared() else {
            return Ok(());
        };
        let removals = removals(&**shared).await?;
        for client in &mut self.clients {
            let place = client.registered_place(stores);
            let Some(&removed) = removals.get(&place) else {
                continue;
            };
            let Some(store) = client.store(stores) else {
                continue;
            };
            match begun_since(&*store, &client.s3_prefix, removed).await {
                Ok(begun) => client.removed = Some(removed).filter(|_| !begun),
                Err(error) if stores.has_own(client.tenant()) => {
                    self.failed.push(format!("{}: {error}", client.name()));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// What lies in a folder of a tenant.
async fn expected_in(stores: &Stores, one: &Expected) -> Result<Vec<ListedClient>, StoreError> {
    let Expected::Folder {
        tenant,
        prefix,
        folder,
        elsewhere,
    } = one
    else {
        return Ok(Vec::new());
    };
    let Some(store) = stores.at(tenant, *elsewhere) else {
        return Ok(Vec::new());
    };
    let client = |client: String, s3_prefix: String| ListedClient {
        client,
        prefix: prefix.clone(),
        s3_prefix,
        elsewhere: *elsewhere,
        removed: None,
    };
    let below = folders(&store, format!("{folder}/")).await?;
    if holds_a_replica(&below) {
        return Ok(vec![client(tenant.clone(), folder.clone())]);
    }
    let named = below.into_iter().map(|name| {
        let s3_prefix = format!("{folder}/{name}");
        match name == *tenant {
            true => client(name, s3_prefix),
            false => client(format!("{tenant}/{name}"), s3_prefix),
        }
    });
    Ok(named.collect())
}

/// Clients whose place was configured, or lies in a bucket of their tenant, as the registry names them; whether anything is
/// there or not.
pub async fn placed_clients(stores: &Stores) -> Result<Vec<ListedClient>, StoreError> {
    let Some(shared) = stores.shared() else {
        return Ok(Vec::new());
    };
    let mut keys = registry(&**shared, RegistryKey::PLACED).await?;
    keys.extend(registry(&**shared, RegistryKey::ELSEWHERE).await?);
    let clients = keys.into_iter().filter_map(|(key, _)| {
        let elsewhere = matches!(key, RegistryKey::Elsewhere { .. });
        match key {
            RegistryKey::Placed {
                prefix,
                label,
                s3_prefix,
            }
            | RegistryKey::Elsewhere {
                prefix,
                label,
                s3_prefix,
            } => Some(ListedClient {
                client: label,
                prefix,
                s3_prefix,
                elsewhere,
                removed: None,
            }),
            RegistryKey::WatchPath(_) | RegistryKey::Removed { .. } | RegistryKey::Held { .. } => {
                None
            }
        }
    });
    Ok(clients.collect())
}

/// The registry's keys that begin so, each with the time at which it was stored.
async fn registry(
    store: &dyn ObjectStore,
    below: &str,
) -> Result<Vec<(RegistryKey, UnixMs)>, StoreError> {
    let listed = repeat(ATTEMPTS, || store.list(below)).await?;
    let keys = listed.iter();
    Ok(keys
        .filter_map(|object| Some((RegistryKey::parse(&object.key)?, object.modified_ms)))
        .collect())
}

/// The newest removal of each place that the registry tells of.
async fn removals(shared: &dyn ObjectStore) -> Result<HashMap<String, Removed>, StoreError> {
    let mut removals: HashMap<String, Removed> = HashMap::new();
    for (key, told) in registry(shared, RegistryKey::REMOVED).await? {
        if let RegistryKey::Removed { place, at_ms } = key {
            let newest = removals.entry(place).or_insert(Removed { at: at_ms, told });
            newest.at = newest.at.max(at_ms);
            newest.told = newest.told.max(told);
        }
    }
    Ok(removals)
}

/// Whether a generation of the replica has begun after the removal: by its name, or, as two instances' clocks may differ,
/// by the time at which its first object was stored.
///
/// # Errors
/// Those of the listing.
pub async fn begun_since(
    store: &dyn ObjectStore,
    s3_prefix: &str,
    removed: Removed,
) -> Result<bool, StoreError> {
    let below = format!("{s3_prefix}/snapshots/");
    let listed = repeat(ATTEMPTS, || store.list(&below)).await?;
    let mut begun: HashMap<GenerationId, UnixMs> = HashMap::new();
    for object in &listed {
        if let Some(key) = ObjectKey::parse(s3_prefix, &object.key) {
            let first = begun.entry(key.generation()).or_insert(UnixMs::MAX);
            *first = object.modified_ms.min(*first);
        }
    }
    let mut begun = begun.into_iter();
    Ok(begun.any(|(id, stored)| id.started_ms() > removed.at || stored > removed.told))
}

/// Every generation of a replica, oldest first. Of each object's bytes only the header is read.
///
/// # Errors
/// `UnknownReplica`; `Damaged` for an object whose header can't be read.
pub async fn list_moments(
    store: &Arc<dyn ObjectStore>,
    replica_prefix: &str,
) -> Result<Vec<ListedGeneration>, RestoreError> {
    let replica = Replica::load(store, replica_prefix, None).await?;
    let mut generations = Vec::new();
    for id in replica.index.generations() {
        let states = replica.generation(id)?.restorable();
        let moments = stream::iter(states)
            .map(|seq| replica.moment(id, seq))
            .buffered(AT_ONCE)
            .try_collect()
            .await?;
        generations.push(ListedGeneration { id, moments });
    }
    Ok(generations)
}

/// The newest state of a replica's newest generation but for `own`; none where there is none.
///
/// # Errors
/// `Damaged` for an object whose header can't be read.
pub async fn newest_moment_before(
    store: &Arc<dyn ObjectStore>,
    replica_prefix: &str,
    own: GenerationId,
) -> Result<Option<Moment>, RestoreError> {
    let replica = match Replica::load(store, replica_prefix, None).await {
        Err(RestoreError::UnknownReplica { .. }) => return Ok(None),
        other => other?,
    };
    let Some(id) = replica.index.generations().rev().find(|id| *id != own) else {
        return Ok(None);
    };
    let newest = replica.generation(id)?.newest().unwrap_or(0);
    replica.moment(id, newest).await.map(Some)
}

async fn clients_below(
    store: &Arc<dyn ObjectStore>,
    prefix: &str,
) -> Result<Vec<ListedClient>, StoreError> {
    let root = match prefix {
        "" => "databases/".to_owned(),
        prefix => format!("{prefix}/databases/"),
    };
    let root = root.as_str();
    let names = folders(store, root.to_owned()).await?;
    let clients: Vec<Vec<String>> = stream::iter(names)
        .map(|name| async move {
            let below = folders(store, format!("{root}{name}/")).await?;
            if holds_a_replica(&below) {
                return Ok(vec![name]);
            }
            let databases = below.iter().map(|db_name| format!("{name}/{db_name}"));
            Ok::<_, StoreError>(databases.collect())
        })
        .buffered(AT_ONCE)
        .try_collect()
        .await?;
    Ok(clients
        .into_iter()
        .flatten()
        .map(|client| ListedClient {
            s3_prefix: format!("{root}{client}"),
            client,
            prefix: prefix.to_owned(),
            elsewhere: false,
            removed: None,
        })
        .collect())
}

/// A replica has these folders; a tenant has databases' names.
fn holds_a_replica(folders: &[String]) -> bool {
    folders
        .iter()
        .any(|folder| folder == "snapshots" || folder == "wal")
}

async fn folders(store: &Arc<dyn ObjectStore>, prefix: String) -> Result<Vec<String>, StoreError> {
    repeat(ATTEMPTS, || store.list_folders(&prefix)).await
}
