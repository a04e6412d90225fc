//! The directories of a configuration: which are watched, where they are mounted, and where they really lie.

use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, OFlags};

use super::resolve::Absent;
use super::{ConfigError, WatchPathWritten, Written};
use crate::paths::{WayIn, reach};

/// A watch path before its rules are known.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Directory {
    pub path: PathBuf,
    pub mountpoint: PathBuf,
    pub prefix: String,
}

/// The watch paths that were written, or else the directories of `clients`. None lies within another.
pub(super) fn watch_paths(
    written: &mut Written,
    absent: &mut Absent,
) -> Result<Vec<Directory>, ConfigError> {
    let mut wanted = std::mem::take(&mut written.watch_paths);
    if wanted.is_empty() {
        wanted = parents_of_clients(written);
    }
    if wanted.is_empty() {
        absent.note(ConfigError::NoWatchPath)?;
    }
    if let Some(mountpoint) = written.mountpoint.take() {
        match &mut wanted[..] {
            [one] => one.mountpoint = Some(mountpoint),
            several => {
                return Err(ConfigError::Path {
                    path: mountpoint,
                    reason: format!(
                        "-mountpoint is for one watch path, and there are {}; write `mountpoint` in `autoDiscovery.watchPaths`",
                        several.len()
                    ),
                });
            }
        }
    }
    let mut directories: Vec<Directory> = Vec::new();
    for one in wanted {
        let directory = watch_path(one, absent)?;
        for other in &directories {
            refuse_nested(other, &directory)?;
        }
        directories.push(directory);
    }
    Ok(directories)
}

/// The directories that have a client's database, but those within another one.
fn parents_of_clients(written: &Written) -> Vec<WatchPathWritten> {
    let paths = written
        .clients
        .iter()
        .filter_map(|client| client.db_path.as_deref());
    let mut parents: Vec<_> = paths.filter_map(Path::parent).collect();
    parents.sort_unstable();
    parents.dedup_by(|next, before| next.starts_with(before));
    let watched = parents.into_iter().map(|parent| WatchPathWritten {
        path: Some(parent.to_owned()),
        ..WatchPathWritten::default()
    });
    watched.collect()
}

fn watch_path(written: WatchPathWritten, absent: &mut Absent) -> Result<Directory, ConfigError> {
    let path = written.path.ok_or(ConfigError::NoWatchPath)?;
    let path = directory(&path, absent)?;
    let mountpoint = match written.mountpoint {
        Some(mountpoint) => directory(&mountpoint, absent)?,
        None => path.clone(),
    };
    if mountpoint != path && is_nested(&mountpoint, &path) {
        return Err(ConfigError::Path {
            path: mountpoint,
            reason: "the mount point and the watch path lie one within the other; choose another mount point".to_owned(),
        });
    }
    Ok(Directory {
        path,
        mountpoint,
        prefix: written.prefix,
    })
}

fn is_nested(a: &Path, b: &Path) -> bool {
    a.starts_with(b) || b.starts_with(a)
}

fn refuse_nested(first: &Directory, second: &Directory) -> Result<(), ConfigError> {
    let of = |directory: &Directory| [directory.path.clone(), directory.mountpoint.clone()];
    for a in of(first) {
        for b in of(second) {
            if is_nested(&a, &b) {
                return Err(ConfigError::Path {
                    path: b,
                    reason: format!(
                        "it and {} lie one within the other; a watch path covers all that is below it, so name the upper one alone",
                        a.display()
                    ),
                });
            }
        }
    }
    Ok(())
}

/// A directory that exists, by its absolute path without links. What a dead mount covers counts as one.
fn directory(path: &Path, absent: &mut Absent) -> Result<PathBuf, ConfigError> {
    let wrong = |reason: String| ConfigError::Path {
        path: path.to_owned(),
        reason,
    };
    match true_path(path) {
        Ok(Some(path)) => Ok(path),
        Ok(None) => Err(wrong("is no directory; name one".to_owned())),
        Err(error) if is_dead_mount(&error) => absolute(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            absent.note(wrong(
                "there is no such directory; create it first".to_owned(),
            ))?;
            absolute(path)
        }
        // The mount of an ordinary user, which root must not look into.
        Err(error) => {
            absent.note(wrong(format!("look at the directory: {error}")))?;
            absolute(path)
        }
    }
}

/// The path without links; none of what is no directory. A mount of this instance's own is one, and is not asked: the
/// configuration is read again while it is there.
fn true_path(path: &Path) -> io::Result<Option<PathBuf>> {
    let reached = match reach(path) {
        Ok(reached) => reached,
        Err(WayIn::Own { path, rest }) => return Ok(Some(path.join(rest))),
        Err(WayIn::Failed(error)) => return Err(error),
    };
    let found = reached.open(OFlags::PATH)?;
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode);
    Ok(kind.is_dir().then_some(reached.path))
}

/// A mount whose daemon died; it is cleared before the new mount.
fn is_dead_mount(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENOTCONN)
}

pub(super) fn absolute(path: &Path) -> Result<PathBuf, ConfigError> {
    let absolute = std::path::absolute(path).map_err(|error| ConfigError::Path {
        path: path.to_owned(),
        reason: format!("make the path absolute: {error}"),
    })?;
    // Collected again, since a slash at the end would stay.
    Ok(absolute.components().collect())
}

/// Where a path that need not exist yet would lie, links followed as far as it exists.
pub(super) fn settled(path: &Path) -> Result<PathBuf, ConfigError> {
    match reach(path) {
        Ok(reached) => Ok(reached.settled()),
        // What is below is not asked, so links there are not followed.
        Err(WayIn::Own { path, rest }) => Ok(path.join(rest)),
        Err(WayIn::Failed(_)) => absolute(path),
    }
}
