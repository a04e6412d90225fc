//! Files that are open before they are a database's: one that is renamed or linked to a database's name while somebody
//! writes it, and a log that stood there before its database. Who has them open is told to the database.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::AtFlags;

use super::attributes::backing_inode;
use super::passthrough::FileSystem;

/// The database file, and its log.
const SUFFIXES: [&str; 2] = ["", "-wal"];

impl<B: Send + Sync + 'static> FileSystem<B> {
    /// `name` has come to stand in `directory`, at `path` below the mount's root.
    pub(super) fn adopt_open(&self, directory: impl AsFd, name: &OsStr, path: &Path) {
        for suffix in SUFFIXES {
            let with_suffix = |name: &OsStr| {
                let mut name = name.to_owned();
                name.push(suffix);
                name
            };
            let (name, path) = (with_suffix(name), with_suffix(path.as_os_str()));
            // What is not there, or can't be looked at, was not opened through us.
            let Ok(stat) = rustix::fs::statat(&directory, &name, AtFlags::SYMLINK_NOFOLLOW) else {
                continue;
            };
            if let Some(node) = self.inodes.node_of(backing_inode(&stat))
                && self.handles.is_open(node)
                && let Some(tracked) = self.capture.classify(Path::new(&path))
            {
                self.handles.adopt(node, &tracked);
            }
        }
    }
}
