//! Follows the log: what was committed since the last look becomes segments.

use super::Shared;
use super::authority::{self, Counted, Index, Limit};
use super::database::Database;
use super::error::CaptureError;
use super::files::{Log, in_wal_mode, log_now, refuse_replaced};
use super::gate::Gate;
use super::history::History;
use super::mark::{Mark, PageSum, Segment, WalMark};
use super::segment::{Draft, WalExtent, checksum_after, newest_pages, read_page, sums_of};
use super::state::Stamps;
use super::tail::{self, Newer};
use super::wal_reader::WalReader;
use super::watch::HeardLog;
use crate::clock::UnixMs;
use crate::fault::{Defect, Point};
use crate::format::ltx::lock_page;
use crate::format::scanner::Transaction;

/// So many pages of the newest transaction are looked for in the file before a log is destroyed: a gate has to be quick.
pub(super) const TAIL_PAGES: usize = 4096;
/// Where the wal-index has said that they are checkpointed, a few have to do.
pub(super) const SAMPLE_PAGES: usize = 16;

/// What has to come next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// All that is committed is captured.
    Nothing,
    /// Something is written that may yet be published without any further request to the mount.
    LookAgain,
    /// The wal-index can't be read: there may be commits that can't be told from what was not published.
    Unknown,
    /// The whole file has to be read: a new generation, or a comparison.
    Image,
}

/// What came of a look.
#[derive(Clone, Copy, Debug)]
pub struct Drained {
    pub next: Next,
    /// The files as they were before the look; none where there is more to look at.
    pub stamps: Option<Stamps>,
}

impl Drained {
    /// Nothing was there to look at.
    pub fn nothing() -> Self {
        Self::only(Next::Nothing)
    }

    fn only(next: Next) -> Self {
        Self { next, stamps: None }
    }
}

impl History {
    /// Captures what is committed in the log and was not captured before. `gate`: what waits for it. `heard`: the log whose
    /// writes are heard of.
    pub(super) fn drain(
        &mut self,
        db: &Database,
        shared: &Shared,
        gate: Option<Gate>,
        heard: Option<HeardLog>,
        since: UnixMs,
    ) -> Result<Drained, CaptureError> {
        if db.is_removed() {
            self.prepared = None;
            // The name may belong to another database by now.
            return Ok(Drained::nothing());
        }
        self.load(db, shared)?;
        self.note_emptied(db, shared, gate)?;
        self.make_room(db, shared)?;
        if db.take_failed_commit() {
            self.unpublished = None;
            self.compare_because(db, "commit_failed");
        }
        if db.take_gate_missed() {
            self.was_unguarded = true;
            self.compare_because(db, "gate_missed");
            self.lose_image();
        }
        if db.take_begins_anew() {
            self.mark = None;
            self.lose_image();
        }
        if db.take_cut() {
            self.file_was_cut(db);
        }
        self.refuse_arriving(db, shared, gate)?;
        if self.image.is_some() || self.mark.is_none() || !self.goes_on_by_log(db) {
            self.prepared = None;
        }
        if self.image.is_some() {
            self.save_for_image(db, shared, gate)?;
            return Ok(Drained::only(Next::Image));
        }
        // Before the log is looked at: what a gate has captured for may be carried out at any time.
        let is_passing = db.is_passing();
        let stamps = shared.stamps(db)?;
        if let Some(heard) = &heard {
            heard.refuse_other(db, stamps.wal.inode)?;
        }
        if self.mark.is_none() {
            self.note_complete(db, shared, gate, Next::Image)?;
            return Self::drained_without_mark(db, shared, stamps);
        }
        if !self.goes_on_by_log(db) {
            self.note_complete(db, shared, gate, Next::Image)?;
            return Ok(Drained::only(Next::Image));
        }
        if gate.is_none()
            && stamps.wal.size > 0
            && self.has_new_log(db, shared, stamps.database.inode)?
        {
            self.suspect_file(db);
            return Ok(Drained::only(Next::Image));
        }
        let drained = match log_now(db, shared, heard, &stamps)? {
            Log::None => {
                self.prepared = None;
                self.drained_without_log(db, shared, stamps)?
            }
            Log::Valid(log) => self.drain_log(db, shared, log, (gate, is_passing), since)?,
        };
        self.note_complete(db, shared, gate, drained.next)?;
        if self.ends_log(gate) && drained.next != Next::Image {
            self.spool_all(shared)?;
            self.log_ended = true;
            db.set_captured_end(0);
            self.rest_after(gate, stamps.database);
        }
        if self.making.is_some() && gate.is_none() && drained.next != Next::Image {
            // What an image has yielded does not wait for the store yet, and is no less captured: all is not said.
            return Ok(Drained::only(Next::Unknown));
        }
        Ok(Drained {
            stamps: (drained.next == Next::Nothing).then_some(stamps),
            ..drained
        })
    }

