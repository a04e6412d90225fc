//! `demo`, as README promises it.

use std::time::{Duration, Instant};

use super::support::mounts;
use super::support::process::{binary, output};

#[test]
fn the_demo_runs_to_its_end_and_leaves_nothing_behind() {
    mounts::require_fuse();
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let started = Instant::now();
    let shown = output(binary().arg("demo").env("TMPDIR", scratch.path()));
    let out = String::from_utf8_lossy(&shown.stdout);
    let err = String::from_utf8_lossy(&shown.stderr);
    assert!(shown.status.success(), "{out}{err}");
    assert_eq!(
        out.matches("all equal; integrity_check ok").count(),
        6,
        "{out}"
    );
    assert!(started.elapsed() < Duration::from_secs(30), "{out}");
    let left = std::fs::read_dir(scratch.path()).expect("a directory");
    assert_eq!(left.count(), 0);
}
