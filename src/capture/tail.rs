//! The end of a log that is about to be destroyed: whether the database's file has it, and what of it nobody has seen.

use std::collections::HashSet;
use std::sync::Arc;

use super::Shared;
use super::backing::read_up_to;
use super::database::Database;
use super::drain::{SAMPLE_PAGES, TAIL_PAGES, committed_extent};
use super::error::CaptureError;
use super::history::History;
use super::mark::{PageSum, WalMark};
use super::segment::newest_pages;
use super::wal_reader::WalReader;
use crate::format::ltx::page_checksum;
use crate::format::scanner::Transaction;

/// Pages that transactions of the next log have changed, or taken away.
pub(super) struct Newer {
    pages: HashSet<u32>,
    /// The database had no more pages after one of them.
    size: u32,
}

impl Newer {
    pub fn of(transactions: &[Transaction]) -> Self {
        let pages = transactions.iter().flat_map(|one| &one.pages);
        let sizes = transactions.iter().map(|one| one.commit);
        Self {
            pages: pages.map(|page| page.pgno).collect(),
            size: sizes.min().unwrap_or(u32::MAX),
        }
    }

    fn may_have(&self, pgno: u32) -> bool {
        pgno > self.size || self.pages.contains(&pgno)
    }
}

impl History {
    /// Whether the database's file has the pages that were captured last, as it has before a log is destroyed in order,
    /// but for those that the next log has already.
    pub(super) fn tail_is_in(
        &self,
        db: &Database,
        shared: &Shared,
        pages: usize,
        newer: &Newer,
    ) -> Result<bool, CaptureError> {
        Ok(self.missing_of_tail(db, shared, pages, newer)?.is_empty())
    }

    fn missing_of_tail(
        &self,
        db: &Database,
        shared: &Shared,
        pages: usize,
        newer: &Newer,
    ) -> Result<Vec<u32>, CaptureError> {
        let is_there = |(pgno, _): &PageSum| !newer.may_have(*pgno);
        let tail = self.tail.iter().copied().filter(is_there).take(pages);
        let tail: Vec<PageSum> = tail.collect();
        match self.mark {
            Some(mark) => missing_in_file(db, shared, mark.page_size, tail.into_iter()),
            None => Ok(Vec::new()),
        }
    }

    /// The same where the next log goes on: `transactions` were read of it, from `from` on, and a checkpoint may have
    /// written what was committed since.
    pub(super) fn tail_was_written(
        &self,
        db: &Database,
        shared: &Shared,
        log: &mut WalReader,
        from: WalMark,
        transactions: &[Transaction],
    ) -> Result<bool, CaptureError> {
        let newer = Newer::of(transactions);
        let missing = self.missing_of_tail(db, shared, SAMPLE_PAGES, &newer)?;
        if missing.is_empty() {
            return Ok(true);
        }
        let Some(extent) = committed_extent(db, shared, log, false)? else {
            // Nothing can be said now; a further snapshot looks at each page.
            return Ok(true);
        };
        let later = log.transactions(from.position, extent.end.min(log.len));
        let newer = Newer::of(&later.map_err(CaptureError::io("read the log"))?);
        Ok(missing.into_iter().all(|pgno| newer.may_have(pgno)))
    }

    /// Keeps the raw frames of a commit that no live connection has seen and that is about to be destroyed: SQLite's
    /// own recovery would have taken it. Never removed by the program. Bytes of the log before `kept` stay in it.
    pub(super) fn keep_doubtful(
        &self,
        db: &Database,
        shared: &Shared,
        log: &mut WalReader,
        from: WalMark,
        kept: u64,
    ) -> Result<(), CaptureError> {
        let tail = log
            .transactions(from.position, log.len)
            .map_err(CaptureError::io("read the log's tail"))?;
        let Some(end) = tail
            .last()
            .map(|last| last.end.offset)
            .filter(|end| *end > kept)
        else {
            return Ok(());
        };
        let path = shared
            .spool
            .doubtful_path(self.id, from.salt, from.position.offset);
        let most = end - from.position.offset;
        let mut writer = shared.spool.write(&path, most)?;
        log.copy_frames(from.position.offset, end, &mut writer)
            .map_err(CaptureError::io("keep an unpublished commit"))?;
        let bytes = writer.keep()?;
        tracing::warn!(
            client = %db.label(),
            bytes,
            file = %path.display(),
            "A commit that no connection has seen was overwritten; its frames are kept"
        );
        Ok(())
    }
}

/// Those of these pages that the database's file does not have.
fn missing_in_file(
    db: &Database,
    shared: &Shared,
    page_size: u32,
    pages: impl ExactSizeIterator<Item = PageSum>,
) -> Result<Vec<u32>, CaptureError> {
    if pages.len() == 0 {
        return Ok(Vec::new());
    }
    let failed = || CaptureError::io("compare the database with its log");
    let Some(file) = shared.backing.open(&db.path).map_err(failed())? else {
        return Ok(pages.map(|(pgno, _)| pgno).collect());
    };
    let mut page = vec![0; page_size as usize];
    let mut missing = Vec::new();
    for (pgno, sum) in pages {
        let at = u64::from(pgno - 1) * u64::from(page_size);
        let read = read_up_to(&file, &mut page, at).map_err(failed())?;
        if read < page.len() || page_checksum(pgno, &page) != sum {
            missing.push(pgno);
        }
    }
    Ok(missing)
}

/// The sums of those pages that the last of a stretch's transactions changed.
pub(super) fn of(sums: &[PageSum], last: &Transaction) -> Arc<[PageSum]> {
    let mut changed: Vec<u32> = last.pages.iter().map(|page| page.pgno).collect();
    changed.sort_unstable();
    let in_last = |(pgno, _): &&PageSum| changed.binary_search(pgno).is_ok();
    sums.iter().filter(in_last).copied().collect()
}

/// Whether the file has the pages of a transaction, as it has before its log is destroyed in order.
pub(super) fn is_checkpointed(
    db: &Database,
    shared: &Shared,
    log: &WalReader,
    transaction: &Transaction,
) -> Result<bool, CaptureError> {
    let page_size = log.header.page_size;
    let mut page = vec![0; page_size as usize];
    let mut sums = Vec::new();
    let pages = newest_pages(std::slice::from_ref(transaction), page_size);
    for found in pages.into_iter().take(TAIL_PAGES) {
        log.page(found, &mut page)
            .map_err(CaptureError::io("read a page of the log"))?;
        sums.push((found.pgno, page_checksum(found.pgno, &page)));
    }
    Ok(missing_in_file(db, shared, page_size, sums.into_iter())?.is_empty())
}
