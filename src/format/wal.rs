//! The header of SQLite's write-ahead log and of its frames, and the checksum that chains them.
//!
//! Layouts are those of SQLite's file format, section 4 ("The Write-Ahead Log").

/// Bytes before the first frame.
pub const HEADER_SIZE: u64 = 32;
/// Bytes of a frame before its page.
pub const FRAME_HEADER_SIZE: u64 = 24;
/// The only version of the log's format; `wal2` has another.
const VERSION: u32 = 3_007_000;
const MAGIC: u32 = 0x377f_0682;

/// The pair that identifies one life of a log: it changes at each reset.
pub type Salt = (u32, u32);
/// The cumulative checksum that each frame header carries.
pub type Checksum = (u32, u32);

/// The first 32 bytes of a log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WalHeader {
    /// Whether checksums read the content as big-endian words (magic `0x377f0683`).
    pub big_endian: bool,
    /// Bytes, 512 to 65536.
    pub page_size: u32,
    /// Counts the resets that its writer knows of; 0 where it knew of none.
    pub sequence: u32,
    pub salt: Salt,
    /// Where the chain of frame checksums starts.
    pub checksum: Checksum,
}

/// Why 32 bytes are no header of a log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HeaderError {
    #[error("the log is shorter than its header")]
    Short,
    #[error("the log's header has no magic number")]
    Magic,
    #[error("the log has version {0}, which is not supported")]
    Version(u32),
    #[error("the log's header has the page size {0}")]
    PageSize(u32),
    #[error("the log's header does not match its checksum")]
    Checksum,
}

impl WalHeader {
    /// Reads and checks the header at the start of `bytes`.
    pub fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        if bytes.len() < HEADER_SIZE as usize {
            return Err(HeaderError::Short);
        }
        let magic = be32(bytes, 0);
        if magic & !1 != MAGIC {
            return Err(HeaderError::Magic);
        }
        let big_endian = magic & 1 == 1;
        if be32(bytes, 4) != VERSION {
            return Err(HeaderError::Version(be32(bytes, 4)));
        }
        let page_size = be32(bytes, 8);
        if !page_size.is_power_of_two() || !(512..=65536).contains(&page_size) {
            return Err(HeaderError::PageSize(page_size));
        }
        let checksum = checksum(big_endian, (0, 0), &bytes[..24]);
        if checksum != pair(bytes, 24) {
            return Err(HeaderError::Checksum);
        }
        Ok(Self {
            big_endian,
            page_size,
            sequence: be32(bytes, 12),
            salt: pair(bytes, 16),
            checksum,
        })
    }

    /// Whether no log was between the one with the salt `before` and this one, as far as a header can tell, with so many
    /// resets in between of a log that was empty. A reset counts up the sequence and the first half of the salt; a log that
    /// is made anew has the sequence 0 and any salt, or counts both from 0 where it was reset before its first frame.
    pub fn follows(&self, before: Option<Salt>, empty: u32) -> bool {
        let is_next = |(first, _): Salt| (1..=1 + empty).contains(&self.salt.0.wrapping_sub(first));
        let counts_from_0 = self.sequence == self.salt.0 && self.sequence <= empty.max(1);
        let is_first = self.sequence == 0 || counts_from_0;
        is_first || before.is_some_and(is_next)
    }

    /// Bytes of a frame with its header.
    pub fn frame_size(&self) -> u64 {
        FRAME_HEADER_SIZE + u64::from(self.page_size)
    }

    /// The offset behind frame number `frame`, counted from 1; 0 gives the first frame's offset.
    pub fn end_of_frame(&self, frame: u32) -> u64 {
        HEADER_SIZE + u64::from(frame) * self.frame_size()
    }

    /// The position before the first frame.
    pub fn start(&self) -> Position {
        Position {
            offset: HEADER_SIZE,
            checksum: self.checksum,
        }
    }
}

/// A place between two frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Position {
    /// Bytes from the start of the log.
    pub offset: u64,
    /// The chain's checksum up to here.
    pub checksum: Checksum,
}

/// The 24 bytes before a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameHeader {
    /// Counted from 1.
    pub pgno: u32,
    /// The database's size in pages after the commit; 0 where the frame ends no transaction.
    pub commit: u32,
    pub salt: Salt,
    pub checksum: Checksum,
}

