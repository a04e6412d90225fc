//! Looks through the watch path for databases. A folder that can't be looked through keeps nobody from the start: it is
//! named, and looked through again later.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::backing::{Unseen, is_gone};
use super::{Capture, STATE_FOLDER, StartError};
use crate::tenant::discovery::Verdict;
use crate::tenant::ids::Identity;

/// Why a file that looks like a database is not one of ours.
pub(super) const NO_RULE: &str = "no rule says whose it is";
pub(super) const IS_LINK: &str = "it is a symbolic link";
/// Why the databases below a folder are unknown.
const UNSEEN: &str = "a folder that can't be looked through: it is tried again each minute, and its databases are unknown until then";

/// Folders that are looked through again, at most; the others are looked through at the next start.
const MAX_UNSEEN: usize = 1_000;
/// Folders that have a line of the log each, of those that one look could not look through.
const MAX_TOLD: usize = 20;

/// What a look through the watch path has found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub databases: Vec<PathBuf>,
    pub ignored: Vec<(PathBuf, &'static str)>,
    unseen: Vec<Unseen>,
}

/// Folders that could not be looked through, with what the system said, at most `MAX_UNSEEN`.
#[derive(Debug, Default)]
pub(super) struct UnseenFolders(Mutex<BTreeMap<PathBuf, String>>);

impl UnseenFolders {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<PathBuf, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True where that is news, and there was room for it.
    fn add(&self, folder: &Path, error: &io::Error) -> Added {
        let mut folders = self.lock();
        let has_room = folders.len() < MAX_UNSEEN || folders.contains_key(folder);
        if !has_room {
            return Added::NoRoom;
        }
        let text = error.to_string();
        match folders.insert(folder.to_owned(), text.clone()) {
            Some(before) if before == text => Added::Known,
            _ => Added::New,
        }
    }

    fn all(&self) -> Vec<PathBuf> {
        self.lock().keys().cloned().collect()
    }

