//! Whether the pages of a SQLite database fit together: the header, the b-trees from the schema on, overflow chains,
//! the freelist and the pointer map. Pure, and without SQL.
//!
//! Each rule is one of `PRAGMA integrity_check`'s, so that nothing which that finds in order has a flaw here. What it
//! does not look at: the order of keys but for the rowids of one page, contents of rows, whether indexes agree with
//! their tables. Pages that nothing points to are no flaw, for they do no harm; such are, here, also those of a table
//! whose name is so long that an overflow page has its root.

mod noise;
mod notes;
mod page;
mod schema;
mod walk;

pub use noise::is_noise;
pub use page::Fault;

use notes::Notes;
use page::Layout;
use walk::Walk;

use super::sqlite::{MAGIC, READ_VERSION, WAL2};

/// The byte that SQLite locks; its page holds nothing.
const LOCK_BYTE: u32 = 1 << 30;
/// Bytes of a page that SQLite needs at least, without those that are reserved.
const MIN_USABLE: usize = 480;
/// Reserved for extensions, zero in every database that SQLite writes.
const EXPANSION: std::ops::Range<usize> = 72..92;

/// What the pages of an image are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Structure {
    /// They fit together; also where there are none.
    Sound,
    /// They can't be checked: the first one has no SQLite header (or, as SQLCipher has it with
    /// `cipher_plaintext_header_size`, only that), and no page is a plain one of SQLite's.
    Encrypted,
}

/// Why the pages of an image are no database that SQLite could read whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Flaw {
    #[error("page {page} came out of order, or with another size than the image's")]
    Sequence { page: u32 },
    #[error("page {page} is missing")]
    Missing { page: u32 },
    #[error("page 1 has no SQLite header, though page {plain} is one of a SQLite database")]
    NoHeader { plain: u32 },
    #[error("page 1 {reason}")]
    Header { reason: &'static str },
    #[error("the header says {header} pages, and there are {pages}")]
    Short { header: u32, pages: u32 },
    /// `from` is 1 for the schema's own root.
    #[error("page {page}, a b-tree page by page {from}, {fault}")]
    Page { page: u32, from: u32, fault: Fault },
    #[error(
        "page {page}, a b-tree page by page {from}, is of another tree or lies at another depth"
    )]
    Tree { page: u32, from: u32 },
    #[error("page {from} points to page {page}, which is not there or can't be pointed to")]
    Reference { page: u32, from: u32 },
    #[error("page {page} is used twice, the second time by page {from}")]
    Twice { page: u32, from: u32 },
    #[error(
        "the row on page {from} that goes on at page {first} has {found} such pages instead of {expected}"
    )]
    Overflow {
        from: u32,
        first: u32,
        expected: u32,
        found: u32,
    },
    #[error("page {page}, on which a row of the schema on page {from} ends, is all zeros")]
    SchemaText { page: u32, from: u32 },
    #[error("page {page} is no trunk page of the freelist")]
    Trunk { page: u32 },
    #[error("the freelist has {found} pages instead of {expected}")]
    Freelist { expected: u32, found: u64 },
    #[error("the pointer map has page {page} as something else than it is to page {from}")]
    PointerMap { page: u32, from: u32 },
}

/// What the header says that other pages depend on.
#[derive(Clone, Copy, Debug)]
struct Header {
    /// Pages, where the header can be trusted for it.
    pages: Option<u32>,
    freelist: u32,
    freelist_pages: u32,
    /// 0 where there is no pointer map.
    largest_root: u32,
}

impl Header {
    fn decode(page: &[u8]) -> Result<Self, Flaw> {
        let refuse = |reason| Err(Flaw::Header { reason });
        let be32 = |at| notes::be32(page, at);
        if usize::from(notes::be16(page, 16)) != page.len() % 65536 + page.len() / 65536 {
            return refuse("has another page size than the image");
        }
        if page[READ_VERSION] > WAL2 || page[21..24] != [64, 32, 32] {
            return refuse("has a header that SQLite does not read");
        }
        if page.len() - usize::from(page[20]) < MIN_USABLE {
            return refuse("reserves more bytes of each page than it may");
        }
        if page[47] > 4 {
            return refuse("has a schema format that SQLite does not read");
        }
        let pages = be32(28);
        Ok(Self {
            pages: (pages != 0 && be32(24) == be32(92)).then_some(pages),
            freelist: be32(32),
            freelist_pages: be32(36),
            largest_root: be32(52),
        })
    }
}

