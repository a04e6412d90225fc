//! Following a real log, at the moments that a random run seldom meets.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use super::*;
use crate::capture::files::open_log;
use crate::capture::model::Model;
use crate::capture::workers;
use crate::fault::watched;
use crate::format::keys::GenerationId;
use crate::format::wal::HEADER_SIZE;
use crate::tenant::roster::Status;

/// A model whose log the kernel passes through, and that has its first image.
fn passed(mut model: Model) -> (Model, Arc<Database>, Arc<Shared>) {
    let (db, shared) = (model.db.clone(), model.capture.shared.clone());
    model.pass_log();
    workers::make_image(&db, &shared).expect("a first image");
    (model, db, shared)
}

/// The frames of a transaction that outgrew the cache and was rolled back stand at the start of the next log.
#[test]
fn a_log_that_begins_with_what_was_rolled_back_goes_on() {
    let mut model = Model::new(1, 16 << 20);
    let (db, shared) = (model.db.clone(), model.capture.shared.clone());
    workers::make_image(&db, &shared).expect("a first image");
    model.run("INSERT INTO t VALUES (1000, 'before')");
    workers::drain(&db, &shared).expect("captured");
    model.run("PRAGMA wal_checkpoint(TRUNCATE)");
    model.run(
        "BEGIN; WITH RECURSIVE n(i) AS (SELECT 2000 UNION ALL SELECT i + 1 FROM n WHERE i < 2100)
         INSERT INTO t SELECT i, randomblob(3000) FROM n; ROLLBACK",
    );
    let txid = db.history().mark.expect("a mark").txid;
    let drained = workers::drain(&db, &shared).expect("looked");
    assert_eq!(drained.next, Next::Nothing);
    assert!(matches!(open_log(&db, &shared), Ok(Log::Valid(log)) if log.len > 100_000));
    assert_eq!(db.history().mark.expect("a mark").txid, txid);

    model.run("INSERT INTO t VALUES (1001, 'after')");
    let drained = workers::drain(&db, &shared).expect("captured");
    assert_eq!(drained.next, Next::Nothing);
    let history = db.history();
    assert_eq!(history.mark.expect("a mark").txid, txid + 1);
    assert_eq!(history.resync, None);
}

/// The last close takes `-shm` away before it unlinks the log; its handle may be open still when the log's gate comes.
#[test]
fn a_last_close_does_not_capture_what_was_never_published() {
    let mut model = Model::new(2, 16 << 20);
    let (db, shared) = (model.db.clone(), model.capture.shared.clone());
    workers::make_image(&db, &shared).expect("a first image");
    model.run("INSERT INTO t VALUES (1000, 'published')");
    workers::drain(&db, &shared).expect("captured");
    let before = db.history().mark;
    model.commit_unpublished("INSERT INTO t VALUES (1001, 'not published')");

    model.gate(Gate::DatabaseTruncate);
    model.gate(Gate::ShmUnlink);
    model.remove_index();
    model.gate(Gate::WalUnlink);
    assert_eq!(db.history().mark, before);
    assert!(db.history().log_ended);
}

/// As SQLite does that takes frames for checkpointed which are not.
#[test]
fn a_page_that_is_not_in_the_file_when_its_log_ends_is_kept_and_suspected() {
    let mut model = Model::new(3, 16 << 20);
    let (db, shared) = (model.db.clone(), model.capture.shared.clone());
    workers::make_image(&db, &shared).expect("a first image");
    db.history().stored(&db, &shared, None).expect("stored");
    model.run("INSERT INTO t VALUES (1000, 'in the log alone')");
    assert_eq!(db.history().resync, None);
    model.gate(Gate::ShmUnlink);
    model.remove_index();
    model.gate(Gate::WalUnlink);
    let history = db.history();
    assert!(history.suspects_file() && history.log_ended);
    assert!(history.front().expect("it waits").durable);
}

