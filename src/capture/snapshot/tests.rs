//! Snapshots of a running history against a model: page reads with commits, checkpoints and resets in between at random,
//! all of which are captured meanwhile.

use super::*;
use crate::capture::model::{Model, pages_of};
use crate::format::ltx::DatabaseChecksum;

/// A model whose first snapshot is stored.
fn begun(seed: u64) -> Model {
    // Both in memory and in a scratch file.
    let mut model = Model::new(seed, [1, 16 << 20][seed as usize % 2]);
    for _ in 0..=model.random.below(20) {
        model.step();
    }
    let shared = model.capture.shared.clone();
    workers::make_image(&model.db, &shared).expect("a first image");
    store_all(&model);
    model
}

fn store_all(model: &Model) {
    let shared = model.capture.shared.clone();
    workers::drain(&model.db, &shared).expect("captured");
    let mut history = model.db.history();
    while history.front().is_some() {
        history.stored(&model.db, &shared, None).expect("stored");
    }
}

/// As `make`, with operations in the middle of the page reads, and of a page.
fn make_among_steps(model: &mut Model, chunk: usize) -> Result<Option<Segment>, CaptureError> {
    let (db, shared) = (model.db.clone(), model.capture.shared.clone());
    let file = shared.backing.open(&db.path).expect("open").expect("there");
    let Some(mark) = look(&db, &shared)? else {
        return Ok(None);
    };
    let reading = file.try_clone().expect("a second descriptor");
    let mut steps = 0;
    let mut read = |bytes: &mut [u8], at: u64| {
        let half = bytes.len() / 2;
        let first = read_up_to(&reading, &mut bytes[..half], at)?;
        if steps < 12 && model.random.below(100) < 25 {
            steps += 1;
            model.step();
        }
        if first < half {
            return Ok(first);
        }
        Ok(half + read_up_to(&reading, &mut bytes[half..], at + half as u64)?)
    };
    let mut image = copy(&mut read, &file, &db, &shared, mark.page_size, chunk)?;
    let Some((end, _numbers)) = prove(&mut image, &file, &db, &shared)? else {
        return Ok(None);
    };
    // Nothing that comes now can change it.
    let shown = model.shown();
    model.step();
    let press = db.history().press(&db, &shared);
    let segment = press.snapshot(end, 0, |pgno, page| image.get(pgno, page))?;
    assert!(pages_of(&segment.body) == shown, "not what SQLite shows");
    Ok(Some(segment))
}

#[test]
fn a_snapshot_of_a_running_history_equals_what_sqlite_shows() {
    let mut made = 0;
    for seed in 1..=60 {
        let mut model = begun(seed);
        for round in 0..3 {
            for _ in 0..=model.random.below(6) {
                model.step();
            }
            let snapshot = make_among_steps(&mut model, 1);
            let snapshot = snapshot.unwrap_or_else(|e| panic!("seed {seed}, round {round}: {e}"));
            made += u32::from(snapshot.is_some());
            store_all(&model);
        }
    }
    assert!(made > 100, "only {made} snapshots were made");
}

#[test]
fn one_of_a_state_that_has_its_snapshot_is_not_made_again() {
    let model = begun(3);
    let (db, shared) = (model.db.clone(), model.capture.shared.clone());
    let nothing = |made: Made| matches!(made, Made::Nothing { newest_txid } if newest_txid > 0);
    assert!(nothing(make(&db, &shared).expect("looked")));

    let mut model = model;
    let before = db.history().mark;
    while db.history().mark == before {
        model.step();
        workers::drain(&db, &shared).expect("captured");
    }
    store_all(&model);
    assert!(db.history().snapshot.expect("known").log_bytes > 0);
    let Made::Snapshot(segment, _) = make(&db, &shared).expect("looked") else {
        panic!("there is a new state");
    };
    assert!(segment.snapshot && segment.end.seq > 0);
    db.history()
        .snapshot_stored(&shared, &segment)
        .expect("noted");
    assert_eq!(db.history().snapshot.expect("known").log_bytes, 0);
    assert!(nothing(make(&db, &shared).expect("looked")));
}

#[test]
fn a_page_that_was_changed_past_the_history_is_never_taken() {
    let mut model = begun(4);
    let (db, shared) = (model.db.clone(), model.capture.shared.clone());
    let before = db.history().mark;
    while db.history().mark == before {
        model.step();
        workers::drain(&db, &shared).expect("captured");
    }
    store_all(&model);
    // The history believes in another database than there is.
    {
        let mut history = db.history();
        let mut mark = history.mark.expect("a mark");
        mark.checksum = DatabaseChecksum::EMPTY;
        history.mark = Some(mark);
    }
    assert!(matches!(make(&db, &shared), Err(CaptureError::Disturbed)));
}
