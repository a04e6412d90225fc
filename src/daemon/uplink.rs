//! The stores of an instance: opened, asked whether they can be used, and told what there is.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::config::Config;
use crate::format::registry::RegistryKey;
use crate::replicate::{Fleet, Uplink};
use crate::store::retry::Backoff;
use crate::store::stores::Stores;
use crate::store::{Body, ObjectStore, StoreError, probe_conditional_put};

const PROBE_PAUSE: Duration = Duration::from_secs(5);
/// Where the registry refuses it, somebody has to change the policy first.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// Opens all stores; no server is contacted yet.
pub(super) async fn open(config: &Config) -> Result<Arc<Uplink>, StoreError> {
    let shared = match &config.store {
        Some(spec) => Some(spec.open(&config.s3).await?),
        None => None,
    };
    let stores = Stores::new(shared);
    open_own(&stores, config).await?;
    Ok(Uplink::new(stores, config.limits.max_concurrent_syncs))
}

/// Opens the stores that tenants have of their own, as the configuration has them now.
pub(super) async fn open_own(stores: &Stores, config: &Config) -> Result<(), StoreError> {
    let mut opened = Vec::new();
    for own in &config.own_stores {
        opened.push((own, own.store.open(&own.s3).await?));
    }
    // All of them, or none.
    for (own, store) in opened {
        stores.set_own(&own.tenant, store, own.elsewhere);
    }
    stores.keep_own(|tenant| config.own_stores.iter().any(|own| own.tenant == tenant));
    Ok(())
}

/// Finds out whether the store of all honours create-only PUTs, as soon as it answers; names the watch paths' prefixes
/// there, so that clients are found from the store alone; and asks for registrations that were lost with the state.
pub(super) async fn introduce(uplink: Arc<Uplink>, fleet: Arc<Fleet>, prefixes: Vec<String>) {
    let Some(store) = uplink.stores.shared().cloned() else {
        return;
    };
    while let Err(error) = probe(&uplink, &store).await {
        if may_use_without_registry(&*store, &error).await {
            uplink.note_answer(None);
            tracing::warn!(
                error = %error,
                "The registry can't be written; whether If-None-Match is honoured is not known, and removals and configured places are not noted"
            );
            break;
        }
        uplink.note_answer(Some(&error));
        tracing::warn!(error = %error, "The store can't be used; it is tried again");
        tokio::time::sleep(PROBE_PAUSE).await;
    }
    for prefix in prefixes.into_iter().filter(|prefix| !prefix.is_empty()) {
        let key = RegistryKey::WatchPath(prefix).to_string();
        let body = Body::Bytes(Bytes::from_static(b"{}\n"));
        let mut pauses = Backoff::new(PROBE_PAUSE, LONGEST_PAUSE);
        while let Err(error) = store.put_new(&key, &body).await {
            tracing::warn!(error = %error, "The watch path's prefix could not be noted; without that its clients are not found from the store alone");
            tokio::time::sleep(pauses.pause()).await;
        }
    }
    while let Err(error) = fleet.recall().await {
        tracing::warn!(error = %error, "The store could not be asked for registrations; it is asked again");
        tokio::time::sleep(PROBE_PAUSE).await;
    }
}

async fn probe(uplink: &Uplink, store: &Arc<dyn ObjectStore>) -> Result<(), StoreError> {
    let honoured = probe_conditional_put(store.as_ref()).await?;
    uplink.note_answer(None);
    uplink.set_conditional_put(honoured);
    if !honoured {
        tracing::warn!(
            "The store ignores If-None-Match: two instances with one bucket could overwrite each other"
        );
    }
    Ok(())
}

/// Whether only the registry is closed to the keys: replicas may go where they are to.
async fn may_use_without_registry(store: &dyn ObjectStore, error: &StoreError) -> bool {
    matches!(error, StoreError::Denied { .. }) && store.list_folders("databases/").await.is_ok()
}
