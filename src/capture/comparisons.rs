//! What a database without a log has for the comparisons of its file: what was written of it, and whose turn it is.

use std::sync::{Arc, MutexGuard};
use std::time::Instant;

use super::database::{Database, locked};
use super::turns::Turn;
use super::writes::Writes;

impl Database {
    pub(super) fn writes(&self) -> MutexGuard<'_, Writes> {
        locked(&self.writes)
    }

    pub(super) fn turn(&self) -> MutexGuard<'_, Turn> {
        locked(&self.turn)
    }

    /// Whether the next transaction with a rollback journal has to pass `Capture::transaction_begins`.
    pub fn wants_its_turn(self: &Arc<Self>) -> bool {
        self.newest().turn().is_wanted(Instant::now())
    }

    /// The whole file is going to be read; what is written from now on is counted where all of it is seen.
    pub(super) fn begin_whole(&self) {
        let handles = self.lock_handles();
        self.writes().begin_whole(handles.all_writes_are_seen());
    }
}
