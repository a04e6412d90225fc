//! A history that nothing is under way of: kept in half of the memory, and nothing of it is forgotten. Most databases
//! are idle.

use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};

use super::authority::Counted;
use super::backing::Stamp;
use super::database::locked;
use super::history::History;
use super::mark::{Mark, PageSum};
use super::page_sums::{PageSums, Recent};
use super::resets::{Emptied, LogEnd};
use super::state::SnapshotNote;
use crate::clock::UnixMs;
use crate::store::keys::GenerationId;

/// A database's history behind its lock: made when it is first asked for, and whole while somebody holds it.
#[derive(Debug, Default)]
pub(super) struct Chronicle(Mutex<Form>);

#[derive(Debug, Default)]
enum Form {
    #[default]
    None,
    Resting(Box<Rest>),
    Whole(Box<History>),
}

impl Chronicle {
    pub fn lock(&self) -> Open<'_> {
        Open::new(locked(&self.0))
    }

    /// None where somebody else has it now.
    pub fn try_lock(&self) -> Option<Open<'_>> {
        match self.0.try_lock() {
            Ok(form) => Some(Open::new(form)),
            Err(TryLockError::Poisoned(poisoned)) => Some(Open::new(poisoned.into_inner())),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    #[cfg(test)]
    pub fn is_resting(&self) -> bool {
        matches!(*locked(&self.0), Form::Resting(_))
    }
}

/// It is whole, and nobody else touches it meanwhile.
pub(super) struct Open<'a>(MutexGuard<'a, Form>);

impl<'a> Open<'a> {
    fn new(mut form: MutexGuard<'a, Form>) -> Self {
        *form = Form::Whole(match std::mem::take(&mut *form) {
            Form::None => Box::default(),
            Form::Resting(rest) => Box::new(rest.whole()),
            Form::Whole(history) => history,
        });
        Self(form)
    }

    /// Gives back the memory that it has no use for until it is locked next, where nothing is under way.
    pub fn rest(mut self) {
        if let Some(rest) = Rest::of(&self) {
            *self.0 = Form::Resting(Box::new(rest));
        }
    }
}

impl Deref for Open<'_> {
    type Target = History;

    fn deref(&self) -> &History {
        match &*self.0 {
            Form::Whole(history) => history,
            Form::None | Form::Resting(_) => unreachable!("BUG: whole while it is locked"),
        }
    }
}

impl DerefMut for Open<'_> {
    fn deref_mut(&mut self) -> &mut History {
        match &mut *self.0 {
            Form::Whole(history) => history,
            Form::None | Form::Resting(_) => unreachable!("BUG: whole while it is locked"),
        }
    }
}

/// What `History` has while all is stored; the fields are called as there, and what is not among them is as it begins.
#[derive(Debug)]
struct Rest {
    id: i64,
    /// And stored.
    mark: Mark,
    /// Where the page sums are.
    directory: Arc<PathBuf>,
    known: Known,
    /// What the table of them lacks, where that is not the tail alone. Boxed, since it is rare.
    lacking: Option<Box<Arc<[PageSum]>>>,
    tail: Arc<[PageSum]>,
    taken_at: Option<UnixMs>,
    snapshot: Option<SnapshotNote>,
    is_newest_known: bool,
    last_txid: u64,
    newest_generation: GenerationId,
    log_ended: bool,
    complete: Option<LogEnd>,
    emptied: Emptied,
    was_unguarded: bool,
    seen_count: Counted,
    has_found_place: bool,
    is_encrypted: bool,
    was_confirmed: bool,
    has_adopted_unseen: bool,
    seen_changes: u64,
    seen_stamp: Stamp,
    at_rest: Option<Stamp>,
}

/// What is known of the table of page sums.
#[derive(Clone, Copy, Debug)]
enum Known {
    Nothing,
    /// It has room for the pages of `mark`, and no more.
    Room,
    /// And what was written to it last is `tail`.
    RoomAndTail,
    /// And `tail` is to be written to it.
    RoomForTail,
}

impl Rest {
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
        let (directory, room) = sums.only_on_disk()?;
        let Recent { sums, is_lacking } = sums.recent();
        let has_room = room == Some(mark.commit);
        let is_tail = has_room && sums == tail;
        Some(Self {
            id: *id,
            mark,
            directory: directory.clone(),
            known: match is_tail {
                true if *is_lacking => Known::RoomForTail,
                true => Known::RoomAndTail,
                false if has_room => Known::Room,
                false => Known::Nothing,
            },
            lacking: (*is_lacking && !is_tail).then(|| Box::new(sums.clone())),
            tail: tail.clone(),
            taken_at: *taken_at,
            snapshot: *snapshot,
            is_newest_known: *is_newest_known,
            last_txid: *last_txid,
            newest_generation: (*newest_generation)?,
            log_ended: *log_ended,
            complete: *complete,
            emptied: *emptied,
            was_unguarded: *was_unguarded,
            seen_count: *seen_count,
            has_found_place: *has_found_place,
            is_encrypted: *is_encrypted,
            was_confirmed: *was_confirmed,
            has_adopted_unseen: *has_adopted_unseen,
            seen_changes: *seen_changes,
            seen_stamp: *seen_stamp,
            at_rest: *at_rest,
        })
    }

    fn whole(self) -> History {
        let is_lacking = self.lacking.is_some() || matches!(self.known, Known::RoomForTail);
        let sums = match (self.known, self.lacking) {
            (_, Some(lacking)) => *lacking,
            (Known::RoomAndTail | Known::RoomForTail, None) => self.tail.clone(),
            (Known::Nothing | Known::Room, None) => Arc::default(),
        };
        let room = (!matches!(self.known, Known::Nothing)).then_some(self.mark.commit);
        let recent = Recent { sums, is_lacking };
        History {
            id: self.id,
            mark: Some(self.mark),
            sums: Some(PageSums::with(self.directory, self.id, room, recent)),
            tail: self.tail,
            stored: Some(self.mark),
            taken_at: self.taken_at,
            snapshot: self.snapshot,
            is_newest_known: self.is_newest_known,
            last_txid: self.last_txid,
            newest_generation: Some(self.newest_generation),
            log_ended: self.log_ended,
            complete: self.complete,
            emptied: self.emptied,
            was_unguarded: self.was_unguarded,
            seen_count: self.seen_count,
            has_found_place: self.has_found_place,
            is_encrypted: self.is_encrypted,
            was_confirmed: self.was_confirmed,
            has_adopted_unseen: self.has_adopted_unseen,
            seen_changes: self.seen_changes,
            seen_stamp: self.seen_stamp,
            at_rest: self.at_rest,
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
            assert!(rest(&model));
            assert_eq!(told(&db.history()), before);
            let history = db.history();
            assert!(history.mark.is_some() && history.snapshot.is_some());
            assert!(!history.tail.is_empty());
        }
    }

    #[test]
    fn it_takes_half_of_the_memory() {
        let (rest, whole) = (size_of::<Rest>(), size_of::<History>());
        assert!(rest <= 320, "{rest} bytes, and {whole} where it is whole");
    }
}
