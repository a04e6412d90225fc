//! What was registered by hand comes back from the store where the state was lost.

use std::sync::Arc;

use super::fleet::{Fleet, Ship};
use crate::format::description::Description;
use crate::format::keys::GenerationId;
use crate::restore::{ListedClient, RestoreError, describe, is_of, list_clients, placed_clients};
use crate::store::{ObjectStore, StoreError};
use crate::tenant::discovery::Named;
use crate::tenant::policy::PolicyWritten;

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
        let stores = self.stores();
        if new.is_empty() {
            return Ok(());
        }
        let placed = placed_clients(stores).await?;
        if placed.is_empty() {
            return Ok(());
        }
        for client in list_clients(stores, &[]).await?.clients {
            let is_registered = placed.iter().any(|one| one.s3_prefix == client.s3_prefix);
            let ship = new
                .iter()
                .find(|ship| ship.capture.present_rules().prefix() == client.prefix);
            let Some(store) = client.store(stores) else {
                continue;
            };
            if let Some(ship) = ship.filter(|_| is_registered && client.removed.is_none()) {
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
    let Some(description) = newest_description(store, &client.s3_prefix).await? else {
        return Ok(());
    };
    if !is_of(&description, &client.client) {
        tracing::warn!(
            client = %client.client,
            s3_path = %format!("{}/", client.s3_prefix),
            "What lies at the place of a registration is another database's; it is not taken up again"
        );
        return Ok(());
    }
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
async fn newest_description(
    store: &Arc<dyn ObjectStore>,
    s3_prefix: &str,
) -> Result<Option<Description>, StoreError> {
    let folder = format!("{s3_prefix}/snapshots/");
    let generations = store.list_folders(&folder).await?;
    let ids = generations
        .iter()
        .filter_map(|name| name.parse::<GenerationId>().ok());
    match ids.max() {
        Some(newest) => describe(store, s3_prefix, newest).await,
        None => Ok(None),
    }
}
