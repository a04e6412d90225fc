//! The overlay against a model: page reads, torn ones too, with commits, checkpoints and resets in between at random.

use std::cell::Cell;
use std::rc::Rc;

use super::*;
use crate::capture::drain::Next;
use crate::capture::history::sums_header;
use crate::capture::model::{Model, pages_of};
use crate::capture::{FileKind, OpenedAs, workers};
use crate::fault::{Point, watched};
use crate::tenant::roster::Status;

/// A snapshot whose page reads are torn apart by operations; its pages.
fn snapshot(model: &mut Model) -> Result<Vec<u8>, CaptureError> {
    let capture = model.capture.clone();
    let (db, shared) = (model.db.clone(), capture.shared.clone());
    let file = begin(&db, &shared)?.expect("the database is not empty");
    let mut steps = 0;
    let mut read = |bytes: &mut [u8], at: u64| {
        let half = bytes.len() / 2;
        let first = read_up_to(&file, &mut bytes[..half], at)?;
        if steps < 12 && model.random.below(100) < 25 {
            steps += 1;
            model.step();
        }
        if first < half {
            return Ok(first);
        }
        Ok(half + read_up_to(&file, &mut bytes[half..], at + half as u64)?)
    };
    let mut image = copy(&mut read, &db, &shared, 1)?;
    let work = db.history().finish_image(&db, &shared, &mut image)?;
    write_down(&db, &shared, &image, work, 0)?;
    let segment = db.history().pending.back().cloned().expect("a snapshot");
    assert!(segment.snapshot);
    Ok(pages_of(&segment.body))
}

/// A database whose first snapshot is stored.
fn stored(seed: u64) -> Model {
    let mut model = Model::new(seed, 16 << 20);
    for _ in 0..5 {
        model.step();
    }
    snapshot(&mut model).expect("a snapshot");
    let (db, shared) = (&model.db, &model.capture.shared);
    db.history().stored(db, shared, None).expect("stored");
    model
}

/// Unseen by any look, as while the daemon was away.
fn change_unseen(model: &mut Model) {
    model.gated = false;
    for _ in 0..3 {
        model.step();
    }
    model.gated = true;
    model.db.history().resync = Some("test");
}

/// An image that has been read, and is not finished.
fn copied(model: &Model) -> Image {
    let (db, shared) = (&model.db, &model.capture.shared);
    let file = begin(db, shared).expect("begun").expect("a file");
    let mut read = |bytes: &mut [u8], at: u64| read_up_to(&file, bytes, at);
    copy(&mut read, db, shared, CHUNK).expect("copied")
}

/// All that is captured becomes durable, and the sums are then those of its end.
fn assert_sums_are_of_the_end(model: &Model, seed: u64) {
    let mut history = model.db.history();
    let end = history.mark.expect("a mark");
    while history.front().is_some() {
        let stored = history.stored(&model.db, &model.capture.shared, None);
        stored.expect("stored");
    }
    let table = history.sums.as_ref().expect("a table");
    let (header, total) = table.load().expect("load").expect("a whole table");
    assert_eq!(header, sums_header(&end), "seed {seed}");
    assert_eq!(total, end.checksum, "seed {seed}");
}

#[test]
fn a_snapshot_among_writes_equals_what_sqlite_shows() {
    for seed in 1..=60 {
        // Both in memory and in a scratch file.
        let mut model = Model::new(seed, if seed % 2 == 0 { 16 << 20 } else { 1 });
        if seed % 3 == 0 {
            model.pass_log();
        }
        for _ in 0..model.random.below(20) {
            model.step();
        }
        let snapshot = snapshot(&mut model).expect("a snapshot");
        assert!(snapshot == model.shown(), "seed {seed}");
    }
}

#[test]
fn without_its_gates_a_snapshot_is_refused_and_never_wrong() {
    let mut refused = 0;
    for seed in 1..=60 {
        let mut model = Model::new(seed, 16 << 20);
        model.pass_log();
        for _ in 0..model.random.below(20) {
            model.step();
        }
        model.gated = false;
        match snapshot(&mut model) {
            Ok(snapshot) => assert!(snapshot == model.shown(), "seed {seed}"),
            Err(error) => {
                assert!(matches!(error, CaptureError::Disturbed), "{error}");
                refused += 1;
            }
        }
    }
    assert!(refused > 10, "{refused}: hardly a reset was without a gate");
}

