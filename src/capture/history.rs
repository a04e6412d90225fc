//! The captured history of one database: where it stands, and what of it still waits for the store.

use std::collections::{HashSet, VecDeque};
use std::fs::File;
use std::io::{self, BufReader};
use std::path::Path;
use std::sync::Arc;

use super::authority::Counted;
use super::backing::Stamp;
use super::behind::Unconfirmed;
use super::commits::Unpublished;
use super::database::Database;
use super::error::CaptureError;
use super::image::ImageRun;
use super::mark::{Mark, PageSum, Segment};
use super::merge::Numbers;
use super::page_sums::{PageSums, SumsHeader};
use super::prepared::Prepared;
use super::read_ahead::Followed;
use super::resets::{Emptied, LogEnd};
use super::segment::Press;
use super::state::{Entry, Known, SnapshotNote, Stamps, StoredNote};
use super::{Shared, now_after};
use crate::clock::{UnixMs, now_ms};
use crate::fault::Point;
use crate::format::ltx::Decoder;
use crate::meter;
use crate::store::Body;
use crate::store::keys::{GenerationId, ObjectKey};

/// What the store has of a database from before all that the state knows.
#[derive(Clone, Copy, Debug)]
pub struct Earlier {
    /// The newest generation.
    pub generation: GenerationId,
    /// The newest transaction; 0 where that need not be known.
    pub txid: u64,
}

/// What stands between the database's files and the store. Under its database's lock.
#[derive(Debug, Default)]
pub struct History {
    /// `Database::id`; 0 until loaded.
    pub(super) id: i64,
    /// The newest captured state; none where a new generation has to begin.
    pub(super) mark: Option<Mark>,
    /// Captured and not stored, oldest first.
    pub(super) pending: VecDeque<Segment>,
    pub(super) sums: Option<PageSums>,
    /// Of pages that the newest transactions changed; where a log was read, those of its last one at least.
    pub(super) tail: Arc<[PageSum]>,
    /// The newest state in the store.
    pub(super) stored: Option<Mark>,
    /// When the store last took something.
    pub(super) taken_at: Option<UnixMs>,
    /// The newest snapshot in the store.
    pub(super) snapshot: Option<SnapshotNote>,
    /// Whether the store has nothing after `stored` that an earlier run put there and did not note.
    pub(super) is_newest_known: bool,
    /// Bounds for the next generation's names and numbers.
    pub(super) last_txid: u64,
    pub(super) newest_generation: Option<GenerationId>,
    /// The log of `mark.wal` was captured to its end, and destroyed with our leave.
    pub(super) log_ended: bool,
    /// Where a log was captured to its end at a complete checkpoint: it may be reset from there without a word.
    pub(super) complete: Option<LogEnd>,
    /// How the logs before the present one ended.
    pub(super) emptied: Emptied,
    /// What was read of the log behind `mark.wal`, ahead of its capture.
    pub(super) followed: Option<Box<Followed>>,
    /// A segment of what comes next in the log, which may not be committed yet.
    pub(super) prepared: Option<Box<Prepared>>,
    /// A gate was passed before its capture had ended, and none was in order since: that was told.
    pub(super) was_unguarded: bool,
    /// As it was at the newest captured commit, of which this run has seen none at first.
    pub(super) seen_count: Counted,
    /// None once this run has found the mark in the files.
    pub(super) unconfirmed: Option<Box<Unconfirmed>>,
    /// Since it was loaded, its place in the files was found: what happens to them from then on is seen.
    pub(super) has_found_place: bool,
    /// The captured state's first page is not plain.
    pub(super) is_encrypted: bool,
    /// This run had found it there before a panic: the files can't be behind.
    pub(super) was_confirmed: bool,
    /// The history goes on from an object whose frames no log shows.
    pub(super) has_adopted_unseen: bool,
    /// Why the file has to be compared page by page before its log can be followed again.
    pub(super) resync: Option<&'static str>,
    /// `Database::changes` and the file's stamp as the history knows them.
    pub(super) seen_changes: u64,
    pub(super) seen_stamp: Stamp,
    /// The file's stamp when all was in it and its log gone, or empty: until there is a log, nothing may change it.
    pub(super) at_rest: Option<Stamp>,
    pub(super) image: Option<Box<ImageRun>>,
    /// A worker reads the whole file, or writes down what came of that.
    pub(super) is_imaged: bool,
    /// A commit that was captured before it was written, and is not published yet.
    pub(super) unpublished: Option<Unpublished>,
    /// The end of a segment that an image yields and that is still being written: those after it wait for it, since the
    /// page sums have to become durable in the order of the history.
    pub(super) making: Option<Box<Mark>>,
    /// Those of captured states that somebody relies on.
    pub(super) numbers: Numbers,
}

