//! What becomes of removed databases' replicas: the store is told of the removal, and they go when their time has come.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::retention::{erase, objects_of};
use super::upkeep::{HELD_PAUSE, UpkeepError};
use super::{Replicator, caught};
use crate::capture::wishes::Removal;
use crate::capture::{AtPlace, CaptureError};
use crate::clock::{UnixMs, now_ms};
use crate::fault::Point;
use crate::format::registry::RegistryKey;
use crate::restore::{Removed, begun_since};
use crate::store::{Body, StoreError};

/// What could not be done is tried again after so long.
const RETRY: Duration = Duration::from_secs(30);
/// The store is told of a removal after so many milliseconds: a name may come back.
const SETTLES_MS: i64 = 250;

/// Whether a removed database's replica may go.
enum Due {
    Now(Removed),
    /// Milliseconds.
    In(i64),
    /// It has gone already.
    Done,
}

/// What is to be done about a removal that the store was not told of.
enum Untold {
    Tell,
    /// Until then, in Unix milliseconds.
    Wait(UnixMs),
    /// Its place is in use again: that client's retention sees to what is there.
    Superseded,
    NothingStored,
}

/// Looks after removals, until `stop`. Without any it only waits for one.
pub(super) async fn run(replicator: Arc<Replicator>) {
    let mut stop = replicator.stop.subscribe();
    loop {
        let next = match replicator.capture.removals() {
            Ok(removals) => replicator.look_after_removals(removals).await,
            Err(error) => {
                tracing::error!(error = %error, "What was removed can't be read; it is tried again");
                Some(now_ms() + RETRY.as_millis() as i64)
            }
        };
        let pause = next.map(|at| at.saturating_sub(now_ms()).max(0) as u64);
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return,
            () = replicator.capture.removed() => {}
            () = super::upkeep::sleep_for(pause.map(Duration::from_millis)) => {}
        }
    }
}

impl Replicator {
    /// Does what is due, each removal for itself; when there is something to do again, and none for never.
    async fn look_after_removals(&self, removals: Vec<Removal>) -> Option<UnixMs> {
        let mut next: Option<UnixMs> = None;
        for removal in removals {
            let looked = caught(self.look_after(&removal)).await;
            let again = match looked.unwrap_or_else(|text| Err(UpkeepError::Panicked(text))) {
                Ok(again) => again,
                Err(error) => Some(now_ms() + self.pause_after_removal(&removal, &error)),
            };
            next = next.into_iter().chain(again).min();
        }
        next
    }

    /// Milliseconds until a removal is looked after again that could not be.
    fn pause_after_removal(&self, removal: &Removal, error: &UpkeepError) -> i64 {
        let pause = match error.refusal() {
            Some(refusal) => self.uplink.pause_after_refusal(&removal.tenant, refusal),
            None => {
                tracing::warn!(
                    client = %removal.label,
                    error = %error,
                    "A removal could not be looked after; it is tried again"
                );
                let told = format!("{}: {error}", removal.label);
                self.uplink.retention_failed(&removal.tenant, &told);
                RETRY
            }
        };
        pause.as_millis() as i64
    }

    /// When it is to be looked after again; none where it is done with.
    async fn look_after(&self, removal: &Removal) -> Result<Option<UnixMs>, UpkeepError> {
        if !removal.noted {
            match self.judge(removal).await? {
                Untold::Wait(at) => return Ok(Some(at)),
                Untold::Superseded => {
                    let dropped = self.capture.drop_removal(removal);
                    return Ok(dropped.map(|()| None).map_err(CaptureError::from)?);
                }
                Untold::NothingStored => return self.forget(removal).map(|()| None),
                Untold::Tell => {
                    self.tell_removal(removal).await?;
                    self.forget_earlier(removal).await?;
                }
            }
        }
        if removal.due_at > now_ms() {
            return Ok(Some(removal.due_at));
        }
        match self.by_the_stores_clock(removal).await? {
            Due::In(ms) => Ok(Some(now_ms() + ms)),
            Due::Now(_) if self.is_held(removal).await? => {
                Ok(Some(now_ms() + HELD_PAUSE.as_millis() as i64))
            }
            Due::Now(removed) => {
                self.erase_removed(removal, removed).await?;
                Point::Erased.reach();
                Ok(self.forget(removal).map(|()| None)?)
            }
            // By another one's `retain`.
            Due::Done => Ok(self.forget(removal).map(|()| None)?),
        }
    }

    /// What is to be done about a removal that the store was not told of.
    async fn judge(&self, removal: &Removal) -> Result<Untold, UpkeepError> {
        let soonest = now_ms() + SETTLES_MS;
        let settled_at = removal.removed_at.saturating_add(SETTLES_MS).min(soonest);
        if settled_at > now_ms() {
            return Ok(Untold::Wait(settled_at));
        }
        Ok(match self.capture.at_place_of(removal) {
            AtPlace::Leaving => Untold::Wait(soonest),
            AtPlace::Client => Untold::Superseded,
            AtPlace::Nobody if self.has_replica(removal).await? => Untold::Tell,
            AtPlace::Nobody => Untold::NothingStored,
        })
    }

