//! The files in which the SDK finds keys, and whether one was changed: whoever replaces keys before the old ones are
//! refused is not kept waiting for a refusal.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::paths::reach;

/// They are looked at no more often than this, and only before a request.
const PAUSE: Duration = Duration::from_secs(5);

/// What tells a file from the one before: inode, size and the time of its last change.
type Stamp = (u64, i64, i64, i64);

/// The files, and how they were when they were last looked at.
#[derive(Debug)]
pub(super) struct KeyFiles {
    paths: Vec<PathBuf>,
    seen: Mutex<Seen>,
}

#[derive(Debug)]
struct Seen {
    at: Instant,
    stamps: Vec<Option<Stamp>>,
}

impl KeyFiles {
    /// Those that the environment names, else those below the home directory.
    pub fn of_environment() -> Self {
        let home = std::env::var_os("HOME").map(PathBuf::from);
        let named = [
            ("AWS_SHARED_CREDENTIALS_FILE", ".aws/credentials"),
            ("AWS_CONFIG_FILE", ".aws/config"),
        ];
        let paths = named.iter().filter_map(|(variable, below_home)| {
            let named = std::env::var_os(variable).map(PathBuf::from);
            named.or_else(|| Some(home.as_ref()?.join(below_home)))
        });
        Self::of(paths.collect())
    }

    fn of(paths: Vec<PathBuf>) -> Self {
        let stamps = paths.iter().map(|path| stamp_of(path)).collect();
        Self {
            paths,
            seen: Mutex::new(Seen {
                at: Instant::now(),
                stamps,
            }),
        }
    }

    /// Whether one of them is another one than when this was last asked.
    pub fn have_changed(&self) -> bool {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.at.elapsed() < PAUSE {
            return false;
        }
        let stamps = self.paths.iter().map(|path| stamp_of(path)).collect();
        seen.at = Instant::now();
        std::mem::replace(&mut seen.stamps, stamps) != seen.stamps
    }
}

/// None where there is no such file, or it can't be looked at.
fn stamp_of(path: &Path) -> Option<Stamp> {
    let found = reach(path).ok().filter(|found| found.is_whole())?;
    let stat = rustix::fs::fstat(&found.at).ok()?;
    Some((
        stat.st_ino,
        stat.st_size,
        stat.st_ctime,
        stat.st_ctime_nsec as i64,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_file_that_is_written_made_or_removed_is_another_one_and_told_once() {
        let scratch = tempfile::tempdir().expect("a directory");
        let path = scratch.path().join("credentials");
        let files = KeyFiles::of(vec![path.clone()]);
        let changed = async || {
            let at_once = files.have_changed();
            tokio::time::advance(PAUSE).await;
            (at_once, files.have_changed())
        };
        assert_eq!(changed().await, (false, false));
        std::fs::write(&path, "one").expect("written");
        assert_eq!(changed().await, (false, true), "not asked all the time");
        assert_eq!(changed().await, (false, false));
        std::fs::write(&path, "more").expect("written");
        assert_eq!(changed().await, (false, true));
        std::fs::remove_file(&path).expect("removed");
        assert_eq!(changed().await, (false, true));
    }
}
