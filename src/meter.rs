//! Counters of the whole process: touched wherever something happens, read by the metrics. No lock, no allocation.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Transactions that were captured, of all databases.
pub static TRANSACTIONS_CAPTURED: Counter = Counter::new();
/// Gates that were passed before their capture had ended, or that were not seen at all.
pub static GATES_MISSED: Counter = Counter::new();
/// Commits that the store did not take in time, though they were to wait for it.
pub static DURABILITY_TIMEOUTS: Counter = Counter::new();
/// Databases' files that differed from their captured history.
pub static FOREIGN_CHANGES: Counter = Counter::new();
/// Requests to a mount of this process that it made itself, which it must not.
pub static OWN_REQUESTS: Counter = Counter::new();
/// Log lines that found no room, or that nobody took.
pub static LOG_LINES_DROPPED: Elsewhere = Elsewhere::new();
/// Bytes that wait on local disk.
pub static SPOOL_BYTES: Gauge = Gauge::new();
/// Requests of uploads that the store has not answered yet.
pub static UPLOADS_IN_FLIGHT: Gauge = Gauge::new();
/// From the first attempt to store something to its acknowledgement.
pub static SYNC_DURATION: Histogram<12> = Histogram::new([
    5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000,
    10_000_000, 30_000_000,
]);
/// From the arrival of a file operation to its answer.
pub static FILE_OPERATION_DURATION: Histogram<12> = Histogram::new([
    10, 50, 100, 500, 1_000, 5_000, 10_000, 50_000, 100_000, 500_000, 1_000_000, 5_000_000,
]);
pub static BYTES_SENT: Counter = Counter::new();
pub static BYTES_RECEIVED: Counter = Counter::new();

static FILE_OPERATIONS: [Counter; FileOperation::ALL.len()] =
    [const { Counter::new() }; FileOperation::ALL.len()];
static REQUESTS: [[Counter; RequestResult::ALL.len()]; Request::ALL.len()] =
    [const { [const { Counter::new() }; RequestResult::ALL.len()] }; Request::ALL.len()];

/// A number that only grows.
#[derive(Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Adds one; what it was before.
    pub fn count(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that grows where something else counts it.
pub struct Elsewhere(OnceLock<Box<dyn Fn() -> u64 + Send + Sync>>);

impl Elsewhere {
    pub const fn new() -> Self {
        Self(OnceLock::new())
    }

    /// The first that is named here is read, and no later one.
    pub fn read_from(&self, count: impl Fn() -> u64 + Send + Sync + 'static) {
        self.0.get_or_init(|| Box::new(count));
    }

    /// 0 while nothing counts.
    pub fn get(&self) -> u64 {
        self.0.get().map_or(0, |count| count())
    }
}

impl Default for Elsewhere {
    fn default() -> Self {
        Self::new()
    }
}

/// A number that goes up and down.
#[derive(Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    pub const fn new() -> Self {
        Self(AtomicI64::new(0))
    }

    pub fn add(&self, n: u64) {
        self.0.fetch_add(n as i64, Ordering::Relaxed);
    }

    pub fn subtract(&self, n: u64) {
        self.0.fetch_sub(n as i64, Ordering::Relaxed);
    }

    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Counts one for as long as what is returned lives.
    pub fn one(&'static self) -> One {
        self.add(1);
        One(self)
    }
}

/// One of a gauge.
pub struct One(&'static Gauge);

impl Drop for One {
    fn drop(&mut self) {
        self.0.subtract(1);
    }
}

/// How often something took how long.
pub struct Histogram<const N: usize> {
    /// Microseconds, ascending.
    bounds: [u64; N],
    /// How often it took up to the bound, and more than the one before.
    buckets: [Counter; N],
    longer: Counter,
    sum_us: Counter,
}

/// What a histogram shows.
#[derive(Clone, PartialEq, Debug)]
pub struct Distribution {
    /// Seconds, and how often it took no longer.
    pub up_to: Vec<(f64, u64)>,
    pub count: u64,
    /// Seconds.
    pub sum: f64,
}

impl<const N: usize> Histogram<N> {
    /// `bounds` are microseconds, ascending.
    pub const fn new(bounds: [u64; N]) -> Self {
        Self {
            bounds,
            buckets: [const { Counter::new() }; N],
            longer: Counter::new(),
            sum_us: Counter::new(),
        }
    }

    pub fn observe(&self, took: Duration) {
        let us = took.as_micros() as u64;
        let place = self.bounds.partition_point(|bound| *bound < us);
        self.buckets.get(place).unwrap_or(&self.longer).add(1);
        self.sum_us.add(us);
    }

    pub fn read(&self) -> Distribution {
        let mut count = 0;
        let up_to = self
            .bounds
            .iter()
            .zip(&self.buckets)
            .map(|(bound, bucket)| {
                count += bucket.get();
                (*bound as f64 / 1e6, count)
            });
        let up_to = up_to.collect();
        Distribution {
            up_to,
            count: count + self.longer.get(),
            sum: self.sum_us.get() as f64 / 1e6,
        }
    }
}

/// Declares an enumeration whose variants have a name for the metrics.
macro_rules! named {
    ($(#[$doc:meta])* $type:ident { $($variant:ident = $name:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum $type {
            $($variant,)*
        }

        impl $type {
            pub const ALL: &'static [$type] = &[$($type::$variant,)*];

            /// The word that metrics and logs use.
            pub fn name(self) -> &'static str {
                match self {
                    $($type::$variant => $name,)*
                }
            }
        }
    };
}

