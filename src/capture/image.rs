//! Reads a whole database without a lock: for a new generation, and to find what differs from what was captured.
//!
//! All pages of the file are read at leisure, in any order. Then the newest committed version of every page is laid
//! over them: from the log as it is at the end, and before that from each log that was reset in the meantime, which
//! its gate saved. A page of the file changes only by a checkpoint, and a checkpoint writes only pages of committed
//! frames that were in one of these logs; so a page that was torn by one is replaced.
//! This holds only while nobody writes the file past its log: no journal is there or comes up, and nothing is renamed
//! over it. Else the image is dropped, and made again.

use std::fs::File;
use std::io::{self, Seek, Write};

use super::Shared;
use super::arrival::{Happened, WRITTEN, prove, refuse_missing_pages};
use super::authority::Counted;
use super::backing::{Stamp, read_up_to, stamp_of};
use super::copy::{CHUNK, Image, Read};
use super::database::Database;
use super::dirty_pages;
use super::error::CaptureError;
use super::files::{Log, is_quiet, open_log, read_header, refuse_replaced};
use super::foreign::{self, CUT};
use super::gate::Gate;
use super::handles::External;
use super::history::History;
use super::mark::WalMark;
use super::next_state::Work;
use super::resets::LogEnd;
use super::segment::{WalExtent, newest_pages};
use super::tail::is_checkpointed;
use super::whole_log::{Committed, committed};
use crate::clock::UnixMs;
use crate::fault::Defect;
use crate::format::scanner::PageRef;
use crate::format::wal::Salt;

/// An image that is being made: what has to be kept for it meanwhile. Under the database's lock.
#[derive(Debug)]
pub struct ImageRun {
    changes: u64,
    happened: Happened,
    stamp: Stamp,
    /// The stamp of the journal that the file has to be rolled back by.
    journal: Option<Stamp>,
    /// Neither a log nor a journal tells where its transactions end.
    is_without_boundaries: bool,
    page_size: u32,
    /// Committed pages of logs that were reset since, in their order; the pages themselves lie in `saved`.
    resets: Vec<(u32, Vec<PageRef>)>,
    saved: Option<File>,
    /// The log that stood there at first.
    first: Option<Salt>,
    /// The newest log that was saved before its reset.
    ended: Option<Salt>,
    /// A reset could not be saved: the image is of no use.
    lost: bool,
}

/// Makes an image and captures what it shows: the first snapshot of a new generation, or one segment of what differs.
///
/// `Disturbed` says that it has to be made again. After any error the caller gives the image up.
pub(super) fn capture(db: &Database, shared: &Shared, since: UnixMs) -> Result<(), CaptureError> {
    let happened = db.happened();
    if !db.is_arriving() && dirty_pages::compare(db, shared, since)? {
        db.has_arrived(happened);
        return Ok(());
    }
    let Some(file) = begin(db, shared)? else {
        return Ok(());
    };
    let mut read = |bytes: &mut [u8], at: u64| read_up_to(&file, bytes, at);
    let mut image = copy(&mut read, db, shared, CHUNK)?;
    let work = db.history().finish_image(db, shared, &mut image)?;
    Defect::Image.meet(|| db.label());
    let is_to_be_proven = match &work {
        Work::Nothing => false,
        Work::Snapshot(_) => true,
        Work::Difference { is_suspected, .. } => *is_suspected || db.is_arriving(),
    };
    if is_to_be_proven {
        let stamp = db.history().seen_stamp;
        prove(db, shared, &image, &stamp)?;
    }
    if let Work::Difference {
        draft,
        is_suspected: true,
    } = &work
    {
        foreign::tell_difference(db, &image, draft);
    }
    write_down(db, shared, &image, work, since)?;
    db.has_arrived(happened);
    Ok(())
}

