//! How files are reached without a way into a mount of this process: below a directory, and by a path that a user gave.
//!
//! A thread that asks its own mount waits for other threads of the same process, and when all of them do, for nobody:
//! whatever uses the mount hangs until its connection is aborted. So a name is resolved from a descriptor that was opened
//! before mounting, without a link and without `..`; an absolute path is walked step by step, and each step is looked at.

mod beneath;
mod reach;

pub use beneath::{Detached, open_beneath, stat_beneath, stat_entry};
pub use reach::{OwnMount, Reached, WayIn, reach};
