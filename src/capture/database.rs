//! One database's state as the mount's threads touch it: flags and counters, no lock that is held during I/O.

use super::FileKind;

/// The operations that may destroy committed frames (gates), or that tell how far the commits reach (drain points).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Gate {
    /// WRITE to `-wal` into its header or into captured frames.
    WalOverwrite,
    /// SETATTR size of `-wal`, open of it with O_TRUNC, or a fallocate that punches, zeroes or collapses.
    WalTruncate,
    /// UNLINK of `-wal`, and RENAME from it or over it.
    WalUnlink,
    /// SETATTR size of `.db`: a complete checkpoint.
    DatabaseTruncate,
    /// UNLINK of `-shm`.
    ShmUnlink,
}

/// A database below the watch path, registered or not yet.
pub struct Database {}

impl Database {
    /// A handle of one of its files was opened.
    pub fn opened(&self, _kind: FileKind) {}

    /// A handle was closed for the last time. `writable`: it could have written.
    pub fn released(&self, _kind: FileKind, _writable: bool) {}

    /// Whether a WRITE to `-wal` at `offset` has to pass `Gate::WalOverwrite` first.
    pub fn wal_write_needs_gate(&self, offset: u64) -> bool {
        offset == 0
    }

    /// Bytes were written to `-wal` (or to a `.db` or `-shm` that is not passed through). After the write.
    pub fn written(&self, _kind: FileKind) {}

    /// `-journal` was created, written, truncated, unlinked or renamed: called before and after the operation.
    pub fn journal_changed(&self) {}
}
