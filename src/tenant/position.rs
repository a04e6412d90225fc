//! A position that others wait for; it costs next to nothing while nobody does.

use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::Notify;

/// How far something has come.
#[derive(Debug, Default)]
pub struct Position {
    at: AtomicU64,
    waiting: Waiting,
}

impl Position {
    /// It is there now; those who wait look.
    pub fn set(&self, at: u64) {
        if self.at.swap(at, Ordering::SeqCst) != at {
            self.tell();
        }
    }

    /// It is there, unless it has come further already.
    pub fn raise(&self, at: u64) {
        if self.at.fetch_max(at, Ordering::SeqCst) < at {
            self.tell();
        }
    }

    fn tell(&self) {
        self.waiting.tell();
    }

    /// Waits until it has come to `least`, or further; where it is then.
    pub async fn reached(&self, least: u64) -> u64 {
        let at = || self.at.load(Ordering::SeqCst);
        self.waiting.reached(least, at).await
    }
}

/// Those who wait for a position that is kept elsewhere.
#[derive(Debug, Default)]
pub struct Waiting(
    /// Gone while nobody waits.
    Mutex<Weak<Notify>>,
);

impl Waiting {
    /// It has moved; those who wait look.
    pub fn tell(&self) {
        if let Some(waiting) = self.lock().upgrade() {
            waiting.notify_waiters();
        }
    }

    /// Waits until it is `at` `least`, or further; where it is then.
    pub async fn reached(&self, least: u64, at: impl Fn() -> u64) -> u64 {
        let waiting = self.waiting();
        loop {
            let mut told = pin!(waiting.notified());
            // What is told from here on is heard; what was before is seen.
            told.as_mut().enable();
            let at = at();
            if at >= least {
                return at;
            }
            told.await;
        }
    }

    fn waiting(&self) -> Arc<Notify> {
        let mut waiting = self.lock();
        waiting.upgrade().unwrap_or_else(|| {
            let new = Arc::new(Notify::new());
            *waiting = Arc::downgrade(&new);
            new
        })
    }

    fn lock(&self) -> MutexGuard<'_, Weak<Notify>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_who_wait_go_on_when_it_is_there_and_nothing_is_kept_for_them() {
        let position = Arc::new(Position::default());
        let wait = |least: u64| {
            let position = position.clone();
            tokio::spawn(async move { position.reached(least).await })
        };
        let (second, third) = (wait(2), wait(3));
        tokio::task::yield_now().await;
        position.raise(1);
        position.raise(2);
        assert_eq!(second.await.expect("no panic"), 2);
        assert!(!third.is_finished());
        position.set(5);
        assert_eq!(third.await.expect("no panic"), 5);
        position.raise(4);
        assert_eq!(position.reached(4).await, 5, "it is there already");
        assert!(position.waiting.lock().upgrade().is_none());
    }
}
