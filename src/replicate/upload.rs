//! Puts one segment into the store: permit, create-only PUT, retries, and what an object that is there already means.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::AsyncReadExt;

use super::Replicator;
use crate::capture::{Earlier, Segment, StoredSegment};
use crate::clock::{UnixMs, rfc3339};
use crate::fault::Point;
use crate::format::description::Description;
use crate::format::registry::RegistryKey;
use crate::meter;
use crate::restore::{RestoreError, newest_moment_before};
use crate::store::keys::{GenerationId, ObjectKey};
use crate::store::retry::{Backoff, repeat};
use crate::store::{Body, ObjectStore, Put, StoreError};
use crate::tenant::roster::{Client, Progress, Status};

/// How often a further snapshot is tried before it is given up for a while.
const SNAPSHOT_ATTEMPTS: u32 = 4;
/// How often a note in the registry is tried, where the client's objects go elsewhere.
const NOTE_ATTEMPTS: u32 = 4;
/// A small request that has no answer for so long is a store that can't be reached; it is waited for all the same.
const PATIENCE: Duration = Duration::from_secs(5);
/// What is larger has more time: a slow line is no outage.
const PATIENT_BYTES_PER_MS: u64 = 128;
/// Bytes of an LTX file's checksum, at its very end.
const FILE_CHECKSUM_SIZE: u64 = 8;

/// What came of an upload. It is tried until the store has answered.
#[derive(Debug)]
pub(super) enum Uploaded {
    Done,
    /// Another object has that key.
    Conflict(Found),
    /// The generation can't begin so, or go on: the store has a newer one, or newer transactions.
    Outdated(Earlier),
}

/// What stands under a key.
#[derive(Debug)]
pub(super) enum Found {
    Nothing,
    Segment(Box<StoredSegment>),
    /// No segment, or one that is too large to be ours.
    Foreign,
}

impl Replicator {
    /// Stores a segment; a generation's first snapshot with its description before it. What is seldom done has a piece of
    /// memory of its own then: each active client has one for all that is done always.
    pub(super) async fn upload(&self, client: &Client, segment: &Segment) -> Uploaded {
        let begins = segment.snapshot && segment.end.seq == 0;
        // Once in a run that goes on with a generation, too: another instance may have had the database meanwhile.
        let is_first = client.progress().stored_generation.is_none();
        if (begins || is_first)
            && let Some(earlier) = Box::pin(self.overlooked(client, segment)).await
        {
            return Uploaded::Outdated(earlier);
        }
        if begins {
            Box::pin(self.describe_generation(client, segment)).await;
            Point::Described.reach();
        }
        let key = segment.key().below(client.s3_prefix());
        let begun = Instant::now();
        match self.put(client, &key, &segment.body, segment.size).await {
            Put::Created => {}
            Put::Exists if Box::pin(self.is_ours(client, &key, segment)).await => {}
            Put::Exists => {
                let found = Box::pin(self.read_segment(client, &key)).await;
                return Uploaded::Conflict(found);
            }
        }
        note_stored(client, segment, begun.elapsed());
        Uploaded::Done
    }

    /// Stores a further snapshot of a generation, with a few attempts: it can be made again.
    ///
    /// # Errors
    /// The last attempt's; `Failed` where another object has its key.
    pub(super) async fn upload_snapshot(
        &self,
        client: &Client,
        segment: &Segment,
    ) -> Result<(), StoreError> {
        let key = segment.key().below(client.s3_prefix());
        let begun = Instant::now();
        let put = repeat(SNAPSHOT_ATTEMPTS, || async {
            let store = self.uplink.store_of(client)?;
            let _permit = self.uplink.permit(client, segment.size).await;
            let _one = meter::UPLOADS_IN_FLIGHT.one();
            store.put_new(&key, &segment.body).await
        });
        let put = put.await;
        self.uplink.note_answer_of(client, put.as_ref().err());
        match put? {
            Put::Created => {}
            Put::Exists if self.is_ours(client, &key, segment).await => {}
            Put::Exists => {
                let reason = "another snapshot has this key already".to_owned();
                return Err(StoreError::Failed { key, reason });
            }
        }
        note_stored(client, segment, begun.elapsed());
        Ok(())
    }

