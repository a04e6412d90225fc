//! What has been learnt of a server: how it takes a create-only PUT, whether it deletes in batches, and whether it wants a
//! checksum. It holds for one store, for as long as that is open.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// How a PUT says that it must not replace an object.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Condition {
    /// `If-None-Match: *`
    IfNoneMatch,
    /// Google's `x-goog-if-generation-match: 0`
    IfGenerationMatch,
    /// The server knows none: it is asked before whether there is an object.
    None,
}

/// What a PUT has to have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Manner {
    pub condition: Condition,
    /// `Content-MD5`
    pub has_md5: bool,
}

/// What is known so far.
#[derive(Debug, Default)]
pub(super) struct Learnt {
    condition: Mutex<Option<Condition>>,
    wants_md5: AtomicBool,
    deletes_singly: AtomicBool,
    deletes_in_batches: AtomicBool,
}

impl Learnt {
    /// None as long as it is not known.
    pub fn condition(&self) -> Option<Condition> {
        *self
            .condition
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether that is news.
    pub fn set_condition(&self, condition: Option<Condition>) -> bool {
        let mut known = self
            .condition
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *known, condition) != condition
    }

    pub fn manner(&self, condition: Condition) -> Manner {
        let has_md5 = self.wants_md5.load(Ordering::Relaxed);
        Manner { condition, has_md5 }
    }

    pub fn set_wants_md5(&self) {
        self.wants_md5.store(true, Ordering::Relaxed);
    }

    /// Whether a batch was looked at, and was carried out.
    pub fn deletes_in_batches(&self) -> bool {
        self.deletes_in_batches.load(Ordering::Relaxed)
    }

    pub fn set_deletes_in_batches(&self) {
        self.deletes_in_batches.store(true, Ordering::Relaxed);
    }

    pub fn deletes_singly(&self) -> bool {
        self.deletes_singly.load(Ordering::Relaxed)
    }

    /// Whether that is news.
    pub fn set_deletes_singly(&self) -> bool {
        !self.deletes_singly.swap(true, Ordering::Relaxed)
    }
}
