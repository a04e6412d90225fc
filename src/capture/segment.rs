//! Makes LTX files: of what a stretch of the log changed, of what differs, or of a whole database.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::error::CaptureError;
use super::mark::{Mark, PageSum, Segment};
use super::page_sums::SumsReader;
use super::spool::{SetAside, Sink, Spool};
use super::wal_reader::WalReader;
use crate::clock::UnixMs;
use crate::format::ltx::{DatabaseChecksum, Encoder, Header, Undated, lock_page, page_checksum};
use crate::format::scanner::{PageRef, Transaction};
use crate::store::Body;

/// What is common to all segments of this process.
#[derive(Debug)]
pub struct Press<'a> {
    pub spool: &'a Spool,
    /// The database's number in the state.
    pub id: i64,
    pub node_id: u64,
    /// Larger files go to the spool while they are made.
    pub memory_bytes: u64,
    /// What is made takes the place of so many bytes of the spool.
    replaced_bytes: Option<u64>,
}

/// The stretch of a log that a segment comes from.
#[derive(Clone, Copy, Debug, Default)]
pub struct WalExtent {
    pub offset: u64,
    pub size: u64,
    pub salt: (u32, u32),
}

/// The state that a stretch leads to, before it is written down.
#[derive(Debug)]
pub struct Draft {
    pub before: Mark,
    pub end: Mark,
    pub sums: Vec<PageSum>,
}

/// A segment that is whole but for its time, and not captured yet.
#[derive(Debug)]
pub struct MadeAhead {
    pub draft: Draft,
    file: SetAside,
    undated: Undated,
}

impl MadeAhead {
    /// It is captured as the segment that leads to `end`, and lies in the spool from now on.
    pub fn capture(self, end: Mark, committed_at: UnixMs) -> Result<Segment, CaptureError> {
        let Self {
            draft,
            file,
            undated,
        } = self;
        let first_txid = draft.before.txid + 1;
        let size = file.size();
        let path = file.path_of(end.generation, (first_txid, end.txid));
        let (header, trailer) = undated.at(end.time_ms);
        file.keep(&path, &header.encode(), &trailer.encode())?;
        Ok(Segment {
            first_txid,
            end,
            snapshot: false,
            committed_at,
            body: Body::File(path),
            size,
            file_checksum: trailer.file_checksum,
            sums: draft.sums.into(),
            durable: false,
        })
    }
}

/// The newest version of each page that the transactions changed, ascending; without pages past the final size.
pub fn newest_pages(transactions: &[Transaction], page_size: u32) -> Vec<PageRef> {
    let commit = transactions.last().map_or(0, |last| last.commit);
    let lock = lock_page(page_size);
    let mut pages: Vec<PageRef> = transactions
        .iter()
        .flat_map(|transaction| transaction.pages.iter().copied())
        .filter(|page| page.pgno <= commit && page.pgno != lock)
        .collect();
    // Later in the log is newer: the newest comes first among equals, and dedup keeps the first.
    pages.sort_unstable_by(|a, b| a.pgno.cmp(&b.pgno).then(b.offset.cmp(&a.offset)));
    pages.dedup_by_key(|page| page.pgno);
    pages
}

pub fn read_page(log: &WalReader, page: PageRef, buffer: &mut [u8]) -> Result<(), CaptureError> {
    log.page(page, buffer)
        .map_err(CaptureError::io("read a page of the log"))
}

/// The checksums of pages of the log.
pub fn sums_of(log: &WalReader, pages: &[PageRef]) -> Result<Vec<PageSum>, CaptureError> {
    let mut buffer = vec![0; log.header.page_size as usize];
    pages
        .iter()
        .map(|page| {
            read_page(log, *page, &mut buffer)?;
            Ok((page.pgno, page_checksum(page.pgno, &buffer)))
        })
        .collect()
}

/// The database's checksum after `sums` were put in and the size became `commit` pages.
pub fn checksum_after(
    before: &Mark,
    commit: u32,
    sums: &[PageSum],
    old: &SumsReader<'_>,
) -> io::Result<DatabaseChecksum> {
    let mut checksum = before.checksum;
    for &(_, sum) in sums {
        toggle(&mut checksum, sum);
    }
    let known = sums.partition_point(|(pgno, _)| *pgno <= before.commit);
    // Pages of a large transaction often follow each other: each run of them is looked up at once.
    for run in sums[..known].chunk_by(|a, b| a.0 + 1 == b.0) {
        old.range(run[0].0, run[run.len() - 1].0, &mut |_, sum| {
            toggle(&mut checksum, sum);
        })?;
    }
    if commit < before.commit {
        old.range(commit + 1, before.commit, &mut |_, sum| {
            toggle(&mut checksum, sum);
        })?;
    }
    Ok(checksum)
}

