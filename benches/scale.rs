//! Many databases below one mount: what those cost that nobody touches, how long a start, a registration and a listing
//! take, and what a thousand take that are written at once.
//!
//! This process and the programs that it starts are the application; the daemon is another one, and replicates to a
//! directory. Listings are compared with those of a plain directory of the same names, in turns; medians are printed.
//! `cargo bench --bench scale -- 1000` measures with that number alone.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

#[path = "../tests/support/mod.rs"]
#[allow(dead_code, reason = "most of it is the tests'")]
mod support;

use support::daemon::{Daemon, guid, names};
use support::process::example;
use support::scale::{LIMITS, Vitals, add_databases, make_known, prepare, store_requests};

const SIZES: [u32; 2] = [1_000, 10_000];
const STARTS: usize = 5;
const LISTINGS: usize = 11;
const REGISTRATIONS: u32 = 50;
/// After a start, until what it needed is given back; and after anything else.
const SETTLE: Duration = Duration::from_secs(8);
const SETTLE_LATER: Duration = Duration::from_secs(65);
const QUIET: Duration = Duration::from_secs(60);
const ACTIVE: u32 = 1_000;
const ACTIVE_FOR: Duration = Duration::from_secs(30);

fn main() {
    // Minutes later it would be missed as well.
    drop(application());
    let chosen: Vec<u32> = std::env::args()
        .filter_map(|word| word.parse().ok())
        .collect();
    let sizes = match chosen.as_slice() {
        [] => SIZES.to_vec(),
        _ => chosen,
    };
    let mut taken: BTreeMap<&'static str, Vec<(u32, u64)>> = BTreeMap::new();
    for databases in sizes {
        println!("{databases} databases");
        for (when, bytes) in measure(databases) {
            taken.entry(when).or_default().push((databases, bytes));
        }
    }
    for (when, bytes) in taken {
        if let [(few, less), .., (many, more)] = bytes.as_slice() {
            let each = (*more as f64 - *less as f64) / f64::from(many - few);
            println!("each further one, {when}: {each:.0} bytes");
        }
    }
}

/// Prints all of it, and gives the memory of the process at several moments.
fn measure(databases: u32) -> Vec<(&'static str, u64)> {
    let mut daemon = prepare(Duration::from_secs(1_800));
    add_databases(&daemon, 0..databases);
    add_plain_files(&daemon.data(), databases);
    let plain = daemon.path("plain");
    fs::create_dir(&plain).expect("a directory");
    add_plain_files(&plain, databases);
    for number in 0..databases {
        File::create(plain.join(format!("{}.db", guid(number)))).expect("made");
    }
    make_known(&mut daemon, databases);

    let mut starts: Vec<f64> = (0..STARTS)
        .map(|_| {
            let took = start(&mut daemon);
            assert!(daemon.terminate().success());
            took
        })
        .collect();
    print("start, until it is ready", "s", &mut starts);
    start(&mut daemon);
    let first = list_in_turns(&daemon.data(), &plain, 1);
    println!(
        "  first listing after a start: {:.2} times as long as in a plain directory",
        first
    );
    println!(
        "  further ones: {:.2} times",
        list_in_turns(&daemon.data(), &plain, LISTINGS)
    );
    let listed = vitals("once all were listed", &daemon, SETTLE_LATER);
    assert!(daemon.terminate().success());
    daemon.configure(format!("{LIMITS}mount: {{accessControlLists: always}}\n"));
    start(&mut daemon);
    println!(
        "  with access control lists: {:.2} times",
        list_in_turns(&daemon.data(), &plain, LISTINGS)
    );
    assert!(daemon.terminate().success());
    daemon.configure(LIMITS.to_owned());
    start(&mut daemon);
    let known = vitals("known, and nobody touches them", &daemon, SETTLE);
    idle(&daemon);
    register(&daemon, databases);
    drop(daemon.download("/api/health/clients"));
    let told = vitals("once the API has told of all", &daemon, SETTLE_LATER);
    write_at_once(&daemon, databases.min(ACTIVE));
    let written = vitals("after that", &daemon, SETTLE_LATER);
    vec![
        ("known", known),
        ("once listed", listed),
        ("once told of", told),
        ("once written", written),
    ]
}

/// Two beside each database.
fn add_plain_files(directory: &Path, databases: u32) {
    for number in 0..databases {
        for ending in ["json", "txt"] {
            let path = directory.join(format!("{}.{ending}", guid(number)));
            File::create(path).expect("made");
        }
    }
}

/// Seconds until it was ready.
fn start(daemon: &mut Daemon) -> f64 {
    let begun = Instant::now();
    daemon.restart();
    begun.elapsed().as_secs_f64()
}

fn vitals(when: &str, daemon: &Daemon, settle: Duration) -> u64 {
    std::thread::sleep(settle);
    let vitals = Vitals::of(daemon.pid());
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    println!(
        "  {when}: {:.1} MB, of which its own {:.1} MB; {} descriptors, {} threads",
        megabytes(proportional(daemon)),
        megabytes(vitals.anonymous),
        vitals.descriptors,
        vitals.threads()
    );
    vitals.anonymous
}

