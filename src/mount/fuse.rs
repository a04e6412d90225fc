//! The FUSE protocol's side of the mount: each request calls one method of the file system and sends its answer.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use fuser::{
    BackingId, BsdFileFlags, Errno, FileHandle, Filesystem, FopenFlags, Generation, INodeNo,
    InitFlags, IoctlFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek,
    ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use super::attributes::AttributeChange;
use super::directories::Room;
use super::passthrough::FileSystem;
use super::replies::{
    ATTRIBUTE_TTL, caller, creation, entry_name, errno, file_attributes, fuse_type, new_time,
    send_absent, send_attributes, send_created, send_done, send_entry, send_extended, send_made,
    send_opened, send_written,
};
use crate::meter::FileOperation;

/// The largest request for bytes; the kernel's own limit is 256 pages where it was not raised.
const MAX_WRITE: u32 = 1 << 20;

/// What INIT is asked for, each where the kernel has it.
const CAPABILITIES: [InitFlags; 9] = [
    InitFlags::FUSE_ASYNC_DIO,
    InitFlags::FUSE_CACHE_SYMLINKS,
    InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
    InitFlags::FUSE_DO_READDIRPLUS,
    // The caller's umask is applied where a directory's default ACL does not replace it.
    InitFlags::FUSE_DONT_MASK,
    // Or every write asks for security.capability first.
    InitFlags::FUSE_HANDLE_KILLPRIV_V2,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_READDIRPLUS_AUTO,
    InitFlags::FUSE_MAX_PAGES,
];

/// How this mount is negotiated.
#[derive(Clone, Copy, Debug)]
pub struct Negotiation {
    /// Whether to pass reads and writes through where the kernel can.
    pub passthrough: bool,
    /// How many file systems may lie upon one another, this one's backing directory included.
    pub stack_depth: u32,
    /// Whether the backing file system has access control lists, which the kernel is then to apply.
    pub access_lists: bool,
}

/// The file system as the kernel speaks to it.
pub struct FuseAdapter {
    files: Arc<FileSystem<BackingId>>,
    negotiation: Negotiation,
}

impl FuseAdapter {
    pub fn new(files: Arc<FileSystem<BackingId>>, negotiation: Negotiation) -> Self {
        Self { files, negotiation }
    }
}

