//! Merges captured segments that wait in the spool: of a page that several of them have, only the newest version is kept.
//!
//! The moments in between are lost by that. So it is done where nobody was promised them, which is within one sync
//! interval; else only where much of it is superseded, and a tenant's share of the spool gets scarce or a store that takes
//! what waits falls behind; or where very many wait. What is merged, and what comes after it, is counted anew: none of it
//! has been given to the store yet. The oldest that waits may be on its way there, and is left alone.

use std::collections::HashMap;
use std::fs::File;
use std::io::BufReader;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::Shared;
use super::database::Database;
use super::error::CaptureError;
use super::history::{History, entry_of};
use super::mark::{Mark, PageSum, Segment};
use super::segment::{Draft, Press, WalExtent};
use crate::clock::now_ms;
use crate::format::ltx::Decoder;
use crate::store::Body;
use crate::store::keys::GenerationId;

/// Segments that are merged in one go, and open files with that.
const AT_ONCE: usize = 64;
/// Fewer are not worth the work.
const FEWEST: usize = 8;
/// Nor are these where they are about to be stored: each is a request.
const FEWEST_TO_STORE: usize = 3;
/// Bytes, of segments on average, that cost no more to merge than to store one by one.
const SMALL: u64 = 256 << 10;
/// Where more wait, they are merged for their number's sake: each takes memory.
pub(super) const MOST_WAITING: usize = 1024;
/// More wait only where the store takes them slower than they come.
const MOST_BEHIND: usize = 64;
/// A store that has taken one not longer ago than this is one that takes them.
const TAKES_MS: i64 = 5_000;

/// Consecutive segments in the spool, and the state that they begin with.
pub(super) struct Run {
    before: Mark,
    segments: Vec<Segment>,
}

impl Run {
    fn last(&self) -> &Segment {
        self.segments.last().expect("BUG: a run of nothing")
    }

    /// The newest of it, which were captured within so many milliseconds.
    fn within(mut self, interval_ms: i64) -> Self {
        let since = self.last().end.time_ms - interval_ms;
        let older = self
            .segments
            .iter()
            .take_while(|one| one.end.time_ms <= since);
        let older = self.segments.drain(..older.count());
        self.before = older.last().map_or(self.before, |last| last.end);
        self
    }

    /// The newest sums of all pages that are still in the database at the end, ascending.
    fn sums(&self) -> Vec<PageSum> {
        let mut newest: HashMap<u32, u64> = HashMap::new();
        for segment in &self.segments {
            newest.extend(segment.sums.iter().copied());
        }
        let commit = self.last().end.commit;
        let mut sums: Vec<PageSum> = newest
            .into_iter()
            .filter(|(pgno, _)| *pgno <= commit)
            .collect();
        sums.sort_unstable();
        sums
    }

    fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.size).sum()
    }

    /// Whether it takes longer to store them one by one.
    fn is_of_small_ones(&self) -> bool {
        self.bytes() <= self.segments.len() as u64 * SMALL
    }

    /// Whether a quarter of the pages is superseded.
    fn is_worth_it(&self) -> bool {
        let all: usize = self.segments.iter().map(|segment| segment.sums.len()).sum();
        self.sums().len() <= all / 4 * 3
    }
}

impl History {
    /// The newest segments that may be merged.
    pub(super) fn run_that_waits(&self, fewest: usize) -> Option<Run> {
        let generation = self.mark?.generation;
        let may_be_merged = |segment: &Segment| {
            let is_ours = segment.end.generation == generation;
            let is_kept = !segment.is_in_memory() && !segment.snapshot;
            is_ours && is_kept && self.may_be_renumbered_from(segment)
        };
        let end = self.pending.iter().take_while(|one| one.durable).count();
        let most = end.saturating_sub(AT_ONCE).max(1);
        let begin = (most..end)
            .rev()
            .take_while(|index| may_be_merged(&self.pending[*index]))
            .last()?;
        let run = Run {
            before: self.pending[begin - 1].end,
            segments: self.pending.range(begin..end).cloned().collect(),
        };
        (run.segments.len() >= fewest).then_some(run)
    }

    /// Whether nobody relies on the number of this segment, or of one after it.
    fn may_be_renumbered_from(&self, segment: &Segment) -> bool {
        let relied_on = self.numbers.highest_of(segment.end.generation);
        self.making.is_none() && Some(segment.end.seq) > relied_on
    }

