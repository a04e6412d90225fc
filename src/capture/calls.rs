//! How whoever works on a database is called meanwhile.

use std::sync::{Arc, Mutex, Weak};

use tokio::sync::Notify;

use super::database::{Database, locked};

/// What whoever works on a database waits for. What is called while nobody has them need not be heard: the next round
/// begins with a look.
#[derive(Debug, Default)]
pub struct Calls {
    nudge: Notify,
    stir: Notify,
    lost_way: Notify,
}

/// A database's calls, which are there as long as somebody works on it.
#[derive(Debug, Default)]
pub(super) struct Bell(Mutex<Weak<Calls>>);

impl Bell {
    fn ring(&self, which: impl FnOnce(&Calls) -> &Notify) {
        let calls = locked(&self.0).upgrade();
        if let Some(calls) = calls {
            which(&calls).notify_one();
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

    /// Waits until somebody asks for a look.
    pub async fn nudged(&self) {
        self.calls().nudge.notified().await;
    }

    pub(super) fn ask_for_look(&self) {
        self.calls.ring(|calls| &calls.nudge);
    }

    /// Waits until something was written.
    pub async fn stirred(&self) {
        self.calls().stir.notified().await;
    }

    pub(super) fn note_stir(&self) {
        self.calls.ring(|calls| &calls.stir);
    }

    /// Waits until its log can't be followed any more, and only a comparison of the whole file leads on.
    pub async fn lost_way(&self) {
        self.calls().lost_way.notified().await;
    }

    pub(super) fn note_lost_way(&self) {
        self.calls.ring(|calls| &calls.lost_way);
    }
}
