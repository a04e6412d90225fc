//! Files under several names. The identity of a database is its inode and the name that is registered: whatever is
//! written to that inode, by whichever of its names, is of this database. Owns which inode is which database's.
//!
//! A further name that a rule would take is refused while the first one is registered. A rollback journal beside any of
//! the names is the database's. A log or a wal-index beside another name is its own only where it is the same file as
//! that beside the registered name: else SQLite itself keeps two logs for one file.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use dashmap::DashMap;

use super::backing::companion;
use super::database::Database;
use super::handles::Handles;
use super::{Capture, FileKind};
use crate::tenant::discovery::Rules;

/// An inode of the backing directory.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct BackingInode {
    pub device: u64,
    pub number: u64,
}

/// The inodes of registered databases.
#[derive(Debug, Default)]
pub(super) struct RegisteredFiles(DashMap<BackingInode, Arc<Database>>);

impl RegisteredFiles {
    /// `db` is registered, and its name leads to `inode` now.
    pub fn insert(&self, db: &Arc<Database>, inode: BackingInode) {
        let before = db.replace_inode(Some(inode));
        if let Some(before) = before.filter(|before| *before != inode) {
            self.remove_of(db, before);
        }
        self.0.insert(inode, db.clone());
    }

    /// `db` is registered no longer.
    pub fn remove(&self, db: &Arc<Database>) {
        if let Some(inode) = db.replace_inode(None) {
            self.remove_of(db, inode);
        }
    }

    fn remove_of(&self, db: &Arc<Database>, inode: BackingInode) {
        self.0.remove_if(&inode, |_, known| Arc::ptr_eq(known, db));
        crate::room::give_back_shared(&self.0);
    }

    fn get(&self, inode: BackingInode) -> Option<Arc<Database>> {
        self.0.get(&inode).map(|db| db.clone())
    }
}

impl Capture {
    /// The database that the file with this inode belongs to, and as what. `names`: those of its names that are known,
    /// below the watch path. None for a plain file.
    pub fn classify_file(
        &self,
        inode: BackingInode,
        names: &[PathBuf],
    ) -> Option<(Arc<Database>, FileKind)> {
        if let Some(db) = self.registered_as(inode, names) {
            return Some((db, FileKind::Database));
        }
        let mut found = names.iter().filter_map(|name| self.classify_name(name));
        let first = found.next()?;
        if first.0.client().is_some() {
            return Some(first);
        }
        Some(found.find(|(db, _)| db.client().is_some()).unwrap_or(first))
    }

    /// `classify` of a name that may be one of several: a companion may belong to the database that is registered under
    /// another name than the one before the suffix.
    pub fn classify_name(&self, path: &Path) -> Option<(Arc<Database>, FileKind)> {
        let found = self.classify(path);
        if found.as_ref().is_some_and(|(db, _)| db.client().is_some()) {
            return found;
        }
        let linked = Rules::companion(path)
            .and_then(|(database, kind)| Some((self.beside(path, &database, kind)?, kind)));
        linked.or(found)
    }

    /// The registered database whose file stands at `database` under another name, where `path` beside that is its companion.
    fn beside(&self, path: &Path, database: &Path, kind: FileKind) -> Option<Arc<Database>> {
        let db = self.registered_as(self.inode_at(database)?, &[])?;
        let suffix = match kind {
            FileKind::Wal => "-wal",
            FileKind::Shm => "-shm",
            FileKind::Journal | FileKind::Database => return Some(db),
        };
        let own = self.inode_at(&companion(&db.path, suffix))?;
        (self.inode_at(path) == Some(own)).then_some(db)
    }

    /// The database that is registered with this inode. Its name is looked at, unless it is among `names`: it may have
    /// been given to another file past the mount.
    fn registered_as(&self, inode: BackingInode, names: &[PathBuf]) -> Option<Arc<Database>> {
        let db = self.files.get(inode)?;
        let is_there =
            names.iter().any(|name| **name == *db.path) || self.inode_at(&db.path) == Some(inode);
        is_there.then_some(db)
    }

    /// The path of the database that has the file at `path` already, under another name.
    pub(super) fn other_name_of(&self, path: &Path) -> Option<Arc<Database>> {
        let db = self.registered_as(self.inode_at(path)?, &[])?;
        (*db.path != *path).then_some(db)
    }

    /// The wal-index with this inode is the database's from now on, and was open before. Whether it was begun by those who
    /// have it open was not seen: their locks tell.
    pub fn index_was_adopted(&self, db: &Database, inode: u64) {
        match self.shared.is_index_in_use(inode) {
            Ok(true) => db.with_handles(Handles::index_was_begun),
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(client = %db.label(), error = %error, "Who has the wal-index in use is not known")
            }
        }
    }

    /// What can't be looked at has no inode here: its names tell.
    pub(super) fn inode_at(&self, path: &Path) -> Option<BackingInode> {
        self.shared.backing.inode(path).ok().flatten()
    }
}
