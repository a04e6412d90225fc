//! What the store holds, from the store alone: clients, generations and moments.

use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, stream};
use serde::{Serialize, Serializer};

use super::RestoreError;
use super::replica::{ATTEMPTS, Moment, Replica};
use crate::clock::UnixMs;
use crate::format::keys::{GenerationId, RegistryKey};
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

/// Every client below `databases/`, and below that of every watch path's prefix that the registry names,
/// ordered by prefix and client.
pub async fn list_clients(store: &Arc<dyn ObjectStore>) -> Result<Vec<ListedClient>, RestoreError> {
    let registered = repeat(ATTEMPTS, || store.list(RegistryKey::WATCH_PATHS)).await?;
    let mut prefixes = vec![String::new()];
    prefixes.extend(registered.iter().filter_map(|object| {
        let RegistryKey::WatchPath(prefix) = RegistryKey::parse(&object.key)?;
        Some(prefix)
    }));
    let mut clients = Vec::new();
    for prefix in prefixes {
        clients.extend(clients_below(store, &prefix).await?);
    }
    clients.sort_by(|a, b| (&a.prefix, &a.client).cmp(&(&b.prefix, &b.client)));
    Ok(clients)
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