/// Opens the file; none where there is nothing in it.
fn begin(db: &Database, shared: &Shared) -> Result<Option<File>, CaptureError> {
    let mut history = db.history();
    history.load(db, shared)?;
    let changes = db.changes();
    let journal = shared.hot_journal(db)?;
    let leads_to_nothing = journal.as_ref().is_some_and(|hot| hot.journal.pages() == 0);
    if history.resync.is_some() {
        // What differs needs room, and may be much: not for nothing is all of it read.
        shared.spool.check_room(history.id)?;
    }
    let open = shared.backing.open(&db.path);
    let Some(file) = open.map_err(CaptureError::io("open the database"))? else {
        return Ok(None);
    };
    let stamp = stamp_of(&file).map_err(CaptureError::io("look at the database"))?;
    if stamp.size == 0 {
        // Whatever log stands beside it, SQLite sees an empty database.
        return history.finds_nothing(db, stamp, changes).map(|()| None);
    }
    if leads_to_nothing && history.mark.is_none() {
        // The next look says so.
        return Err(CaptureError::Disturbed);
    }
    if leads_to_nothing {
        return Err(CaptureError::HotJournal(
            "it leads back to an empty database".to_owned(),
        ));
    }
    shared.refuse_unfinished(db, &stamp)?;
    let quiet = is_quiet(db, shared, &stamp)?;
    if history.resync == Some(CUT) && !quiet {
        return Err(CaptureError::Disturbed);
    }
    let mut is_without_boundaries = false;
    let count = History::count_without_log(db, shared)?;
    let mut first = None;
    let page_size = match (open_log(db, shared)?, read_header(db, shared)?) {
        (Log::None, _) if let Some(hot) = &journal => hot.journal.page_size(),
        (Log::Valid(_), _) if journal.is_some() => {
            return Err(CaptureError::HotJournal("it has a log as well".to_owned()));
        }
        (Log::Valid(log), _) => {
            first = Some(log.header.salt);
            log.header.page_size
        }
        (Log::None, Some(header)) => {
            let by_journal = changes != history.seen_changes;
            db.note_commits_by_journal(!header.wal_mode);
            is_without_boundaries = !header.wal_mode && !by_journal && history.resync.is_none();
            let may_be_half = !header.wal_mode || history.suspects_file();
            if may_be_half && !by_journal && !quiet {
                return Err(CaptureError::Disturbed);
            }
            header.page_size
        }
        (Log::None, None) => match history.page_size_unread(stamp) {
            None => return Err(shared.judge_flaw(db, &stamp, CaptureError::NotADatabase)?),
            Some(_) if !quiet && changes == history.seen_changes => {
                return Err(CaptureError::Disturbed);
            }
            Some(page_size) => page_size,
        },
    };
    if first.is_none() {
        // What is committed from now on is in the log that is there at the end, or in one that is saved.
        history.seen_count = count;
    }
    db.take_touched();
    db.begin_whole();
    history.image = Some(Box::new(ImageRun {
        changes,
        happened: db.happened(),
        stamp,
        journal: journal.map(|journal| journal.stamp),
        is_without_boundaries,
        page_size,
        resets: Vec::new(),
        saved: None,
        first,
        ended: None,
        lost: false,
    }));
    Ok(Some(file))
}