/// A look may come between what a gate has captured and the operation that waited for it.
#[test]
fn a_look_between_a_gate_and_its_operation_does_not_lose_the_way() {
    let mut model = Model::new(4, 16 << 20);
    let (db, shared) = (model.db.clone(), model.capture.shared.clone());
    workers::make_image(&db, &shared).expect("a first image");
    let look = || workers::drain(&db, &shared).expect("looked");
    for (kind, gate) in [
        ("RESTART", Gate::WalOverwrite),
        ("TRUNCATE", Gate::WalTruncate { kept: 0 }),
    ] {
        model.run("REPLACE INTO t VALUES (1000, randomblob(100))");
        assert_eq!(look().next, Next::Nothing);
        let txid = db.history().mark.expect("a mark").txid;
        let checkpoint = format!("PRAGMA wal_checkpoint({kind})");
        let write = "REPLACE INTO t VALUES (1001, randomblob(100))";

        let reset = match gate {
            // The log goes on from its start with the next commit.
            Gate::WalOverwrite => {
                model.run(&checkpoint);
                write.to_owned()
            }
            _ => format!("{checkpoint}; {write}"),
        };
        let passing = model.gate(gate);
        assert_eq!(look().next, Next::Nothing, "{kind}");
        assert_eq!(db.history().mark.expect("a mark").txid, txid, "{kind}");
        model.execute(&reset);
        drop(passing);
        assert_eq!(look().next, Next::Nothing, "{kind}");
        let history = db.history();
        assert_eq!(history.resync, None, "{kind}");
        assert_eq!(history.mark.expect("a mark").txid, txid + 1, "{kind}");
        assert!(!history.log_ended, "{kind}");
    }
}

/// Nor does one in the middle of which the operation is carried out.
#[test]
fn a_log_that_goes_with_leave_while_it_is_looked_at_is_not_overwritten() {
    let mut model = Model::new(5, 16 << 20);
    let (db, shared) = (model.db.clone(), model.capture.shared.clone());
    workers::make_image(&db, &shared).expect("a first image");
    model.run("INSERT INTO t VALUES (1000, 'before')");
    let passing = model.gate(Gate::WalTruncate { kept: 0 });
    let txid = db.history().mark.expect("a mark").txid;
    let model = Rc::new(RefCell::new(model));
    let (resets, is_reset) = (model.clone(), Cell::new(false));
    watched::set(Some(Rc::new(move |point| {
        if point == Point::LogOpened && !is_reset.replace(true) {
            let reset = "PRAGMA wal_checkpoint(TRUNCATE); INSERT INTO t VALUES (1001, 'after')";
            resets.borrow_mut().execute(reset);
        }
    })));
    let looked = workers::drain(&db, &shared);
    watched::set(None);
    assert!(matches!(looked, Err(CaptureError::Disturbed)), "{looked:?}");
    assert_eq!(db.history().resync, None);
    drop(passing);
    let drained = workers::drain(&db, &shared).expect("looked");
    assert_eq!(drained.next, Next::Nothing);
    assert_eq!(db.history().mark.expect("a mark").txid, txid + 1);
}

/// Where the kernel passes writes to the log through, a reset is only seen afterwards: what was committed since its last
/// complete checkpoint is counted by the live connections.
#[test]
fn a_reset_that_is_not_seen_is_in_order_only_behind_a_complete_checkpoint() {
    for is_gated in [true, false] {
        let (mut model, db, shared) = passed(Model::new(6, 16 << 20));
        model.run("INSERT INTO t VALUES (1000, 'before'); PRAGMA wal_checkpoint(RESTART)");
        workers::drain(&db, &shared).expect("captured");
        let txid = db.history().mark.expect("a mark").txid;

        // As SQLite did before 3.51.3: it may reset a log that was not checkpointed to its end.
        if !is_gated {
            model.execute("INSERT INTO t VALUES (1001, 'lost'); PRAGMA wal_checkpoint(RESTART)");
        }
        model.execute("INSERT INTO t VALUES (1002, 'after')");
        let drained = workers::drain(&db, &shared).expect("looked");
        let history = db.history();
        match is_gated {
            true => {
                assert_eq!((drained.next, history.resync), (Next::Nothing, None));
                assert_eq!(history.mark.expect("a mark").txid, txid + 1);
            }
            false => {
                let expected = (Next::Image, Some("reset_missed"));
                assert_eq!((drained.next, history.resync), expected);
            }
        }
    }
}

/// A log that came and went between two looks, after one that had ended in order: only the count of the live connections
/// tells of its commits.
#[test]
fn a_log_that_nobody_has_looked_at_is_missed() {
    let (mut model, db, shared) = passed(Model::new(7, 16 << 20));
    model.run("INSERT INTO t VALUES (1000, 'before')");
    workers::drain(&db, &shared).expect("captured");
    let passing = model.gate(Gate::WalTruncate { kept: 0 });
    model.execute("PRAGMA wal_checkpoint(TRUNCATE)");
    drop(passing);
    model.execute("INSERT INTO t VALUES (1001, 'lost'); PRAGMA wal_checkpoint(RESTART)");
    model.execute("INSERT INTO t VALUES (1002, 'after')");
    let drained = workers::drain(&db, &shared).expect("looked");
    let expected = (Next::Image, Some("reset_missed"));
    assert_eq!((drained.next, db.history().resync), expected);
    let progress = db.client().expect("registered").progress();
    assert_eq!(progress.status, Status::Gapped);
}

