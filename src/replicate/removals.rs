//! What becomes of removed databases' replicas: the store is told of the removal, and they go when their time has come.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::Replicator;
use super::retention::erase;
use super::upkeep::UpkeepError;
use crate::capture::CaptureError;
use crate::capture::wishes::Removal;
use crate::clock::now_ms;
use crate::format::registry::RegistryKey;
use crate::restore::begun_since;
use crate::store::Body;

/// What could not be done is tried again after so long.
const RETRY: Duration = Duration::from_secs(30);

/// Looks after removals, until `stop`. Without any it only waits for one.
pub(super) async fn run(replicator: Arc<Replicator>) {
    let mut stop = replicator.stop.subscribe();
    loop {
        let pause = match replicator.look_after_removals().await {
            Ok(pause) => pause,
            Err(error) => {
                tracing::warn!(error = %error, "A removal could not be looked after; it is tried again");
                Some(RETRY)
            }
        };
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            () = replicator.capture.removed() => {}
            () = super::upkeep::sleep_for(pause) => {}
        }
    }
}

impl Replicator {
    /// Does what is due; how long until there is something to do again, and none for never.
    async fn look_after_removals(&self) -> Result<Option<Duration>, UpkeepError> {
        let mut next: Option<i64> = None;
        for removal in self.capture.removals().map_err(CaptureError::from)? {
            if !removal.noted {
                self.tell_removal(&removal).await?;
            }
            if removal.due_at <= now_ms() {
                self.erase_removed(&removal).await?;
            } else {
                next = Some(next.map_or(removal.due_at, |next| next.min(removal.due_at)));
            }
        }
        let pause = next.map(|at| at.saturating_sub(now_ms()).max(0) as u64);
        Ok(pause.map(Duration::from_millis))
    }

    async fn tell_removal(&self, removal: &Removal) -> Result<(), UpkeepError> {
        let store = self.uplink.store_of_tenant(&removal.tenant)?;
        let key = key_of(removal);
        store
            .put_new(&key, &Body::Bytes(Bytes::from_static(b"{}\n")))
            .await?;
        let noted = self.capture.removal_noted(removal);
        Ok(noted.map_err(CaptureError::from)?)
    }

    /// Erases the replica, unless its place is in use again.
    async fn erase_removed(&self, removal: &Removal) -> Result<(), UpkeepError> {
        let begun = Instant::now();
        let store = self.uplink.store_of_tenant(&removal.tenant)?;
        if !begun_since(store.as_ref(), &removal.s3_prefix, removal.removed_at).await? {
            let objects = erase(store.as_ref(), &removal.s3_prefix).await?;
            tracing::info!(
                client = %removal.label,
                operation = "retain",
                duration = %format!("{}ms", begun.elapsed().as_millis()),
                s3_path = %format!("{}/", removal.s3_prefix),
                objects,
                "Deleted the replica of a database that was removed"
            );
        }
        let prefix = self.capture.present_rules().prefix().to_owned();
        let label = removal.label.clone();
        let placed = RegistryKey::Placed {
            prefix,
            label,
            s3_prefix: removal.s3_prefix.clone(),
        };
        store.delete(&[key_of(removal), placed.to_string()]).await?;
        let forgotten = self.capture.forget_removal(removal);
        Ok(forgotten.map_err(CaptureError::from)?)
    }
}

fn key_of(removal: &Removal) -> String {
    RegistryKey::Removed {
        s3_prefix: removal.s3_prefix.clone(),
        at_ms: removal.removed_at,
    }
    .to_string()
}
