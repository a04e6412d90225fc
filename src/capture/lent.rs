//! Backing files that applications have open: a look reads a log and its wal-index through these, and opens none itself.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use super::backing::{Backing, Opened, companion};
use super::database::Database;

/// Those of one database, each for as long as its handle is open, by their inodes. Most databases have none.
#[derive(Debug, Default)]
pub(super) struct Lent(Box<[(u64, Arc<File>)]>);

impl Lent {
    fn get(&self, inode: u64) -> Option<Arc<File>> {
        let is_meant = |(lent, _): &&(u64, Arc<File>)| *lent == inode;
        self.0.iter().find(is_meant).map(|(_, file)| file.clone())
    }

    fn remove(&mut self, file: &Arc<File>) -> Option<Arc<File>> {
        let is_meant = |(_, lent): &(u64, Arc<File>)| Arc::ptr_eq(lent, file);
        let place = self.0.iter().position(is_meant)?;
        let (_, removed) = self.change(|all| all.swap_remove(place));
        Some(removed)
    }

    pub fn take_over(&mut self, other: Lent) {
        self.change(|all| all.extend(other.0));
    }

    fn change<T>(&mut self, change: impl FnOnce(&mut Vec<(u64, Arc<File>)>) -> T) -> T {
        let mut all = std::mem::take(&mut self.0).into_vec();
        let changed = change(&mut all);
        self.0 = all.into();
        changed
    }
}

impl Database {
    /// A handle of its log or wal-index was opened to read and write, which `file` is the backing file of. (One that can
    /// only be read may be of an overlay's lower layer, which nobody writes.)
    ///
    /// # Errors
    /// Its inode can't be told; then a look opens what it reads.
    pub fn lend(&self, file: &Arc<File>) -> io::Result<()> {
        let inode = file.metadata()?.ino();
        let lent = (inode, file.clone());
        self.with_handles(|handles| handles.lent.change(|all| all.push(lent)));
        Ok(())
    }

    /// That handle was closed. A look that reads through it now has the file to its end.
    pub fn take_back(&self, file: &Arc<File>) {
        drop(self.with_handles(|handles| handles.lent.remove(file)));
    }

    /// The file with that inode, if an application has it open: while it is, no other can have the same.
    pub(super) fn lent(&self, inode: u64) -> Option<Arc<File>> {
        self.lock_handles().lent.get(inode)
    }

    /// What stands beside it under that name: where an application has that open, by its handle.
    pub(super) fn open_companion(
        &self,
        backing: &Backing,
        suffix: &str,
    ) -> io::Result<Option<Opened>> {
        let path = companion(&self.path, suffix);
        let is_any_lent = !self.lock_handles().lent.0.is_empty();
        if is_any_lent {
            let stamp = backing.stamp(&path)?;
            if let Some(file) = self.lent(stamp.inode) {
                return Ok(Some(Opened { file, stamp }));
            }
        }
        backing.open_stamped(&path)
    }
}

#[cfg(test)]
mod tests;
