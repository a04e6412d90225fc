//! A simulation of a whole machine: capture, pipeline and upkeep as they are, over a disk, a store and a clock that a
//! seed governs.
//!
//! One thread does everything, and the seed decides who goes on next: a task, a worker, the application in the middle of
//! one of SQLite's writes, time. It also decides where the process, the application or the power ends, which requests
//! the store loses, delays, refuses or carries out twice, and what of the unsynced is on the disk afterwards. After each
//! step everything in the store has to be a part of what was committed. See docs/testing.md.

mod application;
mod chance;
mod daemon;
mod disk;
mod log;
mod mount;
mod oracle;
mod run;
mod store;
mod world;

use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};

use self::run::Outcome;

/// Those that are tried where nothing else is said.
const SEEDS: &str = "0..300";

/// Beside these, those that have found something: what was committed while a log was being looked at had its next reset
/// taken for one that was missed; after an exclusive connection, while a whole database was read, and at the last close, a
/// log came and went unseen; a merge in the spool had `sync` say that something is stored before it was; a reset that
/// failed, and then the last close, had a commit taken that nobody had seen; a log that went after its complete
/// checkpoint, while its database was read for the first time, was called missed; pages were taken of a log that was written
/// over meanwhile; a log was followed over a state that was not the captured one; a log that was written over while nobody
/// ran, and ended with the same frame, was taken for the one that was captured.
const FOUND: [u64; 16] = [
    430, 1291, 2219, 3280, 3946, 4252, 4828, 4837, 5584, 5770, 5887, 5926, 6700, 8025, 9474, 12343,
];

/// Those that are run in two processes, and compared.
const TWICE: &str = "20..40";

/// Every regular file below a directory.
fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => files.extend(files_below(&path)),
            false => files.push(path),
        }
    }
    files.sort();
    files
}

fn modified(path: &Path) -> i64 {
    let stat = rustix::fs::stat(path).expect("it is there");
    stat.st_mtime * 1_000_000_000 + stat.st_mtime_nsec as i64
}

/// Real clocks would differ from run to run.
fn set_modified(path: &Path, ns: i64) {
    let time = Timespec {
        tv_sec: ns / 1_000_000_000,
        tv_nsec: ns % 1_000_000_000,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::empty()).expect("its own file");
}

fn range(text: &str) -> std::ops::Range<u64> {
    let (from, to) = text.split_once("..").expect("SIMULATION_SEEDS is FROM..TO");
    let number = |text: &str| text.parse().expect("SIMULATION_SEEDS is FROM..TO");
    number(from)..number(to)
}

fn replay(seed: u64) -> String {
    let next = seed + 1;
    format!(
        "seed {seed}: replay with: SIMULATION_SEEDS={seed}..{next} SIMULATION_TRACE=1 cargo test --lib simulation::seeds -- --nocapture"
    )
}

/// Runs one seed; a panic is a failure like another.
fn try_seed(seed: u64) -> Result<Outcome, String> {
    std::panic::catch_unwind(|| run::run(seed)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(format!("panicked: {}", text.unwrap_or_default()))
    })
}

/// What a process of its own says of some seeds.
fn outcomes_of(seeds: &str) -> Vec<String> {
    let this = std::env::current_exe().expect("a test binary");
    let output = std::process::Command::new(this)
        .args(["--exact", "simulation::seeds", "--nocapture"])
        .env("SIMULATION_SEEDS", seeds)
        .output()
        .expect("it runs");
    let text = String::from_utf8(output.stdout).expect("text");
    let lines = text.lines().filter(|line| line.starts_with("seed "));
    lines.map(str::to_owned).collect()
}

#[test]
fn a_seed_gives_the_same_trace_in_each_process() {
    // Among them deaths, losses of power and faults of the store.
    let first = outcomes_of(TWICE);
    assert_eq!(first.len() as u64, range(TWICE).count() as u64);
    assert!(
        first
            .iter()
            .any(|outcome| !outcome.contains("power_losses: 0"))
    );
    assert_eq!(first, outcomes_of(TWICE));
}

#[test]
fn seeds() {
    let asked = std::env::var("SIMULATION_SEEDS").ok();
    let seeds = range(asked.as_deref().unwrap_or(SEEDS));
    let begun = Instant::now();
    let mut failed = Vec::new();
    let mut total = Outcome::default();
    let found = FOUND.iter().copied().filter(|_| asked.is_none());
    for seed in seeds.clone().chain(found) {
        match try_seed(seed) {
            Ok(outcome) => {
                if asked.is_some() {
                    println!("seed {seed}: {outcome:?}");
                }
                total.add(&outcome);
            }
            Err(broken) => {
                println!("{}\n  {broken}", replay(seed));
                failed.push(seed);
            }
        }
    }
    println!(
        "{} seeds in {:?}: {total:?}",
        seeds.end - seeds.start,
        begun.elapsed()
    );
    assert!(failed.is_empty(), "seeds failed: {failed:?}");
}
