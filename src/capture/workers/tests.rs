//! The threads: what is asked of them is done, within its bounds.

use std::path::Path;
use std::sync::mpsc;

use super::*;
use crate::capture::model::Model;

#[test]
fn an_operation_that_panics_takes_no_thread_along() {
    let model = Model::new(1, 16 << 20);
    let (begun, panics) = bounded(GATES);
    // More of them than there are threads that carry them out.
    for _ in 0..2 * (1 + LOOKERS) {
        let begun = begun.clone();
        let proceed: Proceed = Box::new(move |_| {
            begun.send(()).expect("waits");
            panic!("as the test wants it");
        });
        model.capture.gate(&model.db, Gate::WalOverwrite, proceed);
    }
    for _ in 0..2 * (1 + LOOKERS) {
        let waited = panics.recv_timeout(Duration::from_secs(10));
        waited.expect("each is carried out");
    }
    drop(model.gate(Gate::WalOverwrite));
}

/// A pipeline whose look finds no room would end as though the process did.
#[test]
fn looks_that_nobody_waits_for_leave_room_for_those_of_pipelines() {
    const ROOM: usize = 10;
    let (workers, queues) = Workers::without_threads(Duration::from_secs(1), ROOM);
    for _ in 0..10 * (ROOM + SPARE) {
        workers.look_unless_busy(Box::new(|_, _| {}));
    }
    let others = queues.looks.len();
    assert!(others > 0 && others + ROOM < ROOM + SPARE, "{others}");
    (0..ROOM).for_each(|_| workers.look(Box::new(|_, _| {})));
    assert_eq!(queues.looks.len(), others + ROOM);
}

/// No comparison comes: the write goes on at the limit, and the next one at once.
#[test]
fn a_write_that_is_held_in_vain_goes_on_at_the_time_limit() {
    const LIMIT: Duration = Duration::from_millis(100);
    let model = Model::new(1, 16 << 20);
    let workers = Workers::start(&model.capture.shared, LIMIT, 10).expect("threads");
    let begun = Instant::now();
    model.db.turn().want(false, begun);
    for least in [LIMIT, Duration::ZERO] {
        let (done, wait) = mpsc::channel();
        let write = move || done.send(()).expect("waits");
        let before = Instant::now();
        workers.hold(&model.db, Box::new(write));
        wait.recv_timeout(Duration::from_secs(10)).expect("written");
        let held = before.elapsed();
        assert!(held >= least && held < LIMIT + Duration::from_secs(5));
        model.db.turn().want(false, Instant::now());
    }
}

/// A comparison of millions of pages has its database's history for seconds.
#[test]
fn a_database_that_is_worked_on_keeps_no_other_from_its_gates() {
    const GATES_OF_ONE: usize = 2 * (1 + LOOKERS);
    let model = Model::new(1, 16 << 20);
    let other = Path::new("22345678-1234-5678-9abc-123456789012.db");
    std::fs::write(model.dir.path().join("data").join(other), "").expect("a file");
    model.capture.appeared(other, false);
    let other = model.capture.at_path(other).expect("registered");
    let (carried_out, wait) = mpsc::channel();
    let gate = |db: &Arc<Database>, name: &'static str| {
        let carried_out = carried_out.clone();
        let proceed: Proceed = Box::new(move |_| carried_out.send(name).expect("waits"));
        model.capture.gate(db, Gate::WalOverwrite, proceed);
    };
    let history = model.db.history();
    (0..GATES_OF_ONE).for_each(|_| gate(&model.db, "busy"));
    gate(&other, "other");
    assert_eq!(wait.recv_timeout(Duration::from_secs(2)), Ok("other"));
    drop(history);
    for _ in 0..GATES_OF_ONE {
        assert_eq!(wait.recv_timeout(Duration::from_secs(10)), Ok("busy"));
    }
}
