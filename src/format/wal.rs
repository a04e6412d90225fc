//! SQLite's write-ahead log and wal-index: headers, checksums, and the scanner that follows the chain of frames.
//!
//! Layouts are those of SQLite's file format, section 4 ("The Write-Ahead Log"), and of `walIndexHdr` in its source.
//! A commit is a chain that validates up to a frame with a commit mark, never a mark seen in passing.

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
            salt: pair(bytes, 16),
            checksum,
        })
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
    let word = if big_endian {
        |bytes: [u8; 4]| u32::from_be_bytes(bytes)
    } else {
        |bytes: [u8; 4]| u32::from_le_bytes(bytes)
    };
    let (mut a, mut b) = seed;
    for pair in data.chunks_exact(8) {
        let first = word([pair[0], pair[1], pair[2], pair[3]]);
        let second = word([pair[4], pair[5], pair[6], pair[7]]);
        a = a.wrapping_add(first).wrapping_add(b);
        b = b.wrapping_add(second).wrapping_add(a);
    }
    (a, b)
}

/// A page of a committed transaction, by its place in the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageRef {
    pub pgno: u32,
    /// Where the page itself starts (behind its frame header).
    pub offset: u64,
}

/// One committed transaction as the chain shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transaction {
    /// The database's size in pages afterwards.
    pub commit: u32,
    /// In the order of the log; a page may occur more than once, the last one counts.
    pub pages: Vec<PageRef>,
    /// Behind its commit frame.
    pub end: Position,
}

/// Follows the chain of frames: bytes in, committed transactions out. Does no I/O, keeps nothing of a transaction
/// that has not ended but the places of its pages, and never looks at a page's content but for the checksum.
#[derive(Debug)]
pub struct Scanner {
    header: WalHeader,
    /// Behind the last frame that validated.
    position: Position,
    /// Behind the last commit frame.
    committed: Position,
    open: Vec<PageRef>,
    /// The last commit frame: page number, size, and its page, to recognise padding that repeats it.
    last_commit: Option<(u32, u32, Vec<u8>)>,
}

impl Scanner {
    /// Starts at `from`, which is the log's start or lies behind a commit frame.
    pub fn new(header: WalHeader, from: Position) -> Self {
        Self {
            header,
            position: from,
            committed: from,
            open: Vec::new(),
            last_commit: None,
        }
    }

    /// Where the next bytes have to come from.
    pub fn offset(&self) -> u64 {
        self.position.offset
    }

    /// Behind the last commit frame.
    pub fn committed(&self) -> Position {
        self.committed
    }

    /// Takes the bytes from `offset()` on: whole frames of them, and at most up to the chain's end. Returns false
    /// once the chain has ended, else wants more. Committed transactions are appended to `out`.
    pub fn feed(&mut self, bytes: &[u8], out: &mut Vec<Transaction>) -> bool {
        for frame in bytes.chunks_exact(self.header.frame_size() as usize) {
            if !self.frame(frame, out) {
                return false;
            }
        }
        true
    }

    fn frame(&mut self, frame: &[u8], out: &mut Vec<Transaction>) -> bool {
        let (head, page) = frame.split_at(FRAME_HEADER_SIZE as usize);
        let header = FrameHeader::decode(head);
        if header.salt != self.header.salt || header.pgno == 0 {
            return false;
        }
        let partial = checksum(self.header.big_endian, self.position.checksum, &head[..8]);
        let sum = checksum(self.header.big_endian, partial, page);
        if sum != header.checksum {
            return false;
        }
        self.open.push(PageRef {
            pgno: header.pgno,
            offset: self.position.offset + FRAME_HEADER_SIZE,
        });
        self.position = Position {
            offset: self.position.offset + self.header.frame_size(),
            checksum: sum,
        };
        if header.commit != 0 {
            self.commit(header, page, out);
        }
        true
    }

