//! What a directory holds, byte for byte, so that it can be compared with itself later.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Where the daemon keeps its own state; no file of an application.
const STATE: &str = ".litestream-multitenant";

/// A file or a directory, with what would show a change that was undone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    mode: u32,
    owner: (u32, u32),
    inode: u64,
    /// Of a file; a directory's time tells of the state folder.
    modified: Option<(i64, i64)>,
    content: Option<Vec<u8>>,
}

/// Every file and directory below `dir`, by its path; without the daemon's own state.
pub fn tree(dir: &Path) -> BTreeMap<PathBuf, Entry> {
    let mut found = BTreeMap::new();
    add(dir, dir, &mut found);
    found
}

fn add(dir: &Path, root: &Path, found: &mut BTreeMap<PathBuf, Entry>) {
    for entry in fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.ends_with(STATE) {
            continue;
        }
        let metadata = fs::symlink_metadata(&path).expect("a file");
        let is_file = metadata.is_file();
        let below = path.strip_prefix(root).expect("below the root").to_owned();
        found.insert(
            below,
            Entry {
                mode: metadata.mode(),
                owner: (metadata.uid(), metadata.gid()),
                inode: metadata.ino(),
                modified: is_file.then(|| (metadata.mtime(), metadata.mtime_nsec())),
                content: is_file.then(|| fs::read(&path).expect("readable")),
            },
        );
        if metadata.is_dir() {
            add(&path, root, found);
        }
    }
}
