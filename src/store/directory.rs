//! The store in a directory: the embedded default.

mod folder;

use std::collections::HashSet;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use rustix::fs::{self as rfs, AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use tokio::io::AsyncRead;

use self::folder::Folder;
use super::{Body, ListedPage, ObjectInfo, ObjectStore, Put, StoreError, check_key, check_prefix};
use crate::clock::UnixMs;
use crate::format::keys::INCOMING;
use crate::random;

/// Age of a file there whose writer must be dead: a living one writes on.
const ABANDONED: Duration = Duration::from_secs(3600);
/// Folders of objects remembered as durable; beyond, all are forgotten.
const MAX_DURABLE: usize = 2048;
/// How often a folder may be taken away under an object that is about to get its name there.
const PUBLISH_ATTEMPTS: usize = 10;

/// Objects as files below one directory, under their keys. No symbolic link below it is followed.
///
/// The directory is made with the first object. Once it was there it is never made again: where it is gone, its disk
/// may be, and what is written in its place would be lost. All work is done on threads that may block.
pub struct DirectoryStore {
    inner: Arc<Inner>,
}

struct Inner {
    root: PathBuf,
    /// Folders of objects whose entry in their parent is known to be on disk, and so are those of the folders above them.
    durable: Mutex<Names>,
    /// The root was there at some time since the start.
    seen: AtomicBool,
    /// Abandoned files were looked for since the start.
    swept: AtomicBool,
}

/// Names, of which a hash of 128 bits is kept whose keys nobody knows: two of the same do not come up. The names themselves would
/// lie for ever among what is moved together after many databases were worked on at once, and keep its pages.
#[derive(Default)]
struct Names {
    keys: [RandomState; 2],
    hashes: HashSet<[u64; 2]>,
}

impl Names {
    fn hash(&self, name: &str) -> [u64; 2] {
        self.keys.each_ref().map(|key| key.hash_one(name))
    }

    fn contains(&self, name: &str) -> bool {
        self.hashes.contains(&self.hash(name))
    }

    fn insert(&mut self, name: &str) {
        self.hashes.insert(self.hash(name));
    }
}

impl DirectoryStore {
    /// A store below `root`, which is absolute and need not exist.
    pub fn new(root: PathBuf) -> Self {
        Self {
            inner: Arc::new(Inner {
                root,
                durable: Mutex::default(),
                seen: AtomicBool::new(false),
                swept: AtomicBool::new(false),
            }),
        }
    }

    /// Runs `work` where it may block; its I/O error becomes the store's, under `key`.
    async fn blocking<T: Send + 'static>(
        &self,
        key: &str,
        work: impl FnOnce(&Inner) -> io::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let inner = self.inner.clone();
        tokio::task::spawn_blocking(move || work(&inner))
            .await
            .unwrap_or_else(|gone| Err(io::Error::other(gone)))
            .map_err(|error| match key {
                // A listing of all.
                "" => refusal(&self.describe(), &error),
                key => refusal(key, &error),
            })
    }
}

#[async_trait]
impl ObjectStore for DirectoryStore {
    async fn put_new(&self, key: &str, body: &Body) -> Result<Put, StoreError> {
        check_key(key)?;
        let (name, body) = (key.to_owned(), body.clone());
        self.blocking(key, move |inner| inner.put_new(&name, &body))
            .await
    }

    async fn get(&self, key: &str) -> Result<Box<dyn AsyncRead + Send + Unpin>, StoreError> {
        check_key(key)?;
        let name = key.to_owned();
        let file = self.blocking(key, move |inner| inner.open(&name)).await?;
        Ok(Box::new(tokio::fs::File::from_std(file)))
    }

