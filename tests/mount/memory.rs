//! Large transactions of several tenants: the daemon's memory stays within what is promised; and where it is refused
//! memory, it dies, and the next start goes on with nothing lost.

use std::fs;
use std::time::Duration;

use super::support::daemon::{Daemon, Options, guid};
use super::support::sqlite;
use super::support::workload::{Workload, acknowledged, assert_has_all};

const TENANTS: u32 = 4;
/// Transactions of 8 MB on average, and up to 32 MB.
const LARGE: &str =
    "--steps insert,update --rows 4000 --row-bytes 8000 --cache-pages 500 --autocheckpoint 200";
const MIB: u64 = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(40);

fn start(limits: &str) -> Daemon {
    Daemon::start(Options {
        config: format!("limits: {{{limits}}}\n"),
        ..Options::default()
    })
}

/// What the kernel says of a process, in bytes.
fn of_process(daemon: &Daemon, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.split_whitespace().next());
    number.expect("a line").parse::<u64>().expect("a number") * 1024
}

/// The most memory that it has had until now, in bytes.
fn peak(daemon: &Daemon) -> u64 {
    of_process(daemon, "VmHWM:")
}

fn writers(daemon: &Daemon, arguments: &str) -> Vec<Workload> {
    let write = |number: u32| {
        let client = guid(number);
        let arguments = format!("{LARGE} --seed {number} {arguments}");
        Workload::start(&daemon.database(&client), &daemon.path(&client), &arguments)
    };
    (1..=TENANTS).map(write).collect()
}

fn assert_all_stored(daemon: &Daemon) {
    for client in (1..=TENANTS).map(guid) {
        daemon.sync(&client);
        let restored = daemon.restore(&client, &[], &format!("{client}.db"));
        sqlite::assert_same(&daemon.database(&client), &restored);
        assert_has_all(&restored, &acknowledged(&daemon.path(&client)));
    }
}

#[test]
fn large_transactions_take_no_more_memory_than_is_promised() {
    let daemon = start("memoryBytesPerTenant: 1MiB");
    let before = peak(&daemon);
    let all = writers(&daemon, "--transactions 6");
    all.into_iter().for_each(Workload::finish);
    assert_all_stored(&daemon);
    let taken = peak(&daemon) - before;
    // What each may hold, as much again for what is on its way, and what the workers work with, however much is written.
    let promised = u64::from(TENANTS) * 2 * MIB + 32 * MIB;
    assert!(taken < promised, "{before} bytes before, {taken} more");
}

/// Whether it has ended, and was not waited for yet.
fn is_dead(daemon: &Daemon) -> bool {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).expect("a child");
    status.lines().any(|line| line.starts_with("State:\tZ"))
}

/// Bytes of address space by which one start may differ from another: an arena of the allocator, and a buffer or two.
const VARIES: u64 = 96 << 20;

/// As in a container whose limit was set too low: to what it needs when it has nothing to do. What is asked for first
/// decides whether it dies of that.
#[test]
fn a_daemon_that_gets_no_memory_loses_nothing_whether_it_dies_or_not() {
    let mut daemon = start("memoryBytesPerTenant: 16MiB");
    let idle = of_process(&daemon, "VmSize:");
    assert!(daemon.terminate().success());
    daemon.set_wrapper(vec![
        "prlimit".to_owned(),
        format!("--as={}", idle + VARIES),
    ]);
    daemon.restart();
    let all = writers(&daemon, "--seconds 60");
    let written = |client: String| acknowledged(&daemon.path(&client)).len() >= 4;
    daemon.wait_for(PATIENCE, "it neither dies nor goes on", || {
        is_dead(&daemon) || (1..=TENANTS).map(guid).all(written)
    });
    daemon.kill9();
    all.into_iter().for_each(Workload::kill9);
    daemon.set_wrapper(Vec::new());
    daemon.restart();
    let all = writers(&daemon, "--transactions 2");
    all.into_iter().for_each(Workload::finish);
    assert_all_stored(&daemon);
    daemon.command(&["verify"], |_| {});
}
