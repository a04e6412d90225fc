//! Open files of the mount: how each kind is served, and the operations on them but for reads, writes and syncs
//! (`bytes`).
//!
//! What may destroy committed frames passes a gate first, and is then carried out and answered by a capture worker:
//! such operations take their answer as a function, and return at once.

use std::ffi::OsStr;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};

use rustix::fs::{FallocateFlags, Mode, OFlags, SeekFrom};
use rustix::io::Errno;

use super::attributes::{self, AttributeChange, Attributes};
use super::credentials::{Caller, without_set_id};
use super::descriptors::Taken;
use super::error::{OperationError, OperationResult};
use super::handles::{Handle, Service, Tracked};
use super::inodes::NodeId;
use super::passthrough::{FileSystem, LookedUp, refuse_hidden};
use super::set_id::{Changer, has_set_id_bits};
use crate::capture::{self, Database, FileKind, Gate};
use crate::fault::{DiskWait, wait_for_disk};

/// The most that one COPY_FILE_RANGE copies: others of its tenant may wait for it.
const COPY_AT_ONCE: usize = 16 << 20;

/// A file that was opened: its handle, and how the kernel is to serve it.
#[derive(Debug)]
pub struct Opened<B> {
    pub handle: u64,
    pub service: Service<B>,
    /// Whether pages that the kernel has cached of it are still good.
    pub keeps_page_cache: bool,
}

/// What a new file is made with.
#[derive(Clone, Copy, Debug)]
pub struct Creation {
    pub caller: Caller,
    pub umask: u32,
    /// File type and permission bits.
    pub mode: u32,
}

