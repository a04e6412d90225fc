//! Two instances that replicate the same database: how one learns of the other, without any request of an idle client.
//!
//! It is seen where something is asked of the store anyway: a new generation looks for others, so does a further snapshot
//! and retention, and an upload may find its key taken. The one who sees it is `failing`, and begins a generation that
//! comes after the other's, so that the newest state of its file is the newest in the store. It is over when for a
//! while no newer generation than its own was seen.

use std::sync::Arc;

use super::Replicator;
use crate::capture::{CaptureError, Database, Earlier};
use crate::clock::{UnixMs, now_ms};
use crate::format::keys::GenerationId;
use crate::restore::describe;
use crate::store::StoreError;
use crate::tenant::progress::Rival;
use crate::tenant::roster::Client;

/// The other one may see ours only at its own next snapshot: it counts as gone after so many snapshot intervals.
const GONE_AFTER: u32 = 2;

impl Replicator {
    /// Looks whether the store has a newer generation than ours that somebody else has begun. Then the pipeline begins one
    /// after it, and nothing is to be made of the present one.
    ///
    /// # Errors
    /// Those of the store.
    pub(super) async fn is_overtaken(
        &self,
        db: &Arc<Database>,
        client: &Client,
    ) -> Result<bool, StoreError> {
        let store = self.uplink.store_of(client)?;
        let folder = format!("{}/snapshots/", client.s3_prefix());
        let names = store.list_folders(&folder).await?;
        let newest = names.iter().filter_map(|name| name.parse().ok()).max();
        self.is_overtaken_by(db, client, newest).await
    }

    /// The same, where the newest generation in the store is known.
    ///
    /// # Errors
    /// Those of the store.
    pub(super) async fn is_overtaken_by(
        &self,
        db: &Arc<Database>,
        client: &Client,
        newest: Option<GenerationId>,
    ) -> Result<bool, StoreError> {
        // Read after the listing: what is ours in it was captured before.
        let own = client.progress().generation;
        let foreign = match newest.filter(|newest| own.is_some_and(|own| *newest > own)) {
            Some(newest) if self.is_foreign(client, newest).await? => newest,
            _ => {
                self.forget_rival(client);
                return Ok(false);
            }
        };
        self.note_rival(client, foreign);
        client.set_overtaken_by(foreign);
        db.look_soon();
        Ok(true)
    }

    /// A generation that was there when one of ours was begun, and that none of this run is.
    ///
    /// # Errors
    /// Those of the store.
    pub(super) async fn note_other_generation(
        &self,
        client: &Client,
        other: GenerationId,
    ) -> Result<(), StoreError> {
        let stored = client.progress().stored_generation;
        if stored.is_some_and(|stored| other > stored) && self.is_foreign(client, other).await? {
            self.note_rival(client, other);
        }
        Ok(())
    }

    /// A key of the generation that this run is storing is taken by something else.
    pub(super) fn note_taken_key(&self, client: &Client, generation: GenerationId) {
        if client.progress().stored_generation == Some(generation) {
            self.note_rival(client, generation);
        }
    }

    /// Begins a new generation where another instance's has come after the present one.
    ///
    /// # Errors
    /// Those of the capture.
    pub(super) async fn come_after_rival(
        &self,
        db: &Arc<Database>,
        client: &Client,
    ) -> Result<(), CaptureError> {
        let Some(generation) = client.take_overtaken_by() else {
            return Ok(());
        };
        // Our own numbers go on.
        let earlier = Earlier {
            generation,
            txid: 0,
        };
        self.capture.abandon(db, Some(earlier)).await
    }

    async fn is_foreign(
        &self,
        client: &Client,
        generation: GenerationId,
    ) -> Result<bool, StoreError> {
        let store = self.uplink.store_of(client)?;
        let description = describe(&store, client.s3_prefix(), generation).await;
        let instance = match description {
            Err(error) if error.is_not_found() => None,
            other => other?.and_then(|description| description.instance),
        };
        Ok(instance != Some(format!("{:016x}", self.capture.node_id())))
    }

    /// While nothing was stored in this run, the other one may have ended before it: that is a move, and no fault.
    fn note_rival(&self, client: &Client, generation: GenerationId) {
        if client.progress().stored_generation.is_none() {
            tracing::info!(
                client = %client.label,
                prefix = client.prefix(),
                s3_path = %format!("{}/", client.s3_prefix()),
                "Another instance has replicated the database meanwhile; a new generation begins"
            );
            return;
        }
        let text = format!(
            "two_writers: generation {generation} of another instance is in the store, and both replicate the database; stop one of them"
        );
        tracing::error!(
            client = %client.label,
            prefix = client.prefix(),
            s3_path = %format!("{}/", client.s3_prefix()),
            error = %text,
            "Two instances replicate the same database"
        );
        client.update(|progress| {
            progress.found_mut().rival = Some(Rival {
                seen_at: now_ms(),
                text,
            });
        });
    }

    fn forget_rival(&self, client: &Client) {
        if look_for_rival_at(client).is_some_and(|at| now_ms() >= at) {
            client.update(|progress| progress.found_mut().rival = None);
        }
    }
}

/// When another instance that was seen may count as gone, unless it is seen again; none where none was seen.
pub(super) fn look_for_rival_at(client: &Client) -> Option<UnixMs> {
    let interval = client.policy().snapshot_interval * GONE_AFTER;
    let seen_at = client.progress().found().rival.as_ref()?.seen_at;
    Some(seen_at + interval.as_millis() as i64)
}