    /// Whether as many wait as are merged at least before they are stored.
    pub(super) fn may_have_run_to_store(&self) -> bool {
        self.pending.len() > FEWEST_TO_STORE
    }

    /// Whether as many wait as are merged at least, behind the one that may be on its way.
    pub(super) fn may_have_run(&self) -> bool {
        self.pending.len() > FEWEST
    }

    /// What is to be merged now, if anything, of a client with this sync interval.
    pub(super) fn run_to_merge(&self, interval: Duration, shared: &Shared) -> Option<Run> {
        let run = self.run_that_waits(FEWEST)?;
        // Where the disk can't be asked, it is full as well.
        let is_scarce = || shared.spool.is_scarce(self.id).unwrap_or(true);
        // Who wants each transaction for a moment waits for the store instead.
        let may_lose = !interval.is_zero();
        let is_wanted = || (may_lose && self.outpaces_store()) || is_scarce();
        if self.pending.len() > MOST_WAITING || (is_wanted() && run.is_worth_it()) {
            return Some(run);
        }
        let run = run.within(interval.as_millis() as i64);
        (run.segments.len() >= FEWEST && run.is_worth_it()).then_some(run)
    }

    /// The same where what waits is about to be stored: of one sync interval it need be no more than one object. Rounds
    /// come a little later than that, and without gates what was committed between two would be one segment too.
    fn run_to_store(&self, interval: Duration) -> Option<Run> {
        let run = self.run_that_waits(FEWEST_TO_STORE)?;
        let run = run.within((interval * 3 / 2).as_millis() as i64);
        let is_wanted = run.is_of_small_ones() || run.is_worth_it();
        (run.segments.len() >= FEWEST_TO_STORE && is_wanted).then_some(run)
    }

    /// Whether what waits comes more quickly than the store, which takes it, does that.
    fn outpaces_store(&self) -> bool {
        let takes = self.taken_at.is_some_and(|at| now_ms() - at < TAKES_MS);
        takes && self.pending.len() > MOST_BEHIND
    }

    /// Puts `merged` in the place of its parts. False where these do not wait any more as they did, or their numbers are
    /// in use.
    fn replace_run(
        &mut self,
        run: &Run,
        merged: &Segment,
        db: &Database,
        shared: &Shared,
    ) -> Result<bool, CaptureError> {
        let parts = run.segments.len();
        let begin = self
            .pending
            .iter()
            .skip(1)
            .position(|segment| segment.end == run.segments[0].end)
            .map(|index| index + 1);
        let is_there = |begin: &usize| {
            let waiting = self.pending.iter().skip(*begin).map(|segment| segment.end);
            waiting
                .take(parts)
                .eq(run.segments.iter().map(|part| part.end))
        };
        let is_free = |_: &usize| self.may_be_renumbered_from(&run.segments[0]);
        let Some(begin) = begin.filter(is_there).filter(is_free) else {
            return Ok(false);
        };
        let (last, fewer) = (run.last().end.seq, parts as u32 - 1);
        let entry = entry_of(merged);
        shared.state.replace_spooled(self.id, &entry, last, fewer)?;
        self.pending.drain(begin + 1..begin + parts);
        self.pending[begin] = merged.clone();
        let later = self.pending.iter_mut().skip(begin + 1);
        let marks = later.map(|segment| &mut segment.end).chain(&mut self.mark);
        for mark in marks.filter(|mark| mark.generation == merged.end.generation) {
            mark.seq -= fewer;
        }
        if let Some(sums) = &mut self.sums {
            sums.renumber(last, fewer);
        }
        self.report(db);
        Ok(true)
    }
}

/// What waits is merged for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Reason {
    /// Room, and a number that is bounded.
    Room,
    /// It is about to be stored.
    Store,
}

/// Merges what waits in the spool where that is to be done. Holds no lock while it reads and writes.
pub(super) fn merge(db: &Database, shared: &Shared, reason: Reason) -> Result<(), CaptureError> {
    let found = {
        let history = db.history();
        let interval = db.policy().sync_interval;
        let run = match reason {
            Reason::Room => history.run_to_merge(interval, shared),
            Reason::Store => history.run_to_store(interval),
        };
        run.map(|run| (run, history.press(db, shared)))
    };
    match found {
        Some((run, press)) => merge_run(&run, &press, db, shared).map(drop),
        None => Ok(()),
    }
}