    /// Whether the store has anything of a removed database.
    async fn has_replica(&self, removal: &Removal) -> Result<bool, UpkeepError> {
        let store = self.uplink.store_of_tenant(&removal.tenant)?;
        let listed = store
            .list_after(&format!("{}/", removal.s3_prefix), "")
            .await;
        match listed {
            Ok(page) => Ok(!page.objects.is_empty() || !page.is_last),
            // Keys that may not ask tell of it all the same.
            Err(StoreError::Denied { .. }) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// One note for each place is enough: the newest one.
    async fn forget_earlier(&self, removal: &Removal) -> Result<(), UpkeepError> {
        let earlier = self.capture.earlier_removals(removal);
        let earlier = earlier.map_err(CaptureError::from)?;
        if let (Some(shared), false) = (self.uplink.stores.shared(), earlier.is_empty()) {
            let keys: Vec<_> = earlier.iter().map(|one| self.key_of(one)).collect();
            match shared.delete(&keys).await {
                // Keys without that right leave the notes, which go with the replica.
                Ok(()) | Err(StoreError::Denied { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        earlier.iter().try_for_each(|one| self.forget(one))
    }

    /// The registry lies in the store of all. Without that, only this instance knows of the removal.
    async fn tell_removal(&self, removal: &Removal) -> Result<(), UpkeepError> {
        if let Some(shared) = self.uplink.stores.shared() {
            let key = self.key_of(removal);
            shared
                .put_new(&key, &Body::Bytes(Bytes::from_static(b"{}\n")))
                .await?;
        }
        Point::RemovalTold.reach();
        let noted = self.capture.removal_noted(removal);
        Ok(noted.map_err(CaptureError::from)?)
    }

    /// Whatever our own clock says, a replica stays as long as it is to by the store's.
    async fn by_the_stores_clock(&self, removal: &Removal) -> Result<Due, UpkeepError> {
        let at = removal.removed_at;
        let Some(shared) = self.uplink.stores.shared() else {
            // Nobody but us has noted when it was.
            let told = UnixMs::MAX;
            return Ok(Due::Now(Removed { at, told }));
        };
        let key = self.key_of(removal);
        let listed = shared.list(&key).await?;
        let Some(told) = listed.first().map(|note| note.modified_ms) else {
            return Ok(Due::Done);
        };
        let now = now_ms() + self.uplink.clock_ahead(&**shared, &key).await?;
        match told.saturating_add(removal.due_at - at).saturating_sub(now) {
            ms if ms > 0 => Ok(Due::In(ms)),
            _ => Ok(Due::Now(Removed { at, told })),
        }
    }

    async fn is_held(&self, removal: &Removal) -> Result<bool, UpkeepError> {
        let uplink = &self.uplink;
        Ok(uplink.is_held(&removal.tenant, &removal.s3_prefix).await?)
    }

    /// Erases the replica, unless its place is in use again.
    async fn erase_removed(&self, removal: &Removal, removed: Removed) -> Result<(), UpkeepError> {
        let begun = Instant::now();
        let store = self.uplink.store_of_tenant(&removal.tenant)?;
        // Listed first: what another database stores here from now on is not among them.
        let objects = objects_of(store.as_ref(), &removal.s3_prefix).await?;
        let is_in_use = begun_since(store.as_ref(), &removal.s3_prefix, removed).await?;
        if !is_in_use {
            erase(store.as_ref(), &removal.s3_prefix, &objects).await?;
            tracing::info!(
                client = %removal.label,
                operation = "retain",
                duration = %format!("{}ms", begun.elapsed().as_millis()),
                s3_path = %format!("{}/", removal.s3_prefix),
                objects = objects.len(),
                "Deleted the replica of a database that was removed"
            );
        }
        if let Some(shared) = self.uplink.stores.shared() {
            let mut keys = vec![self.key_of(removal)];
            if !begun_since(store.as_ref(), &removal.s3_prefix, removed).await? {
                keys.push(self.entry_of(removal).to_string());
            }
            shared.delete(&keys).await?;
        }
        self.uplink.deletion_succeeded(&removal.tenant);
        self.uplink.retention_succeeded(&removal.tenant);
        Ok(())
    }

    /// What the registry may say of where the replica was.
    fn entry_of(&self, removal: &Removal) -> RegistryKey {
        let elsewhere = self.uplink.stores.is_elsewhere(&removal.tenant);
        let rules = self.capture.present_rules();
        let (label, s3_prefix) = (&removal.label, &removal.s3_prefix);
        RegistryKey::of_replica(elsewhere, rules.prefix(), label, s3_prefix)
    }

    fn forget(&self, removal: &Removal) -> Result<(), UpkeepError> {
        let forgotten = self.capture.forget_removal(removal);
        Ok(forgotten.map_err(CaptureError::from)?)
    }

    fn key_of(&self, removal: &Removal) -> String {
        let stores = &self.uplink.stores;
        RegistryKey::Removed {
            place: stores.registered_place(&removal.tenant, &removal.s3_prefix),
            at_ms: removal.removed_at,
        }
        .to_string()
    }
}
