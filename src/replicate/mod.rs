//! From captured segments to the store: a task per active client, none for the others.

mod agenda;
mod pipeline;
mod repeated;
pub mod retention;
mod upkeep;
mod upload;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::task::{Id, JoinError, JoinSet};

use self::agenda::Agenda;
use self::repeated::Repeated;
use crate::capture::{Capture, Database};
use crate::store::{ObjectStore, StoreError};
use crate::tenant::roster::{Client, Status};

/// How long a client stays alone whose task has panicked.
const QUARANTINE: Duration = Duration::from_secs(10);

/// What the store said last.
#[derive(Clone, Debug, Default)]
pub struct StoreHealth {
    /// None until the first answer.
    pub reachable: Option<bool>,
    /// Whether create-only PUTs are honoured; none until probed.
    pub conditional_put: Option<bool>,
    /// What the last request failed of, a refusal of the keys too; none where it succeeded.
    pub error: Option<String>,
}

/// Everything committed before the call is in the store.
#[derive(Clone, Copy, Debug)]
pub struct Synced {
    pub txid: u64,
    pub duration: Duration,
}

#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    #[error("not everything was stored within {0:?}")]
    TimedOut(Duration),
    #[error("the client is {0}")]
    NotActive(&'static str),
    #[error("the database is empty; there is nothing to make a snapshot of")]
    Empty,
}

/// How the replication works.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// After a segment the next one waits so long; the first after a quiet time does not.
    pub sync_interval: Duration,
    /// `limits.maxConcurrentSyncs`: uploads in flight, of all clients together.
    pub max_concurrent_syncs: usize,
    /// Larger objects are not read into memory.
    pub memory_bytes: u64,
    /// A snapshot is made so long after the one before it, where something has changed.
    pub snapshot_interval: Duration,
    /// How long every moment stays restorable.
    pub retention: Duration,
}

/// The replication of all clients of a watch path.
pub struct Replicator {
    capture: Arc<Capture>,
    store: Arc<dyn ObjectStore>,
    settings: Settings,
    permits: Semaphore,
    agenda: Mutex<Agenda>,
    agenda_changed: Notify,
    /// Upkeep reads one whole database at a time, so that pipelines find a thread for theirs.
    one_reader: Semaphore,
    /// When the store's clock was read, and how many milliseconds it was ahead of ours.
    clock: Mutex<Option<(tokio::time::Instant, i64)>>,
    health: Mutex<StoreHealth>,
    failures: Mutex<Repeated>,
    stop: watch::Sender<bool>,
}

impl Replicator {
    pub fn new(capture: Arc<Capture>, store: Arc<dyn ObjectStore>, settings: Settings) -> Self {
        Self {
            capture,
            store,
            permits: Semaphore::new(settings.max_concurrent_syncs),
            settings,
            agenda: Mutex::default(),
            agenda_changed: Notify::new(),
            one_reader: Semaphore::new(1),
            clock: Mutex::new(None),
            health: Mutex::new(StoreHealth::default()),
            failures: Mutex::new(Repeated::new(Instant::now())),
            stop: watch::Sender::new(false),
        }
    }