    /// Whether what was captured of the log is not in it any more after `gate`.
    fn ends_log(&self, gate: Option<Gate>) -> bool {
        let captured = self.mark.and_then(|mark| mark.wal);
        gate.and_then(Gate::kept_bytes)
            .is_some_and(|kept| captured.is_none_or(|place| kept < place.position.offset))
    }

    fn drained_without_mark(
        db: &Database,
        shared: &Shared,
        stamps: Stamps,
    ) -> Result<Drained, CaptureError> {
        // Whatever log stands beside it: SQLite removes one that stands beside an empty database.
        let empty = stamps.database.size == 0 || shared.leads_to_nothing(db, &stamps)?;
        Ok(Drained::only(match empty {
            true if db.has_writers() => Next::LookAgain,
            true => Next::Nothing,
            false => Next::Image,
        }))
    }

    /// No log: the file itself tells whether anything happened.
    fn drained_without_log(
        &mut self,
        db: &Database,
        shared: &Shared,
        stamps: Stamps,
    ) -> Result<Drained, CaptureError> {
        let log_is_missed = self.mark.is_some_and(|mark| mark.wal.is_some()) && !self.log_ended;
        if log_is_missed && self.may_begin_anew() {
            // The header of the next log is just being written.
            return Ok(Drained::only(Next::LookAgain));
        }
        if log_is_missed {
            self.miss_gate(db, "log_gone");
            return Ok(Drained::only(Next::Image));
        }
        let (touched, written_to) = (db.take_touched(), db.has_writers());
        let changed = self.seen_stamp != stamps.database || db.has_pending_writes();
        let (rest_is_broken, may_differ) = (
            self.is_rest_broken(stamps.database),
            written_to || (touched && changed),
        );
        if !may_differ && !rest_is_broken {
            return Ok(Drained::only(Next::Nothing));
        }
        let is_wal = in_wal_mode(db, shared)? || self.rests_unread(stamps.database);
        db.set_in_wal_mode(is_wal);
        Ok(Drained::only(match (is_wal, changed) {
            (true, _) if rest_is_broken => {
                self.suspect_file(db);
                Next::Image
            }
            (true, _) => Next::Nothing,
            (false, true) => {
                db.set_touched();
                Next::Image
            }
            // Without a journal nothing is heard of what an open handle writes.
            (false, false) if written_to => Next::LookAgain,
            (false, false) => Next::Nothing,
        }))
    }