/// Takes the pages of an image one by one and keeps of each what the others have to agree with: 10 bytes a page as a
/// rule, some 60 at most. Pages of small rows pass at more than 1 GB/s, all others far quicker.
#[derive(Debug)]
pub struct Check {
    page_size: usize,
    pages: u32,
    header: Option<Header>,
    layout: Layout,
    notes: Notes,
    /// The first that was found before the end.
    flaw: Option<Flaw>,
    first: FirstPage,
    /// The first b-tree page with a row on it.
    plain: Option<u32>,
}

/// What the first page looks like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum FirstPage {
    Plain,
    NoHeader,
    /// It has a header, and what never is in one; all pages so far are noise.
    HeaderOnly,
}

impl Check {
    /// `page_size` is in bytes, 512 to 65536; `pages` is the size of the image.
    pub fn new(page_size: u32, pages: u32) -> Self {
        let page_size = page_size as usize;
        Self {
            page_size,
            pages,
            header: None,
            layout: Layout::new(page_size, page_size),
            notes: Notes::default(),
            flaw: None,
            first: FirstPage::Plain,
            plain: None,
        }
    }

    /// Takes page `number`, the first of which is 1, all of them in ascending order. The page that holds byte 1 GiB may
    /// be left out.
    pub fn page(&mut self, number: u32, bytes: &[u8]) {
        let after = self.notes.pages();
        if number <= after || number > self.pages || bytes.len() != self.page_size {
            self.found(Flaw::Sequence { page: number });
            return;
        }
        if number == 1 {
            self.first_page(bytes);
        }
        if self.first == FirstPage::HeaderOnly && !noise::may_be_encrypted(number, bytes) {
            self.first = FirstPage::Plain;
        }
        let map = self.header.filter(|header| header.largest_root != 0);
        if map.is_some() && self.layout.is_pointer_map(number) {
            self.notes
                .pointer_map(number, &bytes[..self.layout.map_bytes()]);
            return;
        }
        let listed = self.header.map_or(0, |header| header.freelist_pages);
        let has_rows = self
            .notes
            .page(&self.layout, number, bytes, self.pages, listed);
        if has_rows && self.plain.is_none() {
            self.plain = Some(number);
        }
    }

    fn first_page(&mut self, bytes: &[u8]) {
        if !bytes.starts_with(MAGIC) {
            self.first = FirstPage::NoHeader;
            if noise::is_zero(bytes) {
                self.found(Flaw::Header {
                    reason: "is all zeros",
                });
            }
            return;
        }
        if bytes[EXPANSION].iter().any(|byte| *byte != 0) {
            self.first = FirstPage::HeaderOnly;
        }
        match Header::decode(bytes) {
            Ok(header) => {
                self.header = Some(header);
                let usable = self.page_size - usize::from(bytes[20]);
                self.layout = Layout::new(self.page_size, usable);
            }
            Err(flaw) => self.found(flaw),
        }
    }

    fn found(&mut self, flaw: Flaw) {
        self.flaw.get_or_insert(flaw);
    }

    /// Whether all the pages fit together.
    ///
    /// # Errors
    /// The first flaw that was found, where SQLite's own check would find one, too.
    pub fn finish(self) -> Result<Structure, Flaw> {
        if let Some(flaw @ Flaw::Sequence { .. }) = self.flaw {
            return Err(flaw);
        }
        if self.first == FirstPage::HeaderOnly {
            return Ok(Structure::Encrypted);
        }
        if let Some(flaw) = self.flaw {
            return Err(flaw);
        }
        if self.pages == 0 {
            return Ok(Structure::Sound);
        }
        let Some(header) = self.header else {
            return match (self.first, self.plain) {
                (FirstPage::NoHeader, None) => Ok(Structure::Encrypted),
                (FirstPage::NoHeader, Some(plain)) => Err(Flaw::NoHeader { plain }),
                _ => Err(Flaw::Missing { page: 1 }),
            };
        };
        let pages = header.pages.unwrap_or(self.pages);
        if pages > self.pages {
            let (header, pages) = (pages, self.pages);
            return Err(Flaw::Short { header, pages });
        }
        Walk::new(&self.notes, &self.layout, header, pages).all()?;
        Ok(Structure::Sound)
    }
}
