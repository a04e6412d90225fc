//! Reads one log of the backing directory: its header, its committed transactions, its pages.

use std::fs::File;
use std::io;
use std::sync::Arc;

use super::backing::read_up_to;
use super::mark::WalMark;
use crate::fault::Point;
use crate::format::scanner::{PageRef, Scanner, Transaction};
use crate::format::wal::{
    FRAME_HEADER_SIZE, FrameHeader, HEADER_SIZE, HeaderError, Position, WalHeader,
};

/// Bytes that are read at once; also what is kept to serve pages without reading them again.
const WINDOW: u64 = 1 << 20;

/// An open log with a valid header.
#[derive(Debug)]
pub struct WalReader {
    file: Arc<File>,
    pub header: WalHeader,
    /// Bytes, when that was asked for.
    pub len: u64,
    window: Vec<u8>,
    window_at: u64,
    /// The window is what `read_on` has read.
    has_read_on: bool,
    /// A write that has not reached the file: what it would hold afterwards is read.
    over: Option<(u64, Arc<[u8]>)>,
}

impl WalReader {
    /// Reads and checks the header of a log that has `len` bytes.
    pub fn open(file: Arc<File>, len: u64) -> io::Result<Result<Self, HeaderError>> {
        let mut bytes = [0; HEADER_SIZE as usize];
        let read = read_up_to(&file, &mut bytes, 0)?;
        Point::LogOpened.reach();
        Ok(WalHeader::decode(&bytes[..read]).map(|header| Self {
            file,
            header,
            len,
            window: Vec::new(),
            window_at: 0,
            has_read_on: false,
            over: None,
        }))
    }

    /// Whether another log was begun over it since it was opened.
    pub fn is_replaced(&self) -> io::Result<bool> {
        let mut bytes = [0; HEADER_SIZE as usize];
        let read = read_up_to(&self.file, &mut bytes, 0)?;
        Ok(WalHeader::decode(&bytes[..read]) != Ok(self.header))
    }

    /// What was written since it was opened is read as well.
    pub fn note_growth(&mut self) -> io::Result<()> {
        self.len = self.len.max(self.file.metadata()?.len());
        Ok(())
    }

    /// Reads from now on as though `data` stood at `offset`.
    pub fn lay_over(&mut self, offset: u64, data: Arc<[u8]>) {
        self.len = self.len.max(offset + data.len() as u64);
        self.over = Some((offset, data));
        self.window.clear();
        self.has_read_on = false;
    }

    /// A place in this log.
    pub fn mark_at(&self, position: Position) -> WalMark {
        WalMark {
            salt: self.header.salt,
            position,
        }
    }

    /// Whether the log still holds what was captured: the frame that ends at `mark` is the same one.
    pub fn chains(&self, mark: &WalMark) -> io::Result<bool> {
        if mark.salt != self.header.salt {
            return Ok(false);
        }
        Ok(self.position_at(mark.position.offset)? == Some(mark.position))
    }

    /// Whether it leads to `mark`: all its frames up to there follow one another. What was rolled back, or died with its writer,
    /// may have been written over in part, and end with the same frame still.
    pub fn leads_to(&mut self, mark: &WalMark) -> io::Result<bool> {
        if !self.chains(mark)? {
            return Ok(false);
        }
        let mut scanner = Scanner::new(self.header, self.header.start());
        let end = mark.position.offset;
        loop {
            let at = scanner.offset();
            let next = end.min(at + WINDOW.max(self.header.frame_size()));
            // What is in it does not matter.
            self.follow(&mut scanner, next, &mut Vec::new())?;
            if scanner.offset() == at {
                return Ok(at == end);
            }
        }
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
        match self.in_window(offset - frame, bytes.len()) {
            Some(known) if self.has_read_on => bytes.copy_from_slice(known),
            _ if self.read(&mut bytes, offset - frame)? < bytes.len() => return Ok(None),
            _ => {}
        }
        let header = FrameHeader::decode(&bytes);
        Ok((header.salt == self.header.salt).then_some(Position {
            offset,
            checksum: header.checksum,
        }))
    }

    /// Reads the frame that ends at `from` at once with what follows up to `end`: the next that asks for either finds it.
    pub fn read_on(&mut self, from: u64, end: u64) -> io::Result<()> {
        let frame = self.header.frame_size();
        let following = self.frames_between(from, end);
        if following > 0 && from >= HEADER_SIZE + frame {
            self.fill(from - frame, (frame + following) as usize)?;
            self.has_read_on = true;
        }
        Ok(())
    }

    /// Bytes of whole frames, as far as they are read at once.
    fn frames_between(&self, at: u64, end: u64) -> u64 {
        let frame = self.header.frame_size();
        let bytes = end.saturating_sub(at).min(WINDOW.max(frame));
        bytes - bytes % frame
    }

    /// The committed transactions from `from` up to the byte `end`, where the chain does not end before.
    pub fn transactions(&mut self, from: Position, end: u64) -> io::Result<Vec<Transaction>> {
        let mut out = Vec::new();
        self.follow(&mut Scanner::new(self.header, from), end, &mut out)?;
        Ok(out)
    }

    /// The same from where a scanner of this log has come to; they are appended to `out`.
    pub fn follow(
        &mut self,
        scanner: &mut Scanner,
        end: u64,
        out: &mut Vec<Transaction>,
    ) -> io::Result<()> {
        self.follow_each(scanner, end, out, &mut |_| {})
    }

