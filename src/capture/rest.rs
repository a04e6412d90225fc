//! A history that nothing is under way of: kept in a fraction of the memory, and nothing of it is forgotten. Most databases
//! are idle.

use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};

use super::authority::Counted;
use super::backing::Stamp;
use super::database::locked;
use super::history::History;
use super::mark::{Mark, PageSum};
use super::packed::{Packed, packed};
use super::page_sums::{PageSums, Recent};
use super::resets::{Emptied, LogEnd};
use super::state::SnapshotNote;
use crate::clock::UnixMs;
use crate::store::keys::GenerationId;

/// A database's history behind its lock: made when it is first asked for, and whole while somebody holds it.
#[derive(Debug, Default)]
pub(super) struct Chronicle(Mutex<Form>);

#[derive(Debug)]
enum Form {
    /// A `Rest` that is packed; empty before it is first asked for.
    Resting(Box<[u8]>),
    Whole(Box<History>),
}

impl Default for Form {
    fn default() -> Self {
        Self::Resting(Box::default())
    }
}

impl Chronicle {
    /// `directory`: where the page sums are.
    pub fn lock(&self, directory: &Arc<Path>) -> Open<'_> {
        Open::new(locked(&self.0), directory)
    }

    /// None where somebody else has it now.
    pub fn try_lock(&self, directory: &Arc<Path>) -> Option<Open<'_>> {
        match self.0.try_lock() {
            Ok(form) => Some(Open::new(form, directory)),
            Err(TryLockError::Poisoned(poisoned)) => {
                Some(Open::new(poisoned.into_inner(), directory))
            }
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Makes a resting one anew in another place; what it was goes with what is given back. None of one that somebody has.
    pub fn make_anew(&self) -> Option<Box<[u8]>> {
        match &mut *self.0.try_lock().ok()? {
            Form::Resting(bytes) => {
                let new = bytes.clone();
                Some(std::mem::replace(bytes, new))
            }
            Form::Whole(_) => None,
        }
    }

    #[cfg(test)]
    pub fn is_resting(&self) -> bool {
        matches!(&*locked(&self.0), Form::Resting(bytes) if !bytes.is_empty())
    }
}

/// It is whole, and nobody else touches it meanwhile.
pub(super) struct Open<'a>(MutexGuard<'a, Form>);

impl<'a> Open<'a> {
    fn new(mut form: MutexGuard<'a, Form>, directory: &Arc<Path>) -> Self {
        *form = Form::Whole(match std::mem::take(&mut *form) {
            Form::Resting(bytes) if bytes.is_empty() => Box::default(),
            Form::Resting(bytes) => {
                let rest = Rest::take(&mut &bytes[..]);
                Box::new(rest.whole(directory.clone()))
            }
            Form::Whole(history) => history,
        });
        Self(form)
    }

    /// Gives back the memory that it has no use for until it is locked next, where nothing is under way.
    pub fn rest(mut self) {
        if let Some(rest) = Rest::of(&self) {
            *self.0 = Form::Resting(rest.packed());
        }
    }
}

impl Deref for Open<'_> {
    type Target = History;

    fn deref(&self) -> &History {
        match &*self.0 {
            Form::Whole(history) => history,
            Form::Resting(_) => unreachable!("BUG: whole while it is locked"),
        }
    }
}

impl DerefMut for Open<'_> {
    fn deref_mut(&mut self) -> &mut History {
        match &mut *self.0 {
            Form::Whole(history) => history,
            Form::Resting(_) => unreachable!("BUG: whole while it is locked"),
        }
    }
}

/// Bytes that most of them take.
const USUAL_SIZE: usize = 160;

