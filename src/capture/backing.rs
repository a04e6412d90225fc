//! The directory underneath the mount, reached through a descriptor that was opened before mounting.

use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Dir, FileType, FlockOperation, OFlags, Stat};
use rustix::io::Errno;

use super::links::BackingInode;
use crate::format::description::Attributes;
use crate::format::sqlite::{JOURNAL_HEADER_SIZE, journal_is_hot};
use crate::format::wal_index::{INDEX_HEADERS_SIZE, WalIndex};
use crate::paths::{open_beneath, stat_beneath, stat_entry};

/// How often a wal-index header is read again while a writer is in the middle of it.
const INDEX_ATTEMPTS: u32 = 64;

/// The backing directory. Paths are relative to it; no symlink is followed and no path leads outside.
#[derive(Clone, Debug)]
pub struct Backing {
    root: Arc<OwnedFd>,
}

/// What tells that a file was changed, without reading it. Whoever writes a file can put the time of its modification back,
/// and nobody that of its change without setting the clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stamp {
    pub inode: u64,
    /// Bytes.
    pub size: u64,
    pub modified_ns: i64,
    pub changed_ns: i64,
}

/// A file that was opened to be read.
#[derive(Debug)]
pub struct Opened {
    pub file: Arc<File>,
    pub stamp: Stamp,
}

/// A folder that could not be looked through, or not to its end.
#[derive(Debug)]
pub struct Unseen {
    pub folder: PathBuf,
    pub error: io::Error,
}

/// The companion of a database file: `<path><suffix>`.
pub fn companion(database: &Path, suffix: &str) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

impl Backing {
    pub fn new(root: Arc<OwnedFd>) -> Self {
        Self { root }
    }

    /// Opens a file to read; none where it does not exist (or is no regular file).
    pub fn open(&self, path: &Path) -> io::Result<Option<File>> {
        Ok(self.open_regular(path)?.map(|(file, _)| file))
    }

    /// The same with the stamp that it had then.
    pub fn open_stamped(&self, path: &Path) -> io::Result<Option<Opened>> {
        let opened = self.open_regular(path)?;
        Ok(opened.map(|(file, metadata)| Opened {
            file: file.into(),
            stamp: stamp_from(&metadata),
        }))
    }

