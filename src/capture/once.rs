//! What is to be done once, by whoever comes first: a worker, or the time limit.

use std::sync::{Arc, Mutex};

use super::database::locked;

/// Its copies share one thing, which the first that takes it has.
pub(super) struct Once<T>(Arc<Mutex<Option<T>>>);

impl<T> Clone for Once<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Once<T> {
    pub fn new(thing: T) -> Self {
        Self(Arc::new(Mutex::new(Some(thing))))
    }

    /// None where somebody has taken it already.
    pub fn take(&self) -> Option<T> {
        locked(&self.0).take()
    }

    pub fn is_taken(&self) -> bool {
        locked(&self.0).is_none()
    }

    /// Whether the other is a copy of it.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}
