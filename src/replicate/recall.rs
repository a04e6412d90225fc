//! What was registered by hand comes back from the store where the state was lost.

use std::path::PathBuf;
use std::sync::Arc;

use serde::Deserialize;
use tokio::io::AsyncReadExt;

use super::fleet::{Fleet, Ship};
use crate::format::keys::{GenerationId, ObjectKey};
use crate::restore::{ListedClient, RestoreError, list_clients, placed_clients};
use crate::store::{ObjectStore, StoreError};
use crate::tenant::discovery::Named;
use crate::tenant::policy::PolicyWritten;

/// Bytes; a description has a few names.
const MAX_DESCRIPTION: u64 = 64 << 10;

/// What a generation's `database.json` says, as far as it is needed.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Description {
    tenant_id: String,
    db_name: String,
    /// Below the watch path.
    path: PathBuf,
}

impl Fleet {
    /// Registers again what the registry names of those watch paths whose state is new. To be called until it succeeds.
    ///
    /// # Errors
    /// Those of the store of all tenants.
    pub async fn recall(&self) -> Result<(), RestoreError> {
        let new: Vec<&Ship> = self
            .ships()
            .iter()
            .filter(|ship| ship.capture.has_new_state())
            .collect();
        let Some(store) = self.shared_store().filter(|_| !new.is_empty()) else {
            return Ok(());
        };
        let placed = placed_clients(&*store).await?;
        if placed.is_empty() {
            return Ok(());
        }
        for client in list_clients(&store).await? {
            let is_registered = placed.iter().any(|one| one.s3_prefix == client.s3_prefix);
            let ship = new
                .iter()
                .find(|ship| ship.capture.present_rules().prefix() == client.prefix);
            if let Some(ship) = ship.filter(|_| is_registered && client.removed_at.is_none()) {
                recall_one(ship, &store, &client).await?;
            }
        }
        Ok(())
    }
}

async fn recall_one(
    ship: &Ship,
    store: &Arc<dyn ObjectStore>,
    client: &ListedClient,
) -> Result<(), StoreError> {
    let Some(description) = describe(store, &client.s3_prefix).await? else {
        return Ok(());
    };
    let named = Named {
        single: description.tenant_id == client.client,
        tenant: description.tenant_id,
        db_name: description.db_name,
        s3_prefix: Some(client.s3_prefix.clone()),
        policy: PolicyWritten::default(),
    };
    let path = description.path;
    match ship.capture.recall(&path, named, || (ship.is_open)(&path)) {
        Ok(true) => {}
        Ok(false) => tracing::warn!(
            client = %client.client,
            path = %path.display(),
            "A registration came back from the store while its file is open; it takes effect at the next start"
        ),
        Err(error) => tracing::warn!(
            client = %client.client,
            error = %error,
            "A registration that the store knows of can't be taken up again"
        ),
    }
    Ok(())
}

/// The newest generation's description; none where there is none that can be read.
async fn describe(
    store: &Arc<dyn ObjectStore>,
    s3_prefix: &str,
) -> Result<Option<Description>, StoreError> {
    let folder = format!("{s3_prefix}/snapshots/");
    let generations = store.list_folders(&folder).await?;
    let ids = generations
        .iter()
        .filter_map(|name| name.parse::<GenerationId>().ok());
    let Some(newest) = ids.max() else {
        return Ok(None);
    };
    let key = ObjectKey::Database(newest).below(s3_prefix);
    let object = match store.get(&key).await {
        Err(error) if error.is_not_found() => return Ok(None),
        other => other?,
    };
    let mut text = String::new();
    let read = object.take(MAX_DESCRIPTION).read_to_string(&mut text).await;
    read.map_err(|error| StoreError::Unavailable {
        key,
        reason: error.to_string(),
    })?;
    Ok(serde_json::from_str(&text).ok())
}