    fn drain_log(
        &mut self,
        db: &Database,
        shared: &Shared,
        mut log: WalReader,
        (gate, is_passing): (Option<Gate>, bool),
        since: UnixMs,
    ) -> Result<Drained, CaptureError> {
        db.note_page_size(log.header.page_size);
        db.note_commits_by_journal(false);
        if self.is_ahead(db, shared, &mut log)? {
            match gate {
                None => return Ok(Drained::only(Next::LookAgain)),
                // Somebody else writes: whoever made it has died.
                Some(_) => self.unpublished = None,
            }
        }
        let captured = self.mark.and_then(|mark| mark.wal);
        let kept = gate.and_then(Gate::kept_bytes);
        // What is committed is told first: only then are frames read, and with them the one where they go on.
        let extent = committed_extent(db, shared, &mut log, kept.is_some())?;
        if let Some(extent) = &extent {
            self.read_on(&mut log, extent.end)?;
        }
        let Some(from) = self.place_in(db, &mut log, is_passing)? else {
            return Ok(Drained::only(Next::Image));
        };
        self.confirm_files();
        let Some(extent) = extent else {
            return Ok(Drained::only(Next::Unknown));
        };
        let Extent {
            end,
            by_chain,
            is_over,
            is_untold,
            counted,
        } = extent;
        if is_untold && self.is_reset_missed(db, counted, 0) {
            self.miss_gate(db, "reset_missed");
            return Ok(Drained::only(Next::Image));
        }
        if end < from.position.offset {
            // Stored, and never published to the live connections: what they do see has to follow it.
            self.compare_because(db, "retracted");
            return Ok(Drained::only(Next::Image));
        }
        let end = end.min(log.len);
        let prepared = self.take_prepared(&log, from, end, by_chain)?;
        let transactions = self.transactions(&mut log, from, end)?;
        if !transactions.is_empty() {
            // What stays prepared does not follow these, and they may need its room.
            self.prepared = None;
        }
        let is_another = captured.is_none_or(|place| place.salt != from.salt);
        if is_another && self.is_reset_missed(db, counted, transactions.len()) {
            self.miss_gate(db, "reset_missed");
            return Ok(Drained::only(Next::Image));
        }
        let salt_before = captured.map(|place| place.salt);
        if is_another && self.may_have_missed_log(db, &log.header, salt_before, counted) {
            self.compare_because(db, "log_unknown");
            return Ok(Drained::only(Next::Image));
        }
        let is_unseen = is_another && captured.is_some() && !self.log_ended;
        if is_unseen && !self.tail_was_written(db, shared, &mut log, from, &transactions)? {
            // What follows in the log was committed over a state that is not the captured one.
            self.suspect_file(db);
            return Ok(Drained::only(Next::Image));
        }
        db.followed.set(counted.change);
        db.set_in_wal_mode(true);
        let is_as_captured = transactions.is_empty() && captured == Some(from);
        let has_ended = self.log_ended && is_passing && is_as_captured;
        if !has_ended {
            self.log_ended = false;
            self.at_rest = None;
        }
        let before = self.mark.map_or(0, |mark| mark.txid);
        let captured = self
            .capture_prepared(db, shared, &log, prepared, &transactions, since)
            .and_then(|(count, end)| {
                let (from, left) = (end.unwrap_or(from), &transactions[count..]);
                self.capture(db, shared, &log, from, left, since)
            });
        let done = self.mark.map_or(0, |mark| mark.txid) - before;
        let left = transactions.len() as u64 - done;
        self.note_count(counted.without(left as u32), done as usize);
        match captured {
            Err(CaptureError::Holes { .. }) => {
                self.compare_because(db, "holes");
                return Ok(Drained::only(Next::Image));
            }
            other => other?,
        }

        // In a log that begins with what was rolled back nothing is captured, and still it is the one that goes on.
        let mark = self.mark.as_mut().expect("BUG: captured without a mark");
        if transactions.is_empty() {
            mark.wal = Some(from);
        }
        let place = mark.wal.expect("BUG: captured from no log");
        if !has_ended {
            db.set_captured_end(place.position.offset);
        }
        let unpublished = !by_chain
            && log
                .may_commit_after(place.position)
                .map_err(CaptureError::io("read the log's tail"))?;
        if let Some(kept) = kept.filter(|_| unpublished) {
            self.keep_doubtful(db, shared, &mut log, place, kept)?;
        }
        let ends = self.ends_log(gate) || db.ends_unseen(gate);
        let none = Newer::of(&[]);
        if by_chain && ends && !self.tail_is_in(db, shared, TAIL_PAGES, &none)? {
            // Nobody but the chain said that it was committed, and it was not checkpointed.
            self.compare_because(db, "retracted");
            return Ok(Drained::only(Next::Image));
        }
        if is_over && self.ends_log(gate) && !self.tail_is_in(db, shared, SAMPLE_PAGES, &none)? {
            self.suspect_file(db);
        }
        Ok(Drained::only(if unpublished {
            Next::LookAgain
        } else {
            Next::Nothing
        }))
    }

