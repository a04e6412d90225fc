//! A segment of ours that is in the store already, other than we would write it now: the process died between the
//! store's acknowledgement and its own note of it. The history goes on from what is stored.

use super::Shared;
use super::database::Database;
use super::error::CaptureError;
use super::files::{Log, open_log};
use super::history::{History, sums_header};
use super::mark::{Mark, PageSum, WalMark};
use super::merge::Numbers;
use super::segment::newest_pages;
use super::state::Entry;
use crate::clock::now_ms;
use crate::format::ltx::{DatabaseChecksum, Decoder, Header, LtxError, page_checksum};

/// A stored segment, decoded and verified.
#[derive(Debug)]
pub struct StoredSegment {
    pub header: Header,
    checksum: DatabaseChecksum,
    file_checksum: u64,
    /// Bytes of the object.
    size: u64,
    sums: Vec<PageSum>,
}

impl StoredSegment {
    /// Reads a whole segment.
    pub fn decode(bytes: &[u8]) -> Result<Self, LtxError> {
        let mut decoder = Decoder::new(bytes)?;
        let header = *decoder.header();
        let mut page = vec![0; header.page_size as usize];
        let mut sums = Vec::new();
        while let Some(pgno) = decoder.next_page(&mut page)? {
            sums.push((pgno, page_checksum(pgno, &page)));
        }
        let trailer = decoder.finish()?;
        let checksum = DatabaseChecksum::from_value(trailer.post_apply_checksum).ok_or(
            LtxError::PostApply {
                value: trailer.post_apply_checksum,
            },
        )?;
        Ok(Self {
            header,
            checksum,
            file_checksum: trailer.file_checksum,
            size: bytes.len() as u64,
            sums,
        })
    }

    /// Of its pages, ascending.
    pub fn sums(&self) -> &[PageSum] {
        &self.sums
    }
}

/// Where the present log goes on behind what an object holds.
enum Place {
    Behind(WalMark),
    /// Its frames are of another log.
    OtherLog,
    /// The log is that of its frames, and has them no more.
    Lost,
}

impl History {
    /// Goes on from `object`, which stands in the store right behind what is known to be stored; what waits is captured
    /// anew from there. False where it does not follow: then it is not ours, or the file is behind it.
    pub(super) fn adopt(
        &mut self,
        db: &Database,
        shared: &Shared,
        object: &StoredSegment,
    ) -> Result<bool, CaptureError> {
        let header = &object.header;
        // Without a state to go on from there are no page sums to go on with either.
        let (Some(before), Some(_)) = (self.stored, self.mark) else {
            return Ok(false);
        };
        if !self.is_followed_by(object, &before, shared) {
            return Ok(false);
        }
        if self.has_captured_again(object) {
            self.take_for_stored(db, shared, object)?;
            return Ok(true);
        }
        let newest = Mark {
            txid: header.max_txid,
            ..before
        };
        if db.is_as_stored() {
            // Files and state agree that nothing came after the state before: both went back.
            self.fall_behind(db, &newest);
            return Ok(false);
        }
        let wal = match place_behind(db, shared, before.wal, object)? {
            Place::Behind(wal) => Some(wal),
            // A death leaves one object without a note; with more of them the state went back.
            Place::OtherLog if !self.has_adopted_unseen => None,
            Place::OtherLog | Place::Lost => {
                self.fall_behind(db, &newest);
                return Ok(false);
            }
        };
        // What is durable is in the table of page sums already, which then is past the state before.
        if self.pending.iter().any(|segment| segment.durable) {
            return Ok(false);
        }
        self.has_adopted_unseen = wal.is_none();
        let end = Mark {
            seq: before.seq + 1,
            txid: header.max_txid,
            checksum: object.checksum,
            commit: header.commit,
            time_ms: header.timestamp_ms,
            wal,
            ..before
        };
        let table = self.sums.as_ref().expect("BUG: loaded without page sums");
        let entry = Entry {
            mark: end,
            snapshot: false,
            committed_at: now_ms(),
            file_checksum: object.file_checksum,
            sums: table.noted(&object.sums),
        };
        let note = self.snapshot_after(&end, object.size);
        shared.state.save_stored(self.id, &entry, &note, None)?;
        self.pending.clear();
        self.numbers = Numbers::default();
        let table = self.sums.as_mut().expect("BUG: loaded without page sums");
        table.drop_overlay();
        if wal.is_none() {
            self.note_former(object)?;
        }
        let table = self.sums.as_mut().expect("BUG: loaded without page sums");
        table
            .follow(&sums_header(&end), end.seq, &object.sums)
            .map_err(CaptureError::io("write the page sums"))?;
        self.stored = Some(end);
        self.snapshot = Some(note);
        self.mark = Some(end);
        self.tail = object.sums.clone().into();
        self.last_txid = self.last_txid.max(end.txid);
        self.log_ended = false;
        if end.wal.is_none() {
            self.compare_because(db, "adopted");
        }
        self.report(db);
        Ok(true)
    }

