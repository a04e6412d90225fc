//! Databases that were there before and are to be taken over: handed out one after the other, the smallest first, so that
//! a first start over many of them floods neither the disk nor the store.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::Capture;
use super::database::Database;

/// One that waits, with its size in bytes.
#[derive(Debug)]
pub struct Newcomer {
    pub db: Arc<Database>,
    pub bytes: u64,
}

/// Those that wait, and how far that has come.
#[derive(Debug, Default)]
pub(super) struct Newcomers {
    waiting: Mutex<VecDeque<Newcomer>>,
    total: AtomicUsize,
    done: AtomicUsize,
}

/// How far the take-over of databases that were there before has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TakeOver {
    pub done: usize,
    pub total: usize,
}

impl Newcomers {
    /// Adds databases, the smallest first.
    pub(super) fn add(&self, mut newcomers: Vec<Newcomer>) {
        newcomers.sort_by_key(|newcomer| newcomer.bytes);
        self.total.fetch_add(newcomers.len(), Ordering::SeqCst);
        self.waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(newcomers);
    }
}

impl Capture {
    /// The next database to be taken over; `taken_over` is to be told when that is done.
    pub fn next_newcomer(&self) -> Option<Newcomer> {
        self.newcomers
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop_front()
    }

    /// One more that `next_newcomer` gave is in the store, or could not be brought there for now.
    pub fn taken_over(&self) {
        self.newcomers.done.fetch_add(1, Ordering::SeqCst);
    }

    /// How far the take-over has come; none where there is nothing to take over.
    pub fn take_over_progress(&self) -> Option<TakeOver> {
        let total = self.newcomers.total.load(Ordering::SeqCst);
        let done = self.newcomers.done.load(Ordering::SeqCst);
        (done < total).then_some(TakeOver { done, total })
    }

    /// A database that no earlier run has stored anything of: its age counts, and it waits for its turn. One that is
    /// written meanwhile is taken over at once.
    pub(super) fn newcomer(&self, path: &Path, db: &Arc<Database>) -> Newcomer {
        db.note_first_write();
        let size = self.shared.backing.stamp(path).map(|stamp| stamp.size);
        Newcomer {
            db: db.clone(),
            // What can't be looked at says so when its turn has come.
            bytes: size.unwrap_or(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::queue::Queue;

    #[test]
    fn the_smallest_has_the_first_turn() {
        let newcomers = Newcomers::default();
        let (queue, _dirty) = Queue::new(1, Path::new("state").into());
        let sizes = [30, 10, 20].map(|bytes| Newcomer {
            db: Arc::new(Database::new(Path::new("a.db").into(), queue.clone())),
            bytes,
        });
        newcomers.add(sizes.into());
        let waiting = newcomers.waiting.lock().expect("not poisoned");
        let order: Vec<_> = waiting.iter().map(|newcomer| newcomer.bytes).collect();
        assert_eq!(order, [10, 20, 30]);
    }
}
