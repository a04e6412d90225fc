//! Makes the segment of a large transaction, or of the many that were read ahead, while their log is being synced: ahead
//! of the commit's publication, and of the gate that would have to wait for it.
//!
//! SQLite syncs a log before it publishes a commit that is to last, and before it checkpoints. By then the
//! frames stand in the log. What is made of them is put aside in the spool, and captured only by the look or the gate
//! that finds them committed, and finds them still to be the same frames; else it is thrown away.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::io::pread;

use super::authority::Index;
use super::error::CaptureError;
use super::files::{Log, open_log, refuse_replaced};
use super::history::History;
use super::mark::{Mark, WalMark};
use super::read_ahead::Followed;
use super::segment::{MadeAhead, newest_pages, read_page, sums_of};
use super::wal_reader::WalReader;
use super::workers::counted;
use super::{Capture, Shared, database::Database};
use crate::clock::UnixMs;
use crate::fault::Point;
use crate::format::scanner::{PageRef, Transaction};
use crate::format::wal::{FRAME_HEADER_SIZE, FrameHeader, HEADER_SIZE, WalHeader};
use crate::tenant::policy::Durability;

/// Bytes of a log, for fewer of which a gate is quick enough.
const MUCH: u64 = if cfg!(test) { 16 << 10 } else { 1 << 20 };
/// With more of them than these the database's gates would wait too long for what may be thrown away.
const MOST: u64 = 64 << 20;

/// A segment that is not captured yet.
#[derive(Debug)]
pub(super) struct Prepared {
    header: WalHeader,
    from: WalMark,
    end: WalMark,
    /// What was read, from `from` to `end`.
    followed: Option<Box<Followed>>,
    first_page: Option<PageRef>,
    segment: MadeAhead,
}

impl Prepared {
    /// Whether it goes on from there in this log, where the history stands at `mark`.
    fn leads(&self, log: &WalReader, from: WalMark, mark: &Mark) -> bool {
        let before = &self.segment.draft.before;
        // What waits may have been numbered anew.
        let is_same = Mark {
            seq: mark.seq,
            ..*before
        } == *mark;
        is_same && (self.header, self.from) == (log.header, from)
    }
}

impl History {
    /// Makes a segment of all that follows in the log, where that is much, and captures nothing.
    pub(super) fn prepare(&mut self, db: &Database, shared: &Shared) -> Result<(), CaptureError> {
        let is_followed = self.image.is_none() && self.making.is_none() && !db.is_removed();
        let Some(mark) = self.mark.filter(|_| is_followed && self.goes_on_by_log(db)) else {
            return Ok(());
        };
        // Where the chain alone says what is committed, nothing may be taken that was read before.
        let index = db.index(&shared.backing);
        let index = index.map_err(CaptureError::io("read the wal-index"))?;
        let (Index::Live(index), Log::Valid(mut log)) = (index, open_log(db, shared)?) else {
            return Ok(());
        };
        let from = self.goes_on_from(&mark, &log);
        let is_sound = log.header.page_size == mark.page_size;
        let Some(from) = from.filter(|from| is_sound && self.may_prepare(&log, *from, &mark))
        else {
            return Ok(());
        };
        self.prepared = None;
        if !is_worth_preparing(&log, from)? {
            return Ok(());
        }
        let most = match db.policy().sync_interval.is_zero() {
            true => 1,
            false => usize::MAX,
        };
        let published = match index.salt == log.header.salt {
            true => log.header.end_of_frame(index.max_frame).min(log.len),
            false => 0,
        };
        let (followed, sums) = match self.take_read_ahead(&log, from, published)? {
            Some(mut followed) => {
                followed.go_on(&mut log, published)?;
                (followed, None)
            }
            None => {
                let mut followed = Box::new(Followed::begin(&log, from));
                let end = log.len;
                let sums = followed.go_on_summing(&mut log, end, most)?;
                (followed, Some(sums))
            }
        };
        if followed.transactions.len() > most {
            // Each of them becomes a segment of its own, which what was read ahead spares some work. What was read now leads behind
            // what is published, and may be written over before that is.
            self.followed = sums.is_none().then_some(followed);
            return Ok(());
        }
        let last = followed.transactions.last();
        // With a transaction behind it that has not ended somebody else writes.
        let Some(last) = last.filter(|last| last.end.offset == followed.offset()) else {
            return Ok(());
        };
        let end = WalMark {
            salt: from.salt,
            position: last.end,
        };
        self.prepared = self.make_ahead(db, shared, &log, (from, end), followed, sums)?;
        Ok(())
    }