    /// Whether what waits first leads to the same state, and is durable: a gate came before anybody asked the store.
    fn has_captured_again(&self, object: &StoredSegment) -> bool {
        let Header {
            max_txid, commit, ..
        } = object.header;
        self.pending.front().is_some_and(|front| {
            let end = &front.end;
            front.durable
                && (end.txid, end.commit, end.checksum) == (max_txid, commit, object.checksum)
        })
    }

    /// The object stands for what waits first.
    fn take_for_stored(
        &mut self,
        db: &Database,
        shared: &Shared,
        object: &StoredSegment,
    ) -> Result<(), CaptureError> {
        let front = self.pending.front().cloned();
        let front = front.expect("BUG: nothing was captured again");
        let entry = Entry {
            mark: front.end,
            snapshot: false,
            committed_at: front.committed_at,
            file_checksum: object.file_checksum,
            sums: object.sums.clone(),
        };
        let note = self.snapshot_after(&front.end, object.size);
        shared.state.save_stored(self.id, &entry, &note, None)?;
        shared.remove_body(&front)?;
        self.stored = Some(front.end);
        self.snapshot = Some(note);
        self.pending.pop_front();
        self.report(db);
        Ok(())
    }

    /// Whether an object of ours goes on from the state `before`, as what waits does.
    fn is_followed_by(&self, object: &StoredSegment, before: &Mark, shared: &Shared) -> bool {
        let header = &object.header;
        header.node_id == shared.state.node_id()
            && header.page_size == before.page_size
            && header.min_txid == before.txid + 1
            && header.pre_apply_checksum == before.checksum.value()
            && self
                .front()
                .is_none_or(|front| front.end.generation == before.generation && !front.snapshot)
    }
}

