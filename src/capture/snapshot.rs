//! A further snapshot of a generation, made while its capture goes on.
//!
//! The file is copied at leisure. Then, at a moment when all that is committed is captured, each page whose sum is not
//! the one that the history has for it is looked for again: in the log up to the last captured frame, else in the
//! file. Nothing is assumed about who wrote what when: every page is proven by its sum, and all of them by the
//! database's checksum.

use std::collections::HashMap;
use std::fs::File;
use std::sync::Arc;

use super::Shared;
use super::backing::read_up_to;
use super::copy::{CHUNK, Image, Read};
use super::database::Database;
use super::drain::Next;
use super::error::CaptureError;
use super::files::{Log, open_log};
use super::history::History;
use super::mark::{Mark, Segment};
use super::merge::Number;
use super::segment::newest_pages;
use super::state::SnapshotNote;
use super::wal_reader::WalReader;
use super::workers;
use crate::clock::now_ms;
use crate::format::ltx::{lock_page, page_checksum};

/// How often a checkpoint may come between a look at the log and the pages that are missing.
const ATTEMPTS: usize = 10;

/// What came of it.
#[derive(Debug)]
pub enum Made {
    /// A segment that is not part of what waits, and has the number of one that is: to be kept together.
    Snapshot(Segment, Number),
    /// The newest captured state has its snapshot in the store, or waits for the one that it begins with.
    Nothing { newest_txid: u64 },
}

/// Makes a snapshot of a captured state.
///
/// # Errors
/// `Disturbed` where the file was changed past its history meanwhile; it may be tried again.
pub(super) fn make(db: &Arc<Database>, shared: &Shared) -> Result<Made, CaptureError> {
    let nothing = || {
        let newest_txid = db.history().snapshot_txid();
        Ok(Made::Nothing { newest_txid })
    };
    let file = shared.backing.open(&db.path);
    let Some(file) = file.map_err(CaptureError::io("open the database"))? else {
        return nothing();
    };
    let Some(page_size) = look(db, shared)?.map(|mark| mark.page_size) else {
        return nothing();
    };
    let mut read = |bytes: &mut [u8], at: u64| read_up_to(&file, bytes, at);
    let mut image = copy(&mut read, &file, db, shared, page_size, CHUNK)?;
    let Some((end, number)) = prove(&mut image, &file, db, shared)? else {
        return nothing();
    };
    let press = db.history().press(db, shared);
    press
        .snapshot(end, now_ms(), |pgno, page| image.get(pgno, page))
        .map(|segment| Made::Snapshot(segment, number))
}

/// Captures what is committed. The state that the history then has; none where there is none, or it has its snapshot.
fn look(db: &Arc<Database>, shared: &Shared) -> Result<Option<Mark>, CaptureError> {
    if workers::drain(db, shared)?.next == Next::Image {
        return Err(CaptureError::Disturbed);
    }
    Ok(db.history().mark_without_snapshot())
}

fn copy(
    read: Read<'_>,
    file: &File,
    db: &Database,
    shared: &Shared,
    page_size: u32,
    chunk: usize,
) -> Result<Image, CaptureError> {
    let size = file
        .metadata()
        .map_err(CaptureError::io("look at the database"))?
        .len();
    let is_wanted = || !db.is_removed();
    Image::read(
        read,
        shared,
        db.policy().limits.memory_bytes,
        page_size,
        size,
        chunk,
        &is_wanted,
    )
}

/// Makes the image that of a captured state, which is given back.
fn prove(
    image: &mut Image,
    file: &File,
    db: &Arc<Database>,
    shared: &Shared,
) -> Result<Option<(Mark, Number)>, CaptureError> {
    for _ in 0..ATTEMPTS {
        let Some(_) = look(db, shared)? else {
            return Ok(None);
        };
        let mut history = db.history();
        let Some(mark) = history.mark_without_snapshot() else {
            return Ok(None);
        };
        if mark.page_size != image.page_size {
            return Err(CaptureError::Disturbed);
        }
        if history.replace_unproven(image, &mark, file, db, shared)? {
            return Ok(Some((mark, history.numbers.rely_on(&mark))));
        }
    }
    if !db.is_holding() {
        db.history().suspect_file(db);
    }
    Err(CaptureError::Disturbed)
}

impl History {
    /// Whether the newest snapshot in the store is of this very state.
    fn has_snapshot_of(&self, mark: &Mark) -> bool {
        let place = |known: SnapshotNote| (known.generation, known.seq);
        self.snapshot.map(place) == Some((mark.generation, mark.seq))
    }