    /// Where this log was captured up to; none where it does not go on from what was captured.
    fn place_in(
        &mut self,
        db: &Database,
        log: &mut WalReader,
        is_passing: bool,
    ) -> Result<Option<WalMark>, CaptureError> {
        let Some(mark) = self.mark else {
            return Ok(None);
        };
        if mark.page_size != log.header.page_size {
            self.mark = None;
            return Ok(None);
        }
        let Some(place) = self.goes_on_from(&mark, log) else {
            self.miss_gate(db, "reset_missed");
            return Ok(None);
        };
        if mark.wal != Some(place) {
            return Ok(Some(place));
        }
        // What is written over in this run is seen.
        let chains = match self.has_found_place {
            true => log.chains(&place),
            false => log.leads_to(&place),
        }
        .map_err(CaptureError::io("read what was captured of the log"))?;
        match chains {
            true => {}
            // It was reset, with a gate's leave or behind a complete checkpoint, after its header was read.
            false if is_passing || self.may_begin_anew() => return Err(CaptureError::Disturbed),
            // SQLite takes no commit back but one that nobody has seen, and nobody has seen any in this run.
            false if self.unconfirmed.is_some() => self.fall_behind(db, &mark),
            false => self.miss_gate(db, "overwritten"),
        }
        Ok(chains.then_some(place))
    }

    /// Where the capture goes on in this log: in the middle of one that is known, else at its start; none where what was
    /// captured did not end in order before this one began.
    pub(super) fn goes_on_from(&self, mark: &Mark, log: &WalReader) -> Option<WalMark> {
        match mark.wal {
            Some(place) if place.salt == log.header.salt => Some(place),
            Some(_) if !self.log_ended && !self.may_begin_anew() => None,
            _ => Some(log.mark_at(log.header.start())),
        }
    }

    /// Whether the log leads on, and no comparison of the whole file has to come first.
    pub(super) fn goes_on_by_log(&self, db: &Database) -> bool {
        self.resync.is_none() && self.seen_changes == db.changes()
    }

    /// Makes segments of committed transactions: one, or one for each where every moment is wanted.
    pub(super) fn capture(
        &mut self,
        db: &Database,
        shared: &Shared,
        log: &WalReader,
        from: WalMark,
        transactions: &[Transaction],
        since: UnixMs,
    ) -> Result<(), CaptureError> {
        let each = if db.policy().sync_interval.is_zero() {
            1
        } else {
            transactions.len().max(1)
        };
        let mut from = from;
        for group in transactions.chunks(each) {
            let end = WalMark {
                salt: from.salt,
                position: group[group.len() - 1].end,
            };
            self.capture_group(db, shared, log, (from, end), group, since)?;
            from = end;
        }
        Ok(())
    }

    fn capture_group(
        &mut self,
        db: &Database,
        shared: &Shared,
        log: &WalReader,
        (from, to): (WalMark, WalMark),
        group: &[Transaction],
        since: UnixMs,
    ) -> Result<(), CaptureError> {
        let pages = newest_pages(group, log.header.page_size);
        let (draft, extent) = self.draft((from, to), group, sums_of(log, &pages)?)?;
        self.note_first_of(shared, log, pages.first().copied())?;
        let mut places = pages.iter();
        let segment = self
            .press(db, shared)
            .segment(draft, extent, since, |_, buffer| {
                read_page(
                    log,
                    *places.next().expect("BUG: a sum without a page"),
                    buffer,
                )
            })?;
        if db.is_gate_missed() {
            return Err(CaptureError::Disturbed);
        }
        refuse_replaced(log)?;
        self.captured_to(db, shared, segment, &group[group.len() - 1])
    }

    /// The state that the transactions from `from` to `to` lead to, whose newest pages have these sums, and their stretch of the
    /// log.
    ///
    /// # Errors
    /// `Holes` where the database grows by pages that are not among them.
    pub(super) fn draft(
        &self,
        (from, to): (WalMark, WalMark),
        group: &[Transaction],
        sums: Vec<PageSum>,
    ) -> Result<(Draft, WalExtent), CaptureError> {
        let before = self.mark.expect("BUG: captured without a mark");
        let commit = group[group.len() - 1].commit;
        check_growth(&before, commit, &sums)?;
        let table = self.sums.as_ref().expect("BUG: a mark without page sums");
        let checksum = checksum_after(&before, commit, &sums, &table.reader())
            .map_err(CaptureError::io("read the page sums"))?;
        let end = Mark {
            seq: before.seq + 1,
            txid: before.txid + group.len() as u64,
            checksum,
            commit,
            time_ms: self.next_time(),
            wal: Some(to),
            ..before
        };
        let extent = WalExtent {
            offset: from.position.offset,
            size: to.position.offset - from.position.offset,
            salt: from.salt,
        };
        Ok((Draft { before, end, sums }, extent))
    }