    fn commit(&mut self, header: FrameHeader, page: &[u8], out: &mut Vec<Transaction>) {
        self.committed = self.position;
        let pages = std::mem::take(&mut self.open);
        let repeats = pages.len() == 1
            && self
                .last_commit
                .as_ref()
                .is_some_and(|(pgno, commit, last)| {
                    *pgno == header.pgno && *commit == header.commit && last == page
                });
        match out.last_mut() {
            // Padding to the sector's end: the same commit once more.
            Some(previous) if repeats => previous.end = self.position,
            _ => out.push(Transaction {
                commit: header.commit,
                pages,
                end: self.position,
            }),
        }
        let last = self.last_commit.get_or_insert_default();
        last.0 = header.pgno;
        last.1 = header.commit;
        last.2.clear();
        last.2.extend_from_slice(page);
    }
}

/// Bytes of the two copies of the wal-index header at the start of `-shm`.
pub const INDEX_HEADERS_SIZE: usize = 96;

/// What the wal-index says of the log: the live connections' authority on what is committed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WalIndex {
    pub salt: Salt,
    /// The last frame that is committed and published; 0 where none is.
    pub max_frame: u32,
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
            // 65536 is stored as 1.
            page_size: (page_size & 0xfe00) + ((page_size & 1) << 16),
        })
    }
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn pair(bytes: &[u8], at: usize) -> (u32, u32) {
    (be32(bytes, at), be32(bytes, at + 4))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A log as SQLite would write it: `(pgno, commit, fill)` a frame.
    fn log(big_endian: bool, page_size: u32, frames: &[(u32, u32, u8)]) -> Vec<u8> {
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

    fn scan(bytes: &[u8]) -> (Vec<Transaction>, Position) {
        let header = WalHeader::decode(bytes).expect("a header");
        let mut scanner = Scanner::new(header, header.start());
        let mut out = Vec::new();
        scanner.feed(&bytes[HEADER_SIZE as usize..], &mut out);
        (out, scanner.committed())
    }

    #[test]
    fn both_byte_orders_validate() {
        for big_endian in [false, true] {
            let bytes = log(big_endian, 512, &[(1, 0, 1), (2, 2, 2), (3, 3, 3)]);
            let (transactions, end) = scan(&bytes);
            assert_eq!(transactions.len(), 2);
            assert_eq!(transactions[0].commit, 2);
            assert_eq!(transactions[0].pages.len(), 2);
            assert_eq!(end.offset, bytes.len() as u64);
        }
    }

    #[test]
    fn cut_at_any_byte_only_whole_transactions_remain() {
        let bytes = log(false, 512, &[(1, 0, 1), (2, 2, 2), (3, 3, 3), (4, 0, 4)]);
        for cut in HEADER_SIZE as usize..bytes.len() {
            let (transactions, end) = scan(&bytes[..cut]);
            let frames = (cut - 32) / (24 + 512);
            assert_eq!(
                transactions.len(),
                [0, 0, 1, 2][frames.min(3)],
                "cut at {cut}"
            );
            assert!(end.offset <= cut as u64);
        }
    }

    #[test]
    fn any_changed_byte_ends_the_chain_there() {
        let whole = log(false, 512, &[(1, 1, 1), (2, 2, 2), (3, 3, 3)]);
        for at in 32..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x40;
            let (transactions, _) = scan(&bytes);
            assert_eq!(transactions.len(), (at - 32) / (24 + 512), "byte {at}");
        }
        for at in 0..32 {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x40;
            assert!(WalHeader::decode(&bytes).is_err(), "header byte {at}");
        }
    }

    #[test]
    fn padding_that_repeats_the_commit_frame_is_no_transaction() {
        let bytes = log(false, 512, &[(1, 1, 1), (1, 1, 1), (1, 1, 1), (1, 1, 2)]);
        let (transactions, end) = scan(&bytes);
        assert_eq!(transactions.len(), 2);
        assert_eq!(transactions[0].end.offset, 32 + 3 * (24 + 512));
        assert_eq!(end.offset, bytes.len() as u64);
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

    #[test]
    fn an_index_of_zeros_or_with_two_faces_is_no_authority() {
        assert_eq!(WalIndex::decode(&[0; INDEX_HEADERS_SIZE]), None);
        let mut copy = [0u8; 48];
        copy[12] = 1;
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
                page_size: 65536
            })
        );
        both[60] ^= 1;
        assert_eq!(WalIndex::decode(&both), None);
    }
}
