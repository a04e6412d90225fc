//! One b-tree page by itself: its cells lie within it, fill it together with what is free, and say what they point to.

use std::fmt;

use super::LOCK_BYTE;
use super::noise::is_zero;
use super::notes::{be16, be32};

/// Bytes of the longest row or key.
const MAX_PAYLOAD: u64 = i32::MAX as u64;
/// Bytes that every cell takes at least.
const MIN_CELL: usize = 4;

/// Why a page is no b-tree page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    Zeros,
    Type,
    CellCount,
    FreeSpace,
    Cell,
    Order,
    Filling,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Zeros => "is all zeros",
            Self::Type => "begins with no type of such a page",
            Self::CellCount => "says more cells than fit",
            Self::FreeSpace => "has a list of free blocks that can't be",
            Self::Cell => "has a cell outside of its bounds",
            Self::Order => "has rowids out of order",
            Self::Filling => "is not filled by its cells and what is free",
        })
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    IndexInterior,
    TableInterior,
    IndexLeaf,
    TableLeaf,
}

impl Kind {
    fn decode(byte: u8) -> Option<Self> {
        Some(match byte {
            2 => Self::IndexInterior,
            5 => Self::TableInterior,
            10 => Self::IndexLeaf,
            13 => Self::TableLeaf,
            _ => return None,
        })
    }

    pub(super) fn is_leaf(self) -> bool {
        matches!(self, Self::IndexLeaf | Self::TableLeaf)
    }

    pub(super) fn is_table(self) -> bool {
        matches!(self, Self::TableInterior | Self::TableLeaf)
    }
}

/// What a b-tree page points to.
#[derive(Default, Debug)]
pub(super) struct Edges {
    pub(super) children: Vec<u32>,
    /// Pairs: the first page of an overflow chain, the bytes of the row on it.
    pub(super) overflows: Vec<u32>,
}

/// What follows from the page size and the bytes that each page reserves.
#[derive(Debug)]
pub(super) struct Layout {
    page_size: usize,
    pub(super) usable: usize,
    min_local: usize,
    max_local_table: usize,
    max_local_index: usize,
    /// Pages from one page of the pointer map to the next.
    map_span: u32,
    pub(super) lock_page: u32,
}

/// One cell.
struct Cell {
    size: usize,
    rowid: Option<i64>,
    /// Where what is on this page of the payload lies.
    pub(super) payload: (usize, usize),
}

impl Layout {
    /// Sizes in bytes; `usable` is at least 480 where pages are to be read.
    pub(super) fn new(page_size: usize, usable: usize) -> Self {
        Self {
            page_size,
            usable,
            min_local: ((usable - 12) * 32 / 255) - 23,
            max_local_table: usable - 35,
            max_local_index: (usable - 12) * 64 / 255 - 23,
            map_span: (usable / 5 + 1) as u32,
            lock_page: LOCK_BYTE / page_size as u32 + 1,
        }
    }

    pub(super) fn map_bytes(&self) -> usize {
        (self.map_span as usize - 1) * 5
    }

    /// The page of the pointer map that has the entry of `page`, which is above 1.
    fn map_of(&self, page: u32) -> u32 {
        let map = (page - 2) / self.map_span * self.map_span + 2;
        map + u32::from(map == self.lock_page)
    }

    pub(super) fn is_pointer_map(&self, page: u32) -> bool {
        page > 1 && self.map_of(page) == page
    }

    /// The place of the entry of `page`, which is above 1 and no page of the map, among all entries.
    pub(super) fn map_index(&self, page: u32) -> usize {
        let maps = ((page - 2) / self.map_span) as usize;
        maps * (self.map_span as usize - 1) + (page - self.map_of(page) - 1) as usize
    }

    /// Where the b-tree's header begins.
    pub(super) fn header_at(number: u32) -> usize {
        if number == 1 {
            super::super::sqlite::HEADER_SIZE
        } else {
            0
        }
    }

    /// Reads a page as one of a b-tree: its kind and the number of its cells; what it points to replaces `edges`.
    pub(super) fn read(
        &self,
        number: u32,
        bytes: &[u8],
        edges: &mut Edges,
    ) -> Result<(Kind, usize), Fault> {
        edges.children.clear();
        edges.overflows.clear();
        let header = Self::header_at(number);
        let Some(kind) = Kind::decode(bytes[header]) else {
            return Err(if is_zero(bytes) {
                Fault::Zeros
            } else {
                Fault::Type
            });
        };
        let cells = usize::from(be16(bytes, header + 3));
        let pointers = header + if kind.is_leaf() { 8 } else { 12 };
        let first = pointers + 2 * cells;
        if cells > (self.page_size - 8) / 6 || first > self.usable {
            return Err(Fault::CellCount);
        }
        let content = match be16(bytes, header + 5) {
            0 => 65536,
            content => usize::from(content),
        };
        let mut filled = self.free(bytes, header, content)?;
        if filled < first {
            return Err(Fault::FreeSpace);
        }
        let mut before = None;
        for pointer in bytes[pointers..first].chunks_exact(2) {
            let at = usize::from(be16(pointer, 0));
            if at < content || at > self.usable - MIN_CELL {
                return Err(Fault::Cell);
            }
            let cell = self.cell(kind, bytes, at, edges).ok_or(Fault::Cell)?;
            if cell.rowid.is_some() && cell.rowid <= before {
                return Err(Fault::Order);
            }
            before = cell.rowid;
            filled += cell.size;
        }
        if filled != self.usable {
            return Err(Fault::Filling);
        }
        if !kind.is_leaf() {
            edges.children.push(be32(bytes, header + 8));
        }
        Ok((kind, cells))
    }

