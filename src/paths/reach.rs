//! Where a path that a user gave leads: walked name by name, and never into a mount of this process.
//!
//! What a step comes to is opened with `O_PATH`, which asks no file system that is mounted there, and its device is known
//! to the kernel. So a way into a mount of ours is seen before it is taken.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags, statx};
use rustix::io::Errno;

/// As many links as the kernel follows.
const MOST_LINKS: usize = 40;

/// Major and minor number of each mount that this process serves.
static OWN: RwLock<Vec<(u32, u32)>> = RwLock::new(Vec::new());

/// A mount of this process, which no path leads into while this lives.
#[derive(Debug)]
pub struct OwnMount {
    device: (u32, u32),
}

impl OwnMount {
    pub fn new(device: (u32, u32)) -> Self {
        let mut own = OWN.write().unwrap_or_else(PoisonError::into_inner);
        own.push(device);
        Self { device }
    }
}

impl Drop for OwnMount {
    fn drop(&mut self) {
        let mut own = OWN.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = own.iter().position(|device| *device == self.device) {
            own.swap_remove(place);
        }
    }
}

/// Where a path leads, as far as it exists.
#[derive(Debug)]
pub struct Reached {
    /// What exists of it, opened with `O_PATH`.
    pub at: OwnedFd,
    /// Its path without links.
    pub path: PathBuf,
    /// What does not exist; empty where all does.
    pub rest: PathBuf,
}

impl Reached {
    /// The whole path.
    pub fn settled(&self) -> PathBuf {
        join(&self.path, &self.rest)
    }

    /// Whether all of it exists.
    pub fn is_whole(&self) -> bool {
        self.rest.as_os_str().is_empty()
    }

    /// Opens what the path leads to.
    ///
    /// # Errors
    /// `NotFound` where it does not exist, and what the system says.
    pub fn open(&self, flags: OFlags) -> io::Result<OwnedFd> {
        if !self.is_whole() {
            return Err(Errno::NOENT.into());
        }
        self.open_existing(flags)
    }

    /// Opens what exists of the path.
    pub fn open_existing(&self, flags: OFlags) -> io::Result<OwnedFd> {
        let flags = flags | OFlags::CLOEXEC;
        // By its descriptor: nothing on the way is resolved a second time.
        let path = format!("/proc/self/fd/{}", self.at.as_raw_fd());
        Ok(rustix::fs::open(path, flags, Mode::empty())?)
    }
}

/// Why a path is not walked to its end.
#[derive(Debug)]
pub enum WayIn {
    /// At `path` stands a mount of this process; `rest` would be below it.
    Own {
        path: PathBuf,
        rest: PathBuf,
    },
    Failed(io::Error),
}

impl fmt::Display for WayIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own { path, .. } => write!(
                f,
                "it leads into {}, which this instance has mounted; choose another place",
                path.display()
            ),
            Self::Failed(error) => error.fmt(f),
        }
    }
}

impl From<Errno> for WayIn {
    fn from(errno: Errno) -> Self {
        Self::Failed(errno.into())
    }
}

impl From<WayIn> for io::Error {
    fn from(way_in: WayIn) -> Self {
        match way_in {
            WayIn::Failed(error) => error,
            own @ WayIn::Own { .. } => Self::other(own.to_string()),
        }
    }
}

/// Walks an absolute path, or one below the working directory, following links.
///
/// # Errors
/// A mount of this process on the way, and what the system says but for `NotFound`.
pub fn reach(path: &Path) -> Result<Reached, WayIn> {
    let path = std::path::absolute(path).map_err(WayIn::Failed)?;
    let mut walk = Walk::from_root()?;
    let mut names: VecDeque<OsString> = names_of(&path).collect();
    let mut links = 0;
    while let Some(name) = names.pop_front() {
        if name == OsStr::new("/") {
            walk = Walk::from_root()?;
            continue;
        }
        let found = match walk.step(&name) {
            Ok(found) => found,
            Err(Errno::NOENT) => {
                names.push_front(name);
                return Ok(Reached {
                    at: walk.at,
                    path: walk.path,
                    rest: rest(names),
                });
            }
            Err(errno) => return Err(errno.into()),
        };
        let is_in_proc = walk.is_in_proc();
        match name.as_os_str() {
            dots if dots == OsStr::new("..") => drop(walk.path.pop()),
            _ => walk.path.push(&name),
        }
        if is_in_proc {
            walk.jumped(&found)?;
        }
        if is_own(&found)? {
            return Err(WayIn::Own {
                path: walk.path,
                rest: rest(names),
            });
        }
        match link_of(&found)? {
            None => walk.at = found,
            Some(_) if links == MOST_LINKS => return Err(Errno::LOOP.into()),
            Some(target) => {
                links += 1;
                walk.path.pop();
                for name in names_of(&target).collect::<Vec<_>>().into_iter().rev() {
                    names.push_front(name);
                }
            }
        }
    }
    Ok(Reached {
        at: walk.at,
        path: walk.path,
        rest: PathBuf::new(),
    })
}

struct Walk {
    at: OwnedFd,
    path: PathBuf,
}

