//! Whether an application is writing a database, as the kernel's table of locks tells. Where no journal says when a
//! transaction ends, this does. Only a table is read: nothing is locked, and no database is opened.
//!
//! The kernel shows the locks of processes that this one can see: those of another PID namespace may be hidden.

use std::fs::File;
use std::io::{self, Read};
use std::ops::RangeInclusive;

use super::Shared;
use super::error::CaptureError;

/// A table of more than a page may lack a lock; hardly that of one file several times in a row.
const READINGS: usize = 3;
/// SQLite's bytes: PENDING, RESERVED, and those that readers share and a writer has for itself.
const DATABASE_BYTES: RangeInclusive<u64> = 1 << 30..=(1 << 30) + 1 + 510;
/// Of a wal-index: the byte that a connection locks for reading once it has been begun, for as long as it has it open.
const INDEX_IN_USE: RangeInclusive<u64> = 128..=128;

impl Shared {
    /// Whether anybody holds RESERVED, PENDING or EXCLUSIVE on the database file with this inode.
    pub(super) fn has_writer(&self, inode: u64) -> Result<bool, CaptureError> {
        self.is_locked(inode, &["WRITE"])
    }

    /// Whether anybody holds any of SQLite's locks on that file: a reader, a connection with a log, or a writer.
    pub(super) fn has_lock(&self, inode: u64) -> Result<bool, CaptureError> {
        self.is_locked(inode, &["READ", "WRITE"])
    }

    /// Whether connections have the wal-index with this inode in use, so that it is no left-over of a crash.
    pub(super) fn is_index_in_use(&self, inode: u64) -> Result<bool, CaptureError> {
        self.is_locked_at(inode, &["READ"], &INDEX_IN_USE)
    }

    fn is_locked(&self, inode: u64, kinds: &[&str]) -> Result<bool, CaptureError> {
        self.is_locked_at(inode, kinds, &DATABASE_BYTES)
    }

    fn is_locked_at(
        &self,
        inode: u64,
        kinds: &[&str],
        bytes: &RangeInclusive<u64>,
    ) -> Result<bool, CaptureError> {
        let Some(&device) = self.mount_device.get() else {
            return Ok(false);
        };
        is_held(|line| is_lock(line, kinds, bytes, device, inode))
            .map_err(CaptureError::io("read the table of locks"))
    }
}

/// Whether a lock is held whose line is such a one.
fn is_held(is_it: impl Fn(&str) -> bool) -> io::Result<bool> {
    for _ in 0..READINGS {
        if table()?.lines().any(&is_it) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The kernel's table of locks. It is whole for what one read gives, which is a page of it at most; between two reads
/// others take and release locks, and one that stays may be left out. So it is read with a large buffer, and not with
/// the small ones that a file of unknown size begins with.
fn table() -> io::Result<String> {
    let mut file = File::open("/proc/locks")?;
    let mut table = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(String::from_utf8_lossy(&table).into_owned()),
            Ok(length) => table.extend_from_slice(&buffer[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Whether a line of the table is of such a lock, of one of these `kinds`: number, kind, strictness, READ or WRITE, owner, device and inode, first
/// and last byte. One that is waited for has an arrow before its kind, and is not held.
fn is_lock(
    line: &str,
    kinds: &[&str],
    bytes: &RangeInclusive<u64>,
    (major, minor): (u32, u32),
    inode: u64,
) -> bool {
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    let [_, "POSIX" | "OFDLCK", _, kind, _, file, first, last] = words[..] else {
        return false;
    };
    if !kinds.contains(&kind) {
        return false;
    }
    let is_file = file == format!("{major:02x}:{minor:02x}:{inode}");
    let first = first.parse().unwrap_or(0);
    let last = last.parse().unwrap_or(u64::MAX);
    is_file && first <= *bytes.end() && last >= *bytes.start()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;
    use std::sync::atomic::{AtomicBool, Ordering};

    /// Others come and go in the table meanwhile.
    #[test]
    fn a_lock_that_is_held_is_found() {
        let held = tempfile::tempfile().expect("a file");
        held.lock().expect("locked");
        let line = format!(":{} ", held.metadata().expect("its stamp").ino());
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let others: Vec<File> = (0..8)
                        .map(|_| tempfile::tempfile().expect("a file"))
                        .collect();
                    while !is_over.load(Ordering::Relaxed) {
                        others.iter().for_each(|file| file.lock().expect("locked"));
                        others
                            .iter()
                            .for_each(|file| file.unlock().expect("unlocked"));
                    }
                });
            }
            let looks = (0..500).map(|_| is_held(|other| other.contains(&line)).expect("read"));
            let missed = looks.filter(|found| !found).count();
            is_over.store(true, Ordering::Relaxed);
            assert_eq!(missed, 0, "of 500");
        });
    }

    #[test]
    fn locks_of_writers_are_told_from_others() {
        let is = |line: &str| is_lock(line, &["WRITE"], &DATABASE_BYTES, (0, 27), 12345);
        let readers = "7: POSIX  ADVISORY  READ 4711 00:1b:12345 1073741826 1073742335";
        assert!(is_lock(
            readers,
            &["READ", "WRITE"],
            &DATABASE_BYTES,
            (0, 27),
            12345
        ));
        let of_index = "7: POSIX  ADVISORY  READ 4711 00:1b:12345 128 128";
        assert!(is_lock(of_index, &["READ"], &INDEX_IN_USE, (0, 27), 12345));
        assert!(!is_lock(
            of_index,
            &["READ"],
            &DATABASE_BYTES,
            (0, 27),
            12345
        ));
        let on = |file: &str, kind: &str, range: &str| {
            is(&format!("7: POSIX  ADVISORY  {kind} 4711 {file} {range}"))
        };
        let file = "00:1b:12345";
        // RESERVED; EXCLUSIVE; a lock of the whole file.
        assert!(on(file, "WRITE", "1073741825 1073741825"));
        assert!(on(file, "WRITE", "1073741826 1073742335"));
        assert!(on(file, "WRITE", "0 EOF"));
        assert!(is(
            "8: OFDLCK ADVISORY  WRITE -1 00:1b:12345 1073741824 1073741824"
        ));
        // A reader, other bytes, another file of that number, one that still waits, other kinds.
        assert!(!on(file, "READ", "1073741826 1073742335"));
        assert!(!on(file, "WRITE", "120 120"));
        assert!(!on(file, "WRITE", "1073742336 1073742336"));
        assert!(!on("fe:00:12345", "WRITE", "0 EOF"));
        assert!(!on("00:1b:123456", "WRITE", "0 EOF"));
        assert!(!is(
            "7: -> POSIX  ADVISORY  WRITE 4711 00:1b:12345 1073741825 1073741825"
        ));
        assert!(!is("9: FLOCK  ADVISORY  WRITE 4711 00:1b:12345 0 EOF"));
    }
}