impl<B: Send + Sync + 'static> FileSystem<B> {
    /// Opens a regular file for a user. `register` makes the file known to the kernel as a backing file.
    pub fn open(
        &self,
        node: NodeId,
        flags: i32,
        uid: u32,
        register: impl FnOnce(BorrowedFd<'_>) -> io::Result<B>,
    ) -> OperationResult<Opened<B>> {
        let taken = self.take_descriptors(uid)?;
        let located = self.locate(node)?;
        let file = attributes::reopen(located, backing_flags(flags))?;
        let track = || self.classify_node(node);
        Ok(self.add_handle(node, (file, taken), flags, track, register))
    }

    /// Creates a regular file and opens it.
    pub fn create(
        &self,
        parent: NodeId,
        name: &OsStr,
        creation: Creation,
        flags: i32,
        register: impl FnOnce(BorrowedFd<'_>) -> io::Result<B>,
    ) -> OperationResult<(LookedUp, Opened<B>)> {
        refuse_hidden(parent, name)?;
        let taken = self.take_descriptors(creation.caller.uid)?;
        let path = self
            .inodes
            .child_path(parent, name)
            .ok_or(OperationError::Stale)?;
        let directory = self.locate(parent)?;
        let file = around_journal(&self.capture.classify_name(&path), || {
            let file = create_file(&directory, name, creation, flags)?;
            self.capture.appeared(&path, false);
            self.adopt_open(&directory, name, &path, false);
            Ok::<_, OperationError>(file)
        })?;
        let entry = self.count_lookup(parent, name, &directory, rustix::fs::fstat(&file)?)?;
        let track = || self.capture.classify_name(&path);
        let opened = self.add_handle(entry.node, (file, taken), flags, track, register);
        Ok((entry, opened))
    }

    fn add_handle(
        &self,
        node: NodeId,
        (file, taken): (OwnedFd, Taken),
        flags: i32,
        track: impl FnOnce() -> Tracked,
        register: impl FnOnce(BorrowedFd<'_>) -> io::Result<B>,
    ) -> Opened<B> {
        let handle = Handle {
            file: Arc::new(file.into()),
            node,
            is_readable: flags & libc::O_ACCMODE != libc::O_WRONLY,
            is_writable: flags & libc::O_ACCMODE != libc::O_RDONLY,
            is_external: is_external(flags),
            _taken: Some(taken),
            is_synchronous: flags & (libc::O_SYNC | libc::O_DSYNC) != 0,
            is_passthrough: false,
            tracked: Mutex::default(),
        };
        let (handle, service) = self
            .handles
            .add(handle, track, |first| self.choose_service(first, register));
        let is_page_cached = matches!(service, Service::PageCache);
        Opened {
            handle,
            service,
            keeps_page_cache: self.inodes.keeps_page_cache(node, is_page_cached),
        }
    }

    fn choose_service(
        &self,
        handle: &Handle,
        register: impl FnOnce(BorrowedFd<'_>) -> io::Result<B>,
    ) -> Service<B> {
        // A log that is not passed through comes as it is written, so that one write is one request.
        let otherwise = match &handle.tracked() {
            Some((_, FileKind::Journal)) => return Service::PageCache,
            Some((_, FileKind::Database)) if capture::is_better_seen(&handle.file) => {
                return Service::PageCache;
            }
            Some((_, FileKind::Wal)) => Service::Direct,
            Some((_, FileKind::Database | FileKind::Shm)) | None => Service::PageCache,
        };
        // A passed-through write takes set-id bits away whoever writes; through us it is the writer's rights that count.
        if !self.is_passthrough() || may_have_set_id_bits(&handle.file) {
            return otherwise;
        }
        if let Some((database, FileKind::Wal)) = &handle.tracked()
            && !self.capture.may_pass_log(database, handle.file.as_fd())
        {
            return otherwise;
        }
        // The kernel writes to the backing file with the rights that this thread has now.
        let registered = without_set_id(|| {
            register(handle.file.as_fd())
                .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
        });
        match registered {
            Ok(backing) => Service::KernelPassthrough(Arc::new(backing)),
            Err(error) => {
                self.passthrough_refused(error);
                otherwise
            }
        }
    }

    /// Stops asking for passthrough where the refusal concerns every file, and says so once.
    fn passthrough_refused(&self, error: Errno) {
        let is_lasting = matches!(
            error,
            Errno::PERM | Errno::LOOP | Errno::INVAL | Errno::NOTTY | Errno::NOSYS
        );
        if is_lasting && self.is_passthrough() {
            self.set_passthrough(false);
            tracing::warn!(%error, "The kernel refuses to pass files through: reads and writes go through the daemon");
        }
    }

    /// Copies between two open files; answers how much was copied, which may be less than `length`.
    pub fn copy_range(
        self: &Arc<Self>,
        from: (u64, u64),
        to: (u64, u64),
        length: u64,
        caller: Caller,
        answer: impl FnOnce(OperationResult<usize>) + Send + 'static,
    ) {
        let (Some(source), Some(target)) = (self.handles.get(from.0), self.handles.get(to.0))
        else {
            return answer(Err(OperationError::UnknownHandle));
        };
        let length =
            usize::try_from(length).map_or(COPY_AT_ONCE, |length| length.min(COPY_AT_ONCE));
        let gates = wal_write_gates(&target.tracked(), to.1);
        let tenant = self.tenant(target.node, &target.tracked());
        self.pass_gates_to_disk(tenant, gates, move || {
            wait_for_disk(DiskWait::Copy);
            let bytes = to.1..to.1.saturating_add(length as u64);
            let copied = change_bytes(&target, bytes, Changer::Unknown(caller), || {
                let (mut read_at, mut write_at) = (from.1, to.1);
                rustix::fs::copy_file_range(
                    &source.file,
                    Some(&mut read_at),
                    &target.file,
                    Some(&mut write_at),
                    length,
                )
            });
            answer(copied);
        });
    }

    /// Allocates, punches, zeroes, collapses or inserts, as `mode` says.
    pub fn allocate(
        self: &Arc<Self>,
        handle: u64,
        mode: i32,
        offset: u64,
        length: u64,
        caller: Caller,
        answer: impl FnOnce(OperationResult<()>) + Send + 'static,
    ) {
        let Some(handle) = self.handles.get(handle) else {
            return answer(Err(OperationError::UnknownHandle));
        };
        let mode = FallocateFlags::from_bits_retain(mode as u32);
        let destroys = FallocateFlags::PUNCH_HOLE
            | FallocateFlags::ZERO_RANGE
            | FallocateFlags::COLLAPSE_RANGE
            | FallocateFlags::INSERT_RANGE;
        let gates = match &handle.tracked() {
            Some((database, FileKind::Wal)) if mode.intersects(destroys) => {
                vec![(database.clone(), Gate::WalTruncate { kept: offset })]
            }
            _ => Vec::new(),
        };
        let tenant = self.tenant(handle.node, &handle.tracked());
        self.pass_gates_to_disk(tenant, gates, move || {
            wait_for_disk(DiskWait::Allocate);
            // Some modes move all that is behind them.
            let bytes = offset..u64::MAX;
            let changer = Changer::Unknown(caller);
            answer(change_bytes(&handle, bytes, changer, || {
                rustix::fs::fallocate(&handle.file, mode, offset, length)
            }));
        });
    }

    /// Changes attributes, the size among them; answers how they are afterwards.
    pub fn change_attributes(
        self: &Arc<Self>,
        node: NodeId,
        handle: Option<u64>,
        change: AttributeChange,
        answer: impl FnOnce(OperationResult<Attributes>) + Send + 'static,
    ) {
        let handle = handle.and_then(|number| self.handles.get(number));
        let tracked = match (&handle, change.size) {
            (_, None) => None,
            (Some(handle), _) => handle.tracked(),
            (None, Some(_)) => self.classify_node(node),
        };
        let tenant = self.tenant(node, &tracked);
        let gates = match &tracked {
            Some((database, FileKind::Wal)) => {
                let kept = change.size.unwrap_or(u64::MAX);
                vec![(database.clone(), Gate::WalTruncate { kept })]
            }
            Some((database, FileKind::Database)) => {
                vec![(database.clone(), Gate::DatabaseTruncate)]
            }
            Some((_, FileKind::Shm | FileKind::Journal)) | None => Vec::new(),
        };
        let files = self.clone();
        let change_it = move || {
            let changed = around_journal(&tracked, || {
                files.change_now(node, handle.as_deref(), &change)
            });
            if let (Ok(_), Some((database, kind)), Some(size)) = (&changed, &tracked, change.size) {
                database.resized(*kind, size);
            }
            answer(changed);
        };
        match change.size {
            // Only of files with a size there are gates.
            None => change_it(),
            Some(_) => self.pass_gates_to_disk(tenant, gates, change_it),
        }
    }

    fn change_now(
        &self,
        node: NodeId,
        handle: Option<&Handle>,
        change: &AttributeChange,
    ) -> OperationResult<Attributes> {
        let stat = match handle {
            Some(handle) => change_file(&handle.file, handle.is_writable, change)?,
            None => change_file(self.locate(node)?, false, change)?,
        };
        Ok(self.shown(node, stat))
    }

    /// Finds the next data or the next hole from `offset` on. The descriptor's own offset has no other use.
    pub fn seek(&self, handle: u64, offset: i64, whence: i32) -> OperationResult<u64> {
        let handle = self
            .handles
            .get(handle)
            .ok_or(OperationError::UnknownHandle)?;
        let offset = u64::try_from(offset).map_err(|_| Errno::NXIO)?;
        let position = match whence {
            libc::SEEK_DATA => SeekFrom::Data(offset),
            libc::SEEK_HOLE => SeekFrom::Hole(offset),
            _ => return Err(OperationError::UnsupportedFlag),
        };
        Ok(rustix::fs::seek(&handle.file, position)?)
    }

    pub fn release(&self, handle: u64) {
        if let Some(handle) = self.handles.remove(handle) {
            let tenant = self.tenant(handle.node, &handle.tracked());
            handle.released();
            self.close(tenant, handle);
        }
    }

    /// Makes what is known of inodes anew, in fewer pages of memory.
    pub fn move_together(&self) {
        self.inodes.move_together();
    }

    /// Closes what is still open when the mount has ended.
    pub fn release_all(&self) {
        self.disk.end();
        for handle in self.handles.drain() {
            handle.released();
        }
    }
}

/// Of an application's open flags those that matter to the backing file: positions and the page cache are the kernel's
/// affair, and truncation comes as a request of its own.
fn backing_flags(flags: i32) -> OFlags {
    OFlags::from_bits_retain(flags as u32)
        & (OFlags::ACCMODE | OFlags::SYNC | OFlags::DSYNC | OFlags::NOATIME)
}

/// Whether a file is opened as SQLite opens none: it reads whatever it writes, and cuts no file when it opens it. Of an
/// existing file the cut is no flag here, but a request of its own.
fn is_external(flags: i32) -> bool {
    flags & libc::O_ACCMODE == libc::O_WRONLY || flags & libc::O_TRUNC != 0
}

fn create_file(
    directory: impl AsFd,
    name: &OsStr,
    creation: Creation,
    flags: i32,
) -> OperationResult<OwnedFd> {
    let open = backing_flags(flags) | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(creation.mode & 0o7777);
    let created = creation.caller.create(creation.umask, || {
        rustix::fs::openat(directory, name, open, mode)
    });
    match created {
        // Made past the mount. The kernel looks the name up again, and checks the caller's rights to the file.
        Err(Errno::EXIST) if flags & libc::O_EXCL == 0 => Err(OperationError::Stale),
        created => Ok(created?),
    }
}

fn change_file(
    file: impl AsFd,
    is_writable: bool,
    change: &AttributeChange,
) -> Result<rustix::fs::Stat, Errno> {
    if let Some(size) = change.size {
        wait_for_disk(DiskWait::Truncate);
        attributes::truncate(&file, is_writable, size, change.caller)?;
    }
    attributes::change_attributes(&file, change)?;
    rustix::fs::fstat(&file)
}

fn may_have_set_id_bits(file: impl AsFd) -> bool {
    // What can't be asked is served in the way that is always right.
    rustix::fs::fstat(file).map_or(true, |stat| has_set_id_bits(&stat))
}

pub(super) fn wal_write_gates(tracked: &Tracked, offset: u64) -> Vec<(Arc<Database>, Gate)> {
    match tracked {
        Some((database, FileKind::Wal)) if database.wal_write_needs_gate(offset) => {
            vec![(database.clone(), Gate::WalOverwrite)]
        }
        _ => Vec::new(),
    }
}

/// Changes a file's bytes in a range, and tells its database.
pub(super) fn change_bytes<T>(
    handle: &Handle,
    bytes: Range<u64>,
    changer: Changer,
    change: impl FnOnce() -> Result<T, Errno>,
) -> OperationResult<T> {
    let tracked = &handle.tracked();
    let changed = around_journal(tracked, || changer.change(&handle.file, change))?;
    match tracked {
        Some((database, kind @ (FileKind::Wal | FileKind::Database | FileKind::Shm))) => {
            database.written_at(*kind, bytes);
        }
        Some((_, FileKind::Journal)) | None => {}
    }
    Ok(changed)
}

/// Runs `change`; where it is a journal that changes, its database is told before and after.
pub(super) fn around_journal<T>(tracked: &Tracked, change: impl FnOnce() -> T) -> T {
    let journal_changed = || {
        if let Some((database, FileKind::Journal)) = tracked {
            database.journal_changed();
        }
    };
    journal_changed();
    let changed = change();
    journal_changed();
    changed
}