/// The last close takes the wal-index away before the log: what it has counted is noted at that moment.
#[test]
fn a_log_that_nobody_has_looked_at_is_missed_at_the_last_close() {
    let (mut model, db, _) = passed(Model::new(10, 16 << 20));
    model.run("INSERT INTO t VALUES (1000, 'before')");
    let passing = model.gate(Gate::WalTruncate { kept: 0 });
    model.execute("PRAGMA wal_checkpoint(TRUNCATE)");
    drop(passing);
    model.execute("INSERT INTO t VALUES (1001, 'lost'); PRAGMA wal_checkpoint(RESTART)");
    model.execute("INSERT INTO t VALUES (1002, 'after')");
    model.gate(Gate::ShmUnlink);
    model.remove_index();
    model.gate(Gate::WalUnlink);
    assert_eq!(db.history().resync, Some("reset_missed"));
}

/// As SQLite did before 3.51.3: between the moments at which a log is scanned and its pages are read, another one is begun
/// over it without a gate.
#[test]
fn pages_of_a_log_that_is_written_over_meanwhile_are_not_taken() {
    let (mut model, db, shared) = passed(Model::new(14, 16 << 20));
    model.execute("INSERT INTO t VALUES (1000, 'read ahead')");
    db.history().read_ahead(&db, &shared).expect("read");
    let before = db.history().mark;
    let other = model.connect();
    watched::set(Some(Rc::new(move |point| {
        if point == Point::LimitRead {
            let reset = "PRAGMA wal_checkpoint(RESTART); UPDATE t SET b = 'of another log'";
            other.execute_batch(reset).expect("run");
        }
    })));
    let looked = workers::drain(&db, &shared);
    watched::set(None);
    assert!(matches!(looked, Err(CaptureError::Disturbed)), "{looked:?}");
    assert_eq!(db.history().mark, before);
}

/// What is captured later, since there was no room for it, is no other than what the live connections have counted.
#[test]
fn a_log_for_which_there_was_no_room_is_not_missed() {
    let (mut model, db, shared) = passed(Model::with_spool(13, 1, 64 << 10));
    model.run("INSERT INTO t VALUES (1000, 'before'); PRAGMA wal_checkpoint(PASSIVE)");
    let another = shared.spool.path_of(99, GenerationId(1), (1, 1));
    let kept = shared.spool.keep(&another, &vec![7; 40 << 10].into());
    kept.expect("room for that");
    model.execute("INSERT INTO t VALUES (1001, randomblob(20000))");
    let looked = workers::drain(&db, &shared);
    assert!(looked.is_err_and(|error| error.is_for_want_of_room()));
    shared.spool.remove(&another).expect("removed");
    workers::drain(&db, &shared).expect("captured");
    assert_eq!(db.history().resync, None);
}

/// The wal-index tells of the next log already when this one's gate comes, and nobody has looked at it before.
#[test]
fn a_log_that_is_over_at_its_gate_is_missed() {
    let (mut model, db, _) = passed(Model::new(11, 16 << 20));
    model.run("INSERT INTO t VALUES (1000, 'before'); PRAGMA wal_checkpoint(PASSIVE)");
    model.execute("INSERT INTO t VALUES (1001, 'lost')");
    model.restart_index();
    drop(model.gate(Gate::WalTruncate { kept: 0 }));
    assert_eq!(db.history().resync, Some("reset_missed"));
}

/// Where nobody is left who has counted, the salts tell whether one log directly follows another.
#[test]
fn a_log_that_does_not_follow_is_compared() {
    let nothing = (Next::Nothing, None);
    for (between, truncates, expected) in [
        ("", 0, nothing),
        ("", 3, nothing),
        (
            "INSERT INTO t VALUES (1001, 'lost'); PRAGMA wal_checkpoint(RESTART)",
            0,
            (Next::Image, Some("log_unknown")),
        ),
    ] {
        let (mut model, db, shared) = passed(Model::new(12, 16 << 20));
        model.run("INSERT INTO t VALUES (1000, 'before'); PRAGMA wal_checkpoint(PASSIVE)");
        model.execute(between);
        for _ in 0..truncates {
            let passing = model.gate(Gate::WalTruncate { kept: 0 });
            model.execute("PRAGMA wal_checkpoint(TRUNCATE)");
            drop(passing);
        }
        model.execute("INSERT INTO t VALUES (1002, 'after')");
        model.close_index();
        let drained = workers::drain(&db, &shared).expect("looked");
        assert_eq!((drained.next, db.history().resync), expected);
    }
}

