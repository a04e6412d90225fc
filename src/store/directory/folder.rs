//! One open folder of a directory store: everything is reached from it by single names, so nothing leads outside.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path};

use rustix::fs::{self as rfs, AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::paths::reach;
use crate::store::ObjectInfo;

/// Folders below each other that a walk enters; keys of this program have six.
const MAX_DEPTH: usize = 64;

const ENTER: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

pub(super) struct Folder {
    fd: OwnedFd,
}

impl Folder {
    /// The store's own directory; links on the way there are the user's, and followed, but not into a mount of ours.
    pub fn root(path: &Path) -> io::Result<Self> {
        let fd = reach(path)?.open(OFlags::RDONLY | OFlags::DIRECTORY)?;
        Ok(Self { fd })
    }

    /// Makes the store's own directory, and those above it that are missing; all of them are on disk then.
    pub fn make_all(path: &Path) -> io::Result<()> {
        let reached = reach(path)?;
        let above = reached.open_existing(OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut made = vec![above];
        for part in reached.rest.components() {
            match (part, made.last()) {
                (Component::Normal(name), Some(above)) => {
                    match rfs::mkdirat(above, name, Mode::from_raw_mode(0o777)) {
                        Ok(()) | Err(Errno::EXIST) => {}
                        Err(errno) => return Err(errno.into()),
                    }
                    let folder = rfs::openat(above, name, ENTER, Mode::empty())?;
                    made.push(folder);
                }
                (Component::ParentDir, Some(_)) if made.len() > 1 => drop(made.pop()),
                _ => return Err(Errno::NOENT.into()),
            }
            for folder in &made {
                rfs::fsync(folder)?;
            }
        }
        Ok(())
    }

    pub fn duplicate(&self) -> io::Result<Self> {
        let fd = self.fd.try_clone()?;
        Ok(Self { fd })
    }

    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The folder `name` directly in this one.
    pub fn enter(&self, name: &str) -> io::Result<Self> {
        let fd = rfs::openat(&self.fd, name, ENTER, Mode::empty())?;
        Ok(Self { fd })
    }

    /// The folder at `path`, names separated by slashes; itself for an empty one.
    pub fn descend(&self, path: &str) -> io::Result<Self> {
        path.split('/')
            .filter(|name| !name.is_empty())
            .try_fold(self.duplicate()?, |folder, name| folder.enter(name))
    }

    /// Makes the folder `name`; whether it was not there before.
    pub fn make(&self, name: &str) -> io::Result<bool> {
        let mode = Mode::RWXU | Mode::RGRP | Mode::XGRP;
        match rfs::mkdirat(&self.fd, name, mode) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Opens a file for reading, without waiting for whatever it may be.
    pub fn open_file(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Ok(rfs::openat(&self.fd, name, flags, Mode::empty())?.into())
    }

    pub fn unlink(&self, name: &str, flags: AtFlags) -> io::Result<()> {
        Ok(rfs::unlinkat(&self.fd, name, flags)?)
    }

    /// The names of the regular files in this folder.
    pub fn files(&self) -> io::Result<Vec<String>> {
        self.names(FileType::RegularFile)
    }

    /// The names of the folders in this folder.
    pub fn subfolders(&self) -> io::Result<Vec<String>> {
        self.names(FileType::Directory)
    }

    /// Whether a regular file lies anywhere below, as far down as a walk goes.
    pub fn holds_files(&self) -> io::Result<bool> {
        self.holds_files_below(MAX_DEPTH)
    }

    fn holds_files_below(&self, depth: usize) -> io::Result<bool> {
        if !self.files()?.is_empty() {
            return Ok(true);
        }
        if depth == 0 {
            return Ok(false);
        }
        for name in self.subfolders()? {
            if let Some(below) = super::absent(self.enter(&name))?
                && below.holds_files_below(depth - 1)?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Every regular file below, `prefix` before its path. What vanishes meanwhile is left out.
    pub fn walk(&self, prefix: &str, found: &mut dyn FnMut(ObjectInfo)) -> io::Result<()> {
        self.walk_below(prefix, MAX_DEPTH, found)
    }

    fn walk_below(
        &self,
        prefix: &str,
        depth: usize,
        found: &mut dyn FnMut(ObjectInfo),
    ) -> io::Result<()> {
        for name in self.files()? {
            let stat = rfs::statat(&self.fd, &name, AtFlags::SYMLINK_NOFOLLOW);
            if let Some(stat) = super::absent(stat.map_err(io::Error::from))? {
                found(ObjectInfo {
                    key: format!("{prefix}{name}"),
                    size: stat.st_size as u64,
                    // Whoever owns the file says when it was, and may say anything.
                    modified_ms: stat
                        .st_mtime
                        .saturating_mul(1_000)
                        .saturating_add(stat.st_mtime_nsec as i64 / 1_000_000),
                });
            }
        }
        if depth == 0 {
            return Ok(());
        }
        for name in self.subfolders()? {
            if let Some(below) = super::absent(self.enter(&name))? {
                below.walk_below(&format!("{prefix}{name}/"), depth - 1, found)?;
            }
        }
        Ok(())
    }

    /// Names that are no UTF-8 are nobody's key.
    fn names(&self, kind: FileType) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.fd)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().to_str() else {
                continue;
            };
            if !matches!(name, "." | "..") && self.kind_of(&entry, name) == kind {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }

    fn kind_of(&self, entry: &rfs::DirEntry, name: &str) -> FileType {
        match entry.file_type() {
            // Some file systems tell it only on request.
            FileType::Unknown => rfs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW)
                .map_or(FileType::Unknown, |stat| {
                    FileType::from_raw_mode(stat.st_mode)
                }),
            known => known,
        }
    }
}