    fn remove(&self, folder: &Path) {
        self.lock().remove(folder);
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Added {
    New,
    Known,
    NoRoom,
}

impl Capture {
    /// The identities of all databases that are there, by the path that applications see; before anything is registered.
    ///
    /// # Errors
    /// `Walk`: the watch path itself can't be looked through.
    pub fn survey(&self) -> Result<Vec<(PathBuf, Identity)>, StartError> {
        let found = self.look_through()?;
        let identified = found.databases.into_iter().filter_map(|path| {
            let identity = self.identify(&path)?;
            Some((self.seen_at.join(path), identity))
        });
        Ok(identified.collect())
    }

    /// Whether no run before has captured anything of this watch path.
    ///
    /// # Errors
    /// The state can't be read.
    pub fn is_new(&self) -> Result<bool, StartError> {
        Ok(!self
            .shared
            .state
            .all()?
            .values()
            .any(|seen| seen.has_history))
    }

    /// Those that are clients' by the rules of now, and those that are none's.
    ///
    /// # Errors
    /// `Walk`: the watch path itself can't be looked through.
    pub(super) fn look_through(&self) -> Result<Found, StartError> {
        let mut found = self.look_below(Path::new(".")).map_err(StartError::Walk)?;
        // Of files with one identity that no run has seen before, the same one has it at each start.
        found.databases.sort();
        Ok(found)
    }

    fn look_below(&self, folder: &Path) -> io::Result<Found> {
        let mut found = Found::default();
        found.unseen =
            self.shared
                .backing
                .walk_below(folder, STATE_FOLDER, &mut |path, is_link| match (
                    self.examine(&path),
                    is_link,
                ) {
                    (Verdict::Plain, _) => {}
                    (_, true) => found.ignored.push((path, IS_LINK)),
                    (Verdict::Client(_), false) => found.databases.push(path),
                    (Verdict::Ignored, false) => found.ignored.push((path, NO_RULE)),
                })?;
        Ok(found)
    }

    /// Says which files are none of ours, and which folders can't be looked through.
    pub(super) fn note_found(&self, found: &Found) {
        for (path, reason) in &found.ignored {
            self.note_ignored(path, reason);
        }
        let mut untold = 0_usize;
        for (nth, Unseen { folder, error }) in found.unseen.iter().enumerate() {
            let added = self.unseen.add(folder, error);
            if added == Added::Known {
                continue;
            }
            let path = self.seen_at.join(folder);
            self.roster.ignore(path.clone(), UNSEEN);
            match nth < MAX_TOLD {
                true => {
                    tracing::warn!(path = %shortened(&path), error = %error, "A folder can't be looked through; it is tried again each minute");
                }
                false => untold += 1,
            }
        }
        if untold > 0 {
            tracing::warn!(
                folders = untold,
                kept = MAX_UNSEEN,
                "Further folders can't be looked through; of all of them the first are tried again each minute, the others at the next start"
            );
        }
    }

    /// Looks again through the folders that could not be looked through, and registers the databases in them.
    pub fn look_again(&self) {
        for folder in self.unseen.all() {
            if self.is_unmounted() {
                return;
            }
            let found = match self.look_below(&folder) {
                Ok(found) => found,
                Err(error) if is_gone(&error) => Found::default(),
                Err(error) => Found {
                    unseen: vec![Unseen {
                        folder: folder.clone(),
                        error,
                    }],
                    ..Found::default()
                },
            };
            if !found.unseen.iter().any(|unseen| unseen.folder == folder) {
                self.unseen.remove(&folder);
                let path = self.seen_at.join(&folder);
                self.roster.no_longer_ignored(&path);
                tracing::info!(path = %shortened(&path), databases = found.databases.len(), "A folder that could not be looked through was looked through, or is gone");
            }
            for path in &found.databases {
                self.take_in(path);
            }
            self.note_found(&found);
        }
    }

    /// Registers a database that was there before and that nothing is known of.
    pub(super) fn take_in(&self, path: &Path) {
        if self.at_path(path).and_then(|db| db.client()).is_none() {
            let db = self.entry(path);
            self.register(path, &db);
            db.mark_dirty();
        }
    }

    /// Registers what became a client's by the name that its directory has now.
    pub(super) fn take_up_below(&self, folder: &Path) {
        match self.look_below(folder) {
            // It is on its way to somewhere else.
            Err(error) if is_gone(&error) => {}
            Err(error) => self.note_found(&Found {
                unseen: vec![Unseen {
                    folder: folder.to_owned(),
                    error,
                }],
                ..Found::default()
            }),
            Ok(found) => {
                for path in &found.databases {
                    if self.at_path(path).is_none() {
                        self.appeared(path, false);
                    }
                }
                self.note_found(&found);
            }
        }
    }
}

/// A path for a line of the log, however long it is.
fn shortened(path: &Path) -> String {
    const LONGEST: usize = 300;
    let text = path.display().to_string();
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}… ({} bytes)", &text[..end], text.len()),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::model::Model;

    #[test]
    fn folders_that_can_not_be_looked_through_are_told_once_and_bounded() {
        let folders = UnseenFolders::default();
        let refused = io::Error::from_raw_os_error(libc::EACCES);
        let broken = io::Error::from_raw_os_error(libc::EIO);
        let first = Path::new("f0");
        assert_eq!(folders.add(first, &refused), Added::New);
        assert_eq!(folders.add(first, &refused), Added::Known);
        assert_eq!(folders.add(first, &broken), Added::New, "another reason");
        for n in 1..MAX_UNSEEN {
            assert_eq!(
                folders.add(Path::new(&format!("f{n}")), &refused),
                Added::New
            );
        }
        assert_eq!(folders.add(Path::new("more"), &refused), Added::NoRoom);
        assert_eq!(folders.add(first, &broken), Added::Known, "it has its room");
        folders.remove(first);
        assert_eq!(folders.add(Path::new("more"), &refused), Added::New);
        assert_eq!(folders.all().len(), MAX_UNSEEN);
    }

    #[test]
    fn a_long_path_is_shortened_between_two_characters() {
        let long = format!("/data/{}", "é".repeat(3_000));
        let shown = shortened(Path::new(&long));
        assert!(
            shown.ends_with("… (6006 bytes)") && shown.len() < 700,
            "{shown}"
        );
        assert_eq!(shortened(Path::new("/data/a")), "/data/a");
    }

    #[test]
    fn what_could_not_be_looked_through_is_registered_once_it_can_be() {
        let model = Model::new(1, 16 << 20);
        let folder = model.dir.path().join("data/closed");
        std::fs::create_dir(&folder).expect("a folder");
        let closed = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        std::fs::set_permissions(&folder, closed).expect("closed to others");
        let name = "22345678-1234-5678-9abc-123456789012.db";
        std::fs::write(folder.join(name), "").expect("a file");
        let path = Path::new("closed").join(name);
        let capture = &model.capture;

        // SAFETY: it changes whom this thread opens files as, and nothing else.
        unsafe { libc::setfsuid(65_534) };
        let others = capture.take_over_known().expect("looked through");
        capture.take_over_others(others).expect("registered");
        capture.look_again();
        // SAFETY: as above.
        unsafe { libc::setfsuid(0) };
        let ignored = capture.roster.ignored();
        assert_eq!(ignored.len(), 1, "{ignored:?}");
        assert_eq!(ignored[0].1, UNSEEN);
        assert!(capture.at_path(&path).is_none());

        capture.look_again();
        assert!(capture.roster.ignored().is_empty());
        let db = capture.at_path(&path).expect("seen");
        assert!(db.client().is_some(), "registered");
    }
}
