//! Something of a database behind its lock that is made when it is first asked for: most databases are only known.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard};

use super::database::locked;

#[derive(Debug, Default)]
pub(super) struct Kept<T>(Mutex<Option<Box<T>>>);

impl<T: Default> Kept<T> {
    pub fn lock(&self) -> Held<'_, T> {
        let mut kept = locked(&self.0);
        kept.get_or_insert_default();
        Held(kept)
    }

    /// None where nobody has asked for it yet, so that it is as it begins.
    pub fn if_made(&self) -> Option<Held<'_, T>> {
        let kept = locked(&self.0);
        kept.is_some().then_some(Held(kept))
    }
}

impl<T: Clone> Kept<T> {
    /// Makes it anew in another place; what it was goes with what is given back.
    pub fn make_anew(&self) -> Option<Box<T>> {
        let mut kept = locked(&self.0);
        let new = kept.clone();
        std::mem::replace(&mut *kept, new)
    }
}

/// It is there, and nobody else touches it meanwhile.
pub(super) struct Held<'a, T>(MutexGuard<'a, Option<Box<T>>>);

impl<T> Deref for Held<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_deref().expect("BUG: made when it was locked")
    }
}

impl<T> DerefMut for Held<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.as_deref_mut().expect("BUG: made when it was locked")
    }
}
