//! What the store holds, from the store alone: clients, generations and moments.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, stream};
use serde::{Serialize, Serializer};

use super::RestoreError;
use super::replica::{ATTEMPTS, Moment, Replica};
use crate::clock::UnixMs;
use crate::format::keys::GenerationId;
use crate::format::registry::RegistryKey;
use crate::store::retry::repeat;
use crate::store::{ObjectStore, StoreError};

/// Requests in flight at once.
const AT_ONCE: usize = 50;

/// A client that has objects in the store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListedClient {
    /// The GUID, or `tenant/dbName`.
    pub client: String,
    /// The watch path's prefix; empty where it has none.
    pub prefix: String,
    /// Where its objects lie, without a slash at either end.
    pub s3_prefix: String,
    /// When it was removed; none while it is not.
    pub removed_at: Option<UnixMs>,
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

/// Every client below `databases/`, and below that of every watch path's prefix that the registry names, and at each
/// place that it names; ordered by prefix and client.
pub async fn list_clients(store: &Arc<dyn ObjectStore>) -> Result<Vec<ListedClient>, RestoreError> {
    let mut prefixes = vec![String::new()];
    for key in registry(&**store, RegistryKey::WATCH_PATHS).await? {
        if let RegistryKey::WatchPath(prefix) = key {
            prefixes.push(prefix);
        }
    }
    let mut clients = Vec::new();
    for prefix in prefixes {
        clients.extend(clients_below(store, &prefix).await?);
    }
    for placed in placed_clients(&**store).await? {
        let is_there = folders(store, format!("{}/", placed.s3_prefix)).await?;
        if !is_there.is_empty()
            && clients
                .iter()
                .all(|known| known.s3_prefix != placed.s3_prefix)
        {
            clients.push(placed);
        }
    }
    note_removals(store, &mut clients).await?;
    clients.sort_by(|a, b| (&a.prefix, &a.client).cmp(&(&b.prefix, &b.client)));
    Ok(clients)
}

/// Clients whose place in the store was configured, whether anything is there or not.
pub async fn placed_clients(store: &dyn ObjectStore) -> Result<Vec<ListedClient>, StoreError> {
    let keys = registry(store, RegistryKey::PLACED).await?.into_iter();
    let clients = keys.filter_map(|key| match key {
        RegistryKey::Placed {
            prefix,
            label,
            s3_prefix,
        } => Some(ListedClient {
            client: label,
            prefix,
            s3_prefix,
            removed_at: None,
        }),
        _ => None,
    });
    Ok(clients.collect())
}

/// Clients whose tenants have buckets of their own, each with `PREFIX/` before it where it has one: their replicas are
/// not in this store.
pub async fn clients_elsewhere(store: &dyn ObjectStore) -> Result<Vec<String>, StoreError> {
    let keys = registry(store, RegistryKey::ELSEWHERE).await?.into_iter();
    let names = keys.filter_map(|key| match key {
        RegistryKey::Elsewhere { prefix, label } if prefix.is_empty() => Some(label),
        RegistryKey::Elsewhere { prefix, label } => Some(format!("{prefix}/{label}")),
        _ => None,
    });
    Ok(names.collect())
}

async fn registry(store: &dyn ObjectStore, below: &str) -> Result<Vec<RegistryKey>, StoreError> {
    let listed = repeat(ATTEMPTS, || store.list(below)).await?;
    let keys = listed.iter();
    Ok(keys
        .filter_map(|object| RegistryKey::parse(&object.key))
        .collect())
}

/// A client is removed where its newest removal is noted and no generation has begun since.
async fn note_removals(
    store: &Arc<dyn ObjectStore>,
    clients: &mut [ListedClient],
) -> Result<(), StoreError> {
    let mut removals: HashMap<String, UnixMs> = HashMap::new();
    for key in registry(&**store, RegistryKey::REMOVED).await? {
        if let RegistryKey::Removed { s3_prefix, at_ms } = key {
            let newest = removals.entry(s3_prefix).or_insert(at_ms);
            *newest = at_ms.max(*newest);
        }
    }
    for client in clients {
        if let Some(&at) = removals.get(&client.s3_prefix)
            && !begun_since(&**store, &client.s3_prefix, at).await?
        {
            client.removed_at = Some(at);
        }
    }
    Ok(())
}

/// Whether a generation of the replica has begun after `at`.
///
/// # Errors
/// Those of the listing.
pub async fn begun_since(
    store: &dyn ObjectStore,
    s3_prefix: &str,
    at: UnixMs,
) -> Result<bool, StoreError> {
    let folder = format!("{s3_prefix}/snapshots/");
    let generations = repeat(ATTEMPTS, || store.list_folders(&folder)).await?;
    let mut ids = generations
        .iter()
        .filter_map(|name| name.parse::<GenerationId>().ok());
    Ok(ids.any(|id| id.started_ms() > at))
}

/// Every generation of a replica, oldest first. Of each object's bytes only the header is read.
///
/// # Errors
/// `UnknownReplica`; `Damaged` for an object whose header can't be read.
pub async fn list_moments(
    store: &Arc<dyn ObjectStore>,
    replica_prefix: &str,
) -> Result<Vec<ListedGeneration>, RestoreError> {
    let replica = Replica::load(store, replica_prefix).await?;
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
    let replica = match Replica::load(store, replica_prefix).await {
        Err(RestoreError::UnknownReplica { .. }) => return Ok(None),
        other => other?,
    };
    let Some(id) = replica.index.generations().rev().find(|id| *id != own) else {
        return Ok(None);
    };
    let newest = replica.generation(id)?.newest();
    let newest = newest.expect("BUG: a generation in the index has objects");
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
            // A replica has these folders; a tenant has databases' names.
            if below
                .iter()
                .any(|folder| folder == "snapshots" || folder == "wal")
            {
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
            removed_at: None,
        })
        .collect())
}

async fn folders(store: &Arc<dyn ObjectStore>, prefix: String) -> Result<Vec<String>, StoreError> {
    repeat(ATTEMPTS, || store.list_folders(&prefix)).await
}
