//! Open files: a descriptor for each, and one way of serving per inode for as long as any of its handles is open.

use std::fs::File;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;

use super::descriptors::Taken;
use super::inodes::NodeId;
use crate::capture::{Database, FileKind, OpenedAs};
use crate::room;

/// How reads and writes of an inode reach the backing file. The kernel refuses to mix them on one inode.
#[derive(Debug)]
pub enum Service<B> {
    /// The kernel passes them to the backing file that was registered with it. There is one registration per inode:
    /// a second one is refused while the inode is open.
    KernelPassthrough(Arc<B>),
    /// They come to us through the page cache; writes at once.
    PageCache,
    /// They come to us as the application makes them.
    Direct,
}

impl Handle {
    /// How the capture sees it.
    pub fn opened_as(&self) -> OpenedAs {
        OpenedAs {
            writable: self.is_writable,
            passthrough: self.is_passthrough,
            external: self.is_external,
        }
    }

    /// The database that the file belongs to now, and as what.
    pub fn tracked(&self) -> Tracked {
        self.lock_tracked().clone()
    }

    fn lock_tracked(&self) -> MutexGuard<'_, Tracked> {
        self.tracked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells its database that it was closed.
    pub fn released(&self) {
        self.follow(None);
    }

    /// The file belongs to this database from now on; the one before and this one are told.
    fn follow(&self, now: Tracked) {
        let mut tracked = self.lock_tracked();
        if let Some((database, kind)) = &*tracked {
            if self.is_lent(*kind) {
                database.take_back(&self.file);
            }
            database.released(*kind, self.opened_as());
        }
        *tracked = now;
        self.tell_opened(&tracked);
    }

    fn tell_opened(&self, tracked: &Tracked) {
        let Some((database, kind)) = tracked else {
            return;
        };
        database.opened(*kind, self.opened_as());
        if self.is_lent(*kind)
            && let Err(error) = database.lend(&self.file)
        {
            tracing::debug!(%error, "A file that an application has open is opened for each look");
        }
    }

    /// Whether the capture may read through it.
    fn is_lent(&self, kind: FileKind) -> bool {
        self.is_readable && self.is_writable && matches!(kind, FileKind::Wal | FileKind::Shm)
    }
}

impl<B> Clone for Service<B> {
    fn clone(&self) -> Self {
        match self {
            Self::KernelPassthrough(backing) => Self::KernelPassthrough(backing.clone()),
            Self::PageCache => Self::PageCache,
            Self::Direct => Self::Direct,
        }
    }
}

/// One open file of an application.
pub struct Handle {
    pub file: Arc<File>,
    pub node: NodeId,
    pub is_readable: bool,
    pub is_writable: bool,
    /// Whether it was opened as SQLite opens no file: to write alone, or created to be written over.
    pub is_external: bool,
    /// Given back when it is closed.
    pub _taken: Option<Taken>,
    /// Whether each write waits until it is on disk.
    pub is_synchronous: bool,
    /// Whether the kernel passes its reads and writes to the backing file; known once it is added.
    pub is_passthrough: bool,
    /// The database that the file belongs to, by the name that it had when it was opened, or has got since.
    pub tracked: Mutex<Tracked>,
}

/// The database that a file belongs to, and as what.
pub type Tracked = Option<(Arc<Database>, FileKind)>;

/// Whether it is that file of that database, under the name that its directory has now.
fn is_same(tracked: &Tracked, (database, kind): &(Arc<Database>, FileKind)) -> bool {
    let newest = |database: &Arc<Database>| Arc::as_ptr(&database.newest());
    tracked
        .as_ref()
        .is_some_and(|(before, of)| of == kind && newest(before) == newest(database))
}

/// The open files of a mount. `B` is the kernel's registration of a backing file.
pub struct Handles<B> {
    next: AtomicU64,
    open: DashMap<u64, Arc<Handle>>,
    services: DashMap<NodeId, OpenInode<B>>,
}

struct OpenInode<B> {
    handles: usize,
    service: Service<B>,
}

impl<B> Handles<B> {
    pub fn new() -> Self {
        Self {
            next: AtomicU64::new(1),
            open: DashMap::new(),
            services: DashMap::new(),
        }
    }

    /// Adds a handle of the file that `track` finds a database for. The way of serving is the one that the inode's other
    /// handles have; `choose` decides for the first.
    ///
    /// It is one step for `any_open`: whoever has a file tracked from now on, and then finds none open, misses no handle
    /// that is not tracked.
    pub fn add(
        &self,
        mut handle: Handle,
        track: impl FnOnce() -> Tracked,
        choose: impl FnOnce(&Handle) -> Service<B>,
    ) -> (u64, Service<B>) {
        let service = match self.services.entry(handle.node) {
            Entry::Occupied(mut open) => {
                handle.tracked = track().into();
                open.get_mut().handles += 1;
                open.get().service.clone()
            }
            Entry::Vacant(first) => {
                handle.tracked = track().into();
                let service = choose(&handle);
                first.insert(OpenInode {
                    handles: 1,
                    service: service.clone(),
                });
                service
            }
        };
        handle.is_passthrough = matches!(service, Service::KernelPassthrough(_));
        handle.tell_opened(&handle.tracked());
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.open.insert(number, Arc::new(handle));
        (number, service)
    }

