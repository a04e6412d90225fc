//! The checksums of LTX: CRC-64 in Go's ISO variant, of one page, of a whole database, and of a file.

use crc_fast::{CrcAlgorithm, Digest, checksum_combine};

/// Set in every stored checksum, so that none is ever 0.
pub const CHECKSUM_FLAG: u64 = 1 << 63;

/// A CRC-64 that is fed piece by piece.
pub(super) fn digest() -> Digest {
    Digest::new(CrcAlgorithm::Crc64GoIso)
}

/// What the CRC-64 of a beginning makes of that of the whole, where `behind` bytes follow: all but the exclusive or with
/// the CRC-64 of these.
pub(super) fn shifted(beginning: u64, behind: u64) -> u64 {
    checksum_combine(CrcAlgorithm::Crc64GoIso, beginning, 0, behind)
}

/// The checksum of one page at its place, with the flag.
pub fn page_checksum(pgno: u32, page: &[u8]) -> u64 {
    let mut digest = digest();
    digest.update(&pgno.to_be_bytes());
    digest.update(page);
    CHECKSUM_FLAG | digest.finalize()
}

/// The rolling checksum of a whole database: its pages' checksums, combined by exclusive or.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DatabaseChecksum(u64);

impl DatabaseChecksum {
    /// Of a database without pages.
    pub const EMPTY: Self = Self(CHECKSUM_FLAG);

    /// Adds a page that was not in, or takes out one that was.
    pub fn toggle(&mut self, page_checksum: u64) {
        self.0 = CHECKSUM_FLAG | (self.0 ^ page_checksum);
    }

    /// As it stands in a file, with the flag.
    pub fn value(self) -> u64 {
        self.0
    }

    /// None for a value without the flag, which is no checksum.
    pub fn from_value(value: u64) -> Option<Self> {
        (value & CHECKSUM_FLAG != 0).then_some(Self(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variant_is_gos() {
        let mut whole = digest();
        whole.update(b"123456789");
        assert_eq!(whole.finalize(), 0xb909_56c7_75a4_1001);
        let mut pieces = digest();
        pieces.update(b"1234");
        pieces.update(b"");
        pieces.update(b"56789");
        assert_eq!(pieces.finalize(), 0xb909_56c7_75a4_1001);
    }

    #[test]
    fn a_page_taken_out_leaves_what_was_before() {
        let (one, two) = (page_checksum(1, &[7; 512]), page_checksum(2, &[7; 512]));
        assert_ne!(one, two, "the place of a page is part of its checksum");
        let mut sum = DatabaseChecksum::EMPTY;
        sum.toggle(one);
        let only_one = sum;
        sum.toggle(two);
        sum.toggle(two);
        assert_eq!(sum, only_one);
        sum.toggle(one);
        assert_eq!(sum, DatabaseChecksum::EMPTY);
        assert_eq!(DatabaseChecksum::from_value(1), None);
        assert_eq!(
            DatabaseChecksum::from_value(one).map(|s| s.value()),
            Some(one)
        );
    }
}