/// The same where the one before was empty when it was looked at, and its commits went without a gate.
#[test]
fn what_was_committed_to_an_empty_log_since_it_was_looked_at_may_be_missed() {
    let (mut model, db, shared) = passed(Model::new(17, 16 << 20));
    model.run("INSERT INTO t VALUES (1000, 'before'); PRAGMA wal_checkpoint(PASSIVE)");
    model.execute(
        "BEGIN; WITH RECURSIVE n(i) AS (SELECT 2000 UNION ALL SELECT i + 1 FROM n WHERE i < 2100)
         INSERT INTO t SELECT i, randomblob(3000) FROM n; ROLLBACK",
    );
    workers::drain(&db, &shared).expect("looked");
    let place = db.history().mark.and_then(|mark| mark.wal);
    let offset = place.expect("in the log").position.offset;
    assert_eq!(offset, HEADER_SIZE, "the next one, with no commit");
    model.execute("INSERT INTO t VALUES (1001, 'lost'); PRAGMA wal_checkpoint(RESTART)");
    model.execute("INSERT INTO t VALUES (1002, 'after')");
    model.close_index();
    let drained = workers::drain(&db, &shared).expect("looked");
    let expected = (Next::Image, Some("log_unknown"));
    assert_eq!((drained.next, db.history().resync), expected);
}

/// A log that counts from nothing follows any other, as far as its header tells; the file has what went past the gates.
#[test]
fn a_log_over_another_state_than_the_captured_one_is_compared_first() {
    let (mut model, db, shared) = passed(Model::new(15, 16 << 20));
    model
        .run("CREATE TABLE u (a); INSERT INTO u VALUES ('before'); PRAGMA wal_checkpoint(PASSIVE)");
    let captured = db.history().mark;
    model.execute(
        "UPDATE u SET a = 'lost'; PRAGMA journal_mode = DELETE; PRAGMA journal_mode = WAL",
    );
    model.execute("INSERT INTO t VALUES (1002, 'after')");
    model.close_index();
    let drained = workers::drain(&db, &shared).expect("looked");
    let history = db.history();
    let expected = (Next::Image, Some("foreign_change"));
    assert_eq!((drained.next, history.resync), expected);
    assert_eq!(history.mark, captured, "no state that never was");
}

/// What a writer left when it died was captured, since nobody was there to say that it does not count; then it was written
/// over by something shorter, while no instance ran. The frame at its end stands there still.
#[test]
fn a_log_that_was_written_over_in_its_middle_is_not_as_it_was_captured() {
    let mut model = Model::new(16, 16 << 20);
    let (db, shared) = (model.db.clone(), model.capture.shared.clone());
    workers::make_image(&db, &shared).expect("a first image");
    model.commit_unpublished("INSERT INTO t VALUES (1000, randomblob(20000))");
    let opened = || match open_log(&db, &shared) {
        Ok(Log::Valid(log)) => log,
        _ => panic!("there is a log"),
    };
    let mut log = opened();
    let (start, len) = (log.header.start(), log.len);
    let last = log.transactions(start, len).expect("read").pop();
    let captured = log.mark_at(last.expect("committed").end);
    assert!(log.leads_to(&captured).expect("read"));

    model.execute("INSERT INTO t VALUES (1001, 'short')");
    let mut log = opened();
    assert!(log.chains(&captured).expect("read"));
    assert!(!log.leads_to(&captured).expect("read"));
    {
        let mut history = db.history();
        history.has_found_place = false;
        history.mark.as_mut().expect("a mark").wal = Some(captured);
    }
    model.close_index();
    let drained = workers::drain(&db, &shared).expect("looked");
    assert_eq!(drained.next, Next::Image);
}

/// The first checkpoint of a new database may be complete before anything of it is captured.
#[test]
fn a_checkpoint_before_the_first_image_is_complete_too() {
    for locking in ["NORMAL", "EXCLUSIVE"] {
        let mut model = Model::new(8, 16 << 20);
        let (db, shared) = (model.db.clone(), model.capture.shared.clone());
        model.pass_log();
        model.execute(&format!("PRAGMA locking_mode = {locking}"));
        model.run("INSERT INTO t VALUES (1000, 'before'); PRAGMA wal_checkpoint(RESTART)");
        workers::make_image(&db, &shared).expect("a first image");
        model.execute("INSERT INTO t VALUES (1001, 'after')");
        let drained = workers::drain(&db, &shared).expect("looked");
        let history = db.history();
        assert_eq!((drained.next, history.resync), (Next::Nothing, None));
        assert_eq!(history.mark.expect("a mark").txid, 2);
    }
}