    /// Bytes in front of the cells' content and free ones among it.
    fn free(&self, bytes: &[u8], header: usize, content: usize) -> Result<usize, Fault> {
        let mut total = usize::from(bytes[header + 7]) + content;
        let mut at = usize::from(be16(bytes, header + 1));
        if at == 0 {
            return if total > self.usable {
                Err(Fault::FreeSpace)
            } else {
                Ok(total)
            };
        }
        if at < content {
            return Err(Fault::FreeSpace);
        }
        loop {
            if at > self.usable - 4 {
                return Err(Fault::FreeSpace);
            }
            let next = usize::from(be16(bytes, at));
            let size = usize::from(be16(bytes, at + 2));
            total += size;
            if at + size > self.usable || (next != 0 && next <= at + size + 3) {
                return Err(Fault::FreeSpace);
            }
            if next == 0 {
                break;
            }
            at = next;
        }
        if total > self.usable {
            Err(Fault::FreeSpace)
        } else {
            Ok(total)
        }
    }

    fn cell(&self, kind: Kind, bytes: &[u8], start: usize, edges: &mut Edges) -> Option<Cell> {
        let bytes = &bytes[..self.usable];
        let mut at = start;
        if !kind.is_leaf() {
            edges.children.push(be32(bytes, at));
            at += 4;
        }
        if kind == Kind::TableInterior {
            let rowid = varint(bytes, &mut at)? as i64;
            return Some(Cell {
                size: at - start,
                rowid: Some(rowid),
                payload: (at, at),
            });
        }
        let payload = varint(bytes, &mut at)?;
        let rowid = match kind {
            Kind::TableLeaf => Some(varint(bytes, &mut at)? as i64),
            _ => None,
        };
        if payload > MAX_PAYLOAD {
            return None;
        }
        let local = self.local(kind, payload as usize);
        let mut end = at + local;
        let payload_at = (at, end);
        let rest = payload as usize - local;
        if rest > 0 {
            if end + 4 > bytes.len() {
                return None;
            }
            edges.overflows.extend([be32(bytes, end), rest as u32]);
            end += 4;
        }
        let size = (end - start).max(MIN_CELL);
        (start + size <= bytes.len()).then_some(Cell {
            size,
            rowid,
            payload: payload_at,
        })
    }

    /// Bytes of a row on each page of its overflow chain.
    pub(super) fn overflow_bytes(&self) -> u32 {
        (self.usable - 4) as u32
    }

    /// Bytes of a payload that lie on the page itself.
    fn local(&self, kind: Kind, payload: usize) -> usize {
        let most = match kind {
            Kind::TableLeaf => self.max_local_table,
            _ => self.max_local_index,
        };
        if payload <= most {
            return payload;
        }
        let surplus = self.min_local + (payload - self.min_local) % (self.usable - 4);
        if surplus <= most {
            surplus
        } else {
            self.min_local
        }
    }

    /// The part of each row's payload that lies on page `number`, a leaf of a table with so many `cells` which was read
    /// without a fault.
    pub(super) fn rows<'a>(
        &'a self,
        number: u32,
        bytes: &'a [u8],
        cells: usize,
    ) -> impl Iterator<Item = &'a [u8]> {
        let pointers = Self::header_at(number) + 8;
        let mut edges = Edges::default();
        (0..cells).filter_map(move |index| {
            let at = usize::from(be16(bytes, pointers + 2 * index));
            let cell = self.cell(Kind::TableLeaf, bytes, at, &mut edges)?;
            Some(&bytes[cell.payload.0..cell.payload.1])
        })
    }
}

/// Reads a number of one to nine bytes at `at` and moves that behind it; none where the bytes end before.
pub(super) fn varint(bytes: &[u8], at: &mut usize) -> Option<u64> {
    let mut value = 0u64;
    for count in 1.. {
        let byte = *bytes.get(*at)?;
        *at += 1;
        if count == 9 {
            return Some(value << 8 | u64::from(byte));
        }
        value = value << 7 | u64::from(byte & 0x7f);
        if byte < 0x80 {
            return Some(value);
        }
    }
    unreachable!("BUG: the ninth byte is the last")
}
