//! Where a restored file goes: a name in a directory that is held open, so that nothing can be put in the way to it.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, Stat, openat, statat};
use rustix::io::Errno;

use super::error::RestoreError;
use super::owner::Asked;
use crate::format::description::Attributes;
use crate::paths::open_beneath;

/// A place for one file.
#[derive(Debug)]
pub struct Destination {
    directory: File,
    name: OsString,
    /// As it is shown.
    path: PathBuf,
}

impl Destination {
    /// By a path that the user gave, whatever links lead there.
    ///
    /// # Errors
    /// Where the directory is not there, or the path has no name.
    pub fn at(path: &Path) -> Result<Self, RestoreError> {
        let name = path.file_name().ok_or_else(|| {
            let error = io::Error::from(io::ErrorKind::InvalidInput);
            RestoreError::local("restore to it", path)(error)
        })?;
        let directory = match path.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        let opened = File::open(directory).and_then(|opened| match opened.metadata()?.is_dir() {
            true => Ok(opened),
            false => Err(Errno::NOTDIR.into()),
        });
        Ok(Self {
            directory: opened.map_err(RestoreError::local("create it", path))?,
            name: name.to_owned(),
            path: path.to_owned(),
        })
    }

    /// At `path` below `top`, a path that came from elsewhere: no link is followed. Directories that are not there are made
    /// as `described`, the first one first; or as the process makes them, where that is empty.
    ///
    /// # Errors
    /// Where a link or a file stands on the way.
    pub fn below(
        top: &Top,
        path: &Path,
        described: &[Option<Attributes>],
        asked: Asked,
    ) -> Result<Self, RestoreError> {
        let shown = top.path.join(path);
        let not_made = |error: io::Error| RestoreError::local("make its directory", &shown)(error);
        let mut directory = top.directory.try_clone().map_err(not_made)?;
        let names: Vec<&OsStr> = path
            .components()
            .map(|part| match part {
                Component::Normal(name) => Ok(name),
                _ => Err(not_made(io::Error::from(io::ErrorKind::InvalidInput))),
            })
            .collect::<Result<_, _>>()?;
        let Some((name, above)) = names.split_last() else {
            return Err(not_made(io::Error::from(io::ErrorKind::InvalidInput)));
        };
        let mut last = top.path.clone();
        for (at, name) in above.iter().enumerate() {
            last.push(name);
            let attributes = described.get(at).copied().flatten();
            directory = match asked.make_directory(&directory, name, attributes) {
                // Of another client, or there before.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    open_directory(&directory, name)
                }
                made => made,
            }
            .map_err(RestoreError::local("make it", &last))?;
        }
        Ok(Self {
            directory,
            name: (*name).to_owned(),
            path: shown,
        })
    }

    /// As it is shown.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn directory(&self) -> &File {
        &self.directory
    }

    pub(super) fn name(&self) -> &OsStr {
        &self.name
    }

    /// A path to the directory for calls that take no descriptor.
    pub(super) fn scratch(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.directory.as_raw_fd()))
    }

    /// What stands under a name in the directory; none where nothing does. A link is not followed.
    pub(super) fn look(&self, name: &OsStr) -> Result<Option<Stat>, RestoreError> {
        match statat(&self.directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => Ok(Some(found)),
            Err(errno) if can_not_be(errno) => Ok(None),
            Err(errno) => {
                let path = self.path.with_file_name(name);
                Err(RestoreError::local("look at it", &path)(errno.into()))
            }
        }
    }
}

/// The directory that all clients are restored below.
#[derive(Debug)]
pub struct Top {
    directory: File,
    path: PathBuf,
}

impl Top {
    /// Opens it by a path that the user gave.
    ///
    /// # Errors
    /// Where it is not there, or is no directory.
    pub fn open(path: &Path) -> Result<Self, RestoreError> {
        let opened = open_directory_of_user(path);
        Ok(Self {
            directory: opened.map_err(RestoreError::local("open it", path))?,
            path: path.to_owned(),
        })
    }

    /// The same, made with the directories above it where they are not there.
    ///
    /// # Errors
    /// Those of making them.
    pub fn make(path: &Path, asked: Asked) -> Result<Self, RestoreError> {
        let above: Vec<_> = path.ancestors().collect();
        for directory in above.into_iter().rev() {
            if directory.as_os_str().is_empty() || directory.is_dir() {
                continue;
            }
            let parent = match directory.parent() {
                Some(parent) if parent != Path::new("") => parent,
                _ => Path::new("."),
            };
            let made = directory
                .file_name()
                .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))
                .and_then(|name| asked.make_directory(open_directory_of_user(parent)?, name, None));
            match made {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => drop(made.map_err(RestoreError::local("make it", directory))?),
            }
        }
        Self::open(path)
    }

    /// Whether anything stands at `path` below it.
    ///
    /// # Errors
    /// Where a link stands on the way.
    pub fn has(&self, path: &Path) -> Result<bool, RestoreError> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW;
        match open_beneath(&self.directory, path, flags) {
            Ok(_) => Ok(true),
            Err(errno) if can_not_be(errno) => Ok(false),
            Err(errno) => {
                let path = self.path.join(path);
                Err(RestoreError::local("look at it", &path)(errno.into()))
            }
        }
    }
}

/// Whether nothing is by that name; by a name that is too long, nothing ever is.
pub(super) fn can_not_be(errno: Errno) -> bool {
    matches!(errno, Errno::NOENT | Errno::NAMETOOLONG)
}

/// Opens a directory by a single name below another.
pub(super) fn open_directory(parent: impl AsFd, name: &OsStr) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(parent, name, flags, Mode::empty()) {
        Ok(opened) => Ok(opened.into()),
        Err(Errno::LOOP | Errno::NOTDIR) => Err(io::Error::other(
            "a link or a file stands in its place, which is not followed",
        )),
        Err(errno) => Err(errno.into()),
    }
}

fn open_directory_of_user(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?.into())
}
