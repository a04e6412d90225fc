//! What makes, removes and renames entries of directories, and what the capture is told of it.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RenameFlags, Stat};
use rustix::io::Errno;

use super::attributes::{backing_inode, file_type};
use super::error::{OperationError, OperationResult};
use super::files::{Creation, around_journal};
use super::inodes::NodeId;
use super::passthrough::{FileSystem, LookedUp, is_hidden, refuse_hidden};
use crate::capture::{Database, FileKind, Gate, STATE_FOLDER};
use crate::fault::{DiskWait, wait_for_disk};
use crate::paths::stat_entry;

/// An entry of a directory, as a request names it.
#[derive(Clone, Copy, Debug)]
pub struct EntryName<'a> {
    pub parent: NodeId,
    pub name: &'a OsStr,
}

/// An entry that exists: held open, so that it can be reached whatever becomes of its name.
struct Found {
    descriptor: Arc<OwnedFd>,
    stat: Stat,
}

impl Found {
    fn is_directory(&self) -> bool {
        file_type(&self.stat).is_dir()
    }

    fn is_file(&self) -> bool {
        file_type(&self.stat).is_file()
    }
}

impl<B: Send + Sync + 'static> FileSystem<B> {
    /// Makes a regular file, a device, a FIFO or a socket. `device` is encoded as the kernel does.
    pub fn make_node(
        &self,
        entry: EntryName<'_>,
        creation: Creation,
        device: u32,
    ) -> OperationResult<LookedUp> {
        let kind = FileType::from_raw_mode(creation.mode);
        let path = self.new_path(entry)?;
        let directory = self.locate(entry.parent)?;
        around_journal(&self.capture.classify_name(&path), || {
            creation.caller.create(creation.umask, || {
                let mode = Mode::from_raw_mode(creation.mode & 0o7777);
                rustix::fs::mknodat(&directory, entry.name, kind, mode, device.into())
            })?;
            if kind.is_file() {
                self.capture.appeared(&path, false);
                self.adopt_open(&directory, entry.name, &path, false);
            }
            Ok::<_, OperationError>(())
        })?;
        self.made(entry, &directory)
    }

    pub fn make_directory(
        &self,
        entry: EntryName<'_>,
        creation: Creation,
    ) -> OperationResult<LookedUp> {
        refuse_hidden(entry.parent, entry.name)?;
        let directory = self.locate(entry.parent)?;
        creation.caller.create(creation.umask, || {
            let mode = Mode::from_raw_mode(creation.mode & 0o7777);
            rustix::fs::mkdirat(&directory, entry.name, mode)
        })?;
        self.made(entry, &directory)
    }

    pub fn make_symbolic_link(
        &self,
        entry: EntryName<'_>,
        target: &Path,
        creation: Creation,
    ) -> OperationResult<LookedUp> {
        let path = self.new_path(entry)?;
        let directory = self.locate(entry.parent)?;
        creation.caller.create(creation.umask, || {
            rustix::fs::symlinkat(target, &directory, entry.name)
        })?;
        self.capture.link_appeared(&path);
        self.made(entry, &directory)
    }

    /// Gives an inode a further name.
    pub fn link(&self, node: NodeId, entry: EntryName<'_>) -> OperationResult<LookedUp> {
        let path = self.new_path(entry)?;
        let located = self.locate(node)?;
        let directory = self.locate(entry.parent)?;
        let descriptor = format!("/proc/self/fd/{}", located.as_fd().as_raw_fd());
        rustix::fs::linkat(
            CWD,
            descriptor,
            &directory,
            entry.name,
            AtFlags::SYMLINK_FOLLOW,
        )?;
        let linked = self.made(entry, &directory)?;
        if file_type(&linked.attributes.stat).is_file() {
            self.capture.appeared(&path, false);
            self.adopt_open(&directory, entry.name, &path, false);
        }
        Ok(linked)
    }

    fn new_path(&self, entry: EntryName<'_>) -> OperationResult<PathBuf> {
        refuse_hidden(entry.parent, entry.name)?;
        self.path(entry)
    }

    fn path(&self, entry: EntryName<'_>) -> OperationResult<PathBuf> {
        self.inodes
            .child_path(entry.parent, entry.name)
            .ok_or(OperationError::Stale)
    }

    /// Looks up an entry that was just made.
    fn made(&self, entry: EntryName<'_>, directory: impl AsFd) -> OperationResult<LookedUp> {
        let stat = stat_entry(&directory, entry.name)?;
        self.count_lookup(entry.parent, entry.name, directory, stat)
    }

    pub fn unlink(
        self: &Arc<Self>,
        entry: EntryName<'_>,
        answer: impl FnOnce(OperationResult<()>) + Send + 'static,
    ) {
        let path = match self.removable_path(entry) {
            Ok(path) => path,
            Err(error) => return answer(Err(error)),
        };
        let tracked = self.capture.classify(&path);
        let tenant = self.tenant(entry.parent, &tracked);
        let gates = removal_gates(tracked);
        let files = self.clone();
        let (parent, name) = (entry.parent, entry.name.to_owned());
        self.pass_gates_to_disk(tenant, gates, move || {
            let entry = EntryName {
                parent,
                name: &name,
            };
            match files.unlink_now(entry, &path) {
                Ok(removed) => {
                    answer(Ok(()));
                    // The last that keeps it, where the kernel does not know it: its blocks are freed now.
                    wait_for_disk(DiskWait::Close);
                    drop(removed);
                }
                Err(error) => answer(Err(error)),
            }
        });
    }

    fn unlink_now(&self, entry: EntryName<'_>, path: &Path) -> OperationResult<Found> {
        let found = self.remove(entry, path, AtFlags::empty())?;
        if found.is_file() {
            self.capture.vanished(path);
            self.follow_found(&found);
        }
        Ok(found)
    }

    pub fn remove_directory(&self, entry: EntryName<'_>) -> OperationResult<()> {
        let path = self.removable_path(entry)?;
        self.remove(entry, &path, AtFlags::REMOVEDIR)?;
        Ok(())
    }

    fn removable_path(&self, entry: EntryName<'_>) -> OperationResult<PathBuf> {
        match is_hidden(entry.parent, entry.name) {
            true => Err(Errno::NOENT.into()),
            false => self.path(entry),
        }
    }

    fn remove(&self, entry: EntryName<'_>, path: &Path, flags: AtFlags) -> OperationResult<Found> {
        let directory = self.locate(entry.parent)?;
        let found = find(&directory, entry.name)?.ok_or(Errno::NOENT)?;
        let backing = backing_inode(&found.stat);
        // Before the removal, so that no other request meets the missing name.
        self.inodes
            .detach(entry.parent, entry.name, backing, &found.descriptor);
        let removed = around_journal(&self.capture.classify_name(path), || {
            rustix::fs::unlinkat(&directory, entry.name, flags)
        });
        if let Err(error) = removed {
            self.inodes.reattach(entry.parent, entry.name, backing);
            return Err(error.into());
        }
        Ok(found)
    }

    /// Renames `from` to `to`, or exchanges them; `flags` are those of renameat2, of which WHITEOUT is refused.
    pub fn rename(
        self: &Arc<Self>,
        from: EntryName<'_>,
        to: EntryName<'_>,
        flags: u32,
        answer: impl FnOnce(OperationResult<()>) + Send + 'static,
    ) {
        let planned = self.plan_rename(from, to, flags);
        let (flags, from_path, to_path) = match planned {
            Ok(plan) => plan,
            Err(error) => return answer(Err(error)),
        };
        let tracked = self.capture.classify(&from_path);
        let tenant = self.tenant(from.parent, &tracked);
        let mut gates = removal_gates(tracked);
        gates.extend(removal_gates(self.capture.classify(&to_path)));
        let files = self.clone();
        let (from_parent, from_name) = (from.parent, from.name.to_owned());
        let (to_parent, to_name) = (to.parent, to.name.to_owned());
        self.pass_gates_to_disk(tenant, gates, move || {
            let from = EntryName {
                parent: from_parent,
                name: &from_name,
            };
            let to = EntryName {
                parent: to_parent,
                name: &to_name,
            };
            match files.rename_now((from, &from_path), (to, &to_path), flags) {
                Ok(replaced) => {
                    answer(Ok(()));
                    // As with a removal.
                    wait_for_disk(DiskWait::Close);
                    drop(replaced);
                }
                Err(error) => answer(Err(error)),
            }
        });
    }

    fn plan_rename(
        &self,
        from: EntryName<'_>,
        to: EntryName<'_>,
        flags: u32,
    ) -> OperationResult<(RenameFlags, PathBuf, PathBuf)> {
        let flags = RenameFlags::from_bits(flags)
            .filter(|flags| !flags.contains(RenameFlags::WHITEOUT))
            .ok_or(OperationError::UnsupportedFlag)?;
        refuse_hidden(to.parent, to.name)?;
        Ok((flags, self.removable_path(from)?, self.path(to)?))
    }

    fn rename_now(
        &self,
        (from, from_path): (EntryName<'_>, &Path),
        (to, to_path): (EntryName<'_>, &Path),
        flags: RenameFlags,
    ) -> OperationResult<Option<Found>> {
        let from_directory = self.locate(from.parent)?;
        let to_directory = self.locate(to.parent)?;
        let moving = find(&from_directory, from.name)?.ok_or(Errno::NOENT)?;
        let standing = find(&to_directory, to.name)?;
        let exchanged = standing
            .as_ref()
            .filter(|_| flags.contains(RenameFlags::EXCHANGE));
        let replaced = standing
            .as_ref()
            .filter(|_| !flags.intersects(RenameFlags::EXCHANGE | RenameFlags::NOREPLACE));

        self.begin_move(&moving);
        if let Some(exchanged) = exchanged {
            self.begin_move(exchanged);
        }
        if let Some(replaced) = replaced {
            let backing = backing_inode(&replaced.stat);
            self.inodes
                .detach(to.parent, to.name, backing, &replaced.descriptor);
        }
        let renamed = around_journal(&self.capture.classify_name(from_path), || {
            around_journal(&self.capture.classify_name(to_path), || {
                rustix::fs::renameat_with(&from_directory, from.name, &to_directory, to.name, flags)
            })
        });
        if renamed.is_err()
            && let Some(replaced) = replaced
        {
            let backing = backing_inode(&replaced.stat);
            self.inodes.reattach(to.parent, to.name, backing);
        }
        self.end_move(&moving, from, to, renamed.is_ok());
        if let Some(exchanged) = exchanged {
            self.end_move(exchanged, to, from, renamed.is_ok());
        }
        renamed?;
        match exchanged {
            Some(other) => self.tell_exchanged(&moving, from_path, other, to_path),
            None => self.tell_renamed(&moving, from_path, to_path, replaced.is_some()),
        }
        self.adopt_open(&to_directory, to.name, to_path, standing.is_some());
        if exchanged.is_some() {
            self.adopt_open(&from_directory, from.name, from_path, true);
        }
        self.follow_found(&moving);
        if let Some(standing) = standing.as_ref().filter(|found| found.is_file()) {
            self.follow_found(standing);
        }
        Ok(standing)
    }

    fn follow_found(&self, found: &Found) {
        if let Some(node) = self.inodes.node_of(backing_inode(&found.stat)) {
            self.follow_open(node);
        }
    }

    fn begin_move(&self, moving: &Found) {
        self.inodes
            .begin_move(backing_inode(&moving.stat), &moving.descriptor);
    }

    fn end_move(&self, moving: &Found, from: EntryName<'_>, to: EntryName<'_>, moved: bool) {
        self.inodes.end_move(
            backing_inode(&moving.stat),
            (from.parent, from.name),
            (to.parent, to.name),
            moved,
        );
    }

    fn tell_renamed(&self, moved: &Found, from: &Path, to: &Path, replaced: bool) {
        if moved.is_directory() {
            self.capture.directory_moved(from, to);
        } else if moved.is_file() {
            self.capture.renamed(from, to, replaced);
        } else {
            if replaced {
                self.capture.vanished(to);
            }
            if file_type(&moved.stat).is_symlink() {
                self.capture.link_appeared(to);
            }
        }
    }

    /// `first` stood at `here` and stands `there` now; `second` the other way round.
    fn tell_exchanged(&self, first: &Found, here: &Path, second: &Found, there: &Path) {
        if first.is_directory() && second.is_directory() {
            // Step by step, so that what is below the one is never taken for what is below the other.
            let aside = Path::new(STATE_FOLDER).join("exchanged");
            self.capture.directory_moved(here, &aside);
            self.capture.directory_moved(there, here);
            self.capture.directory_moved(&aside, there);
            return;
        }
        for (moved, from, to) in [(first, here, there), (second, there, here)] {
            if moved.is_directory() {
                self.capture.directory_moved(from, to);
            }
        }
        for (moved, other, from, to) in [(first, second, here, there), (second, first, there, here)]
        {
            if !moved.is_file() {
                continue;
            }
            if !other.is_file() {
                self.capture.vanished(from);
            }
            self.capture.appeared(to, true);
        }
    }
}

/// The gates that the removal of a file's name passes, or that of its old contents from under it.
fn removal_gates(tracked: Option<(Arc<Database>, FileKind)>) -> Vec<(Arc<Database>, Gate)> {
    match tracked {
        Some((database, FileKind::Wal)) => vec![(database, Gate::WalUnlink)],
        Some((database, FileKind::Shm)) => vec![(database, Gate::ShmUnlink)],
        Some((database, FileKind::Database)) => vec![(database, Gate::DatabaseUnlink)],
        Some((_, FileKind::Journal)) | None => Vec::new(),
    }
}

fn find(directory: impl AsFd, name: &OsStr) -> Result<Option<Found>, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(directory, name, flags, Mode::empty()) {
        Ok(descriptor) => Ok(Some(Found {
            stat: rustix::fs::fstat(&descriptor)?,
            descriptor: Arc::new(descriptor),
        })),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}
