//! File operations that wait for their capture, and those of them whose database is being worked on: they wait here, and not
//! in a worker that others need.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::Proceed;
use super::database::{Database, locked};
use super::gate::{Gate, Passing};
use super::once::Once;

/// How often it is asked whether the work is done.
pub(super) const PARKED: Duration = Duration::from_millis(1);

/// What a file operation waits for: whoever comes first carries it out, the worker or the time limit.
#[derive(Clone)]
pub(super) struct Held {
    pub db: Arc<Database>,
    pub proceed: Once<(Proceed, Passing)>,
    pub deadline: Instant,
}

impl Held {
    /// Whether it was carried out, by its time limit.
    pub fn is_over(&self) -> bool {
        self.proceed.is_taken()
    }

    /// Carries the operation out, once. Returns false where that was done already.
    pub fn go(&self) -> bool {
        match self.proceed.take() {
            Some((proceed, passing)) => {
                proceed(passing);
                true
            }
            None => false,
        }
    }
}

/// Of a thread that reads whole databases.
const NICENESS: i32 = 10;

/// This thread reads whole databases: whoever waits for a gate comes first, also on a machine with few processors.
pub(super) fn yield_to_others() {
    // Of the calling thread alone.
    if let Err(error) = rustix::process::setpriority_process(None, NICENESS) {
        tracing::debug!(%error, "Comparisons have the priority of everything else");
    }
}

/// At most as many as gates are queued. Their time limits are watched elsewhere.
#[derive(Default)]
pub(super) struct Parked(Mutex<VecDeque<(Held, Gate, Instant)>>);

impl Parked {
    /// Its database's history is taken: it is tried again in a moment.
    pub fn park(&self, held: Held, gate: Gate) {
        locked(&self.0).push_back((held, gate, Instant::now() + PARKED));
    }

    /// The first that is to be tried again now. Those that their time limit has let pass are forgotten.
    pub fn take_due(&self, now: Instant) -> Option<(Held, Gate)> {
        let mut parked = locked(&self.0);
        while parked.front().is_some_and(|(held, ..)| held.is_over()) {
            parked.pop_front();
        }
        let is_due = parked.front().is_some_and(|(_, _, due)| *due <= now);
        if !is_due {
            return None;
        }
        let (held, gate, _) = parked.pop_front()?;
        Some((held, gate))
    }

    pub fn is_empty(&self) -> bool {
        locked(&self.0).is_empty()
    }
}
