//! Files that look like a client's whose identity another file has: shown as refused, and looked at again when that one
//! goes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::ids::ClientId;

/// Files that are kept, at most; further ones are only logged, and looked at again at the next start.
const MAX_WAITING: usize = 10_000;

/// What is done when an identity has become free.
type OnFree = Arc<dyn Fn(&ClientId) + Send + Sync>;

/// A file that has to do without its identity. Paths are as applications see them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WaitingFile {
    pub path: PathBuf,
    pub awaits: Awaits,
    /// The file that has the identity, or the name that is registered.
    pub holder: PathBuf,
}

/// Until when a file waits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Awaits {
    /// No other file has its identity.
    Identity(ClientId),
    /// The client under which the same file is registered has gone.
    File(ClientId),
}

impl Awaits {
    fn client(&self) -> &ClientId {
        match self {
            Self::Identity(id) | Self::File(id) => id,
        }
    }
}

impl WaitingFile {
    /// Why it is refused, with a code, for users.
    pub fn reason(&self) -> String {
        let (holder, path) = (self.holder.display(), self.path.display());
        match self.awaits {
            Awaits::Identity(_) => format!(
                "identity_taken: {holder} has the identity of {path}, which is looked at again when that goes"
            ),
            Awaits::File(_) => format!(
                "same_file: {path} is a hard link of {holder}, which is replicated already; it is looked at again when that goes"
            ),
        }
    }
}

/// All of them, and who looks at them again.
#[derive(Default)]
pub struct WaitingFiles {
    files: Mutex<BTreeMap<PathBuf, WaitingFile>>,
    on_free: Mutex<Vec<OnFree>>,
}

impl std::fmt::Debug for WaitingFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let files = self.lock().len();
        f.debug_struct("WaitingFiles")
            .field("files", &files)
            .finish_non_exhaustive()
    }
}

impl WaitingFiles {
    /// True where that is new.
    pub fn add(&self, file: WaitingFile) -> bool {
        let mut files = self.lock();
        let has_room = files.len() < MAX_WAITING || files.contains_key(&file.path);
        has_room && files.insert(file.path.clone(), file).is_none()
    }

    /// The file has gone, or has become a client's.
    pub fn remove(&self, path: &Path) {
        self.lock().remove(path);
    }

    pub fn all(&self) -> Vec<WaitingFile> {
        self.lock().values().cloned().collect()
    }

    /// Those below a folder that wait for the end of this client, in the order of their names.
    pub fn of(&self, id: &ClientId, below: &Path) -> Vec<WaitingFile> {
        let files = self.lock();
        let waiting = files.values().filter(|file| file.awaits.client() == id);
        let below = waiting.filter(|file| file.path.starts_with(below));
        below.cloned().collect()
    }

    /// Has `act` done each time that an identity has become free.
    pub fn when_free(&self, act: impl Fn(&ClientId) + Send + Sync + 'static) {
        self.lock_on_free().push(Arc::new(act));
    }

    /// An identity belongs to no file any more.
    pub fn tell_free(&self, id: &ClientId) {
        let is_waited_for = self.lock().values().any(|file| file.awaits.client() == id);
        if !is_waited_for {
            return;
        }
        let told: Vec<OnFree> = self.lock_on_free().clone();
        told.iter().for_each(|act| act(id));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PathBuf, WaitingFile>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_on_free(&self) -> MutexGuard<'_, Vec<OnFree>> {
        self.on_free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_waits_for_an_identity_is_told_of_it_alone() {
        let files = WaitingFiles::default();
        let (a, b) = (ClientId::single("", "a"), ClientId::single("", "b"));
        let file = |path: &str| WaitingFile {
            path: path.into(),
            awaits: Awaits::Identity(a.clone()),
            holder: "/data/a.db".into(),
        };
        assert!(files.add(file("/data/x/a.db")));
        assert!(!files.add(file("/data/x/a.db")), "told before");
        let told = Arc::new(Mutex::new(Vec::new()));
        let heard = told.clone();
        files.when_free(move |id| heard.lock().expect("not poisoned").push(id.clone()));
        files.tell_free(&b);
        files.tell_free(&a);
        assert_eq!(
            told.lock().expect("not poisoned").as_slice(),
            std::slice::from_ref(&a)
        );
        assert_eq!(files.of(&a, Path::new("/data")), [file("/data/x/a.db")]);
        assert!(files.of(&a, Path::new("/other")).is_empty());
        files.remove(Path::new("/data/x/a.db"));
        assert!(files.all().is_empty());
    }
}