    async fn get_range(&self, key: &str, offset: u64, len: u64) -> Result<Bytes, StoreError> {
        check_key(key)?;
        let name = key.to_owned();
        self.blocking(key, move |inner| inner.read_range(&name, offset, len))
            .await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, StoreError> {
        check_prefix(prefix)?;
        let start = prefix.to_owned();
        self.blocking(prefix, move |inner| inner.list(&start)).await
    }

    async fn list_after(&self, prefix: &str, after: &str) -> Result<ListedPage, StoreError> {
        check_prefix(prefix)?;
        check_prefix(after)?;
        let (start, last) = (prefix.to_owned(), after.to_owned());
        self.blocking(prefix, move |inner| inner.list_after(&start, &last))
            .await
    }

    async fn list_folders(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        check_prefix(prefix)?;
        let start = prefix.to_owned();
        self.blocking(prefix, move |inner| inner.list_folders(&start))
            .await
    }

    async fn delete(&self, keys: &[String]) -> Result<(), StoreError> {
        for key in keys {
            check_key(key)?;
            let name = key.clone();
            self.blocking(key, move |inner| inner.delete(&name)).await?;
        }
        Ok(())
    }

    async fn now(&self, _prefix: &str) -> Result<UnixMs, StoreError> {
        self.blocking("", Inner::now).await
    }

    fn describe(&self) -> String {
        format!("file://{}", self.inner.root.display())
    }
}

impl Inner {
    fn put_new(&self, key: &str, body: &Body) -> io::Result<Put> {
        let root = self.make_root()?;
        root.make(INCOMING)?;
        let incoming = root.enter(INCOMING)?;
        if !self.swept.swap(true, Ordering::Relaxed) {
            sweep(&incoming)?;
        }
        let temporary = Temporary::create(&incoming)?;
        temporary.write(body)?;
        let (parents, name) = split_key(key);
        for _ in 0..PUBLISH_ATTEMPTS {
            // None where a deletion takes a folder away with its last other object.
            let Some(folder) = absent(self.make_folder(&root, parents))? else {
                continue;
            };
            match temporary.publish(&folder, name) {
                Err(Errno::NOENT) => self.forget_durable(),
                Err(Errno::EXIST) => return Ok(Put::Exists),
                Err(errno) => return Err(errno.into()),
                Ok(()) => {
                    rfs::fsync(folder.as_fd())?;
                    return Ok(Put::Created);
                }
            }
        }
        Err(Errno::BUSY.into())
    }

    fn open(&self, key: &str) -> io::Result<File> {
        let (parents, name) = split_key(key);
        let folder = self.root()?.descend(parents)?;
        let file = folder.open_file(name)?;
        match file.metadata()?.is_file() {
            true => Ok(file),
            false => Err(Errno::NOENT.into()),
        }
    }

    fn read_range(&self, key: &str, offset: u64, len: u64) -> io::Result<Bytes> {
        let file = self.open(key)?;
        let len = file.metadata()?.len().saturating_sub(offset).min(len);
        let mut bytes = vec![0; len as usize];
        file.read_exact_at(&mut bytes, offset)?;
        Ok(bytes.into())
    }

    fn list(&self, prefix: &str) -> io::Result<Vec<ObjectInfo>> {
        let (parents, start) = split_key(prefix);
        let mut found = Vec::new();
        if let Some(folder) = absent(self.root().and_then(|r| r.descend(parents)))? {
            let below = &prefix[..prefix.len() - start.len()];
            folder.walk(below, &mut |object| {
                if object.key.starts_with(prefix) && is_object(&object.key) {
                    found.push(object);
                }
            })?;
        }
        found.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(found)
    }

    /// What lies below the next of the subfolders of `prefix` is a page; all of it, where the folder has objects itself.
    fn list_after(&self, prefix: &str, after: &str) -> io::Result<ListedPage> {
        let (parents, start) = split_key(prefix);
        let folder = absent(self.root().and_then(|root| root.descend(parents)))?;
        let (mut names, has_objects) = match &folder {
            Some(folder) => (folder.subfolders()?, !folder.files()?.is_empty()),
            None => (Vec::new(), false),
        };
        if names.is_empty() || has_objects || !start.is_empty() {
            let mut objects = self.list(prefix)?;
            objects.retain(|object| object.key.as_str() > after);
            return Ok(ListedPage {
                objects,
                is_last: true,
            });
        }
        names.sort();
        let rest = after.strip_prefix(prefix).unwrap_or_default();
        let shown = rest.split_once('/').map(|(name, _)| name);
        let mut names = names
            .into_iter()
            .filter(|name| shown.is_none_or(|shown| name.as_str() > shown));
        let mut objects = Vec::new();
        while objects.is_empty()
            && let Some(name) = names.next()
        {
            objects = self.list(&format!("{prefix}{name}/"))?;
        }
        Ok(ListedPage {
            objects,
            is_last: names.next().is_none(),
        })
    }

