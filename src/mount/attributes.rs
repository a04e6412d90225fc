//! What `stat` shows of an inode, changes of it, and extended attributes: on a descriptor, which may be O_PATH.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT,
    Uid, XattrFlags,
};
use rustix::io::Errno;

use super::credentials::Caller;
use super::inodes::BackingInode;
use super::set_id::Changer;

/// The attribute of an SELinux label, which a FUSE mount has as a whole.
pub(super) const LABEL: &str = "security.selinux";
/// The attributes that are access control lists.
pub(super) const ACCESS_LISTS: [&str; 2] = ["system.posix_acl_access", "system.posix_acl_default"];

/// An inode's attributes: the backing inode's, under the number that the mount shows.
#[derive(Clone, Copy, Debug)]
pub struct Attributes {
    pub number: u64,
    pub stat: Stat,
}

/// What a SETATTR changes.
#[derive(Clone, Copy, Debug)]
pub struct AttributeChange {
    pub caller: Caller,
    /// Permission bits, without the file type.
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub size: Option<u64>,
    pub atime: Option<NewTime>,
    pub mtime: Option<NewTime>,
}

/// A time to be set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NewTime {
    Now,
    At { seconds: i64, nanoseconds: u32 },
}

impl NewTime {
    fn timespec(time: Option<Self>) -> Timespec {
        let (tv_sec, tv_nsec) = match time {
            None => (0, UTIME_OMIT),
            Some(Self::Now) => (0, UTIME_NOW),
            Some(Self::At {
                seconds,
                nanoseconds,
            }) => (seconds, nanoseconds.into()),
        };
        Timespec { tv_sec, tv_nsec }
    }
}

