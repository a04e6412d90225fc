//! What a process takes: processor time, memory, descriptors, threads, as the kernel tells them.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

/// Processor time of all threads of a process so far, those that have ended too; in steps of 10 ms.
pub fn processor_time(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process runs");
    let (_, fields) = stat.rsplit_once(") ").expect("a name in brackets");
    // utime and stime are fields 14 and 15 of which these begin with the third.
    let ticks = fields.split(' ').skip(11).take(2);
    let ticks: u64 = ticks
        .map(|ticks| ticks.parse::<u64>().expect("a number"))
        .sum();
    Duration::from_secs(ticks) / ticks_per_second()
}

fn ticks_per_second() -> u32 {
    // SAFETY: sysconf only returns a number.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    u32::try_from(ticks).expect("a known setting")
}

/// Processor time of the calling thread, in the kernel and outside.
pub fn own_thread_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let seconds = u64::try_from(now.tv_sec).expect("not negative");
    Duration::new(seconds, u32::try_from(now.tv_nsec).expect("below a second"))
}

/// Memory in KiB (of shared pages all, or this process's share), descriptors and threads.
pub fn holdings(pid: u32) -> Value {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("its memory");
    let of = |name: &str| -> u64 {
        let line = rollup.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|line| line.split_whitespace().next());
        number.and_then(|number| number.parse().ok()).expect(name)
    };
    let entries = |dir: &str| {
        let entries = fs::read_dir(format!("/proc/{pid}/{dir}"));
        entries.expect("the process runs").count()
    };
    json!({
        "rss_kib": of("Rss:"),
        "pss_kib": of("Pss:"),
        "anonymous_kib": of("Anonymous:"),
        "descriptors": entries("fd"),
        "threads": entries("task"),
    })
}

/// Lets this process have as many open files as it may.
pub fn raise_open_files() {
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit)
        .expect("up to the hard limit");
}
