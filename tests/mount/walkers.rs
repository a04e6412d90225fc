//! Programs that walk through all directories at once, beside writers: all come to their end, and who asks for one file
//! does not wait for them.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::support::daemon::{Daemon, Options, Served, guid};
use super::support::sqlite;
use super::support::users::Users;
use super::support::workload::{Workload, acknowledged, assert_has_all};

const DIRECTORIES: u32 = 50;
const WRITERS: u32 = 4;

/// How long they walk; `LOAD_SECONDS` says so for a long run.
fn seconds() -> u64 {
    let asked = std::env::var("LOAD_SECONDS").ok();
    asked.map_or(5, |asked| asked.parse().expect("LOAD_SECONDS is a number"))
}

/// Walks again and again. A file that changes under it is no failure of a walk.
fn walker(directory: &Path, walk: &str) -> Command {
    let rounds = format!(
        "end=$(($(date +%s) + {})); while [ $(date +%s) -lt $end ]; do {walk} || true; done",
        seconds()
    );
    let mut command = Command::new("sh");
    command.args(["-c", &rounds, "sh"]).arg(directory);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Asks for names that nobody has asked for, and says how long 99 of 100 took at most.
fn asker(directory: &Path) -> Command {
    let script = r#"
import os, sys, time
took, end, n = [], time.time() + float(sys.argv[2]), 0
while time.time() < end:
    n += 1
    begun = time.perf_counter()
    try:
        os.stat(f"{sys.argv[1]}/{n % 50}/missing-{n}")
    except FileNotFoundError:
        pass
    took.append(time.perf_counter() - begun)
    time.sleep(0.002)
took.sort()
print(f"{len(took)} questions, p50 {took[len(took) // 2] * 1e3:.2f} ms, p99 {took[len(took) * 99 // 100] * 1e3:.2f} ms, longest {took[-1] * 1e3:.2f} ms", file=sys.stderr)
sys.exit(took[len(took) * 99 // 100] > 1)
"#;
    let mut command = Command::new("python3");
    command
        .args(["-c", script])
        .arg(directory)
        .arg(seconds().to_string());
    command
}

fn walk(served: Served) {
    let daemon = Daemon::start(Options::served(served));
    let data = daemon.data();
    let database = |n: u32| data.join(n.to_string()).join(format!("{}.db", guid(n)));
    for n in 0..DIRECTORIES {
        std::fs::create_dir_all(data.join(n.to_string()).join("below")).expect("folders");
        let sql = "PRAGMA journal_mode=WAL; CREATE TABLE IF NOT EXISTS other(x); INSERT INTO other VALUES (1)";
        sqlite::query(&database(n), sql);
    }
    let writers: Vec<_> = (0..WRITERS)
        .map(|n| {
            let arguments = format!("--seconds {} --seed {} --pause-ms 5", seconds(), n + 1);
            Workload::start(&database(n), &daemon.path(&format!("acks-{n}")), &arguments)
        })
        .collect();
    let copy = daemon.path("copy");
    let copies = format!("rsync -a --delete \"$1/\" {}", copy.display());
    let walks = [
        "find \"$1\" -type f -size +0",
        "du -s \"$1\"",
        "ls -lR \"$1\"",
        "tar cf - -C \"$1\" .",
        &copies,
    ];
    let commands = walks
        .map(|walk| walker(&data, walk))
        .into_iter()
        .chain([asker(&data)]);
    Users::start(&daemon, commands).all_succeed(Duration::from_secs(seconds() + 30));
    writers.into_iter().for_each(Workload::finish);
    for n in 0..WRITERS {
        daemon.sync(&guid(n));
        let restored = daemon.restore(&guid(n), &[], &format!("restored-{n}.db"));
        assert_has_all(&restored, &acknowledged(&daemon.path(&format!("acks-{n}"))));
    }
}

#[test]
fn all_directories_at_once_where_logs_are_passed() {
    walk(Served::LogsPassed);
}

#[test]
fn all_directories_at_once_where_logs_are_intercepted() {
    walk(Served::LogsIntercepted);
}
