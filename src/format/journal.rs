//! A rollback journal: what it says of the state to which SQLite would roll its database back. Pure.
//!
//! The format is SQLite's ("The Rollback Journal" in its file format, and `pager.c`): headers at multiples of the sector
//! size, each followed by records of a page number, the page as it was, and a checksum. Numbers are big-endian.
//!
//! | header at | what |
//! | --- | --- |
//! | 0 | `d9 d5 05 f9 20 a1 63 d7` |
//! | 8 | records that follow; `ffffffff`: as many as the file holds |
//! | 12 | a random number that each checksum begins with |
//! | 16 | pages of the database when the transaction began |
//! | 20, 24 | sector size, page size; those of the first header count |
//!
//! A journal that takes part in a transaction of several databases ends with the name of its super-journal. It is rolled back
//! only while that exists: `super_journal` gives the name, and the caller has to look.

use std::io;

use super::ltx::lock_page;
use super::sqlite::{JOURNAL_HEADER_SIZE, JOURNAL_MAGIC};

/// The number of records that says: until the end of the file.
const UNCOUNTED: u32 = u32::MAX;
/// Behind the name of a super-journal: its length, its checksum, and the magic bytes.
const SUPER_TRAILER: u64 = 16;
/// The longest name that SQLite takes (`MAX_PATHNAME` of its unix VFS).
const LONGEST_NAME: u32 = 512;
/// Every so many bytes from the end one counts for the checksum.
const CHECKSUM_STEP: usize = 200;
const LARGEST: u32 = 65536;

/// Fills the bytes from an offset on; gives how many there were.
pub type ReadAt<'a> = &'a mut dyn FnMut(&mut [u8], u64) -> io::Result<usize>;

/// A journal that SQLite would play back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Journal {
    /// Bytes of the file.
    len: u64,
    sector_size: u64,
    /// Bytes, 512 to 65536.
    page_size: u32,
    /// The database's size in pages before its transaction.
    pages: u32,
    /// Told apart from the journal of another transaction.
    nonce: u32,
    super_journal: Option<Vec<u8>>,
}

/// What stands at the start of each section.
struct Header {
    records: u32,
    nonce: u32,
    pages: u32,
    sector_size: u32,
    page_size: u32,
}

impl Header {
    fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < JOURNAL_HEADER_SIZE || !bytes.starts_with(&JOURNAL_MAGIC) {
            return None;
        }
        let number = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
        Some(Self {
            records: number(8),
            nonce: number(12),
            pages: number(16),
            sector_size: number(20),
            page_size: number(24),
        })
    }
}

impl Journal {
    /// Looks at a journal of `len` bytes; none for one of which nothing is played back: empty, begun with zeros, or with a
    /// header that SQLite does not take. `page_size`: the database's, where an old header does not tell.
    ///
    /// # Errors
    /// Those of `read`.
    pub fn decode(len: u64, page_size: u32, read: ReadAt<'_>) -> io::Result<Option<Self>> {
        let mut bytes = [0; JOURNAL_HEADER_SIZE];
        let filled = read(&mut bytes, 0)?;
        let Some(header) = Header::decode(&bytes[..filled]) else {
            return Ok(None);
        };
        let page_size = match header.page_size {
            0 => page_size,
            told => told,
        };
        let is_valid =
            |size: u32, least| size.is_power_of_two() && (least..=LARGEST).contains(&size);
        let sizes_are_valid = is_valid(page_size, 512) && is_valid(header.sector_size, 32);
        if !sizes_are_valid || u64::from(header.sector_size) > len {
            return Ok(None);
        }
        Ok(Some(Self {
            len,
            sector_size: header.sector_size.into(),
            page_size,
            pages: header.pages,
            nonce: header.nonce,
            super_journal: super_journal(len, read)?,
        }))
    }

    pub fn page_size(&self) -> u32 {
        self.page_size
    }

