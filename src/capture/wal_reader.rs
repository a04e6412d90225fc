//! Reads one log of the backing directory: its header, its committed transactions, its pages.

use std::fs::File;
use std::io;

use super::backing::read_up_to;
use super::mark::WalMark;
use crate::format::scanner::{PageRef, Scanner, Transaction};
use crate::format::wal::{
    FRAME_HEADER_SIZE, FrameHeader, HEADER_SIZE, HeaderError, Position, WalHeader,
};

/// Bytes that are read at once; also what is kept to serve pages without reading them again.
const WINDOW: u64 = 1 << 20;

/// An open log with a valid header.
#[derive(Debug)]
pub struct WalReader {
    file: File,
    pub header: WalHeader,
    /// Bytes, when it was opened.
    pub len: u64,
    window: Vec<u8>,
    window_at: u64,
}

impl WalReader {
    /// Reads and checks the header.
    pub fn open(file: File) -> io::Result<Result<Self, HeaderError>> {
        let len = file.metadata()?.len();
        let mut bytes = [0; HEADER_SIZE as usize];
        let read = read_up_to(&file, &mut bytes, 0)?;
        Ok(WalHeader::decode(&bytes[..read]).map(|header| Self {
            file,
            header,
            len,
            window: Vec::new(),
            window_at: 0,
        }))
    }

    /// Whether the log still holds what was captured: the frame that ends at `mark` is the same one.
    pub fn chains(&self, mark: &WalMark) -> io::Result<bool> {
        if mark.salt != self.header.salt {
            return Ok(false);
        }
        Ok(self.position_at(mark.position.offset)? == Some(mark.position))
    }

    /// The position behind the frame that ends at `offset`, as that frame's own header has it; none where no frame of
    /// this log ends there.
    fn position_at(&self, offset: u64) -> io::Result<Option<Position>> {
        if offset == HEADER_SIZE {
            return Ok(Some(self.header.start()));
        }
        let frame = self.header.frame_size();
        if offset < HEADER_SIZE + frame || !(offset - HEADER_SIZE).is_multiple_of(frame) {
            return Ok(None);
        }
        let mut bytes = [0; FRAME_HEADER_SIZE as usize];
        if read_up_to(&self.file, &mut bytes, offset - frame)? < bytes.len() {
            return Ok(None);
        }
        let header = FrameHeader::decode(&bytes);
        Ok((header.salt == self.header.salt).then_some(Position {
            offset,
            checksum: header.checksum,
        }))
    }

    /// The committed transactions from `from` up to the byte `end`, where the chain does not end before.
    pub fn transactions(&mut self, from: Position, end: u64) -> io::Result<Vec<Transaction>> {
        let mut scanner = Scanner::new(self.header, from);
        let mut out = Vec::new();
        let frame = self.header.frame_size();
        loop {
            let at = scanner.offset();
            let want = end.saturating_sub(at).min(WINDOW.max(frame));
            let want = want - want % frame;
            if want == 0 || self.fill(at, want as usize)? < frame as usize {
                return Ok(out);
            }
            if !scanner.feed(&self.window, &mut out) {
                return Ok(out);
            }
        }
    }

    /// Whether a commit follows `from` in what the file holds, looking at no more than one window. A chain that is
    /// still whole at the window's end counts as one.
    pub fn may_commit_after(&mut self, from: Position) -> io::Result<bool> {
        let end = self.len.min(from.offset + WINDOW);
        let found = !self.transactions(from, end)?.is_empty();
        Ok(found || (end < self.len && self.chain_reaches(from, end)?))
    }

    fn chain_reaches(&mut self, from: Position, end: u64) -> io::Result<bool> {
        let mut scanner = Scanner::new(self.header, from);
        let len = self.fill(from.offset, (end - from.offset) as usize)?;
        let mut out = Vec::new();
        Ok(scanner.feed(&self.window[..len], &mut out))
    }

    /// Reads a page.
    pub fn page(&self, page: PageRef, buffer: &mut [u8]) -> io::Result<()> {
        let in_window = page
            .offset
            .checked_sub(self.window_at)
            .map(|at| at as usize)
            .filter(|at| at + buffer.len() <= self.window.len());
        if let Some(at) = in_window {
            buffer.copy_from_slice(&self.window[at..at + buffer.len()]);
            return Ok(());
        }
        let read = read_up_to(&self.file, buffer, page.offset)?;
        if read < buffer.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }

    /// Copies the bytes from `from` up to `end`.
    pub fn copy_frames(&self, from: u64, end: u64, to: &mut impl io::Write) -> io::Result<()> {
        let mut buffer = vec![0; WINDOW as usize];
        let mut at = from;
        while at < end {
            let want = (end - at).min(WINDOW) as usize;
            let read = read_up_to(&self.file, &mut buffer[..want], at)?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            to.write_all(&buffer[..read])?;
            at += read as u64;
        }
        Ok(())
    }

    fn fill(&mut self, at: u64, want: usize) -> io::Result<usize> {
        self.window.resize(want, 0);
        self.window_at = at;
        let read = read_up_to(&self.file, &mut self.window, at)?;
        self.window.truncate(read);
        Ok(read)
    }
}