    fn open_regular(&self, path: &Path) -> io::Result<Option<(File, Metadata)>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        match open_beneath(self.root.as_fd(), path, flags) {
            Ok(fd) => {
                let file = File::from(fd);
                let metadata = file.metadata()?;
                Ok(metadata.is_file().then_some((file, metadata)))
            }
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The stamp of a file; all zero where it does not exist.
    pub fn stamp(&self, path: &Path) -> io::Result<Stamp> {
        match stat_beneath(self.root.as_fd(), path) {
            Ok(stat) => Ok(Stamp {
                inode: stat.st_ino,
                size: stat.st_size as u64,
                modified_ns: stat.st_mtime * 1_000_000_000 + stat.st_mtime_nsec as i64,
                changed_ns: stat.st_ctime * 1_000_000_000 + stat.st_ctime_nsec as i64,
            }),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(Stamp::default()),
            Err(error) => Err(error.into()),
        }
    }

    /// The inode at `path`; none where nothing stands there, or a symbolic link is in the way.
    pub(super) fn inode(&self, path: &Path) -> io::Result<Option<BackingInode>> {
        match stat_beneath(self.root.as_fd(), path) {
            Ok(stat) => Ok(Some(BackingInode {
                device: stat.st_dev,
                number: stat.st_ino,
            })),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The inode number at `path`, and how many names it has; none where nothing stands there.
    pub(super) fn links(&self, path: &Path) -> io::Result<Option<(u64, u64)>> {
        match stat_beneath(self.root.as_fd(), path) {
            Ok(stat) => Ok(Some((stat.st_ino, stat.st_nlink))),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// What stands at `path`, which no symbolic link leads to.
    pub(super) fn kind(&self, path: &Path) -> io::Result<FileType> {
        Ok(FileType::from_raw_mode(self.stat(path)?.st_mode))
    }

    /// Owner and permissions of what stands there; none where nothing does.
    pub(super) fn attributes(&self, path: &Path) -> io::Result<Option<Attributes>> {
        match self.stat(path) {
            Ok(stat) => Ok(Some(Attributes {
                uid: stat.st_uid,
                gid: stat.st_gid,
                mode: stat.st_mode & 0o777,
            })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn stat(&self, path: &Path) -> io::Result<Stat> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW;
        let found = open_beneath(self.root.as_fd(), path, flags)?;
        Ok(rustix::fs::fstat(&found)?)
    }

    /// Whether a regular file is there; none where something else is, or where a symbolic link would be.
    pub(super) fn is_regular(&self, path: &Path) -> io::Result<Option<bool>> {
        match self.kind(path) {
            Ok(FileType::RegularFile) => Ok(Some(true)),
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Some(false)),
            Err(error) if error.raw_os_error() == Some(libc::ELOOP) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether a rollback journal stands beside the database that still has to be rolled back.
    pub fn has_hot_journal(&self, database: &Path) -> io::Result<bool> {
        let Some(journal) = self.open(&companion(database, "-journal"))? else {
            return Ok(false);
        };
        let mut first = [0; JOURNAL_HEADER_SIZE];
        let len = read_up_to(&journal, &mut first, 0)?;
        Ok(journal_is_hot(&first[..len]))
    }

    /// Every regular file and every symbolic link (then the second argument is true) below one folder, but for the one
    /// folder at the root that is named by `skip`; `.` is the root itself. Returns the folders that could not be looked
    /// through, or not to their end. One that is gone by its turn is none of them.
    ///
    /// # Errors
    /// That first folder can't be looked through.
    pub fn walk_below(
        &self,
        start: &Path,
        skip: &str,
        found: &mut dyn FnMut(PathBuf, bool),
    ) -> io::Result<Vec<Unseen>> {
        let mut folders = Vec::new();
        self.list(start, skip, &mut folders, found)?;
        let mut unseen = Vec::new();
        while let Some(folder) = folders.pop() {
            match self.list(&folder, skip, &mut folders, found) {
                Err(error) if !is_gone(&error) => unseen.push(Unseen { folder, error }),
                _ => {}
            }
        }
        Ok(unseen)
    }

    /// One folder's entries; the folders among them are added to `folders`.
    fn list(
        &self,
        folder: &Path,
        skip: &str,
        folders: &mut Vec<PathBuf>,
        found: &mut dyn FnMut(PathBuf, bool),
    ) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let fd = open_beneath(self.root.as_fd(), folder, flags)?;
        let at_root = folder == Path::new(".");
        for entry in Dir::read_from(&fd)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") || (at_root && name == skip.as_bytes()) {
                continue;
            }
            let name = OsStr::from_bytes(name);
            let path = if at_root {
                PathBuf::from(name)
            } else {
                folder.join(name)
            };
            match self.file_type(&fd, name, entry.file_type()) {
                Ok(FileType::Directory) => folders.push(path),
                Ok(FileType::RegularFile) => found(path, false),
                Ok(FileType::Symlink) => found(path, true),
                Ok(_) => {}
                Err(error) if is_gone(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The type that the directory entry gave, or that of the file where the file system does not say.
    fn file_type(&self, folder: &OwnedFd, name: &OsStr, listed: FileType) -> io::Result<FileType> {
        if listed != FileType::Unknown {
            return Ok(listed);
        }
        Ok(FileType::from_raw_mode(stat_entry(folder, name)?.st_mode))
    }
}

/// It was removed or renamed, or something else has its name.
pub fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP)
    )
}

/// Claims a directory for this process, for as long as the descriptor or a copy of it is open. False where another
/// process has it.
pub fn claim(directory: impl AsFd) -> io::Result<bool> {
    match rustix::fs::flock(directory, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// The stamp of an open file.
pub fn stamp_of(file: &File) -> io::Result<Stamp> {
    Ok(stamp_from(&file.metadata()?))
}

fn stamp_from(metadata: &Metadata) -> Stamp {
    Stamp {
        inode: metadata.ino(),
        size: metadata.size(),
        modified_ns: metadata.mtime() * 1_000_000_000 + metadata.mtime_nsec(),
        changed_ns: metadata.ctime() * 1_000_000_000 + metadata.ctime_nsec(),
    }
}

/// The published wal-index header; none where none could be read.
///
/// By `pread`, never through a map: the next opener truncates the file.
pub fn read_wal_index(shm: &File) -> io::Result<Option<WalIndex>> {
    for attempt in 0..INDEX_ATTEMPTS {
        let mut bytes = [0; INDEX_HEADERS_SIZE];
        if read_up_to(shm, &mut bytes, 0)? < bytes.len() {
            return Ok(None);
        }
        if let Some(index) = WalIndex::decode(&bytes) {
            return Ok(Some(index));
        }
        if attempt > 8 {
            std::thread::yield_now();
        }
    }
    Ok(None)
}

/// Fills `buffer` from `offset` on; returns how many bytes the file had.
pub fn read_up_to(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// A folder may become a link at any moment, also one that leads into the mount.
    #[test]
    fn nothing_behind_a_link_is_seen() {
        let scratch = tempfile::tempdir().expect("a directory");
        let (data, other) = (scratch.path().join("data"), scratch.path().join("other"));
        for folder in [&data, &other] {
            fs::create_dir(folder).expect("a folder");
        }
        fs::write(other.join("x.db"), "content").expect("a file");
        symlink(&other, data.join("folder")).expect("a link");
        let root = File::open(&data).expect("opened");
        let backing = Backing::new(Arc::new(root.into()));
        let path = Path::new("folder/x.db");
        assert_eq!(backing.stamp(path).expect("asked"), Stamp::default());
        assert!(backing.open(path).expect("asked").is_none());
        let walked = backing.walk_below(Path::new("folder"), "", &mut |_, _| {});
        assert!(walked.is_err(), "it is no folder");
    }
}
