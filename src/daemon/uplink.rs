//! The stores of an instance: opened, asked whether they can be used, and told what there is.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::config::Config;
use crate::format::registry::RegistryKey;
use crate::replicate::{Fleet, Recall, Uplink};
use crate::store::probe::{check_usable, probe};
use crate::store::retry::Backoff;
use crate::store::stores::Stores;
use crate::store::{Body, ObjectStore, StoreError};

const PROBE_PAUSE: Duration = Duration::from_secs(5);
/// A probe that has no answer for so long is a store that can't be reached; it is waited for all the same.
const PATIENCE: Duration = Duration::from_secs(5);
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

/// Finds out what the store of all can do, as soon as it answers; names the watch paths' prefixes
/// there, so that clients are found from the store alone; and asks for registrations that were lost with the state.
pub(super) async fn introduce(uplink: Arc<Uplink>, fleet: Arc<Fleet>, prefixes: Vec<String>) {
    let Some(store) = uplink.stores.shared().cloned() else {
        return;
    };
    let mut pauses = Backoff::new(PROBE_PAUSE, LONGEST_PAUSE);
    while let Err(error) = find_abilities(&uplink, &store).await {
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
        let pause = match error.is_retryable() {
            true => PROBE_PAUSE,
            // Somebody has to change something first, and several requests are made each time.
            false => pauses.pause(),
        };
        tokio::time::sleep(pause).await;
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
    let mut recall = Recall::default();
    while let Err(error) = fleet.recall(&mut recall).await {
        tracing::warn!(error = %error, "The store could not be asked for registrations; it is asked again");
        tokio::time::sleep(PROBE_PAUSE).await;
    }
}

async fn find_abilities(uplink: &Uplink, store: &Arc<dyn ObjectStore>) -> Result<(), StoreError> {
    let abilities = probe(store.as_ref()).await?;
    uplink.note_answer(None);
    uplink.set_conditional_put(abilities.create_only.is_relied_on());
    tracing::info!(
        create_only = abilities.create_only.as_str(),
        deletes_in_batches = abilities.deletes_in_batches,
        checks_content = abilities.checks_content,
        lists_at_once = abilities.lists_at_once,
        "What the store can do was found out"
    );
    if !abilities.lists_at_once {
        tracing::warn!(
            "The store does not list what it has just stored: what is restored may be older than what is stored"
        );
    }
    Ok(())
}

/// Asks the store of all whether it answers, when somebody wants to know and nothing else has asked it for long.
pub(super) async fn keep_informed(uplink: Arc<Uplink>) {
    let Some(store) = uplink.stores.shared().cloned() else {
        return;
    };
    loop {
        uplink.answer_wanted().await;
        ask(&uplink, &store).await;
    }
}

async fn ask(uplink: &Uplink, store: &Arc<dyn ObjectStore>) {
    let mut answer = std::pin::pin!(async {
        match check_usable(store.as_ref()).await {
            Err(error) if !may_use_without_registry(store.as_ref(), &error).await => Some(error),
            _ => None,
        }
    });
    let failed = match tokio::time::timeout(PATIENCE, &mut answer).await {
        Ok(failed) => failed,
        Err(_) => {
            uplink.note_silence(PATIENCE);
            answer.await
        }
    };
    uplink.note_answer(failed.as_ref());
    if let Some(error) = failed {
        tracing::warn!(error = %error, "The store can't be used at present");
    }
}

/// Whether only the registry is closed to the keys: replicas may go where they are to.
async fn may_use_without_registry(store: &dyn ObjectStore, error: &StoreError) -> bool {
    matches!(error, StoreError::Denied { .. }) && store.list_folders("databases/").await.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::directory::DirectoryStore;

    #[tokio::test]
    async fn a_store_that_has_gone_is_noticed_when_it_is_asked() {
        let scratch = tempfile::tempdir().expect("a directory");
        let place = scratch.path().join("store");
        let store: Arc<dyn ObjectStore> = Arc::new(DirectoryStore::new(place.clone()));
        let uplink = Uplink::new(Stores::new(Some(store.clone())), 1);
        ask(&uplink, &store).await;
        assert_eq!(uplink.health().reachable, Some(true));
        std::fs::rename(&place, scratch.path().join("away")).expect("moved");
        ask(&uplink, &store).await;
        let health = uplink.health();
        assert_eq!(health.reachable, Some(false));
        assert!(health.error.is_some_and(|error| error.contains("gone")));
        std::fs::rename(scratch.path().join("away"), &place).expect("moved");
        ask(&uplink, &store).await;
        assert_eq!(uplink.health().error, None);
    }
}
