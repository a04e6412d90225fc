//! Comparisons of whole databases: what they take of memory does not grow with what differs.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::support::daemon::{Daemon, Options, guid};
use super::support::sqlite;

const PAGE: usize = 512;
/// More than one segment may hold.
const BYTES: usize = 80_000_000;
/// The largest resident size, in KiB: what a daemon takes without work, `memoryBytesPerTenant`, and 8 bytes a page.
const MOST: u64 = 75_000;

/// Another byte in each page that holds a piece of the blob; in each of those behind the first ones.
fn change_all_pages(database: &Path) {
    let mut bytes = fs::read(database).expect("read");
    for page in bytes.chunks_mut(PAGE).skip(16) {
        page[PAGE / 2] ^= 1;
    }
    let file = OpenOptions::new().write(true).open(database);
    file.and_then(|file| file.write_all_at(&bytes, 0))
        .expect("written");
}

impl Daemon {
    fn peak_kib(&self) -> u64 {
        let status =
            fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("its status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let number = line.and_then(|line| line.trim().strip_suffix(" kB"));
        number.and_then(|number| number.parse().ok()).expect("KiB")
    }
}

#[test]
fn what_differs_in_a_database_of_small_pages_takes_little_memory() {
    let mut daemon = Daemon::start(Options::default());
    let client = guid(1);
    let database = daemon.database(&client);
    sqlite::query(
        &database,
        &format!(
            "PRAGMA page_size={PAGE}; CREATE TABLE t(x); INSERT INTO t VALUES (zeroblob({BYTES}))"
        ),
    );
    daemon.sync(&client);
    let before = daemon.generations(&client).len();
    assert!(daemon.terminate().success());
    change_all_pages(&database);
    daemon.restart();
    daemon.sync(&client);
    let peak = daemon.peak_kib();
    assert!(peak < MOST, "{peak} KiB");
    let after = daemon.generations(&client).len();
    assert_eq!(after, before + 1, "too much for a segment");
    let restored = daemon.restore(&client, &[], "restored.db");
    assert!(fs::read(restored).expect("read") == fs::read(&database).expect("read"));
}
