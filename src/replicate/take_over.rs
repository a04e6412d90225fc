//! Takes over the databases that were there before, a few at a time and at a bounded pace.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::{Replicator, caught};
use crate::capture::Database;
use crate::fault::Point;
use crate::tenant::pace::Pace;
use crate::tenant::roster::Status;

/// Databases that are taken over at one time; those that are written meanwhile come on top.
const AT_ONCE: usize = 8;
/// Databases, and bytes of them, in each second.
const PER_SECOND: u64 = 500;
const BYTES_PER_SECOND: u64 = 64 << 20;
/// One that is not in the store by then goes on by itself, and makes room for the next.
const PATIENCE: Duration = Duration::from_secs(10);

/// Takes over all that wait; ends when none are left, or at `stop`.
pub(super) async fn run(replicator: Arc<Replicator>) {
    let mut stop = replicator.stop.subscribe();
    let (mut databases, mut bytes) = (Pace::default(), Pace::default());
    let mut working = JoinSet::new();
    while let Some(newcomer) = replicator.capture.next_newcomer() {
        let now = Instant::now().into_std();
        let at = databases.take(now, 1, PER_SECOND).max(bytes.take(
            now,
            newcomer.bytes,
            BYTES_PER_SECOND,
        ));
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return,
            () = tokio::time::sleep_until(at.into()) => {}
        }
        let replicator = replicator.clone();
        working.spawn(async move {
            let label = newcomer.db.label();
            // Its pipeline has it all the same, and tells in health what it comes to.
            if let Err(error) = caught(take_over(newcomer.db)).await {
                tracing::error!(client = %label, error, "A take-over panicked");
            }
            replicator.capture.taken_over();
        });
        while working.len() >= AT_ONCE {
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return,
                _ = working.join_next() => {}
            }
        }
    }
    tokio::select! {
        biased;
        _ = stop.wait_for(|stop| *stop) => {}
        () = async { while working.join_next().await.is_some() {} } => {}
    }
}

async fn take_over(db: Arc<Database>) {
    Point::TakenUp.reach();
    db.mark_dirty();
    if is_uploaded(&db) {
        let ticket = db.request_settling();
        // A database that fails says so in health, and is tried again by its pipeline.
        drop(timeout(PATIENCE, db.settled(ticket)).await);
    }
}

/// Whether anything of it goes to the store at present: for what is paused nobody waits.
fn is_uploaded(db: &Database) -> bool {
    db.client()
        .is_some_and(|client| !client.is_paused() && client.progress().status != Status::Refused)
}