impl History {
    /// Brings back what an earlier run knew. Done once, at the first look.
    pub(super) fn load(&mut self, db: &Database, shared: &Shared) -> Result<(), CaptureError> {
        if self.id != 0 {
            return Ok(());
        }
        let id = db.id().ok_or(CaptureError::Stopped)?;
        db.lose_writes();
        self.pending.clear();
        self.seen_count = Counted::default();
        let known = shared.state.load(id)?;
        let mut table = PageSums::new(shared.directory.clone(), id);
        let all = || known.stored.iter().chain(&known.spooled);
        let known_txid = all().map(|entry| entry.mark.txid).max().unwrap_or(0);
        let (given, removed) = match db.client() {
            Some(client) => (
                shared.state.newest_given(&client)?,
                shared.state.newest_removal(client.s3_prefix())?,
            ),
            None => (0, None),
        };
        self.last_txid = known_txid.max(given);
        // Whatever the clock says, what begins now is not what was removed.
        let removed = removed.map(GenerationId::of_moment);
        self.newest_generation = all()
            .map(|entry| entry.mark.generation)
            .chain(removed)
            .max();
        self.stored = known.stored.as_ref().map(|entry| entry.mark);
        self.snapshot = known.snapshot;
        self.is_encrypted = shared.state.is_encrypted(id)?;

        if let Some(client) = db.client() {
            shared.spool.belongs_to(id, &client.id.tenant);
        }
        let waiting = self.load_spooled(id, &known, shared)?;
        let last = known.spooled[..waiting].last().or(known.stored.as_ref());
        let whole = waiting == known.spooled.len();
        if let Some(last) = last
            && whole
            && bring_table_to(&mut table, last, &known)?
        {
            self.mark = Some(last.mark);
            self.tail = last.sums.clone().into();
            // With the files as they were when all was stored, the present log is one that has not been seen.
            self.log_ended = db.is_as_stored();
            self.is_newest_known = db.is_as_stored();
            self.at_rest = db.stamp_at_rest();
            let may_be_behind = !db.is_as_stored() && !self.was_confirmed;
            self.unconfirmed = may_be_behind.then(|| {
                let past = known.past.iter().copied().collect();
                let former = Vec::new();
                Box::new(Unconfirmed { past, former })
            });
            let unseen = last.mark.wal.is_none() && !db.is_as_stored();
            self.resync = unseen.then_some("restart");
        } else if !known.is_empty() && !db.is_removed() {
            tracing::warn!(
                client = %db.label(),
                prefix = db.client().as_deref().and_then(|client| client.prefix()),
                "What the state directory has of the database is not whole, as after a power cut; a new generation begins, and what is stored stays restorable"
            );
        }
        self.sums = Some(table);
        self.id = id;
        self.report(db);
        Ok(())
    }

    /// Takes over the segments that wait in the spool, as far as they follow one another. Returns how many.
    fn load_spooled(
        &mut self,
        id: i64,
        known: &Known,
        shared: &Shared,
    ) -> Result<usize, CaptureError> {
        let mut wanted = HashSet::new();
        let mut before = known.stored.as_ref();
        for entry in &known.spooled {
            let follows = entry.snapshot
                || before.is_some_and(|before| {
                    before.mark.generation == entry.mark.generation
                        && before.mark.seq + 1 == entry.mark.seq
                });
            let first_txid = match before {
                Some(before) if !entry.snapshot => before.mark.txid + 1,
                _ => entry.mark.txid,
            };
            let txids = (first_txid, entry.mark.txid);
            let path = shared.spool.path_of(id, entry.mark.generation, txids);
            let Some(size) = whole_file(&path, entry.file_checksum).filter(|_| follows) else {
                break;
            };
            wanted.insert(path.clone());
            self.pending.push_back(Segment {
                first_txid,
                end: entry.mark,
                snapshot: entry.snapshot,
                committed_at: entry.committed_at,
                body: Body::File(path),
                size,
                file_checksum: entry.file_checksum,
                sums: entry.sums.clone().into(),
                durable: true,
            });
            before = Some(entry);
        }
        shared.spool.remove_others(id, &wanted)?;
        Ok(self.pending.len())
    }

    /// Forgets all but what the state and the spool know: somebody panicked in the middle of a change.
    pub(super) fn begin_anew(&mut self) {
        *self = Self {
            is_imaged: self.is_imaged,
            was_confirmed: self.was_confirmed || (self.id != 0 && self.unconfirmed.is_none()),
            ..Self::default()
        };
    }

