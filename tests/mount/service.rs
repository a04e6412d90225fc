//! The instance as a service: beside the command that it runs, and under a supervisor.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use super::support::daemon::{Daemon, Options, guid};
use super::support::process::{output, succeeded};
use super::support::{mounts, sqlite};

const LIMIT: Duration = Duration::from_secs(10);

/// A daemon that runs a shell script; `$0` is the first client's database, `$1` a file to tell us by.
fn with_exec(script: &str) -> Daemon {
    let mut daemon = Daemon::prepare(Options::default());
    let database = daemon.database(&guid(1));
    let told = daemon.path("told");
    let words = ["-exec", "sh", "-c", script];
    let mut words = words.map(str::to_owned).to_vec();
    words.extend([database, told].map(|path| path.to_str().expect("text").to_owned()));
    daemon.add_flags(words);
    daemon.restart();
    daemon
}

/// Waits until a file holds this line.
fn wait_for_line(file: &Path, line: &str) {
    let deadline = Instant::now() + LIMIT;
    while !fs::read_to_string(file).is_ok_and(|text| text.lines().any(|one| one == line)) {
        assert!(
            Instant::now() < deadline,
            "no {line:?} in {}",
            file.display()
        );
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

fn assert_restored(daemon: &Daemon, rows: &str) {
    assert_eq!(mounts::connection_at(&daemon.data()), None);
    let restored = daemon.restore(&guid(1), &[], "restored.db");
    assert_eq!(sqlite::query(&restored, "SELECT x FROM t"), rows);
}

const CREATE: &str = "PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES (1)";

#[test]
fn a_command_finds_the_mount_and_its_exit_code_is_ours() {
    let mut daemon = with_exec(&format!("sqlite3 \"$0\" '{CREATE}' >\"$1\"; exit 7"));
    assert_eq!(daemon.ended().code(), Some(7), "{}", daemon.log.text());
    assert_restored(&daemon, "1");
}

#[test]
fn a_command_is_told_of_signals_and_ended_before_the_last_sync() {
    let mut daemon = with_exec(&format!(
        "trap 'echo hangup >>\"$1\"' HUP
         trap 'sqlite3 \"$0\" \"INSERT INTO t VALUES (2)\"; exit 3' TERM
         sqlite3 \"$0\" '{CREATE}' >\"$1\"; echo up >>\"$1\"
         while :; do sleep 0.05; done"
    ));
    let told = daemon.path("told");
    wait_for_line(&told, "up");
    daemon.signal(libc::SIGHUP);
    wait_for_line(&told, "hangup");
    assert_eq!(daemon.terminate().code(), Some(3), "{}", daemon.log.text());
    assert_restored(&daemon, "1\n2");
}

#[test]
fn an_unmount_from_outside_ends_the_command() {
    let mut daemon = with_exec("echo up >\"$1\"; exec sleep 300");
    wait_for_line(&daemon.path("told"), "up");
    succeeded(Command::new("umount").arg(daemon.data()));
    assert_eq!(daemon.ended().code(), Some(128 + libc::SIGTERM));
}

#[test]
fn a_command_that_is_no_program_leaves_nothing_mounted() {
    let daemon = Daemon::prepare(Options::default());
    let mut command = daemon.mount_command();
    let refused = output(command.args(["-exec", "/nowhere/app", "-x"]));
    let text = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{text}");
    let last = text.lines().last().unwrap_or_default();
    assert!(
        last.starts_with("litestream-multitenant: -exec /nowhere/app -x: "),
        "{text}"
    );
    assert_eq!(mounts::connection_at(&daemon.data()), None);
}
