//! The file system over a backing directory: how inodes are found in it, looked up, and shown. No FUSE types.
//!
//! Everything is reached from the directory's descriptor without following a symbolic link, so no path leads outside.
//! Its other parts: `files` (open files), `names` (what changes names), `directories` (listings).

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{OFlags, Stat, StatVfs};
use rustix::io::Errno;

use super::attributes::{self, ACCESS_LISTS, Attributes, Extended, LABEL};
use super::credentials::Caller;
use super::descriptors::{Descriptors, Taken};
use super::directories::Directories;
use super::disk_threads::{Asking, DiskThreads, Tenant, Writes};
use super::error::{OperationError, OperationResult};
use super::handles::Handles;
use super::in_use::InUse;
use super::inodes::{Inodes, NodeId, ROOT, Sought};
use crate::capture::{Capture, Database, FileKind, Gate, Passing, STATE_FOLDER, TakeOver};
use crate::paths::{open_beneath, stat_beneath, stat_entry};
use crate::tenant::discovery::Rules;

/// How often a path is resolved anew when renames by others overtake it.
const RESOLVE_ATTEMPTS: usize = 16;

/// The file system over one watch path. `B` is the kernel's registration of a backing file.
pub struct FileSystem<B> {
    pub(super) backing: Arc<OwnedFd>,
    pub(super) inodes: Inodes,
    pub(super) handles: Handles<B>,
    pub(super) directories: Directories,
    pub(super) descriptors: Arc<Descriptors>,
    pub(super) disk: DiskThreads,
    pub(super) writes: Arc<Writes>,
    pub(super) capture: Arc<Capture>,
    pub(super) passthrough: AtomicBool,
    /// Else they are refused.
    access_lists: bool,
    /// Whether any file may have an extended attribute.
    has_attributes: AtomicBool,
}

/// An entry that was looked up: counted in the inode table until the kernel forgets it.
#[derive(Clone, Copy, Debug)]
pub struct LookedUp {
    pub node: NodeId,
    pub generation: u32,
    pub attributes: Attributes,
}

/// A descriptor by which an inode was reached.
pub(super) enum Located {
    Shared(Arc<OwnedFd>),
    Opened(OwnedFd),
}

impl AsFd for Located {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Shared(descriptor) => descriptor.as_fd(),
            Self::Opened(descriptor) => descriptor.as_fd(),
        }
    }
}

impl<B> FileSystem<B> {
    /// A file system over `backing`, the descriptor of a directory.
    pub fn new(backing: Arc<OwnedFd>, capture: Arc<Capture>) -> OperationResult<Self> {
        let root = attributes::backing_inode(&rustix::fs::fstat(&backing)?);
        Ok(Self {
            backing,
            inodes: Inodes::new(root),
            handles: Handles::new(),
            directories: Directories::new(),
            descriptors: Descriptors::of_process(),
            disk: DiskThreads::new(),
            writes: Arc::default(),
            capture,
            passthrough: AtomicBool::new(false),
            access_lists: true,
            has_attributes: AtomicBool::new(true),
        })
    }

    /// One in whose directory there is only `in_use`. Whoever lists a directory asks each file for what may be there, and
    /// no further one where a file is answered that there is no such thing in this file system.
    pub fn with_only(self, in_use: InUse) -> Self {
        Self {
            access_lists: in_use.access_lists,
            has_attributes: AtomicBool::new(in_use.attributes),
            ..self
        }
    }

    fn is_unsupported(&self, attribute: &OsStr) -> bool {
        attribute == LABEL
            || (!self.access_lists && ACCESS_LISTS.iter().any(|list| attribute == *list))
    }

    fn refuse_unsupported(&self, attribute: &OsStr) -> OperationResult<()> {
        match self.is_unsupported(attribute) {
            true => Err(Errno::OPNOTSUPP.into()),
            false => Ok(()),
        }
    }

    /// Whether the kernel passes reads and writes of plain files through.
    pub fn is_passthrough(&self) -> bool {
        self.passthrough.load(Ordering::Relaxed)
    }

    pub fn set_passthrough(&self, is_passthrough: bool) {
        self.passthrough.store(is_passthrough, Ordering::Relaxed);
    }