    /// The next segment to be stored.
    pub(super) fn front(&self) -> Option<Segment> {
        self.pending.front().cloned()
    }

    /// The oldest segment is in the store. `stamps`: the files' at a moment after which nothing was written; noted where
    /// no other segment waits, and then true is returned.
    pub(super) fn stored(
        &mut self,
        db: &Database,
        shared: &Shared,
        stamps: Option<Stamps>,
    ) -> Result<bool, CaptureError> {
        let Some(note) = self.stored_note(stamps) else {
            return Ok(false);
        };
        shared.state.save_all_stored(std::slice::from_ref(&note))?;
        self.stored_is_noted(db, shared, &note)
    }

    /// What the state has to note when the oldest segment is in the store; none where none waits.
    pub(super) fn stored_note(&self, stamps: Option<Stamps>) -> Option<StoredNote> {
        let segment = self.pending.front()?;
        let mut entry = entry_of(segment);
        if let Some(table) = self.table_of(segment).filter(|_| !segment.durable) {
            entry.sums = table.noted(&segment.sums);
        }
        Some(StoredNote {
            id: self.id,
            entry,
            snapshot: match segment.snapshot {
                true => SnapshotNote::first(segment.end.generation),
                false => self.snapshot_after(&segment.end, segment.size),
            },
            stamps: stamps.filter(|_| self.pending.len() == 1),
        })
    }

    /// The oldest segment is in the store, and the state has this note of it. First the state with the sums, then the table:
    /// after a death in between the sums are put in again. Says whether it is noted that all is stored.
    pub(super) fn stored_is_noted(
        &mut self,
        db: &Database,
        shared: &Shared,
        note: &StoredNote,
    ) -> Result<bool, CaptureError> {
        let segment = self.front().expect("BUG: a note of no segment");
        Point::StoredNoted.reach();
        self.taken_at = Some(now_ms());
        if !segment.durable {
            self.put_into_table(&segment, PageSums::follow)?;
        }
        if let Body::File(path) = &segment.body {
            Point::StoredSpooled.reach();
            shared.spool.remove(path)?;
        }
        self.stored = Some(segment.end);
        self.snapshot = Some(note.snapshot);
        self.is_newest_known = true;
        self.pending.pop_front();
        self.report(db);
        Ok(note.stamps.is_some())
    }

    /// The newest snapshot, when a segment of `size` bytes that leads to `end` has been stored after it.
    pub(super) fn snapshot_after(&self, end: &Mark, size: u64) -> SnapshotNote {
        let known = self
            .snapshot
            .filter(|known| known.generation == end.generation)
            .unwrap_or_else(|| SnapshotNote::first(end.generation));
        SnapshotNote {
            log_bytes: known.log_bytes + size,
            ..known
        }
    }

    /// The object that an earlier run may have stored before it died, without a note of it; asked for once, before
    /// anything else is captured. What waits in the spool is stored under its own name, which tells as well.
    pub(super) fn doubtful_successor(&mut self) -> Option<ObjectKey> {
        let is_asked_for = !self.is_newest_known && self.pending.is_empty() && self.mark.is_some();
        let stored = self.stored.filter(|_| is_asked_for);
        self.is_newest_known = true;
        stored.map(|mark| ObjectKey::Segment(mark.generation, mark.seq + 1))
    }

    /// Appends a captured segment; what memory may not hold goes to the spool.
    pub(super) fn push(
        &mut self,
        db: &Database,
        shared: &Shared,
        segment: Segment,
    ) -> Result<(), CaptureError> {
        let end = segment.end;
        if let Some(sums) = &mut self.sums {
            sums.lay_over(end.seq, &segment.sums);
        }
        let place = |other: &Segment| (other.end.generation, other.end.seq);
        let position = self
            .pending
            .partition_point(|other| place(other) < (end.generation, end.seq));
        let in_spool = !segment.is_in_memory();
        self.pending.insert(position, segment);
        if in_spool {
            self.spool_all(shared)?;
        }
        self.make_room(db, shared)?;
        self.report(db);
        Ok(())
    }

    /// Adds the segment that an image has yielded, before those that were captured while it was written.
    pub(super) fn push_made(
        &mut self,
        db: &Database,
        shared: &Shared,
        segment: Segment,
    ) -> Result<(), CaptureError> {
        if self.making.take().as_deref() != Some(&segment.end) {
            return Err(CaptureError::Disturbed);
        }
        let later = self
            .pending
            .iter()
            .any(|other| other.end.generation == segment.end.generation);
        self.push(db, shared, segment)?;
        if later {
            // They may have passed a gate meanwhile.
            self.spool_all(shared)?;
        }
        Ok(())
    }

