//! Files below a directory that is held open.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};

/// Opens what stands at `path` below `base`. No link is followed, and no path leads outside; the last name may be a link
/// itself where `flags` has `NOFOLLOW` and `PATH`.
pub fn open_beneath(base: impl AsFd, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    rustix::fs::openat2(base, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
}

/// The status of the entry `name` of a directory, of a link itself. `..` is none: it can lead into a mount of ours.
pub fn stat_entry(directory: impl AsFd, name: &OsStr) -> Result<Stat, Errno> {
    match name.as_bytes() {
        b"" | b"." | b".." => Err(Errno::INVAL),
        _ => rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW),
    }
}

/// The status of what stands at `path` below `base`, of a link itself.
pub fn stat_beneath(base: impl AsFd, path: &Path) -> Result<Stat, Errno> {
    let mut parts = path.components();
    match (parts.next(), parts.next()) {
        // A single name is not resolved any further, so that one system call does.
        (Some(Component::Normal(name)), None) => stat_entry(base, name),
        _ => rustix::fs::fstat(open_beneath(base, path, OFlags::PATH | OFlags::NOFOLLOW)?),
    }
}

/// A directory in a copy of its mount, and of those below that, which stand in no namespace: nothing that is mounted later
/// lies over a directory in it, neither a mount of this process nor one that leads to it, and `..` leads to none.
#[derive(Debug)]
pub struct Detached {
    /// The copy's root; the copy is taken apart when this is closed.
    tree: OwnedFd,
}

impl Detached {
    /// # Errors
    /// What the system says: EPERM without CAP_SYS_ADMIN, ENOSYS before Linux 5.12.
    pub fn new(directory: impl AsFd) -> io::Result<Self> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH
            | OpenTreeFlags::AT_RECURSIVE;
        let tree = open_tree(directory, "", flags)?;
        make_private(&tree)?;
        Ok(Self { tree })
    }

    /// Opens the directory.
    pub fn open(&self) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&self.tree, ".", flags, Mode::empty())?)
    }
}

/// What is mounted elsewhere no longer comes to lie in the copy as well.
fn make_private(tree: &OwnedFd) -> io::Result<()> {
    // SAFETY: all bytes zero is a value of this struct of four numbers.
    let mut wanted: libc::mount_attr = unsafe { std::mem::zeroed() };
    wanted.propagation = libc::MS_PRIVATE;
    // SAFETY: the path is an empty string, and the size is that of the struct that is pointed to.
    let outcome = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
            &raw const wanted,
            size_of::<libc::mount_attr>(),
        )
    };
    match outcome {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn no_link_on_the_way_is_followed() {
        let scratch = tempfile::tempdir().expect("a directory");
        let (inside, outside) = (
            scratch.path().join("inside"),
            scratch.path().join("outside"),
        );
        for folder in [&inside, &outside] {
            fs::create_dir_all(folder.join("real")).expect("a folder");
            fs::write(folder.join("real/file"), "").expect("a file");
        }
        symlink(&outside, inside.join("absolute")).expect("a link");
        symlink("real", inside.join("relative")).expect("a link");
        symlink("real/file", inside.join("last")).expect("a link");
        let base = File::open(&inside).expect("opened");
        let stat = |path: &str| stat_beneath(&base, Path::new(path)).map(|stat| stat.st_mode);
        assert!(stat("real/file").is_ok());
        for path in ["absolute/real/file", "relative/file"] {
            assert_eq!(stat(path), Err(Errno::LOOP), "{path}");
        }
        assert_eq!(
            stat("last").map(|mode| mode & libc::S_IFMT),
            Ok(libc::S_IFLNK)
        );
        for path in ["..", "../outside", "real/../../outside", "/"] {
            assert!(stat(path).is_err(), "{path}");
        }
    }

    #[test]
    fn what_is_mounted_later_is_not_seen_in_a_detached_directory() {
        // SAFETY: geteuid only returns a number.
        assert_eq!(unsafe { libc::geteuid() }, 0, "mounting needs root");
        let scratch = tempfile::tempdir().expect("a directory");
        fs::create_dir(scratch.path().join("below")).expect("a folder");
        fs::write(scratch.path().join("below/file"), "").expect("a file");
        let opened = File::open(scratch.path()).expect("opened");
        let detached = Detached::new(&opened).expect("a copy");
        let base = detached.open().expect("a descriptor");

        let over = scratch.path().join("below");
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("none", &over, "tmpfs", flags, None).expect("mounted");
        let seen = stat_beneath(&opened, Path::new("below/file"));
        let below = stat_beneath(&base, Path::new("below/file"));
        rustix::mount::unmount(&over, rustix::mount::UnmountFlags::empty()).expect("unmounted");
        assert_eq!(seen.map(|_| ()), Err(Errno::NOENT), "the mount covers it");
        assert!(below.is_ok(), "the copy has no mount");
    }
}
