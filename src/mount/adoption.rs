//! Files that are open when they become another database's: one that is renamed or linked to a database's name while
//! somebody writes it, one whose name goes and comes back, a log that stood there before its database, the other name of
//! a database that goes. Who has them open is told to the database.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::AtFlags;

use super::attributes::backing_inode;
use super::inodes::NodeId;
use super::passthrough::FileSystem;
use crate::capture::FileKind;

/// The database file, and what belongs to it.
const SUFFIXES: [&str; 4] = ["", "-wal", "-shm", "-journal"];

impl<B: Send + Sync + 'static> FileSystem<B> {
    /// `name` has come to stand in `directory`, at `path` below the mount's root; `replaced` says that another file stood
    /// there before.
    pub(super) fn adopt_open(
        &self,
        directory: impl AsFd,
        name: &OsStr,
        path: &Path,
        replaced: bool,
    ) {
        let suffixes: &[&str] = match self.capture.classify(path) {
            Some((_, FileKind::Database)) => &SUFFIXES,
            Some(_) => &SUFFIXES[..1],
            None => return,
        };
        for suffix in suffixes {
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
            let node = self.inodes.node_of(backing_inode(&stat));
            let Some(node) = node.filter(|node| replaced || self.handles.is_open(*node)) else {
                continue;
            };
            if replaced
                && suffix.is_empty()
                && let Some(tracked) = self.capture.classify(Path::new(&path))
            {
                self.handles.abandon(node, &tracked);
            }
            self.follow_open(node);
        }
    }

    /// A name of this file has changed: who has it open is told to the database that it belongs to now.
    pub(super) fn follow_open(&self, node: NodeId) {
        if self.handles.is_open(node)
            && let Some(tracked) = self.classify_node(node)
        {
            self.handles.adopt(node, &tracked);
            if let (database, FileKind::Shm) = &tracked
                && let Some((inode, _)) = self.inodes.names(node)
            {
                self.capture.index_was_adopted(database, inode.number);
            }
        }
    }
}
