//! The wal-index header at the start of `-shm`, which says how far the log is committed and published.
//!
//! The layout is that of `walIndexHdr` in SQLite's source.

use super::wal::{Salt, checksum, pair};

/// Bytes of the two copies of the wal-index header at the start of `-shm`.
pub const INDEX_HEADERS_SIZE: usize = 96;

/// What the wal-index says of the log: the live connections' authority on what is committed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WalIndex {
    pub salt: Salt,
    /// The last frame that is committed and published; 0 where none is.
    pub max_frame: u32,
    /// Counts the transactions that the live connections have seen, over all resets of the log; wraps around.
    pub change: u32,
    /// 0 before the first commit that the index has seen.
    pub page_size: u32,
}

impl WalIndex {
    /// Reads the two copies at the start of a `-shm`. None where they disagree, are not initialised, or do not match
    /// their checksum: a writer is at work, so read again.
    pub fn decode(bytes: &[u8; INDEX_HEADERS_SIZE]) -> Option<Self> {
        let (first, second) = bytes.split_at(INDEX_HEADERS_SIZE / 2);
        let initialised = first[12] != 0;
        if first != second || !initialised {
            return None;
        }
        let ne32 = |at: usize| {
            u32::from_ne_bytes([first[at], first[at + 1], first[at + 2], first[at + 3]])
        };
        let big_endian = cfg!(target_endian = "big");
        if checksum(big_endian, (0, 0), &first[..40]) != (ne32(40), ne32(44)) {
            return None;
        }
        let page_size = u32::from(u16::from_ne_bytes([first[14], first[15]]));
        Some(Self {
            // Copied as they stand in the log, byte for byte.
            salt: pair(first, 32),
            max_frame: ne32(16),
            change: ne32(8),
            // 65536 is stored as 1.
            page_size: (page_size & 0xfe00) + ((page_size & 1) << 16),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_of_zeros_or_with_two_faces_is_no_authority() {
        assert_eq!(WalIndex::decode(&[0; INDEX_HEADERS_SIZE]), None);
        let mut copy = [0u8; 48];
        copy[12] = 1;
        copy[8..12].copy_from_slice(&9u32.to_ne_bytes());
        copy[16..20].copy_from_slice(&5u32.to_ne_bytes());
        copy[14..16].copy_from_slice(&1u16.to_ne_bytes());
        copy[32..40].copy_from_slice(&[0, 0, 0, 11, 0, 0, 0, 13]);
        let sum = checksum(cfg!(target_endian = "big"), (0, 0), &copy[..40]);
        copy[40..44].copy_from_slice(&sum.0.to_ne_bytes());
        copy[44..48].copy_from_slice(&sum.1.to_ne_bytes());
        let mut both = [0u8; INDEX_HEADERS_SIZE];
        both[..48].copy_from_slice(&copy);
        both[48..].copy_from_slice(&copy);
        assert_eq!(
            WalIndex::decode(&both),
            Some(WalIndex {
                salt: (11, 13),
                max_frame: 5,
                change: 9,
                page_size: 65536
            })
        );
        both[60] ^= 1;
        assert_eq!(WalIndex::decode(&both), None);
    }
}
