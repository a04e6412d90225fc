//! Merging among commits, checkpoints, uploads and restarts: what waits always leads to what SQLite shows.

use super::*;
use crate::capture::drain::Next;
use crate::capture::model::{Model, bytes_of, pages_of};
use crate::capture::workers;

/// A model whose segments all wait in the spool, behind the first snapshot, and the pages of that.
fn waiting(seed: u64) -> (Model, Vec<u8>) {
    let mut model = Model::new(seed, 1);
    let shared = model.capture.shared.clone();
    model.run("INSERT INTO t VALUES (0, randomblob(2000))");
    workers::make_image(&model.db, &shared).expect("a first image");
    let base = pages_of(&model.db.history().front().expect("a snapshot").body);
    capture(&mut model, 15);
    (model, base)
}

/// So many operations, each of which is captured for itself.
fn capture(model: &mut Model, steps: usize) {
    let (db, shared) = (model.db.clone(), model.capture.shared.clone());
    for _ in 0..steps {
        model.step();
        if workers::drain(&db, &shared).expect("captured").next == Next::Image {
            // After a restart a log that has ended is one that is missed.
            workers::make_image(&db, &shared).expect("compared");
        }
    }
    db.history().spool_all(&shared).expect("in the spool");
}

/// Takes the oldest that waits as stored: puts it over the pages.
fn store(model: &Model, pages: &mut Vec<u8>) {
    let shared = model.capture.shared.clone();
    let front = model.db.history().front().expect("something waits");
    lay_over(&front, pages);
    model
        .db
        .history()
        .stored(&model.db, &shared, None)
        .expect("stored");
}

fn lay_over(segment: &Segment, pages: &mut Vec<u8>) {
    let bytes = bytes_of(&segment.body);
    let mut decoder = Decoder::new(bytes.as_slice()).expect("a header");
    let (size, commit) = (decoder.header().page_size as usize, decoder.header().commit);
    pages.resize(commit as usize * size, 0);
    let mut page = vec![0; size];
    while let Some(pgno) = decoder.next_page(&mut page).expect("a page") {
        let at = (pgno as usize - 1) * size;
        pages[at..at + size].copy_from_slice(&page);
    }
    decoder.finish().expect("a whole file");
}

/// What waits is an unbroken history that leads from these pages to what SQLite shows, and so does what a restart finds.
fn assert_leads_to_what_is_shown(model: &Model, mut pages: Vec<u8>) {
    let (db, shared) = (model.db.clone(), model.capture.shared.clone());
    let marks = || {
        let history = db.history();
        let marks: Vec<Mark> = history.pending.iter().map(|one| one.end).collect();
        // A log that has only begun is not noted.
        (marks, history.mark.map(|mark| Mark { wal: None, ..mark }))
    };
    let before = marks();
    let mut last: Option<Mark> = db.history().stored;
    for segment in db.history().pending.clone() {
        lay_over(&segment, &mut pages);
        let bytes = bytes_of(&segment.body);
        let header = *Decoder::new(bytes.as_slice()).expect("a header").header();
        if let Some(last) = last.filter(|_| !segment.snapshot) {
            assert_eq!(segment.end.seq, last.seq + 1);
            assert_eq!(segment.first_txid, last.txid + 1);
            assert_eq!(header.pre_apply_checksum, last.checksum.value());
        }
        assert_eq!((header.min_txid, header.max_txid), segment.txids());
        last = Some(segment.end);
    }
    assert!(pages == model.shown(), "not what SQLite shows");
    let mut known = History::default();
    known.load(&db, &shared).expect("loaded");
    *db.history() = known;
    assert_eq!(marks(), before, "after a restart");
    let used: u64 = db.history().pending.iter().map(|one| one.size).sum();
    assert_eq!(shared.spool.used(), used, "bytes are counted");
}

fn taken(model: &Model) -> (Run, Press<'_>) {
    let history = model.db.history();
    let run = history.run_that_waits(2).expect("several wait");
    (run, history.press(&model.db, &model.capture.shared))
}

#[test]
fn what_is_merged_leads_to_what_sqlite_shows() {
    let mut merges = 0;
    for seed in 1..=40 {
        let (mut model, mut pages) = waiting(seed);
        let (db, shared) = (model.db.clone(), model.capture.shared.clone());
        for round in 0..3 {
            let before = db.history().pending.len();
            if before < 3 {
                capture(&mut model, 5);
                continue;
            }
            let (run, press) = taken(&model);
            let merged = merge_run(&run, &press, &db, &shared).expect("merged");
            assert!(merged, "seed {seed}, round {round}");
            merges += 1;
            let left = before - run.segments.len() + 1;
            assert_eq!(db.history().pending.len(), left);
            assert_leads_to_what_is_shown(&model, pages.clone());
            capture(&mut model, 4);
            assert_leads_to_what_is_shown(&model, pages.clone());
            if model.random.below(2) == 0 {
                store(&model, &mut pages);
            }
        }
    }
    assert!(merges > 80, "only {merges}");
}

