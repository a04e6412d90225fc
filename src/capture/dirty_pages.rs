//! Compares of a database without a log those pages alone that were written since it was last compared, where every
//! write was seen: what a commit costs then does not grow with the database.
//!
//! The rules are those of an image: no journal is there or comes up, and nobody writes the file meanwhile. It is read under
//! the database's lock, since it is little.

use std::collections::HashMap;
use std::fs::File;

use super::Shared;
use super::backing::{read_up_to, stamp_of};
use super::database::Database;
use super::error::CaptureError;
use super::files::is_quiet;
use super::files::{Log, open_log, read_header};
use super::history::History;
use super::mark::Mark;
use super::segment::{WalExtent, checksum_after};
use crate::clock::UnixMs;
use crate::format::ltx::page_checksum;

/// Captures what was written; false where only the whole file tells.
pub(super) fn compare(db: &Database, shared: &Shared, since: UnixMs) -> Result<bool, CaptureError> {
    let mut history = db.history();
    history.load(db, shared)?;
    let Some(before) = history.base_of_writes(db) else {
        return Ok(false);
    };
    let changes = db.changes();
    if shared.hot_journal(db)?.is_some() {
        return Ok(false);
    }
    let open = shared.backing.open(&db.path);
    let Some(file) = open.map_err(CaptureError::io("open the database"))? else {
        return Ok(false);
    };
    let stamp = stamp_of(&file).map_err(CaptureError::io("look at the database"))?;
    let (Log::None, Some(header)) = (open_log(db, shared)?, read_header(db, shared)?) else {
        return Ok(false);
    };
    if header.page_size != before.page_size {
        return Ok(false);
    }
    let by_journal = changes != history.seen_changes;
    if !by_journal && !is_quiet(db, shared, &stamp)? {
        return Err(CaptureError::Disturbed);
    }
    let Some((bytes, moment)) = db.writes().known(stamp.size) else {
        return Ok(false);
    };
    let in_file = u32::try_from(stamp.size / u64::from(header.page_size)).unwrap_or(u32::MAX);
    let commit = header.pages.map_or(in_file, |pages| pages.min(in_file));
    let grown = u64::from(commit.saturating_sub(before.commit)) * u64::from(header.page_size);
    let room = db.policy().limits.memory_bytes;
    if bytes.saturating_add(grown) > room {
        return Ok(false);
    }
    let touched = db.writes().pages(before.page_size, before.commit, commit);
    db.take_touched();
    let differing = history.differing(&file, &before, &touched)?;

    let unchanged = shared.backing.stamp(&db.path);
    let unchanged = unchanged.map_err(CaptureError::io("look at the database"))? == stamp;
    let hot = shared.hot_journal(db)?.is_some();
    if !unchanged || hot || db.changes() != changes || db.is_gate_missed() {
        return Err(CaptureError::Disturbed);
    }
    history.seen_changes = changes;
    history.seen_stamp = stamp;
    history.at_rest = Some(stamp);
    history.log_ended = false;
    db.set_captured_end(0);
    if !differing.is_empty() {
        db.note_boundaries(by_journal);
    }
    history.take_over(db, shared, (before, commit), differing, since)?;
    db.note_hot_journal(false, false);
    db.writes().compared(moment);
    history.report(db);
    Ok(true)
}

/// Pages by their numbers, with their sums.
type Differing = Vec<(u32, u64, Vec<u8>)>;

impl History {
    /// The state that what was written is compared with; none where the whole file has to be.
    fn base_of_writes(&self, db: &Database) -> Option<Mark> {
        let is_plain = self.resync.is_none()
            && self.unconfirmed.is_none()
            && self.making.is_none()
            && self.image.is_none()
            && !self.is_encrypted
            && !db.is_gate_missed();
        let log_is_gone = |mark: &Mark| mark.wal.is_none() || self.log_ended;
        self.mark.filter(|mark| is_plain && log_is_gone(mark))
    }

    fn differing(
        &self,
        file: &File,
        before: &Mark,
        touched: &[u32],
    ) -> Result<Differing, CaptureError> {
        let table = self.sums.as_ref().expect("BUG: a mark without page sums");
        let failed = || CaptureError::io("compare the pages that were written");
        let reader = table.reader();
        let mut page = vec![0; before.page_size as usize];
        let mut found = Vec::new();
        for &pgno in touched {
            let at = u64::from(pgno - 1) * u64::from(before.page_size);
            page.fill(0);
            read_up_to(file, &mut page, at).map_err(failed())?;
            let new = page_checksum(pgno, &page);
            let is_new = pgno > before.commit;
            if is_new || reader.sum(pgno).map_err(failed())? != new {
                found.push((pgno, new, page.clone()));
            }
        }
        Ok(found)
    }

    /// Makes the segment of the pages that differ; none does where none differs.
    fn take_over(
        &mut self,
        db: &Database,
        shared: &Shared,
        (before, commit): (Mark, u32),
        differing: Differing,
        since: UnixMs,
    ) -> Result<(), CaptureError> {
        let sums: Vec<_> = differing
            .iter()
            .map(|(pgno, sum, _)| (*pgno, *sum))
            .collect();
        let table = self.sums.as_ref().expect("BUG: a mark without page sums");
        let checksum = checksum_after(&before, commit, &sums, &table.reader())
            .map_err(CaptureError::io("read the page sums"))?;
        let Some(draft) = self.advance((before, checksum), commit, None, sums) else {
            return Ok(());
        };
        self.tail = draft.sums.clone().into();
        self.making = Some(Box::new(draft.end));
        let pages: HashMap<u32, Vec<u8>> = differing
            .into_iter()
            .map(|(pgno, _, page)| (pgno, page))
            .collect();
        let read = |pgno: u32, page: &mut [u8]| {
            page.copy_from_slice(&pages[&pgno]);
            Ok(())
        };
        let segment = self
            .press(db, shared)
            .segment(draft, WalExtent::default(), since, read)?;
        self.making = None;
        self.push(db, shared, segment)
    }
}
