//! Whoever reads the log stops reading, comes back, or goes: the instance waits for none of it, and counts what it drops.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::support::daemon::{Daemon, Options, guid};
use super::support::process::Bystander;
use super::support::sqlite::{self, Session};

const CREATE: &str = "CREATE TABLE t (a);";
/// What is done within this is not held up.
const SOON: Duration = Duration::from_secs(10);
/// More lines than may wait and than a pipe takes.
const FLOOD: usize = 12_000;
/// More than a pipe takes.
const PIPE_FULL: usize = 1_000;

/// A daemon that logs a line for each connection that makes no sense; its standard output goes to the same pipe, as
/// service managers have it.
fn talkative() -> Daemon {
    Daemon::start(Options {
        sync_interval: "0s",
        wrapper: ["sh", "-c", r#"exec "$0" "$@" >&2"#]
            .map(String::from)
            .to_vec(),
        environment: vec![("RUST_LOG", "debug".to_owned())],
        ..Options::default()
    })
}

/// Has the instance log as many lines.
fn flood(daemon: &Daemon, lines: usize) {
    for line in 0..lines {
        let mut connection = TcpStream::connect(daemon.api()).expect("it is accepted");
        connection.set_read_timeout(Some(SOON)).expect("a limit");
        connection.write_all(b"nonsense\r\n\r\n").expect("sent");
        let mut answer = Vec::new();
        let ended = connection.read_to_end(&mut answer);
        ended.unwrap_or_else(|error| panic!("line {line}: the API does not answer: {error}"));
    }
}

fn dropped(daemon: &Daemon) -> u64 {
    let metrics = daemon.metrics();
    let count = metrics
        .lines()
        .find_map(|line| line.strip_prefix("litestream_log_lines_dropped_total "));
    let count = count.unwrap_or_else(|| panic!("it is not counted:\n{metrics}"));
    count.parse().expect("a number")
}

/// A session in WAL mode with a database of this client.
fn begun(daemon: &Daemon, client: &str) -> Session {
    let mut session = Session::open(&daemon.database(client));
    session.run("PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0;");
    session.run(CREATE);
    daemon.sync(client);
    session
}

/// Commits, each of them a line of the log, and a gate after every tenth.
fn commit(daemon: &Daemon, client: &str, session: &mut Session) {
    let begun = Instant::now();
    for row in 1..=100 {
        session.run(&format!("INSERT INTO t VALUES ({row});"));
        if row % 10 == 0 {
            session.run("PRAGMA wal_checkpoint(TRUNCATE);");
        }
    }
    daemon.sync(client);
    let took = begun.elapsed();
    assert!(took < SOON, "commits took {took:?}");
    let metrics = daemon.metrics();
    assert!(
        metrics.contains("litestream_gates_missed_total 0"),
        "{metrics}"
    );
}

#[test]
fn a_log_that_nobody_reads_holds_up_nothing_and_what_is_dropped_is_told() {
    let mut daemon = talkative();
    let client = guid(1);
    let mut session = begun(&daemon, &client);
    assert_eq!(dropped(&daemon), 0);

    daemon.log.stop_reading();
    let mark = daemon.log.mark();
    flood(&daemon, FLOOD);
    commit(&daemon, &client, &mut session);
    let restored = daemon.restore(&client, &[], "restored.db");
    sqlite::assert_same(&daemon.database(&client), &restored);
    let lost = dropped(&daemon);
    assert!(lost > 0, "nothing was dropped");

    // Read again, it says what is missing, and goes on.
    daemon.log.go_on();
    let deadline = Instant::now() + SOON;
    let told = daemon
        .log
        .wait_from(mark, "Log lines were dropped", deadline);
    assert_eq!(told["lines"], lost, "{told}");
    let lines = daemon.log.mark();
    assert!(lines - mark > FLOOD / 2, "what waited is not lost: {lines}");
    flood(&daemon, 3);
    assert_eq!(dropped(&daemon), lost);

    // Stopped again, and asked to end.
    daemon.log.stop_reading();
    flood(&daemon, FLOOD);
    session.run("INSERT INTO t VALUES ('last');");
    drop(session);
    let asked = Instant::now();
    let status = daemon.terminate();
    let took = asked.elapsed();
    assert!(status.success() && took < SOON, "{status} after {took:?}");
    let restored = daemon.restore(&client, &["--force"], "restored.db");
    sqlite::assert_same(&daemon.database(&client), &restored);
}

#[test]
fn no_line_is_lost_where_the_log_is_read_not_even_the_last() {
    let mut daemon = talkative();
    let client = guid(1);
    drop(begun(&daemon, &client));
    flood(&daemon, PIPE_FULL);
    assert_eq!(dropped(&daemon), 0);
    let user = Bystander::with_open(&daemon.database(&client));
    assert_eq!(daemon.terminate().code(), Some(1));
    // The pipe may have some of it after the end.
    daemon.wait_for(SOON, "lines are missing", || {
        let log = daemon.log.text();
        let last = log.lines().last().unwrap_or_default();
        last.starts_with("litestream-multitenant: ")
            && log.matches("API connection ended").count() == PIPE_FULL
    });
    drop(user);
}

#[test]
fn an_end_that_fails_is_not_held_up_either() {
    let mut daemon = talkative();
    let client = guid(1);
    drop(begun(&daemon, &client));
    let user = Bystander::with_open(&daemon.database(&client));
    daemon.log.stop_reading();
    flood(&daemon, PIPE_FULL);
    let asked = Instant::now();
    let status = daemon.terminate();
    let took = asked.elapsed();
    assert_eq!(status.code(), Some(1));
    // The unmount is tried for some seconds.
    assert!(took < SOON * 2, "after {took:?}");
    drop(user);
}

#[test]
fn a_log_whose_reader_is_gone_holds_up_nothing() {
    let mut daemon = talkative();
    let client = guid(1);
    let mut session = begun(&daemon, &client);
    daemon.log.close();
    flood(&daemon, 10);
    let before = dropped(&daemon);
    commit(&daemon, &client, &mut session);
    let lost = dropped(&daemon) - before;
    assert!(lost >= 10, "{lost} lines are counted");
    assert_eq!(daemon.health(&client)["status"], "active");
    drop(session);
    assert!(daemon.terminate().success());
}
