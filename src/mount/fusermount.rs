//! Mounting and unmounting: by ourselves as root, else by the set-uid program `fusermount3`, which hands the device over.

use std::ffi::OsString;
use std::fs;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::cmsg_space;
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use super::preconditions::{FILE_SYSTEM_TYPE, MountError};

const PROGRAM: &str = "fusermount3";
const CONFIGURATION: &str = "/etc/fuse.conf";

/// Whether this process has to ask for its mounts.
pub(super) fn is_needed() -> bool {
    !rustix::process::geteuid().is_root()
}

/// Mounts at `path`; the device through which the mount is served.
pub(super) fn mount(source: &Path, path: &Path, flags: MountFlags) -> Result<OwnedFd, MountError> {
    let others = allows_others(&fs::read_to_string(CONFIGURATION).unwrap_or_default());
    if !others {
        tracing::warn!(
            "Only this user, not even root, sees the mount: for others write user_allow_other into {CONFIGURATION}"
        );
    }
    let (ours, theirs) = UnixStream::pair().map_err(MountError::failed(path, "make a socket"))?;
    let child = Command::new(PROGRAM)
        .arg("-o")
        .arg(options(source, flags, others))
        .arg("--")
        .arg(path)
        // Its standard input is the socket over which it hands the device over.
        .env("_FUSE_COMMFD", "0")
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => MountError::NoRights {
                path: path.to_owned(),
                source: Errno::PERM,
            },
            _ => MountError::failed(path, "start fusermount3")(error),
        })?;
    let output = child
        .wait_with_output()
        .map_err(MountError::failed(path, "wait for fusermount3"))?;
    if !output.status.success() {
        return Err(MountError::Refused {
            path: path.to_owned(),
            reason: one_line(&output.stderr),
        });
    }
    receive(&ours).map_err(MountError::failed(path, "get the device from fusermount3"))
}

/// Unmounts what is at `path`; `lazy`, even if it is in use.
pub(super) fn unmount(path: &Path, lazy: bool) -> Result<(), Errno> {
    if !is_needed() {
        let flags = match lazy {
            true => UnmountFlags::DETACH,
            false => UnmountFlags::NOFOLLOW,
        };
        return rustix::mount::unmount(path, flags);
    }
    let output = Command::new(PROGRAM)
        .args(if lazy {
            ["-u", "-z"].as_slice()
        } else {
            &["-u"]
        })
        .arg("--")
        .arg(path)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .map_err(|_| Errno::PERM)?;
    let said = one_line(&output.stderr);
    match output.status.success() {
        true => Ok(()),
        false if said.contains("busy") => Err(Errno::BUSY),
        false if said.contains("not found") || said.contains("Invalid argument") => {
            Err(Errno::INVAL)
        }
        false => {
            tracing::warn!(path = %path.display(), error = said, "fusermount3 does not unmount");
            Err(Errno::PERM)
        }
    }
}

/// What `-o` takes.
fn options(source: &Path, flags: MountFlags, others: bool) -> OsString {
    let subtype = FILE_SYSTEM_TYPE.trim_start_matches("fuse.");
    let mut options = format!("subtype={subtype},default_permissions");
    let restrictions = [
        (MountFlags::RDONLY, ",ro"),
        (MountFlags::NOEXEC, ",noexec"),
        (MountFlags::NOATIME, ",noatime"),
        (MountFlags::SYNCHRONOUS, ",sync"),
        (MountFlags::DIRSYNC, ",dirsync"),
    ];
    // Those that are missing here hold for such a mount in any case.
    for (_, option) in restrictions
        .iter()
        .filter(|(flag, _)| flags.contains(*flag))
    {
        options.push_str(option);
    }
    if others {
        options.push_str(",allow_other");
    }
    let mut options = options.into_bytes();
    options.extend(b",fsname=");
    for byte in source.as_os_str().as_bytes() {
        if matches!(byte, b',' | b'\\') {
            options.push(b'\\');
        }
        options.push(*byte);
    }
    OsString::from_vec(options)
}

/// Whether the machine lets ordinary users mount for others.
fn allows_others(configuration: &str) -> bool {
    let mut lines = configuration.lines().map(str::trim);
    lines.any(|line| line == "user_allow_other")
}

fn receive(socket: &UnixStream) -> io::Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut buffers = [IoSliceMut::new(&mut byte)];
    recvmsg(socket, &mut buffers, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    control
        .drain()
        .find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        })
        .ok_or_else(|| io::Error::other("it sent none"))
}

fn one_line(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_see_the_mount_where_the_machine_allows_it() {
        assert!(allows_others("# a comment\n user_allow_other\n"));
        assert!(!allows_others("#user_allow_other\nmount_max = 10\n"));
    }

    #[test]
    fn no_name_of_a_directory_adds_an_option() {
        let flags = MountFlags::RDONLY | MountFlags::NOSUID;
        let text = options(Path::new("/a,suid\\b"), flags, true);
        assert_eq!(
            text,
            "subtype=litestream-multitenant,default_permissions,ro,allow_other,fsname=/a\\,suid\\\\b"
        );
    }
}
