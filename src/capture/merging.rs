//! When what waits in the spool is merged: after a gate, before one is tried again that has found no room, and before it
//! is stored. It is done by the threads for whole databases, since it takes time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;

use super::Shared;
use super::database::Database;
use super::merge::{Reason, merge};
use super::workers::{Look, caught};

/// How often it is looked whether a merge that is under way has ended.
const PAUSE: Duration = Duration::from_millis(1);
/// What is about to be stored waits so long for that.
const STORE_PATIENCE: Duration = Duration::from_millis(100);

/// Where something of the database may be merged, a thread finds out, and does it.
pub(super) fn soon(db: &Arc<Database>, threads: &Sender<Look>) {
    if !db.history().may_have_run() || !db.begin_merging() {
        return;
    }
    let merged = db.clone();
    let work: Look = Box::new(move |shared, _| merge_now(&merged, shared, Reason::Room));
    if threads.try_send(work).is_err() {
        // The next gate asks again.
        db.end_merging();
    }
}

/// The same, and `then` is done after that, whatever came of it; not later than `until`, as far as a thread is free. False
/// where there is nothing to merge, or too much waits for a thread: then `then` is not done.
pub(super) fn before(
    db: &Arc<Database>,
    threads: &Sender<Look>,
    until: Instant,
    then: Look,
) -> bool {
    db.history().may_have_run() && ask(db.clone(), threads, until, then)
}

fn ask(db: Arc<Database>, threads: &Sender<Look>, until: Instant, then: Look) -> bool {
    let again = threads.clone();
    let work: Look = Box::new(move |shared, answers| {
        if db.begin_merging() {
            merge_now(&db, shared, Reason::Room);
        } else if Instant::now() < until {
            // What is being merged, or waits for that, is the same; and that may wait behind this.
            std::thread::sleep(PAUSE);
            ask(db, &again, until, then);
            return;
        }
        then(shared, answers);
    });
    threads.try_send(work).is_ok()
}

/// On such a thread: merges what is about to be stored, after a merge that is under way, but for one that takes long.
pub(super) fn before_store(db: &Arc<Database>, shared: &Shared) {
    let until = Instant::now() + STORE_PATIENCE;
    while !db.begin_merging() {
        if Instant::now() >= until {
            return;
        }
        std::thread::sleep(PAUSE);
    }
    merge_now(db, shared, Reason::Store);
}

fn merge_now(db: &Arc<Database>, shared: &Shared, reason: Reason) {
    if let Err(error) = caught(db, || merge(db, shared, reason)) {
        tracing::warn!(client = %db.label(), error = %error, "What waits in the spool could not be merged");
    }
    db.end_merging();
}
