//! The header of an LTX file, its 100 bytes and its rules.

use super::index::{INDEX_END_SIZE, LONGEST_INDEX_ENTRY};
use super::{CHECKSUM_FLAG, END_OF_PAGES, FRAME_HEADER_SIZE, LtxError, Trailer, max_block_size};

const MAGIC: [u8; 4] = *b"LTX1";
const NO_CHECKSUM: u32 = 1 << 1;
/// The state counts in signed numbers, and there has to be a next one.
const MAX_TXID: u64 = i64::MAX as u64 - 1;

/// What a file says of itself before its pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// The file has no database checksums, before or after.
    pub no_checksum: bool,
    /// Bytes of a page.
    pub page_size: u32,
    /// Pages of the database after applying.
    pub commit: u32,
    pub min_txid: u64,
    pub max_txid: u64,
    /// When the last transaction was committed, Unix milliseconds.
    pub timestamp_ms: i64,
    /// Checksum of the database before applying; 0 in a snapshot and without checksums.
    pub pre_apply_checksum: u64,
    /// Offset of the first frame in the WAL that the pages are from; 0 if from none.
    pub wal_offset: u64,
    /// Bytes of WAL frames that the pages are from.
    pub wal_size: u64,
    pub wal_salt: (u32, u32),
    /// The instance that wrote the file; 0 if unset.
    pub node_id: u64,
}

impl Header {
    /// Bytes of an encoded header.
    pub const SIZE: usize = 100;

    /// Whether the file holds the whole database.
    pub fn is_snapshot(&self) -> bool {
        self.min_txid == 1
    }

    /// The header's bytes, whether its fields are allowed or not.
    pub fn encode(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        let flags = if self.no_checksum { NO_CHECKSUM } else { 0 };
        bytes[0..4].copy_from_slice(&MAGIC);
        bytes[4..8].copy_from_slice(&flags.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.page_size.to_be_bytes());
        bytes[12..16].copy_from_slice(&self.commit.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.min_txid.to_be_bytes());
        bytes[24..32].copy_from_slice(&self.max_txid.to_be_bytes());
        bytes[32..40].copy_from_slice(&self.timestamp_ms.to_be_bytes());
        bytes[40..48].copy_from_slice(&self.pre_apply_checksum.to_be_bytes());
        bytes[48..56].copy_from_slice(&self.wal_offset.to_be_bytes());
        bytes[56..64].copy_from_slice(&self.wal_size.to_be_bytes());
        bytes[64..68].copy_from_slice(&self.wal_salt.0.to_be_bytes());
        bytes[68..72].copy_from_slice(&self.wal_salt.1.to_be_bytes());
        bytes[72..80].copy_from_slice(&self.node_id.to_be_bytes());
        bytes
    }

    /// Reads the first 100 of `bytes` and checks every rule.
    ///
    /// # Errors
    /// `Truncated` for fewer bytes, `Magic` for another format, `HeaderField` for a value that is not allowed.
    pub fn decode(bytes: &[u8]) -> Result<Self, LtxError> {
        let bytes: &[u8; Self::SIZE] = bytes.first_chunk().ok_or(LtxError::Truncated)?;
        if bytes[0..4] != MAGIC {
            return Err(LtxError::Magic);
        }
        let flags = u32_at(bytes, 4);
        if flags & !NO_CHECKSUM != 0 {
            return Err(refused("flags", format_args!("{flags:#x}")));
        }
        if bytes[80..].iter().any(|&byte| byte != 0) {
            return Err(refused("reserved part", "other than zeros"));
        }
        let header = Self {
            no_checksum: flags & NO_CHECKSUM != 0,
            page_size: u32_at(bytes, 8),
            commit: u32_at(bytes, 12),
            min_txid: u64_at(bytes, 16),
            max_txid: u64_at(bytes, 24),
            timestamp_ms: u64_at(bytes, 32) as i64,
            pre_apply_checksum: u64_at(bytes, 40),
            wal_offset: u64_at(bytes, 48),
            wal_size: u64_at(bytes, 56),
            wal_salt: (u32_at(bytes, 64), u32_at(bytes, 68)),
            node_id: u64_at(bytes, 72),
        };
        header.check()?;
        Ok(header)
    }

