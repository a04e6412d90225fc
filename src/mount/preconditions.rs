//! What has to hold before a directory is mounted over: it is there, no living mount of ours covers it, and no process
//! reaches its files past the mount.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::answer::{Answer, ask};
use super::fusermount;
use super::holders::{Holder, daemon_of, holders, holders_of_device};
use super::mountinfo::{MountPoint, mounts_of, topmost};
use crate::capture::backing::claim;
use crate::paths::Detached;

/// The file system type under which our mounts stand in the table of mounts.
pub const FILE_SYSTEM_TYPE: &str = "fuse.litestream-multitenant";

/// Why a directory can't be mounted over.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    #[error("{}: no such directory: create it, or correct the watch path", path.display())]
    Missing { path: PathBuf },
    #[error("{}: not a directory: give the directory that holds the databases", path.display())]
    NotADirectory { path: PathBuf },
    #[error(
        "/dev/fuse is missing: load the kernel module with `modprobe fuse`, or give the container `--device /dev/fuse`"
    )]
    NoFuseDevice,
    #[error(
        "{}: no rights to mount ({source}): run as root, or with CAP_SYS_ADMIN, or install fusermount3 (package fuse3)",
        path.display()
    )]
    NoRights { path: PathBuf, source: Errno },
    #[error("{}: refused: {reason}: run as root, or mount over a directory of your own", path.display())]
    Refused { path: PathBuf, reason: String },
    #[error(
        "{}: mounted already by a running instance{}: stop it first", path.display(), pid_text(*pid)
    )]
    AlreadyMounted { path: PathBuf, pid: Option<u32> },
    #[error(
        "{}: mounted already by an instance that does not answer{}: end it, and `umount` the directory",
        path.display(), pid_text(*pid)
    )]
    NotAnswering { path: PathBuf, pid: Option<u32> },
    #[error(
        "{}: the mount of an earlier run is still in use: {}: end what uses it, and start again",
        path.display(), list(holders)
    )]
    DeadMountInUse { path: PathBuf, holders: Vec<Holder> },
    #[error("{}: another instance serves this directory; end that first", path.display())]
    InUse { path: PathBuf },
    #[error(
        "{}: files are open past the mount: {}: end what uses them, and start again",
        path.display(), list(holders)
    )]
    HeldOpen { path: PathBuf, holders: Vec<Holder> },
    #[error(
        "{}: the kernel passes no files through ({reason}), which `mount.capture: passthrough` asks for: write `auto`",
        path.display()
    )]
    NoPassthrough { path: PathBuf, reason: &'static str },
    #[error("{}: could not {action}: {source}", path.display())]
    Failed {
        path: PathBuf,
        action: &'static str,
        source: io::Error,
    },
}

impl MountError {
    /// Whether the command line is at fault (exit code 2), and not the machine.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Missing { .. } | Self::NotADirectory { .. })
    }

    /// Wraps what the system said while `action` was tried.
    pub(super) fn failed(path: &Path, action: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::Failed {
            path: path.to_owned(),
            action,
            source,
        }
    }
}

fn pid_text(pid: Option<u32>) -> String {
    pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
}

/// The first few holders, so that it stays one line.
pub(super) fn list(holders: &[Holder]) -> String {
    const SHOWN: usize = 5;
    let mut names: Vec<String> = holders.iter().take(SHOWN).map(Holder::to_string).collect();
    if holders.len() > SHOWN {
        names.push(format!("and {} more", holders.len() - SHOWN));
    }
    names.join(", ")
}

/// The directory underneath a mount.
#[derive(Debug)]
pub struct BackingDirectory {
    /// What mount and capture work through: no name below it, and no `..`, leads to what is mounted from now on. (For an
    /// ordinary user it is the directory as it stands, which somebody with more rights could mount something below.)
    pub inside: Arc<OwnedFd>,
    /// The directory where it stands, by which `/proc` tells of it.
    pub(super) in_place: Arc<OwnedFd>,
    /// Keeps the mounts below the directory where they are.
    _detached: Option<Detached>,
}

impl BackingDirectory {
    fn new(in_place: OwnedFd) -> io::Result<Self> {
        let in_place = Arc::new(in_place);
        let detached = match Detached::new(&in_place) {
            Ok(detached) => Some(detached),
            Err(error) => {
                tracing::debug!(%error, "The directory is used where it stands");
                None
            }
        };
        Ok(Self {
            inside: match &detached {
                Some(detached) => Arc::new(detached.open()?),
                None => in_place.clone(),
            },
            in_place,
            _detached: detached,
        })
    }
}