/// Reads all pages of the file in pieces of `chunk` bytes. Holds no lock while it reads.
fn copy(
    read: Read<'_>,
    db: &Database,
    shared: &Shared,
    chunk: usize,
) -> Result<Image, CaptureError> {
    let (page_size, size) = {
        let history = db.history();
        let run = history.image.as_ref().ok_or(CaptureError::Disturbed)?;
        (run.page_size, run.stamp.size)
    };
    let is_wanted = || {
        let lost = db.history().image.as_ref().is_none_or(|run| run.lost);
        !lost && !db.is_removed()
    };
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

/// Makes the segment of what an image has shown. Holds no lock meanwhile: what is captured from here on follows it.
fn write_down(
    db: &Database,
    shared: &Shared,
    image: &Image,
    work: Work,
    since: UnixMs,
) -> Result<(), CaptureError> {
    let press = db.history().press(db, shared);
    let read = |pgno: u32, page: &mut [u8]| image.get(pgno, page);
    let segment = match work {
        Work::Nothing => return Ok(()),
        Work::Snapshot(end) => press.snapshot(end, since, read)?,
        Work::Difference { draft, .. } => {
            press.segment(draft, WalExtent::default(), since, read)?
        }
    };
    db.history().push_made(db, shared, segment)
}

impl History {
    /// At a gate, while an image is made: saves what the log holds, for it is about to be reset.
    pub(super) fn save_for_image(
        &mut self,
        db: &Database,
        shared: &Shared,
        gate: Option<Gate>,
    ) -> Result<(), CaptureError> {
        let ends_unseen = db.ends_unseen(gate);
        let kept = gate.and_then(Gate::kept_bytes);
        let Some(kept) = kept.or(ends_unseen.then_some(0)) else {
            return Ok(());
        };
        let saved = self.save_log(db, shared, kept);
        if saved.is_err() {
            self.lose_image();
        }
        self.log_ended |= !ends_unseen;
        db.set_captured_end(0);
        saved
    }

    /// No image comes of what was begun. A state that it had carried the history on to was never written down: the one
    /// before is gone on from by another comparison.
    pub(super) fn give_up_image(
        &mut self,
        db: &Database,
        shared: &Shared,
    ) -> Result<(), CaptureError> {
        self.image = None;
        let Some(end) = self.making.take() else {
            return Ok(());
        };
        self.lose_from(&end, shared)?;
        if end.seq == 0 {
            // Nobody has met the number of what never was a state.
            self.last_txid = end.txid - 1;
        }
        let last = self.pending.back().map(|segment| segment.end);
        let before = last.or(self.stored);
        if let Some(before) = before.filter(|before| before.generation == end.generation) {
            let sums = self.sums.as_mut().expect("BUG: an image without page sums");
            sums.drop_overlay();
            for segment in self.pending.iter().filter(|segment| !segment.durable) {
                sums.lay_over(segment.end.seq, &segment.sums);
            }
            self.mark = Some(before);
            self.compare_because(db, "image_failed");
        }
        Ok(())
    }

    /// The file is empty: there is nothing to capture, and nothing that could be compared.
    fn finds_nothing(
        &mut self,
        db: &Database,
        stamp: Stamp,
        changes: u64,
    ) -> Result<(), CaptureError> {
        if db.external() != External::None {
            return Err(CaptureError::Arriving(WRITTEN.to_owned()));
        }
        self.seen_changes = changes;
        self.seen_stamp = stamp;
        self.at_rest = Some(stamp);
        self.resync = None;
        Ok(())
    }

    /// What is being read is of no use any more.
    pub(super) fn lose_image(&mut self) {
        if let Some(run) = &mut self.image {
            run.lost = true;
        }
    }

    /// Bytes of the log before `kept` stay in it.
    fn save_log(&mut self, db: &Database, shared: &Shared, kept: u64) -> Result<(), CaptureError> {
        let Log::Valid(mut log) = open_log(db, shared)? else {
            return Ok(());
        };
        let Some(Committed {
            transactions,
            by_chain,
            counted,
        }) = committed(db, shared, &mut log, true)?
        else {
            return Ok(());
        };
        let Some(last) = transactions.last() else {
            return Ok(());
        };
        if by_chain && kept < last.end.offset && !is_checkpointed(db, shared, &log, last)? {
            // Nobody but the chain said that it was committed: of what comes now it is no part.
            self.lose_image();
            return Ok(());
        }
        let run = self.image.as_mut().expect("BUG: saved for no image");
        let page_size = log.header.page_size;
        let failed = CaptureError::io("save a log for the image");
        let mut save = || -> io::Result<(u32, Vec<PageRef>)> {
            if run.saved.is_none() {
                run.saved = Some(tempfile::tempfile_in(&shared.directory)?);
            }
            let file = run.saved.as_mut().expect("BUG: just made");
            let mut at = file.stream_position()?;
            let mut page = vec![0; page_size as usize];
            let mut saved = Vec::new();
            for found in newest_pages(&transactions, page_size) {
                log.page(found, &mut page)?;
                file.write_all(&page)?;
                saved.push(PageRef {
                    pgno: found.pgno,
                    offset: at,
                });
                at += u64::from(page_size);
            }
            Ok((last.commit, saved))
        };
        let reset = save().map_err(failed)?;
        let run = self.image.as_mut().expect("BUG: saved for no image");
        run.resets.push(reset);
        run.ended = Some(log.header.salt);
        let end = Some(LogEnd::of(&log.mark_at(last.end)));
        if counted.change.is_some() || self.complete != end {
            self.seen_count = counted;
        }
        self.complete = end;
        self.was_unguarded = false;
        run.lost |= page_size != run.page_size;
        Ok(())
    }

    /// Lays the logs over the image, and carries the history on to the state that it shows.
    fn finish_image(
        &mut self,
        db: &Database,
        shared: &Shared,
        image: &mut Image,
    ) -> Result<Work, CaptureError> {
        let run = self.image.take().ok_or(CaptureError::Disturbed)?;
        // Before the log is opened: its reset may be carried out at any time.
        let is_passing = db.is_passing();
        let journal = shared.hot_journal(db)?;
        let is_same_journal = journal.as_ref().map(|journal| journal.stamp) == run.journal;
        // With a commit held the log is not what is captured.
        let differs = self.unpublished.is_some() && db.is_holding();
        if run.lost || !is_same_journal || differs || db.changes() != run.changes {
            return Err(CaptureError::Disturbed);
        }
        if db.is_arriving() {
            run.refuse_written(db, shared)?;
        }
        let mut commit = None;
        if let Some(saved) = &run.saved {
            let mut page = vec![0; run.page_size as usize];
            for (size, pages) in &run.resets {
                for found in pages {
                    read_up_to(saved, &mut page, found.offset)
                        .and_then(|_| image.lay_over(found.pgno, &page))
                        .map_err(CaptureError::io("lay a saved log over the image"))?;
                }
                commit = Some(*size);
            }
        }
        // Before the log is looked for: what is committed in between is in it.
        let without_log = Self::count_without_log(db, shared)?;
        let before = run.ended.or(run.first);
        let Laid {
            wal,
            last,
            counted,
            transactions,
        } = self.lay_log_over(db, shared, image, before, &mut commit)?;
        let salt = wal.map(|wal| wal.salt);
        // A log that has ended unsaved may have been written into what was read.
        let is_unsaved = run.ended.is_none() && before.is_some() && salt != before;
        let is_another = (salt.is_none() || salt != before) && !is_unsaved;
        let now = wal.map_or(without_log, |_| counted);
        let is_missed = is_another && self.is_reset_missed(db, now, transactions);
        if is_missed {
            self.tell_missed(db, "reset_missed");
        }
        if is_missed || is_unsaved || db.is_gate_missed() {
            return Err(CaptureError::Disturbed);
        }
        if let Some(journal) = &journal {
            if wal.is_some() || shared.backing.stamp(&db.path).ok() != Some(run.stamp) {
                return Err(CaptureError::Disturbed);
            }
            journal.lay_over(image)?;
            commit = Some(journal.journal.pages());
        }
        let size = match commit {
            Some(commit) => refuse_missing_pages(image, commit).map(|()| commit),
            None => size_without_log(db, shared, &run, image),
        };
        let commit = match size {
            Err(flaw @ CaptureError::Incomplete { .. }) => {
                return Err(shared.judge_flaw(db, &run.stamp, flaw)?);
            }
            other => other?,
        };
        image.set_size(commit)?;
        if wal.is_some() && commit > 0 {
            let mut first = vec![0; image.page_size as usize];
            image.get(1, &mut first)?;
            self.note_first_page(shared, &first)?;
        }
        let sum_of = |page: &PageRef| (page.pgno, image.sums[page.pgno as usize - 1]);
        self.tail = last.iter().map(sum_of).collect();
        self.seen_count = now;
        self.seen_changes = run.changes;
        self.seen_stamp = run.stamp;
        self.at_rest = (wal.is_none() && run.resets.is_empty()).then_some(run.stamp);
        // What the operation is about to destroy is in this image, whether its gate came before or meanwhile.
        self.log_ended = is_passing && wal.is_some();
        db.set_captured_end(wal.map_or(0, |wal| wal.position.offset));
        let work = self.carry_on(db, shared, image, commit, wal)?;
        self.making = match &work {
            Work::Nothing => None,
            Work::Snapshot(end) => Some(Box::new(*end)),
            Work::Difference { draft, .. } => Some(Box::new(draft.end)),
        };
        self.resync = None;
        self.unpublished = None;
        self.confirm_files();
        if let Work::Difference { .. } = &work {
            db.note_boundaries(!run.is_without_boundaries);
        }
        let is_written = journal.is_some() && shared.has_writer(run.stamp.inode)?;
        db.note_hot_journal(journal.is_some(), is_written);
        db.writes().end_whole();
        self.report(db);
        Ok(work)
    }

    /// Gives where the log goes on, and the pages of its last transaction. `before`: the last one that is known.
    fn lay_log_over(
        &self,
        db: &Database,
        shared: &Shared,
        image: &mut Image,
        before: Option<Salt>,
        commit: &mut Option<u32>,
    ) -> Result<Laid, CaptureError> {
        let Log::Valid(mut log) = open_log(db, shared)? else {
            return Ok(Laid::default());
        };
        if log.header.page_size != image.page_size {
            return Err(CaptureError::Disturbed);
        }
        let Committed {
            transactions,
            counted,
            ..
        } = committed(db, shared, &mut log, false)?.ok_or(CaptureError::Disturbed)?;
        let is_another = before != Some(log.header.salt);
        if is_another && self.may_have_missed_log(db, &log.header, before, counted) {
            return Err(CaptureError::Disturbed);
        }
        let mut page = vec![0; image.page_size as usize];
        for found in newest_pages(&transactions, image.page_size) {
            log.page(found, &mut page)
                .and_then(|()| image.lay_over(found.pgno, &page))
                .map_err(CaptureError::io("lay the log over the image"))?;
        }
        refuse_replaced(&log)?;
        let last = transactions.last();
        *commit = last.map(|last| last.commit).or(*commit);
        let mark = log.mark_at(last.map_or(log.header.start(), |last| last.end));
        let last = last.map_or_else(Vec::new, |last| {
            newest_pages(std::slice::from_ref(last), image.page_size)
        });
        Ok(Laid {
            wal: Some(mark),
            last,
            counted,
            transactions: transactions.len(),
        })
    }
}

/// The log that was laid over an image.
#[derive(Default)]
struct Laid {
    /// Where it goes on; none where there is none.
    wal: Option<WalMark>,
    /// The pages of its last transaction.
    last: Vec<PageRef>,
    /// Where the wal-index spoke of it.
    counted: Counted,
    /// How many are committed in it.
    transactions: usize,
}

/// The size of a database of which no log has a frame: nobody may have written it while it was read.
fn size_without_log(
    db: &Database,
    shared: &Shared,
    run: &ImageRun,
    image: &Image,
) -> Result<u32, CaptureError> {
    let stamp = shared.backing.stamp(&db.path);
    if stamp.map_err(CaptureError::io("look at the database"))? != run.stamp {
        return Err(CaptureError::Disturbed);
    }
    let in_file = image.sums.len() as u32;
    match read_header(db, shared)?.and_then(|header| header.pages) {
        Some(pages) if pages > in_file => Err(CaptureError::Incomplete {
            missing: pages - in_file,
            pages,
        }),
        in_header => Ok(in_header.unwrap_or(in_file)),
    }
}

impl ImageRun {
    /// Whoever writes a file that no connection works on, and has closed or opened it meanwhile, has changed what was read.
    fn refuse_written(&self, db: &Database, shared: &Shared) -> Result<(), CaptureError> {
        let stamp = shared.backing.stamp(&db.path);
        let stamp = stamp.map_err(CaptureError::io("look at the database"))?;
        let is_as_before = db.happened() == self.happened && stamp == self.stamp;
        match is_as_before || shared.is_in_use(db, stamp.inode)? {
            true => Ok(()),
            false => Err(CaptureError::Disturbed),
        }
    }
}

#[cfg(test)]
mod tests;