fn toggle(checksum: &mut DatabaseChecksum, sum: u64) {
    if sum != 0 {
        checksum.toggle(sum);
    }
}

impl<'a> Press<'a> {
    pub fn new(spool: &'a Spool, id: i64, node_id: u64, memory_bytes: u64) -> Self {
        Self {
            spool,
            id,
            node_id,
            memory_bytes,
            replaced_bytes: None,
        }
    }

    /// For files in the spool that take the place of others there, which have so many bytes.
    pub fn in_place_of(&self, bytes: u64) -> Self {
        Self {
            memory_bytes: 0,
            replaced_bytes: Some(bytes),
            ..*self
        }
    }
}

impl Press<'_> {
    /// Writes a segment of the pages that `draft.sums` names. `read` fills in one page.
    ///
    /// The sums are taken again from what is written, so a page that changed under way is found here.
    pub fn segment(
        &self,
        draft: Draft,
        wal: WalExtent,
        committed_at: UnixMs,
        read: impl FnMut(u32, &mut [u8]) -> Result<(), CaptureError>,
    ) -> Result<Segment, CaptureError> {
        let path = self.spool.path_of(
            self.id,
            draft.end.generation,
            (draft.before.txid + 1, draft.end.txid),
        );
        let sink = self.sink(&path, &draft.end, draft.sums.len())?;
        let encoder = self.encode(sink, &draft, wal, read)?;
        let first = draft.before.txid + 1;
        self.finish(encoder, first, draft.end, committed_at, draft.sums)
    }

    /// The same ahead of its capture, which gives it its time.
    pub fn segment_ahead(
        &self,
        spool: &Arc<Spool>,
        draft: Draft,
        wal: WalExtent,
        read: impl FnMut(u32, &mut [u8]) -> Result<(), CaptureError>,
    ) -> Result<MadeAhead, CaptureError> {
        let most = draft.sums.len() as u64 * u64::from(draft.end.page_size);
        let writer = spool.write_ahead(self.id, most)?;
        let encoder = self.encode(writer, &draft, wal, read)?;
        let (writer, undated) = encoder.finish_undated(draft.end.checksum.value())?;
        Ok(MadeAhead {
            file: writer.set_aside(spool)?,
            undated,
            draft,
        })
    }

    fn encode<W: io::Write>(
        &self,
        to: W,
        draft: &Draft,
        wal: WalExtent,
        mut read: impl FnMut(u32, &mut [u8]) -> Result<(), CaptureError>,
    ) -> Result<Encoder<W>, CaptureError> {
        let header = Header {
            no_checksum: false,
            page_size: draft.end.page_size,
            commit: draft.end.commit,
            min_txid: draft.before.txid + 1,
            max_txid: draft.end.txid,
            timestamp_ms: draft.end.time_ms,
            pre_apply_checksum: draft.before.checksum.value(),
            wal_offset: wal.offset,
            wal_size: wal.size,
            wal_salt: wal.salt,
            node_id: self.node_id,
        };
        let mut encoder = Encoder::new(to, header)?;
        let mut page = vec![0; draft.end.page_size as usize];
        for &(pgno, sum) in &draft.sums {
            read(pgno, &mut page)?;
            if page_checksum(pgno, &page) != sum {
                return Err(CaptureError::Disturbed);
            }
            encoder.page(pgno, &page)?;
        }
        Ok(encoder)
    }

    /// Writes a snapshot of the state `end`. `read` fills in one page. A generation's first one is a part of its
    /// history, and lies in the spool as such.
    pub fn snapshot(
        &self,
        end: Mark,
        committed_at: UnixMs,
        mut read: impl FnMut(u32, &mut [u8]) -> Result<(), CaptureError>,
    ) -> Result<Segment, CaptureError> {
        let header = Header {
            no_checksum: false,
            page_size: end.page_size,
            commit: end.commit,
            min_txid: 1,
            max_txid: end.txid,
            timestamp_ms: end.time_ms,
            pre_apply_checksum: 0,
            wal_offset: 0,
            wal_size: 0,
            wal_salt: (0, 0),
            node_id: self.node_id,
        };
        let path = match end.seq {
            0 => self
                .spool
                .path_of(self.id, end.generation, (end.txid, end.txid)),
            seq => self.spool.snapshot_path(self.id, end.generation, seq),
        };
        let mut encoder = Encoder::new(self.sink(&path, &end, end.commit as usize)?, header)?;
        let mut page = vec![0; end.page_size as usize];
        let lock = lock_page(end.page_size);
        for pgno in (1..=end.commit).filter(|pgno| *pgno != lock) {
            read(pgno, &mut page)?;
            encoder.page(pgno, &page)?;
        }
        let segment = self.finish(encoder, end.txid, end, committed_at, Vec::new())?;
        Ok(Segment {
            snapshot: true,
            ..segment
        })
    }

    fn sink(&self, path: &Path, end: &Mark, pages: usize) -> Result<Sink<'_>, CaptureError> {
        let most = pages as u64 * u64::from(end.page_size);
        if most <= self.memory_bytes && self.replaced_bytes.is_none() {
            return Ok(Sink::in_memory(most));
        }
        Ok(Sink::Spool(match self.replaced_bytes {
            None => self.spool.write(path, most)?,
            Some(bytes) => self.spool.write_in_place_of(path, bytes)?,
        }))
    }

    fn finish(
        &self,
        encoder: Encoder<Sink<'_>>,
        first_txid: u64,
        end: Mark,
        committed_at: UnixMs,
        sums: Vec<PageSum>,
    ) -> Result<Segment, CaptureError> {
        let (sink, trailer) = encoder.finish(end.checksum.value())?;
        let (body, size) = sink.finish()?;
        Ok(Segment {
            first_txid,
            end,
            snapshot: false,
            committed_at,
            body,
            size,
            file_checksum: trailer.file_checksum,
            sums: sums.into(),
            durable: false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::page_sums::{PageSums, SumsHeader};
    use crate::format::wal::Position;
    use crate::store::keys::GenerationId;

    fn transaction(commit: u32, pages: &[(u32, u64)]) -> Transaction {
        Transaction {
            commit,
            pages: pages
                .iter()
                .map(|&(pgno, offset)| PageRef { pgno, offset })
                .collect(),
            end: Position {
                offset: 0,
                checksum: (0, 0),
            },
        }
    }

    /// Runs of pages and single ones, some of them in memory only, some new, in a database that grows and shrinks.
    #[test]
    fn the_checksum_is_that_of_the_pages_that_are_there_afterwards() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut table = PageSums::new(dir.path().into(), 1);
        let mut sums: Vec<u64> = (1..=10_000).map(|pgno| 1 << 63 | pgno << 8).collect();
        let header = SumsHeader {
            generation: GenerationId(7),
            txid: 1,
            checksum: 0,
            commit: 10_000,
            page_size: 512,
        };
        table.rewrite(&header, &sums).expect("rewrite");
        table.lay_over(1, &[(5, 1 << 63 | 55), (9_999, 1 << 63 | 56)]);
        (sums[4], sums[9_998]) = (1 << 63 | 55, 1 << 63 | 56);
        let of_all = |sums: &[u64]| {
            let mut checksum = DatabaseChecksum::EMPTY;
            sums.iter().for_each(|sum| toggle(&mut checksum, *sum));
            checksum
        };
        let before = Mark {
            generation: GenerationId(7),
            seq: 1,
            txid: 1,
            checksum: of_all(&sums),
            commit: 10_000,
            page_size: 512,
            time_ms: 0,
            wal: None,
        };
        let reader = table.reader();
        for commit in [10_000, 10_003, 9_000] {
            let changed = [
                2..8,
                100..101,
                102..103,
                600..8_900,
                9_998..10_001,
                10_001..10_004,
            ];
            let changed = changed.into_iter().flatten();
            let changed: Vec<PageSum> = changed
                .filter(|pgno| *pgno <= commit)
                .map(|pgno| (pgno, 1 << 63 | u64::from(pgno) << 9 | 1))
                .collect();
            let mut after = sums.clone();
            after.resize(commit as usize, 0);
            for (pgno, sum) in &changed {
                after[*pgno as usize - 1] = *sum;
            }
            let checksum = checksum_after(&before, commit, &changed, &reader).expect("read");
            assert_eq!(checksum, of_all(&after), "{commit}");
        }
    }

    #[test]
    fn the_newest_version_of_a_page_counts_and_none_past_the_end() {
        let pages = newest_pages(
            &[
                transaction(5, &[(3, 56), (5, 1_000), (3, 2_000)]),
                transaction(4, &[(1, 3_000), (5, 4_000)]),
            ],
            4096,
        );
        let found: Vec<_> = pages.iter().map(|page| (page.pgno, page.offset)).collect();
        assert_eq!(found, [(1, 3_000), (3, 2_000)]);
    }
}