    /// The history stands at the end of `segment` now, of which this is the last transaction.
    pub(super) fn captured_to(
        &mut self,
        db: &Database,
        shared: &Shared,
        segment: Segment,
        last: &Transaction,
    ) -> Result<(), CaptureError> {
        let end = segment.end;
        self.mark = Some(end);
        self.reach(end.txid);
        db.note_boundaries(true);
        self.tail = tail::of(&segment.sums, last);
        Defect::Capture.meet(|| db.label());
        self.push(db, shared, segment)?;
        Point::Captured.reach();
        Ok(())
    }
}

/// In WAL mode SQLite writes every page that a database grows by, so that a replica needs no page that is in no segment.
fn check_growth(before: &Mark, commit: u32, sums: &[(u32, u64)]) -> Result<(), CaptureError> {
    if commit <= before.commit {
        return Ok(());
    }
    let lock = lock_page(before.page_size);
    let new = (before.commit + 1..=commit)
        .filter(|pgno| *pgno != lock)
        .count();
    let written = sums
        .iter()
        .filter(|(pgno, _)| *pgno > before.commit)
        .count();
    if written < new {
        return Err(CaptureError::Holes {
            missing: (new - written) as u32,
        });
    }
    Ok(())
}

/// How far a log counts.
pub(super) struct Extent {
    /// Bytes; may lie behind the log's end, or before what was captured already.
    pub end: u64,
    /// Nobody but the chain itself says so.
    pub by_chain: bool,
    /// The wal-index has said that it is checkpointed to its end: it goes on to the next log, or is gone.
    pub is_over: bool,
    /// The wal-index tells of another log, and nothing was noted of this one: none of it is published yet, or all of it is
    /// over.
    pub is_untold: bool,
    /// Where the wal-index speaks of this log, or has spoken of it last; of an untold one, what was counted by now.
    pub counted: Counted,
}

/// How far the log counts; none where nothing can be said now. Before a reset there is no second look: what recovery
/// would take is the best that is known then.
pub(super) fn committed_extent(
    db: &Database,
    shared: &Shared,
    log: &mut WalReader,
    before_reset: bool,
) -> Result<Option<Extent>, CaptureError> {
    let number = db.index_number();
    let index = db
        .index(&shared.backing)
        .map_err(CaptureError::io("read the wal-index"))?;
    let read_failed = || CaptureError::io("look at the log");
    let record = db.record(log.header.salt);
    let limit = authority::limit(log.header.salt, index, record, db.wal_writes());
    let is_within =
        matches!(limit, Limit::Frame(frame) if log.header.end_of_frame(frame) <= log.len);
    if before_reset || !is_within {
        // What else was written since its size was told is heard of, and looked at then.
        log.note_growth().map_err(read_failed())?;
    }
    let (end, by_chain) = match limit {
        Limit::Chain => (log.len, true),
        Limit::Frame(frame) => (log.header.end_of_frame(frame), false),
        Limit::Unknown if before_reset => (log.len, true),
        Limit::Unknown => return Ok(None),
    };
    let is_other = matches!(index, Index::Live(index) if index.salt != log.header.salt);
    let is_untold = is_other && record.is_none();
    if is_untold && !before_reset && log.is_replaced().map_err(read_failed())? {
        return Ok(None);
    }
    Point::LimitRead.reach();
    let is_over = match index {
        Index::Live(_) => is_other,
        Index::Absent | Index::Unreadable => !by_chain,
    };
    let counted = match (index, record) {
        (Index::Live(_), Some(record)) if is_other => record.counted,
        (Index::Live(index), _) => Counted::of(number, &index),
        (_, Some(record)) if !by_chain => record.counted,
        _ => Counted {
            index: number,
            change: None,
        },
    };
    Ok(Some(Extent {
        end,
        by_chain,
        is_over,
        is_untold,
        counted,
    }))
}

#[cfg(test)]
mod tests;
