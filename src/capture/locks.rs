//! Whether an application is writing a database, as the kernel's table of locks tells. Where no journal says when a
//! transaction ends, this does. Only a table is read: nothing is locked, and no database is opened.
//!
//! The kernel shows the locks of processes that this one can see: those of another PID namespace may be hidden.

use super::Shared;
use super::error::CaptureError;

/// SQLite's bytes: PENDING, RESERVED, and those that readers share and a writer has for itself.
const FIRST_BYTE: u64 = 1 << 30;
const LAST_BYTE: u64 = FIRST_BYTE + 1 + 510;

impl Shared {
    /// Whether anybody holds RESERVED, PENDING or EXCLUSIVE on the database file with this inode.
    pub(super) fn has_writer(&self, inode: u64) -> Result<bool, CaptureError> {
        let Some(&device) = self.mount_device.get() else {
            return Ok(false);
        };
        let table = std::fs::read_to_string("/proc/locks");
        let table = table.map_err(CaptureError::io("read the table of locks"))?;
        Ok(table.lines().any(|line| is_writers(line, device, inode)))
    }
}

/// Whether a line of the table is of such a lock: number, kind, strictness, READ or WRITE, owner, device and inode, first
/// and last byte. One that is waited for has an arrow before its kind, and is not held.
fn is_writers(line: &str, (major, minor): (u32, u32), inode: u64) -> bool {
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    let [_, "POSIX" | "OFDLCK", _, "WRITE", _, file, first, last] = words[..] else {
        return false;
    };
    let is_file = file == format!("{major:02x}:{minor:02x}:{inode}");
    let first = first.parse().unwrap_or(0);
    let last = last.parse().unwrap_or(u64::MAX);
    is_file && first <= LAST_BYTE && last >= FIRST_BYTE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_of_writers_are_told_from_others() {
        let is = |line: &str| is_writers(line, (0, 27), 12345);
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
