//! Sees every commit: what the mount tells of a database's files, and what is read from them. Threads, no async.

pub mod database;

use std::path::Path;
use std::sync::Arc;

pub use crate::tenant::discovery::FileKind;
pub use database::{Database, Gate};

/// The capture of one watch path. The mount calls it; its calls never block on I/O but for `appeared`'s `stat`.
pub struct Capture {}

/// A file operation that waits for its gate: it carries the operation out and answers the kernel.
pub type Proceed = Box<dyn FnOnce() + Send>;

impl Capture {
    /// The database that the file at `path` (relative to the watch path's root) belongs to, and as what;
    /// none for a plain file. Cheap: a file name is matched and a map is asked.
    pub fn classify(&self, _path: &Path) -> Option<(Arc<Database>, FileKind)> {
        None
    }

    /// A regular file has come to stand at `path`: created, linked, or renamed to it. Called after the operation,
    /// before its reply. `replaced` says that another file stood there before.
    pub fn appeared(&self, _path: &Path, _replaced: bool) {}

    /// The name `path` is gone: unlinked, or renamed away. Called after the operation, before its reply.
    pub fn vanished(&self, _path: &Path) {}

    /// A directory with all below it has another name now.
    pub fn directory_moved(&self, _from: &Path, _to: &Path) {}

    /// Captures what the operation would destroy, then calls `proceed` on a capture worker; at the latest after
    /// `mount.gateTimeout`, and then the client is `gapped`. Returns at once.
    pub fn gate(&self, _db: &Arc<Database>, _gate: Gate, proceed: Proceed) {
        proceed()
    }
}
