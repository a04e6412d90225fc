//! Listings of directories: streamed from the backing directory, whose own positions serve as offsets.

use std::collections::VecDeque;
use std::ffi::{CStr, CString, OsStr};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use dashmap::DashMap;
use rustix::fs::{FileType, OFlags, RawDir, SeekFrom};
use rustix::io::Errno;

use super::attributes::{self, file_type};
use super::bytes::synchronize;
use super::descriptors::Taken;
use super::disk_threads::{Asking, Tenant};
use super::error::{OperationError, OperationResult};
use super::inodes::NodeId;
use super::passthrough::{FileSystem, LookedUp, is_hidden};
use crate::paths::stat_entry;

/// How much of a directory is read ahead at once, in bytes of the kernel's entries.
const READ_AHEAD: usize = 32 << 10;

/// The open directories of a mount.
pub struct Directories {
    next: AtomicU64,
    open: DashMap<u64, Arc<Directory>>,
}

struct Directory {
    node: NodeId,
    /// Given back when it is closed.
    _taken: Taken,
    descriptor: OwnedFd,
    listing: Mutex<Listing>,
}

/// What was read ahead, and the offset at which it begins.
struct Listing {
    offset: u64,
    entries: VecDeque<DirectoryEntry>,
}

/// One entry of a directory.
#[derive(Clone, Debug)]
pub struct DirectoryEntry {
    pub number: u64,
    pub kind: FileType,
    /// Where the listing goes on behind this entry.
    pub next_offset: u64,
    name: CString,
}

impl DirectoryEntry {
    pub fn name(&self) -> &OsStr {
        OsStr::from_bytes(self.name.as_bytes())
    }

    /// The directory itself, or its parent: the kernel does not count these as looked up.
    pub fn is_dot(&self) -> bool {
        is_dot(&self.name)
    }
}

fn is_dot(name: &CStr) -> bool {
    matches!(name.to_bytes(), b"." | b"..")
}

/// Whether an answer has room for more entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Room {
    Left,
    /// The entry did not fit.
    Full,
}

impl Directories {
    pub fn new() -> Self {
        Self {
            next: AtomicU64::new(1),
            open: DashMap::new(),
        }
    }
}

impl<B> FileSystem<B> {
    /// Opens a directory for a user.
    pub fn open_directory(&self, node: NodeId, uid: u32) -> OperationResult<u64> {
        let taken = self.take_descriptors(uid)?;
        let located = self.locate(node)?;
        let directory = Directory {
            node,
            _taken: taken,
            descriptor: attributes::reopen(located, OFlags::RDONLY | OFlags::DIRECTORY)?,
            listing: Mutex::new(Listing {
                offset: 0,
                entries: VecDeque::new(),
            }),
        };
        let number = self.directories.next.fetch_add(1, Ordering::Relaxed);
        self.directories.open.insert(number, Arc::new(directory));
        Ok(number)
    }

    /// Lists the entries from `offset` on, until `add` finds no more room or the directory ends.
    pub fn read_directory(
        &self,
        handle: u64,
        offset: u64,
        mut add: impl FnMut(&DirectoryEntry) -> Room,
    ) -> OperationResult<()> {
        let directory = self.directory(handle)?;
        directory.list(offset, |entry| Ok(add(entry)))
    }

    /// Lists entries with their attributes, each counted as looked up but for `.` and `..`.
    pub fn read_directory_plus(
        &self,
        handle: u64,
        offset: u64,
        mut add: impl FnMut(&DirectoryEntry, &LookedUp) -> Room,
    ) -> OperationResult<()> {
        let directory = self.directory(handle)?;
        directory.list(offset, |entry| {
            if entry.is_dot() {
                return Ok(add(entry, &self.shown_dot(&directory, entry)?));
            }
            let name = entry.name();
            let stat = match stat_entry(&directory.descriptor, name) {
                Ok(stat) => stat,
                // Removed since it was read ahead.
                Err(Errno::NOENT) => return Ok(Room::Left),
                Err(error) => return Err(error.into()),
            };
            let looked_up = self.count_lookup(directory.node, name, &directory.descriptor, stat)?;
            let room = add(entry, &looked_up);
            if room == Room::Full {
                self.forget(looked_up.node, 1);
            }
            Ok(room)
        })
    }