    /// Repeats a request until the store gives an answer that is not a failure. `bytes` is what it sends.
    async fn persist<T, F>(
        &self,
        client: &Client,
        bytes: u64,
        request: impl Fn(Arc<dyn ObjectStore>) -> F,
    ) -> T
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let mut backoff = Backoff::of_requests();
        loop {
            if let Some(value) = self.attempt(client, bytes, &request).await {
                return value;
            }
            self.uplink.pause_of(client, backoff.pause()).await;
        }
    }

    /// Makes a request once. A failure is counted and shown.
    async fn attempt<T, F>(
        &self,
        client: &Client,
        bytes: u64,
        request: impl FnOnce(Arc<dyn ObjectStore>) -> F,
    ) -> Option<T>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let answer = match self.uplink.store_of(client) {
            Ok(store) => {
                let _permit = self.uplink.permit(client, bytes).await;
                let _one = meter::UPLOADS_IN_FLIGHT.one();
                self.patiently(client, bytes, request(store)).await
            }
            Err(error) => Err(error),
        };
        self.uplink.note_answer_of(client, answer.as_ref().err());
        let told = answer.inspect_err(|error| {
            note_failure(client, error);
            if let Some(left_out) = self.uplink.failure_to_log() {
                log_failure(client, error, left_out);
            }
        });
        told.ok()
    }

    /// Waits for an answer, and says in health where it takes longer than a request that sends so many bytes should.
    async fn patiently<T>(
        &self,
        client: &Client,
        bytes: u64,
        request: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let patience = PATIENCE + Duration::from_millis(bytes / PATIENT_BYTES_PER_MS);
        let mut request = std::pin::pin!(request);
        match tokio::time::timeout(patience, &mut request).await {
            Ok(answer) => answer,
            Err(_) => {
                self.uplink.note_silence_of(client, patience);
                request.await
            }
        }
    }

    async fn put(&self, client: &Client, key: &str, body: &Body, bytes: u64) -> Put {
        let request = |store: Arc<dyn ObjectStore>| async move { store.put_new(key, body).await };
        self.persist(client, bytes, request).await
    }

    /// Whether the object is the one that we meant to store: the acknowledgement was lost.
    async fn is_ours(&self, client: &Client, key: &str, segment: &Segment) -> bool {
        let end = segment.size - FILE_CHECKSUM_SIZE;
        // One byte more than there should be, so that a longer object is told apart.
        let request = |store: Arc<dyn ObjectStore>| async move {
            let tail = store.get_range(key, end, FILE_CHECKSUM_SIZE + 1).await;
            match tail {
                Err(error) if error.is_not_found() => Ok(Default::default()),
                other => other,
            }
        };
        let tail = self.persist(client, 0, request).await;
        *tail == segment.file_checksum.to_be_bytes()
    }

    /// What the store has that a generation has to come after, and was begun without: a newer generation, or, where
    /// the state knew of none, the transactions of an older one.
    async fn overlooked(&self, client: &Client, segment: &Segment) -> Option<Earlier> {
        let own = segment.end.generation;
        let folder = &format!("{}/snapshots/", client.s3_prefix());
        let request = |store: Arc<dyn ObjectStore>| async move { store.list_folders(folder).await };
        let names = self.persist(client, 0, request).await;
        let generation: GenerationId = names
            .iter()
            .filter_map(|name| name.parse().ok())
            .filter(|id| *id != own)
            .max()?;
        self.look_at_other(client, generation).await;
        let knows_all = segment.end.txid > 1 && !client.progress().is_behind;
        let txid = match knows_all {
            true => 0,
            false => self.newest_txid_before(client, own).await,
        };
        let is_late = generation > own || txid >= segment.end.txid;
        is_late.then_some(Earlier { generation, txid })
    }

    /// Whether another instance has begun the generation. One that can't be told now is told by the next snapshot.
    async fn look_at_other(&self, client: &Client, other: GenerationId) {
        if let Err(error) = self.note_other_generation(client, other).await {
            tracing::warn!(client = %client.label, error = %error, "Whose an earlier generation is can't be told");
        }
    }

    /// The newest transaction in the store that is of another generation; 0 where there is none.
    async fn newest_txid_before(&self, client: &Client, own: GenerationId) -> u64 {
        let request = |store: Arc<dyn ObjectStore>| async move {
            match newest_moment_before(&store, client.s3_prefix(), own).await {
                Ok(found) => Ok(found.map_or(0, |moment| moment.txid)),
                Err(RestoreError::Store(error)) => Err(error),
                Err(error) => {
                    tracing::warn!(client = %client.label, error = %error, "The numbers of an earlier history can't be told; they begin anew");
                    Ok(0)
                }
            }
        };
        self.persist(client, 0, request).await
    }

    async fn describe_generation(&self, client: &Client, segment: &Segment) {
        let owners = self.capture.owners(client.db_path.clone()).await;
        let (file, directories) = owners.unwrap_or_else(|error| {
            tracing::warn!(
                client = %client.label,
                prefix = client.prefix(),
                error = %error,
                "The owner of a database can't be read; a restore will not give it back"
            );
            (None, Vec::new())
        });
        let description = Description {
            tenant_id: client.id.tenant.to_string(),
            db_name: client.id.db_name.to_string(),
            path: client.db_path.to_path_buf(),
            instance: Some(format!("{:016x}", self.capture.node_id())),
            page_size: Some(segment.end.page_size),
            started_at: Some(rfc3339(segment.end.time_ms)),
            file,
            directories,
        };
        let key = ObjectKey::Database(segment.end.generation).below(client.s3_prefix());
        let text = description.to_text();
        let bytes = text.len() as u64;
        // One that is there is from an attempt before.
        self.put(client, &key, &Body::Bytes(text.into()), bytes)
            .await;
        if let Some(key) = self.registry_key(client) {
            self.register_in_store(client, &key).await;
        }
    }

    /// What the registry has to say, so that a client is found from the store alone.
    fn registry_key(&self, client: &Client) -> Option<RegistryKey> {
        let elsewhere = self.uplink.stores.is_elsewhere(&client.id.tenant);
        let (prefix, label) = (&client.id.prefix, &client.label);
        let key = RegistryKey::of_replica(elsewhere, prefix, label, client.s3_prefix());
        (elsewhere || client.is_listed).then_some(key)
    }

    /// Names a client in the registry, which lies in the store of all and is written with the keys to that. Nothing else of
    /// the client depends on it: what fails is said, and tried again when the next generation begins.
    async fn register_in_store(&self, client: &Client, key: &RegistryKey) {
        let Some(shared) = self.uplink.stores.shared() else {
            return;
        };
        let (key, body) = (key.to_string(), Body::Bytes(Bytes::from_static(b"{}\n")));
        // The store of all holds nobody up whose objects are not in it.
        let attempts = match self.uplink.stores.has_own(&client.id.tenant) {
            true => NOTE_ATTEMPTS,
            false => u32::MAX,
        };
        if let Err(error) = repeat(attempts, || shared.put_new(&key, &body)).await {
            tracing::warn!(client = %client.label, error = %error, "The client could not be named in the registry; it is found by its place, or with the configuration");
        }
    }

    /// Reads a segment that is not the one we would write.
    async fn read_segment(&self, client: &Client, key: &str) -> Found {
        let most = client.policy().limits.memory_bytes;
        let request = |store| fetch(store, key, most);
        let bytes = self.persist(client, 0, request).await;
        decoded(client, key, bytes)
    }

    /// Looks once for a segment that may be there; none where the store does not answer.
    pub(super) async fn look_for_segment(&self, client: &Client, key: &str) -> Option<Found> {
        // Keys with rights for one prefix are not told of a GET that there is no such object, but that it is refused.
        let listing = |store: Arc<dyn ObjectStore>| async move { store.list(key).await };
        let listed = self.attempt(client, 0, listing).await?;
        if listed.is_empty() {
            return Some(Found::Nothing);
        }
        let most = client.policy().limits.memory_bytes;
        let request = |store| fetch(store, key, most);
        let bytes = self.attempt(client, 0, request).await?;
        Some(decoded(client, key, bytes))
    }
}