fn merge_run(
    run: &Run,
    press: &Press<'_>,
    db: &Database,
    shared: &Shared,
) -> Result<bool, CaptureError> {
    let merged = write_merged(run, press)?;
    let replaced = db.history().replace_run(run, &merged, db, shared);
    if !matches!(replaced, Ok(true)) {
        shared.remove_body(&merged)?;
        return replaced;
    }
    for part in &run.segments {
        shared.remove_body(part)?;
    }
    tracing::info!(
        client = %db.label(),
        segments = run.segments.len(),
        bytes = run.bytes(),
        left = merged.size,
        "Segments that wait for the store were merged: the moments between their first and last are no more"
    );
    Ok(true)
}

fn write_merged(run: &Run, press: &Press<'_>) -> Result<Segment, CaptureError> {
    let mut parts: Vec<Part> = run
        .segments
        .iter()
        .map(Part::open)
        .collect::<Result<_, _>>()?;
    let draft = Draft {
        before: run.before,
        end: Mark {
            seq: run.segments[0].end.seq,
            ..run.last().end
        },
        sums: run.sums(),
    };
    let most = run.bytes();
    let committed_at = run.segments[0].committed_at;
    // The oldest first, so that the newest version is the one that stays.
    let read = |pgno: u32, page: &mut [u8]| {
        parts
            .iter_mut()
            .try_for_each(|part| part.put_into(pgno, page))
    };
    let press = press.in_place_of(most);
    let mut merged = press.segment(draft, WalExtent::default(), committed_at, read)?;
    merged.durable = true;
    Ok(merged)
}

/// A segment that is read along with the others.
struct Part {
    decoder: Decoder<BufReader<File>>,
    page: Vec<u8>,
    /// The number of the page that was read last; none behind the last one.
    pgno: Option<u32>,
}

impl Part {
    fn open(segment: &Segment) -> Result<Self, CaptureError> {
        let Body::File(path) = &segment.body else {
            return Err(CaptureError::Disturbed);
        };
        // One that has been stored meanwhile is gone.
        let file = File::open(path).map_err(CaptureError::io("open a segment in the spool"))?;
        let decoder = Decoder::new(BufReader::new(file))?;
        let mut part = Self {
            page: vec![0; decoder.header().page_size as usize],
            decoder,
            pgno: None,
        };
        part.advance()?;
        Ok(part)
    }

    fn advance(&mut self) -> Result<(), CaptureError> {
        self.pgno = self.decoder.next_page(&mut self.page)?;
        Ok(())
    }

    /// Overwrites `page` where it has that one. Pages are asked for in ascending order.
    fn put_into(&mut self, pgno: u32, page: &mut [u8]) -> Result<(), CaptureError> {
        while self.pgno.is_some_and(|own| own < pgno) {
            self.advance()?;
        }
        if self.pgno == Some(pgno) {
            page.copy_from_slice(&self.page);
        }
        Ok(())
    }
}

/// Whoever holds it relies on the number of a captured state: meanwhile no segments up to that are merged.
#[derive(Clone, Debug)]
pub struct Number(Arc<(GenerationId, u32)>);

/// The numbers that somebody relies on.
#[derive(Debug, Default)]
pub(super) struct Numbers(Vec<Weak<(GenerationId, u32)>>);

impl Numbers {
    /// That of `mark`.
    pub fn rely_on(&mut self, mark: &Mark) -> Number {
        self.0.retain(|number| number.strong_count() > 0);
        let number = Arc::new((mark.generation, mark.seq));
        self.0.push(Arc::downgrade(&number));
        Number(number)
    }

    /// Whether it was not given up since.
    pub fn have(&self, number: &Number) -> bool {
        let own = self.0.iter().map(Weak::as_ptr);
        own.into_iter().any(|own| own == Arc::as_ptr(&number.0))
    }

    pub fn are_relied_on(&self) -> bool {
        self.0.iter().any(|number| number.strong_count() > 0)
    }

    /// The highest of a generation; none where nobody relies on any.
    fn highest_of(&self, generation: GenerationId) -> Option<u32> {
        let all = self.0.iter().filter_map(Weak::upgrade);
        let own = all.filter(|number| number.0 == generation);
        own.map(|number| number.1).max()
    }
}

#[cfg(test)]
mod tests;
