//! The way through all pages in use: the freelist, the schema, and each tree that this names, every page once.

use super::notes::{Look, Notes};
use super::page::{Fault, Layout};
use super::{Flaw, Header};

/// What the pointer map has a page as.
#[derive(Clone, Copy)]
enum Role {
    Root,
    Free,
    Overflow { parent: u32, is_first: bool },
    Child { parent: u32 },
}

impl Role {
    /// The entry of the map: type and parent.
    fn entry(self) -> (u8, u32) {
        match self {
            Self::Root => (1, 0),
            Self::Free => (2, 0),
            Self::Overflow { parent, is_first } => (if is_first { 3 } else { 4 }, parent),
            Self::Child { parent } => (5, parent),
        }
    }
}

/// A page of a tree that is to be looked at.
struct Visit {
    page: u32,
    from: u32,
    /// 0 for the root.
    depth: u32,
}

/// A tree, as far as it has been seen.
struct Tree {
    visits: Vec<Visit>,
    is_table: Option<bool>,
    /// The depth of all its leaves.
    leaf_depth: Option<u32>,
    is_schema: bool,
}

impl Tree {
    fn new(root: u32, from: u32) -> Self {
        let first = Visit {
            page: root,
            from,
            depth: 0,
        };
        Self {
            visits: vec![first],
            is_table: None,
            leaf_depth: None,
            is_schema: root == 1,
        }
    }
}