#[test]
fn what_comes_and_goes_while_it_is_merged_keeps_its_place() {
    for seed in 1..=20 {
        let (mut model, mut pages) = waiting(seed);
        let (db, shared) = (model.db.clone(), model.capture.shared.clone());
        let (run, press) = taken(&model);
        let press = Press::new(&shared.spool, press.id, press.node_id, press.memory_bytes);
        let merged = write_merged(&run, &press).expect("written");
        capture(&mut model, 6);
        // The first of the run is on its way to the store then, and has its number for good.
        let begun = seed % 2 == 0;
        if begun {
            store(&model, &mut pages);
        }
        let replaced = db.history().replace_run(&run, &merged, &db, &shared);
        assert_eq!(replaced.expect("looked"), !begun);
        let gone = match begun {
            true => std::slice::from_ref(&merged),
            false => &run.segments,
        };
        for segment in gone {
            shared.remove_body(segment).expect("removed");
        }
        assert_leads_to_what_is_shown(&model, pages);
    }
}

#[test]
fn what_somebody_relies_on_keeps_its_number() {
    let (mut model, pages) = waiting(1);
    let (run, press) = taken(&model);
    let (db, shared) = (model.db.clone(), model.capture.shared.clone());
    let press = Press::new(&shared.spool, press.id, press.node_id, press.memory_bytes);
    let newest = db.history().mark.expect("a mark");
    let number = db.history().numbers.rely_on(&newest);
    assert!(db.history().run_that_waits(2).is_none());
    assert!(!merge_run(&run, &press, &db, &shared).expect("looked"));
    // A snapshot that waits for the store keeps none of those after it from being merged.
    capture(&mut model, 5);
    let (run, press) = taken(&model);
    assert_eq!(run.before, newest);
    assert!(merge_run(&run, &press, &db, &shared).expect("merged"));
    assert!(db.history().pending.iter().any(|one| one.end == newest));
    assert!(db.history().numbers.have(&number));
    assert_leads_to_what_is_shown(&model, pages);
    drop(number);
    assert!(db.history().run_that_waits(2).is_some());
}

#[test]
fn of_one_interval_what_is_about_to_be_stored_becomes_one_object() {
    let (mut model, pages) = waiting(3);
    let (db, shared) = (model.db.clone(), model.capture.shared.clone());
    let wanted = |seconds| db.history().run_to_store(Duration::from_secs(seconds));
    let waits = db.history().pending.len();
    assert!(db.history().may_have_run_to_store());
    assert!(wanted(0).is_none());
    let mut run = wanted(60).expect("several");
    // But for the oldest, which may be on its way.
    assert_eq!(run.segments.len(), waits - 1);
    let press = taken(&model).1;
    let press = Press::new(&shared.spool, press.id, press.node_id, press.memory_bytes);
    assert!(merge_run(&run, &press, &db, &shared).expect("merged"));
    assert_eq!(db.history().pending.len(), 2);
    assert!(wanted(60).is_none());
    capture(&mut model, 2);
    assert_leads_to_what_is_shown(&model, pages);
    run.segments.iter_mut().for_each(|one| one.size = SMALL + 1);
    assert!(!run.is_of_small_ones());
}

/// With room, and few that wait.
#[test]
fn only_moments_within_one_sync_interval_are_given_up() {
    let (mut model, _) = waiting(2);
    capture(&mut model, 30);
    let ends = |run: &Run| run.segments.iter().map(|one| one.end).collect::<Vec<_>>();
    let all = || taken(&model).0;
    let newest = all().last().end.time_ms;
    for interval in 0..=10 {
        let run = all().within(interval);
        let expected = ends(&all()).into_iter();
        let expected: Vec<_> = expected
            .filter(|end| end.time_ms > newest - interval)
            .collect();
        assert_eq!(ends(&run), expected, "{interval}");
        let history = model.db.history();
        let before = history.pending.iter().map(|one| one.end);
        let first = run.segments.first().map(|first| first.end.seq - 1);
        if let Some(first) = first {
            assert!(before.clone().any(|end| end == run.before), "{interval}");
            assert_eq!(run.before.seq, first, "{interval}");
        }
    }
    let all = ends(&all());
    assert!(all.len() >= FEWEST);
    let wanted = |seconds| {
        let interval = Duration::from_secs(seconds);
        let history = model.db.history();
        history.run_to_merge(interval, &model.capture.shared)
    };
    // A minute has them all.
    assert_eq!(wanted(60).map(|run| ends(&run)), Some(all));
    assert!(wanted(0).is_none());
    // A store that takes some, and not enough; one that takes nothing.
    let longer = History {
        taken_at: Some(now_ms()),
        ..History::default()
    };
    assert!(!longer.outpaces_store(), "nothing waits");
    capture(&mut model, 2 * MOST_BEHIND);
    for (taken_at, expected) in [(None, false), (Some(now_ms()), true)] {
        model.db.history().taken_at = taken_at;
        let history = model.db.history();
        assert!(history.pending.len() > MOST_BEHIND);
        assert_eq!(history.outpaces_store(), expected);
        let wanted = |interval| history.run_to_merge(interval, &model.capture.shared);
        assert_eq!(wanted(Duration::from_millis(1)).is_some(), expected);
        assert!(wanted(Duration::ZERO).is_none(), "each is a moment");
    }
}
