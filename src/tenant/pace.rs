//! How fast a tenant may go: so many units a second, with one second's worth at once after a rest. Pure.

use std::time::{Duration, Instant};

/// What may be saved up in a rest.
const BURST: Duration = Duration::from_secs(1);

/// The pace of one kind of unit.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    /// When all that was taken is paid for.
    paid_at: Option<Instant>,
}

impl Pace {
    /// Takes `units`, and says from when on they may be used. More than a second's worth is taken whole, and paid for
    /// by those that come after it.
    pub fn take(&mut self, now: Instant, units: u64, per_second: u64) -> Instant {
        let rested = now.checked_sub(BURST).unwrap_or(now);
        let from = self.paid_at.map_or(rested, |paid_at| paid_at.max(rested));
        let nanos = u128::from(units) * 1_000_000_000 / u128::from(per_second.max(1));
        let cost = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.paid_at = Some(from + cost);
        from.max(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_is_free_and_then_each_unit_takes_its_time() {
        let start = Instant::now();
        let mut pace = Pace::default();
        let times: Vec<_> = (0..8).map(|_| pace.take(start, 1, 4) - start).collect();
        let quarters = |n: u64| Duration::from_millis(250 * n);
        assert_eq!(times[..5], [Duration::ZERO; 5]);
        assert_eq!(times[5..], [quarters(1), quarters(2), quarters(3)]);
        let later = start + Duration::from_secs(60);
        assert_eq!(pace.take(later, 1, 4), later, "nothing is owed for ever");
    }

    #[test]
    fn what_is_larger_than_a_second_goes_whole_and_holds_up_the_next() {
        let start = Instant::now();
        let mut pace = Pace::default();
        assert_eq!(pace.take(start, 100, 10), start);
        assert_eq!(pace.take(start, 1, 10) - start, Duration::from_secs(9));
    }
}
