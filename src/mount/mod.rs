//! The file system over a watch path.

mod adoption;
mod answer;
mod attributes;
mod bytes;
mod credentials;
mod descriptors;
mod directories;
mod disk_threads;
mod error;
mod files;
mod fuse;
mod fusermount;
mod handles;
mod holders;
mod in_use;
mod inodes;
mod lookout;
mod mountinfo;
mod names;
mod negotiation;
mod passthrough;
mod preconditions;
mod replies;
mod serving;
mod session;
mod set_id;
mod standstill;
#[cfg(test)]
mod tests;

use crate::capture::TakeOver;
pub use answer::{Answer, ask};

pub use holders::{Holder, HolderKind, holders};
pub use lookout::Lookout;
pub use preconditions::{BackingDirectory, MountError, await_release, open_backing_directory};
pub use session::{MountOptions, Mounted, UnmountError};

/// One mount as health shows it.
#[derive(Clone, Debug)]
pub struct MountStatus {
    pub watch_path: std::path::PathBuf,
    pub mountpoint: std::path::PathBuf,
    pub prefix: String,
    /// `intercept` or `passthrough`.
    pub capture: &'static str,
    /// Whether the kernel passes reads and writes of `.db` and `-shm` through.
    pub file_passthrough: bool,
    /// `mounted`, `unmounted`, `bypassed`, or `silent` where it does not answer.
    pub state: &'static str,
    pub error: Option<String>,
    /// How far the take-over of databases that were there before has come, while it lasts.
    pub take_over: Option<TakeOver>,
}
