//! What removals leave in the store: nothing of what was never stored, and one note for each name that comes and goes.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::support::daemon::{Daemon, Options, guid};
use super::support::sqlite;

const CREATE: &str = "PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES (1)";
const LIMIT: Duration = Duration::from_secs(20);
/// The store is told of a removal a quarter of a second after it.
const SETTLED: Duration = Duration::from_millis(1_500);

fn objects(below: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(below).into_iter().flatten() {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => found.extend(objects(&path)),
            false => found.push(path),
        }
    }
    found
}

impl Daemon {
    fn removal_notes(&self) -> Vec<PathBuf> {
        objects(&self.path("store/registry/removed"))
    }
}

#[test]
fn files_that_were_never_stored_leave_nothing() {
    let daemon = Daemon::start(Options::default());
    let kept = guid(1_000);
    sqlite::query(&daemon.database(&kept), CREATE);
    daemon.sync(&kept);
    let before = objects(&daemon.path("store"));
    for n in 0..300 {
        fs::write(daemon.database(&guid(n)), "").expect("an empty file");
    }
    for n in 0..300 {
        fs::remove_file(daemon.database(&guid(n))).expect("removed");
    }
    std::thread::park_timeout(SETTLED);
    assert_eq!(objects(&daemon.path("store")), before);
    // What was stored is told.
    fs::remove_file(daemon.database(&kept)).expect("removed");
    daemon.wait_for(LIMIT, "the removal is told", || {
        daemon.removal_notes().len() == 1
    });
}

#[test]
fn a_name_that_comes_and_goes_has_one_note() {
    let daemon = Daemon::start(Options::default());
    let client = guid(1);
    let database = daemon.database(&client);
    let mut notes = Vec::new();
    for life in 1..=3 {
        sqlite::query(&database, CREATE);
        daemon.sync(&client);
        fs::remove_file(&database).expect("removed");
        daemon.wait_for(LIMIT, "the removal is told", || {
            let now = daemon.removal_notes();
            now.len() == 1 && now != notes
        });
        notes = daemon.removal_notes();
        let lives = objects(&daemon.path("store/databases").join(&client));
        let snapshots = lives
            .iter()
            .filter(|path| path.extension().is_some_and(|end| end == "snapshot"));
        assert_eq!(snapshots.count(), life, "what was stored stays");
    }
}

#[test]
fn a_folder_that_is_renamed_again_and_again_makes_few_objects() {
    let daemon = Daemon::start(Options {
        discovery: ", tenantRegex: '/t/(?P<tenant>[^/]+)/$'",
        ..Options::default()
    });
    let (a, b) = (daemon.data().join("t/a"), daemon.data().join("t/b"));
    fs::create_dir_all(&a).expect("folders");
    sqlite::query(&a.join("x.db"), CREATE);
    daemon.wait_health("a/x", |health| health["replicatedTxid"] == 1);
    let begun = Instant::now();
    let mut renames = 0;
    while begun.elapsed() < Duration::from_secs(4) {
        fs::rename(&a, &b).expect("renamed");
        fs::rename(&b, &a).expect("renamed");
        renames += 2;
    }
    assert!(renames > 100, "{renames}");
    sqlite::query(&a.join("x.db"), "INSERT INTO t VALUES (2)");
    daemon.wait_health("a/x", |health| {
        health["status"] == "active" && health["replicatedTxid"].as_u64() > Some(0)
    });
    std::thread::park_timeout(SETTLED);
    let (status, synced) = daemon.post("/api/databases/a/x/sync");
    assert_eq!(status, 200, "{synced}");
    let restored = daemon.restore("a/x", &[], "restored.db");
    sqlite::assert_same(&a.join("x.db"), &restored);
    let stored = objects(&daemon.path("store"));
    assert!(stored.len() < 40, "{} of {renames}", stored.len());
    assert!(
        daemon.removal_notes().len() <= 1,
        "{:?}",
        daemon.removal_notes()
    );
}
