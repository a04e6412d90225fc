//! The FUSE protocol's side of the mount: each request calls one method of the file system and sends its answer.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use fuser::{
    BackingId, BsdFileFlags, Errno, FileHandle, Filesystem, FopenFlags, Generation, INodeNo,
    IoctlFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen,
    ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use super::attributes::AttributeChange;
use super::directories::Room;
use super::negotiation::Negotiation;
use super::passthrough::FileSystem;
use super::replies::{
    attribute_ttl, caller, creation, entry_name, errno, file_attributes, fuse_type, new_time,
    send_absent, send_attributes, send_created, send_done, send_entry, send_extended, send_made,
    send_opened, send_written,
};
use super::serving::Serving;
use super::set_id::Changer;
use crate::meter::{FileOperation, Timed};

/// The file system as the kernel speaks to it.
pub struct FuseAdapter {
    files: Arc<FileSystem<BackingId>>,
    negotiation: Negotiation,
    serving: Arc<Serving>,
}

impl FuseAdapter {
    pub fn new(
        files: Arc<FileSystem<BackingId>>,
        negotiation: Negotiation,
        serving: Arc<Serving>,
    ) -> Self {
        Self {
            files,
            negotiation,
            serving,
        }
    }

    fn begin(&self, operation: FileOperation, request: &Request) -> Timed {
        self.serving.begin(operation, request.pid())
    }
}