/// Opens the directory that is to be mounted over, underneath any mount. A dead mount that an earlier run left over it is cleared first, if nothing holds files of it.
pub fn open_backing_directory(watch_path: &Path) -> Result<BackingDirectory, MountError> {
    // Without a slash at its end: that would make the resolution ask the mount itself, which may hang.
    let plain: PathBuf = watch_path.components().collect();
    let path = std::fs::canonicalize(&plain).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => MountError::Missing {
            path: plain.clone(),
        },
        io::ErrorKind::NotADirectory => MountError::NotADirectory {
            path: plain.clone(),
        },
        _ => MountError::failed(&plain, "resolve the path")(source),
    })?;
    while let Some(mount) = own_mount_at(&path)? {
        clear_dead_mount(&path, &mount)?;
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = match rustix::fs::open(&path, flags, Mode::empty()) {
        Ok(directory) => directory,
        Err(Errno::NOTDIR) => return Err(MountError::NotADirectory { path }),
        Err(error) => {
            return Err(MountError::failed(&path, "open the directory")(
                error.into(),
            ));
        }
    };
    // Whatever their mount points: a second one would see neither the locks nor the commits of the first one's users.
    let directory = BackingDirectory::new(directory)
        .map_err(MountError::failed(&path, "open the directory"))?;
    let claimed = claim(&directory.inside);
    match claimed.map_err(MountError::failed(&path, "lock the directory"))? {
        true => Ok(directory),
        false => Err(MountError::InUse { path }),
    }
}

/// Refuses a directory of which another process holds a file open: what it writes would go past the mount. One that
/// only stands there is named by the first look after the start.
pub(super) fn refuse_held_files(path: &Path, directory: &OwnedFd) -> Result<(), MountError> {
    let mut held = holders(directory).map_err(MountError::failed(path, "look for open files"))?;
    held.retain(Holder::holds_file);
    match held.is_empty() {
        true => Ok(()),
        false => Err(MountError::HeldOpen {
            path: path.to_owned(),
            holders: held,
        }),
    }
}

/// Waits for an instance that was unmounted and still stores what is committed to let go of the directory. Returns in
/// any case: what hinders a start is said by the start.
pub fn await_release(watch_path: &Path, limit: Duration) {
    let deadline = Instant::now() + limit;
    while is_in_use(watch_path) && !is_served(watch_path) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn is_in_use(watch_path: &Path) -> bool {
    let directory = rustix::fs::open(watch_path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    directory.is_ok_and(|directory| claim(directory).is_ok_and(|is_ours| !is_ours))
}

/// Whether a mount of it is there, so that its instance is not about to end.
fn is_served(watch_path: &Path) -> bool {
    mounts_of("self").is_ok_and(|mounts| {
        let is_ours =
            |mount: &MountPoint| mount.kind == FILE_SYSTEM_TYPE && mount.source == watch_path;
        mounts.iter().any(is_ours)
    })
}

fn own_mount_at(path: &Path) -> Result<Option<MountPoint>, MountError> {
    let mounts = mounts_of("self").map_err(MountError::failed(path, "read the table of mounts"))?;
    Ok(topmost(&mounts, path)
        .filter(|mount| mount.kind == FILE_SYSTEM_TYPE)
        .cloned())
}

fn clear_dead_mount(path: &Path, mount: &MountPoint) -> Result<(), MountError> {
    let path = path.to_owned();
    match ask(&path).map_err(MountError::failed(&path, "ask the mount there"))? {
        Answer::Living => Err(MountError::AlreadyMounted {
            path,
            pid: daemon_of(mount.device),
        }),
        Answer::Silent => Err(MountError::NotAnswering {
            path,
            pid: daemon_of(mount.device),
        }),
        Answer::Dead => {
            // Their descriptors still reach the backing files, with locks that a new mount would not see.
            let holders = holders_of_device(mount.device);
            if !holders.is_empty() {
                return Err(MountError::DeadMountInUse { path, holders });
            }
            fusermount::unmount(&path, false).map_err(|error| {
                MountError::failed(&path, "clear the mount of an earlier run")(error.into())
            })?;
            tracing::info!(path = %path.display(), "Cleared the mount that an earlier run left");
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_is_missing_or_none_is_wrong_usage() {
        let dir = tempfile::tempdir().expect("a scratch directory");
        let missing = open_backing_directory(&dir.path().join("none")).expect_err("missing");
        assert!(missing.is_usage());
        assert!(
            missing.to_string().contains("no such directory"),
            "{missing}"
        );
        let file = dir.path().join("file");
        std::fs::write(&file, "").expect("written");
        let error = open_backing_directory(&file).expect_err("a file");
        assert!(matches!(error, MountError::NotADirectory { .. }));
        assert!(error.is_usage());
        open_backing_directory(dir.path()).expect("a directory");
    }
}