    /// The database's size in pages to which it leads back.
    pub fn pages(&self) -> u32 {
        self.pages
    }

    /// The path of the super-journal, as the writer saw it; none where the transaction was of one database.
    pub fn super_journal(&self) -> Option<&[u8]> {
        self.super_journal.as_deref()
    }

    /// Hands out each page as it was before the transaction, in the order of the journal.
    ///
    /// # Errors
    /// Those of `read` and `each`.
    pub fn each_page(
        &self,
        read: ReadAt<'_>,
        each: &mut dyn FnMut(u32, &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let record_size = u64::from(self.page_size) + 8;
        let mut record = vec![0; record_size as usize];
        let mut at = 0;
        loop {
            at = u64::next_multiple_of(at, self.sector_size);
            if at + self.sector_size > self.len {
                return Ok(());
            }
            let mut bytes = [0; JOURNAL_HEADER_SIZE];
            let filled = read(&mut bytes, at)?;
            let Some(header) = Header::decode(&bytes[..filled]) else {
                return Ok(());
            };
            at += self.sector_size;
            let records = match header.records {
                UNCOUNTED => (self.len - at) / record_size,
                counted => counted.into(),
            };
            for _ in 0..records {
                if read(&mut record, at)? < record.len() {
                    return Ok(());
                }
                let (pgno, rest) = record.split_at(4);
                let (page, sum) = rest.split_at(self.page_size as usize);
                let number = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().expect("4 bytes"));
                let pgno = number(pgno);
                let ends = pgno == 0 || pgno == lock_page(self.page_size);
                if ends || (pgno <= self.pages && number(sum) != checksum(header.nonce, page)) {
                    return Ok(());
                }
                at += record_size;
                if pgno <= self.pages {
                    each(pgno, page)?;
                }
            }
        }
    }
}

fn checksum(nonce: u32, page: &[u8]) -> u32 {
    let mut sum = nonce;
    let mut at = page.len().saturating_sub(CHECKSUM_STEP);
    while at > 0 {
        sum = sum.wrapping_add(page[at].into());
        at = at.saturating_sub(CHECKSUM_STEP);
    }
    sum
}

/// The name at the end of a journal; none where there is none that SQLite takes.
fn super_journal(len: u64, read: ReadAt<'_>) -> io::Result<Option<Vec<u8>>> {
    let Some(end) = len.checked_sub(SUPER_TRAILER) else {
        return Ok(None);
    };
    let mut trailer = [0; SUPER_TRAILER as usize];
    if read(&mut trailer, end)? < trailer.len() || trailer[8..] != JOURNAL_MAGIC {
        return Ok(None);
    }
    let number = |at: usize| u32::from_be_bytes(trailer[at..at + 4].try_into().expect("4 bytes"));
    let (length, sum) = (number(0), number(4));
    let Some(start) = end.checked_sub(length.into()) else {
        return Ok(None);
    };
    if length == 0 || length > LONGEST_NAME {
        return Ok(None);
    }
    let mut name = vec![0; length as usize];
    let filled = read(&mut name, start)?;
    // Signed, as SQLite's C has it.
    let counted = name.iter().fold(0_u32, |sum, byte| {
        sum.wrapping_add(i32::from(*byte as i8) as u32)
    });
    if filled < name.len() || counted != sum {
        return Ok(None);
    }
    // A C string.
    name.truncate(
        name.iter()
            .position(|byte| *byte == 0)
            .unwrap_or(name.len()),
    );
    Ok(is_super_journal(&name).then_some(name))
}

/// Whether a name is one that SQLite gives: it ends with `-mj`, six hexadecimal digits, a 9, and two more.
fn is_super_journal(name: &[u8]) -> bool {
    let Some(start) = name.len().checked_sub(12) else {
        return false;
    };
    let digits = name[start..].strip_prefix(b"-mj");
    digits.is_some_and(|digits| digits[6] == b'9' && digits.iter().all(u8::is_ascii_hexdigit))
}
