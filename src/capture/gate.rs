//! The file operations that the capture has to come before.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::database::Database;

/// The operations that may destroy committed frames (gates), or that tell how far the commits reach (drain points).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Gate {
    /// WRITE to `-wal` into its header or into captured frames.
    WalOverwrite,
    /// SETATTR size of `-wal`, open of it with O_TRUNC, or a fallocate that punches, zeroes or collapses: bytes before
    /// this offset stay as they are.
    WalTruncate { kept: u64 },
    /// UNLINK of `-wal`, and RENAME from it or over it.
    WalUnlink,
    /// SETATTR size of `.db`: a complete checkpoint.
    DatabaseTruncate,
    /// UNLINK of `-shm`.
    ShmUnlink,
    /// UNLINK of `.db`, and RENAME from it or over it: after that nobody reads its log any more.
    DatabaseUnlink,
}

/// An operation that was captured for, and is not carried out yet. While this lives, a log that still stands there as
/// it was captured is one that has ended, and not one that goes on.
#[derive(Debug)]
pub struct Passing(Option<Arc<Database>>);

impl Passing {
    pub(super) fn begin(db: &Arc<Database>, gate: Gate) -> Self {
        let destroys = gate.destroys_frames();
        if destroys {
            db.count_passing(1);
        }
        Self(destroys.then(|| db.clone()))
    }
}

impl Drop for Passing {
    fn drop(&mut self) {
        if let Some(db) = &self.0 {
            db.count_passing(-1);
        }
    }
}

impl Database {
    fn count_passing(&self, change: i32) {
        self.passing.fetch_add(change, Ordering::SeqCst);
    }

    /// Whether an operation that its gate captured for may still have to be carried out.
    pub(super) fn is_passing(&self) -> bool {
        self.passing.load(Ordering::SeqCst) > 0
    }
}

impl Gate {
    /// Whether committed frames may be gone after it.
    pub fn destroys_frames(self) -> bool {
        self.kept_bytes().is_some()
    }

    /// Where it may destroy frames: up to which byte of the log there are none of these.
    pub(super) fn kept_bytes(self) -> Option<u64> {
        match self {
            Gate::WalOverwrite | Gate::WalUnlink | Gate::DatabaseUnlink => Some(0),
            Gate::WalTruncate { kept } => Some(kept),
            Gate::DatabaseTruncate | Gate::ShmUnlink => None,
        }
    }
}
