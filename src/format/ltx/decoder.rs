//! Reads an LTX file, page by page, and believes nothing that its checksums do not cover.

use std::io::{ErrorKind, Read};

use crc_fast::Digest;

use super::checksum::digest;
use super::encoder::{check_complete, check_pgno, check_post_apply};
use super::index::PageIndex;
use super::{
    CHECKSUM_FLAG, DatabaseChecksum, END_OF_PAGES, FRAME_HAS_SIZE, FRAME_HEADER_SIZE, Header,
    LtxError, Trailer, max_block_size, page_checksum,
};

/// Reads from `R` in small pieces, so give it a buffered reader.
///
/// A page is only known to be good once `finish` has succeeded.
pub struct Decoder<R: Read> {
    from: R,
    header: Header,
    digest: Digest,
    index: PageIndex,
    last_pgno: u32,
    /// Of the pages so far; only kept for a snapshot.
    sum: DatabaseChecksum,
    /// One compressed page, at its longest.
    block: Vec<u8>,
    /// The end of the page block was read.
    ended: bool,
}

impl<R: Read> Decoder<R> {
    /// Reads the header.
    ///
    /// # Errors
    /// Those of `Header::decode`.
    pub fn new(mut from: R) -> Result<Self, LtxError> {
        let mut bytes = [0; Header::SIZE];
        from.read_exact(&mut bytes)?;
        let header = Header::decode(&bytes)?;
        let mut digest = digest();
        digest.update(&bytes);
        Ok(Self {
            from,
            header,
            digest,
            index: PageIndex::default(),
            last_pgno: 0,
            sum: DatabaseChecksum::EMPTY,
            block: vec![0; max_block_size(header.page_size)],
            ended: false,
        })
    }

    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Reads the next page into `page`, which has the header's page size, and gives its number; none after the last.
    ///
    /// # Errors
    /// Every error but `Io` and `PageLength` (of `page` itself) says that the file is damaged.
    pub fn next_page(&mut self, page: &mut [u8]) -> Result<Option<u32>, LtxError> {
        if self.ended {
            return Ok(None);
        }
        if page.len() != self.header.page_size as usize {
            return Err(LtxError::PageLength {
                given: page.len(),
                page_size: self.header.page_size,
            });
        }
        let mut start = [0; FRAME_HEADER_SIZE];
        let (number_and_flags, size) = start.split_at_mut(END_OF_PAGES.len());
        self.from.read_exact(number_and_flags)?;
        if number_and_flags == END_OF_PAGES {
            check_complete(&self.header, self.last_pgno)?;
            self.digest.update(&END_OF_PAGES);
            self.ended = true;
            return Ok(None);
        }
        let (number, flags) = number_and_flags.split_at(4);
        let pgno = u32::from_be_bytes(number.try_into().expect("BUG: four bytes"));
        let flags = u16::from_be_bytes(flags.try_into().expect("BUG: two bytes"));
        check_pgno(&self.header, self.last_pgno, pgno)?;
        match flags {
            FRAME_HAS_SIZE => {}
            0 => return Err(LtxError::LegacyFrame { pgno }),
            _ => return Err(LtxError::FrameFlags { pgno, flags }),
        }
        self.from.read_exact(size)?;
        let len = u32::from_be_bytes((&*size).try_into().expect("BUG: four bytes")) as usize;
        self.read_block(pgno, len, page)?;
        self.digest.update(&start);
        self.digest.update(page);
        self.index.push(pgno, (FRAME_HEADER_SIZE + len) as u64);
        if self.header.is_snapshot() {
            self.sum.toggle(page_checksum(pgno, page));
        }
        self.last_pgno = pgno;
        Ok(Some(pgno))
    }

    /// Reads what follows the pages, after `next_page` gave none, and checks everything against it.
    ///
    /// # Errors
    /// `PagesLeft` where pages are unread; every other one but `Io` says that the file is damaged.
    pub fn finish(mut self) -> Result<Trailer, LtxError> {
        if !self.ended {
            return Err(LtxError::PagesLeft);
        }
        let (from, digest) = (&mut self.from, &mut self.digest);
        let mut found = [0; 32];
        self.index.write(|expected| {
            let found = &mut found[..expected.len()];
            from.read_exact(found)?;
            digest.update(expected);
            match found == expected {
                true => Ok(()),
                false => Err(LtxError::Index),
            }
        })?;
        let post_apply_checksum = read_u64(from)?;
        digest.update(&post_apply_checksum.to_be_bytes());
        let file_checksum = read_u64(from)?;
        check_ended(from)?;
        let computed = CHECKSUM_FLAG | digest.finalize();
        if computed != file_checksum {
            return Err(LtxError::FileChecksum {
                computed,
                stored: file_checksum,
            });
        }
        check_post_apply(&self.header, self.sum, post_apply_checksum)?;
        Ok(Trailer {
            post_apply_checksum,
            file_checksum,
        })
    }

    fn read_block(&mut self, pgno: u32, len: usize, page: &mut [u8]) -> Result<(), LtxError> {
        let block = self
            .block
            .get_mut(..len)
            .ok_or(LtxError::Compression { pgno })?;
        self.from.read_exact(block)?;
        match lz4_flex::block::decompress_into(block, page) {
            Ok(len) if len == page.len() => Ok(()),
            _ => Err(LtxError::Compression { pgno }),
        }
    }
}

fn read_u64(from: &mut impl Read) -> Result<u64, LtxError> {
    let mut bytes = [0; 8];
    from.read_exact(&mut bytes)?;
    Ok(u64::from_be_bytes(bytes))
}

fn check_ended(from: &mut impl Read) -> Result<(), LtxError> {
    loop {
        match from.read(&mut [0]) {
            Ok(0) => return Ok(()),
            Ok(_) => return Err(LtxError::TrailingBytes),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
}
