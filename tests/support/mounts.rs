//! Mounts that a test leaves behind, seen without touching them, and cleared even if they hang.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use super::process::wait_until;

const UMOUNT_TIME: Duration = Duration::from_secs(10);
const CONNECTIONS: &str = "/sys/fs/fuse/connections";

/// Fails, and says how to get it, where there is no FUSE here.
pub fn require_fuse() {
    assert!(
        Path::new("/dev/fuse").exists(),
        "/dev/fuse is missing: load the module (modprobe fuse), or start the container with --device /dev/fuse --cap-add SYS_ADMIN"
    );
    // SAFETY: geteuid only returns a number.
    assert_eq!(unsafe { libc::geteuid() }, 0, "mounting needs root");
}

/// The number of the FUSE connection that is mounted at `dir`; none where nothing is.
pub fn connection_at(dir: &Path) -> Option<u32> {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("the table of mounts");
    table
        .lines()
        .filter(|line| line.split(' ').nth(4) == dir.to_str())
        .filter_map(|line| line.split(' ').nth(2)?.split_once(':')?.1.parse().ok())
        .next_back()
}

/// Unmounts all that is mounted at `dir`, by force where it must be.
pub fn clear(dir: &Path) {
    while let Some(connection) = connection_at(dir) {
        if !umount(dir, &[]) {
            abort(connection);
            assert!(umount(dir, &["-l"]), "{} stays mounted", dir.display());
        }
    }
}

fn umount(dir: &Path, flags: &[&str]) -> bool {
    let mut child = Command::new("umount")
        .args(flags)
        .arg(dir)
        .spawn()
        .expect("umount is a program");
    match wait_until(&mut child, Instant::now() + UMOUNT_TIME) {
        Some(status) => status.success(),
        None => {
            // It may hang in the kernel; the abort that follows frees it.
            let _ = child.kill();
            false
        }
    }
}

/// Ends a FUSE connection: every request that waits for it returns with an error.
pub fn abort(connection: u32) {
    let file = format!("{CONNECTIONS}/{connection}/abort");
    if !Path::new(&file).exists() {
        let mounted = Command::new("mount")
            .args(["-t", "fusectl", "none", CONNECTIONS])
            .status();
        assert!(mounted.is_ok_and(|status| status.success()), "no fusectl");
    }
    // The connection may have ended by itself meanwhile.
    let _ = fs::write(file, "1");
}