/// Where the present log goes on behind what the object holds of it. Frames are lost where a power cut took them, and
/// whoever came after it may have written others in their place.
fn place_behind(
    db: &Database,
    shared: &Shared,
    before: Option<WalMark>,
    object: &StoredSegment,
) -> Result<Place, CaptureError> {
    let header = &object.header;
    let Log::Valid(mut log) = open_log(db, shared)? else {
        return Ok(Place::OtherLog);
    };
    if log.header.salt != header.wal_salt {
        return Ok(Place::OtherLog);
    }
    let start = log.header.start();
    let from = [before.map(|mark| mark.position), Some(start)]
        .into_iter()
        .flatten()
        .find(|position| position.offset == header.wal_offset);
    let Some(from) = from else {
        return Ok(Place::OtherLog);
    };
    let failed = || CaptureError::io("read the log");
    let end = header.wal_offset + header.wal_size;
    let transactions = log.transactions(from, end).map_err(failed())?;
    let mut page = vec![0; header.page_size as usize];
    let mut sums = Vec::new();
    for found in newest_pages(&transactions, header.page_size) {
        log.page(found, &mut page).map_err(failed())?;
        sums.push((found.pgno, page_checksum(found.pgno, &page)));
    }
    let position = transactions.last().map(|last| last.end);
    let found = position.filter(|position| position.offset == end && sums == object.sums);
    Ok(found.map_or(Place::Lost, |position| {
        Place::Behind(WalMark {
            salt: header.wal_salt,
            position,
        })
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::drain::Next;
    use crate::capture::mark::Segment;
    use crate::capture::model::{Model, bytes_of};
    use crate::capture::{FileKind, OpenedAs, workers};

    fn decoded(segment: &Segment) -> StoredSegment {
        StoredSegment::decode(&bytes_of(&segment.body)).expect("a whole segment")
    }

    fn front(db: &Database) -> Segment {
        db.history().front().expect("something waits")
    }

    /// A model whose history is stored but for one commit that only its log shows, and that commit's segment.
    fn with_a_commit_that_was_not_seen() -> (Model, StoredSegment) {
        let mut model = Model::new(1, 16 << 20);
        let (db, shared) = (model.db.clone(), model.capture.shared.clone());
        model.run("INSERT INTO t VALUES (1000, 'first')");
        workers::make_image(&db, &shared).expect("a first image");
        db.history().stored(&db, &shared, None).expect("stored");
        // Without sight of the index the chain decides.
        let hidden = OpenedAs {
            writable: true,
            passthrough: false,
            external: false,
        };
        db.opened(FileKind::Shm, hidden);
        model.commit_unpublished("INSERT INTO t VALUES (1001, 'never seen')");
        workers::drain(&db, &shared).expect("captured");
        let segment = front(&db);
        (model, decoded(&segment))
    }

    #[test]
    fn what_the_log_still_shows_is_gone_on_from() {
        let (model, object) = with_a_commit_that_was_not_seen();
        let (db, shared) = (model.db.clone(), model.capture.shared.clone());
        let captured = db.history().mark;
        assert!(db.history().adopt(&db, &shared, &object).expect("adopted"));
        let adopted = db.history().mark.and_then(|mark| mark.wal);
        assert_eq!(adopted, captured.and_then(|mark| mark.wal));
        assert_eq!(db.history().resync, None);
    }

    #[test]
    fn what_a_gate_has_captured_again_is_stored_already() {
        let (model, mut object) = with_a_commit_that_was_not_seen();
        let (db, shared) = (model.db.clone(), model.capture.shared.clone());
        db.history().spool_all(&shared).expect("durable");
        let captured = db.history().mark;
        let sound = object.checksum;
        object.checksum.toggle(1 << 63 | 1);
        assert!(!db.history().adopt(&db, &shared, &object).expect("looked"));
        object.checksum = sound;
        assert!(db.history().adopt(&db, &shared, &object).expect("adopted"));
        let history = db.history();
        assert!(history.front().is_none());
        assert_eq!((history.mark, history.stored), (captured, captured));
        assert_eq!(shared.spool.used(), 0);
    }

    /// The page sums were not whole, and would not be those of what is gone on from.
    #[test]
    fn a_history_that_has_to_begin_anew_goes_on_from_nothing() {
        let (model, object) = with_a_commit_that_was_not_seen();
        let (db, shared) = (model.db.clone(), model.capture.shared.clone());
        db.history().abandon(&shared, None).expect("given up");
        db.history().is_newest_known = false;
        assert_eq!(db.history().doubtful_successor(), None);
        assert!(!db.history().adopt(&db, &shared, &object).expect("looked"));
        assert!(db.history().mark.is_none());
    }

    /// Whoever may write to the store can put anything under the next key.
    #[test]
    fn what_is_not_the_next_segment_of_ours_is_left_alone() {
        let (model, mut object) = with_a_commit_that_was_not_seen();
        let (db, shared) = (model.db.clone(), model.capture.shared.clone());
        let mark = db.history().mark;
        let waiting = front(&db).end;
        let sound = object.header;
        type Spoil = fn(&mut Header);
        let foreign: [(&str, Spoil); 7] = [
            ("another instance's", |h| h.node_id ^= 1),
            ("of another page size", |h| h.page_size *= 2),
            ("one transaction late", |h| h.min_txid += 1),
            ("one transaction early", |h| h.min_txid -= 1),
            ("the end of all numbers", |h| h.min_txid = u64::MAX),
            ("made for another state", |h| h.pre_apply_checksum ^= 1),
            ("a snapshot", |h| {
                (h.min_txid, h.pre_apply_checksum) = (1, 0)
            }),
        ];
        for (name, spoil) in foreign {
            object.header = sound;
            spoil(&mut object.header);
            let adopted = db.history().adopt(&db, &shared, &object);
            assert!(!adopted.expect("looked at"), "{name}");
            assert_eq!(db.history().mark, mark, "{name}");
            assert_eq!(front(&db).end, waiting, "{name}");
        }
        object.header = sound;
        assert!(db.history().adopt(&db, &shared, &object).expect("adopted"));
    }

    #[test]
    fn a_log_that_lacks_the_frames_of_the_object_is_behind_it() {
        let (mut model, object) = with_a_commit_that_was_not_seen();
        let (db, shared) = (model.db.clone(), model.capture.shared.clone());
        model.execute("INSERT INTO t VALUES (1002, 'in its place')");
        let before = db.history().mark.expect("a mark").generation;
        assert!(!db.history().adopt(&db, &shared, &object).expect("looked"));
        db.history().abandon(&shared, None).expect("given up");
        let drained = workers::drain(&db, &shared).expect("looked");
        assert_eq!(drained.next, Next::Image);
        workers::make_image(&db, &shared).expect("compared");

        let shown = model.shown();
        let page_size = object.header.page_size as usize;
        let mut checksum = DatabaseChecksum::EMPTY;
        for (index, page) in shown.chunks(page_size).enumerate() {
            checksum.toggle(page_checksum(index as u32 + 1, page));
        }
        let mark = db.history().mark.expect("a mark");
        assert_eq!(mark.checksum, checksum);
        assert!(mark.generation > before && mark.seq == 0);
        let client = db.client().expect("registered").progress();
        let told = client.last_error.expect("told");
        assert!(client.is_behind && told.starts_with("behind_replica: "));
    }
}