/// An object, cut behind the `most` bytes that a segment of ours can have; none where there is no such object.
async fn fetch(
    store: Arc<dyn ObjectStore>,
    key: &str,
    most: u64,
) -> Result<Option<Vec<u8>>, StoreError> {
    let from = match store.get(key).await {
        Err(error) if error.is_not_found() => return Ok(None),
        other => other?,
    };
    let mut bytes = Vec::new();
    match from.take(most + 1).read_to_end(&mut bytes).await {
        Ok(_) => Ok(Some(bytes)),
        Err(error) => Err(StoreError::Unavailable {
            key: key.to_owned(),
            reason: error.to_string(),
        }),
    }
}

fn decoded(client: &Client, key: &str, bytes: Option<Vec<u8>>) -> Found {
    let Some(bytes) = bytes else {
        return Found::Nothing;
    };
    match StoredSegment::decode(&bytes) {
        Ok(segment) => Found::Segment(Box::new(segment)),
        Err(error) => {
            tracing::warn!(client = %client.label, error = %error, key, "A foreign object");
            Found::Foreign
        }
    }
}

fn note_stored(client: &Client, segment: &Segment, took: Duration) {
    meter::SYNC_DURATION.observe(took);
    let now = crate::clock::now_ms();
    client.update(|progress| {
        progress.stored_generation = Some(segment.end.generation);
        if segment.snapshot {
            progress.last_snapshot_at = Some(now);
            progress.snapshot_txid = progress.snapshot_txid.max(segment.end.txid);
        }
        note_accepted(progress, now);
    });
    let (operation, message) = if segment.snapshot {
        ("snapshot", "Snapshot stored")
    } else {
        ("sync", "Synced")
    };
    tracing::info!(
        client = %client.label,
        prefix = client.prefix(),
        operation,
        duration = %format!("{}ms", took.as_millis()),
        s3_path = %format!("{}/", client.s3_prefix()),
        "{message}"
    );
}

