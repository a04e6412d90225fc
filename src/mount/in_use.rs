//! What a directory has of extended attributes before it is mounted, access control lists among them.

use std::ffi::OsStr;
use std::fs::{self, FileType};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;

use super::attributes::{ACCESS_LISTS, LABEL};
use crate::paths::open_beneath;

/// How long a directory is looked through; one that takes longer is taken for one that has both.
const LOOK_LIMIT: Duration = Duration::from_secs(1);

/// What at least one file or directory of a tree has.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct InUse {
    /// Extended attributes other than labels.
    pub attributes: bool,
    /// Access control lists, which are attributes as well.
    pub access_lists: bool,
}

impl InUse {
    const BOTH: Self = Self {
        attributes: true,
        access_lists: true,
    };

    /// Looks through an open directory, with all that is below it.
    pub fn below(directory: &OwnedFd) -> Self {
        Self::found(directory, Instant::now() + LOOK_LIMIT)
    }

    fn found(directory: &OwnedFd, end: Instant) -> Self {
        let mut found = Self::default();
        let mut to_look_at = vec![PathBuf::from(".")];
        while let Some(folder) = to_look_at.pop() {
            // What goes away meanwhile, or can't be read, can't be served either.
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
            let Ok(opened) = open_beneath(directory, &folder, flags) else {
                continue;
            };
            let here = PathBuf::from(format!("/proc/self/fd/{}", opened.as_raw_fd()));
            found.look_at(&here.join("."));
            for entry in fs::read_dir(&here).into_iter().flatten().flatten() {
                if found == Self::BOTH || Instant::now() >= end {
                    return Self::BOTH;
                }
                let is =
                    |kind: fn(&FileType) -> bool| entry.file_type().is_ok_and(|own| kind(&own));
                if is(FileType::is_dir) {
                    to_look_at.push(folder.join(entry.file_name()));
                } else {
                    found.look_at(&entry.path());
                }
            }
        }
        found
    }

    fn look_at(&mut self, path: &Path) {
        // Hardly any file has one, which an answer without names says as well.
        if rustix::fs::llistxattr_query(path).is_ok_and(|length| length == 0) {
            return;
        }
        let mut names = [0; 4096];
        match rustix::fs::llistxattr(path, &mut names[..]) {
            Ok(length) => {
                let names = names[..length].split(|byte| *byte == 0);
                for name in names.filter(|name| !name.is_empty()).map(OsStr::from_bytes) {
                    self.attributes |= name != LABEL;
                    self.access_lists |= ACCESS_LISTS.iter().any(|list| name == *list);
                }
            }
            Err(rustix::io::Errno::RANGE) => *self = Self::BOTH,
            // As above.
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_takes_too_long_has_both() {
        let directory = tempfile::tempdir().expect("a directory");
        let root = directory.path().to_owned();
        fs::write(root.join("file"), "").expect("written");
        let opened = fs::File::open(&root).expect("opened").into();
        let later = Instant::now() + Duration::from_secs(10);
        assert_eq!(InUse::found(&opened, later), InUse::default());
        assert_eq!(InUse::found(&opened, Instant::now()), InUse::BOTH);
    }

    #[test]
    fn an_attribute_is_found_wherever_it_is() {
        for place in ["", "folder", "folder/file"] {
            let directory = tempfile::tempdir().expect("a directory");
            fs::create_dir(directory.path().join("folder")).expect("made");
            fs::write(directory.path().join("folder/file"), "").expect("written");
            let flags = rustix::fs::XattrFlags::empty();
            rustix::fs::setxattr(directory.path().join(place), "user.a", b"", flags).expect("set");
            let opened = fs::File::open(directory.path()).expect("opened");
            let found = InUse::below(&opened.into());
            let expected = InUse {
                attributes: true,
                access_lists: false,
            };
            assert_eq!(found, expected, "{place}");
        }
    }
}