    /// With more in memory than may be, nothing more is captured before that has found room in the spool.
    pub(super) fn make_room(&mut self, db: &Database, shared: &Shared) -> Result<(), CaptureError> {
        if self.bytes_in_memory() > db.policy().limits.memory_bytes {
            self.spool_all(shared)?;
        }
        Ok(())
    }

    fn bytes_in_memory(&self) -> u64 {
        self.pending
            .iter()
            .filter(|segment| segment.is_in_memory())
            .map(|segment| segment.size)
            .sum()
    }

    /// Makes everything that is captured durable on local disk, oldest first.
    pub(super) fn spool_all(&mut self, shared: &Shared) -> Result<(), CaptureError> {
        if self.making.is_some() {
            return Ok(());
        }
        for index in 0..self.pending.len() {
            let mut segment = self.pending[index].clone();
            if segment.durable {
                continue;
            }
            if let Body::Bytes(bytes) = &segment.body {
                let generation = segment.end.generation;
                let path = shared.spool.path_of(self.id, generation, segment.txids());
                shared.spool.keep(&path, bytes)?;
                Point::Spooled.reach();
                segment.body = Body::File(path);
            }
            segment.durable = true;
            shared.state.save_spooled(self.id, &entry_of(&segment))?;
            Point::SpooledNoted.reach();
            // What is noted of the one before goes when it is stored.
            self.put_into_table(&segment, PageSums::make_durable)?;
            self.pending[index] = segment;
        }
        Ok(())
    }

    /// What waits can't be stored under its names: it is given up, and a new generation has to begin, after `earlier`.
    pub(super) fn abandon(
        &mut self,
        shared: &Shared,
        earlier: Option<Earlier>,
    ) -> Result<(), CaptureError> {
        if let Some(Earlier { generation, txid }) = earlier {
            self.newest_generation = self.newest_generation.max(Some(generation));
            self.last_txid = self.last_txid.max(txid);
        }
        // First the state: a file that it does not name is removed at the next start.
        shared.state.drop_spooled(self.id)?;
        if let Some(front) = self.front() {
            self.lose_from(&front.end, shared)?;
        }
        self.mark = None;
        if let Some(sums) = &mut self.sums {
            sums.drop_overlay();
        }
        Ok(())
    }

    /// The state `end` was never written down: what builds on it is given up, and a new generation has to begin.
    pub(super) fn lose_from(&mut self, end: &Mark, shared: &Shared) -> Result<(), CaptureError> {
        self.numbers = Numbers::default();
        let place = |mark: &Mark| (mark.generation, mark.seq);
        let kept = self
            .pending
            .partition_point(|segment| place(&segment.end) < place(end));
        let lost = self.pending.split_off(kept);
        self.mark = None;
        self.resync = None;
        for segment in lost {
            if let Body::File(path) = &segment.body {
                shared.spool.remove(path)?;
            }
        }
        Ok(())
    }

    /// The log can't be followed on: the next look compares the whole file, page by page.
    pub(super) fn compare_because(&mut self, db: &Database, reason: &'static str) {
        tracing::info!(client = %db.label(), reason, "A database has to be compared page by page");
        self.resync = Some(reason);
        db.note_lost_way();
    }

    /// Notes that everything up to this transaction is captured.
    pub(super) fn reach(&mut self, txid: u64) {
        meter::TRANSACTIONS_CAPTURED.add(txid.saturating_sub(self.last_txid));
        self.last_txid = txid;
    }

