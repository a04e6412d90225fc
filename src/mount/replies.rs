//! Between the file system's values and the FUSE protocol's: requests read, answers sent.

use std::ffi::OsStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    BackingId, Errno, FileAttr, FileHandle, FileType, FopenFlags, Generation, INodeNo, ReplyAttr,
    ReplyCreate, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, ReplyXattr, Request, TimeOrNow,
};

use super::attributes::{Attributes, Extended, NewTime, file_type};
use super::credentials::Caller;
use super::error::{OperationError, OperationResult};
use super::files::{Creation, Opened};
use super::handles::Service;
use super::names::EntryName;
use super::passthrough::LookedUp;
use super::set_id::has_set_id_bits;
use crate::meter::Timed;

/// How long the kernel may take a name, or its absence, as it was told: nobody else changes the backing directory.
const ENTRY_TTL: Duration = Duration::from_secs(3600);

/// How long it may take attributes as told. The kernel knows of every change but of modification times of files that
/// are mapped and passed through.
const ATTRIBUTE_TTL: Duration = Duration::from_secs(1);

/// As long as the kernel may show these attributes. A write takes set-id bits away without the kernel's knowing, so
/// that it asks again for a file that has any.
pub(super) fn attribute_ttl(attributes: &Attributes) -> Duration {
    match has_set_id_bits(&attributes.stat) {
        true => Duration::ZERO,
        false => ATTRIBUTE_TTL,
    }
}

pub(super) fn caller(request: &Request) -> Caller {
    Caller {
        uid: request.uid(),
        gid: request.gid(),
        pid: request.pid(),
    }
}

pub(super) fn creation(request: &Request, mode: u32, umask: u32) -> Creation {
    Creation {
        caller: caller(request),
        umask,
        mode,
    }
}

pub(super) fn entry_name(parent: INodeNo, name: &OsStr) -> EntryName<'_> {
    EntryName {
        parent: parent.0,
        name,
    }
}

pub(super) fn new_time(time: TimeOrNow) -> NewTime {
    let time = match time {
        TimeOrNow::Now => return NewTime::Now,
        TimeOrNow::SpecificTime(time) => time,
    };
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => NewTime::At {
            seconds: after.as_secs() as i64,
            nanoseconds: after.subsec_nanos(),
        },
        // The decoder took the nanoseconds off as well, instead of adding them.
        Err(before) => NewTime::At {
            seconds: -(before.duration().as_secs() as i64),
            nanoseconds: before.duration().subsec_nanos(),
        },
    }
}

pub(super) fn system_time(seconds: i64, nanoseconds: u64) -> SystemTime {
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let second = match seconds >= 0 {
        true => UNIX_EPOCH.checked_add(whole),
        false => UNIX_EPOCH.checked_sub(whole),
    };
    second.unwrap_or(UNIX_EPOCH) + Duration::from_nanos(nanoseconds)
}

pub(super) fn fuse_type(kind: rustix::fs::FileType) -> FileType {
    use rustix::fs::FileType as Backing;
    match kind {
        Backing::Directory => FileType::Directory,
        Backing::Symlink => FileType::Symlink,
        Backing::Fifo => FileType::NamedPipe,
        Backing::Socket => FileType::Socket,
        Backing::CharacterDevice => FileType::CharDevice,
        Backing::BlockDevice => FileType::BlockDevice,
        Backing::RegularFile | Backing::Unknown => FileType::RegularFile,
    }
}

pub(super) fn file_attributes(number: u64, attributes: &Attributes) -> FileAttr {
    let stat = &attributes.stat;
    FileAttr {
        ino: INodeNo(number),
        size: stat.st_size as u64,
        blocks: stat.st_blocks as u64,
        atime: system_time(stat.st_atime, stat.st_atime_nsec),
        mtime: system_time(stat.st_mtime, stat.st_mtime_nsec),
        ctime: system_time(stat.st_ctime, stat.st_ctime_nsec),
        crtime: UNIX_EPOCH,
        kind: fuse_type(file_type(stat)),
        perm: (stat.st_mode & 0o7777) as u16,
        nlink: stat.st_nlink as u32,
        uid: stat.st_uid,
        gid: stat.st_gid,
        rdev: stat.st_rdev as u32,
        blksize: stat.st_blksize as u32,
        flags: 0,
    }
}

