//! Writes an LTX file, page by page.

use std::io::Write;

use crc_fast::Digest;

use super::checksum::{digest, shifted};
use super::index::PageIndex;
use super::{
    CHECKSUM_FLAG, DatabaseChecksum, END_OF_PAGES, FRAME_HAS_SIZE, FRAME_HEADER_SIZE, Header,
    LtxError, Trailer, lock_page, page_checksum,
};

/// Writes to `W` in pieces of a frame; an index entry is a few bytes, so give it a buffered writer.
pub struct Encoder<W: Write> {
    to: W,
    header: Header,
    digest: Digest,
    index: PageIndex,
    last_pgno: u32,
    /// Of the pages so far; only kept for a snapshot.
    sum: DatabaseChecksum,
    /// One frame: its header and the compressed page.
    frame: Vec<u8>,
}

impl<W: Write> Encoder<W> {
    /// Writes the header.
    ///
    /// # Errors
    /// `HeaderField` for a header that no reader would take.
    pub fn new(mut to: W, header: Header) -> Result<Self, LtxError> {
        header.check()?;
        let bytes = header.encode();
        to.write_all(&bytes)?;
        let mut digest = digest();
        digest.update(&bytes);
        let longest = lz4_flex::block::get_maximum_output_size(header.page_size as usize);
        Ok(Self {
            to,
            header,
            digest,
            index: PageIndex::default(),
            last_pgno: 0,
            sum: DatabaseChecksum::EMPTY,
            frame: vec![0; FRAME_HEADER_SIZE + longest],
        })
    }

    /// Compresses and writes one page. Page numbers ascend, and in a snapshot leave none out but the lock page.
    ///
    /// # Errors
    /// `PageNumber`, `PageLength` or `IncompleteSnapshot`, before anything of the page is written.
    pub fn page(&mut self, pgno: u32, page: &[u8]) -> Result<(), LtxError> {
        self.check_page(pgno, page)?;
        let block = &mut self.frame[FRAME_HEADER_SIZE..];
        let len = lz4_flex::block::compress_into(page, block)
            .map_err(|_| LtxError::Compression { pgno })?;
        self.write_frame(pgno, len, page)
    }

    /// Writes one page whose LZ4 block is at hand: `block` decompresses to `page`.
    ///
    /// # Errors
    /// As `page`, and `Compression` for a block that is not this page's.
    pub fn frame(&mut self, pgno: u32, block: &[u8], page: &[u8]) -> Result<(), LtxError> {
        self.check_page(pgno, page)?;
        let mut decompressed = vec![0; page.len()];
        let is_this_page = lz4_flex::block::decompress_into(block, &mut decompressed)
            .is_ok_and(|len| len == page.len() && decompressed == page);
        if !is_this_page || block.len() > super::max_block_size(self.header.page_size) {
            return Err(LtxError::Compression { pgno });
        }
        self.frame[FRAME_HEADER_SIZE..][..block.len()].copy_from_slice(block);
        self.write_frame(pgno, block.len(), page)
    }

    /// Ends the file and gives the writer back, not flushed.
    ///
    /// # Errors
    /// `PostApply` for a checksum that the header does not allow, `DatabaseChecksum` where it is not that of a
    /// snapshot's pages, `IncompleteSnapshot` where its last pages are missing.
    pub fn finish(self, post_apply_checksum: u64) -> Result<(W, Trailer), LtxError> {
        let (to, undated) = self.finish_undated(post_apply_checksum)?;
        Ok((to, undated.trailer))
    }

    /// The same where the time in the header may be another one in the end.
    ///
    /// # Errors
    /// As `finish`.
    pub fn finish_undated(mut self, post_apply_checksum: u64) -> Result<(W, Undated), LtxError> {
        self.check_end(post_apply_checksum)?;
        let (to, digest) = (&mut self.to, &mut self.digest);
        let mut write = |piece: &[u8]| -> Result<(), LtxError> {
            digest.update(piece);
            Ok(to.write_all(piece)?)
        };
        write(&END_OF_PAGES)?;
        self.index.write(&mut write)?;
        write(&post_apply_checksum.to_be_bytes())?;
        let behind_header = self.digest.get_amount() - Header::SIZE as u64;
        let file_checksum = CHECKSUM_FLAG | self.digest.finalize();
        self.to.write_all(&file_checksum.to_be_bytes())?;
        let trailer = Trailer {
            post_apply_checksum,
            file_checksum,
        };
        let undated = Undated {
            header: self.header,
            trailer,
            behind_header,
        };
        Ok((self.to, undated))
    }

    fn check_page(&self, pgno: u32, page: &[u8]) -> Result<(), LtxError> {
        let header = &self.header;
        if page.len() != header.page_size as usize {
            return Err(LtxError::PageLength {
                given: page.len(),
                page_size: header.page_size,
            });
        }
        check_pgno(header, self.last_pgno, pgno)
    }

    /// Writes what stands in `self.frame`, of which the block has `len` bytes.
    fn write_frame(&mut self, pgno: u32, len: usize, page: &[u8]) -> Result<(), LtxError> {
        self.frame[0..4].copy_from_slice(&pgno.to_be_bytes());
        self.frame[4..6].copy_from_slice(&FRAME_HAS_SIZE.to_be_bytes());
        self.frame[6..10].copy_from_slice(&(len as u32).to_be_bytes());
        let frame = &self.frame[..FRAME_HEADER_SIZE + len];
        self.to.write_all(frame)?;
        self.digest.update(&frame[..FRAME_HEADER_SIZE]);
        self.digest.update(page);
        self.index.push(pgno, frame.len() as u64);
        if self.header.is_snapshot() {
            self.sum.toggle(page_checksum(pgno, page));
        }
        self.last_pgno = pgno;
        Ok(())
    }