/// What `History` has while all is stored; the fields are called as there, and what is not among them is as it begins.
#[derive(Debug)]
struct Rest {
    id: i64,
    /// And stored.
    mark: Mark,
    /// The table of page sums has room for the pages of `mark`, and no more.
    has_room: bool,
    /// As in `Recent`; its sums are none for those of `tail`.
    is_lacking: bool,
    recent: Option<Vec<PageSum>>,
    tail: Vec<PageSum>,
    taken_at: Option<UnixMs>,
    /// Its generation and the newest are those of `mark` but for these bits.
    snapshot: Option<SnapshotNote>,
    newest_generation: GenerationId,
    is_newest_known: bool,
    last_txid: u64,
    log_ended: bool,
    /// None for the place of `mark`.
    complete: Option<Option<LogEnd>>,
    emptied: Emptied,
    was_unguarded: bool,
    seen_count: Counted,
    has_found_place: bool,
    is_encrypted: bool,
    was_confirmed: bool,
    has_adopted_unseen: bool,
    seen_changes: u64,
    seen_stamp: Stamp,
    /// None for `seen_stamp`.
    at_rest: Option<Option<Stamp>>,
}

packed!(Rest {
    id,
    mark,
    has_room,
    is_lacking,
    recent,
    tail,
    taken_at,
    snapshot,
    newest_generation,
    is_newest_known,
    last_txid,
    log_ended,
    complete,
    emptied,
    was_unguarded,
    seen_count,
    has_found_place,
    is_encrypted,
    was_confirmed,
    has_adopted_unseen,
    seen_changes,
    seen_stamp,
    at_rest
});

/// The bits in which a generation differs from that of a mark; of those bits it is the generation.
fn beside(generation: GenerationId, mark: &Mark) -> GenerationId {
    GenerationId(generation.0 ^ mark.generation.0)
}

fn snapshot_beside(snapshot: SnapshotNote, mark: &Mark) -> SnapshotNote {
    SnapshotNote {
        generation: beside(snapshot.generation, mark),
        ..snapshot
    }
}

fn end_of_log(mark: &Mark) -> Option<LogEnd> {
    mark.wal.as_ref().map(LogEnd::of)
}

impl Rest {
    fn packed(&self) -> Box<[u8]> {
        let mut bytes = Vec::with_capacity(USUAL_SIZE);
        self.put(&mut bytes);
        bytes.into()
    }

    /// None where something is under way, which is not for keeping so.
    fn of(history: &History) -> Option<Self> {
        // Each by its name: a further one has to be thought of here.
        let History {
            id,
            mark,
            pending,
            sums,
            tail,
            stored,
            taken_at,
            snapshot,
            is_newest_known,
            last_txid,
            newest_generation,
            log_ended,
            complete,
            emptied,
            followed,
            prepared,
            was_unguarded,
            seen_count,
            unconfirmed,
            has_found_place,
            is_encrypted,
            was_confirmed,
            has_adopted_unseen,
            resync,
            seen_changes,
            seen_stamp,
            at_rest,
            image,
            is_imaged,
            unpublished,
            making,
            numbers,
        } = history;
        let is_under_way = !pending.is_empty()
            || mark != stored
            || followed.is_some()
            || prepared.is_some()
            || unconfirmed.is_some()
            || resync.is_some()
            || image.is_some()
            || *is_imaged
            || unpublished.is_some()
            || making.is_some()
            || numbers.are_relied_on();
        if is_under_way {
            return None;
        }
        let mark = (*mark)?;
        let sums = sums.as_ref()?;
        let has_room = sums.only_on_disk()? == Some(mark.commit);
        let recent = sums.recent();
        Some(Self {
            id: *id,
            mark,
            has_room,
            is_lacking: recent.is_lacking,
            // What the table does not lack can be read there.
            recent: (recent.sums != *tail).then(|| recent.lacking().to_vec()),
            tail: tail.to_vec(),
            taken_at: *taken_at,
            snapshot: snapshot.map(|snapshot| snapshot_beside(snapshot, &mark)),
            is_newest_known: *is_newest_known,
            last_txid: *last_txid,
            newest_generation: beside((*newest_generation)?, &mark),
            log_ended: *log_ended,
            complete: (*complete != end_of_log(&mark)).then_some(*complete),
            emptied: *emptied,
            was_unguarded: *was_unguarded,
            seen_count: *seen_count,
            has_found_place: *has_found_place,
            is_encrypted: *is_encrypted,
            was_confirmed: *was_confirmed,
            has_adopted_unseen: *has_adopted_unseen,
            seen_changes: *seen_changes,
            seen_stamp: *seen_stamp,
            at_rest: (*at_rest != Some(*seen_stamp)).then_some(*at_rest),
        })
    }