fn open_flags<B>(opened: &Opened<B>) -> FopenFlags {
    match opened.service {
        Service::Direct => FopenFlags::FOPEN_DIRECT_IO,
        Service::PageCache if opened.keeps_page_cache => FopenFlags::FOPEN_KEEP_CACHE,
        Service::PageCache | Service::KernelPassthrough(_) => FopenFlags::empty(),
    }
}

pub(super) fn send_opened(reply: ReplyOpen, opened: &Opened<BackingId>) {
    let handle = FileHandle(opened.handle);
    match &opened.service {
        Service::KernelPassthrough(backing) => {
            reply.opened_passthrough(handle, FopenFlags::empty(), backing);
        }
        Service::PageCache | Service::Direct => reply.opened(handle, open_flags(opened)),
    }
}

pub(super) fn send_created(reply: ReplyCreate, entry: &LookedUp, opened: &Opened<BackingId>) {
    let attributes = file_attributes(entry.node, &entry.attributes);
    let generation = Generation(entry.generation.into());
    let handle = FileHandle(opened.handle);
    match &opened.service {
        Service::KernelPassthrough(backing) => reply.created_passthrough(
            &attribute_ttl(&entry.attributes),
            &attributes,
            generation,
            handle,
            FopenFlags::empty(),
            backing,
        ),
        Service::PageCache | Service::Direct => reply.created(
            &attribute_ttl(&entry.attributes),
            &attributes,
            generation,
            handle,
            open_flags(opened),
        ),
    }
}

pub(super) fn send_entry(reply: ReplyEntry, entry: &LookedUp) {
    let attributes = file_attributes(entry.node, &entry.attributes);
    let generation = Generation(entry.generation.into());
    reply.entry_with_ttls(
        &attribute_ttl(&entry.attributes),
        &ENTRY_TTL,
        &attributes,
        generation,
    );
}

/// An entry without an inode: the kernel remembers that the name is absent. SQLite asks for `-journal` and `-wal`
/// again and again.
pub(super) fn send_absent(reply: ReplyEntry) {
    let nothing = FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    };
    reply.entry_with_ttls(&Duration::ZERO, &ENTRY_TTL, &nothing, Generation(0));
}

pub(super) fn send_made(timed: Timed, reply: ReplyEntry, made: OperationResult<LookedUp>) {
    match made {
        Ok(entry) => send_entry(reply, &entry),
        Err(error) => reply.error(errno(&timed, error)),
    }
}

pub(super) fn send_attributes(
    timed: Timed,
    reply: ReplyAttr,
    attributes: OperationResult<Attributes>,
) {
    match attributes {
        Ok(shown) => reply.attr(
            &attribute_ttl(&shown),
            &file_attributes(shown.number, &shown),
        ),
        Err(error) => reply.error(errno(&timed, error)),
    }
}

pub(super) fn send_done(timed: Timed, reply: ReplyEmpty, done: OperationResult<()>) {
    match done {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(&timed, error)),
    }
}

pub(super) fn send_written(timed: Timed, reply: ReplyWrite, written: OperationResult<usize>) {
    match written {
        Ok(length) => reply.written(length as u32),
        Err(error) => reply.error(errno(&timed, error)),
    }
}

pub(super) fn send_extended(timed: Timed, reply: ReplyXattr, value: OperationResult<Extended>) {
    match value {
        Ok(Extended::Length(length)) => reply.size(length as u32),
        Ok(Extended::Bytes(bytes)) => reply.data(&bytes),
        Err(error) => reply.error(errno(&timed, error)),
    }
}

/// What the application gets for an error. Here is where faults of disk or mount are logged.
pub(super) fn errno(timed: &Timed, error: OperationError) -> Errno {
    if error.is_fault() {
        tracing::warn!(fuse_operation = timed.name(), %error, "A file operation failed");
    }
    Errno::from_i32(error.errno().raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_before_the_epoch_is_shown_as_it_is() {
        let shown = system_time(-2, 500_000_000);
        assert_eq!(shown, UNIX_EPOCH - Duration::from_millis(1500));
        assert_eq!(system_time(3, 1), UNIX_EPOCH + Duration::new(3, 1));
    }

    #[test]
    fn a_time_before_the_epoch_is_set_as_it_was_meant() {
        // -2 s + 0.5 s, as the decoder hands it over.
        let decoded = UNIX_EPOCH - Duration::new(2, 500_000_000);
        let expected = NewTime::At {
            seconds: -2,
            nanoseconds: 500_000_000,
        };
        assert_eq!(new_time(TimeOrNow::SpecificTime(decoded)), expected);
    }
}
