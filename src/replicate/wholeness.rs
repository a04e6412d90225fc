//! Whether what the store has acknowledged is still there. An active client's newest state is looked at with an upload, at most
//! twice a minute, and with each sync that somebody asks for; `patrol.rs` sees to those that are idle. What is gone is told,
//! and a new generation begins, with a snapshot.

use std::sync::Arc;
use std::time::Duration;

use super::Replicator;
use super::retention::objects_of;
use crate::capture::{CaptureError, Database};
use crate::clock::now_ms;
use crate::format::keys::{GenerationId, ObjectKey};
use crate::format::plan::newest::{NewestState, Shown};
use crate::store::{ObjectStore, StoreError};
use crate::tenant::roster::{Client, Status};

/// What the notice begins with.
pub(super) const STORE_INCOMPLETE: &str = "store_incomplete";
/// How often an active client's newest state is looked at, at most.
const EVERY: Duration = Duration::from_secs(30);

/// What a look has come to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Looked {
    Whole,
    /// A new generation is on its way.
    Mending,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum LookError {
    #[error(transparent)]
    Capture(#[from] CaptureError),
    #[error("store: {0}")]
    Store(#[from] StoreError),
}

impl Replicator {
    /// Something of the client was uploaded: looks at its newest state, where that is due.
    pub(super) async fn look_after_upload(&self, db: &Arc<Database>, client: &Client) {
        if !client.takes_look(now_ms(), EVERY) {
            return;
        }
        if let Err(error) = self.look_whether_whole(db, client).await {
            // The upload has told how the store is; it is looked at again.
            tracing::debug!(client = %client.label, %error, "Whether the replica is whole can't be told");
        }
    }

    /// Looks whether the store still has the newest state that it has acknowledged, and whether somebody else has begun a
    /// newer generation. Where it lacks something a new generation begins.
    ///
    /// # Errors
    /// Nothing can be told.
    pub(super) async fn look_whether_whole(
        &self,
        db: &Arc<Database>,
        client: &Client,
    ) -> Result<Looked, LookError> {
        // What is acknowledged is in what is listed later.
        let Some(state) = self.capture.newest_state(db).await? else {
            return Ok(Looked::Whole);
        };
        let store = self.uplink.store_of(client)?;
        let mut shown = Shown::new(state);
        let newest = show_snapshots(store.as_ref(), client, &mut shown).await?;
        if self.is_overtaken_by(db, client, newest).await? {
            return Ok(Looked::Mending);
        }
        show_segments(store.as_ref(), client, state, &mut shown).await?;
        if shown.missing().is_none() {
            return Ok(Looked::Whole);
        }
        self.confirm_and_mend(db, client).await
    }

    /// Something seems to be missing: that counts where a whole listing shows it as well.
    ///
    /// # Errors
    /// Nothing can be told.
    pub(super) async fn confirm_and_mend(
        &self,
        db: &Arc<Database>,
        client: &Client,
    ) -> Result<Looked, LookError> {
        let Some(state) = self.capture.newest_state(db).await? else {
            return Ok(Looked::Whole);
        };
        let store = self.uplink.store_of(client)?;
        let objects = objects_of(store.as_ref(), client.s3_prefix()).await?;
        let mut shown = Shown::new(state);
        objects.iter().for_each(|object| shown.add(object.key));
        let Some(missing) = shown.missing() else {
            return Ok(Looked::Whole);
        };
        let newest = objects.iter().map(|object| object.key.generation()).max();
        self.mend(db, client, state, missing, newest);
        Ok(Looked::Mending)
    }

    /// Tells what is gone, and has the pipeline begin a generation that comes after all others.
    fn mend(
        &self,
        db: &Arc<Database>,
        client: &Client,
        state: NewestState,
        missing: ObjectKey,
        newest: Option<GenerationId>,
    ) {
        let key = missing.below(client.s3_prefix());
        let text = format!(
            "{STORE_INCOMPLETE}: {key} is gone from the store, though it was stored; a new snapshot is made, and what needs the object can't be restored"
        );
        tracing::error!(
            client = %client.label,
            prefix = client.prefix(),
            s3_path = %format!("{}/", client.s3_prefix()),
            error = %text,
            "Objects of the replica are gone from the store"
        );
        client.update(|progress| {
            if matches!(progress.status, Status::Active | Status::Gapped) {
                progress.status = Status::Gapped;
                progress.last_error = Some(text.clone());
            }
            let found = progress.found_mut();
            (found.notice, found.noticed_at) = (Some(text), now_ms());
        });
        client.set_overtaken_by(
            newest
                .max(Some(state.generation))
                .unwrap_or(state.generation),
        );
        db.mark_dirty();
    }
}

/// Lists the snapshots; gives the newest generation that there is.
async fn show_snapshots(
    store: &dyn ObjectStore,
    client: &Client,
    shown: &mut Shown,
) -> Result<Option<GenerationId>, StoreError> {
    let folder = format!("{}/snapshots/", client.s3_prefix());
    let mut newest = None;
    let add = |key: ObjectKey| {
        newest = newest.max(Some(key.generation()));
        shown.add(key);
    };
    show(store, client, &folder, String::new(), add).await?;
    Ok(newest)
}

/// Lists the segments after the newest snapshot.
async fn show_segments(
    store: &dyn ObjectStore,
    client: &Client,
    state: NewestState,
    shown: &mut Shown,
) -> Result<(), StoreError> {
    if state.newest == state.snapshot {
        return Ok(());
    }
    let before = ObjectKey::Segment(state.generation, state.snapshot).below(client.s3_prefix());
    let folder = before.rfind('/').map_or("", |at| &before[..=at]).to_owned();
    show(store, client, &folder, before, |key| shown.add(key)).await
}

async fn show(
    store: &dyn ObjectStore,
    client: &Client,
    folder: &str,
    mut after: String,
    mut add: impl FnMut(ObjectKey),
) -> Result<(), StoreError> {
    loop {
        let page = store.list_after(folder, &after).await?;
        for object in &page.objects {
            if let Some(key) = ObjectKey::parse(client.s3_prefix(), &object.key) {
                add(key);
            }
        }
        match page.objects.into_iter().next_back() {
            Some(last) if !page.is_last => after = last.key,
            _ => return Ok(()),
        }
    }
}
