//! The folder that holds the state: made, or found to be this instance's alone, descriptor by descriptor.
//!
//! A watch path may be one that others write to. Whoever makes the folder first, or a link in its place, must not choose
//! what is read, written and removed there. Nothing below it is reached by its name again: the path that is used leads
//! through its descriptor.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, mkdirat, openat, openat2,
    statat, unlinkat,
};
use rustix::io::Errno;

use super::{StartError, backing, disk};

/// Below the folder: segments that wait for the store.
pub(super) const SPOOL: &str = "spool";
const STATE: &str = "state.db";
/// What of the state is removed again where a start has made it.
const OF_STATE: [&str; 3] = [STATE, "state.db-wal", "state.db-shm"];
/// What others may do to a folder or file of ours: not write.
const OTHERS_WRITE: u32 = 0o022;

/// The open folder, which no other process uses meanwhile.
#[derive(Debug)]
pub(super) struct StateFolder {
    folder: File,
    parent: OwnedFd,
    name: OsString,
}

impl StateFolder {
    /// Opens the folder at `directory`, with the folder of the spool in it, and makes both where they are not there.
    ///
    /// # Errors
    /// `Untrusted` where a part of it is not this user's or root's alone, or is no plain file or folder; `InUse`.
    pub fn open(directory: &Path) -> Result<Self, StartError> {
        let failed = |source: io::Error| StartError::Directory {
            path: directory.to_owned(),
            source,
        };
        let no_name = || failed(io::ErrorKind::InvalidInput.into());
        let name = directory.file_name().ok_or_else(no_name)?;
        let above = directory.parent().ok_or_else(no_name)?;
        let parent = open_above(above)?;
        let folder = make_folder(&parent, name, directory)?;
        if !backing::claim(&folder).map_err(failed)? {
            let path = directory.to_owned();
            return Err(StartError::InUse { path });
        }
        let spool = directory.join(SPOOL);
        let spool_folder = make_folder(&folder, OsStr::new(SPOOL), &spool)?;
        check_files(&spool_folder, &spool, None)?;
        check_files(&folder, directory, Some(SPOOL))?;
        Ok(Self {
            folder,
            parent,
            name: name.to_owned(),
        })
    }

