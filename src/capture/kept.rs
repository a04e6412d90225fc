//! The history of a database and its lock. It is made when somebody first asks for it: most databases are only known.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard};

use super::database::locked;
use super::history::History;

#[derive(Debug, Default)]
pub(super) struct KeptHistory(Mutex<Option<Box<History>>>);

impl KeptHistory {
    pub fn lock(&self) -> HeldHistory<'_> {
        let mut history = locked(&self.0);
        history.get_or_insert_default();
        HeldHistory(history)
    }
}

/// A history that nobody else touches meanwhile.
pub(super) struct HeldHistory<'a>(MutexGuard<'a, Option<Box<History>>>);

impl Deref for HeldHistory<'_> {
    type Target = History;

    fn deref(&self) -> &History {
        self.0.as_deref().expect("BUG: made when it was locked")
    }
}

impl DerefMut for HeldHistory<'_> {
    fn deref_mut(&mut self) -> &mut History {
        self.0.as_deref_mut().expect("BUG: made when it was locked")
    }
}
