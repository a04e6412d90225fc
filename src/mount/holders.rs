//! Which processes hold files of a directory or of a mount: found in `/proc`, without touching the files themselves.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, StatxFlags, statx};

use super::mountinfo::{MountPoint, Place, mounts_of, without_deleted_mark};

/// A process that holds something open.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Holder {
    pub pid: u32,
    pub command: String,
    pub file: PathBuf,
    /// The same below the directory that was asked for, wherever the process sees that.
    pub below: PathBuf,
    pub kind: HolderKind,
}

/// How it is held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HolderKind {
    OpenFile,
    MappedFile,
    OpenDirectory,
    WorkingDirectory,
}

impl Holder {
    /// Whether the process could read or write the file past a mount; one that only stands in a directory can't.
    pub fn holds_file(&self) -> bool {
        match self.kind {
            HolderKind::OpenFile | HolderKind::MappedFile => true,
            HolderKind::OpenDirectory | HolderKind::WorkingDirectory => false,
        }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = match self.kind {
            HolderKind::OpenFile => "has open",
            HolderKind::MappedFile => "has mapped",
            HolderKind::OpenDirectory => "has the directory open",
            HolderKind::WorkingDirectory => "works in",
        };
        let Self {
            pid, command, file, ..
        } = self;
        write!(f, "{command} (pid {pid}) {how} {}", file.display())
    }
}

/// The processes, other than this one, that hold something below the directory that `directory` stands for, in any
/// mount namespace and by any of its mounts; but not those that reach it through a mount over it.
pub fn holders(directory: impl AsFd) -> io::Result<Vec<Holder>> {
    Ok(holders_in(&place_of_descriptor(directory)?))
}

/// The same for everything in a file system.
pub(super) fn holders_of_device(device: (u32, u32)) -> Vec<Holder> {
    holders_in(&Place {
        device,
        path: PathBuf::from("/"),
    })
}

pub(super) fn place_of_descriptor(descriptor: impl AsFd) -> io::Result<Place> {
    let number = descriptor.as_fd().as_raw_fd();
    let path = std::fs::read_link(format!("/proc/self/fd/{number}"))?;
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}"))?;
    mount_id(&info)
        .and_then(|id| mounts_of("self").ok()?.into_iter().find(|m| m.id == id))
        .and_then(|mount| mount.place(&path))
        .ok_or_else(|| io::Error::other(format!("no mount is known for {}", path.display())))
}

fn holders_in(region: &Place) -> Vec<Holder> {
    let own = std::process::id();
    let mut namespaces = HashMap::new();
    let mut found = Vec::new();
    for pid in processes().filter(|pid| *pid != own && !is_copy_of(own, *pid)) {
        // A process that ends while it is looked at holds nothing any more.
        let Ok(namespace) = std::fs::read_link(format!("/proc/{pid}/ns/mnt")) else {
            continue;
        };
        let mounts = namespaces.entry(namespace).or_insert_with(|| {
            Namespace::new(mounts_of(&pid.to_string()).unwrap_or_default(), region)
        });
        let process = Process {
            pid,
            namespace: mounts,
            region,
        };
        process.open_files(&mut found);
        process.mapped_files(&mut found);
        process.working_directory(&mut found);
    }
    found
}

pub(super) fn processes() -> impl Iterator<Item = u32> {
    std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// A child that was forked and does not run a program of its own: its descriptors are ours.
fn is_copy_of(own: u32, pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let is_child = field(&status, "PPid:").is_some_and(|parent| parent == own.to_string());
    let program = |pid: u32| std::fs::read_link(format!("/proc/{pid}/exe")).ok();
    is_child && program(pid) == program(own)
}

/// What the processes of a mount namespace see.
struct Namespace {
    mounts: Vec<MountPoint>,
    /// Where the region can be seen, or a part of it: what lies elsewhere need not be looked at closely.
    views: Vec<PathBuf>,
}

impl Namespace {
    fn new(mounts: Vec<MountPoint>, region: &Place) -> Self {
        let views = mounts.iter().filter_map(|mount| mount.view_of(region));
        Self {
            views: views.collect(),
            mounts,
        }
    }

    fn may_see(&self, path: &Path) -> bool {
        self.views.iter().any(|view| path.starts_with(view))
    }
}

struct Process<'a> {
    pid: u32,
    namespace: &'a Namespace,
    region: &'a Place,
}