    /// Whether nothing that was prepared leads on from there already.
    fn may_prepare(&self, log: &WalReader, from: WalMark, mark: &Mark) -> bool {
        let known = self.prepared.as_ref();
        !known.is_some_and(|known| known.leads(log, from, mark))
    }

    /// What was read ahead, where that is nearly all of what is published.
    fn take_read_ahead(
        &mut self,
        log: &WalReader,
        from: WalMark,
        published: u64,
    ) -> Result<Option<Box<Followed>>, CaptureError> {
        let known = self.followed.take();
        let Some(known) = known.filter(|known| known.leads(log, from, published)) else {
            return Ok(None);
        };
        let is_more = log.reaches(known.offset(), MUCH);
        let is_more = is_more.map_err(CaptureError::io("look at the log"))?;
        Ok(Some(known).filter(|_| !is_more))
    }

    /// None where it can't be followed.
    fn make_ahead(
        &self,
        db: &Database,
        shared: &Shared,
        log: &WalReader,
        (from, to): (WalMark, WalMark),
        followed: Box<Followed>,
        frame_sums: Option<Vec<u64>>,
    ) -> Result<Option<Box<Prepared>>, CaptureError> {
        let group = &followed.transactions;
        let pages = newest_pages(group, log.header.page_size);
        let frame_of = |page: &PageRef| {
            let at = page.offset - FRAME_HEADER_SIZE - from.position.offset;
            (at / log.header.frame_size()) as usize
        };
        let sums = match frame_sums {
            Some(known) => {
                let sum_of = |page: &PageRef| (page.pgno, known[frame_of(page)]);
                pages.iter().map(sum_of).collect()
            }
            None => sums_of(log, &pages)?,
        };
        let (draft, extent) = match self.draft((from, to), group, sums) {
            Err(CaptureError::Holes { .. }) => return Ok(None),
            drafted => drafted?,
        };
        let mut places = pages.iter();
        // Each page has to be as it was when its frame was found in order.
        let segment =
            self.press(db, shared)
                .segment_ahead(&shared.spool, draft, extent, |_, buffer| {
                    let place = *places.next().expect("BUG: a sum without a page");
                    read_page(log, place, buffer)
                })?;
        refuse_replaced(log)?;
        Ok(Some(Box::new(Prepared {
            header: log.header,
            from,
            end: to,
            followed: Some(followed),
            first_page: pages.first().copied(),
            segment,
        })))
    }

    /// What was prepared, where the log is committed up to its end by now, which is `end` or before, and shows the same
    /// frames. It stays where it may still be committed.
    pub(super) fn take_prepared(
        &mut self,
        log: &WalReader,
        from: WalMark,
        end: u64,
        by_chain: bool,
    ) -> Result<Option<Box<Prepared>>, CaptureError> {
        let (Some(known), Some(mark)) = (self.prepared.take(), self.mark) else {
            return Ok(None);
        };
        if !known.leads(log, from, &mark) {
            return Ok(None);
        }
        if end < known.end.position.offset {
            self.prepared = Some(known);
            return Ok(None);
        }
        // What is published was written in order up to there, so that the last frame's checksum tells of all. The chain alone
        // may end before: a frame in the middle may be of another transaction, whose writer has died.
        let is_same = !by_chain
            && log
                .chains(&known.end)
                .map_err(CaptureError::io("look at the log"))?;
        let mut taken = is_same.then_some(known);
        if let Some(taken) = &mut taken {
            self.followed = taken.followed.take();
        }
        Ok(taken)
    }

