//! A process's table of mounts, as `/proc/PID/mountinfo` has it, and where in a file system a path lies.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// One line of the table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MountPoint {
    pub id: u64,
    /// Major and minor number of the file system's device.
    pub device: (u32, u32),
    /// The directory of the file system that is mounted.
    pub root: PathBuf,
    /// Where it is mounted.
    pub path: PathBuf,
    /// The file system's type, with its subtype: `fuse.NAME`.
    pub kind: String,
    /// What is mounted: for one of ours, the watch path.
    pub source: PathBuf,
}

/// A place in a file system, independent of where and how often it is mounted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    pub device: (u32, u32),
    pub path: PathBuf,
}

impl Place {
    pub fn contains(&self, other: &Place) -> bool {
        self.below(other).is_some()
    }

    /// The path of `other` below this one; none where it lies elsewhere.
    pub fn below(&self, other: &Place) -> Option<PathBuf> {
        let below = other.path.strip_prefix(&self.path).ok()?;
        (self.device == other.device).then(|| below.to_owned())
    }
}

impl MountPoint {
    /// Where this mount shows a region, or the part of it that it has; none where it shows nothing of it.
    pub fn view_of(&self, region: &Place) -> Option<PathBuf> {
        if self.device != region.device {
            None
        } else if let Ok(below) = region.path.strip_prefix(&self.root) {
            // Joined with nothing it would get a slash at its end.
            Some(self.path.join(below).components().collect())
        } else {
            let is_part = self.root.starts_with(&region.path);
            is_part.then(|| self.path.clone())
        }
    }

    /// The place of `path`, which is below this mount.
    pub fn place(&self, path: &Path) -> Option<Place> {
        let below = path.strip_prefix(&self.path).ok()?;
        Some(Place {
            device: self.device,
            path: self.root.join(below),
        })
    }
}

/// The mounts that a process sees; `process` is its number, or `self`.
pub fn mounts_of(process: &str) -> io::Result<Vec<MountPoint>> {
    let table = std::fs::read(format!("/proc/{process}/mountinfo"))?;
    Ok(table
        .split(|byte| *byte == b'\n')
        .filter_map(parse)
        .collect())
}

/// The mount that is seen at `path`: of several, the last.
pub fn topmost<'a>(mounts: &'a [MountPoint], path: &Path) -> Option<&'a MountPoint> {
    mounts.iter().rev().find(|mount| mount.path == path)
}

/// The place of a path that is only known by its text: below the nearest mount above it.
pub fn place_of_path(mounts: &[MountPoint], path: &Path) -> Option<Place> {
    // Of several at one path `max_by_key` takes the last, which is the one that is seen.
    mounts
        .iter()
        .filter(|mount| path.starts_with(&mount.path))
        .max_by_key(|mount| mount.path.components().count())?
        .place(path)
}

fn parse(line: &[u8]) -> Option<MountPoint> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = text(fields.next()?)?.parse().ok()?;
    let (major, minor) = text(fields.nth(1)?)?.split_once(':')?;
    let root = unescape(fields.next()?);
    let path = unescape(fields.next()?);
    let mut fields = fields.skip_while(|field| *field != b"-").skip(1);
    let kind = fields.next()?;
    let source = unescape(fields.next()?);
    Some(MountPoint {
        id,
        device: (major.parse().ok()?, minor.parse().ok()?),
        root,
        path,
        kind: text(kind)?.to_owned(),
        source,
    })
}

fn text(field: &[u8]) -> Option<&str> {
    std::str::from_utf8(field).ok()
}

/// Space, tab, newline and backslash stand as a backslash and three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        let octal = after
            .get(..3)
            .and_then(text)
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match octal {
            Some(escaped) if byte == b'\\' => {
                plain.push(escaped);
                rest = &after[3..];
            }
            _ => {
                plain.push(byte);
                rest = after;
            }
        }
    }
    PathBuf::from(OsString::from_vec(plain))
}

/// The text of a link in `/proc`, without the mark of a file that was unlinked.
pub fn without_deleted_mark(link: &Path) -> PathBuf {
    let bytes = link.as_os_str().as_bytes();
    let path = bytes.strip_suffix(b" (deleted)").unwrap_or(bytes);
    PathBuf::from(OsString::from_vec(path.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
91 22 254:0 /data/a\\040b /srv/x rw master:1 shared:2 - ext4 /dev/vda rw
92 91 0:57 / /srv/x rw - fuse.litestream-multitenant /data/a\\040b rw";

    fn mounts() -> Vec<MountPoint> {
        TABLE
            .lines()
            .filter_map(|line| parse(line.as_bytes()))
            .collect()
    }

    #[test]
    fn the_topmost_mount_is_the_one_that_is_seen() {
        let mounts = mounts();
        assert_eq!(mounts.len(), 3);
        let top = topmost(&mounts, Path::new("/srv/x")).expect("mounted");
        assert_eq!(
            (top.id, top.device, top.kind.as_str()),
            (92, (0, 57), "fuse.litestream-multitenant")
        );
        assert_eq!(mounts[1].root, Path::new("/data/a b"));
        assert_eq!(top.source, Path::new("/data/a b"));
    }

    #[test]
    fn a_mount_shows_a_region_or_a_part_of_it() {
        let mounts = mounts();
        let region = |path: &str| Place {
            device: (254, 0),
            path: path.into(),
        };
        let views = |path: &str| -> Vec<_> {
            let region = region(path);
            mounts
                .iter()
                .filter_map(|mount| mount.view_of(&region))
                .collect()
        };
        assert_eq!(
            views("/data/a b"),
            [Path::new("/data/a b"), Path::new("/srv/x")]
        );
        assert_eq!(
            views("/data/a b/t"),
            [Path::new("/data/a b/t"), Path::new("/srv/x/t")]
        );
        assert_eq!(views("/data"), [Path::new("/data"), Path::new("/srv/x")]);
        assert_eq!(views("/other"), [Path::new("/other")]);
    }

    #[test]
    fn one_file_has_one_place_however_it_is_reached() {
        let mounts = mounts();
        let bound = mounts[1].place(Path::new("/srv/x/t/1.db"));
        let direct = place_of_path(&mounts, Path::new("/data/a b/t/1.db"));
        assert_eq!(bound, direct);
        let directory = place_of_path(&mounts, Path::new("/data/a b")).expect("mounted");
        assert!(directory.contains(&direct.expect("mounted")));
        let over = place_of_path(&mounts, Path::new("/srv/x/t/1.db")).expect("mounted");
        assert!(!directory.contains(&over), "through the mount on top");
    }
}