    /// The newest transaction of the stored history, where that has its snapshot; else 0.
    fn snapshot_txid(&self) -> u64 {
        self.stored
            .filter(|stored| self.has_snapshot_of(stored))
            .map_or(0, |stored| stored.txid)
    }

    /// The newest captured state, unless that has its snapshot.
    fn mark_without_snapshot(&self) -> Option<Mark> {
        self.mark.filter(|mark| !self.has_snapshot_of(mark))
    }

    /// Replaces each page that is not that of the state `mark`. False where the page was not found.
    fn replace_unproven(
        &self,
        image: &mut Image,
        mark: &Mark,
        file: &File,
        db: &Database,
        shared: &Shared,
    ) -> Result<bool, CaptureError> {
        let unproven = self.unproven(image, mark)?;
        let log = captured_log(mark, db, shared)?;
        let mut page = vec![0; image.page_size as usize];
        for (pgno, sum) in unproven {
            if !find_page(pgno, sum, &log, file, &mut page)? {
                return Ok(false);
            }
            image
                .put(pgno, &page)
                .map_err(CaptureError::io("write the image"))?;
        }
        image.set_size(mark.commit)?;
        // Every page has the sum that the table says; the table itself may be wrong.
        Ok(image.checksum() == mark.checksum)
    }

    /// The pages of the state `mark` that the image has not, with their sums.
    fn unproven(&self, image: &Image, mark: &Mark) -> Result<Vec<(u32, u64)>, CaptureError> {
        let failed = || CaptureError::io("read the page sums");
        let table = self.sums.as_ref().expect("BUG: a mark without page sums");
        let lock = lock_page(mark.page_size);
        let mut unproven = Vec::new();
        table
            .reader()
            .range(1, mark.commit, &mut |pgno, sum| {
                if pgno != lock && image.sums.get(pgno as usize - 1) != Some(&sum) {
                    unproven.push((pgno, sum));
                }
            })
            .map_err(failed())?;
        Ok(unproven)
    }

    /// A further snapshot is in the store. What has come after it is not counted apart from what was before: the
    /// segments that were stored while it was made are few.
    pub(super) fn snapshot_stored(
        &mut self,
        shared: &Shared,
        segment: &Segment,
    ) -> Result<(), CaptureError> {
        let (generation, seq) = (segment.end.generation, segment.end.seq);
        let is_newer = self
            .snapshot
            .is_none_or(|known| (known.generation, known.seq) < (generation, seq));
        if !is_newer {
            return Ok(());
        }
        let is_newest = self
            .stored
            .is_some_and(|stored| (stored.generation, stored.seq) == (generation, seq));
        let note = SnapshotNote {
            generation,
            seq,
            stored_at: now_ms(),
            // One byte says that there is something.
            log_bytes: u64::from(!is_newest),
        };
        shared.state.save_snapshot(self.id, &note)?;
        self.snapshot = Some(note);
        Ok(())
    }
}

/// The present log, and where in it the newest captured version of each page stands.
type CapturedLog = Option<(WalReader, HashMap<u32, u64>)>;

fn captured_log(mark: &Mark, db: &Database, shared: &Shared) -> Result<CapturedLog, CaptureError> {
    let (Some(place), Log::Valid(mut log)) = (mark.wal, open_log(db, shared)?) else {
        return Ok(None);
    };
    if log.header.salt != place.salt {
        return Ok(None);
    }
    let transactions = log
        .transactions(log.header.start(), place.position.offset)
        .map_err(CaptureError::io("read the log"))?;
    let pages = newest_pages(&transactions, mark.page_size);
    let offsets = pages.iter().map(|page| (page.pgno, page.offset)).collect();
    Ok(Some((log, offsets)))
}

/// Reads the version of a page that has this sum: from the log, else from the file.
fn find_page(
    pgno: u32,
    sum: u64,
    log: &CapturedLog,
    file: &File,
    page: &mut [u8],
) -> Result<bool, CaptureError> {
    if let Some((log, offsets)) = log
        && let Some(&offset) = offsets.get(&pgno)
    {
        let place = crate::format::scanner::PageRef { pgno, offset };
        log.page(place, page)
            .map_err(CaptureError::io("read a page of the log"))?;
        if page_checksum(pgno, page) == sum {
            return Ok(true);
        }
    }
    let at = u64::from(pgno - 1) * page.len() as u64;
    page.fill(0);
    read_up_to(file, page, at).map_err(CaptureError::io("read the database"))?;
    Ok(page_checksum(pgno, page) == sum)
}

#[cfg(test)]
mod tests;