impl Filesystem for FuseAdapter {
    /// Not asked for: POSIX_LOCKS and FLOCK_LOCKS (locks stay in the kernel), WRITEBACK_CACHE (a write to `-wal` must
    /// arrive at once and in order), ATOMIC_O_TRUNC (a truncation must come as SETATTR).
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let offered = config.capabilities();
        let mut wanted = CAPABILITIES
            .into_iter()
            .fold(InitFlags::empty(), |all, one| all | one);
        if self.negotiation.access_lists {
            wanted |= InitFlags::FUSE_POSIX_ACL;
        }
        let passthrough =
            self.negotiation.passthrough && offered.contains(InitFlags::FUSE_PASSTHROUGH);
        if passthrough {
            wanted |= InitFlags::FUSE_PASSTHROUGH;
        }
        let refused = |what: &str| io::Error::other(format!("the kernel refuses {what}"));
        config
            .add_capabilities(wanted & offered)
            .map_err(|_| refused("its own capabilities"))?;
        config
            .set_max_write(MAX_WRITE)
            .map_err(|_| refused("the size of a write"))?;
        config
            .set_max_stack_depth(self.negotiation.stack_depth)
            .map_err(|_| refused("the stack depth"))?;
        self.files.set_passthrough(passthrough);
        Ok(())
    }

    fn destroy(&mut self) {
        self.files.release_all();
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let timed = FileOperation::Lookup.begin();
        match self.files.look_up(parent.0, name) {
            Ok(Some(entry)) => send_entry(reply, &entry),
            Ok(None) => send_absent(reply),
            Err(error) => reply.error(errno(&timed, error)),
        }
    }

    fn forget(&self, _request: &Request, node: INodeNo, lookups: u64) {
        let _timed = FileOperation::Forget.begin();
        self.files.forget(node.0, lookups);
    }

    fn getattr(
        &self,
        _request: &Request,
        node: INodeNo,
        handle: Option<FileHandle>,
        reply: ReplyAttr,
    ) {
        let timed = FileOperation::GetAttributes.begin();
        let attributes = self.files.attributes(node.0, handle.map(|handle| handle.0));
        send_attributes(timed, reply, attributes);
    }

    fn setattr(
        &self,
        request: &Request,
        node: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let timed = FileOperation::SetAttributes.begin();
        let change = AttributeChange {
            caller: caller(request),
            mode,
            uid,
            gid,
            size,
            atime: atime.map(new_time),
            mtime: mtime.map(new_time),
        };
        let handle = handle.map(|handle| handle.0);
        self.files
            .change_attributes(node.0, handle, change, move |changed| {
                send_attributes(timed, reply, changed);
            });
    }

    fn readlink(&self, _request: &Request, node: INodeNo, reply: ReplyData) {
        let timed = FileOperation::ReadLink.begin();
        match self.files.read_link(node.0) {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(errno(&timed, error)),
        }
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let timed = FileOperation::MakeNode.begin();
        let made = self.files.make_node(
            entry_name(parent, name),
            creation(request, mode, umask),
            rdev,
        );
        send_made(timed, reply, made);
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let timed = FileOperation::MakeDirectory.begin();
        let made = self
            .files
            .make_directory(entry_name(parent, name), creation(request, mode, umask));
        send_made(timed, reply, made);
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let timed = FileOperation::SymbolicLink.begin();
        let creation = creation(request, 0o777, 0);
        let made = self
            .files
            .make_symbolic_link(entry_name(parent, name), target, creation);
        send_made(timed, reply, made);
    }

    fn link(
        &self,
        _request: &Request,
        node: INodeNo,
        parent: INodeNo,
        name: &OsStr,
        reply: ReplyEntry,
    ) {
        let timed = FileOperation::Link.begin();
        let made = self.files.link(node.0, entry_name(parent, name));
        send_made(timed, reply, made);
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let timed = FileOperation::Unlink.begin();
        self.files.unlink(entry_name(parent, name), move |removed| {
            send_done(timed, reply, removed);
        });
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let timed = FileOperation::RemoveDirectory.begin();
        let removed = self.files.remove_directory(entry_name(parent, name));
        send_done(timed, reply, removed);
    }

    fn rename(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let timed = FileOperation::Rename.begin();
        let from = entry_name(parent, name);
        let to = entry_name(new_parent, new_name);
        self.files.rename(from, to, flags.bits(), move |renamed| {
            send_done(timed, reply, renamed);
        });
    }

    fn open(&self, _request: &Request, node: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let timed = FileOperation::Open.begin();
        let opened = self
            .files
            .open(node.0, flags.0, |file| reply.open_backing(file));
        match opened {
            Err(error) => reply.error(errno(&timed, error)),
            Ok(opened) => send_opened(reply, &opened),
        }
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let timed = FileOperation::Create.begin();
        let created = self.files.create(
            parent.0,
            name,
            creation(request, mode, umask),
            flags,
            |file| reply.open_backing(file),
        );
        match created {
            Err(error) => reply.error(errno(&timed, error)),
            Ok((entry, opened)) => send_created(reply, &entry, &opened),
        }
    }

    fn read(
        &self,
        _request: &Request,
        _node: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let timed = FileOperation::Read.begin();
        self.files
            .read(handle.0, offset, size as usize, |read| match read {
                Ok(bytes) => reply.data(bytes),
                Err(error) => reply.error(errno(&timed, error)),
            });
    }

    fn write(
        &self,
        _request: &Request,
        _node: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let timed = FileOperation::Write.begin();
        let keeps_set_id = !write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        self.files
            .write(handle.0, offset, data, keeps_set_id, move |written| {
                send_written(timed, reply, written);
            });
    }

    /// There is nothing to do at a close; after this answer the kernel does not ask again.
    fn flush(
        &self,
        _request: &Request,
        _node: INodeNo,
        _handle: FileHandle,
        _owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        let _timed = FileOperation::Flush.begin();
        reply.error(Errno::ENOSYS);
    }

    fn release(
        &self,
        _request: &Request,
        _node: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let _timed = FileOperation::Release.begin();
        self.files.release(handle.0);
        reply.ok();
    }

    fn fsync(
        &self,
        _request: &Request,
        _node: INodeNo,
        handle: FileHandle,
        data_only: bool,
        reply: ReplyEmpty,
    ) {
        let timed = FileOperation::Synchronize.begin();
        send_done(timed, reply, self.files.synchronize(handle.0, data_only));
    }

    fn opendir(&self, _request: &Request, node: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let timed = FileOperation::OpenDirectory.begin();
        match self.files.open_directory(node.0) {
            Ok(handle) => reply.opened(FileHandle(handle), FopenFlags::empty()),
            Err(error) => reply.error(errno(&timed, error)),
        }
    }

    fn readdir(
        &self,
        _request: &Request,
        _node: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let timed = FileOperation::ReadDirectory.begin();
        let listed = self.files.read_directory(handle.0, offset, |entry| {
            let kind = fuse_type(entry.kind);
            let number = INodeNo(entry.number);
            match reply.add(number, entry.next_offset, kind, entry.name()) {
                true => Room::Full,
                false => Room::Left,
            }
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(&timed, error)),
        }
    }

    fn readdirplus(
        &self,
        _request: &Request,
        _node: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let timed = FileOperation::ReadDirectoryPlus.begin();
        let listed = self
            .files
            .read_directory_plus(handle.0, offset, |entry, looked_up| {
                let is_full = reply.add(
                    INodeNo(looked_up.node),
                    entry.next_offset,
                    entry.name(),
                    &ATTRIBUTE_TTL,
                    &file_attributes(looked_up.node, &looked_up.attributes),
                    Generation(looked_up.generation.into()),
                );
                if is_full { Room::Full } else { Room::Left }
            });
        match listed {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(&timed, error)),
        }
    }

    fn releasedir(
        &self,
        _request: &Request,
        _node: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        let _timed = FileOperation::ReleaseDirectory.begin();
        self.files.release_directory(handle.0);
        reply.ok();
    }

    fn fsyncdir(
        &self,
        _request: &Request,
        _node: INodeNo,
        handle: FileHandle,
        data_only: bool,
        reply: ReplyEmpty,
    ) {
        let timed = FileOperation::SynchronizeDirectory.begin();
        let synchronized = self.files.synchronize_directory(handle.0, data_only);
        send_done(timed, reply, synchronized);
    }

    fn statfs(&self, _request: &Request, _node: INodeNo, reply: ReplyStatfs) {
        let timed = FileOperation::Statistics.begin();
        match self.files.statistics() {
            Ok(all) => reply.statfs(
                all.f_blocks,
                all.f_bfree,
                all.f_bavail,
                all.f_files,
                all.f_ffree,
                all.f_bsize as u32,
                all.f_namemax as u32,
                all.f_frsize as u32,
            ),
            Err(error) => reply.error(errno(&timed, error)),
        }
    }

    fn setxattr(
        &self,
        _request: &Request,
        node: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let timed = FileOperation::SetExtendedAttribute.begin();
        let set = self
            .files
            .set_extended_attribute(node.0, name, value, flags);
        send_done(timed, reply, set);
    }

    fn getxattr(
        &self,
        _request: &Request,
        node: INodeNo,
        name: &OsStr,
        size: u32,
        reply: ReplyXattr,
    ) {
        let timed = FileOperation::GetExtendedAttribute.begin();
        let value = self.files.extended_attribute(node.0, name, size as usize);
        send_extended(timed, reply, value);
    }

    fn listxattr(&self, request: &Request, node: INodeNo, size: u32, reply: ReplyXattr) {
        let timed = FileOperation::ListExtendedAttributes.begin();
        let names = self
            .files
            .extended_attribute_names(node.0, size as usize, caller(request));
        send_extended(timed, reply, names);
    }

    fn removexattr(&self, _request: &Request, node: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let timed = FileOperation::RemoveExtendedAttribute.begin();
        let removed = self.files.remove_extended_attribute(node.0, name);
        send_done(timed, reply, removed);
    }

    /// None is supported; after this answer the kernel does not ask again, and applications get ENOTTY.
    fn ioctl(
        &self,
        _request: &Request,
        _node: INodeNo,
        _handle: FileHandle,
        _flags: IoctlFlags,
        _command: u32,
        _data: &[u8],
        _size: u32,
        reply: ReplyIoctl,
    ) {
        let _timed = FileOperation::Control.begin();
        reply.error(Errno::ENOSYS);
    }

    fn fallocate(
        &self,
        request: &Request,
        _node: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let timed = FileOperation::Allocate.begin();
        let caller = caller(request);
        self.files
            .allocate(handle.0, mode, offset, length, caller, move |allocated| {
                send_done(timed, reply, allocated);
            });
    }

    fn lseek(
        &self,
        _request: &Request,
        _node: INodeNo,
        handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let timed = FileOperation::Seek.begin();
        match self.files.seek(handle.0, offset, whence) {
            Ok(offset) => reply.offset(offset as i64),
            Err(error) => reply.error(errno(&timed, error)),
        }
    }

    fn copy_file_range(
        &self,
        request: &Request,
        _node_in: INodeNo,
        handle_in: FileHandle,
        offset_in: u64,
        _node_out: INodeNo,
        handle_out: FileHandle,
        offset_out: u64,
        length: u64,
        _flags: fuser::CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let timed = FileOperation::CopyRange.begin();
        self.files.copy_range(
            (handle_in.0, offset_in),
            (handle_out.0, offset_out),
            length,
            caller(request),
            move |copied| send_written(timed, reply, copied),
        );
    }
}
