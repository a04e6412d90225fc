//! The restored file's way to its name: written next to it, made durable, then renamed.

use std::ffi::OsStr;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, RenameFlags, StatxFlags, linkat, major, minor, renameat_with, statx,
};
use rustix::io::Errno;

use super::RestoreError;
use super::owner::{Wanted, attributes_of, not_given};

/// What SQLite keeps beside a database, and would take for the restored one's.
const COMPANIONS: [&str; 3] = ["-wal", "-journal", "-shm"];

/// A file that is being restored. Dropped before it has got its name, it is removed.
pub(super) struct Output {
    path: PathBuf,
    temporary: PathBuf,
    /// What the name may no longer lead to, where others can write to its directory.
    file: File,
    force: bool,
    wanted: Wanted,
}

impl Output {
    /// Checks whether a restore to `path` may begin, before anything is fetched.
    ///
    /// # Errors
    /// `OutputExists` without `force`, for the file or for what SQLite kept beside one; `OutputOpen` with it.
    pub fn check(path: &Path, force: bool) -> Result<(), RestoreError> {
        let look = |path: &Path| -> Result<Option<Metadata>, RestoreError> {
            match fs::symlink_metadata(path) {
                Ok(found) => Ok(Some(found)),
                Err(error) if can_not_be(&error) => Ok(None),
                Err(error) => Err(RestoreError::local("look at it", path)(error)),
            }
        };
        let found = look(path)?;
        if force {
            return match found {
                Some(found) => check_replaceable(path, &found),
                None => Ok(()),
            };
        }
        let companions = COMPANIONS.map(|suffix| companion(path, suffix));
        if found.is_some() {
            return Err(RestoreError::OutputExists {
                path: path.to_owned(),
            });
        }
        for path in companions {
            if look(&path)?.is_some() {
                return Err(RestoreError::OutputExists { path });
            }
        }
        Ok(())
    }

    /// Makes the temporary file next to `path`. Its name is as short as any: `path` may have the longest.
    pub fn create(path: &Path, force: bool, wanted: Wanted) -> Result<(Self, File), RestoreError> {
        if path.file_name().is_none() {
            let error = io::Error::from(io::ErrorKind::InvalidInput);
            return Err(RestoreError::local("restore to it", path)(error));
        }
        let random = crate::random::number();
        let temporary = path.with_file_name(format!(".restore-{random:016x}"));
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true);
        if wanted.is_said() {
            options.mode(0o600);
        }
        let file = options
            .open(&temporary)
            .map_err(RestoreError::local("create it", &temporary))?;
        let output = Self {
            path: path.to_owned(),
            temporary,
            file,
            force,
            wanted,
        };
        let cloned = output.file.try_clone();
        let written = cloned.map_err(RestoreError::local("open it twice", &output.temporary))?;
        Ok((output, written))
    }

    pub fn temporary(&self) -> &Path {
        &self.temporary
    }

    /// Gives the file its name, durably. It was made durable itself before.
    ///
    /// # Errors
    /// As `check`: another may have come to stand there, or been opened, meanwhile.
    pub fn publish(self) -> Result<(), RestoreError> {
        Self::check(&self.path, self.force)?;
        self.give_attributes()?;
        if self.force {
            // Before the rename: a WAL that outlived it would be applied to the restored file.
            for suffix in COMPANIONS {
                let path = companion(&self.path, suffix);
                match fs::remove_file(&path) {
                    Err(error) if !can_not_be(&error) => {
                        return Err(RestoreError::local("remove it", &path)(error));
                    }
                    _ => {}
                }
            }
            let renamed = fs::rename(&self.temporary, &self.path);
            renamed.map_err(RestoreError::local(
                "rename the restored file to it",
                &self.path,
            ))?;
        } else {
            self.rename_to_new()?;
        }
        let directory = directory_of(&self.path);
        File::open(directory)
            .and_then(|directory| directory.sync_all())
            .map_err(RestoreError::local("make the new name durable", directory))
    }

    fn rename_to_new(&self) -> Result<(), RestoreError> {
        let (from, to) = (&self.temporary, &self.path);
        let renamed = match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            // File systems without that flag have hard links, and the drop takes the first name away.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                linkat(CWD, from, CWD, to, AtFlags::empty())
            }
            renamed => renamed,
        };
        renamed.map_err(|errno| match errno {
            Errno::EXIST => RestoreError::OutputExists {
                path: self.path.clone(),
            },
            _ => RestoreError::local("rename the restored file to it", to)(errno.into()),
        })
    }

    /// A file that is replaced keeps its mode and its owner, or its application could no longer open it.
    fn give_attributes(&self) -> Result<(), RestoreError> {
        let replaced = match fs::metadata(&self.path) {
            Ok(replaced) => Some(attributes_of(&replaced)),
            Err(error) if can_not_be(&error) => None,
            Err(error) => return Err(RestoreError::local("look at it", &self.path)(error)),
        };
        let wanted = match replaced {
            Some(replaced) => self.wanted.instead_of(replaced),
            None => self.wanted,
        };
        wanted.give(&self.file).map_err(not_given(&self.path))
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        // After a rename there is nothing by that name; what else can fail here, the user sees as a file left.
        let _ = fs::remove_file(&self.temporary);
    }
}

fn check_replaceable(path: &Path, found: &Metadata) -> Result<(), RestoreError> {
    if !found.is_file() {
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
fn find_opener(wanted: &Metadata) -> io::Result<Option<(u32, String)>> {
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
fn is_same_file(descriptor: &Path, wanted: &Metadata) -> bool {
    let known = statx(CWD, descriptor, AtFlags::STATX_DONT_SYNC, StatxFlags::INO);
    known.is_ok_and(|known| {
        let device = rustix::fs::makedev(known.stx_dev_major, known.stx_dev_minor);
        let wanted_device = (major(wanted.dev()), minor(wanted.dev()));
        known.stx_ino == wanted.ino() && (major(device), minor(device)) == wanted_device
    })
}

fn companion(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Whether nothing is by that name; by a name that is too long, nothing ever is.
fn can_not_be(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENAMETOOLONG)
}

/// The directory in which a file lies.
pub(super) fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}
