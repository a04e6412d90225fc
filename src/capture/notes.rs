//! Notes of what is stored. What may wait a little is noted for several databases in one transaction of the state: at many
//! commits a second that, and being waked for each, would be a fifth of what a segment costs.
//!
//! Nothing is said to be noted before it is. The histories stay locked from the first look at them until what follows the
//! note is done; they are only tried, so that nobody waits for one while he holds another.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use tokio::sync::oneshot;

use super::Shared;
use super::database::Database;
use super::error::CaptureError;
use super::history::History;
use super::mark::Mark;
use super::requests::Noted;
use super::rest::Open;
use super::state::Stamps;
use super::workers::{Look, counted, survived, without_panic};
use crate::room;

/// So long a note waits for others.
const PAUSE: Duration = Duration::from_millis(20);
/// A gate of any of their databases waits until all of them are written.
const MOST: usize = 64;

/// That a segment is in the store, and where the answer goes.
pub(super) struct Note {
    pub db: Arc<Database>,
    pub end: Mark,
    pub file_checksum: u64,
    /// The files' where all there was is captured.
    pub stamps: Option<Stamps>,
    pub done: oneshot::Sender<Result<Noted, CaptureError>>,
}

impl Note {
    /// Whether this is the segment that the history waits for. After a panic the history may have begun anew, and finds by
    /// itself what the store has.
    fn is_of(&self, history: &History) -> bool {
        let front = history.pending.front();
        front
            .is_some_and(|front| (front.end, front.file_checksum) == (self.end, self.file_checksum))
    }

    fn stamps(&self) -> Option<Stamps> {
        self.stamps.filter(|_| !self.db.is_dirty())
    }

    /// Notes it by itself.
    pub fn take(self, shared: &Shared) {
        let db = &self.db;
        let work = || {
            let mut history = db.history();
            let is_settled = self.is_of(&history) && history.stored(db, shared, self.stamps())?;
            Ok(told(db, history, is_settled))
        };
        let noted = counted(db, work);
        self.answer(noted);
    }

    /// The same as something that a worker does.
    pub fn into_look(self) -> Look {
        Box::new(|shared, _| self.take(shared))
    }

    fn answer(self, noted: Result<Noted, CaptureError>) {
        // An asker that has gone away does not need the answer.
        drop(self.done.send(noted));
    }
}

/// What there is to do after the note of a segment.
fn told(db: &Database, history: Open<'_>, is_settled: bool) -> Noted {
    let stored = history.stored.map_or(0, |mark| mark.txid);
    let noted = Noted {
        next: history.front(),
        snapshot: history.snapshot,
        is_settled,
    };
    history.rest();
    db.release_commits(stored);
    noted
}

/// The thread that notes what may wait. It sleeps unless there is something. The queue has room for all databases that may
/// ever be there, and so only for where each note lies. `looks`: who takes those that would hold up the others.
pub(super) fn work(shared: &Shared, queue: &Receiver<Box<Note>>, looks: &Sender<Look>) {
    room::keep_freed();
    while let Ok(first) = room::next(queue) {
        if queue.len() + 1 < MOST {
            std::thread::sleep(PAUSE);
        }
        let others = queue.try_iter().take(MOST - 1);
        let notes = std::iter::once(first).chain(others);
        let notes = notes.map(|note| *note).collect();
        survived(|| {
            let alone = take_all(shared, notes).into_iter();
            // As with a look: one that is not taken is `Stopped`.
            alone.for_each(|note| drop(looks.try_send(note.into_look())));
        });
    }
}

/// Notes all of them at once. Gives those that can't be so: each has to be taken by itself, and may have to wait.
pub(super) fn take_all(shared: &Shared, notes: Vec<Note>) -> Vec<Note> {
    let databases: Vec<_> = notes.iter().map(|note| note.db.clone()).collect();
    let (mut together, mut rows, mut alone) = (Vec::new(), Vec::new(), Vec::new());
    for (note, db) in notes.into_iter().zip(&databases) {
        let open = db.try_history().filter(|history| note.is_of(history));
        let row = open
            .as_ref()
            .and_then(|history| history.stored_note(note.stamps()));
        match open.zip(row) {
            Some((history, row)) => {
                together.push((note, history));
                rows.push(row);
            }
            None => alone.push(note),
        }
    }
    let saved = without_panic(|| Ok(shared.state.save_all_stored(&rows)?));
    for ((note, mut history), row) in together.into_iter().zip(&rows) {
        if saved.is_err() {
            // Whichever of them it is that can't be noted keeps nobody else from it.
            alone.push(note);
            continue;
        }
        let db = note.db.clone();
        let noted = without_panic(|| history.stored_is_noted(&db, shared, row));
        if let Err(CaptureError::Panicked(_)) = noted {
            // Whoever waits for it may not come in between, while those of others are held.
            history.begin_anew();
        }
        let noted =
            noted.and_then(|is_settled| without_panic(|| Ok(told(&db, history, is_settled))));
        note.answer(noted);
    }
    alone
}

#[cfg(test)]
mod tests;
