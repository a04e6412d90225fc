//! Lets the comparison of a database with a rollback journal have its turn where it is written without a pause: the write
//! that makes the next transaction's journal hot, which comes before its first page, is held until the comparison is done.
//!
//! It waits for `mount.gateTimeout` at most. Whoever was held in vain is left alone for a while, and each time for longer.
//! Without locks, and without a clock of its own.

use std::time::{Duration, Instant};

use super::once::Once;

/// A comparison that takes long asks for its turn when it was disturbed for so long; one of a few pages asks at once.
const PATIENCE: Duration = Duration::from_secs(5);
const MOST_PATIENCE: Duration = Duration::from_secs(600);
/// A turn that was asked for has to be asked for again after so long: whoever wants it looks more often than that.
const WANTED_FOR: Duration = Duration::from_secs(2);

/// Carries a write out, and answers it.
pub type Write = Box<dyn FnOnce() + Send>;

/// A write that waits: whoever comes first carries it out, the comparison's end or the time limit.
#[derive(Clone)]
pub(super) struct HeldWrite {
    write: Once<Write>,
    pub deadline: Instant,
}

impl std::fmt::Debug for HeldWrite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HeldWrite").finish_non_exhaustive()
    }
}

impl HeldWrite {
    pub fn new(write: Write, deadline: Instant) -> Self {
        Self {
            write: Once::new(write),
            deadline,
        }
    }

    /// Carries it out, once. Returns false where that was done already.
    pub fn go(&self) -> bool {
        match self.write.take() {
            Some(write) => {
                write();
                true
            }
            None => false,
        }
    }

    pub fn is_over(&self) -> bool {
        self.write.is_taken()
    }
}

/// Whose turn it is.
#[derive(Debug, Default)]
pub(super) struct Turn {
    disturbed_since: Option<Instant>,
    patience: Duration,
    wanted_until: Option<Instant>,
    held: Option<HeldWrite>,
}

impl Turn {
    /// A comparison was disturbed.
    pub fn want(&mut self, takes_long: bool, now: Instant) {
        let least = if takes_long { PATIENCE } else { Duration::ZERO };
        let since = *self.disturbed_since.get_or_insert(now);
        if now - since >= self.patience.max(least) {
            self.wanted_until = Some(now + WANTED_FOR);
        }
    }

    pub fn is_wanted(&self, now: Instant) -> bool {
        self.wanted_until.is_some_and(|until| now < until)
    }

    /// Keeps a write back where the turn is wanted; once. False where it has to go on.
    pub fn hold(&mut self, write: &HeldWrite, now: Instant) -> bool {
        let is_wanted = self.is_wanted(now) && self.held.is_none();
        self.wanted_until = None;
        if is_wanted {
            self.held = Some(write.clone());
        }
        is_wanted
    }

    /// Whether a writer is held that has not changed the file yet.
    pub fn holds(&self) -> bool {
        self.held.as_ref().is_some_and(|held| !held.is_over())
    }

    /// Nothing is compared any more. Gives the write that waits for that.
    pub fn end(&mut self) -> Option<HeldWrite> {
        self.wanted_until = None;
        self.held.take()
    }

    /// The file was compared: the same, and the next one need not be patient.
    pub fn compared(&mut self) -> Option<HeldWrite> {
        self.disturbed_since = None;
        self.patience = Duration::ZERO;
        self.end()
    }

    /// A write was held for as long as may be, and in vain.
    pub fn was_in_vain(&mut self, now: Instant) {
        self.held = None;
        self.disturbed_since = Some(now);
        self.patience = (self.patience * 2).clamp(PATIENCE, MOST_PATIENCE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(now: Instant) -> HeldWrite {
        HeldWrite::new(Box::new(|| {}), now + Duration::from_secs(1))
    }

    #[test]
    fn a_write_is_held_once_for_each_time_that_the_turn_is_asked_for() {
        let now = Instant::now();
        let mut turn = Turn::default();
        assert!(!turn.hold(&write(now), now), "nobody wants it");
        turn.want(false, now);
        let first = write(now);
        assert!(turn.hold(&first, now));
        assert!(!turn.hold(&write(now), now));
        assert!(turn.compared().is_some_and(|held| held.go()));
        assert!(!first.go(), "it is carried out once");
        turn.want(false, now);
        assert!(
            !turn.hold(&write(now), now + WANTED_FOR),
            "nobody comes back"
        );
        turn.want(false, now);
        assert!(turn.end().is_none());
        assert!(!turn.hold(&write(now), now));
    }

    #[test]
    fn what_takes_long_asks_late_and_after_a_vain_hold_later() {
        let (now, mut turn) = (Instant::now(), Turn::default());
        turn.want(true, now);
        assert!(!turn.is_wanted(now));
        let then = now + PATIENCE;
        turn.want(true, then);
        assert!(turn.hold(&write(then), then));
        turn.was_in_vain(then);
        turn.want(false, then + PATIENCE / 2);
        assert!(!turn.is_wanted(then + PATIENCE / 2));
        for _ in 0..20 {
            turn.was_in_vain(then);
        }
        turn.want(false, then + MOST_PATIENCE);
        assert!(turn.is_wanted(then + MOST_PATIENCE), "but not never");
        assert!(turn.compared().is_none());
        turn.want(false, then);
        assert!(turn.is_wanted(then));
    }
}