/// Bytes of the process, with its share of what it has in common with others.
fn proportional(daemon: &Daemon) -> u64 {
    let path = format!("/proc/{}/smaps_rollup", daemon.pid());
    let rollup = fs::read_to_string(path).expect("it runs");
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next());
    let kilobytes: u64 = kilobytes.expect("a line").parse().expect("a number");
    kilobytes * 1024
}

fn idle(daemon: &Daemon) {
    let (requests, before) = (store_requests(daemon), Vitals::of(daemon.pid()));
    std::thread::sleep(QUIET);
    let after = Vitals::of(daemon.pid());
    println!(
        "  in {} s of that: {} wake-ups, {:.2} s of processor time, {} requests to the store",
        QUIET.as_secs(),
        after.wake_ups_since(&before),
        (after.processor_ticks - before.processor_ticks) as f64 / 100.0,
        store_requests(daemon) - requests
    );
}

/// The median of how much longer `ls -l` takes in the one than in the other, of so many rounds.
fn list_in_turns(mount: &Path, plain: &Path, rounds: usize) -> f64 {
    let list = |directory: &Path| {
        let begun = Instant::now();
        let listed = Command::new("ls")
            .arg("-l")
            .arg(directory)
            .stdout(Stdio::null())
            .status();
        assert!(listed.expect("it runs").success());
        begun.elapsed().as_secs_f64()
    };
    // Its own files are in the page cache then.
    list(Path::new("/"));
    list(plain);
    median(
        &mut (0..rounds)
            .map(|_| list(mount) / list(plain))
            .collect::<Vec<_>>(),
    )
}

/// New databases, each made when the one before is in the store.
fn register(daemon: &Daemon, databases: u32) {
    let (mut registered, mut stored) = (Vec::new(), Vec::new());
    for number in databases..databases + REGISTRATIONS {
        let client = guid(number);
        let begun = Instant::now();
        // It is registered before its maker goes on.
        File::create_new(daemon.database(&client)).expect("made");
        registered.push(begun.elapsed().as_secs_f64() * 1e3);
        support::sqlite::query(&daemon.database(&client), "CREATE TABLE t (x)");
        let begun = Instant::now();
        let snapshots = daemon
            .path("store/databases")
            .join(&client)
            .join("snapshots");
        while !snapshots.exists() || names(&snapshots).is_empty() {
            std::thread::sleep(Duration::from_millis(1));
        }
        stored.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    print("registration of a new one", "ms", &mut registered);
    print(
        "from its first commit to its first object",
        "ms",
        &mut stored,
    );
}

/// What writes to many at once; it has to be built already.
fn application() -> Command {
    example("many_tenants")
}

/// One commit a second in each of so many.
fn write_at_once(daemon: &Daemon, databases: u32) {
    let acks = daemon.path("acks");
    fs::create_dir(&acks).expect("a directory");
    let mut application = application()
        .arg(daemon.data())
        .arg("--acks")
        .arg(acks)
        .arg("--times")
        .arg(daemon.path("times"))
        .args(["--pause-ms", "1000", "--databases", &databases.to_string()])
        .args(["--seconds", &(3 * ACTIVE_FOR.as_secs()).to_string()])
        .spawn()
        .expect("it starts");
    std::thread::sleep(ACTIVE_FOR);
    let (before, begun) = (Vitals::of(daemon.pid()), Instant::now());
    std::thread::sleep(ACTIVE_FOR);
    let (after, took) = (Vitals::of(daemon.pid()), begun.elapsed().as_secs_f64());
    let mut lags: Vec<f64> = Vec::new();
    for _ in 0..10 {
        let (_, health) = daemon.get("/api/health/clients");
        let clients = health["clients"].as_array().expect("a list");
        let lag = |client: &serde_json::Value| client["replicationLagMs"].as_f64();
        let active = clients
            .iter()
            .filter(|client| client["txid"].as_u64() > Some(3));
        lags.extend(active.filter_map(lag));
        std::thread::sleep(Duration::from_millis(700));
    }
    assert!(application.wait().expect("a child of ours").success());
    lags.sort_by(f64::total_cmp);
    println!(
        "  {databases} at once, a commit a second each: {:.0} % of a processor, {:.1} MB, {} descriptors, {} threads; lag p50 {:.0} ms, p99 {:.0} ms, most {:.0} ms",
        (after.processor_ticks - before.processor_ticks) as f64 / took,
        proportional(daemon) as f64 / 1e6,
        after.descriptors,
        after.threads(),
        lags[lags.len() / 2],
        lags[lags.len() * 99 / 100],
        lags[lags.len() - 1],
    );
}

fn print(what: &str, unit: &str, values: &mut [f64]) {
    let median = median(values);
    let most = values[values.len() - 1];
    println!("  {what}: {median:.2} {unit}, at most {most:.2}");
}

/// The values are sorted then.
fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