    /// The most bytes that an object with this header can have: every page, none of them compressed.
    pub fn longest_object(&self) -> u64 {
        let page = FRAME_HEADER_SIZE + max_block_size(self.page_size) + LONGEST_INDEX_ENTRY;
        let ends = Self::SIZE + END_OF_PAGES.len() + INDEX_END_SIZE + Trailer::SIZE;
        u64::from(self.commit) * page as u64 + ends as u64
    }

    /// The rules of every field.
    pub(super) fn check(&self) -> Result<(), LtxError> {
        if !(512..=65536).contains(&self.page_size) || !self.page_size.is_power_of_two() {
            return Err(refused("page size", self.page_size));
        }
        if self.commit == 0 && self.no_checksum {
            return Err(refused("commit", "0 without checksums"));
        }
        if self.min_txid == 0 {
            return Err(refused("min TXID", 0));
        }
        if !(self.min_txid..=MAX_TXID).contains(&self.max_txid) {
            return Err(refused("max TXID", self.max_txid));
        }
        let pre_apply = self.pre_apply_checksum;
        let pre_apply_fits = match self.is_snapshot() || self.no_checksum {
            true => pre_apply == 0,
            false => pre_apply & CHECKSUM_FLAG != 0,
        };
        if !pre_apply_fits {
            return Err(refused(
                "pre-apply checksum",
                format_args!("{pre_apply:#x}"),
            ));
        }
        self.check_wal_position()
    }

    fn check_wal_position(&self) -> Result<(), LtxError> {
        // Both are signed in the format.
        if self.wal_offset > i64::MAX as u64 {
            return Err(refused("WAL offset", self.wal_offset));
        }
        if self.wal_size > i64::MAX as u64 || (self.wal_offset == 0 && self.wal_size != 0) {
            return Err(refused("WAL size", self.wal_size));
        }
        if self.wal_offset == 0 && self.wal_salt != (0, 0) {
            return Err(refused("WAL salts", "set without a WAL offset"));
        }
        Ok(())
    }
}

fn refused(field: &'static str, value: impl std::fmt::Display) -> LtxError {
    LtxError::HeaderField {
        field,
        value: value.to_string(),
    }
}

fn u32_at(bytes: &[u8; Header::SIZE], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("BUG: four bytes"))
}

fn u64_at(bytes: &[u8; Header::SIZE], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().expect("BUG: eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment() -> Header {
        Header {
            no_checksum: false,
            page_size: 65536,
            commit: 4,
            min_txid: 2,
            max_txid: 3,
            timestamp_ms: -1,
            pre_apply_checksum: CHECKSUM_FLAG,
            wal_offset: 32,
            wal_size: 65560,
            wal_salt: (1, 2),
            node_id: 7,
        }
    }

    #[test]
    fn a_header_reads_back() {
        let header = segment();
        assert_eq!(Header::decode(&header.encode()).expect("valid"), header);
        let bytes = header.encode();
        assert!(matches!(
            Header::decode(&bytes[..99]),
            Err(LtxError::Truncated)
        ));
    }

    #[test]
    fn each_rule_refuses_by_the_fields_name() {
        type Spoil = fn(&mut Header);
        let cases: [(&str, Spoil); 13] = [
            ("page size", |h| h.page_size = 1),
            ("page size", |h| h.page_size = 131_072),
            ("page size", |h| h.page_size = 1000),
            ("commit", |h| {
                (h.commit, h.no_checksum, h.pre_apply_checksum) = (0, true, 0)
            }),
            ("min TXID", |h| h.min_txid = 0),
            ("max TXID", |h| h.max_txid = 1),
            ("max TXID", |h| h.max_txid = u64::MAX),
            ("pre-apply checksum", |h| h.pre_apply_checksum = 1),
            ("pre-apply checksum", |h| h.min_txid = 1),
            ("pre-apply checksum", |h| h.no_checksum = true),
            ("WAL offset", |h| h.wal_offset = u64::MAX),
            ("WAL size", |h| h.wal_offset = 0),
            ("WAL salts", |h| (h.wal_offset, h.wal_size) = (0, 0)),
        ];
        for (field, spoil) in cases {
            let mut header = segment();
            spoil(&mut header);
            let error = Header::decode(&header.encode()).expect_err(field);
            assert!(error.to_string().contains(field), "{field}: {error}");
        }
        for (at, name) in [(7, "flags"), (4, "flags"), (99, "reserved part")] {
            let mut bytes = segment().encode();
            bytes[at] |= 1;
            let error = Header::decode(&bytes).expect_err(name);
            assert!(error.to_string().contains(name), "{error}");
        }
    }
}