impl Walk {
    fn from_root() -> Result<Self, Errno> {
        Ok(Self {
            at: rustix::fs::openat(CWD, "/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?,
            path: PathBuf::from("/"),
        })
    }

    /// Links there lead where no text does.
    fn is_in_proc(&self) -> bool {
        self.path.starts_with("/proc")
    }

    /// What stands under a single name, a link itself where its text is followed.
    fn step(&self, name: &OsStr) -> Result<OwnedFd, Errno> {
        let follow = match self.is_in_proc() {
            true => OFlags::empty(),
            false => OFlags::NOFOLLOW,
        };
        let flags = OFlags::PATH | OFlags::CLOEXEC | follow;
        rustix::fs::openat(&self.at, name, flags, Mode::empty())
    }

    /// A link of `/proc` was followed: what it leads to has a path of its own, where it is no pipe.
    fn jumped(&mut self, found: &OwnedFd) -> Result<(), Errno> {
        let link = format!("/proc/self/fd/{}", found.as_raw_fd());
        let target = rustix::fs::readlinkat(CWD, link, Vec::new())?;
        let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
        if target.is_absolute() {
            self.path = target;
        }
        Ok(())
    }
}

/// The device is told without asking whoever serves it.
fn is_own(found: &OwnedFd) -> Result<bool, Errno> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let known = statx(found, "", flags, StatxFlags::empty())?;
    let own = OWN.read().unwrap_or_else(PoisonError::into_inner);
    Ok(own.contains(&(known.stx_dev_major, known.stx_dev_minor)))
}

/// Where a link leads; none where it is none.
fn link_of(found: &OwnedFd) -> Result<Option<PathBuf>, Errno> {
    match rustix::fs::readlinkat(found, "", Vec::new()) {
        Ok(target) => Ok(Some(OsString::from_vec(target.into_bytes()).into())),
        Err(Errno::NOENT | Errno::INVAL) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// The names of a path, `/` first where it is absolute.
fn names_of(path: &Path) -> impl Iterator<Item = OsString> {
    path.components()
        .filter(|part| *part != Component::CurDir)
        .map(|part| part.as_os_str().to_owned())
}

fn rest(names: VecDeque<OsString>) -> PathBuf {
    names.into_iter().collect()
}

/// `below` need not exist: each `..` in it takes a name away.
pub(super) fn join(path: &Path, below: &Path) -> PathBuf {
    let mut joined = path.to_owned();
    for part in below.components() {
        match part {
            Component::ParentDir => drop(joined.pop()),
            part => joined.push(part),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn scratch() -> (tempfile::TempDir, PathBuf) {
        let scratch = tempfile::tempdir().expect("a directory");
        let path = fs::canonicalize(scratch.path()).expect("its path");
        (scratch, path)
    }

    #[test]
    fn links_are_followed_and_what_is_missing_stays_apart() {
        let (_scratch, root) = scratch();
        fs::create_dir_all(root.join("a/b")).expect("folders");
        symlink(root.join("a"), root.join("absolute")).expect("a link");
        symlink("a/../a/b", root.join("relative")).expect("a link");
        let settled = |path: &str| reach(&root.join(path)).expect("reached").settled();
        assert_eq!(settled("absolute/b"), root.join("a/b"));
        assert_eq!(settled("relative"), root.join("a/b"));
        assert_eq!(settled("relative/.."), root.join("a"));
        let missing = reach(&root.join("absolute/none/../other")).expect("reached");
        assert_eq!(missing.path, root.join("a"));
        assert_eq!(missing.settled(), root.join("a/other"));
        let refused = missing.open(OFlags::RDONLY).expect_err("it is missing");
        assert_eq!(refused.kind(), io::ErrorKind::NotFound);
        symlink("turn", root.join("turn")).expect("a link");
        assert!(reach(&root.join("turn")).is_err(), "a circle");
    }

    #[test]
    fn what_a_process_has_open_is_reached_by_its_number() {
        let (_scratch, root) = scratch();
        fs::write(root.join("file"), "").expect("a file");
        let opened = fs::File::open(root.join("file")).expect("opened");
        let number = format!("/proc/self/fd/{}", opened.as_raw_fd());
        let reached = reach(Path::new(&number)).expect("reached");
        assert_eq!(reached.settled(), root.join("file"));
        let (_end, pipe) = std::io::pipe().expect("a pipe");
        let number = format!("/dev/fd/{}", pipe.as_raw_fd());
        let reached = reach(Path::new(&number)).expect("reached");
        reached.open(OFlags::WRONLY).expect("a pipe is opened");
    }

    #[test]
    fn no_way_leads_into_a_mount_of_ours() {
        let (_scratch, root) = scratch();
        for folder in ["mount", "beside"] {
            fs::create_dir(root.join(folder)).expect("a folder");
        }
        let mount = root.join("mount");
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("none", &mount, "tmpfs", flags, None).expect("mounted");
        fs::create_dir(mount.join("sub")).expect("a folder");
        symlink(mount.join("sub"), root.join("link")).expect("a link");
        symlink("../mount/sub/file", root.join("beside/link")).expect("a link");
        let device = rustix::fs::stat(&mount).expect("its status").st_dev;
        let own = OwnMount::new((rustix::fs::major(device), rustix::fs::minor(device)));
        let into = |path: &str| match reach(&root.join(path)) {
            Err(WayIn::Own { path, rest }) => Some((path, rest)),
            Ok(_) | Err(WayIn::Failed(_)) => None,
        };
        let ways = [
            "mount",
            "mount/sub",
            "link",
            "link/x",
            "beside/link",
            "mount/../beside",
        ];
        let found = ways.map(into);
        drop(own);
        let then = into("link");
        rustix::mount::unmount(&mount, rustix::mount::UnmountFlags::empty()).expect("unmounted");
        let rests = ["", "sub", "sub", "sub/x", "sub/file", "../beside"];
        for (found, rest) in found.into_iter().zip(rests) {
            assert_eq!(found, Some((mount.clone(), PathBuf::from(rest))));
        }
        assert_eq!(then, None, "it is served no more");
    }
}
