//! What is done for a replica now and then, beside its pipeline: further snapshots, and retention.
//!
//! A database comes onto the agenda when something of it is stored, and leaves it when nothing is left to do: one that
//! is idle costs nothing.

use std::path::Path;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::agenda::{Agenda, Chore};
use super::retention::{carry_out, cutoff, objects_of};
use super::rivals::look_for_rival_at;
use super::{Replicator, caught};
use crate::capture::{CaptureError, Database, Made, Number, Segment, SnapshotNote};
use crate::clock::{UnixMs, now_ms};
use crate::fault::{Defect, Point};
use crate::format::plan::retention::plan;
use crate::store::StoreError;
use crate::tenant::roster::{Client, Status};

/// Chores at once; of these one at a time reads a whole database.
const AT_ONCE: usize = 4;
/// A log that is shorter makes no snapshot by its length alone, in bytes.
const SHORT_LOG: u64 = 256 * 1024;
/// What could not be done is tried again after so long.
const RETRY: Duration = Duration::from_secs(30);
/// A replica that is held is looked at again after so long.
pub(super) const HELD_PAUSE: Duration = Duration::from_secs(3600);
/// How long a snapshot that is made waits for the state that it is of.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why a chore was not done; it is tried again.
#[derive(Debug, thiserror::Error)]
pub(super) enum UpkeepError {
    #[error(transparent)]
    Capture(#[from] CaptureError),
    #[error("store: {0}")]
    Store(#[from] StoreError),
    #[error("the state that it is of could not be stored")]
    NotStored,
    #[error("it panicked: {0}")]
    Panicked(String),
}

impl UpkeepError {
    /// What the store refused for want of a right.
    pub fn refusal(&self) -> Option<&StoreError> {
        match self {
            Self::Store(error @ StoreError::Denied { .. }) => Some(error),
            _ => None,
        }
    }
}

/// Does what is due, until `stop`. What earlier runs have left is asked for with the first `rules_changed`.
pub(super) async fn run(replicator: Arc<Replicator>) {
    let mut stop = replicator.stop.subscribe();
    let mut chores = JoinSet::new();
    let mut is_outdated = false;
    loop {
        if std::mem::take(&mut is_outdated) {
            replicator.note_earlier().await;
        }
        let now = now_ms();
        while chores.len() < AT_ONCE
            && let Some((path, chore)) = replicator.agenda().take_due(now)
        {
            chores.spawn(do_chore(replicator.clone(), path, chore));
        }
        let next = replicator.agenda().next_at();
        let pause = next
            .filter(|_| chores.len() < AT_ONCE)
            .map(|at| Duration::from_millis(at.saturating_sub(now).max(0) as u64));
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => break,
            () = replicator.agenda_changed.notified() => {}
            () = replicator.rules_changed.notified() => is_outdated = true,
            () = sleep_for(pause) => {}
            Some(done) = chores.join_next() => {
                if let Err(error) = done {
                    tracing::error!(error = %error, "A chore of upkeep did not end in order");
                }
            }
        }
    }
    chores.shutdown().await;
}

/// Without a pause for ever.
pub(super) async fn sleep_for(pause: Option<Duration>) {
    match pause {
        Some(pause) => tokio::time::sleep(pause).await,
        None => std::future::pending().await,
    }
}

async fn do_chore(replicator: Arc<Replicator>, path: Arc<Path>, chore: Chore) {
    let Some(db) = replicator.capture.at_path(&path) else {
        return;
    };
    let Some(client) = db.client().filter(|client| is_kept_up(client)) else {
        return;
    };
    let (operation, done) = match chore {
        Chore::Snapshot => {
            let made = replicator.snapshot_now(&db, &client);
            ("snapshot", caught(made).await)
        }
        Chore::Retention => ("retain", caught(replicator.retain(&db, &client)).await),
    };
    let done = done.unwrap_or_else(|text| Err(UpkeepError::Panicked(text)));
    // A snapshot that can't be made now is made later, and nobody misses it: the segments reach as far.
    if chore == Chore::Retention {
        let failed = done.as_ref().err().map(ToString::to_string);
        client.update(|progress| progress.note_upkeep(operation, failed));
    }
    let Err(error) = done else {
        return;
    };
    let refusal = error.refusal().filter(|_| chore == Chore::Retention);
    let pause = match refusal {
        Some(refusal) => replicator
            .uplink
            .pause_after_refusal(&client.id.tenant, refusal),
        None => {
            tracing::warn!(
                client = %client.label,
                operation,
                s3_path = %format!("{}/", client.s3_prefix()),
                error = %error,
                "Upkeep has failed; it is tried again"
            );
            if chore == Chore::Retention {
                let tenant = &client.id.tenant;
                replicator
                    .uplink
                    .retention_failed(tenant, &error.to_string());
            }
            RETRY
        }
    };
    replicator.note_chore(&db, chore, now_ms() + pause.as_millis() as i64);
}

/// Whether anything may be done for the client: what is absent or was never taken up is left as it is.
fn is_kept_up(client: &Client) -> bool {
    match client.progress().status {
        Status::Active | Status::Gapped | Status::Failing => true,
        Status::Paused | Status::Waiting | Status::Missing | Status::Refused => false,
    }
}

impl Replicator {
    /// What earlier runs left to be done, or what was to be done by other rules.
    async fn note_earlier(&self) {
        let known = match self.capture.upkeep().await {
            Ok(known) => known,
            Err(error) => {
                tracing::error!(error = %error, "What upkeep has to do can't be read");
                return;
            }
        };
        let mut agenda = self.agenda();
        for entry in known {
            let path = match self.capture.at_path(&entry.path) {
                Some(db) => db.path.clone(),
                None => entry.path.as_path().into(),
            };
            if let Some(since) = entry.outdated_since {
                let policy = self.capture.policy_at(&entry.path);
                let interval = policy.snapshot_interval.as_millis() as i64;
                agenda.note(&path, Chore::Snapshot, since + interval);
            }
            if let Some(at) = entry.retain_at {
                // By the retention of now, which may have become shorter.
                let retention = self.capture.policy_at(&entry.path).retention.as_millis() as i64;
                agenda.note(&path, Chore::Retention, at.min(now_ms() + retention));
            }
        }
    }

