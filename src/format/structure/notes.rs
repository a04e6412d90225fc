//! What is kept of each page until all have been seen: only then is known which pages are in use, and as what.

use super::page::{Edges, Fault, Kind, Layout};
use super::schema;

/// Pointers that are kept, for each page of the image. Those of pages in use are at most two a page; free pages, too,
/// look like what they once were.
const POINTERS: u64 = 4;
const LEAST_POINTERS: u64 = 4096;
/// From this page number on a pointer begins like a b-tree page.
const AMBIGUOUS: u32 = 2 << 24;

fn most_pointers(pages: u32) -> u64 {
    let most = POINTERS * u64::from(pages);
    most.clamp(LEAST_POINTERS, u64::from(u32::MAX))
}

pub(super) fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

pub(super) fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// What a page would be, going by its content alone.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) enum Look {
    #[default]
    Absent,
    /// Nothing but the content of a row, or what is free.
    Other(Fault),
    /// The same, and it could be a trunk of the freelist.
    Trunk(Fault),
    BTree(Kind),
}

/// The pointers of one page.
#[derive(Clone, Copy, Debug)]
struct Group {
    page: u32,
    start: u32,
    /// The first so many are children; then come pairs of first overflow page and bytes on its chain.
    children: u32,
}

#[derive(Default, Debug)]
pub(super) struct Notes {
    looks: Vec<Look>,
    /// The first four bytes: the next page of an overflow chain or of the freelist.
    next: Vec<u32>,
    groups: Vec<Group>,
    pointers: Vec<u32>,
    /// The same for pages that could be trunks.
    trunks: Vec<Group>,
    leaves: Vec<u32>,
    /// Table roots that the rows of a page name, where that could be one of the schema.
    roots: Vec<(u32, u32)>,
    /// The entries of the pointer map, 5 bytes each, one map page behind the other.
    map: Vec<u8>,
    /// Whether there were more pointers than are kept.
    pub(super) lost_pointers: bool,
    pub(super) lost_leaves: bool,
    edges: Edges,
}

impl Notes {
    /// The number of the last page that came.
    pub(super) fn pages(&self) -> u32 {
        u32::try_from(self.looks.len()).expect("BUG: more pages than numbers")
    }

    /// Makes room for page `number` behind those that came.
    fn begin(&mut self, number: u32, next: u32) -> &mut Look {
        self.looks.resize(number as usize, Look::Absent);
        self.next.resize(number as usize, 0);
        self.next[number as usize - 1] = next;
        &mut self.looks[number as usize - 1]
    }

    pub(super) fn pointer_map(&mut self, number: u32, entries: &[u8]) {
        *self.begin(number, 0) = Look::Other(Fault::Type);
        self.map.extend_from_slice(entries);
    }

    /// Notes a page of an image of `pages`, whose freelist has `listed`. Whether it is a b-tree page with rows on it.
    pub(super) fn page(
        &mut self,
        layout: &Layout,
        number: u32,
        bytes: &[u8],
        pages: u32,
        listed: u32,
    ) -> bool {
        let mut edges = std::mem::take(&mut self.edges);
        let seen = layout.read(number, bytes, &mut edges);
        let (look, has_rows) = match seen {
            Ok((kind, cells)) => {
                self.keep(number, &edges, pages);
                if kind == Kind::TableLeaf {
                    let roots = schema::roots(layout, number, bytes, cells);
                    self.roots.extend(roots.map(|root| (number, root)));
                }
                (Look::BTree(kind), cells > 0)
            }
            Err(fault) if number > 1 && self.trunk(layout, number, bytes, pages, listed) => {
                (Look::Trunk(fault), false)
            }
            Err(fault) => (Look::Other(fault), false),
        };
        self.edges = edges;
        *self.begin(number, be32(bytes, 0)) = look;
        has_rows
    }

    fn keep(&mut self, page: u32, edges: &Edges, pages: u32) {
        let most = most_pointers(pages);
        let more = edges.children.len() + edges.overflows.len();
        if more == 0 {
            return;
        }
        if (self.pointers.len() + more) as u64 > most {
            self.lost_pointers = true;
            return;
        }
        self.groups.push(Group {
            page,
            start: self.pointers.len() as u32,
            children: edges.children.len() as u32,
        });
        self.pointers.extend_from_slice(&edges.children);
        self.pointers.extend_from_slice(&edges.overflows);
    }

    /// Notes the page as a trunk of a freelist of `listed` pages, where it can be one.
    fn trunk(&mut self, layout: &Layout, page: u32, bytes: &[u8], pages: u32, listed: u32) -> bool {
        let (next, count) = (be32(bytes, 0), be32(bytes, 4));
        let is_within = |page: u32| (2..=pages).contains(&page);
        if listed == 0 || count >= listed || count as usize > layout.usable / 4 - 2 {
            return false;
        }
        let leaves = bytes[8..8 + 4 * count as usize].chunks_exact(4);
        let mut leaves = leaves.map(|leaf| be32(leaf, 0));
        if (next != 0 && !is_within(next)) || !leaves.clone().all(is_within) {
            return false;
        }
        if count == 0 {
            return true;
        }
        let most = most_pointers(listed);
        if self.leaves.len() as u64 + u64::from(count) > most {
            self.lost_leaves = true;
            return true;
        }
        self.trunks.push(Group {
            page,
            start: self.leaves.len() as u32,
            children: count,
        });
        self.leaves.extend(&mut leaves);
        true
    }

    pub(super) fn look(&self, page: u32) -> Look {
        let look = self.looks.get((page - 1) as usize);
        look.copied().unwrap_or_default()
    }

    /// What the first four bytes of the page point to.
    pub(super) fn next(&self, page: u32) -> u32 {
        self.next[(page - 1) as usize]
    }

    /// Whether the page may begin with a pointer that looks like the type of a b-tree page.
    pub(super) fn is_ambiguous(&self, page: u32) -> bool {
        self.next(page) >= AMBIGUOUS && self.next(page) <= self.pages()
    }

    /// The children of a b-tree page, and the pairs of first overflow page and bytes on its chain.
    pub(super) fn edges(&self, page: u32) -> (&[u32], &[u32]) {
        let (pointers, children) = found(&self.groups, &self.pointers, page);
        pointers.split_at(children)
    }

    pub(super) fn leaves(&self, trunk: u32) -> &[u32] {
        found(&self.trunks, &self.leaves, trunk).0
    }

    /// The roots that a page of the schema names.
    pub(super) fn roots(&self, page: u32) -> impl Iterator<Item = u32> {
        let start = self.roots.partition_point(|(on, _)| *on < page);
        let rows = self.roots[start..].iter();
        rows.take_while(move |(on, _)| *on == page)
            .map(|(_, root)| *root)
    }

    /// The pointer map's entry at `index`: type and parent.
    pub(super) fn map_entry(&self, index: usize) -> Option<(u8, u32)> {
        let entry = self.map.get(5 * index..5 * index + 5)?;
        Some((entry[0], be32(entry, 1)))
    }
}

/// What one page points to, and how many of those are children.
fn found<'a>(groups: &[Group], pointers: &'a [u32], page: u32) -> (&'a [u32], usize) {
    let Ok(at) = groups.binary_search_by_key(&page, |group| group.page) else {
        return (&[], 0);
    };
    let group = groups[at];
    let next = groups.get(at + 1);
    let end = next.map_or(pointers.len(), |next| next.start as usize);
    let pointers = &pointers[group.start as usize..end];
    (pointers, group.children as usize)
}
