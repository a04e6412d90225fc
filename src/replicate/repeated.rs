//! How often the same thing is said: the first times at once, then at a bounded rate, with how many were left out.

use std::time::{Duration, Instant};

/// Lines that may come at once after a quiet time.
const AT_ONCE: u32 = 20;
/// One more may come after each of these.
const PAUSE: Duration = Duration::from_secs(1);

/// What has been said of one thing. Pure: the caller tells the time.
#[derive(Debug)]
pub(super) struct Repeated {
    allowed: u32,
    /// Since when `allowed` is what it is.
    since: Instant,
    left_out: u64,
}

impl Repeated {
    pub fn new(now: Instant) -> Self {
        Self {
            allowed: AT_ONCE,
            since: now,
            left_out: 0,
        }
    }

    /// Whether it may be said at `now`, and then how often it was left out since it was said last.
    pub fn say(&mut self, now: Instant) -> Option<u64> {
        let pauses = now.saturating_duration_since(self.since).as_secs() / PAUSE.as_secs();
        if pauses > 0 {
            let more = u32::try_from(pauses).unwrap_or(AT_ONCE);
            self.allowed = self.allowed.saturating_add(more).min(AT_ONCE);
            self.since = now;
        }
        if self.allowed == 0 {
            self.left_out += 1;
            return None;
        }
        self.allowed -= 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_of_thousands_is_a_few_lines() {
        let begun = Instant::now();
        let mut failures = Repeated::new(begun);
        let said: Vec<_> = (0..10_000).map(|_| failures.say(begun)).collect();
        assert!(said[..20].iter().all(|said| *said == Some(0)));
        assert!(said[20..].iter().all(Option::is_none));

        let later = begun + Duration::from_millis(2_500);
        assert_eq!(failures.say(later), Some(9_980));
        assert_eq!(failures.say(later), Some(0));
        assert_eq!(failures.say(later), None);
        let much_later = later + Duration::from_secs(1 << 40);
        assert_eq!(failures.say(much_later), Some(1));
        let more = (0..100).filter_map(|_| failures.say(much_later)).count();
        assert_eq!(more, 19, "no more than at first");
    }
}
