//! Many databases below one mount: those that nobody touches cost nothing but a little memory, a start with all of them
//! known is over soon, and so is the registration of one more.

use std::fs::File;
use std::ops::Range;
use std::time::{Duration, Instant};

use super::support::daemon::{Daemon, guid};
use super::support::scale::{Vitals, add_databases, make_known, prepare, store_requests};
use super::support::sqlite;

const FEW: u32 = 250;
const MANY: u32 = 1_500;
const WRITTEN: u32 = 1_000;
/// Of memory, for each database that nobody touches.
const BYTES_EACH: u64 = 2_048;
/// Beside that, for each that was written in this run and is idle.
const BYTES_EACH_MORE: u64 = 2_048;
/// Until all mounts answer. It holds for ten thousand databases in a release.
const START: Duration = Duration::from_secs(2);
const REGISTRATION: Duration = Duration::from_millis(5);
/// The allocator has given back by then what was freed before.
const MEMORY_IS_BACK: Duration = Duration::from_secs(3);
/// How long nothing may happen.
const QUIET: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(40);

/// Starts it with databases that it knows, and waits until it has nothing to do, which is when its threads have been still
/// for a while and what it needed for the start is given back.
fn start(daemon: &mut Daemon, is_settled: impl Fn(&Vitals) -> bool) -> (Duration, Vitals) {
    let begun = Instant::now();
    daemon.restart();
    let took = begun.elapsed();
    let mut last = Vitals::of(daemon.pid());
    daemon.wait_for(PATIENCE, "it does not come to rest", || {
        std::thread::park_timeout(Duration::from_millis(500));
        let before = std::mem::replace(&mut last, Vitals::of(daemon.pid()));
        last.wake_ups_since(&before) == 0 && is_settled(&last)
    });
    (took, last)
}

#[test]
fn a_database_that_nobody_touches_costs_two_kilobytes_and_nothing_else() {
    let mut daemon = prepare(Duration::from_secs(120));
    add_databases(&daemon, 0..FEW);
    make_known(&mut daemon, FEW);
    let (_, few) = start(&mut daemon, |_| true);
    assert!(daemon.terminate().success());
    add_databases(&daemon, FEW..MANY);
    make_known(&mut daemon, MANY);

    let most = few.anonymous + u64::from(MANY - FEW) * BYTES_EACH;
    let (took, many) = start(&mut daemon, |now| now.anonymous <= most);
    assert!(took < START, "ready after {took:?}");
    assert_eq!(many.descriptors, few.descriptors);
    assert!(
        many.threads() <= few.threads() + 2,
        "{} threads with few, {} with many",
        few.threads(),
        many.threads()
    );

    let (requests, begun) = (store_requests(&daemon), Instant::now());
    let before = Vitals::of(daemon.pid());
    std::thread::park_timeout(QUIET);
    let quiet = begun.elapsed();
    let after = Vitals::of(daemon.pid());
    // The look for what goes past the mounts, and what the answer about the metrics has left to be done.
    let woken = after.wake_ups_since(&before);
    assert!(woken < 100, "woken {woken} times in {quiet:?}");
    assert_eq!(store_requests(&daemon), requests);
    let ticks = after.processor_ticks - before.processor_ticks;
    assert!(
        ticks < 20,
        "{ticks} hundredths of a second of processor time"
    );
    assert_one_more_is_registered_at_once(&daemon);
}

/// Writes once to each of so many, and gives what it takes when it has come to rest and its memory with it.
fn write_and_rest(daemon: &Daemon, databases: Range<u32>) -> u64 {
    for number in databases {
        sqlite::query(
            &daemon.database(&guid(number)),
            "INSERT INTO commits (body) VALUES (randomblob(300))",
        );
    }
    let mut last = Vitals::of(daemon.pid());
    daemon.wait_for(PATIENCE, "it does not come to rest", || {
        std::thread::park_timeout(MEMORY_IS_BACK);
        let before = std::mem::replace(&mut last, Vitals::of(daemon.pid()));
        last.wake_ups_since(&before) < 10 && last.anonymous >= before.anonymous
    });
    last.anonymous
}

#[test]
fn a_database_that_was_written_costs_little_more_once_it_is_idle() {
    let mut daemon = prepare(Duration::from_secs(120));
    add_databases(&daemon, 0..WRITTEN);
    make_known(&mut daemon, WRITTEN);
    start(&mut daemon, |_| true);
    // What threads and caches have of their own is there then.
    let few = write_and_rest(&daemon, 0..FEW);
    let all = write_and_rest(&daemon, FEW..WRITTEN);
    let each = all.saturating_sub(few) / u64::from(WRITTEN - FEW);
    eprintln!("each {each}");
    assert!(
        each <= BYTES_EACH_MORE,
        "{each} bytes each; {few} when few were written"
    );
}

fn assert_one_more_is_registered_at_once(daemon: &Daemon) {
    let mut took: Vec<Duration> = (MANY..MANY + 5)
        .map(|number| {
            let begun = Instant::now();
            File::create_new(daemon.database(&guid(number))).expect("made");
            let took = begun.elapsed();
            // It was registered before its maker went on.
            assert_eq!(daemon.health(&guid(number))["status"], "active");
            took
        })
        .collect();
    took.sort_unstable();
    assert!(took[2] < REGISTRATION, "registered within {took:?}");
}
