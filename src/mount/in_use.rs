//! Access control lists in a directory before it is mounted: without extended attributes nobody heeds them.

use std::fs::{self, FileType};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// What grants more, or less, than its mode says, or has what is made in it do so; `directory` is open at `path`. None
/// where nothing does. Once mounted, nobody can give it such a list.
pub(super) fn with_access_list(directory: &OwnedFd, path: &Path) -> Option<PathBuf> {
    let root = PathBuf::from(format!("/proc/self/fd/{}/.", directory.as_raw_fd()));
    let named = |found: &Path| match found.strip_prefix(&root) {
        Ok(below) if below != Path::new("") => path.join(below),
        _ => path.to_owned(),
    };
    let mut to_look_at = vec![root.clone()];
    while let Some(path) = to_look_at.pop() {
        if has_access_list(&path) {
            return Some(named(&path));
        }
        // What goes away meanwhile, or can't be read, can't be served either.
        for entry in fs::read_dir(&path).into_iter().flatten().flatten() {
            let is = |kind: fn(&FileType) -> bool| entry.file_type().is_ok_and(|own| kind(&own));
            let path = entry.path();
            if is(FileType::is_dir) {
                to_look_at.push(path);
            } else if !is(FileType::is_symlink) && has_access_list(&path) {
                return Some(named(&path));
            }
        }
    }
    None
}

fn has_access_list(path: &Path) -> bool {
    ["system.posix_acl_access", "system.posix_acl_default"]
        .into_iter()
        .any(|name| rustix::fs::lgetxattr_query(path, name).is_ok())
}
