//! The scanner that follows the chain of a write-ahead log's frames: bytes in, committed transactions out.
//!
//! A commit is a chain that validates up to a frame with a commit mark, never a mark seen in passing.

use super::wal::{FRAME_HEADER_SIZE, FrameHeader, Position, WalHeader, checksum};

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
    /// The last commit frame, and the page in it, to recognise padding that repeats it.
    last_commit: Option<FrameHeader>,
    last_page: Vec<u8>,
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
            last_page: Vec::new(),
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
        let known = std::mem::take(&mut self.last_page);
        let mut last_page = known.as_slice();
        let mut frames = bytes.chunks_exact(self.header.frame_size() as usize);
        let goes_on = frames.all(|frame| {
            let in_order = self.frame(frame, last_page, out);
            if in_order && self.open.is_empty() {
                last_page = &frame[FRAME_HEADER_SIZE as usize..];
            }
            in_order
        });
        self.last_page = last_page.to_vec();
        goes_on
    }

    /// `last_page`: that of the last commit frame.
    fn frame(&mut self, frame: &[u8], last_page: &[u8], out: &mut Vec<Transaction>) -> bool {
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
            self.commit(header, page == last_page, out);
        }
        true
    }

    fn commit(&mut self, header: FrameHeader, is_last_page: bool, out: &mut Vec<Transaction>) {
        self.committed = self.position;
        let pages = std::mem::take(&mut self.open);
        let repeats = pages.len() == 1
            && is_last_page
            && self
                .last_commit
                .is_some_and(|last| (last.pgno, last.commit) == (header.pgno, header.commit));
        match out.last_mut() {
            // Padding to the sector's end: the same commit once more.
            Some(previous) if repeats => previous.end = self.position,
            _ => out.push(Transaction {
                commit: header.commit,
                pages,
                end: self.position,
            }),
        }
        self.last_commit = Some(header);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::wal::HEADER_SIZE;
    use crate::format::wal::tests::log;

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
    }

    #[test]
    fn padding_that_repeats_the_commit_frame_is_no_transaction() {
        let bytes = log(false, 512, &[(1, 1, 1), (1, 1, 1), (1, 1, 1), (1, 1, 2)]);
        // Also where it comes later.
        for at_once in 1..5 {
            let header = WalHeader::decode(&bytes).expect("a header");
            let mut scanner = Scanner::new(header, header.start());
            let mut transactions = Vec::new();
            for piece in bytes[HEADER_SIZE as usize..].chunks(at_once * (24 + 512)) {
                assert!(scanner.feed(piece, &mut transactions));
            }
            assert_eq!(transactions.len(), 2);
            assert_eq!(transactions[0].end.offset, 32 + 3 * (24 + 512));
            assert_eq!(scanner.committed().offset, bytes.len() as u64);
        }
    }

    #[test]
    fn what_lies_between_two_commits_of_the_same_page_makes_two_of_them() {
        let bytes = log(false, 512, &[(1, 1, 1), (2, 0, 2), (1, 1, 1)]);
        assert_eq!(scan(&bytes).0.len(), 2);
    }
}
