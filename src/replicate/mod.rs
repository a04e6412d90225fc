//! From captured segments to the store: a task per active client, none for the others.

mod agenda;
pub mod drills;
mod fleet;
mod late;
pub mod patrol;
mod pipeline;
mod recall;
mod removals;
mod repeated;
pub mod retention;
mod rivals;
mod rush;
mod take_over;
mod upkeep;
mod uplink;
mod upload;
mod wholeness;

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::task::{Id, JoinError, JoinSet};

use self::agenda::Agenda;
use self::rush::Rush;
use self::wholeness::{LookError, Looked};
use crate::capture::{Capture, Database};
use crate::fault;
use crate::room;
use crate::store::StoreError;
use crate::tenant::roster::{Client, Status};

pub use fleet::{Fleet, Ship};
pub use recall::Recall;
pub use uplink::{StoreHealth, Uplink};

/// Between two attempts of a sync to ask the store what it has.
const LOOK_PAUSE: Duration = Duration::from_millis(500);
/// How long a client stays alone whose task has panicked.
const QUARANTINE: Duration = Duration::from_secs(10);

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

/// The replication of all clients of a watch path.
pub struct Replicator {
    capture: Arc<Capture>,
    uplink: Arc<Uplink>,
    agenda: Mutex<Agenda>,
    agenda_changed: Notify,
    rules_changed: Notify,
    /// Upkeep reads one whole database at a time, so that pipelines find a thread for theirs.
    one_reader: Semaphore,
    stop: watch::Sender<bool>,
}

impl Replicator {
    pub fn new(capture: Arc<Capture>, uplink: Arc<Uplink>) -> Self {
        Self {
            capture,
            uplink,
            agenda: Mutex::default(),
            agenda_changed: Notify::new(),
            rules_changed: Notify::new(),
            one_reader: Semaphore::new(1),
            stop: watch::Sender::new(false),
        }
    }

    /// Runs a pipeline for each database that comes out of `dirty`, until `stop` is called.
    pub async fn run(self: Arc<Self>, mut dirty: mpsc::Receiver<Arc<Database>>) {
        let upkeep = tokio::spawn(upkeep::run(self.clone()));
        let removals = tokio::spawn(removals::run(self.clone()));
        let late = tokio::spawn(late::run(self.clone()));
        let mut tasks = JoinSet::new();
        let mut working: HashMap<Id, Arc<Database>> = HashMap::new();
        // Workers have room for one question of each pipeline.
        let room = dirty.max_capacity();
        let mut rush = Rush::default();
        let mut stop = self.stop.subscribe();
        loop {
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => break,
                () = rush.has_passed() => {
                    room::give_back_freed();
                    self.capture.move_together();
                }
                db = dirty.recv(), if tasks.len() < room => {
                    let Some(db) = db else { break };
                    let others = tasks.len();
                    let task = tasks.spawn(pipeline::run(self.clone(), db.clone(), others));
                    working.insert(task.id(), db);
                }
                Some(ended) = tasks.join_next_with_id() => {
                    let (id, panic) = match ended {
                        Ok((id, ())) => (id, None),
                        Err(error) => (error.id(), Some(error)),
                    };
                    let db = working.remove(&id).expect("BUG: a task without a database");
                    room::give_back(&mut working);
                    rush.one_has_ended();
                    match panic {
                        None => {
                            db.leave_queue();
                            self.capture.let_in();
                        }
                        Some(error) => {
                            let task = tasks.spawn(quarantine(db.clone(), error));
                            working.insert(task.id(), db);
                        }
                    }
                }
            }
        }
        tasks.shutdown().await;
        for task in [upkeep, removals, late] {
            if let Err(error) = task.await {
                tracing::error!(error = %error, "Upkeep did not end in order");
            }
        }
    }

    /// Takes over the databases that `Capture::take_over` has found and that are new. Upkeep goes on with what it finds of
    /// those that are known, under the paths that they have by now.
    pub async fn take_over(self: Arc<Self>) {
        self.rules_changed();
        take_over::run(self).await;
    }

    /// What has to be done may be due sooner by now.
    pub(super) fn rules_changed(&self) {
        self.rules_changed.notify_one();
    }

    /// Ends `run`; what waits stays in the log and in the spool.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Waits until everything that was committed before the call is in the store.
    pub async fn sync(&self, client: &Client, timeout: Duration) -> Result<Synced, SyncError> {
        let begun = Instant::now();
        if self.capture.is_unmounted() {
            return Err(SyncError::NotActive("unmounted"));
        }
        let status = client.progress().status;
        let db = match status {
            Status::Paused | Status::Refused | Status::Missing => None,
            // Of one that waits there may be a file that is still being written.
            Status::Active | Status::Gapped | Status::Failing | Status::Waiting => {
                self.capture.of_client(client)
            }
        };
        let db = db.ok_or(SyncError::NotActive(status.as_str()))?;
        let stored = async {
            loop {
                let ticket = db.request_settling();
                db.settled(ticket).await;
                if self.is_whole(&db, client).await {
                    return;
                }
            }
        };
        match tokio::time::timeout(timeout, stored).await {
            Ok(()) => Ok(Synced {
                txid: client.progress().replicated_txid,
                duration: begun.elapsed(),
            }),
            Err(_) => Err(SyncError::TimedOut(timeout)),
        }
    }

    /// Whether the store still has what it has acknowledged, as far as these keys may ask that. Waits for a store that does
    /// not answer.
    async fn is_whole(&self, db: &Arc<Database>, client: &Client) -> bool {
        loop {
            match self.look_whether_whole(db, client).await {
                Ok(looked) => return looked == Looked::Whole,
                Err(LookError::Store(StoreError::Denied { .. }) | LookError::Capture(_)) => {
                    return true;
                }
                Err(error) => {
                    tracing::debug!(client = %client.label, %error, "Whether the replica is whole can't be told");
                    tokio::time::sleep(LOOK_PAUSE).await;
                }
            }
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
        self.want_snapshot(&db);
        let rest = timeout.saturating_sub(begun.elapsed());
        let Ok(txid) = tokio::time::timeout(rest, client.snapshot(synced.txid)).await else {
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
        // Those whose turn has not come yet have no further turn.
        while let Some(newcomer) = self.capture.next_newcomer() {
            newcomer.db.mark_dirty();
            self.capture.taken_over();
        }
        let mut waiting = Vec::new();
        // What is still being written by something else than SQLite holds nothing up, and what was refused is not stored.
        let is_to_be_stored = |db: &Arc<Database>| {
            db.is_busy()
                && match db.client() {
                    Some(client) => {
                        !matches!(client.progress().status, Status::Waiting | Status::Refused)
                    }
                    // A file that is refused for another one has nothing that is to be stored.
                    None => self.capture.has_no_number(db),
                }
        };
        for db in self.capture.all().into_iter().filter(is_to_be_stored) {
            let ticket = db.request_settling();
            waiting.push((db, ticket));
        }
        let mut left = Vec::new();
        for (db, ticket) in waiting {
            let settled = tokio::time::timeout_at(deadline, db.settled(ticket));
            if settled.await.is_err() {
                left.push(db.label());
            }
        }
        left
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
    match error.try_into_panic() {
        Ok(payload) => fault::panic_text(&*payload),
        Err(_) => "cancelled".to_owned(),
    }
}

/// A panic in the work for one client ends that alone; what it said.
async fn caught<T>(work: impl Future<Output = T>) -> Result<T, String> {
    let done = AssertUnwindSafe(work).catch_unwind().await;
    done.map_err(|payload| fault::panic_text(&*payload))
}