    /// Captures what was prepared, where the committed transactions begin with it. Gives how many of them these are, and where
    /// they end.
    pub(super) fn capture_prepared(
        &mut self,
        db: &Database,
        shared: &Shared,
        log: &WalReader,
        prepared: Option<Box<Prepared>>,
        transactions: &[Transaction],
        since: UnixMs,
    ) -> Result<(usize, Option<WalMark>), CaptureError> {
        let Some(prepared) = prepared else {
            return Ok((0, None));
        };
        let Prepared {
            end: to,
            first_page,
            segment,
            ..
        } = *prepared;
        let before = self.mark.expect("BUG: captured without a mark");
        let count = (segment.draft.end.txid - before.txid) as usize;
        let last = transactions.get(count.wrapping_sub(1));
        let Some(last) = last.filter(|last| last.end == to.position) else {
            return Ok((0, None));
        };
        self.note_first_of(shared, log, first_page)?;
        if db.is_gate_missed() {
            return Err(CaptureError::Disturbed);
        }
        refuse_replaced(log)?;
        let end = Mark {
            seq: before.seq + 1,
            time_ms: self.next_time(),
            ..segment.draft.end
        };
        let segment = segment.capture(end, since)?;
        Point::Spooled.reach();
        self.captured_to(db, shared, segment, last)?;
        Ok((count, Some(to)))
    }
}

/// Whether much follows in the log, and not too much. Where it does not go on from what was captured, that is for the next
/// look to find out.
fn is_worth_preparing(log: &WalReader, from: WalMark) -> Result<bool, CaptureError> {
    let begin = from.position.offset;
    let is_worth_it = || -> std::io::Result<bool> {
        Ok(log.chains(&from)? && log.reaches(begin, MUCH)? && !log.reaches(begin, MOST)?)
    };
    is_worth_it().map_err(CaptureError::io("look at the log"))
}

/// How far a log reached when it was last synced, about.
#[derive(Debug, Default)]
pub(super) struct SyncedTo {
    salt: AtomicU64,
    offset: AtomicU64,
}

impl SyncedTo {
    /// Whether much was written to this log since that was last asked. It is before each commit, so two reads have to do.
    fn has_grown_much(&self, log: impl AsFd) -> bool {
        let mut bytes = [0; HEADER_SIZE as usize];
        if pread(&log, &mut bytes, 0).is_err() {
            return false;
        }
        let Ok(header) = WalHeader::decode(&bytes) else {
            return false;
        };
        let salt = u64::from(header.salt.0) << 32 | u64::from(header.salt.1);
        let begin = match self.salt.swap(salt, Ordering::SeqCst) == salt {
            true => self.offset.load(Ordering::SeqCst),
            false => HEADER_SIZE,
        };
        let step = (MUCH / 4).div_ceil(header.frame_size()) * header.frame_size();
        let is_of_log = |end: u64| {
            let mut frame = [0; FRAME_HEADER_SIZE as usize];
            let read = pread(&log, &mut frame, end - header.frame_size());
            read == Ok(frame.len()) && FrameHeader::decode(&frame).salt == header.salt
        };
        let end = last_of(begin, step, is_of_log);
        self.offset.store(end, Ordering::SeqCst);
        end - begin >= MUCH
    }
}

/// The last place where it holds, in steps behind `begin`: it does up to there, and nowhere behind. Of a log that is seen
/// for the first time that may be far away.
fn last_of(begin: u64, step: u64, holds: impl Fn(u64) -> bool) -> u64 {
    let (mut end, mut stride) = (begin, step);
    while holds(end + stride) {
        end += stride;
        stride *= 2;
    }
    while stride > step {
        stride /= 2;
        if holds(end + stride) {
            end += stride;
        }
    }
    end
}

impl Capture {
    /// A log is about to be synced, which takes the time of its disk: what a gate would have to do soon is done meanwhile.
    pub fn sync_of_log_begins(&self, db: &Arc<Database>, log: impl AsFd) {
        let db = db.newest();
        // Where commits wait for the store they are captured one by one already.
        let waits = || db.policy().durability == Durability::Store;
        let is_followed = db.client().is_some_and(|client| !client.is_paused());
        if !db.synced_to.has_grown_much(log) || !is_followed || waits() {
            return;
        }
        self.workers.look_unless_busy(Box::new(move |shared, _| {
            if let Err(error) = counted(&db, || db.history().prepare(&db, shared)) {
                tracing::debug!(client = %db.label(), %error, "A segment was not made ahead of its commit");
            }
        }));
    }
}

#[cfg(test)]
mod tests;