    /// `.` and `..` as a listing shows them. `..` is never looked up: above a directory of the first level it is the mount
    /// point, where this mount itself would have to answer. The kernel takes no more than number and type of either.
    fn shown_dot(
        &self,
        directory: &Directory,
        entry: &DirectoryEntry,
    ) -> OperationResult<LookedUp> {
        let stat = rustix::fs::fstat(&directory.descriptor)?;
        let number = match entry.name.as_bytes() {
            b"." => self.shown(directory.node, stat).number,
            _ => self
                .inodes
                .parent_number(directory.node)
                .unwrap_or(entry.number),
        };
        Ok(LookedUp {
            node: number,
            generation: 0,
            attributes: attributes::Attributes { number, stat },
        })
    }

    /// Has the names of a directory on disk, and then answers.
    pub fn synchronize_directory(
        &self,
        handle: u64,
        data_only: bool,
        answer: impl FnOnce(OperationResult<()>) + Send + 'static,
    ) {
        let directory = match self.directory(handle) {
            Ok(directory) => directory,
            Err(error) => return answer(Err(error)),
        };
        let tenant = Tenant::Directory(directory.node);
        self.disk.run(Asking::Requests, tenant, move || {
            let synchronized = synchronize(&directory.descriptor, data_only);
            answer(synchronized.map_err(Into::into));
        });
    }

    pub fn release_directory(&self, handle: u64) {
        self.directories.open.remove(&handle);
    }

    fn directory(&self, handle: u64) -> OperationResult<Arc<Directory>> {
        self.directories
            .open
            .get(&handle)
            .map(|directory| directory.clone())
            .ok_or(OperationError::UnknownHandle)
    }
}

impl Directory {
    fn list(
        &self,
        offset: u64,
        mut add: impl FnMut(&DirectoryEntry) -> OperationResult<Room>,
    ) -> OperationResult<()> {
        let mut listing = self
            .listing
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        // From the start means anew: what was read ahead may be out of date.
        if offset == 0 || offset != listing.offset {
            listing.entries.clear();
            listing.offset = offset;
            rustix::fs::seek(&self.descriptor, SeekFrom::Start(offset))?;
        }
        let mut is_first = true;
        loop {
            if listing.entries.is_empty() {
                listing.entries = read_ahead(&self.descriptor)?;
            }
            let Some(entry) = listing.entries.front() else {
                return Ok(());
            };
            if !is_hidden(self.node, entry.name()) {
                match add(entry) {
                    Ok(Room::Left) => is_first = false,
                    Ok(Room::Full) => return Ok(()),
                    Err(error) if is_first => return Err(error),
                    // What was added already is counted as looked up, so it must be answered; the next request
                    // begins with this entry, and meets the error again.
                    Err(_) => return Ok(()),
                }
            }
            let next = entry.next_offset;
            listing.offset = next;
            listing.entries.pop_front();
        }
    }
}

/// The next entries; none at the end of the directory.
fn read_ahead(directory: &OwnedFd) -> OperationResult<VecDeque<DirectoryEntry>> {
    let mut buffer = Vec::with_capacity(READ_AHEAD);
    let mut raw = RawDir::new(directory, buffer.spare_capacity_mut());
    let mut entries = VecDeque::new();
    while let Some(entry) = raw.next() {
        let entry = entry?;
        entries.push_back(DirectoryEntry {
            number: entry.ino(),
            kind: known_type(directory, entry.file_name(), entry.file_type())?,
            next_offset: entry.next_entry_cookie(),
            name: entry.file_name().to_owned(),
        });
        if raw.is_buffer_empty() {
            break;
        }
    }
    Ok(entries)
}

/// Asks for the type where the backing file system does not list it.
fn known_type(directory: &OwnedFd, name: &CStr, listed: FileType) -> OperationResult<FileType> {
    if listed != FileType::Unknown {
        return Ok(listed);
    }
    if is_dot(name) {
        return Ok(FileType::Directory);
    }
    match stat_entry(directory, OsStr::from_bytes(name.to_bytes())) {
        Ok(stat) => Ok(file_type(&stat)),
        // Removed meanwhile: its type matters to nobody.
        Err(Errno::NOENT) => Ok(FileType::RegularFile),
        Err(error) => Err(error.into()),
    }
}