    /// Something of the database has been stored: `newest` is its newest snapshot and what has come after it.
    pub(super) fn note_progress(&self, db: &Database, newest: &SnapshotNote, database_bytes: u64) {
        if newest.log_bytes == 0 {
            return;
        }
        let outgrown = newest.log_bytes > database_bytes.max(SHORT_LOG);
        let at = match outgrown {
            true => now_ms(),
            false => newest.stored_at + db.policy().snapshot_interval.as_millis() as i64,
        };
        self.note_chore(db, Chore::Snapshot, at);
    }

    /// A snapshot is stored: what is before it goes when it is old enough.
    pub(super) async fn note_snapshot(&self, db: &Arc<Database>) -> Result<(), CaptureError> {
        if let Some(client) = db.client()
            && let Some(at) = look_for_rival_at(&client)
        {
            self.note_chore(db, Chore::Snapshot, at);
        }
        let at = now_ms() + db.policy().retention.as_millis() as i64;
        match self.note_chore(db, Chore::Retention, at) {
            true => self.capture.save_retain_at(db, Some(at)).await,
            false => Ok(()),
        }
    }

    /// A snapshot of the client is wanted now.
    pub(super) fn want_snapshot(&self, db: &Database) {
        self.note_chore(db, Chore::Snapshot, now_ms());
    }

    fn note_chore(&self, db: &Database, chore: Chore, at: UnixMs) -> bool {
        let is_news = self.agenda().note(&db.path, chore, at);
        if is_news {
            self.agenda_changed.notify_one();
        }
        is_news
    }

    fn agenda(&self) -> MutexGuard<'_, Agenda> {
        self.agenda.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a snapshot of the present generation and stores it, after the state that it is of.
    async fn snapshot_now(&self, db: &Arc<Database>, client: &Client) -> Result<(), UpkeepError> {
        Defect::Upkeep.meet(|| client.label.to_string());
        if self.is_overtaken(db, client).await? {
            // The new generation begins with a snapshot.
            return Ok(());
        }
        let (segment, number) = match self.make_snapshot(db).await? {
            Made::Snapshot(segment, number) => (segment, number),
            Made::Nothing { newest_txid } => {
                client.update(|progress| progress.snapshot_txid = newest_txid);
                return Ok(());
            }
        };
        let stored = self.store_snapshot(db, client, &segment, &number).await;
        match stored {
            Ok(()) => {
                Point::SnapshotStored.reach();
                let txid = segment.end.txid;
                self.capture.snapshot_stored(db, segment, number).await?;
                client.update(|progress| progress.snapshot_txid = txid);
                Ok(self.note_snapshot(db).await?)
            }
            Err(error) => {
                self.capture.drop_snapshot(db, segment).await?;
                Err(error)
            }
        }
    }