    /// The numbers that health shows.
    pub(super) fn report(&self, db: &Database) {
        let Some(client) = db.client() else {
            return;
        };
        let pending_bytes = self.pending.iter().map(|segment| segment.size).sum();
        let oldest = self.pending.front().map(|segment| segment.committed_at);
        let unseen = db.dirty_since();
        let captured = self.mark.map_or(self.last_txid, |mark| mark.txid);
        let stored = self.stored.map_or(0, |mark| mark.txid);
        let generation = self.mark.map(|mark| mark.generation);
        let database_bytes = self.mark.map(|mark| mark.database_bytes());
        client.update(|progress| {
            progress.txid = captured;
            progress.database_bytes = database_bytes.or(progress.database_bytes);
            progress.pending_bytes = pending_bytes;
            progress.oldest_pending_at = match (oldest, unseen) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (one, other) => one.or(other),
            };
            progress.replicated_txid = stored;
            progress.generation = generation.or(progress.generation);
        });
    }

    /// The time of a segment that ends now: after its predecessor, whatever the clock says.
    pub(super) fn next_time(&self) -> UnixMs {
        now_after(self.mark.map(|mark| mark.time_ms))
    }

    pub(super) fn press<'a>(&self, db: &Database, shared: &'a Shared) -> Press<'a> {
        let memory_bytes = db.policy().limits.memory_bytes;
        Press::new(&shared.spool, self.id, shared.state.node_id(), memory_bytes)
    }

    /// Removes what is on local disk of a database that is gone.
    pub(super) fn forget(&mut self, db: &Database, shared: &Shared) -> Result<(), CaptureError> {
        if self.id == 0 {
            return Ok(());
        }
        self.prepared = None;
        if let Some(client) = db.client() {
            // What was captured while it was removed has higher numbers than were noted then.
            shared.state.save_given(&client, self.last_txid)?;
        }
        shared.remove_files(self.id)?;
        Ok(shared.state.remove(self.id)?)
    }

    /// Everything is stored: the next start need not look where the files are as they were.
    pub(super) fn save_stamps(
        &self,
        shared: &Shared,
        stamps: Option<Stamps>,
    ) -> Result<(), CaptureError> {
        Ok(shared.state.save_stamps(self.id, stamps)?)
    }

    /// The table of page sums, if a segment is to go into it: that which an image begins with has written its own.
    fn table_of(&self, segment: &Segment) -> Option<&PageSums> {
        let mark = self.mark.filter(|_| !segment.snapshot);
        let is_ours = mark.is_some_and(|mark| mark.generation == segment.end.generation);
        self.sums.as_ref().filter(|_| is_ours)
    }

    fn put_into_table(
        &mut self,
        segment: &Segment,
        put: impl FnOnce(&mut PageSums, &SumsHeader, u32, &[PageSum]) -> io::Result<()>,
    ) -> Result<(), CaptureError> {
        let is_for_table = self.table_of(segment).is_some();
        let Some(table) = self.sums.as_mut().filter(|_| is_for_table) else {
            return Ok(());
        };
        let header = sums_header(&segment.end);
        put(table, &header, segment.end.seq, &segment.sums)
            .map_err(CaptureError::io("write the page sums"))
    }
}

pub(super) fn sums_header(mark: &Mark) -> SumsHeader {
    SumsHeader {
        generation: mark.generation,
        txid: mark.txid,
        checksum: mark.checksum.value(),
        commit: mark.commit,
        page_size: mark.page_size,
    }
}

pub(super) fn entry_of(segment: &Segment) -> Entry {
    Entry {
        mark: segment.end,
        snapshot: segment.snapshot,
        committed_at: segment.committed_at,
        file_checksum: segment.file_checksum,
        sums: segment.sums.to_vec(),
    }
}

/// The size of a spool file in bytes; none where it is not the whole segment that was noted: a power cut may have come
/// before it was on disk.
fn whole_file(path: &Path, file_checksum: u64) -> Option<u64> {
    let file = File::open(path).ok()?;
    let size = file.metadata().ok()?.len();
    let mut decoder = Decoder::new(BufReader::new(file)).ok()?;
    let mut page = vec![0; decoder.header().page_size as usize];
    while decoder.next_page(&mut page).ok()?.is_some() {}
    let trailer = decoder.finish().ok()?;
    (trailer.file_checksum == file_checksum).then_some(size)
}

/// Puts in the sums that a death may have left out, and says whether the table then is that of the state `last`.
fn bring_table_to(table: &mut PageSums, last: &Entry, known: &Known) -> Result<bool, CaptureError> {
    // It may be cut already to the size of a state that its header does not tell of yet.
    let header = table.header();
    let Some(header) = header.map_err(CaptureError::io("read the page sums"))? else {
        return Ok(false);
    };
    if header.generation != last.mark.generation {
        return Ok(false);
    }
    let late = known
        .stored
        .iter()
        .chain(&known.spooled)
        .filter(|entry| entry.mark.generation == header.generation && !entry.snapshot)
        .filter(|entry| entry.mark.txid >= header.txid);
    for entry in late {
        table
            .make_durable(&sums_header(&entry.mark), entry.mark.seq, &entry.sums)
            .map_err(CaptureError::io("write the page sums"))?;
    }
    let loaded = table
        .load()
        .map_err(CaptureError::io("read the page sums"))?;
    Ok(loaded.is_some_and(|(header, total)| {
        header == sums_header(&last.mark) && total == last.mark.checksum
    }))
}

#[cfg(test)]
mod tests;