    /// Looks up `name`; none where there is no such entry.
    pub fn look_up(&self, parent: NodeId, name: &OsStr) -> OperationResult<Option<LookedUp>> {
        if is_hidden(parent, name) {
            return Ok(None);
        }
        crate::fault::ask_own_mount(name);
        let directory = self.locate(parent)?;
        match stat_entry(&directory, name) {
            Ok(stat) => self.count_lookup(parent, name, &directory, stat).map(Some),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Enters an entry that was found in `directory` (the node `parent`) into the inode table.
    pub(super) fn count_lookup(
        &self,
        parent: NodeId,
        name: &OsStr,
        directory: impl AsFd,
        stat: Stat,
    ) -> OperationResult<LookedUp> {
        let backing = attributes::backing_inode(&stat);
        let is_directory = attributes::file_type(&stat).is_dir();
        let (node, generation) = self
            .inodes
            .look_up(parent, name, backing, is_directory, || {
                attributes::generation(directory, name)
            })
            .ok_or(OperationError::Stale)?;
        Ok(LookedUp {
            node,
            generation,
            attributes: self.shown(node, stat),
        })
    }

    pub fn forget(&self, node: NodeId, lookups: u64) {
        let gone = self.inodes.forget(node, lookups);
        if !gone.is_empty() {
            self.close(Tenant::Directory(node), gone);
        }
    }

    /// Descriptors for one more open file of a user.
    pub(super) fn take_descriptors(&self, uid: u32) -> OperationResult<Taken> {
        self.descriptors
            .take(uid)
            .ok_or(OperationError::TooManyOpen)
    }

    /// Closes what may be the last that keeps a file that has no name any more: the blocks of a large one are freed
    /// then.
    pub(super) fn close(&self, tenant: Tenant, closed: impl Send + 'static) {
        self.disk.run(Asking::Requests, tenant, move || {
            crate::fault::wait_for_disk(crate::fault::DiskWait::Close);
            drop(closed);
        });
    }

    /// On whose account operations on an inode run.
    pub(super) fn tenant(
        &self,
        node: NodeId,
        tracked: &Option<(Arc<Database>, FileKind)>,
    ) -> Tenant {
        match tracked {
            Some((database, _)) => Tenant::Database(Arc::as_ptr(&database.newest()).addr()),
            None => Tenant::Directory(self.inodes.parent(node).unwrap_or(node)),
        }
    }

    pub fn attributes(&self, node: NodeId, handle: Option<u64>) -> OperationResult<Attributes> {
        let stat = match handle.and_then(|number| self.handles.get(number)) {
            Some(handle) => rustix::fs::fstat(&handle.file)?,
            None => rustix::fs::fstat(self.locate(node)?)?,
        };
        Ok(self.shown(node, stat))
    }

    pub(super) fn shown(&self, node: NodeId, stat: Stat) -> Attributes {
        Attributes {
            number: self
                .inodes
                .shown_number(node, attributes::backing_inode(&stat)),
            stat,
        }
    }

    pub fn read_link(&self, node: NodeId) -> OperationResult<Vec<u8>> {
        let target = rustix::fs::readlinkat(self.locate(node)?, "", Vec::new())?;
        Ok(target.into_bytes())
    }

    pub fn statistics(&self) -> OperationResult<StatVfs> {
        Ok(rustix::fs::fstatvfs(&self.backing)?)
    }

    pub fn extended_attribute(
        &self,
        node: NodeId,
        name: &OsStr,
        size: usize,
    ) -> OperationResult<Extended> {
        self.refuse_unsupported(name)?;
        let moment = match self.inodes.seek_attribute(node, name) {
            Sought::Missing => return Err(Errno::NODATA.into()),
            Sought::Unknown(moment) => moment,
        };
        let found = attributes::extended_attribute(self.locate(node)?, name, size);
        if found == Err(Errno::NODATA) {
            self.inodes.note_missing(node, name, moment);
        }
        Ok(found?)
    }

    /// The names of an inode's extended attributes, those of root's own only for root; EOPNOTSUPP while no file has any.
    pub fn extended_attribute_names(
        &self,
        node: NodeId,
        size: usize,
        caller: Caller,
    ) -> OperationResult<Extended> {
        if !self.has_attributes.load(Ordering::Relaxed) {
            return Err(Errno::OPNOTSUPP.into());
        }
        let is_hidden = |name: &OsStr| {
            self.is_unsupported(name)
                || (caller.uid != 0 && name.as_bytes().starts_with(b"trusted."))
        };
        let located = self.locate(node)?;
        Ok(attributes::extended_attribute_names(
            located, size, is_hidden,
        )?)
    }

    pub fn set_extended_attribute(
        &self,
        node: NodeId,
        name: &OsStr,
        value: &[u8],
        flags: i32,
    ) -> OperationResult<()> {
        self.refuse_unsupported(name)?;
        let located = self.locate(node)?;
        self.has_attributes.store(true, Ordering::Relaxed);
        let set = attributes::set_extended_attribute(located, name, value, flags);
        self.inodes.attributes_changed(node);
        Ok(set?)
    }

    pub fn remove_extended_attribute(&self, node: NodeId, name: &OsStr) -> OperationResult<()> {
        self.refuse_unsupported(name)?;
        let located = self.locate(node)?;
        Ok(attributes::remove_extended_attribute(located, name)?)
    }

    /// A descriptor of the inode (O_PATH unless it is the root's), verified to be the one that the kernel means.
    pub(super) fn locate(&self, node: NodeId) -> OperationResult<Located> {
        let mut tried: Vec<super::inodes::Route> = Vec::new();
        for _ in 0..RESOLVE_ATTEMPTS {
            let (expected, routes) = self.inodes.routes(node).ok_or(OperationError::Stale)?;
            if node == ROOT {
                return Ok(Located::Shared(self.backing.clone()));
            }
            let unchanged = routes.len() == tried.len()
                && routes
                    .iter()
                    .zip(&tried)
                    .all(|(now, then)| now.is_same(then));
            if unchanged {
                return Err(OperationError::Stale);
            }
            for route in &routes {
                let base = route.base.as_ref().unwrap_or(&self.backing);
                if route.path.as_os_str().is_empty() {
                    return Ok(Located::Shared(base.clone()));
                }
                let Some(found) = find_beneath(base, &route.path)? else {
                    continue;
                };
                if attributes::backing_inode(&rustix::fs::fstat(&found)?) == expected {
                    return Ok(Located::Opened(found));
                }
            }
            tried = routes;
        }
        Err(OperationError::Stale)
    }

    /// The database that an inode belongs to, by whichever name, and as what.
    pub(super) fn classify_node(&self, node: NodeId) -> Option<(Arc<Database>, FileKind)> {
        let (inode, names) = self.inodes.names(node)?;
        self.capture.classify_file(inode, &names)
    }

    /// How far the take-over of databases that were there before has come.
    pub fn take_over_progress(&self) -> Option<TakeOver> {
        self.capture.take_over_progress()
    }

    /// Whether an application has the file at `path`, or its log, index or journal, open.
    pub fn is_open(&self, path: &Path) -> bool {
        let belongs = |name: &PathBuf| match Rules::companion(name) {
            Some((database, _)) => database == path,
            None => name == path,
        };
        // It may be open under another name.
        let here = stat_beneath(&self.backing, path).ok();
        let here = here.and_then(|stat| self.inodes.node_of(attributes::backing_inode(&stat)));
        self.handles
            .any_open(|node| Some(node) == here || self.inodes.paths(node).iter().any(belongs))
    }

    /// Passes all `gates`, one after the other, and then runs `proceed`: at once where there are none, else on a
    /// capture worker. Returns at once.
    pub(super) fn pass_gates(
        &self,
        gates: Vec<(Arc<Database>, Gate)>,
        proceed: impl FnOnce() + Send + 'static,
    ) where
        B: Send + Sync + 'static,
    {
        let proceed = Box::new(|passed| {
            proceed();
            drop(passed);
        });
        pass_gates(self.capture.clone(), gates, Vec::new(), proceed);
    }

    /// The same where `proceed` waits for a disk: it is carried out on the tenant's account.
    pub(super) fn pass_gates_to_disk(
        self: &Arc<Self>,
        tenant: Tenant,
        gates: Vec<(Arc<Database>, Gate)>,
        proceed: impl FnOnce() + Send + 'static,
    ) where
        B: Send + Sync + 'static,
    {
        let asking = match gates.is_empty() {
            true => Asking::Requests,
            false => Asking::Capture,
        };
        let files = self.clone();
        let proceed = Box::new(move |passed| {
            files.disk.run(asking, tenant, move || {
                proceed();
                drop(passed);
            });
        });
        pass_gates(self.capture.clone(), gates, Vec::new(), proceed);
    }
}

fn pass_gates(
    capture: Arc<Capture>,
    mut gates: Vec<(Arc<Database>, Gate)>,
    mut passed: Vec<Passing>,
    proceed: Box<dyn FnOnce(Vec<Passing>) + Send>,
) {
    match gates.pop() {
        None => proceed(passed),
        Some((database, gate)) => {
            let next = capture.clone();
            capture.gate(
                &database,
                gate,
                Box::new(move |passing| {
                    passed.push(passing);
                    pass_gates(next, gates, passed, proceed);
                }),
            );
        }
    }
}

/// Whether an entry is the state directory.
pub(super) fn is_hidden(parent: NodeId, name: &OsStr) -> bool {
    parent == ROOT && name == STATE_FOLDER
}

/// Refuses to give an entry the name of the state directory.
pub(super) fn refuse_hidden(parent: NodeId, name: &OsStr) -> OperationResult<()> {
    match is_hidden(parent, name) {
        true => Err(OperationError::ReservedName),
        false => Ok(()),
    }
}

/// Opens what stands at `path` below `base`, without leaving it; none where nothing does.
fn find_beneath(base: impl AsFd, path: &Path) -> Result<Option<OwnedFd>, Errno> {
    match open_beneath(base, path, OFlags::PATH | OFlags::NOFOLLOW) {
        Ok(found) => Ok(Some(found)),
        // Not there, or something else stands at a place on the way: another name, or another attempt, may lead there.
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV | Errno::AGAIN) => Ok(None),
        Err(error) => Err(error),
    }
}
