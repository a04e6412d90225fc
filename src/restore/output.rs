//! The restored file's way to its name: written next to it, made durable, then renamed.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, RenameFlags, Stat, StatxFlags, linkat, major, makedev,
    minor, openat, renameat, renameat_with, statx, unlinkat,
};
use rustix::io::Errno;

use super::RestoreError;
use super::destination::{Destination, can_not_be};
use super::owner::{Wanted, attributes_of, not_given};

/// What SQLite keeps beside a database, and would take for the restored one's.
const COMPANIONS: [&str; 3] = ["-wal", "-journal", "-shm"];

/// A file that is being restored. Dropped before it has got its name, it is removed.
#[derive(Debug)]
pub(super) struct Output {
    destination: Destination,
    /// In the same directory.
    temporary: OsString,
    /// What the name may no longer lead to, where others can write to its directory.
    file: File,
    force: bool,
    wanted: Wanted,
}

impl Output {
    /// Checks whether a restore to that place may begin, before anything is fetched.
    ///
    /// # Errors
    /// `OutputExists` without `force`, for the file or for what SQLite kept beside one; `OutputOpen` with it.
    pub fn check(destination: &Destination, force: bool) -> Result<(), RestoreError> {
        let found = destination.look(destination.name())?;
        if force {
            return match found {
                Some(found) => check_replaceable(destination.path(), &found),
                None => Ok(()),
            };
        }
        if found.is_some() {
            return Err(RestoreError::OutputExists {
                path: destination.path().to_owned(),
            });
        }
        for suffix in COMPANIONS {
            let name = companion(destination.name(), suffix);
            if destination.look(&name)?.is_some() {
                return Err(RestoreError::OutputExists {
                    path: destination.path().with_file_name(name),
                });
            }
        }
        Ok(())
    }

    /// Makes the temporary file in the same directory. Its name is as short as any: the file's may be the longest.
    pub fn create(
        destination: Destination,
        force: bool,
        wanted: Wanted,
    ) -> Result<(Self, File), RestoreError> {
        let temporary = OsString::from(format!(".restore-{:016x}", crate::random::number()));
        let shown = destination.path().with_file_name(&temporary);
        let mode = if wanted.is_said() { 0o600 } else { 0o666 };
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(mode);
        let file = openat(destination.directory(), &temporary, flags, mode)
            .map_err(|errno| RestoreError::local("create it", &shown)(errno.into()))?;
        let output = Self {
            destination,
            temporary,
            file: file.into(),
            force,
            wanted,
        };
        let cloned = output.file.try_clone();
        let written = cloned.map_err(RestoreError::local("open it twice", &shown))?;
        Ok((output, written))
    }

    /// The temporary file's path, as it is shown.
    pub fn temporary(&self) -> PathBuf {
        self.destination.path().with_file_name(&self.temporary)
    }

    /// A path to its directory.
    pub fn scratch(&self) -> PathBuf {
        self.destination.scratch()
    }

    /// Gives the file its name, durably. It was made durable itself before.
    ///
    /// # Errors
    /// As `check`: another may have come to stand there, or been opened, meanwhile.
    pub fn publish(self) -> Result<(), RestoreError> {
        Self::check(&self.destination, self.force)?;
        self.give_attributes()?;
        let (directory, path) = (self.destination.directory(), self.destination.path());
        if self.force {
            // Before the rename: a WAL that outlived it would be applied to the restored file.
            for suffix in COMPANIONS {
                let name = companion(self.destination.name(), suffix);
                match unlinkat(directory, &name, AtFlags::empty()) {
                    Err(errno) if !can_not_be(errno) => {
                        let path = path.with_file_name(name);
                        return Err(RestoreError::local("remove it", &path)(errno.into()));
                    }
                    _ => {}
                }
            }
            let name = self.destination.name();
            renameat(directory, &self.temporary, directory, name).map_err(|errno| {
                RestoreError::local("rename the restored file to it", path)(errno.into())
            })?;
        } else {
            self.rename_to_new()?;
        }
        let synced = directory.sync_all();
        synced.map_err(RestoreError::local("make the new name durable", path))
    }

    fn rename_to_new(&self) -> Result<(), RestoreError> {
        let directory = self.destination.directory();
        let (from, to) = (&self.temporary, self.destination.name());
        let flags = RenameFlags::NOREPLACE;
        let renamed = match renameat_with(directory, from, directory, to, flags) {
            // File systems without that flag have hard links, and the drop takes the first name away.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                linkat(directory, from, directory, to, AtFlags::empty())
            }
            renamed => renamed,
        };
        let path = self.destination.path();
        renamed.map_err(|errno| match errno {
            Errno::EXIST => RestoreError::OutputExists {
                path: path.to_owned(),
            },
            _ => RestoreError::local("rename the restored file to it", path)(errno.into()),
        })
    }

    /// A file that is replaced keeps its mode and its owner, or its application could no longer open it.
    fn give_attributes(&self) -> Result<(), RestoreError> {
        let replaced = self.destination.look(self.destination.name())?;
        let wanted = match replaced {
            Some(replaced) => self.wanted.instead_of(attributes_of(&replaced)),
            None => self.wanted,
        };
        let given = wanted.give(&self.file);
        given.map_err(not_given(self.destination.path()))
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        // After a rename there is nothing by that name; what else can fail here, the user sees as a file left.
        let directory = self.destination.directory();
        let _ = unlinkat(directory, &self.temporary, AtFlags::empty());
    }
}

fn check_replaceable(path: &Path, found: &Stat) -> Result<(), RestoreError> {
    if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
        let error = io::Error::other("it is no regular file");
        return Err(RestoreError::local("replace it", path)(error));
    }
    match find_opener(found).map_err(RestoreError::local(
        "look for open files in it",
        Path::new("/proc"),
    ))? {
        None => Ok(()),
        Some((pid, command)) => Err(RestoreError::OutputOpen {
            path: path.to_owned(),
            pid,
            command,
        }),
    }
}

/// A process that has the file open, and its command. Without root only one's own processes can be seen.
fn find_opener(wanted: &Stat) -> io::Result<Option<(u32, String)>> {
    for process in fs::read_dir("/proc")? {
        let process = process?.path();
        let Some(pid) = process.file_name().and_then(OsStr::to_str) else {
            continue;
        };
        let Ok(pid) = pid.parse() else { continue };
        // A process may end at any moment, and others' are not ours to see.
        let Ok(descriptors) = fs::read_dir(process.join("fd")) else {
            continue;
        };
        for descriptor in descriptors.flatten() {
            if is_same_file(&descriptor.path(), wanted) {
                let command = fs::read_to_string(process.join("comm")).unwrap_or_default();
                return Ok(Some((pid, command.trim().to_owned())));
            }
        }
    }
    Ok(None)
}

/// Never waits for a file system that does not answer: what the kernel knows is enough.
fn is_same_file(descriptor: &Path, wanted: &Stat) -> bool {
    let known = statx(CWD, descriptor, AtFlags::STATX_DONT_SYNC, StatxFlags::INO);
    known.is_ok_and(|known| {
        let device = makedev(known.stx_dev_major, known.stx_dev_minor);
        let wanted_device = (major(wanted.st_dev), minor(wanted.st_dev));
        known.stx_ino == wanted.st_ino && (major(device), minor(device)) == wanted_device
    })
}

fn companion(name: &OsStr, suffix: &str) -> OsString {
    let mut name = name.to_owned();
    name.push(suffix);
    name
}