impl Filesystem for FuseAdapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let is_passthrough = self.negotiation.agree(config)?;
        self.files.set_passthrough(is_passthrough);
        Ok(())
    }

    fn destroy(&mut self) {
        self.files.release_all();
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let timed = self.begin(FileOperation::Lookup, request);
        match self.files.look_up(parent.0, name) {
            Ok(Some(entry)) => send_entry(reply, &entry),
            Ok(None) => send_absent(reply),
            Err(error) => reply.error(errno(&timed, error)),
        }
    }

    fn forget(&self, request: &Request, node: INodeNo, lookups: u64) {
        let _timed = self.begin(FileOperation::Forget, request);
        self.files.forget(node.0, lookups);
    }

    fn getattr(
        &self,
        request: &Request,
        node: INodeNo,
        handle: Option<FileHandle>,
        reply: ReplyAttr,
    ) {
        let timed = self.begin(FileOperation::GetAttributes, request);
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
        let timed = self.begin(FileOperation::SetAttributes, request);
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

    fn readlink(&self, request: &Request, node: INodeNo, reply: ReplyData) {
        let timed = self.begin(FileOperation::ReadLink, request);
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
        let timed = self.begin(FileOperation::MakeNode, request);
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
        let timed = self.begin(FileOperation::MakeDirectory, request);
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
        let timed = self.begin(FileOperation::SymbolicLink, request);
        let creation = creation(request, 0o777, 0);
        let made = self
            .files
            .make_symbolic_link(entry_name(parent, name), target, creation);
        send_made(timed, reply, made);
    }

    fn link(
        &self,
        request: &Request,
        node: INodeNo,
        parent: INodeNo,
        name: &OsStr,
        reply: ReplyEntry,
    ) {
        let timed = self.begin(FileOperation::Link, request);
        let made = self.files.link(node.0, entry_name(parent, name));
        send_made(timed, reply, made);
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let timed = self.begin(FileOperation::Unlink, request);
        self.files.unlink(entry_name(parent, name), move |removed| {
            send_done(timed, reply, removed);
        });
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let timed = self.begin(FileOperation::RemoveDirectory, request);
        let removed = self.files.remove_directory(entry_name(parent, name));
        send_done(timed, reply, removed);
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let timed = self.begin(FileOperation::Rename, request);
        let from = entry_name(parent, name);
        let to = entry_name(new_parent, new_name);
        self.files.rename(from, to, flags.bits(), move |renamed| {
            send_done(timed, reply, renamed);
        });
    }

    fn open(&self, request: &Request, node: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let timed = self.begin(FileOperation::Open, request);
        let opened = self.files.open(node.0, flags.0, request.uid(), |file| {
            reply.open_backing(file)
        });
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
        let timed = self.begin(FileOperation::Create, request);
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
        request: &Request,
        _node: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let timed = self.begin(FileOperation::Read, request);
        self.files
            .read(handle.0, offset, size as usize, move |read| match read {
                Ok(bytes) => reply.data(bytes),
                Err(error) => reply.error(errno(&timed, error)),
            });
    }

    fn write(
        &self,
        request: &Request,
        _node: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let timed = self.begin(FileOperation::Write, request);
        let changer = match write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID) {
            true => Changer::Unprivileged(caller(request)),
            false => Changer::Privileged,
        };
        self.files
            .write(handle.0, offset, data, changer, move |written| {
                send_written(timed, reply, written);
            });
    }

    /// There is nothing to do at a close; after this answer the kernel does not ask again.
    fn flush(
        &self,
        request: &Request,
        _node: INodeNo,
        _handle: FileHandle,
        _owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        let _timed = self.begin(FileOperation::Flush, request);
        reply.error(Errno::ENOSYS);
    }

    fn release(
        &self,
        request: &Request,
        _node: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let _timed = self.begin(FileOperation::Release, request);
        self.files.release(handle.0);
        reply.ok();
    }

    fn fsync(
        &self,
        request: &Request,
        _node: INodeNo,
        handle: FileHandle,
        data_only: bool,
        reply: ReplyEmpty,
    ) {
        let timed = self.begin(FileOperation::Synchronize, request);
        self.files
            .synchronize(handle.0, data_only, move |synchronized| {
                send_done(timed, reply, synchronized);
            });
    }

    fn opendir(&self, request: &Request, node: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let timed = self.begin(FileOperation::OpenDirectory, request);
        match self.files.open_directory(node.0, request.uid()) {
            Ok(handle) => reply.opened(FileHandle(handle), FopenFlags::empty()),
            Err(error) => reply.error(errno(&timed, error)),
        }
    }

    fn readdir(
        &self,
        request: &Request,
        _node: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let timed = self.begin(FileOperation::ReadDirectory, request);
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
        request: &Request,
        _node: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let timed = self.begin(FileOperation::ReadDirectoryPlus, request);
        let listed = self
            .files
            .read_directory_plus(handle.0, offset, |entry, looked_up| {
                let is_full = reply.add(
                    INodeNo(looked_up.node),
                    entry.next_offset,
                    entry.name(),
                    &attribute_ttl(&looked_up.attributes),
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
        request: &Request,
        _node: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        let _timed = self.begin(FileOperation::ReleaseDirectory, request);
        self.files.release_directory(handle.0);
        reply.ok();
    }

    fn fsyncdir(
        &self,
        request: &Request,
        _node: INodeNo,
        handle: FileHandle,
        data_only: bool,
        reply: ReplyEmpty,
    ) {
        let timed = self.begin(FileOperation::SynchronizeDirectory, request);
        self.files
            .synchronize_directory(handle.0, data_only, move |synchronized| {
                send_done(timed, reply, synchronized);
            });
    }

    fn statfs(&self, request: &Request, _node: INodeNo, reply: ReplyStatfs) {
        let timed = self.begin(FileOperation::Statistics, request);
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
        request: &Request,
        node: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let timed = self.begin(FileOperation::SetExtendedAttribute, request);
        let set = self
            .files
            .set_extended_attribute(node.0, name, value, flags);
        send_done(timed, reply, set);
    }

    fn getxattr(
        &self,
        request: &Request,
        node: INodeNo,
        name: &OsStr,
        size: u32,
        reply: ReplyXattr,
    ) {
        let timed = self.begin(FileOperation::GetExtendedAttribute, request);
        let value = self.files.extended_attribute(node.0, name, size as usize);
        send_extended(timed, reply, value);
    }

    fn listxattr(&self, request: &Request, node: INodeNo, size: u32, reply: ReplyXattr) {
        let timed = self.begin(FileOperation::ListExtendedAttributes, request);
        let names = self
            .files
            .extended_attribute_names(node.0, size as usize, caller(request));
        send_extended(timed, reply, names);
    }

    fn removexattr(&self, request: &Request, node: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let timed = self.begin(FileOperation::RemoveExtendedAttribute, request);
        let removed = self.files.remove_extended_attribute(node.0, name);
        send_done(timed, reply, removed);
    }

    /// None is supported; after this answer the kernel does not ask again, and applications get ENOTTY.
    fn ioctl(
        &self,
        request: &Request,
        _node: INodeNo,
        _handle: FileHandle,
        _flags: IoctlFlags,
        _command: u32,
        _data: &[u8],
        _size: u32,
        reply: ReplyIoctl,
    ) {
        let _timed = self.begin(FileOperation::Control, request);
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
        let timed = self.begin(FileOperation::Allocate, request);
        let caller = caller(request);
        self.files
            .allocate(handle.0, mode, offset, length, caller, move |allocated| {
                send_done(timed, reply, allocated);
            });
    }

    fn lseek(
        &self,
        request: &Request,
        _node: INodeNo,
        handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let timed = self.begin(FileOperation::Seek, request);
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
        let timed = self.begin(FileOperation::CopyRange, request);
        self.files.copy_range(
            (handle_in.0, offset_in),
            (handle_out.0, offset_out),
            length,
            caller(request),
            move |copied| send_written(timed, reply, copied),
        );
    }
}