impl FrameHeader {
    /// Reads the header at the start of `bytes`, which holds at least 24.
    pub fn decode(bytes: &[u8]) -> Self {
        Self {
            pgno: be32(bytes, 0),
            commit: be32(bytes, 4),
            salt: pair(bytes, 8),
            checksum: pair(bytes, 16),
        }
    }
}

/// Continues SQLite's cumulative checksum over `data`, whose length is a multiple of 8.
pub fn checksum(big_endian: bool, seed: Checksum, data: &[u8]) -> Checksum {
    debug_assert!(data.len().is_multiple_of(8));
    // One loop for each order: a call for each word would take three times as long.
    match big_endian {
        true => checksum_of_pairs(seed, data, |pair| {
            let words = u64::from_be_bytes(pair);
            ((words >> 32) as u32, words as u32)
        }),
        false => checksum_of_pairs(seed, data, |pair| {
            let words = u64::from_le_bytes(pair);
            (words as u32, (words >> 32) as u32)
        }),
    }
}

/// `words`: the two words of eight bytes, in their order.
#[inline]
fn checksum_of_pairs(
    (mut a, mut b): Checksum,
    data: &[u8],
    words: impl Fn([u8; 8]) -> (u32, u32),
) -> Checksum {
    let (pairs, _) = data.as_chunks();
    for pair in pairs {
        let (first, second) = words(*pair);
        a = a.wrapping_add(first).wrapping_add(b);
        b = b.wrapping_add(second).wrapping_add(a);
    }
    (a, b)
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

pub(super) fn pair(bytes: &[u8], at: usize) -> (u32, u32) {
    (be32(bytes, at), be32(bytes, at + 4))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A log as SQLite would write it: `(pgno, commit, fill)` a frame.
    pub(crate) fn log(big_endian: bool, page_size: u32, frames: &[(u32, u32, u8)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for word in [MAGIC | u32::from(big_endian), VERSION, page_size, 7, 11, 13] {
            bytes.extend_from_slice(&word.to_be_bytes());
        }
        let mut sum = checksum(big_endian, (0, 0), &bytes);
        push_pair(&mut bytes, sum);
        for &(pgno, commit, fill) in frames {
            let mut head = Vec::new();
            push_pair(&mut head, (pgno, commit));
            let page = vec![fill; page_size as usize];
            sum = checksum(big_endian, checksum(big_endian, sum, &head), &page);
            push_pair(&mut head, (11, 13));
            push_pair(&mut head, sum);
            bytes.extend_from_slice(&head);
            bytes.extend_from_slice(&page);
        }
        bytes
    }

    fn push_pair(bytes: &mut Vec<u8>, pair: (u32, u32)) {
        bytes.extend_from_slice(&pair.0.to_be_bytes());
        bytes.extend_from_slice(&pair.1.to_be_bytes());
    }

    #[test]
    fn any_changed_byte_of_the_header_is_refused() {
        let whole = log(false, 512, &[]);
        for at in 0..32 {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x40;
            assert!(WalHeader::decode(&bytes).is_err(), "header byte {at}");
        }
    }

    #[test]
    fn the_salt_tells_which_log_comes_next() {
        let later = WalHeader::decode(&log(false, 512, &[])).expect("a header");
        let first = WalHeader {
            sequence: 0,
            ..later
        };
        let emptied = WalHeader {
            sequence: 1,
            salt: (1, 13),
            ..later
        };
        assert!(!later.follows(Some((8, 13)), 1));
        assert!(later.follows(Some((8, 13)), 2));
        let often = WalHeader {
            sequence: 3,
            salt: (3, 13),
            ..later
        };
        assert!(often.follows(None, 3) && !often.follows(None, 2));
        for (header, before, follows) in [
            (emptied, Some((9, 13)), true),
            (later, None, false),
            (later, Some((11, 13)), false),
            (later, Some((10, 99)), true),
            (later, Some((9, 13)), false),
            (first, None, true),
            (first, Some((9, 13)), true),
        ] {
            assert_eq!(header.follows(before, 0), follows, "{before:?}");
        }
    }

    #[test]
    fn a_log_of_another_version_is_named() {
        let mut bytes = log(false, 512, &[]);
        bytes[4..8].copy_from_slice(&3_021_000u32.to_be_bytes());
        assert_eq!(
            WalHeader::decode(&bytes),
            Err(HeaderError::Version(3_021_000))
        );
    }
}