    fn list_folders(&self, prefix: &str) -> io::Result<Vec<String>> {
        let (parents, _) = split_key(prefix);
        let Some(folder) = absent(self.root().and_then(|r| r.descend(parents)))? else {
            return Ok(Vec::new());
        };
        let mut names = Vec::new();
        for name in folder.subfolders()? {
            let key = format!("{prefix}{name}");
            let Some(below) = absent(folder.enter(&name))? else {
                continue;
            };
            if is_object(&key) && below.holds_files()? {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// Unlinks the file, then the folders that it leaves empty: a client that is gone leaves nothing.
    fn delete(&self, key: &str) -> io::Result<()> {
        let (mut parents, mut name) = split_key(key);
        let Some(root) = absent(self.root())? else {
            return Ok(());
        };
        let Some(folder) = absent(root.descend(parents))? else {
            return Ok(());
        };
        absent(folder.unlink(name, AtFlags::empty()))?;
        while !parents.is_empty() {
            (parents, name) = split_key(parents);
            let Some(folder) = absent(root.descend(parents))? else {
                break;
            };
            match folder.unlink(name, AtFlags::REMOVEDIR) {
                Ok(()) => self.forget_durable(),
                // Not empty, or already gone, or made again: somebody else's now.
                Err(_) => break,
            }
        }
        Ok(())
    }

    /// The file system's own clock, which is another machine's where the directory is shared.
    fn now(&self) -> io::Result<UnixMs> {
        let root = self.root()?;
        root.make(INCOMING)?;
        let metadata = Temporary::create(&root.enter(INCOMING)?)?.file.metadata()?;
        Ok(metadata.mtime() * 1_000 + metadata.mtime_nsec() / 1_000_000)
    }

    fn make_root(&self) -> io::Result<Folder> {
        if let Some(root) = absent(self.root())? {
            return Ok(root);
        }
        Folder::make_all(&self.root)?;
        self.root()
    }

    /// The directory itself: `NotConnected` where it was there before and is gone, and not merely `NotFound`.
    fn root(&self) -> io::Result<Folder> {
        match Folder::root(&self.root) {
            Ok(root) => {
                self.seen.store(true, Ordering::Relaxed);
                Ok(root)
            }
            Err(error)
                if error.kind() == io::ErrorKind::NotFound && self.seen.load(Ordering::Relaxed) =>
            {
                Err(io::Error::new(
                    io::ErrorKind::NotConnected,
                    "its directory is gone; bring it back, or restart to begin an empty one",
                ))
            }
            Err(error) => Err(error),
        }
    }

    /// Enters a folder, made if need be with those above it, whose entries survive a power cut from now on.
    fn make_folder(&self, root: &Folder, path: &str) -> io::Result<Folder> {
        let mut folder = root.duplicate()?;
        let mut was_durable = true;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            let made = folder.make(name)?;
            // Made a moment ago by somebody who has not yet come to the fsync is as bad as not durable.
            if made || !self.lock_durable().contains(path) {
                rfs::fsync(folder.as_fd())?;
                was_durable = false;
            }
            folder = folder.enter(name)?;
        }
        if !was_durable {
            self.note_durable(path);
        }
        Ok(folder)
    }

    /// The folder's entry survives a power cut from now on, and so do those on the way there.
    fn note_durable(&self, path: &str) {
        let mut durable = self.lock_durable();
        if durable.hashes.len() >= MAX_DURABLE {
            durable.hashes.clear();
        }
        durable.insert(path);
    }

    fn forget_durable(&self) {
        self.lock_durable().hashes.clear();
    }

    fn lock_durable(&self) -> std::sync::MutexGuard<'_, Names> {
        self.durable.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A file that has no name among the objects yet; unlinked when it is dropped without having got one.
struct Temporary<'a> {
    incoming: &'a Folder,
    name: String,
    file: File,
}

impl<'a> Temporary<'a> {
    fn create(incoming: &'a Folder) -> io::Result<Self> {
        let name = format!("{:016x}", random::number());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP;
        let file = rfs::openat(incoming.as_fd(), &name, flags, mode)?.into();
        Ok(Self {
            incoming,
            name,
            file,
        })
    }

    fn write(&self, body: &Body) -> io::Result<()> {
        match body {
            Body::Bytes(bytes) => (&self.file).write_all(bytes)?,
            Body::File(path) => {
                let mut from = File::open(path).map_err(|error| local(path, &error))?;
                io::copy(&mut from, &mut &self.file)?;
            }
        }
        self.file.sync_all()
    }

    /// Gives the file its name, unless that is taken (`EXIST`) or its folder is gone (`NOENT`).
    fn publish(&self, folder: &Folder, name: &str) -> Result<(), Errno> {
        let (from, to) = (self.incoming.as_fd(), folder.as_fd());
        match rfs::renameat_with(from, &self.name, to, name, RenameFlags::NOREPLACE) {
            // File systems without that flag have hard links, and the drop takes the first name away.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                rfs::linkat(from, &self.name, to, name, AtFlags::empty())
            }
            renamed => renamed,
        }
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        // Usually it has been renamed away; what can't be unlinked is swept an hour later.
        let _ = self.incoming.unlink(&self.name, AtFlags::empty());
    }
}

/// Removes what dead writers left.
fn sweep(incoming: &Folder) -> io::Result<()> {
    for name in incoming.files()? {
        let Some(file) = absent(incoming.open_file(&name))? else {
            continue;
        };
        let age = file.metadata()?.modified()?.elapsed();
        if age.is_ok_and(|age| age > ABANDONED) {
            absent(incoming.unlink(&name, AtFlags::empty()))?;
        }
    }
    Ok(())
}

/// The folder's path (empty for the root) and the name in it.
fn split_key(key: &str) -> (&str, &str) {
    key.rsplit_once('/').unwrap_or(("", key))
}

/// Whether a file or folder at this place belongs to the objects.
fn is_object(key: &str) -> bool {
    let top = key.split('/').next();
    top != Some(INCOMING) && check_key(key).is_ok()
}

/// None where there is nothing at that place.
fn absent<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// An error of the file to be stored, which says nothing about the store.
fn local(path: &Path, error: &io::Error) -> io::Error {
    io::Error::other(format!("read {}: {error}", path.display()))
}

/// What an I/O error means to a caller who may try again.
fn refusal(key: &str, error: &io::Error) -> StoreError {
    let (key, reason) = (key.to_owned(), error.to_string());
    if error.kind() == io::ErrorKind::NotConnected {
        return StoreError::Unavailable { key, reason };
    }
    let Some(errno) = Errno::from_io_error(error) else {
        return StoreError::Failed { key, reason };
    };
    match errno {
        Errno::NOENT => StoreError::NotFound { key },
        Errno::ACCESS | Errno::PERM | Errno::ROFS => StoreError::Denied { key, reason },
        // A full disk is emptied, a share comes back; after a failed fsync the next attempt writes a new file.
        Errno::NOSPC
        | Errno::DQUOT
        | Errno::IO
        | Errno::STALE
        | Errno::TIMEDOUT
        | Errno::HOSTDOWN
        | Errno::NODEV
        | Errno::MFILE
        | Errno::NFILE
        | Errno::NOMEM
        | Errno::BUSY
        | Errno::AGAIN => StoreError::Unavailable { key, reason },
        Errno::LOOP | Errno::NOTDIR => StoreError::Failed {
            key,
            reason: "a file or a symbolic link stands where a folder has to be".to_owned(),
        },
        _ => StoreError::Failed { key, reason },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_of_objects_is_remembered_once_with_those_above_it_and_forgotten_when_any_goes() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let store = DirectoryStore::new(scratch.path().join("store"));
        let remembered = || {
            let durable = store.inner.lock_durable();
            let mut names = vec!["a", "a/b", "a/b/c", "a/b/d"];
            names.retain(|name| durable.contains(name));
            assert_eq!(names.len(), durable.hashes.len());
            names
        };
        let put = |key: &str| {
            let put = store
                .inner
                .put_new(key, &Body::Bytes(Bytes::from_static(b"x")));
            assert_eq!(put.expect("stored"), Put::Created);
        };
        ["a/b/c/1", "a/b/c/2", "a/b/d/1"].into_iter().for_each(put);
        assert_eq!(remembered(), ["a/b/c", "a/b/d"]);
        store.inner.delete("a/b/d/1").expect("gone");
        assert!(remembered().is_empty());
        put("a/b/c/3");
        assert_eq!(remembered(), ["a/b/c"]);
    }
}
