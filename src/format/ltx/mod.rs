//! LTX version 3: the file format of segments and snapshots. Bytes in, pages out; no file, no clock.
//!
//! A file is `header · page block · page index · trailer`. All integers of fixed width are big-endian.
//!
//! | header, offset | size | field | rule |
//! | --- | --- | --- | --- |
//! | 0 | 4 | magic | `LTX1` |
//! | 4 | 4 | flags | only bit 1, no checksum |
//! | 8 | 4 | page size | a power of two, 512 to 65536 |
//! | 12 | 4 | commit | pages of the database after applying; 0 for an empty one |
//! | 16 | 8 | min TXID | at least 1; exactly 1 says that this is a snapshot |
//! | 24 | 8 | max TXID | at least min; at most 2⁶³ − 2, so that there is a next one |
//! | 32 | 8 | timestamp | signed, Unix milliseconds |
//! | 40 | 8 | pre-apply checksum | 0 in a snapshot and without checksums, else with bit 63 |
//! | 48 | 8 | WAL offset | of the first frame; 0 if not from a WAL |
//! | 56 | 8 | WAL size | bytes of frames; 0 where the offset is 0 |
//! | 64 | 8 | WAL salts | two words; both 0 where the offset is 0 |
//! | 72 | 8 | node id | 0 if unset |
//! | 80 | 20 | reserved | zero |
//!
//! | page block | size | field |
//! | --- | --- | --- |
//! | for each page, ascending | 4 | page number: 1 to commit, never the lock page |
//! | | 2 | flags: `0x0001`, a size follows |
//! | | 4 | N |
//! | | N | the page as a raw LZ4 block |
//! | the end | 6 | zeros |
//!
//! | page index | field |
//! | --- | --- |
//! | for each page, three LEB128 varints | page number, offset of its frame in the file, length of its frame (10 + N) |
//! | the end | one byte 0, then as 8 bytes the length of everything before in this index |
//!
//! | trailer, offset | size | field |
//! | --- | --- | --- |
//! | 0 | 8 | post-apply checksum: of the whole database after applying; 0 without checksums |
//! | 8 | 8 | file checksum: over all of the above with the pages as they are uncompressed |
//!
//! A snapshot holds every page from 1 to commit but the lock page.

pub mod checksum;
mod decoder;
mod encoder;
mod header;
mod index;

use std::io;

pub use checksum::{CHECKSUM_FLAG, DatabaseChecksum, page_checksum};
pub use decoder::Decoder;
pub use encoder::{Encoder, Undated};
pub use header::Header;

/// Byte of the database file whose page SQLite locks and never writes.
const LOCK_BYTE: u32 = 0x4000_0000;
/// Frame flag: the compressed length follows.
const FRAME_HAS_SIZE: u16 = 1;
const FRAME_HEADER_SIZE: usize = 10;
/// Page number 0 and no flags.
const END_OF_PAGES: [u8; 6] = [0; 6];

/// The number of the page that is never stored and never summed.
pub fn lock_page(page_size: u32) -> u32 {
    LOCK_BYTE / page_size + 1
}

/// The longest LZ4 block that a page can need: all of it literals.
fn max_block_size(page_size: u32) -> usize {
    let size = page_size as usize;
    size + size / 255 + 16
}

/// The end of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Trailer {
    /// Checksum of the whole database after applying; 0 without checksums.
    pub post_apply_checksum: u64,
    pub file_checksum: u64,
}

impl Trailer {
    /// Bytes of a trailer.
    pub const SIZE: usize = 16;

    /// The trailer's bytes.
    pub fn encode(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        bytes[..8].copy_from_slice(&self.post_apply_checksum.to_be_bytes());
        bytes[8..].copy_from_slice(&self.file_checksum.to_be_bytes());
        bytes
    }
}

/// Why bytes are no valid file, or why pages can't become one.
#[derive(Debug, thiserror::Error)]
pub enum LtxError {
    #[error("read or write: {0}")]
    Io(#[source] io::Error),
    #[error("the file ends too early")]
    Truncated,
    #[error("bytes follow the end of the file")]
    TrailingBytes,
    #[error("the file does not begin with LTX1")]
    Magic,
    #[error("the header's {field} is not allowed to be {value}")]
    HeaderField { field: &'static str, value: String },
    #[error("page {pgno} is no page of this file: {reason}")]
    PageNumber { pgno: u32, reason: &'static str },
    #[error("page {pgno} has the frame flags {flags:#06x}, which are unknown")]
    FrameFlags { pgno: u32, flags: u16 },
    #[error("page {pgno} is in the legacy LZ4 frame form, which is not supported")]
    LegacyFrame { pgno: u32 },
    #[error("page {pgno} does not decompress to exactly one page")]
    Compression { pgno: u32 },
    #[error("a page of {given} bytes where pages have {page_size}")]
    PageLength { given: usize, page_size: u32 },
    #[error("the snapshot has no page {pgno}")]
    IncompleteSnapshot { pgno: u32 },
    #[error("pages were left unread")]
    PagesLeft,
    #[error("the page index is not that of the pages before it")]
    Index,
    #[error("the post-apply checksum {value:#018x} is not allowed here")]
    PostApply { value: u64 },
    #[error("the pages' checksum is {computed:#018x}, and the trailer has {stored:#018x}")]
    DatabaseChecksum { computed: u64, stored: u64 },
    #[error("the file's checksum is {computed:#018x}, and the trailer has {stored:#018x}")]
    FileChecksum { computed: u64, stored: u64 },
}

impl LtxError {
    /// Whether reading or writing failed, which says nothing about the bytes.
    pub fn is_io(&self) -> bool {
        matches!(self, LtxError::Io(_))
    }
}

impl From<io::Error> for LtxError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => LtxError::Truncated,
            _ => LtxError::Io(error),
        }
    }
}