    /// A path to it that leads through its descriptor.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.folder.as_raw_fd()))
    }

    /// Makes an empty file for the state's database where there is none: SQLite would let others read it. `directory` is a
    /// path to the folder.
    pub fn make_state(&self, directory: &Path) -> Result<(), StartError> {
        let path = directory.join(STATE);
        let made = match statat(&self.folder, STATE, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => return Ok(()),
            Err(Errno::NOENT) => disk::create(&path).map(drop),
            Err(errno) => Err(errno.into()),
        };
        made.map_err(|source| StartError::Directory { path, source })
    }

    /// Removes it again, with a state that holds nothing yet.
    pub fn withdraw(&self) -> io::Result<()> {
        for name in OF_STATE {
            match unlinkat(&self.folder, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        unlinkat(&self.folder, SPOOL, AtFlags::REMOVEDIR)?;
        Ok(unlinkat(&self.parent, &self.name, AtFlags::REMOVEDIR)?)
    }
}

/// Opens the directory that the folder lies in: that of a descriptor, which may be anybody's; or one that was configured,
/// which is made where it is not there, and in which nobody else may put another folder in the place of ours.
fn open_above(above: &Path) -> Result<OwnedFd, StartError> {
    let failed = |source: io::Error| StartError::Directory {
        path: above.to_owned(),
        source,
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    if above.starts_with("/proc/self/fd") {
        return openat(CWD, above, flags, Mode::empty()).map_err(|errno| failed(errno.into()));
    }
    use std::os::unix::fs::DirBuilderExt;
    let mut private = std::fs::DirBuilder::new();
    let made = private.recursive(true).mode(0o700).create(above);
    made.map_err(failed)?;
    let opened = openat2(CWD, above, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS);
    let opened = match opened {
        Err(Errno::LOOP) => return Err(untrusted(above, "a symbolic link leads to it".to_owned())),
        opened => opened.map_err(|errno| failed(errno.into()))?,
    };
    let stat = fstat(&opened).map_err(|errno| failed(errno.into()))?;
    // There nobody removes or renames what is another's.
    let is_sticky = stat.st_mode & libc::S_ISVTX != 0;
    check(above, &stat, FileType::Directory, is_sticky)?;
    Ok(opened)
}

/// Opens a folder by its name in another, and makes it where there is none.
fn make_folder(parent: impl AsFd, name: &OsStr, shown: &Path) -> Result<File, StartError> {
    let failed = |errno: Errno| StartError::Directory {
        path: shown.to_owned(),
        source: errno.into(),
    };
    // The spool has pages of databases that others may not read.
    match mkdirat(&parent, name, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(failed(errno)),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = match openat(&parent, name, flags, Mode::empty()) {
        Err(Errno::LOOP | Errno::NOTDIR) => {
            let found = statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
            check(shown, &found, FileType::Directory, false)?;
            return Err(failed(Errno::NOTDIR));
        }
        opened => opened.map_err(failed)?,
    };
    let stat = fstat(&opened).map_err(failed)?;
    check(shown, &stat, FileType::Directory, false)?;
    Ok(opened.into())
}

/// Looks at each file of a folder; all are plain ones, but for one folder.
fn check_files(folder: &File, shown: &Path, folder_in_it: Option<&str>) -> Result<(), StartError> {
    let failed = |errno: Errno| StartError::Directory {
        path: shown.to_owned(),
        source: errno.into(),
    };
    for entry in Dir::read_from(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name == "." || name == ".." || folder_in_it.is_some_and(|known| name == known) {
            continue;
        }
        match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => check(&shown.join(name), &stat, FileType::RegularFile, false)?,
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(failed(errno)),
        }
    }
    Ok(())
}

/// Refuses what is of another kind, of another user, or writable for others, unless it is `guarded` otherwise.
fn check(path: &Path, found: &Stat, wanted: FileType, is_guarded: bool) -> Result<(), StartError> {
    let kind = FileType::from_raw_mode(found.st_mode);
    if kind != wanted {
        let is = match kind {
            FileType::Symlink => "a symbolic link",
            FileType::Directory => "a folder",
            FileType::RegularFile => "a file",
            _ => "neither file nor folder",
        };
        return Err(untrusted(path, format!("it is {is}")));
    }
    let own = rustix::process::geteuid().as_raw();
    if found.st_uid != own && found.st_uid != 0 {
        return Err(untrusted(
            path,
            format!("it belongs to uid {}", found.st_uid),
        ));
    }
    let mode = found.st_mode & 0o7777;
    match mode & OTHERS_WRITE != 0 && !is_guarded {
        true => Err(untrusted(
            path,
            format!("its mode {mode:04o} lets others write to it"),
        )),
        false => Ok(()),
    }
}

fn untrusted(path: &Path, reason: String) -> StartError {
    StartError::Untrusted {
        path: path.to_owned(),
        reason,
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};

    use super::*;

    fn refusal(directory: &Path) -> String {
        match StateFolder::open(directory) {
            Err(error @ StartError::Untrusted { .. }) => error.to_string(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn all_that_it_makes_is_its_users_alone_and_can_be_opened_again() {
        let scratch = tempfile::tempdir().expect("a directory");
        let directory = scratch.path().join("above/state");
        let opened = open_with_state(&directory);
        assert!(matches!(
            StateFolder::open(&directory),
            Err(StartError::InUse { .. })
        ));
        for (path, mode) in [("", 0o700), ("spool", 0o700), ("state.db", 0o600)] {
            let found = fs::metadata(directory.join(path)).expect("there");
            assert_eq!(found.mode() & 0o7777, mode, "{path}");
        }
        drop(opened);
        let again = StateFolder::open(&directory).expect("opened");
        again.withdraw().expect("removed");
        assert!(!directory.exists());
    }

    fn open_with_state(directory: &Path) -> StateFolder {
        let opened = StateFolder::open(directory).expect("made");
        opened.make_state(&opened.path()).expect("made");
        opened
    }

    /// Owners can be given by root alone, which the tests run as.
    #[test]
    fn each_part_has_to_be_its_users_own() {
        let scratch = tempfile::tempdir().expect("a directory");
        let target = scratch.path().join("target");
        fs::create_dir(&target).expect("a folder");
        let parts = [
            "",
            "spool",
            "state.db",
            "state.db-wal",
            "7.sums",
            "spool/1.ltx",
            "spool/1.tmp",
        ];
        for (n, part) in parts.iter().enumerate() {
            let fresh = |what: &str| {
                let directory = scratch.path().join(format!("{n}-{what}"));
                drop(open_with_state(&directory));
                let path = directory.join(part);
                if !path.exists() {
                    fs::write(&path, "content").expect("a file");
                }
                (directory, path)
            };
            let (directory, path) = fresh("owner");
            chown(&path, Some(1234), None).expect("given");
            assert!(
                refusal(&directory).contains("belongs to uid 1234"),
                "{part}"
            );
            let (directory, path) = fresh("mode");
            let mode = fs::metadata(&path).expect("there").mode() | 0o020;
            fs::set_permissions(&path, Permissions::from_mode(mode)).expect("changed");
            assert!(refusal(&directory).contains("lets others write"), "{part}");
            let (directory, path) = fresh("link");
            let is_folder = path.is_dir();
            fs::rename(&path, scratch.path().join(format!("{n}-away"))).expect("moved");
            symlink(
                if is_folder { &target } else { &path },
                path.components().as_path(),
            )
            .expect("a link");
            assert!(refusal(&directory).contains("symbolic link"), "{part}");
            assert_eq!(fs::read_dir(&target).expect("read").count(), 0, "{part}");
        }
    }

    #[test]
    fn the_directory_above_is_nobody_elses_unless_it_guards_what_is_in_it() {
        let scratch = tempfile::tempdir().expect("a directory");
        let above = scratch.path().join("above");
        fs::create_dir(&above).expect("a folder");
        for (mode, is_fine) in [
            (0o777, false),
            (0o770, false),
            (0o1777, true),
            (0o755, true),
        ] {
            fs::set_permissions(&above, Permissions::from_mode(mode)).expect("changed");
            let opened = StateFolder::open(&above.join("state"));
            assert_eq!(opened.is_ok(), is_fine, "{mode:o}");
        }
        chown(&above, Some(1234), None).expect("given");
        assert!(refusal(&above.join("state")).contains("uid 1234"));
    }
}
