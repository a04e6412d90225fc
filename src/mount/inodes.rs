//! The inode table: which backing inode each of the kernel's node ids stands for, and the names that lead to it.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

pub use crate::capture::BackingInode;
use crate::room;

/// What the kernel calls an inode. The backing inode's own number on the device of the mount's root, so that a
/// successor of this process finds every inode again.
pub type NodeId = u64;

/// The node id of the mount's root, by the protocol.
pub const ROOT: NodeId = 1;

/// Node ids from here on stand for inodes whose number can't be used as it is: those of further devices.
const FIRST_FOREIGN: NodeId = 1 << 63;

/// Deeper than any path that the kernel resolves; ends the climb where the table was falsified from outside.
const MAX_DEPTH: usize = 4096;

/// Nodes that are moved together, at most, and while the table is locked.
const MOST_MOVED: usize = 16_384;
const MOVED_AT_ONCE: usize = 256;

/// Extended attributes that the kernel asks for at every file that a listing shows, or at writes, and that hardly any file has. The
/// kernel does not remember that one is missing.
const OFTEN_ASKED: [&str; 3] = [
    "security.capability",
    "system.posix_acl_access",
    "system.posix_acl_default",
];

/// What is known of an inode's extended attribute before its file is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sought {
    Missing,
    /// The file has to be asked; if that says it is missing, `note_missing` takes this.
    Unknown(Moment),
}

/// How many changes of extended attributes had ended by then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Moment(u64);

/// How to reach an inode: `path` from `base`, or from the backing directory where there is no base.
/// An empty path is the base itself.
#[derive(Clone, Debug)]
pub struct Route {
    pub base: Option<Arc<OwnedFd>>,
    pub path: PathBuf,
}

impl Route {
    /// Whether both lead the same way; then a second attempt can't end otherwise.
    pub fn is_same(&self, other: &Route) -> bool {
        let same_base = match (&self.base, &other.base) {
            (None, None) => true,
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            _ => false,
        };
        same_base && self.path == other.path
    }
}

/// The inodes that the kernel knows, as a tree of parent pointers: a directory's rename moves all below it.
pub struct Inodes {
    root: BackingInode,
    table: Mutex<Table>,
}

struct Table {
    /// Each on its own: a table has nearly as much room again as it needs.
    nodes: HashMap<NodeId, Box<Node>>,
    foreign: HashMap<BackingInode, NodeId>,
    next_foreign: NodeId,
    /// How many changes of extended attributes have ended.
    attribute_changes: u64,
}

#[derive(Clone)]
struct Node {
    backing: BackingInode,
    generation: u32,
    is_directory: bool,
    /// How often the kernel was told of it and has not forgotten it.
    lookups: u64,
    /// Where it stands, as far as the kernel asked; a directory has at most one name.
    names: Names,
    /// Names of other nodes that have this one as their parent: it stays while there are any.
    children: u32,
    /// A descriptor that reaches it whatever becomes of its names. It also keeps the inode's number from being used
    /// anew while the kernel still knows the old inode by it.
    pin: Option<Arc<OwnedFd>>,
    /// Renames in progress; its names and those below it can't be relied on.
    moves: u32,
    /// Whether the kernel's page cache may hold this inode's pages.
    page_cached: bool,
    /// Which of `OFTEN_ASKED` it is known not to have, a bit for each.
    lacking: u8,
}

