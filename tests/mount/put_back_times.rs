//! Files that are written in place and get their old times back: noticed all the same.

use std::fs::{self, FileTimes, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::support::daemon::{Daemon, Options, Served, guid};
use super::support::sqlite;

/// Replaces a text in the file by one of the same length, in place, and puts the file's times back, as `dd` and `touch -r` do.
fn replace_unnoticed(database: &Path, from: &str, to: &str) {
    assert_eq!(from.len(), to.len());
    let before = fs::metadata(database).expect("there");
    let bytes = fs::read(database).expect("read");
    let mut places = bytes.windows(from.len());
    let at = places.position(|place| place == from.as_bytes());
    let file = OpenOptions::new().write(true).open(database);
    let file = file.expect("opened");
    file.write_all_at(to.as_bytes(), at.expect("it is in the file") as u64)
        .expect("written");
    let times = FileTimes::new()
        .set_modified(before.modified().expect("a time"))
        .set_accessed(before.accessed().expect("a time"));
    file.set_times(times).expect("put back");
}

#[test]
fn what_is_written_in_place_is_noticed_whatever_times_it_gets() {
    for served in [Served::LogsPassed, Served::ByDaemon] {
        for mode in ["WAL", "DELETE"] {
            let mut daemon = Daemon::start(Options::served(served));
            let client = guid(1);
            let database = daemon.database(&client);
            sqlite::query(
                &database,
                &format!(
                    "PRAGMA journal_mode={mode}; CREATE TABLE t(x); INSERT INTO t VALUES ('first')"
                ),
            );
            let expect = |daemon: &Daemon, text: &str| {
                daemon.sync(&client);
                let restored = daemon.restore(&client, &["--force"], "restored.db");
                assert_eq!(
                    sqlite::query(&restored, "SELECT x FROM t"),
                    text,
                    "{served:?} {mode}"
                );
            };
            expect(&daemon, "first");
            replace_unnoticed(&database, "first", "other");
            expect(&daemon, "other");
            // And where nothing runs meanwhile.
            assert!(daemon.terminate().success());
            replace_unnoticed(&database, "other", "third");
            daemon.restart();
            expect(&daemon, "third");
        }
    }
}
