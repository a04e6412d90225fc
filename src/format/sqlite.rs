//! What the first page of a SQLite database and the header of its rollback journal say.
//!
//! Offsets are those of SQLite's file format, sections 1.3 and 3. Encrypted databases have no such header.

/// Bytes of the database header.
pub const HEADER_SIZE: usize = 100;
/// Bytes of a rollback journal's header that a commit by zeroing clears.
pub const JOURNAL_HEADER_SIZE: usize = 28;

/// What every database begins with that is not encrypted.
pub const MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// Where the header has the version to read the file with: 1 for rollback journals, 2 for a log.
pub(crate) const READ_VERSION: usize = 19;
/// That version where the log is wal2, which only a branch of SQLite reads; the pages are the same.
pub(crate) const WAL2: u8 = 3;
pub(crate) const JOURNAL_MAGIC: [u8; 8] = [0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];

/// The part of the database header that the capture looks at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DatabaseHeader {
    /// Bytes, 512 to 65536.
    pub page_size: u32,
    /// Whether the file is in WAL mode (read and write version 2).
    pub wal_mode: bool,
    /// The size in pages, where the header can be trusted for it.
    pub pages: Option<u32>,
}

impl DatabaseHeader {
    /// Reads the header at the start of `bytes`; none where there is no SQLite header with a possible page size.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < HEADER_SIZE || &bytes[..16] != MAGIC {
            return None;
        }
        let page_size = match u16::from_be_bytes([bytes[16], bytes[17]]) {
            1 => 65536,
            size => u32::from(size),
        };
        if !page_size.is_power_of_two() || page_size < 512 {
            return None;
        }
        let be32 = |at: usize| {
            u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let (change_counter, pages, valid_for) = (be32(24), be32(28), be32(92));
        Some(Self {
            page_size,
            wal_mode: bytes[18] == 2 && bytes[19] == 2,
            pages: (pages != 0 && change_counter == valid_for).then_some(pages),
        })
    }
}

/// Whether the first bytes of a `-journal` are those of a journal that still has to be rolled back.
///
/// Committed by truncation it is empty, committed by zeroing it starts with zeros.
pub fn journal_is_hot(first_bytes: &[u8]) -> bool {
    first_bytes.starts_with(&JOURNAL_MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Vec<u8> {
        let mut bytes = vec![0u8; HEADER_SIZE];
        bytes[..16].copy_from_slice(MAGIC);
        bytes[16..18].copy_from_slice(&4096u16.to_be_bytes());
        bytes[18] = 2;
        bytes[19] = 2;
        bytes[28..32].copy_from_slice(&9u32.to_be_bytes());
        bytes
    }

    #[test]
    fn a_header_says_page_size_mode_and_size() {
        let mut bytes = header();
        let expected = DatabaseHeader {
            page_size: 4096,
            wal_mode: true,
            pages: Some(9),
        };
        assert_eq!(DatabaseHeader::decode(&bytes), Some(expected));
        bytes[16..18].copy_from_slice(&1u16.to_be_bytes());
        bytes[18] = 1;
        bytes[27] = 1; // the change counter is no longer that of the size
        assert_eq!(
            DatabaseHeader::decode(&bytes),
            Some(DatabaseHeader {
                page_size: 65536,
                wal_mode: false,
                pages: None
            })
        );
    }

    #[test]
    fn what_is_no_database_has_no_header() {
        let bytes = header();
        assert_eq!(DatabaseHeader::decode(&bytes[..99]), None);
        let mut odd = bytes.clone();
        odd[17] = 1;
        assert_eq!(DatabaseHeader::decode(&odd), None);
        let mut encrypted = bytes;
        encrypted[3] ^= 1;
        assert_eq!(DatabaseHeader::decode(&encrypted), None);
    }

    #[test]
    fn a_committed_journal_is_not_hot() {
        assert!(journal_is_hot(&JOURNAL_MAGIC));
        assert!(!journal_is_hot(&[]));
        assert!(!journal_is_hot(&[0; JOURNAL_HEADER_SIZE]));
    }
}