#[test]
fn a_journal_that_comes_up_meanwhile_drops_the_image() {
    let mut model = Model::new(1, 16 << 20);
    model.step();
    let shared = model.capture.shared.clone();
    let file = begin(&model.db, &shared).expect("begun").expect("a file");
    let mut read = |bytes: &mut [u8], at: u64| {
        model.db.journal_changed();
        read_up_to(&file, bytes, at)
    };
    let mut image = copy(&mut read, &model.db, &shared, CHUNK).expect("copied");
    let finished = model
        .db
        .history()
        .finish_image(&model.db, &shared, &mut image);
    assert!(matches!(finished, Err(CaptureError::Disturbed)));
    assert!(model.db.history().mark.is_none());
}

/// While the segment of an image is written, commits are captured and pass gates: the sums must become durable in the
/// order of the history all the same.
#[test]
fn what_is_captured_while_an_image_is_written_comes_after_it() {
    for seed in 1..=20 {
        let mut model = stored(seed);
        let (db, shared) = (model.db.clone(), model.capture.shared.clone());
        change_unseen(&mut model);
        let mut image = copied(&model);
        let work = db
            .history()
            .finish_image(&db, &shared, &mut image)
            .expect("finished");
        for _ in 0..6 {
            model.step();
        }
        write_down(&db, &shared, &image, work, 0).expect("written down");
        model.gate(Gate::WalOverwrite);

        assert_sums_are_of_the_end(&model, seed);
    }
}

/// It may end between what a gate has saved and the operation that waited for it.
#[test]
fn an_image_that_ends_between_a_gate_and_its_operation_does_not_lose_the_way() {
    let mut model = Model::new(1, 16 << 20);
    let (db, shared) = (model.db.clone(), model.capture.shared.clone());
    model.run("INSERT INTO t VALUES (1000, 'before'); PRAGMA wal_checkpoint(RESTART)");
    let mut image = copied(&model);
    let passing = model.gate(Gate::WalOverwrite);
    let work = db.history().finish_image(&db, &shared, &mut image);
    write_down(&db, &shared, &image, work.expect("finished"), 0).expect("written down");
    let txid = db.history().mark.expect("a mark").txid;

    model.execute("INSERT INTO t VALUES (1001, 'after')");
    drop(passing);
    let drained = workers::drain(&db, &shared).expect("looked");
    assert_eq!(drained.next, Next::Nothing);
    let history = db.history();
    assert_eq!(history.resync, None);
    assert_eq!(history.mark.expect("a mark").txid, txid + 1);
}

/// It may begin and end there as well: what the operation destroys is in it.
#[test]
fn an_image_that_is_made_between_a_gate_and_its_operation_does_not_lose_the_way() {
    let mut model = Model::new(1, 16 << 20);
    let (db, shared) = (model.db.clone(), model.capture.shared.clone());
    model.run("INSERT INTO t VALUES (1000, 'before'); PRAGMA wal_checkpoint(RESTART)");
    let passing = model.gate(Gate::WalOverwrite);
    workers::make_image(&db, &shared).expect("made");
    let txid = db.history().mark.expect("a mark").txid;

    model.execute("INSERT INTO t VALUES (1001, 'after')");
    drop(passing);
    let drained = workers::drain(&db, &shared).expect("looked");
    assert_eq!(drained.next, Next::Nothing);
    let history = db.history();
    assert_eq!(history.resync, None);
    assert_eq!(history.mark.expect("a mark").txid, txid + 1);
}

/// The log that stood there at a complete checkpoint, before anything was captured, may go while its database is read.
#[test]
fn a_log_that_was_complete_before_its_image_is_not_missed_when_it_goes() {
    let mut model = Model::new(1, 16 << 20);
    let (db, shared) = (model.db.clone(), model.capture.shared.clone());
    model.pass_log();
    model.run("INSERT INTO t VALUES (1000, 'before'); PRAGMA wal_checkpoint(PASSIVE)");
    let mut image = copied(&model);
    model.restart_index();
    let passing = model.gate(Gate::WalTruncate { kept: 0 });
    model.execute("PRAGMA wal_checkpoint(TRUNCATE)");
    drop(passing);
    let work = db.history().finish_image(&db, &shared, &mut image);
    assert!(matches!(work, Ok(Work::Snapshot(_))));
    let progress = db.client().expect("registered").progress();
    assert_ne!(progress.status, Status::Gapped, "{:?}", progress.last_error);
}

