//! What an image leads the history on to: a new generation, one segment of what differs, or nothing.

use super::Shared;
use super::copy::Image;
use super::database::Database;
use super::error::CaptureError;
use super::history::{History, sums_header};
use super::mark::{Mark, PageSum, WalMark};
use super::segment::{Draft, checksum_after};
use crate::clock::now_ms;
use crate::format::ltx::DatabaseChecksum;
use crate::store::keys::GenerationId;

/// So many pages may differ in one segment at least: their sums, and what is noted of them, take some 115 bytes each.
const MOST_DIFFERING: usize = 65_536;
const BYTES_OF_DIFFERING: u64 = 128;

/// How many pages a comparison of a database may find to differ, before a new generation takes less memory than a segment.
fn most_differing(memory_bytes: u64) -> usize {
    usize::try_from(memory_bytes / BYTES_OF_DIFFERING)
        .map_or(usize::MAX, |most| most.max(MOST_DIFFERING))
}

/// What a comparison has found.
enum Compared {
    Work(Work),
    /// More pages differ than are kept apart.
    TooMuch,
    /// The page sums are not those of the captured state.
    SumsAreWrong,
}

/// What has to be written down once the image is whole.
pub(super) enum Work {
    Nothing,
    Snapshot(Mark),
    Difference {
        draft: Draft,
        /// The file was suspected to be written past SQLite.
        is_suspected: bool,
    },
}

impl History {
    /// From the captured state to the one that the image shows.
    pub(super) fn carry_on(
        &mut self,
        db: &Database,
        shared: &Shared,
        image: &Image,
        commit: u32,
        wal: Option<WalMark>,
    ) -> Result<Work, CaptureError> {
        match self.mark {
            Some(before) if self.is_behind(image, &before) => {
                self.fall_behind(db, &before);
                self.begin_generation(shared, image, commit, wal)
            }
            Some(before) if before.page_size == image.page_size => {
                let most = most_differing(db.policy().limits.memory_bytes);
                match self.compare(image, before, commit, wal, most)? {
                    Compared::Work(work) => return Ok(work),
                    Compared::TooMuch => tracing::info!(
                        client = %db.label(),
                        pages = commit,
                        "More of a database differs than one segment may hold; a new generation begins"
                    ),
                    Compared::SumsAreWrong => tracing::error!(
                        "The page sums do not add up to the database's checksum; a new generation begins"
                    ),
                }
                self.begin_generation(shared, image, commit, wal)
            }
            _ => self.begin_generation(shared, image, commit, wal),
        }
    }

    fn begin_generation(
        &mut self,
        shared: &Shared,
        image: &Image,
        commit: u32,
        wal: Option<WalMark>,
    ) -> Result<Work, CaptureError> {
        let generation = GenerationId::next(now_ms(), self.newest_generation, shared.random_bits());
        let end = Mark {
            generation,
            seq: 0,
            txid: self.last_txid + 1,
            checksum: image.checksum(),
            commit,
            page_size: image.page_size,
            time_ms: self.next_time(),
            wal,
        };
        let table = self.sums.as_mut().expect("BUG: loaded without page sums");
        table
            .rewrite(&sums_header(&end), &image.sums)
            .map_err(CaptureError::io("write the page sums"))?;
        self.newest_generation = Some(generation);
        self.reach(end.txid);
        self.mark = Some(end);
        Ok(Work::Snapshot(end))
    }

    /// What differs from the captured state becomes one transaction; nothing does where nothing differs.
    fn compare(
        &mut self,
        image: &Image,
        before: Mark,
        commit: u32,
        wal: Option<WalMark>,
        most: usize,
    ) -> Result<Compared, CaptureError> {
        let table = self.sums.as_ref().expect("BUG: a mark without page sums");
        let failed = || CaptureError::io("compare the page sums");
        let mut sums = Vec::new();
        let reader = table.reader();
        reader
            .range(1, commit, &mut |pgno, old| {
                let old = if pgno > before.commit { 0 } else { old };
                let new = image.sums[pgno as usize - 1];
                let differs = new != old && new != 0;
                if differs && sums.len() <= most {
                    sums.push((pgno, new));
                }
            })
            .map_err(failed())?;
        if sums.len() > most {
            return Ok(Compared::TooMuch);
        }
        let checksum = checksum_after(&before, commit, &sums, &reader).map_err(failed())?;
        if checksum != image.checksum() {
            return Ok(Compared::SumsAreWrong);
        }
        let draft = self.advance((before, checksum), commit, wal, sums);
        let is_suspected = self.suspects_file();
        Ok(Compared::Work(draft.map_or(Work::Nothing, |draft| {
            Work::Difference {
                draft,
                is_suspected,
            }
        })))
    }

    /// Carries the history on by one transaction, from `before` to a state of that checksum; none where nothing differs.
    pub(super) fn advance(
        &mut self,
        (before, checksum): (Mark, DatabaseChecksum),
        commit: u32,
        wal: Option<WalMark>,
        sums: Vec<PageSum>,
    ) -> Option<Draft> {
        if sums.is_empty() && commit == before.commit {
            self.mark = Some(Mark { wal, ..before });
            return None;
        }
        let end = Mark {
            seq: before.seq + 1,
            txid: before.txid + 1,
            checksum,
            commit,
            time_ms: self.next_time(),
            wal,
            ..before
        };
        self.sums
            .as_mut()
            .expect("BUG: a mark without page sums")
            .lay_over(end.seq, &sums);
        self.mark = Some(end);
        self.reach(end.txid);
        Some(Draft { before, end, sums })
    }
}