pub(super) struct Walk<'a> {
    notes: &'a Notes,
    layout: &'a Layout,
    header: Header,
    pages: u32,
    /// A bit a page.
    used: Vec<u64>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(notes: &'a Notes, layout: &'a Layout, header: Header, pages: u32) -> Self {
        Self {
            notes,
            layout,
            header,
            pages,
            used: vec![0; pages as usize / 64 + 1],
        }
    }

    pub(super) fn all(mut self) -> Result<(), Flaw> {
        self.presence()?;
        if !self.notes.lost_leaves {
            self.freelist()?;
        }
        if !self.notes.lost_pointers {
            for (page, root) in self.schema()? {
                self.tree(root, page)?;
            }
        }
        Ok(())
    }

    fn presence(&self) -> Result<(), Flaw> {
        let is_absent = |page: &u32| self.notes.look(*page) == Look::Absent;
        let mut absent = (1..=self.pages).filter(is_absent);
        match absent.find(|page| *page != self.layout.lock_page) {
            Some(page) => Err(Flaw::Missing { page }),
            None => Ok(()),
        }
    }

    /// Notes that `from` uses the page.
    fn take(&mut self, page: u32, from: u32, role: Role) -> Result<(), Flaw> {
        let has_map = self.header.largest_root != 0;
        let can_be = (2..=self.pages).contains(&page)
            && page != self.layout.lock_page
            && !(has_map && self.layout.is_pointer_map(page));
        if !can_be {
            return Err(Flaw::Reference { page, from });
        }
        let (word, bit) = (page as usize / 64, 1 << (page % 64));
        if self.used[word] & bit != 0 {
            return Err(Flaw::Twice { page, from });
        }
        self.used[word] |= bit;
        let is_mapped = || self.notes.map_entry(self.layout.map_index(page)) == Some(role.entry());
        if has_map && !is_mapped() {
            return Err(Flaw::PointerMap { page, from });
        }
        Ok(())
    }

    fn freelist(&mut self) -> Result<(), Flaw> {
        let expected = self.header.freelist_pages;
        let mut found = 0;
        let (mut trunk, mut from) = (self.header.freelist, 1);
        while trunk != 0 {
            self.take(trunk, from, Role::Free)?;
            if !matches!(self.notes.look(trunk), Look::Trunk(_)) {
                if self.notes.is_ambiguous(trunk) {
                    return Ok(());
                }
                return Err(Flaw::Trunk { page: trunk });
            }
            let leaves = self.notes.leaves(trunk);
            for leaf in leaves {
                self.take(*leaf, trunk, Role::Free)?;
            }
            found += 1 + leaves.len() as u64;
            (trunk, from) = (self.notes.next(trunk), trunk);
        }
        if found != u64::from(expected) {
            return Err(Flaw::Freelist { expected, found });
        }
        Ok(())
    }

    /// Goes through the schema; the roots that its leaves name, each with its leaf.
    fn schema(&mut self) -> Result<Vec<(u32, u32)>, Flaw> {
        let mut named = Vec::new();
        let mut tree = Tree::new(1, 1);
        self.used[0] |= 1 << 1;
        while let Some(visit) = tree.visits.pop() {
            if visit.depth > 0 {
                self.take(visit.page, visit.from, Role::Child { parent: visit.from })?;
            }
            self.visit(&mut tree, &visit)?;
            let roots = self.notes.roots(visit.page);
            named.extend(roots.map(|root| (visit.page, root)));
        }
        match tree.is_table {
            Some(true) => Ok(named),
            _ => Err(Flaw::Tree { page: 1, from: 1 }),
        }
    }

    /// Goes through a tree whose `root` page `from` of the schema names.
    fn tree(&mut self, root: u32, from: u32) -> Result<(), Flaw> {
        let mut tree = Tree::new(root, from);
        while let Some(visit) = tree.visits.pop() {
            let role = match visit.depth {
                0 => Role::Root,
                _ => Role::Child { parent: visit.from },
            };
            self.take(visit.page, visit.from, role)?;
            self.visit(&mut tree, &visit)?;
        }
        Ok(())
    }

    /// Looks at a page of the tree, takes its overflow chains, and puts its children on the list.
    fn visit(&mut self, tree: &mut Tree, visit: &Visit) -> Result<(), Flaw> {
        let &Visit { page, from, depth } = visit;
        let kind = match self.notes.look(page) {
            Look::BTree(kind) => kind,
            Look::Other(fault) | Look::Trunk(fault) => {
                return Err(Flaw::Page { page, from, fault });
            }
            Look::Absent => return Err(Flaw::Missing { page }),
        };
        let is_like_the_rest = *tree.is_table.get_or_insert(kind.is_table()) == kind.is_table()
            && (!kind.is_leaf() || *tree.leaf_depth.get_or_insert(depth) == depth);
        if !is_like_the_rest {
            return Err(Flaw::Tree { page, from });
        }
        let (children, overflows) = self.notes.edges(page);
        for chain in overflows.chunks_exact(2) {
            let last = self.overflow(page, chain[0], chain[1])?;
            if tree.is_schema {
                self.schema_text(page, last, chain[1])?;
            }
        }
        tree.visits.extend(children.iter().map(|child| Visit {
            page: *child,
            from: page,
            depth: depth + 1,
        }));
        Ok(())
    }

    /// Takes the chain from `first` on, which holds so many bytes; its last page.
    fn overflow(&mut self, from: u32, first: u32, bytes: u32) -> Result<u32, Flaw> {
        let expected = bytes.div_ceil(self.layout.overflow_bytes());
        let wrong = |found| Flaw::Overflow {
            from,
            first,
            expected,
            found,
        };
        let (mut page, mut parent) = (first, from);
        for found in 0..expected {
            if page == 0 {
                return Err(wrong(found));
            }
            let is_first = found == 0;
            self.take(page, parent, Role::Overflow { parent, is_first })?;
            (page, parent) = (self.notes.next(page), page);
        }
        match page {
            0 => Ok(parent),
            _ => Err(wrong(expected + 1)),
        }
    }

    /// A row of the schema ends in text, of which each character has a byte that is not zero, and has two at most.
    fn schema_text(&self, from: u32, last: u32, bytes: u32) -> Result<(), Flaw> {
        let is_zero = matches!(
            self.notes.look(last),
            Look::Other(Fault::Zeros) | Look::Trunk(Fault::Zeros)
        );
        let on_last = (bytes - 1) % self.layout.overflow_bytes() + 1;
        if is_zero && on_last >= 2 {
            return Err(Flaw::SchemaText { page: last, from });
        }
        Ok(())
    }
}
