//! How whoever works on a database is called meanwhile.

use std::sync::{Arc, Mutex, Weak};

use tokio::sync::Notify;

use super::database::{Database, locked};

/// What whoever works on a database waits for. What is called while nobody has them need not be heard: the next round
/// begins with a look.
#[derive(Debug, Default)]
pub struct Calls(Box<Each>);

/// On its own: what a database still points at when nobody works on it is no more than a place for three words.
#[derive(Debug, Default)]
struct Each {
    nudge: Notify,
    stir: Notify,
    lost_way: Notify,
}

/// A database's calls, which are there as long as somebody works on it.
#[derive(Debug, Default)]
pub(super) struct Bell(Mutex<Weak<Calls>>);

impl Bell {
    fn ring(&self, which: impl FnOnce(&Each) -> &Notify) {
        let calls = locked(&self.0).upgrade();
        if let Some(calls) = calls {
            which(&calls.0).notify_one();
        }
    }
}

impl Database {
    /// To be kept by whoever works on it: what is called meanwhile is heard by whoever waits for it later.
    pub fn calls(&self) -> Arc<Calls> {
        let mut calls = locked(&self.calls.0);
        calls.upgrade().unwrap_or_else(|| {
            let new = Arc::new(Calls::default());
            *calls = Arc::downgrade(&new);
            new
        })
    }

    /// Nobody works on it any more, and so nothing of its calls is kept.
    pub(super) fn drop_calls(&self) {
        let mut calls = locked(&self.calls.0);
        if calls.strong_count() == 0 {
            *calls = Weak::new();
        }
    }

    /// Waits until somebody asks for a look.
    pub async fn nudged(&self) {
        self.calls().0.nudge.notified().await;
    }

    pub(super) fn ask_for_look(&self) {
        self.calls.ring(|calls| &calls.nudge);
    }

    /// Waits until something was written.
    pub async fn stirred(&self) {
        self.calls().0.stir.notified().await;
    }

    pub(super) fn note_stir(&self) {
        self.calls.ring(|calls| &calls.stir);
    }

    /// Waits until its log can't be followed any more, and only a comparison of the whole file leads on.
    pub async fn lost_way(&self) {
        self.calls().0.lost_way.notified().await;
    }

    pub(super) fn note_lost_way(&self) {
        self.calls.ring(|calls| &calls.lost_way);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::task::{Context, Poll, Waker};

    use super::*;
    use crate::capture::queue::Queue;

    /// Whether a call is there for whoever listens now.
    fn is_heard(call: impl Future<Output = ()>) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        std::pin::pin!(call).poll(&mut context) == Poll::Ready(())
    }

    #[test]
    fn what_is_called_while_somebody_works_on_it_is_heard_later_and_nothing_stays_of_it() {
        let (queue, _out) = Queue::new(1, Path::new("state").into());
        let database = Database::new(Path::new("a.db").into(), queue);
        let work = database.calls();
        database.ask_for_look();
        database.note_lost_way();
        assert!(is_heard(database.lost_way()) && is_heard(database.nudged()));
        assert!(!is_heard(database.nudged()), "it was called once");
        database.note_stir();
        drop(work);
        assert!(!is_heard(database.stirred()), "the next begins with a look");
        database.drop_calls();
        assert_eq!(Weak::weak_count(&locked(&database.calls.0)), 0);
        let again = database.calls();
        database.drop_calls();
        database.note_stir();
        assert!(is_heard(database.stirred()), "somebody works on it");
        drop(again);
    }
}