    /// Runs a pipeline for each database that comes out of `dirty`, until `stop` is called.
    pub async fn run(self: Arc<Self>, mut dirty: mpsc::Receiver<Arc<Database>>) {
        let upkeep = tokio::spawn(upkeep::run(self.clone()));
        let mut tasks = JoinSet::new();
        let mut working: HashMap<Id, Arc<Database>> = HashMap::new();
        let mut stop = self.stop.subscribe();
        loop {
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => break,
                db = dirty.recv() => {
                    let Some(db) = db else { break };
                    let task = tasks.spawn(pipeline::run(self.clone(), db.clone()));
                    working.insert(task.id(), db);
                }
                Some(ended) = tasks.join_next_with_id() => {
                    let (id, panic) = match ended {
                        Ok((id, ())) => (id, None),
                        Err(error) => (error.id(), Some(error)),
                    };
                    let db = working.remove(&id).expect("BUG: a task without a database");
                    match panic {
                        None => db.leave_queue(),
                        Some(error) => {
                            let task = tasks.spawn(quarantine(db.clone(), error));
                            working.insert(task.id(), db);
                        }
                    }
                }
            }
        }
        tasks.shutdown().await;
        if let Err(error) = upkeep.await {
            tracing::error!(error = %error, "Upkeep did not end in order");
        }
    }

    /// Ends `run`; what waits stays in the log and in the spool.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Waits until everything that was committed before the call is in the store.
    pub async fn sync(&self, client: &Client, timeout: Duration) -> Result<Synced, SyncError> {
        let begun = Instant::now();
        let status = client.progress().status;
        let db = match status {
            Status::Paused | Status::Refused | Status::Waiting | Status::Missing => None,
            Status::Active | Status::Gapped | Status::Failing => self.capture.of_client(client),
        };
        let db = db.ok_or(SyncError::NotActive(status.as_str()))?;
        let mut settled = db.watch_settled();
        let ticket = db.request_settling();
        let done = settled.wait_for(|settled| *settled >= ticket);
        match tokio::time::timeout(timeout, done).await {
            Ok(Ok(_)) => Ok(Synced {
                txid: client.progress().replicated_txid,
                duration: begun.elapsed(),
            }),
            Ok(Err(_)) => Err(SyncError::NotActive("unregistered")),
            Err(_) => Err(SyncError::TimedOut(timeout)),
        }
    }

    /// Waits until a snapshot of everything that was committed before the call is in the store.
    pub async fn snapshot(&self, client: &Client, timeout: Duration) -> Result<Synced, SyncError> {
        let begun = Instant::now();
        let synced = self.sync(client, timeout).await?;
        if synced.txid == 0 {
            return Err(SyncError::Empty);
        }
        let db = self.capture.of_client(client);
        let db = db.ok_or(SyncError::NotActive("unregistered"))?;
        let mut snapshot = client.watch_snapshot();
        self.want_snapshot(&db);
        let done = snapshot.wait_for(|txid| *txid >= synced.txid);
        let rest = timeout.saturating_sub(begun.elapsed());
        let Ok(Ok(txid)) = tokio::time::timeout(rest, done)
            .await
            .map(|done| done.map(|txid| *txid))
        else {
            return Err(SyncError::TimedOut(timeout));
        };
        Ok(Synced {
            txid,
            duration: begun.elapsed(),
        })
    }

    /// Waits until everything that is committed is in the store, at most for `timeout`. Returns the names of those
    /// clients of which something is left in the log or in the spool.
    pub async fn sync_all(&self, timeout: Duration) -> Vec<String> {
        let deadline = tokio::time::Instant::now() + timeout;
        let mut waiting = Vec::new();
        for db in self.capture.all().into_iter().filter(|db| db.is_busy()) {
            let ticket = db.request_settling();
            waiting.push((db, ticket));
        }
        let mut left = Vec::new();
        for (db, ticket) in waiting {
            let mut settled = db.watch_settled();
            let done = settled.wait_for(|settled| *settled >= ticket);
            if tokio::time::timeout_at(deadline, done).await.is_err() {
                left.push(db.label());
            }
        }
        left
    }

    pub fn store_health(&self) -> StoreHealth {
        self.lock_health().clone()
    }

    /// Tells whether the store honours create-only PUTs.
    pub fn set_conditional_put(&self, honoured: bool) {
        self.lock_health().conditional_put = Some(honoured);
    }

    /// Notes what came of a request.
    pub(crate) fn note_answer(&self, failed: Option<&StoreError>) {
        let mut health = self.lock_health();
        health.reachable = Some(failed.is_none_or(|error| !error.is_retryable()));
        health.error = failed.map(ToString::to_string);
    }

    /// A request has had no answer for longer than it should need.
    fn note_silence(&self, waited: Duration) {
        let mut health = self.lock_health();
        health.reachable = Some(false);
        health.error = Some(format!("the store has not answered for {waited:?}"));
    }

    /// Whether a failure is to be logged, and then how many were not since the last.
    fn failure_to_log(&self) -> Option<u64> {
        self.failures
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
            .say(Instant::now())
    }

    fn lock_health(&self) -> MutexGuard<'_, StoreHealth> {
        self.health
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// One client's task panicked: the others go on, this one is tried again later.
async fn quarantine(db: Arc<Database>, error: JoinError) {
    let reason = panic_text(error);
    tracing::error!(client = %db.label(), error = %reason, "A client's replication panicked");
    if let Some(client) = db.client() {
        client.update(|progress| {
            progress.status = Status::Failing;
            progress.last_error = Some(format!("panicked: {reason}"));
        });
    }
    tokio::time::sleep(QUARANTINE).await;
    db.mark_dirty();
}

fn panic_text(error: JoinError) -> String {
    let Ok(payload) = error.try_into_panic() else {
        return "cancelled".to_owned();
    };
    payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "without a message".to_owned())
}