named! {
    /// What is asked of a store.
    Request {
        Put = "put",
        Get = "get",
        GetRange = "get_range",
        List = "list",
        ListFolders = "list_folders",
        Delete = "delete",
    }
}

named! {
    /// How the store answered.
    RequestResult {
        Ok = "ok",
        NotFound = "not_found",
        Denied = "denied",
        ClockSkew = "clock_skew",
        Throttled = "throttled",
        Unavailable = "unavailable",
        Failed = "failed",
    }
}

impl Request {
    pub fn count(self, result: RequestResult) {
        REQUESTS[self as usize][result as usize].add(1);
    }

    pub fn counted(self, result: RequestResult) -> u64 {
        REQUESTS[self as usize][result as usize].get()
    }
}

named! {
    /// What an application asks of the mount.
    FileOperation {
        Lookup = "lookup",
        Forget = "forget",
        GetAttributes = "getattr",
        SetAttributes = "setattr",
        ReadLink = "readlink",
        MakeNode = "mknod",
        MakeDirectory = "mkdir",
        SymbolicLink = "symlink",
        Link = "link",
        Unlink = "unlink",
        RemoveDirectory = "rmdir",
        Rename = "rename",
        Open = "open",
        Create = "create",
        Read = "read",
        Write = "write",
        Flush = "flush",
        Release = "release",
        Synchronize = "fsync",
        OpenDirectory = "opendir",
        ReadDirectory = "readdir",
        ReadDirectoryPlus = "readdirplus",
        ReleaseDirectory = "releasedir",
        SynchronizeDirectory = "fsyncdir",
        Statistics = "statfs",
        SetExtendedAttribute = "setxattr",
        GetExtendedAttribute = "getxattr",
        ListExtendedAttributes = "listxattr",
        RemoveExtendedAttribute = "removexattr",
        Control = "ioctl",
        Allocate = "fallocate",
        Seek = "lseek",
        CopyRange = "copy_file_range",
    }
}

impl FileOperation {
    /// Counts it, with the time until what is returned is dropped.
    pub fn begin(self) -> Timed {
        Timed {
            operation: self,
            begun: Instant::now(),
        }
    }

    pub fn counted(self) -> u64 {
        FILE_OPERATIONS[self as usize].get()
    }
}

/// A file operation that is under way.
pub struct Timed {
    operation: FileOperation,
    begun: Instant,
}

impl Timed {
    pub fn name(&self) -> &'static str {
        self.operation.name()
    }
}

impl Drop for Timed {
    fn drop(&mut self) {
        FILE_OPERATIONS[self.operation as usize].add(1);
        FILE_OPERATION_DURATION.observe(self.begun.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_counts_up_to_each_bound() {
        let histogram = Histogram::new([10, 1_000]);
        for us in [0, 10, 11, 1_000, 1_001, 5_000_000] {
            histogram.observe(Duration::from_micros(us));
        }
        let read = histogram.read();
        assert_eq!(read.up_to, [(0.000_01, 2), (0.001, 4)]);
        assert_eq!(read.count, 6);
        assert!((read.sum - 5.002_022).abs() < 1e-9, "{}", read.sum);
    }

    #[test]
    fn what_is_counted_elsewhere_is_read_there() {
        static ELSEWHERE: Elsewhere = Elsewhere::new();
        static COUNTER: Counter = Counter::new();
        COUNTER.add(3);
        assert_eq!(ELSEWHERE.get(), 0);
        ELSEWHERE.read_from(|| COUNTER.get());
        assert_eq!(ELSEWHERE.get(), 3);
        COUNTER.add(1);
        assert_eq!(ELSEWHERE.get(), 4);
    }

    #[test]
    fn what_is_under_way_is_counted_while_it_lasts() {
        static GAUGE: Gauge = Gauge::new();
        let one = GAUGE.one();
        GAUGE.add(4);
        assert_eq!(GAUGE.get(), 5);
        drop(one);
        assert_eq!(GAUGE.get(), 4);
    }

    #[test]
    fn a_file_operation_is_counted_at_its_end() {
        let before = FileOperation::Control.counted();
        let timed = FileOperation::Control.begin();
        assert_eq!(timed.name(), "ioctl");
        assert_eq!(FileOperation::Control.counted(), before);
        drop(timed);
        assert_eq!(FileOperation::Control.counted(), before + 1);
    }
}