impl Process<'_> {
    fn open_files(&self, found: &mut Vec<Holder>) {
        let pid = self.pid;
        let Ok(descriptors) = std::fs::read_dir(format!("/proc/{pid}/fd")) else {
            return;
        };
        for descriptor in descriptors.flatten() {
            let Ok(link) = std::fs::read_link(descriptor.path()) else {
                continue;
            };
            // A pipe or a socket has no path.
            if !link.is_absolute() || !self.namespace.may_see(&link) {
                continue;
            }
            let file = without_deleted_mark(&link);
            let Some(below) = self.below(&descriptor.path(), &file) else {
                continue;
            };
            let number = descriptor.file_name();
            let info = format!("/proc/{pid}/fdinfo/{}", number.display());
            let info = std::fs::read_to_string(info).unwrap_or_default();
            let kind = match is_directory(&descriptor.path()) || only_names(&info) {
                true => HolderKind::OpenDirectory,
                false => HolderKind::OpenFile,
            };
            self.add(found, file, below, kind);
        }
    }

    fn mapped_files(&self, found: &mut Vec<Holder>) {
        let Ok(maps) = std::fs::read_to_string(format!("/proc/{}/maps", self.pid)) else {
            return;
        };
        let (major, minor) = self.region.device;
        let device = format!("{major:02x}:{minor:02x}");
        for line in maps.lines() {
            let mut fields = line.split_ascii_whitespace();
            if fields.nth(3) != Some(device.as_str()) {
                continue;
            }
            let Some(path) = line.find('/').map(|start| &line[start..]) else {
                continue;
            };
            let file = without_deleted_mark(Path::new(path));
            let below = self.namespace.mounts.iter().find_map(|mount| {
                let place = mount.place(&file)?;
                self.region.below(&place)
            });
            if let Some(below) = below {
                self.add(found, file, below, HolderKind::MappedFile);
            }
        }
    }

    fn working_directory(&self, found: &mut Vec<Holder>) {
        let Ok(link) = std::fs::read_link(format!("/proc/{}/cwd", self.pid)) else {
            return;
        };
        let directory = without_deleted_mark(&link);
        if !self.namespace.may_see(&directory) {
            return;
        }
        let process = format!("/proc/{}/cwd", self.pid);
        if let Some(below) = self.below(process.as_ref(), &directory) {
            self.add(found, directory, below, HolderKind::WorkingDirectory);
        }
    }

    /// Where in the region something lies that `/proc` has a link to, `path` being the text of that. By its mount, since
    /// another may have come to lie over the path. What the kernel knows by itself is enough: a file system that hangs
    /// is not asked.
    fn below(&self, link: &Path, path: &Path) -> Option<PathBuf> {
        let known = statx(CWD, link, AtFlags::STATX_DONT_SYNC, StatxFlags::MNT_ID).ok()?;
        let mut mounts = self.namespace.mounts.iter();
        let mount = mounts.find(|mount| mount.id == known.stx_mnt_id)?;
        self.region.below(&mount.place(path)?)
    }

    /// Adds a holder, but each file of a process once.
    fn add(&self, found: &mut Vec<Holder>, file: PathBuf, below: PathBuf, kind: HolderKind) {
        let is_known = |holder: &Holder| holder.pid == self.pid && holder.file == file;
        if found.iter().any(is_known) {
            return;
        }
        let command = std::fs::read_to_string(format!("/proc/{}/comm", self.pid));
        found.push(Holder {
            pid: self.pid,
            command: command.unwrap_or_default().trim_end().to_owned(),
            file,
            below,
            kind,
        });
    }
}

fn mount_id(info: &str) -> Option<u64> {
    field(info, "mnt_id:")?.parse().ok()
}

/// Whether a descriptor is of a directory, however it was opened. What the kernel knows by itself is enough.
fn is_directory(descriptor: &Path) -> bool {
    let known = statx(CWD, descriptor, AtFlags::STATX_DONT_SYNC, StatxFlags::TYPE);
    known.is_ok_and(|known| FileType::from_raw_mode(known.stx_mode.into()).is_dir())
}

/// Whether a descriptor only names a file.
fn only_names(info: &str) -> bool {
    let flags = field(info, "flags:").and_then(|octal| i32::from_str_radix(octal, 8).ok());
    flags.is_some_and(|flags| flags & libc::O_PATH != 0)
}

fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines()
        .find_map(|line| line.strip_prefix(name))
        .map(str::trim)
}

/// The process that serves a FUSE mount, where the kernel tells.
pub(super) fn daemon_of(device: (u32, u32)) -> Option<u32> {
    let connection = device.1.to_string();
    processes().find(|pid| {
        let serves = |descriptor: std::fs::DirEntry| {
            std::fs::read_to_string(descriptor.path())
                .is_ok_and(|info| field(&info, "fuse_connection:") == Some(connection.as_str()))
        };
        std::fs::read_dir(format!("/proc/{pid}/fdinfo"))
            .is_ok_and(|descriptors| descriptors.flatten().any(serves))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::process::{Command, Stdio};

    #[test]
    fn a_process_that_has_a_file_open_is_named_and_one_that_stands_there_is_no_holder() {
        let dir = tempfile::tempdir().expect("a scratch directory");
        let inside = dir.path().join("x.db");
        let mut holder = Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::from(File::create(&inside).expect("a file")))
            .current_dir(dir.path())
            .spawn()
            .expect("cat");
        let found = holders(File::open(dir.path()).expect("opened")).expect("read");
        let of_child: Vec<_> = found.iter().filter(|h| h.pid == holder.id()).collect();
        assert_eq!(of_child.len(), 2, "{found:?}");
        assert!(of_child[0].holds_file() && of_child[0].file == inside);
        assert_eq!(of_child[0].below, Path::new("x.db"));
        assert!(!of_child[1].holds_file(), "it works in the directory");
        drop(holder.stdin.take());
        holder.wait().expect("ended");
        let found = holders(File::open(dir.path()).expect("opened")).expect("read");
        assert!(found.is_empty(), "{found:?}");
    }
}