    fn whole(self, directory: Arc<Path>) -> History {
        let Mark { commit, .. } = self.mark;
        let tail: Arc<[PageSum]> = self.tail.into();
        let room = self.has_room.then_some(commit);
        let recent = Recent {
            sums: self.recent.map_or_else(|| tail.clone(), Arc::from),
            is_lacking: self.is_lacking,
        };
        History {
            id: self.id,
            mark: Some(self.mark),
            sums: Some(PageSums::with(directory, self.id, room, recent)),
            tail,
            stored: Some(self.mark),
            taken_at: self.taken_at,
            snapshot: self
                .snapshot
                .map(|snapshot| snapshot_beside(snapshot, &self.mark)),
            is_newest_known: self.is_newest_known,
            last_txid: self.last_txid,
            newest_generation: Some(beside(self.newest_generation, &self.mark)),
            log_ended: self.log_ended,
            complete: self.complete.unwrap_or_else(|| end_of_log(&self.mark)),
            emptied: self.emptied,
            was_unguarded: self.was_unguarded,
            seen_count: self.seen_count,
            has_found_place: self.has_found_place,
            is_encrypted: self.is_encrypted,
            was_confirmed: self.was_confirmed,
            has_adopted_unseen: self.has_adopted_unseen,
            seen_changes: self.seen_changes,
            seen_stamp: self.seen_stamp,
            at_rest: self.at_rest.unwrap_or(Some(self.seen_stamp)),
            ..History::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::model::Model;
    use crate::capture::workers;

    fn rest(model: &Model) -> bool {
        model.db.history().rest();
        model.db.rests()
    }

    #[test]
    fn a_history_rests_when_all_is_stored_and_nothing_of_it_is_forgotten() {
        let mut model = Model::new(1, 16 << 20);
        let (db, shared) = (model.db.clone(), model.capture.shared.clone());
        assert!(!rest(&model), "it is not loaded");
        workers::make_image(&db, &shared).expect("a first image");
        for n in 0..3 {
            model.run(&format!("INSERT INTO t VALUES ({n}, 'a row')"));
            workers::drain(&db, &shared).expect("captured");
            assert!(!rest(&model), "something waits");
            while db.history().front().is_some() {
                db.history().stored(&db, &shared, None).expect("stored");
            }
            let mark = db.history().mark.expect("captured");
            let number = db.history().numbers.rely_on(&mark);
            assert!(!rest(&model), "a snapshot is on its way");
            drop(number);
            db.history().compare_because(&db, "as the test wants it");
            assert!(!rest(&model), "it has to be compared");
            db.history().resync = None;

            let told = |history: &History| {
                // But for who had relied on a number.
                let known = format!("{history:?}");
                known.replace("numbers: Numbers([(Weak)])", "numbers: Numbers([])")
            };
            let before = told(&db.history());
            let packed = Rest::of(&db.history())
                .expect("nothing is under way")
                .packed();
            assert!(packed.len() <= USUAL_SIZE, "{} bytes", packed.len());
            assert!(rest(&model));
            assert_eq!(told(&db.history()), before);
            let history = db.history();
            assert!(history.mark.is_some() && history.snapshot.is_some());
            assert!(!history.tail.is_empty());
        }
    }
}