    /// Where the file is not what the history says, its pipeline has to mend that first.
    async fn make_snapshot(&self, db: &Arc<Database>) -> Result<Made, CaptureError> {
        let make = || async {
            let _one_reader = self.one_reader.acquire().await.expect("BUG: never closed");
            self.capture.snapshot(db).await
        };
        match make().await {
            Err(CaptureError::Disturbed) => {
                let ticket = db.request_settling();
                // The second attempt says whether it was mended.
                drop(timeout(PATIENCE, db.settled(ticket)).await);
                make().await
            }
            other => other,
        }
    }

    async fn store_snapshot(
        &self,
        db: &Arc<Database>,
        client: &Client,
        segment: &Segment,
        number: &Number,
    ) -> Result<(), UpkeepError> {
        db.look_soon();
        let stored = client.replicated(segment.end.txid);
        let in_time = timeout(PATIENCE, stored).await.is_ok();
        let same = client.progress().generation == Some(segment.end.generation);
        if !(in_time && same && self.capture.is_number_good(db, number).await?) {
            return Err(UpkeepError::NotStored);
        }
        Ok(self.upload_snapshot(client, segment).await?)
    }

    /// Deletes what of the replica has outlived its retention.
    async fn retain(&self, db: &Arc<Database>, client: &Client) -> Result<(), UpkeepError> {
        let begun = Instant::now();
        let store = self.uplink.store_of(client)?;
        let store = store.as_ref();
        let retention = client.policy().retention;
        let ahead = self
            .uplink
            .clock_ahead(store, &format!("{}/", client.s3_prefix()))
            .await?;
        let now = now_ms() + ahead;
        let objects = objects_of(store, client.s3_prefix()).await?;
        let newest = objects.iter().map(|object| object.key.generation()).max();
        if self.is_overtaken_by(db, client, newest).await? {
            // What goes is told when the newest state of the store is ours again.
            let soon = now_ms() + RETRY.as_millis() as i64;
            self.note_chore(db, Chore::Retention, soon);
            return Ok(());
        }
        let plan = plan(&objects, cutoff(now, retention));
        let tenant = &client.id.tenant;
        if !plan.delete.is_empty() && self.uplink.is_held(tenant, client.s3_prefix()).await? {
            return self
                .retain_at(db, Some(now_ms() + HELD_PAUSE.as_millis() as i64))
                .await;
        }
        if !plan.delete.is_empty() {
            carry_out(store, client.s3_prefix(), &plan).await?;
            self.uplink.deletion_succeeded(&client.id.tenant);
            tracing::info!(
                client = %client.label,
                operation = "retain",
                duration = %format!("{}ms", begun.elapsed().as_millis()),
                s3_path = %format!("{}/", client.s3_prefix()),
                objects = plan.delete.len(),
                bytes = plan.bytes(),
                "Deleted what has outlived its retention"
            );
        }
        self.uplink.retention_succeeded(tenant);
        // A store may tell any time.
        let keep = i64::try_from(retention.as_millis()).unwrap_or(i64::MAX);
        let outlived = |stored: UnixMs| stored.saturating_sub(ahead).saturating_add(keep);
        let next = plan
            .next_ms
            .map(|stored| outlived(stored).saturating_add(1));
        self.retain_at(db, next).await
    }

    /// Notes when there may be more to delete.
    async fn retain_at(&self, db: &Arc<Database>, next: Option<UnixMs>) -> Result<(), UpkeepError> {
        self.capture.save_retain_at(db, next).await?;
        if let Some(at) = next {
            self.note_chore(db, Chore::Retention, at.max(now_ms() + 1_000));
        }
        Ok(())
    }
}