    fn check_end(&self, post_apply_checksum: u64) -> Result<(), LtxError> {
        check_complete(&self.header, self.last_pgno)?;
        check_post_apply(&self.header, self.sum, post_apply_checksum)
    }
}

/// A whole file whose time may still become another one.
#[derive(Clone, Copy, Debug)]
pub struct Undated {
    header: Header,
    trailer: Trailer,
    /// Bytes behind the header that the file checksum is over.
    behind_header: u64,
}

impl Undated {
    /// The header and the trailer of the same file with this time.
    pub fn at(&self, timestamp_ms: i64) -> (Header, Trailer) {
        let header = Header {
            timestamp_ms,
            ..self.header
        };
        let moved = |header: &Header| shifted(header_checksum(header), self.behind_header);
        let difference = moved(&self.header) ^ moved(&header);
        let trailer = Trailer {
            file_checksum: CHECKSUM_FLAG | (self.trailer.file_checksum ^ difference),
            ..self.trailer
        };
        (header, trailer)
    }
}

fn header_checksum(header: &Header) -> u64 {
    let mut digest = digest();
    digest.update(&header.encode());
    digest.finalize()
}

/// Whether `pgno` may follow `last` (0 at the start) in a file with this header.
pub(super) fn check_pgno(header: &Header, last: u32, pgno: u32) -> Result<(), LtxError> {
    let lock = lock_page(header.page_size);
    let refused = |reason| Err(LtxError::PageNumber { pgno, reason });
    if pgno <= last {
        return refused("the numbers do not ascend");
    }
    if pgno > header.commit {
        return refused("it is past the end of the database");
    }
    if pgno == lock {
        return refused("it is the lock page");
    }
    let next = if last + 1 == lock { lock + 1 } else { last + 1 };
    if header.is_snapshot() && pgno != next {
        return Err(LtxError::IncompleteSnapshot { pgno: next });
    }
    Ok(())
}

/// Whether a file with this header may end after the page `last`.
pub(super) fn check_complete(header: &Header, last: u32) -> Result<(), LtxError> {
    let lock = lock_page(header.page_size);
    // A lock page at the very end is not stored.
    let end = match header.commit == lock {
        true => lock - 1,
        false => header.commit,
    };
    if header.is_snapshot() && last != end {
        return Err(LtxError::IncompleteSnapshot { pgno: last + 1 });
    }
    Ok(())
}

/// Whether a file with this header, whose pages have `sum` if it is a snapshot, may have this post-apply checksum.
pub(super) fn check_post_apply(
    header: &Header,
    sum: DatabaseChecksum,
    stored: u64,
) -> Result<(), LtxError> {
    let allowed = match header.no_checksum {
        true => stored == 0,
        false if header.commit == 0 => stored == DatabaseChecksum::EMPTY.value(),
        false => stored & CHECKSUM_FLAG != 0,
    };
    if !allowed {
        return Err(LtxError::PostApply { value: stored });
    }
    if header.is_snapshot() && !header.no_checksum && stored != sum.value() {
        return Err(LtxError::DatabaseChecksum {
            computed: sum.value(),
            stored,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_dated_later_is_the_one_that_would_have_been_written_then() {
        let written_at = |timestamp_ms| {
            let header = Header {
                no_checksum: false,
                page_size: 512,
                commit: 3,
                min_txid: 2,
                max_txid: 2,
                timestamp_ms,
                pre_apply_checksum: CHECKSUM_FLAG,
                wal_offset: 32,
                wal_size: 536,
                wal_salt: (1, 2),
                node_id: 3,
            };
            let mut encoder = Encoder::new(Vec::new(), header).expect("a header");
            encoder.page(2, &[7; 512]).expect("a page");
            encoder.page(3, &[8; 512]).expect("a page");
            encoder.finish_undated(CHECKSUM_FLAG | 5).expect("ended")
        };
        let (mut bytes, undated) = written_at(1);
        for time in [1, 2, 1_700_000_000_000] {
            let (header, trailer) = undated.at(time);
            let end = bytes.len() - Trailer::SIZE;
            bytes[..Header::SIZE].copy_from_slice(&header.encode());
            bytes[end..].copy_from_slice(&trailer.encode());
            assert!(bytes == written_at(time).0, "{time}");
        }
    }

    #[test]
    fn a_snapshot_leaves_out_the_lock_page_and_no_other() {
        let lock = lock_page(65536);
        let mut header = Header {
            no_checksum: false,
            page_size: 65536,
            commit: lock + 1,
            min_txid: 1,
            max_txid: 1,
            timestamp_ms: 0,
            pre_apply_checksum: 0,
            wal_offset: 0,
            wal_size: 0,
            wal_salt: (0, 0),
            node_id: 0,
        };
        assert!(check_pgno(&header, lock - 2, lock - 1).is_ok());
        assert!(
            check_pgno(&header, lock - 2, lock + 1).is_err(),
            "a page is missing"
        );
        assert!(
            check_pgno(&header, lock - 1, lock).is_err(),
            "the lock page itself"
        );
        assert!(check_pgno(&header, lock - 1, lock + 1).is_ok());
        assert!(check_complete(&header, lock + 1).is_ok());
        assert!(check_complete(&header, lock - 1).is_err());
        header.commit = lock;
        assert!(
            check_complete(&header, lock - 1).is_ok(),
            "the lock page at the very end"
        );
        assert!(check_complete(&header, lock - 2).is_err());
    }
}