/// The store took something at `now`. That mends no gap: what waited may be from before it.
fn note_accepted(progress: &mut Progress, now: UnixMs) {
    progress.last_sync_at = Some(now);
    if progress.status == Status::Failing {
        progress.status = Status::Active;
    }
    if progress.status != Status::Gapped {
        progress.last_error = None;
    }
}

fn note_failure(client: &Client, error: &StoreError) {
    client.update(|progress| {
        progress.sync_errors += 1;
        if !error.is_retryable() {
            progress.status = Status::Failing;
        }
        // That history has a gap weighs more than why it is not mended yet.
        if progress.status != Status::Gapped {
            progress.last_error = Some(format!("store: {error}"));
        }
    });
}

/// `left_out`: failures that were not logged since the one before, of all clients.
fn log_failure(client: &Client, error: &StoreError, left_out: u64) {
    tracing::warn!(
        client = %client.label,
        prefix = client.prefix(),
        operation = "sync",
        s3_path = %format!("{}/", client.s3_prefix()),
        error = %error,
        left_out = (left_out > 0).then_some(left_out),
        "The store did not take a segment; it is tried again"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tenant::ids::Identity;

    #[test]
    fn a_segment_from_before_a_gap_does_not_mend_it() {
        let identity = Identity::plain("", "12345678-1234-5678-9abc-123456789012");
        let seen_at = std::path::Path::new("/data").into();
        let mut progress =
            Client::new(identity, std::path::Path::new("a.db").into(), seen_at).progress();
        progress.status = Status::Gapped;
        progress.last_error = Some("gapped: the spool is full".to_owned());
        note_accepted(&mut progress, 7);
        assert_eq!(progress.status, Status::Gapped);
        assert!(progress.last_error.is_some());
        assert_eq!(progress.last_sync_at, Some(7));

        progress.status = Status::Failing;
        note_accepted(&mut progress, 8);
        assert_eq!(progress.status, Status::Active);
        assert_eq!(progress.last_error, None);
    }
}
