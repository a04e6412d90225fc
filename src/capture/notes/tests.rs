//! Several notes at once: all are made, none keeps another from it, and nobody is told before.

use std::path::Path;
use std::sync::mpsc::channel;

use futures_util::future::join_all;
use rusqlite::Connection;
use tokio::sync::oneshot::Receiver as Answer;

use super::*;
use crate::capture::model::Model;
use crate::capture::workers;

const TIME_LIMIT: Duration = Duration::from_secs(20);

/// Three databases of one capture, each with a snapshot that waits for the store.
struct Three {
    model: Model,
    databases: Vec<Arc<Database>>,
    _open: Vec<Connection>,
}

impl Three {
    fn new() -> Self {
        let model = Model::new(1, 16 << 20);
        let (mut databases, mut open) = (Vec::new(), Vec::new());
        for number in 1..=3 {
            let name = format!("00000000-0000-0000-0000-00000000000{number}.db");
            let path = model.dir.path().join("data").join(&name);
            let connection = Connection::open(&path).expect("open");
            connection
                .execute_batch(
                    "PRAGMA journal_mode = WAL; CREATE TABLE t (a); INSERT INTO t VALUES (1)",
                )
                .expect("written");
            let path = Path::new(&name);
            model.capture.appeared(path, false);
            let known = model.capture.all().into_iter();
            let db = known.into_iter().find(|db| *db.path == *path);
            let db = db.expect("registered");
            workers::make_image(&db, &model.capture.shared).expect("a snapshot");
            databases.push(db);
            open.push(connection);
        }
        Self {
            model,
            databases,
            _open: open,
        }
    }

    fn shared(&self) -> Arc<Shared> {
        self.model.capture.shared.clone()
    }

    fn notes(&self) -> (Vec<Note>, Vec<Answer<Result<Noted, CaptureError>>>) {
        let note = |db: &Arc<Database>| {
            let (done, answer) = oneshot::channel();
            let front = db.history().front().expect("it waits");
            let note = Note {
                db: db.clone(),
                end: front.end,
                file_checksum: front.file_checksum,
                stamps: Some(Stamps::default()),
                done,
            };
            (note, answer)
        };
        self.databases.iter().map(note).unzip()
    }

    /// As the threads do.
    fn take(&self, notes: Vec<Note>) {
        let shared = self.shared();
        let alone = take_all(&shared, notes).into_iter();
        alone.for_each(|note| note.take(&shared));
    }

    /// Whether the state and the history say that it is stored; both, or neither.
    fn is_noted(&self, number: usize) -> bool {
        let db = &self.databases[number];
        let id = db.id().expect("a number");
        let in_state = self.shared().state.newest_stored(id).expect("read");
        let history = db.history();
        assert_eq!(in_state, history.stored);
        assert_eq!(in_state.is_some(), history.front().is_none());
        in_state.is_some()
    }
}

#[test]
fn what_comes_together_is_noted_together() {
    let three = Three::new();
    let (notes, answers) = three.notes();
    assert!((0..3).all(|number| !three.is_noted(number)));
    three.take(notes);
    for (number, mut answer) in answers.into_iter().enumerate() {
        let noted = answer.try_recv().expect("answered").expect("noted");
        assert!(noted.is_settled && noted.next.is_none());
        assert!(three.is_noted(number));
    }
}

#[test]
fn one_that_can_not_be_noted_keeps_no_other_from_it() {
    let three = Three::new();
    let refused = three.databases[1].id().expect("a number");
    let trigger = format!(
        "CREATE TEMP TRIGGER refuse BEFORE UPDATE ON main.database WHEN new.id = {refused}
         BEGIN SELECT RAISE(ABORT, 'as the test wants it'); END"
    );
    let state = three.shared();
    state.state.lock().execute_batch(&trigger).expect("made");
    let (notes, answers) = three.notes();
    three.take(notes);
    for (number, mut answer) in answers.into_iter().enumerate() {
        let noted = answer.try_recv().expect("answered");
        assert_eq!(noted.is_ok(), number != 1);
        assert_eq!(three.is_noted(number), number != 1);
    }
}

#[test]
fn one_that_panics_begins_anew_and_keeps_no_other_from_it() {
    let three = Three::new();
    let (notes, answers) = three.notes();
    {
        // There is no such page.
        let mut history = three.databases[1].history();
        let segment = history.pending.front_mut().expect("it waits");
        (segment.snapshot, segment.durable) = (false, false);
        segment.sums = [(0, 1)].into();
    }
    three.take(notes);
    for (number, mut answer) in answers.into_iter().enumerate() {
        let noted = answer.try_recv().expect("answered");
        let is_panic = matches!(noted, Err(CaptureError::Panicked(_)));
        assert_eq!(is_panic, number == 1);
        assert_eq!(noted.is_ok(), number != 1);
    }
    assert!(three.is_noted(0) && three.is_noted(2));
    let history = three.databases[1].history();
    assert!(history.mark.is_none() && history.pending.is_empty());
}

#[tokio::test]
async fn nobody_waits_for_one_whose_history_is_in_use() {
    let three = Three::new();
    let capture = three.model.capture.clone();
    let note = |number: usize| {
        let (capture, db) = (capture.clone(), three.databases[number].clone());
        let front = db.history().front().expect("it waits");
        async move { capture.stored(&db, &front, None, true).await }
    };
    let (first, others) = (note(0), [note(1), note(2)]);
    let (locked, is_locked) = tokio::sync::oneshot::channel();
    let (free, is_free) = channel::<()>();
    let db = three.databases[0].clone();
    let in_use = std::thread::spawn(move || {
        let _held = db.history();
        locked.send(()).expect("waits");
        is_free.recv_timeout(TIME_LIMIT).expect("freed");
    });
    is_locked.await.expect("it is in use");
    let mut first = tokio::spawn(first);
    // Longer than it waits for others: it meets its history in use.
    let early = tokio::time::timeout(10 * PAUSE, &mut first).await;
    assert!(early.is_err(), "its history is in use");
    let noted = tokio::time::timeout(TIME_LIMIT / 2, join_all(others)).await;
    for noted in noted.expect("they wait for nobody") {
        noted.expect("noted");
    }
    free.send(()).expect("it waits");
    in_use.join().expect("in order");
    let noted = tokio::time::timeout(TIME_LIMIT, first).await;
    noted
        .expect("before long")
        .expect("in order")
        .expect("noted");
    assert!((0..3).all(|number| three.is_noted(number)));
}

#[test]
fn a_note_of_what_does_not_wait_any_more_changes_nothing() {
    let three = Three::new();
    let (mut notes, answers) = three.notes();
    notes[2].end.seq += 1;
    three.take(notes);
    for (number, mut answer) in answers.into_iter().enumerate() {
        let noted = answer.try_recv().expect("answered").expect("no error");
        assert_eq!(noted.is_settled, number != 2);
        assert_eq!(three.is_noted(number), number != 2);
    }
}

#[tokio::test]
async fn a_note_that_may_wait_is_made_before_long() {
    let three = Three::new();
    let capture = &three.model.capture;
    let fronts: Vec<_> = three
        .databases
        .iter()
        .map(|db| db.history().front())
        .collect();
    let each = three.databases.iter().zip(&fronts).map(|(db, front)| {
        let front = front.as_ref().expect("it waits");
        capture.stored(db, front, Some(Stamps::default()), true)
    });
    let noted = tokio::time::timeout(TIME_LIMIT, join_all(each)).await;
    for noted in noted.expect("before long") {
        assert!(noted.expect("noted").is_settled);
    }
    assert!((0..3).all(|number| three.is_noted(number)));
}