/// As SQLite did before 3.51.3: between the moments at which an image looks at the log and at the wal-index, the log is
/// reset without a gate. What was committed in it is no part of the image, and of nothing that follows.
#[test]
fn a_log_that_is_over_before_its_limit_is_read_is_in_no_image() {
    let mut model = Model::new(1, 16 << 20);
    let (db, shared) = (model.db.clone(), model.capture.shared.clone());
    model.pass_log();
    model.execute("INSERT INTO t VALUES (1000, 'before')");
    let mut image = copied(&model);
    model.run("PRAGMA wal_checkpoint(PASSIVE)");
    model.execute("INSERT INTO t VALUES (1001, 'unseen')");
    let (other, is_done) = (model.connect(), Cell::new(false));
    watched::set(Some(Rc::new(move |point| {
        if point == Point::LogOpened && !is_done.replace(true) {
            let reset = "PRAGMA wal_checkpoint(RESTART); INSERT INTO t VALUES (1002, 'next')";
            other.execute_batch(reset).expect("run");
        }
    })));
    let work = db.history().finish_image(&db, &shared, &mut image);
    watched::set(None);
    assert!(matches!(work, Err(CaptureError::Disturbed)));
}

/// There may be no room for what differs.
#[test]
fn a_comparison_that_comes_to_nothing_is_made_again_in_the_same_history() {
    for seed in 1..=20 {
        let mut model = stored(seed);
        let (db, shared) = (model.db.clone(), model.capture.shared.clone());
        // Captured, and only in memory.
        model.run("REPLACE INTO t VALUES (1, randomblob(900))");
        workers::drain(&db, &shared).expect("captured");
        let before = db.history().mark.expect("a mark");
        change_unseen(&mut model);
        let mut image = copied(&model);
        let work = db.history().finish_image(&db, &shared, &mut image);
        assert!(
            !matches!(work, Ok(Work::Snapshot(_)) | Err(_)),
            "seed {seed}"
        );
        // Until it is written down, nobody may be told that all is stored.
        let is_made = db.history().making.is_some();
        let next = workers::drain(&db, &shared).expect("looked").next;
        assert_eq!(next == Next::Unknown, is_made, "seed {seed}: {next:?}");
        db.history().give_up_image(&db, &shared).expect("given up");

        workers::make_image(&db, &shared).expect("made again");
        let end = db.history().mark.expect("a mark");
        assert_eq!(end.generation, before.generation, "seed {seed}");
        db.history().resync = Some("test");
        workers::make_image(&db, &shared).expect("looked at once more");
        assert_eq!(
            db.history().mark,
            Some(end),
            "seed {seed}: all of it was captured"
        );
        assert_sums_are_of_the_end(&model, seed);
    }
}

/// The index can't be seen, and a commit that its writer has never told of is laid over an image by a gate: it was in no
/// state that comes after it.
#[test]
fn a_commit_that_nobody_saw_is_in_no_image() {
    let mut model = Model::new(1, 16 << 20);
    let (db, shared) = (model.db.clone(), model.capture.shared.clone());
    let hidden = OpenedAs {
        writable: true,
        passthrough: false,
        external: false,
    };
    db.opened(FileKind::Shm, hidden);
    model.execute("INSERT INTO t VALUES (1000, 'seen')");
    let seen = model.shown();
    model.commit_unpublished("INSERT INTO t VALUES (1001, 'never seen')");
    assert!(model.shown() != seen, "recovery would take it");

    let file = begin(&db, &shared).expect("begun").expect("a file");
    // A checkpoint of what was seen, after which the log begins anew.
    model.execute("PRAGMA wal_checkpoint(RESTART)");
    model.gate(Gate::DatabaseTruncate);
    model.gate(Gate::WalOverwrite);
    model.execute("INSERT INTO t VALUES (1002, 'next')");
    let mut read = |bytes: &mut [u8], at: u64| read_up_to(&file, bytes, at);
    let made = copy(&mut read, &db, &shared, CHUNK)
        .and_then(|mut image| db.history().finish_image(&db, &shared, &mut image));
    assert!(matches!(made, Err(CaptureError::Disturbed)));

    workers::make_image(&db, &shared).expect("made again");
    let snapshot = db.history().front().expect("a snapshot");
    assert!(pages_of(&snapshot.body) == model.shown());
}