pub fn file_type(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

pub fn backing_inode(stat: &Stat) -> BackingInode {
    BackingInode {
        device: stat.st_dev,
        number: stat.st_ino,
    }
}

/// The path that leads to what a descriptor of this process stands for, whatever its name is by now.
fn descriptor_path(file: &impl AsFd) -> String {
    format!("/proc/self/fd/{}", file.as_fd().as_raw_fd())
}

/// Opens what `located` stands for, a regular file or a directory.
pub fn reopen(located: impl AsFd, flags: OFlags) -> Result<std::os::fd::OwnedFd, Errno> {
    rustix::fs::openat(
        CWD,
        descriptor_path(&located),
        flags | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

/// Carries out everything in `change` but the size. An owner's change takes set-id bits away, so it comes first.
pub fn change_attributes(located: impl AsFd, change: &AttributeChange) -> Result<(), Errno> {
    if change.uid.is_some() || change.gid.is_some() || is_same_owner(&located, change)? {
        Changer::change_owner(change.caller, &located, || {
            rustix::fs::chownat(
                &located,
                "",
                change.uid.map(Uid::from_raw),
                change.gid.map(Gid::from_raw),
                AtFlags::EMPTY_PATH,
            )
        })?;
    }
    if let Some(mode) = change.mode {
        let mode = Mode::from_raw_mode(mode & 0o7777);
        rustix::fs::chmodat(CWD, descriptor_path(&located), mode, AtFlags::empty())?;
    }
    if change.atime.is_some() || change.mtime.is_some() {
        let times = Timestamps {
            last_access: NewTime::timespec(change.atime),
            last_modification: NewTime::timespec(change.mtime),
        };
        rustix::fs::utimensat(CWD, descriptor_path(&located), &times, AtFlags::empty())?;
    }
    Ok(())
}

/// Whether a change that has nothing in it is one of owner to the same one, which takes set-id bits away. The kernel sends
/// such a change for anybody, before a write as well: only of the owner, or of root, it can be taken for that.
fn is_same_owner(located: impl AsFd, change: &AttributeChange) -> Result<bool, Errno> {
    let AttributeChange {
        caller,
        mode: None,
        uid: None,
        gid: None,
        size: None,
        atime: None,
        mtime: None,
    } = change
    else {
        return Ok(false);
    };
    Ok(caller.uid == 0 || caller.uid == rustix::fs::fstat(located)?.st_uid)
}

/// Sets the size of a file that is open for writing, or of one that is only located.
pub fn truncate(
    file: impl AsFd,
    is_writable: bool,
    size: u64,
    caller: Caller,
) -> Result<(), Errno> {
    let truncate = || match is_writable {
        true => rustix::fs::ftruncate(&file, size),
        false => rustix::fs::ftruncate(reopen(&file, OFlags::WRONLY)?, size),
    };
    Changer::Unknown(caller).change(&file, truncate)
}

/// The value of an extended attribute, or its length where `size` is 0; ERANGE where it is longer than `size`.
pub fn extended_attribute(
    located: impl AsFd,
    name: &OsStr,
    size: usize,
) -> Result<Extended, Errno> {
    let path = descriptor_path(&located);
    if size == 0 {
        return rustix::fs::getxattr_query(path, name).map(Extended::Length);
    }
    let mut value = vec![0; size];
    let length = rustix::fs::getxattr(path, name, &mut value[..])?;
    value.truncate(length);
    Ok(Extended::Bytes(value))
}

/// The names of an inode's extended attributes, each with its NUL, but for those that `is_hidden`.
pub fn extended_attribute_names(
    located: impl AsFd,
    size: usize,
    is_hidden: impl Fn(&OsStr) -> bool,
) -> Result<Extended, Errno> {
    let path = descriptor_path(&located);
    let length = rustix::fs::listxattr_query(&path)?;
    let mut names = vec![0; length];
    let length = rustix::fs::listxattr(&path, &mut names[..])?;
    let names: Vec<u8> = names[..length]
        .split_inclusive(|byte| *byte == 0)
        .filter(|name| !is_hidden(OsStr::from_bytes(name.strip_suffix(b"\0").unwrap_or(name))))
        .flatten()
        .copied()
        .collect();
    match size {
        0 => Ok(Extended::Length(names.len())),
        _ if names.len() > size => Err(Errno::RANGE),
        _ => Ok(Extended::Bytes(names)),
    }
}

pub fn set_extended_attribute(
    located: impl AsFd,
    name: &OsStr,
    value: &[u8],
    flags: i32,
) -> Result<(), Errno> {
    let flags = XattrFlags::from_bits(flags as u32).ok_or(Errno::INVAL)?;
    rustix::fs::setxattr(descriptor_path(&located), name, value, flags)
}

pub fn remove_extended_attribute(located: impl AsFd, name: &OsStr) -> Result<(), Errno> {
    rustix::fs::removexattr(descriptor_path(&located), name)
}

/// An answer about extended attributes: how long, or the bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Extended {
    Length(usize),
    Bytes(Vec<u8>),
}

/// A number that differs between two inodes that had the same inode number one after the other; 0 where the backing
/// file system has none. It is the file system's own handle of the inode, folded: of that, only its generation changes.
pub fn generation(directory: impl AsFd, name: &OsStr) -> u32 {
    #[repr(C)]
    struct Handle {
        bytes: libc::c_uint,
        kind: libc::c_int,
        data: [u8; libc::MAX_HANDLE_SZ as usize],
    }
    let Ok(name) = std::ffi::CString::new(name.as_bytes()) else {
        return 0;
    };
    let mut handle = Handle {
        bytes: libc::MAX_HANDLE_SZ as libc::c_uint,
        kind: 0,
        data: [0; libc::MAX_HANDLE_SZ as usize],
    };
    let mut mount_id = 0;
    // SAFETY: `Handle` has the layout of `struct file_handle` with room for the number of bytes that it names.
    let result = unsafe {
        libc::name_to_handle_at(
            directory.as_fd().as_raw_fd(),
            name.as_ptr(),
            (&raw mut handle).cast::<libc::file_handle>(),
            &raw mut mount_id,
            0,
        )
    };
    if result != 0 {
        return 0;
    }
    handle.data[..handle.bytes as usize]
        .chunks(4)
        .fold(0, |folded, word| {
            let mut padded = [0; 4];
            padded[..word.len()].copy_from_slice(word);
            folded ^ u32::from_ne_bytes(padded)
        })
}
