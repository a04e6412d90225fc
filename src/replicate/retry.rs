//! How long to wait before something is tried again.

use std::time::Duration;

/// Doubles from `first` to `most`, and takes a random part off, so that many do not come back at once.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    pub fn new(first: Duration, most: Duration) -> Self {
        Self {
            first,
            most,
            next: first,
        }
    }

    /// The next pause; `random` is any number.
    pub fn pause(&mut self, random: u64) -> Duration {
        let whole = self.next;
        self.next = (whole * 2).min(self.most);
        // Between half of it and all of it.
        let part = (random % 512) as u32;
        whole - whole * part / 1024
    }

    /// It worked: the next failure begins anew.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_differ() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        let pauses: Vec<_> = (0..6).map(|_| backoff.pause(0).as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1000, 1000]);
        assert_eq!(backoff.pause(511).as_millis(), 500);
        backoff.reset();
        assert_eq!(backoff.pause(512).as_millis(), 100);
    }
}
