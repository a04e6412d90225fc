//! Writes an LTX file, page by page.

use std::io::Write;

use crc_fast::Digest;

use super::checksum::digest;
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
    pub fn finish(mut self, post_apply_checksum: u64) -> Result<(W, Trailer), LtxError> {
        self.check_end(post_apply_checksum)?;
        let (to, digest) = (&mut self.to, &mut self.digest);
        let mut write = |piece: &[u8]| -> Result<(), LtxError> {
            digest.update(piece);
            Ok(to.write_all(piece)?)
        };
        write(&END_OF_PAGES)?;
        self.index.write(&mut write)?;
        write(&post_apply_checksum.to_be_bytes())?;
        let file_checksum = CHECKSUM_FLAG | self.digest.finalize();
        self.to.write_all(&file_checksum.to_be_bytes())?;
        let trailer = Trailer {
            post_apply_checksum,
            file_checksum,
        };
        Ok((self.to, trailer))
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