/// While a log is looked at that has begun anew, more is committed, and a checkpoint that is not complete writes it.
#[test]
fn what_a_checkpoint_writes_during_a_look_is_no_foreign_change() {
    let (mut model, db, shared) = passed(Model::new(9, 16 << 20));
    model.run("INSERT INTO t VALUES (1000, 'before')");
    model.run("PRAGMA wal_checkpoint(RESTART)");
    workers::drain(&db, &shared).expect("captured");
    model.execute("CREATE TABLE u (a)");
    let (other, reader) = (model.connect(), model.connect());
    let meanwhile = move |point| {
        if point == Point::LimitRead && reader.is_autocommit() {
            let write = "REPLACE INTO t VALUES (1000, 'meanwhile')";
            other.execute_batch(write).expect("committed");
            let read = "BEGIN; SELECT count(*) FROM t";
            reader.execute_batch(read).expect("read");
            let more = "DELETE FROM u; INSERT INTO u VALUES (1)";
            other.execute_batch(more).expect("committed");
            let checkpoint = "PRAGMA wal_checkpoint(PASSIVE)";
            other.execute_batch(checkpoint).expect("a part");
        }
    };
    watched::set(Some(Rc::new(meanwhile)));
    workers::drain(&db, &shared).expect("looked");
    watched::set(None);
    assert!(!db.history().suspects_file());
    let drained = workers::drain(&db, &shared).expect("looked");
    assert_eq!((drained.next, db.history().resync), (Next::Nothing, None));
}

/// Where a log is read ahead of its look, the look captures the same.
#[test]
fn what_was_read_ahead_is_captured_like_all_else() {
    let (mut model, db, shared) = passed(Model::new(6, 16 << 20));
    let insert = |rows: std::ops::Range<u32>| {
        let rows = rows.map(|row| format!("REPLACE INTO t VALUES ({row}, 'text')"));
        rows.collect::<Vec<_>>().join("; ")
    };
    let known = |db: &Database| {
        let history = db.history();
        let known = history.followed.as_ref();
        known.map_or(0, |followed| followed.transactions.len())
    };
    model.execute(&insert(1000..1020));
    for (written, expected) in [(1020..1020, 20), (1020..1050, 50)] {
        if !written.is_empty() {
            model.execute(&insert(written));
        }
        db.history().read_ahead(&db, &shared).expect("read");
        assert_eq!(known(&db), expected);
    }
    model.execute(&insert(1050..1060));
    assert_eq!(
        workers::drain(&db, &shared).expect("looked").next,
        Next::Nothing
    );
    assert_eq!(db.history().mark.expect("a mark").txid, 1 + 60);
    assert_eq!(known(&db), 0);

    // What was read of a log that is reset is captured at its last gate; what follows is of another log.
    model.execute(&insert(1060..1070));
    db.history().read_ahead(&db, &shared).expect("read");
    model.run("PRAGMA wal_checkpoint(RESTART)");
    model.execute(&insert(1070..1080));
    db.history().read_ahead(&db, &shared).expect("read");
    assert_eq!(known(&db), 10);
    assert_eq!(
        workers::drain(&db, &shared).expect("looked").next,
        Next::Nothing
    );
    let history = db.history();
    assert_eq!(
        (history.resync, history.mark.expect("a mark").txid),
        (None, 1 + 80)
    );
}

/// The wal-index tells of more than the log had when its size was told: all of that is captured, and as it is counted.
#[test]
fn what_is_committed_after_the_log_was_opened_is_captured_in_the_same_look() {
    let (mut model, db, shared) = passed(Model::new(18, 16 << 20));
    model.execute("INSERT INTO t VALUES (1000, 'before')");
    let txid = db.history().mark.expect("a mark").txid;
    let (other, is_done) = (model.connect(), Cell::new(false));
    watched::set(Some(Rc::new(move |point| {
        if point == Point::LogOpened && !is_done.replace(true) {
            let more = "INSERT INTO t VALUES (1001, 'meanwhile')";
            other.execute_batch(more).expect("committed");
        }
    })));
    let drained = workers::drain(&db, &shared).expect("looked");
    watched::set(None);
    assert_eq!(drained.next, Next::Nothing);
    assert_eq!(db.history().mark.expect("a mark").txid, txid + 2);
    model.run("INSERT INTO t VALUES (1002, 'after'); PRAGMA wal_checkpoint(RESTART)");
    model.execute("INSERT INTO t VALUES (1003, 'in the next log')");
    workers::drain(&db, &shared).expect("looked");
    let history = db.history();
    assert_eq!(
        (history.resync, history.mark.expect("a mark").txid),
        (None, txid + 4)
    );
}