    pub fn get(&self, number: u64) -> Option<Arc<Handle>> {
        self.open.get(&number).map(|handle| handle.clone())
    }

    /// Whether an inode has a handle.
    pub fn is_open(&self, node: NodeId) -> bool {
        self.services.contains_key(&node)
    }

    /// Whether an inode for which `is_meant` holds has a handle.
    pub fn any_open(&self, is_meant: impl Fn(NodeId) -> bool) -> bool {
        self.services.iter().any(|open| is_meant(*open.key()))
    }

    /// The file with this inode is a database's from now on, whatever its open handles were before.
    pub fn adopt(&self, node: NodeId, tracked: &(Arc<Database>, FileKind)) {
        self.move_those(Some(tracked), |handle, before| {
            handle.node == node && !is_same(before, tracked)
        });
    }

    /// Another file than that of these handles stands there now: they are of no database any more.
    pub fn abandon(&self, node: NodeId, tracked: &(Arc<Database>, FileKind)) {
        self.move_those(None, |handle, before| {
            handle.node != node && is_same(before, tracked)
        });
    }

    fn move_those(
        &self,
        now: Option<&(Arc<Database>, FileKind)>,
        is_meant: impl Fn(&Handle, &Tracked) -> bool,
    ) {
        // Under the entry's lock: its release comes before, and then it is not found, or after.
        for open in self.open.iter() {
            let handle = open.value();
            if is_meant(handle, &handle.tracked()) {
                handle.follow(now.cloned());
            }
        }
    }

    /// Takes a handle out. With the last one of its inode, the inode's way of serving is open to choice again.
    pub fn remove(&self, number: u64) -> Option<Arc<Handle>> {
        let (_, handle) = self.open.remove(&number)?;
        if let Entry::Occupied(mut open) = self.services.entry(handle.node) {
            open.get_mut().handles -= 1;
            if open.get().handles == 0 {
                open.remove();
            }
        }
        room::give_back_shared(&self.open);
        room::give_back_shared(&self.services);
        Some(handle)
    }

    /// Takes all handles out, at the end of a mount.
    pub fn drain(&self) -> Vec<Arc<Handle>> {
        let numbers: Vec<u64> = self.open.iter().map(|entry| *entry.key()).collect();
        numbers
            .into_iter()
            .filter_map(|number| self.remove(number))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handle(node: NodeId) -> Handle {
        Handle {
            file: File::open("/dev/null").expect("open").into(),
            node,
            is_readable: true,
            is_writable: false,
            is_external: false,
            is_synchronous: false,
            _taken: None,
            is_passthrough: false,
            tracked: Mutex::default(),
        }
    }

    #[test]
    fn an_inode_is_served_one_way_until_its_last_handle_is_closed() {
        let handles = Handles::new();
        let passthrough = |_: &Handle| Service::KernelPassthrough(Arc::new(7u32));
        let (first, _) = handles.add(handle(12), || None, passthrough);
        let (second, service) = handles.add(handle(12), || None, |_| panic!("chosen already"));
        assert!(matches!(service, Service::KernelPassthrough(id) if *id == 7));
        handles.remove(first);
        let (third, service) = handles.add(handle(12), || None, |_| panic!("still open"));
        assert!(matches!(service, Service::KernelPassthrough(_)));
        handles.remove(second);
        handles.remove(third);
        let (_, service) = handles.add(handle(12), || None, |_| Service::Direct);
        assert!(matches!(service, Service::Direct));
        assert_eq!(handles.drain().len(), 1);
    }

    #[test]
    fn whoever_asks_while_a_handle_is_tracked_finds_it_open() {
        let handles = Handles::new();
        std::thread::scope(|scope| {
            let (asked, is_open) = std::sync::mpsc::channel();
            let (handles, node) = (&handles, 12);
            let track = || {
                scope.spawn(move || asked.send(handles.any_open(|open| open == node)));
                let early = is_open.recv_timeout(std::time::Duration::from_millis(50));
                assert!(early.is_err(), "{early:?}");
                None
            };
            handles.add(handle(12), track, |_| Service::<()>::Direct);
            assert_eq!(is_open.recv(), Ok(true));
        });
    }

    #[test]
    fn the_last_release_closes_the_registration() {
        let registration = Arc::new(());
        let handles = Handles::new();
        let (number, _) = handles.add(
            handle(12),
            || None,
            |_| Service::KernelPassthrough(registration.clone()),
        );
        assert_eq!(Arc::strong_count(&registration), 2);
        assert!(handles.remove(number).is_some());
        assert_eq!(Arc::strong_count(&registration), 1);
        assert!(handles.remove(number).is_none());
    }
}
