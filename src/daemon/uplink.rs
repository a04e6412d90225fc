//! The stores of an instance: opened, asked whether they can be used, and told what there is.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::config::Config;
use crate::format::registry::RegistryKey;
use crate::replicate::{Fleet, Uplink};
use crate::store::stores::Stores;
use crate::store::{Body, ObjectStore, StoreError, probe_conditional_put};

const PROBE_PAUSE: Duration = Duration::from_secs(5);

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
    for own in &config.own_stores {
        let store = own.store.open(&own.s3).await?;
        stores.set_own(&own.tenant, store, own.elsewhere);
    }
    Ok(())
}

/// Finds out whether the store of all honours create-only PUTs, as soon as it answers; names the watch paths' prefixes
/// there, so that clients are found from the store alone; and asks for registrations that were lost with the state.
pub(super) async fn introduce(uplink: Arc<Uplink>, fleet: Arc<Fleet>, prefixes: Vec<String>) {
    let Some(store) = uplink.stores.shared().cloned() else {
        return;
    };
    while let Err(error) = probe(&uplink, &store).await {
        pause_after(&uplink, "The store can't be used", &error).await;
    }
    for prefix in prefixes.into_iter().filter(|prefix| !prefix.is_empty()) {
        let key = RegistryKey::WatchPath(prefix).to_string();
        let body = Body::Bytes(Bytes::from_static(b"{}\n"));
        while let Err(error) = store.put_new(&key, &body).await {
            pause_after(
                &uplink,
                "The watch path's prefix could not be noted",
                &error,
            )
            .await;
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

/// Shows in health what the store answers, and waits before the next attempt.
async fn pause_after(uplink: &Uplink, failed: &str, error: &StoreError) {
    uplink.note_answer(Some(error));
    tracing::warn!(error = %error, "{failed}; it is tried again");
    tokio::time::sleep(PROBE_PAUSE).await;
}
