//! Finds a mount that stands still: all of its threads wait for an answer that only they could give. Nothing ends that but
//! the end of the connection, which gives an error to whoever waits. No thread asks its own mount; this is for the case that
//! one does all the same.
//!
//! A thread that waits for a disk is none of it, however long that takes: the kernel says what a thread waits for. Where a
//! file system that is served by another process lies underneath, its answer could be what is waited for; then the mount
//! stands still only while nobody waits for any other.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::mountinfo::mounts_of;
use super::serving::Serving;

/// Where FUSE connections are shown, and can be aborted.
pub(super) const FUSE_CONTROL: &str = "/sys/fs/fuse/connections";

/// Between two looks while requests come in.
const PERIOD: Duration = Duration::from_secs(1);
/// As long as that all threads have to wait for one answer each.
const LIMIT: Duration = Duration::from_secs(5);

/// Functions of the kernel in which a thread sleeps for the answer of a FUSE file system.
const WAITS_FOR_ANSWER: [&str; 4] = [
    "request_wait_answer",
    "__fuse_simple_request",
    "__fuse_request_send",
    "fuse_simple_request",
];

/// The connection of one mount.
#[derive(Debug)]
pub(super) struct Connection {
    mountpoint: PathBuf,
    number: u32,
    /// Opened before anything can stand still.
    abort: Option<File>,
    /// Whether another FUSE file system may be underneath.
    is_upon_others: bool,
    /// Why it was aborted.
    aborted: Arc<OnceLock<String>>,
}

impl Connection {
    /// That of the mount with the device 0:`number`, over a watch path whose own file system is a FUSE one or not.
    pub fn new(
        mountpoint: &Path,
        watch_path: &Path,
        number: u32,
        is_fuse_underneath: bool,
        aborted: Arc<OnceLock<String>>,
    ) -> Self {
        let abort = File::options().write(true).open(
            Path::new(FUSE_CONTROL)
                .join(number.to_string())
                .join("abort"),
        );
        let abort = abort.inspect_err(|error| {
            tracing::debug!(%error, "A mount that stands still could not be aborted");
        });
        Self {
            mountpoint: mountpoint.to_owned(),
            number,
            abort: abort.ok(),
            is_upon_others: is_fuse_underneath || has_fuse_below(watch_path, number),
            aborted,
        }
    }

    /// Looks at the threads, of which there are so many, while requests come in and until the mount ends.
    pub fn watch(self, serving: Arc<Serving>, threads: usize) -> std::io::Result<JoinHandle<()>> {
        std::thread::Builder::new()
            .name("standstill".to_owned())
            .spawn(move || {
                let mut looks = Looks::default();
                while !serving.has_ended() {
                    if looks.waits.is_empty() {
                        serving.sleep_until_request();
                    }
                    std::thread::park_timeout(PERIOD);
                    looks.look(&serving);
                    if looks.is_standstill(threads) && self.is_waited_for_alone() {
                        self.end(&serving);
                        return;
                    }
                }
            })
    }

    /// Whether what is waited for must be an answer of this mount.
    fn is_waited_for_alone(&self) -> bool {
        let connections = fs::read_dir(FUSE_CONTROL).into_iter().flatten().flatten();
        let own = self.number.to_string();
        !self.is_upon_others
            || connections
                .filter(|other| other.file_name() != own.as_str())
                .all(|other| {
                    fs::read_to_string(other.path().join("waiting"))
                        .is_ok_and(|waiting| waiting.trim() == "0")
                })
    }

    fn end(&self, serving: &Serving) {
        let threads = serving.threads();
        let operations: Vec<_> = threads.iter().map(|thread| thread.operation()).collect();
        let (path, operations) = (self.mountpoint.display(), operations.join(", "));
        let Some(mut abort) = self.abort.as_ref() else {
            tracing::error!(%path, operations, "A defect: all threads of the mount wait for the mount itself; see `Clearing a hung mount` in docs/operations.md, and please report it");
            return;
        };
        tracing::error!(%path, operations, "A defect: all threads of the mount wait for the mount itself; its connection is aborted; please report it");
        let reason = format!("it waited for itself ({operations}), and was aborted");
        self.aborted.get_or_init(|| reason);
        if let Err(error) = abort.write_all(b"1") {
            tracing::error!(%path, %error, "The connection could not be aborted");
        }
    }
}

/// Whether another FUSE file system is mounted below a directory, by what the table of mounts says.
fn has_fuse_below(directory: &Path, own: u32) -> bool {
    mounts_of("self").unwrap_or_default().iter().any(|mount| {
        let is_fuse = mount.kind.starts_with("fuse") && mount.kind != "fusectl";
        let is_served = is_fuse || mount.kind == "virtiofs";
        is_served && mount.device != (0, own) && mount.path.starts_with(directory)
    })
}

/// A thread that waits for an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Wait {
    thread: u32,
    /// How often it had gone to sleep by then: the same number is the same wait.
    sleeps: u64,
    since: Instant,
}

/// The waits that the last look has found.
#[derive(Default)]
struct Looks {
    waits: Vec<Wait>,
}

impl Looks {
    fn look(&mut self, serving: &Serving) {
        let threads = serving.threads();
        let found = threads.iter().filter_map(|thread| waits(thread.id));
        self.waits = found.map(|wait| self.begun(wait)).collect();
    }

    /// The wait since it was first seen.
    fn begun(&self, wait: Wait) -> Wait {
        let same = |known: &&Wait| (known.thread, known.sleeps) == (wait.thread, wait.sleeps);
        self.waits.iter().find(same).copied().unwrap_or(wait)
    }

    fn is_standstill(&self, threads: usize) -> bool {
        let long = self
            .waits
            .iter()
            .filter(|wait| wait.since.elapsed() >= LIMIT);
        long.count() >= threads
    }
}

/// Whether a thread of this process waits for the answer of a FUSE file system.
fn waits(thread: u32) -> Option<Wait> {
    let place = fs::read_to_string(format!("/proc/self/task/{thread}/wchan")).ok()?;
    if !WAITS_FOR_ANSWER
        .iter()
        .any(|function| place.starts_with(function))
    {
        return None;
    }
    let status = fs::read_to_string(format!("/proc/self/task/{thread}/status")).ok()?;
    let sleeps = status
        .lines()
        .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
    Some(Wait {
        thread,
        sleeps: sleeps.trim().parse().ok()?,
        since: Instant::now(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_wait_of_each_thread_that_lasts_is_a_standstill() {
        let now = Instant::now();
        let wait = |thread, sleeps, since| Wait {
            thread,
            sleeps,
            since,
        };
        let Some(before) = now.checked_sub(LIMIT) else {
            return;
        };
        let mut looks = Looks {
            waits: vec![wait(1, 10, before), wait(2, 20, before)],
        };
        assert!(looks.is_standstill(2));
        assert!(
            !looks.is_standstill(3),
            "one has nothing to do, or waits for a disk"
        );
        assert_eq!(looks.begun(wait(1, 10, now)).since, before, "it goes on");
        looks.waits[1] = looks.begun(wait(2, 21, now));
        assert!(!looks.is_standstill(2), "one was answered in between");
    }

    #[test]
    fn a_thread_that_runs_waits_for_no_answer() {
        let own = rustix::thread::gettid()
            .as_raw_nonzero()
            .get()
            .unsigned_abs();
        assert_eq!(waits(own), None);
    }
}