    /// The same; `each` is given every frame that the scanner has found to be in order.
    pub fn follow_each(
        &mut self,
        scanner: &mut Scanner,
        end: u64,
        out: &mut Vec<Transaction>,
        each: &mut dyn FnMut(&[u8]),
    ) -> io::Result<()> {
        let frame = self.header.frame_size();
        loop {
            let at = scanner.offset();
            let want = self.frames_between(at, end);
            if want == 0 || self.fill(at, want as usize)? < frame as usize {
                return Ok(());
            }
            let goes_on = scanner.feed(&self.window, out);
            let in_order = &self.window[..(scanner.offset() - at) as usize];
            in_order.chunks_exact(frame as usize).for_each(&mut *each);
            if !goes_on {
                return Ok(());
            }
        }
    }

    /// Whether so many bytes behind `from`, which lies between two frames, there is still a frame of this log.
    pub fn reaches(&self, from: u64, bytes: u64) -> io::Result<bool> {
        let frames = bytes.div_ceil(self.header.frame_size());
        let end = from + frames * self.header.frame_size();
        Ok(self.position_at(end)?.is_some())
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
        if let Some(known) = self.in_window(page.offset, buffer.len()) {
            buffer.copy_from_slice(known);
            return Ok(());
        }
        let read = self.read(buffer, page.offset)?;
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
            let read = self.read(&mut buffer[..want], at)?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            to.write_all(&buffer[..read])?;
            at += read as u64;
        }
        Ok(())
    }

    fn in_window(&self, at: u64, len: usize) -> Option<&[u8]> {
        let begin = usize::try_from(at.checked_sub(self.window_at)?).ok()?;
        self.window.get(begin..begin.checked_add(len)?)
    }

    fn fill(&mut self, at: u64, want: usize) -> io::Result<usize> {
        if std::mem::take(&mut self.has_read_on) && self.in_window(at, want).is_some() {
            self.window.drain(..(at - self.window_at) as usize);
            self.window.truncate(want);
            self.window_at = at;
            return Ok(want);
        }
        self.window.resize(want, 0);
        self.window_at = at;
        let mut window = std::mem::take(&mut self.window);
        let read = self.read(&mut window, at)?;
        window.truncate(read);
        self.window = window;
        Ok(read)
    }

    /// Fewer bytes than asked for only at the log's end.
    fn read(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        let mut read = read_up_to(&self.file, buffer, at)?;
        if let Some((offset, data)) = &self.over {
            let begin = at.max(*offset);
            let end = (at + buffer.len() as u64).min(offset + data.len() as u64);
            if begin < end {
                let to = (begin - at) as usize..(end - at) as usize;
                let from = (begin - offset) as usize..(end - offset) as usize;
                // What lies between the file's end and the write reads as zeros.
                buffer[read.min(to.start)..to.start].fill(0);
                read = read.max(to.end);
                buffer[to].copy_from_slice(&data[from]);
            }
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::fs::FileExt;

    #[test]
    fn a_write_that_is_laid_over_reads_as_though_it_stood_there() {
        let log = crate::format::wal::tests::log(false, 512, &[(1, 0, 1), (2, 2, 2), (3, 3, 3)]);
        for begin in [100, 600, log.len() - 512, log.len() - 1] {
            let end = (begin + 536).min(log.len());
            // The file lacks it, or has something else there, or ends before it.
            for lost in [log[..begin].to_vec(), log[..begin / 2].to_vec()] {
                let mut file = tempfile::tempfile().expect("a file");
                file.write_all(&lost).expect("written");
                let (is_whole, len) = (lost.len() == begin, lost.len() as u64);
                let mut reader = WalReader::open(file.into(), len)
                    .expect("read")
                    .expect("a log");
                reader.lay_over(begin as u64, log[begin..end].into());
                assert_eq!(reader.len, end as u64);
                let mut bytes = vec![1; log.len() + 7];
                let read = reader.read(&mut bytes, 0).expect("read");
                assert_eq!(read, end);
                assert_eq!(&bytes[begin..end], &log[begin..end]);
                match is_whole {
                    true => assert_eq!(&bytes[..begin], &log[..begin]),
                    false => assert!(bytes[lost.len()..begin].iter().all(|byte| *byte == 0)),
                }
            }
        }
    }

    #[test]
    fn what_was_read_at_once_is_found_once() {
        let bytes = crate::format::wal::tests::log(false, 512, &[(1, 1, 1), (2, 2, 2), (3, 3, 3)]);
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(&bytes).expect("written");
        let (file, len) = (Arc::new(file), bytes.len() as u64);
        let open = || WalReader::open(file.clone(), len).expect("read");
        let mut plain = open().expect("a log");
        let start = plain.header.start();
        let all = plain.transactions(start, len).expect("read");
        let first = all[0].end;

        let mut log = open().expect("a log");
        let place = log.mark_at(first);
        log.read_on(first.offset, len).expect("read");
        // What is written over by now was there when the rest was.
        file.write_all_at(&[0; 100], first.offset - 536)
            .expect("written");
        file.write_all_at(&[0; 100], first.offset).expect("written");
        assert!(log.chains(&place).expect("read"));
        assert_eq!(log.transactions(first, len).expect("read"), all[1..]);
        assert!(!log.chains(&place).expect("read"));
        assert_eq!(log.transactions(first, len).expect("read"), []);
        // Nothing follows, or nothing comes before.
        for (from, end) in [(len, len), (start.offset, len)] {
            log.read_on(from, end).expect("read");
            assert!(!log.has_read_on);
        }
    }
}
