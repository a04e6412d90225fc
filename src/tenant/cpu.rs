//! The processor time that is spent for one database, where its tenant's is limited.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Processor time, added up over threads.
#[derive(Debug, Default)]
pub struct CpuTime(AtomicU64);

impl CpuTime {
    pub fn spent(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }

    /// Adds what this thread spends in `work`.
    pub fn of<T>(&self, work: impl FnOnce() -> T) -> T {
        let begun = thread_nanos();
        let done = work();
        self.add_since(begun);
        done
    }

    /// Adds what is spent whenever the future is polled, on whichever thread.
    pub async fn of_future<F: Future>(&self, future: F) -> F::Output {
        let mut future = pin!(future);
        poll_fn(|context| self.of(|| future.as_mut().poll(context))).await
    }

    fn add_since(&self, begun: u64) {
        let spent = thread_nanos().saturating_sub(begun);
        self.0.fetch_add(spent, Ordering::Relaxed);
    }
}

fn thread_nanos() -> u64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// How long something that spent so much processor time has to have taken where it may use `percent` of one core.
fn least_duration(spent: Duration, percent: u64) -> Duration {
    spent.saturating_mul(100) / u32::try_from(percent.max(1)).unwrap_or(u32::MAX)
}

/// Keeps what is done round by round to a share of one core. What was spent between two rounds counts for the later one.
#[derive(Debug)]
pub struct Pace {
    counted: Duration,
}

impl Pace {
    /// `spent`: until now, which counts for no round.
    pub fn begin(spent: Duration) -> Self {
        Self { counted: spent }
    }

    /// How long the round has to have taken that ends now.
    pub fn least_duration(&mut self, spent: Duration, percent: u64) -> Duration {
        let counted = std::mem::replace(&mut self.counted, spent);
        least_duration(spent.saturating_sub(counted), percent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_spent_between_two_rounds_counts() {
        let second = Duration::from_secs(1);
        let mut pace = Pace::begin(5 * second);
        assert_eq!(pace.least_duration(6 * second, 10), 10 * second);
        // One more in the round, after one before it.
        assert_eq!(pace.least_duration(8 * second, 10), 20 * second);
        assert_eq!(pace.least_duration(8 * second, 10), Duration::ZERO);
    }

    #[test]
    fn only_work_counts() {
        let time = CpuTime::default();
        let begun = std::time::Instant::now();
        time.of(|| while begun.elapsed() < Duration::from_millis(20) {});
        let spent = time.spent();
        assert!(
            spent > Duration::ZERO && spent <= begun.elapsed(),
            "{spent:?}"
        );
        time.of(|| std::thread::park_timeout(Duration::from_millis(20)));
        assert!(time.spent() - spent < Duration::from_millis(15));
    }

    #[test]
    fn a_tenth_of_a_core_takes_ten_times_as_long() {
        let second = Duration::from_secs(1);
        assert_eq!(least_duration(second, 10), 10 * second);
        assert_eq!(least_duration(second, 200), second / 2);
    }
}
