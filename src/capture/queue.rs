//! The databases that wait to be looked at: a bounded channel, and beside it those that found it full. Each is in it at
//! most once, so there are never more than there are databases.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc::{self, error::TrySendError};

use super::database::Database;

/// The way into the channel. Every database has it, and so it has what all of them have in common.
#[derive(Debug)]
pub(super) struct Queue {
    /// Where their page sums are.
    pub directory: Arc<Path>,
    sender: mpsc::Sender<Arc<Database>>,
    /// In the order in which they came.
    overflow: Mutex<VecDeque<Arc<Database>>>,
}

impl Queue {
    /// A channel with so much room, and what comes out of it.
    pub(super) fn new(
        room: usize,
        directory: Arc<Path>,
    ) -> (Arc<Self>, mpsc::Receiver<Arc<Database>>) {
        let (sender, receiver) = mpsc::channel(room);
        let queue = Self {
            directory,
            sender,
            overflow: Mutex::default(),
        };
        (Arc::new(queue), receiver)
    }

    /// False where nobody takes anything out any more.
    pub(super) fn push(&self, db: Arc<Database>) -> bool {
        match self.sender.try_send(db) {
            Ok(()) => true,
            Err(TrySendError::Full(db)) => {
                self.lock().push_back(db);
                true
            }
            Err(TrySendError::Closed(_)) => false,
        }
    }

    /// There may be room: lets in those that found none.
    pub(super) fn let_in(&self) {
        let mut overflow = self.lock();
        while let Some(db) = overflow.pop_front() {
            if let Err(TrySendError::Full(db)) = self.sender.try_send(db) {
                overflow.push_front(db);
                return;
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Arc<Database>>> {
        self.overflow.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_finds_no_room_is_let_in_later() {
        let (queue, mut out) = Queue::new(1, Path::new("state").into());
        let databases = [1, 2, 3].map(|n| {
            let path = Path::new(&format!("{n}.db")).into();
            Arc::new(Database::new(path, queue.clone()))
        });
        for db in &databases {
            assert!(queue.push(db.clone()));
        }
        for db in &databases {
            let next = out.try_recv().expect("one is in it");
            assert_eq!(next.path, db.path);
            queue.let_in();
        }
        assert!(out.try_recv().is_err());
        drop(out);
        assert!(!queue.push(databases[0].clone()));
    }
}