impl Node {
    /// One that nobody knows yet.
    fn new(backing: BackingInode, generation: u32, is_directory: bool) -> Self {
        Self {
            backing,
            generation,
            is_directory,
            lookups: 0,
            names: Names::default(),
            children: 0,
            pin: None,
            moves: 0,
            page_cached: false,
            lacking: 0,
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Name {
    parent: NodeId,
    name: Box<OsStr>,
}

/// The names of one node. Nearly all have one for ever, and there may be many of them.
#[derive(Clone)]
enum Names {
    One(Name),
    Any(Vec<Name>),
}

impl Default for Names {
    fn default() -> Self {
        Self::Any(Vec::new())
    }
}

impl Deref for Names {
    type Target = [Name];

    fn deref(&self) -> &[Name] {
        match self {
            Self::One(name) => std::slice::from_ref(name),
            Self::Any(names) => names,
        }
    }
}

impl Names {
    fn into_vec(self) -> Vec<Name> {
        match self {
            Self::One(name) => vec![name],
            Self::Any(names) => names,
        }
    }

    fn of(mut names: Vec<Name>) -> Self {
        match (names.len(), names.pop()) {
            (1, Some(name)) => Self::One(name),
            (_, last) => {
                names.extend(last);
                Self::Any(names)
            }
        }
    }

    /// Changes what they are.
    fn change(&mut self, change: impl FnOnce(&mut Vec<Name>)) {
        let mut names = std::mem::take(self).into_vec();
        change(&mut names);
        *self = Self::of(names);
    }
}

impl Inodes {
    pub fn new(root: BackingInode) -> Self {
        let node = Node {
            lookups: 1,
            ..Node::new(root, 0, true)
        };
        Self {
            root,
            table: Mutex::new(Table {
                nodes: HashMap::from([(ROOT, Box::new(node))]),
                foreign: HashMap::new(),
                next_foreign: FIRST_FOREIGN,
                attribute_changes: 0,
            }),
        }
    }

    /// Counts a lookup of `name` in `parent`, which led to `backing`. `generation` is asked for a new node only: the
    /// kernel must get the same one for as long as it knows the node. None if `parent` is unknown.
    pub fn look_up(
        &self,
        parent: NodeId,
        name: &OsStr,
        backing: BackingInode,
        is_directory: bool,
        generation: impl FnOnce() -> u32,
    ) -> Option<(NodeId, u32)> {
        let known = self.lock().node_id(self.root, backing);
        // Asked without the lock, for it is a system call.
        let generation = match known.filter(|id| self.lock().nodes.contains_key(id)) {
            Some(_) => 0,
            None => generation(),
        };
        let mut table = self.lock();
        if !table.nodes.contains_key(&parent) {
            return None;
        }
        let id = table.assign_node_id(self.root, backing);
        let node = table
            .nodes
            .entry(id)
            .or_insert_with(|| Box::new(Node::new(backing, generation, is_directory)));
        node.lookups += 1;
        let generation = node.generation;
        table.add_name(id, parent, name);
        Some((id, generation))
    }

    /// The kernel has forgotten `lookups` of its lookups. The caller closes what was pinned: that can free an unlinked
    /// file, which takes time.
    pub fn forget(&self, id: NodeId, lookups: u64) -> Vec<Arc<OwnedFd>> {
        let mut table = self.lock();
        if let Some(node) = table.nodes.get_mut(&id) {
            node.lookups = node.lookups.saturating_sub(lookups);
        }
        table.drop_unused(id)
    }

    /// A directory in which a node stands; none where that has no name.
    pub fn parent(&self, id: NodeId) -> Option<NodeId> {
        let table = self.lock();
        Some(table.nodes.get(&id)?.names.first()?.parent)
    }

    /// The node that stands for an inode; none where the kernel can't know it.
    pub fn node_of(&self, backing: BackingInode) -> Option<NodeId> {
        let table = self.lock();
        table
            .node_id(self.root, backing)
            .filter(|id| table.nodes.contains_key(id))
    }

    /// The ways to reach a node, with the inode that must be found there. None for a node that the kernel can't know.
    pub fn routes(&self, id: NodeId) -> Option<(BackingInode, Vec<Route>)> {
        let table = self.lock();
        let node = table.nodes.get(&id)?;
        Some((node.backing, table.routes(id)))
    }

    /// The paths of a node below the mount's root, one for each of its known names.
    pub fn paths(&self, id: NodeId) -> Vec<PathBuf> {
        self.names(id).map_or_else(Vec::new, |(_, paths)| paths)
    }

    /// The same with its inode; none for a node that the kernel can't know.
    pub fn names(&self, id: NodeId) -> Option<(BackingInode, Vec<PathBuf>)> {
        let table = self.lock();
        let node = table.nodes.get(&id)?;
        let paths = node.names.iter().filter_map(|name| table.path_of(name));
        Some((node.backing, paths.collect()))
    }

    /// The path of an entry below the mount's root; none where the directory itself is gone.
    pub fn child_path(&self, parent: NodeId, name: &OsStr) -> Option<PathBuf> {
        self.lock().path_of(&Name {
            parent,
            name: name.into(),
        })
    }

    /// The number that is shown of the directory in which a directory stands; none above the root, and where nobody knows.
    pub fn parent_number(&self, id: NodeId) -> Option<u64> {
        let table = self.lock();
        let parent = table.nodes.get(&id)?.names.first()?.parent;
        let backing = table.nodes.get(&parent)?.backing;
        Some(self.shown_number(parent, backing))
    }

    /// Takes a name away, before it is removed. The node, if it has no other name, is reached by `pin` from now on.
    pub fn detach(&self, parent: NodeId, name: &OsStr, backing: BackingInode, pin: &Arc<OwnedFd>) {
        let mut table = self.lock();
        let Some(id) = table.node_id(self.root, backing) else {
            return;
        };
        table.remove_name(id, parent, name);
        if let Some(node) = table.nodes.get_mut(&id).filter(|n| n.names.is_empty()) {
            node.pin.get_or_insert_with(|| pin.clone());
        }
    }

    /// Undoes `detach`, for a removal that failed.
    pub fn reattach(&self, parent: NodeId, name: &OsStr, backing: BackingInode) {
        let mut table = self.lock();
        if let Some(id) = table.node_id(self.root, backing) {
            table.add_name(id, parent, name);
        }
    }

    /// A rename begins: until its end the node, and what lies below it, are reached by `pin`.
    pub fn begin_move(&self, backing: BackingInode, pin: &Arc<OwnedFd>) {
        let mut table = self.lock();
        if let Some(id) = table.node_id(self.root, backing)
            && let Some(node) = table.nodes.get_mut(&id)
        {
            node.moves += 1;
            node.pin.get_or_insert_with(|| pin.clone());
        }
    }

    /// The rename has ended. `from` and `to` are names in their directories; `moved` is whether it succeeded.
    pub fn end_move(
        &self,
        backing: BackingInode,
        from: (NodeId, &OsStr),
        to: (NodeId, &OsStr),
        moved: bool,
    ) {
        let mut table = self.lock();
        let Some(id) = table.node_id(self.root, backing) else {
            return;
        };
        let Some(node) = table.nodes.get_mut(&id) else {
            return;
        };
        node.moves = node.moves.saturating_sub(1);
        if moved {
            table.add_name(id, to.0, to.1);
            table.remove_name(id, from.0, from.1);
        }
        table.unpin(id);
    }

    /// Notes how an inode is opened, and tells whether the pages that the kernel has cached of it are still good.
    pub fn keeps_page_cache(&self, id: NodeId, page_cached: bool) -> bool {
        let mut table = self.lock();
        table.nodes.get_mut(&id).is_some_and(|node| {
            std::mem::replace(&mut node.page_cached, page_cached) && page_cached
        })
    }

    /// Whether an inode is known not to have an extended attribute.
    pub fn seek_attribute(&self, id: NodeId, name: &OsStr) -> Sought {
        let table = self.lock();
        let lacking = table.nodes.get(&id).map_or(0, |node| node.lacking);
        match lacking & bit_of(name) {
            0 => Sought::Unknown(Moment(table.attribute_changes)),
            _ => Sought::Missing,
        }
    }

    /// Its file did not have the attribute when it was asked, after `moment`.
    pub fn note_missing(&self, id: NodeId, name: &OsStr, Moment(moment): Moment) {
        let mut table = self.lock();
        // A change that has ended meanwhile may have come after the answer, and one that has not will clear this.
        if table.attribute_changes == moment
            && let Some(node) = table.nodes.get_mut(&id)
        {
            node.lacking |= bit_of(name);
        }
    }

    /// An attribute was, or may have been, given to an inode: after that, before the reply.
    pub fn attributes_changed(&self, id: NodeId) {
        let mut table = self.lock();
        table.attribute_changes += 1;
        if let Some(node) = table.nodes.get_mut(&id) {
            node.lacking = 0;
        }
    }

    /// Many were worked on at once, and what that needed is freed by now: makes all nodes anew in the room that is left
    /// between others, so that pages are given back. Not where there are so many that an operation would wait for it.
    pub fn move_together(&self) {
        let ids: Vec<NodeId> = {
            let table = self.lock();
            match table.nodes.len() {
                0..=MOST_MOVED => table.nodes.keys().copied().collect(),
                _ => return,
            }
        };
        for some in ids.chunks(MOVED_AT_ONCE) {
            let mut table = self.lock();
            for id in some {
                if let Some(node) = table.nodes.get_mut(id) {
                    *node = node.clone();
                }
            }
        }
    }

    /// The number that `stat` shows: the backing inode's, or the node id where that could be mistaken.
    pub fn shown_number(&self, id: NodeId, backing: BackingInode) -> u64 {
        if id == ROOT { backing.number } else { id }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// 0 for an attribute of which nothing is remembered.
fn bit_of(name: &OsStr) -> u8 {
    let place = OFTEN_ASKED.iter().position(|often| name == *often);
    place.map_or(0, |place| 1 << place)
}

impl Table {
    fn node_id(&self, root: BackingInode, backing: BackingInode) -> Option<NodeId> {
        if backing == root {
            Some(ROOT)
        } else if backing.device == root.device
            && backing.number > ROOT
            && backing.number < FIRST_FOREIGN
        {
            Some(backing.number)
        } else {
            self.foreign.get(&backing).copied()
        }
    }

    fn assign_node_id(&mut self, root: BackingInode, backing: BackingInode) -> NodeId {
        if let Some(id) = self.node_id(root, backing) {
            return id;
        }
        let id = self.next_foreign;
        self.next_foreign += 1;
        self.foreign.insert(backing, id);
        id
    }

    fn add_name(&mut self, id: NodeId, parent: NodeId, name: &OsStr) {
        let Some(node) = self.nodes.get_mut(&id) else {
            return;
        };
        let is_known = |n: &Name| n.parent == parent && *n.name == *name;
        if node.names.iter().any(is_known) {
            return;
        }
        let replaced = match node.is_directory {
            true => std::mem::take(&mut node.names).into_vec(),
            false => Vec::new(),
        };
        let name = name.into();
        node.names.change(|names| names.push(Name { parent, name }));
        if let Some(directory) = self.nodes.get_mut(&parent) {
            directory.children += 1;
        }
        for old in replaced {
            self.release_parent(old.parent);
        }
        self.unpin(id);
    }

    fn remove_name(&mut self, id: NodeId, parent: NodeId, name: &OsStr) {
        let Some(node) = self.nodes.get_mut(&id) else {
            return;
        };
        let before = node.names.len();
        let stays = |n: &Name| n.parent != parent || *n.name != *name;
        node.names.change(|names| names.retain(stays));
        if node.names.len() < before {
            self.release_parent(parent);
        }
    }

    fn unpin(&mut self, id: NodeId) {
        if let Some(node) = self.nodes.get_mut(&id)
            && node.moves == 0
            && !node.names.is_empty()
        {
            node.pin = None;
        }
    }

    fn release_parent(&mut self, parent: NodeId) {
        if let Some(directory) = self.nodes.get_mut(&parent) {
            directory.children -= 1;
        }
        // What this drops are directories with nothing in them.
        self.drop_unused(parent);
    }

    /// Removes a node that nobody refers to, and then its parents likewise; the caller closes what they had pinned.
    fn drop_unused(&mut self, id: NodeId) -> Vec<Arc<OwnedFd>> {
        let mut closed = Vec::new();
        let mut unused = vec![id];
        while let Some(id) = unused.pop() {
            let is_unused = self.nodes.get(&id).is_some_and(|node| {
                id != ROOT && node.lookups == 0 && node.children == 0 && node.moves == 0
            });
            if !is_unused {
                continue;
            }
            let Some(node) = self.nodes.remove(&id) else {
                continue;
            };
            self.foreign.remove(&node.backing);
            closed.extend(node.pin);
            for name in node.names.into_vec() {
                if let Some(directory) = self.nodes.get_mut(&name.parent) {
                    directory.children -= 1;
                    unused.push(name.parent);
                }
            }
        }
        room::give_back(&mut self.nodes);
        closed
    }

    fn path_of(&self, name: &Name) -> Option<PathBuf> {
        let mut parts = vec![&*name.name];
        let mut parent = name.parent;
        while parent != ROOT {
            let up = self.nodes.get(&parent)?.names.first()?;
            parts.push(&up.name);
            parent = up.parent;
            if parts.len() > MAX_DEPTH {
                return None;
            }
        }
        Some(parts.iter().rev().collect())
    }

    fn routes(&self, id: NodeId) -> Vec<Route> {
        let Some(node) = self.nodes.get(&id) else {
            return Vec::new();
        };
        if id == ROOT || node.pin.is_some() {
            return vec![Route {
                base: node.pin.clone(),
                path: PathBuf::new(),
            }];
        }
        node.names
            .iter()
            .filter_map(|name| self.route_of(name))
            .collect()
    }

    /// Climbs from a name to the root, or to the nearest directory above that is pinned.
    fn route_of(&self, name: &Name) -> Option<Route> {
        let mut parts = vec![&*name.name];
        let mut parent = name.parent;
        let base = loop {
            let directory = self.nodes.get(&parent)?;
            if parent == ROOT || directory.pin.is_some() {
                break directory.pin.clone();
            }
            let up = directory.names.first()?;
            parts.push(&up.name);
            parent = up.parent;
            if parts.len() > MAX_DEPTH {
                return None;
            }
        };
        Some(Route {
            base,
            path: parts.iter().rev().collect(),
        })
    }
}

#[cfg(test)]
mod tests;
