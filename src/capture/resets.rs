//! Logs that the kernel passes through begin anew unseen: whether that was in order, and what is done where it was not.
//!
//! SQLite resets a log only when a checkpoint was complete and nothing was committed since. Each complete checkpoint is a
//! gate, so that whatever stood in the log then is captured. Beside that the live connections count their commits, which
//! tells of those that went with a log before anybody has looked at them.

use super::Shared;
use super::authority::{Counted, Index};
use super::database::Database;
use super::drain::Next;
use super::error::CaptureError;
use super::files::{Log, open_log};
use super::gate::Gate;
use super::history::History;
use super::mark::WalMark;
use super::whole_log::committed;
use crate::format::wal::{HEADER_SIZE, Salt, WalHeader};
use crate::meter;
use crate::tenant::roster::Status;

/// The end of what is committed in a log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogEnd {
    pub(super) salt: Salt,
    pub(super) offset: u64,
}

impl LogEnd {
    pub fn of(place: &WalMark) -> Self {
        Self {
            salt: place.salt,
            offset: place.position.offset,
        }
    }
}

/// The last log that was cut to nothing or removed, and how often that was done to an empty one since.
#[derive(Clone, Copy, Default, Debug)]
pub struct Emptied {
    pub(super) last: Option<Salt>,
    pub(super) since: u32,
}

impl History {
    /// Whether nothing was captured since a complete checkpoint, or nothing is committed in the log at all: then it may
    /// begin anew without a word.
    pub(super) fn may_begin_anew(&self) -> bool {
        let place = self.mark.and_then(|mark| mark.wal);
        place.is_some_and(|place| {
            let is_empty = place.position.offset == HEADER_SIZE && self.has_found_place;
            is_empty || self.complete == Some(LogEnd::of(&place))
        })
    }

    /// Where `gate` is a complete checkpoint: notes the end of the log, after a look that leaves `next` to do.
    pub(super) fn note_complete(
        &mut self,
        db: &Database,
        shared: &Shared,
        gate: Option<Gate>,
        next: Next,
    ) -> Result<(), CaptureError> {
        if !db.ends_unseen(gate) {
            return Ok(());
        }
        self.was_unguarded = false;
        match next {
            Next::Nothing | Next::LookAgain => {
                self.spool_all(shared)?;
                let place = self.mark.and_then(|mark| mark.wal);
                self.complete = place.map(|place| LogEnd::of(&place));
            }
            // What is in the log is in the file too, and in the image that has to come.
            Next::Image => {
                let Log::Valid(mut log) = open_log(db, shared)? else {
                    return Ok(());
                };
                if let Some(said) = committed(db, shared, &mut log, true)? {
                    let last = said.transactions.last();
                    self.complete = last.map(|last| LogEnd::of(&log.mark_at(last.end)));
                }
            }
            Next::Unknown => {}
        }
        Ok(())
    }

    /// The count of a database without a log: all that was committed is in its file.
    pub(super) fn count_without_log(
        db: &Database,
        shared: &Shared,
    ) -> Result<Counted, CaptureError> {
        let number = db.index_number();
        let index = db.index(&shared.backing);
        let change = match index.map_err(CaptureError::io("read the wal-index"))? {
            Index::Live(index) => Some(index.change),
            Index::Absent => Some(0),
            Index::Unreadable => None,
        };
        Ok(Counted {
            index: number,
            change,
        })
    }

    /// So many commits are captured now. Where the wal-index speaks of another log already, they are added to what it had
    /// counted before.
    pub(super) fn note_count(&mut self, counted: Counted, captured: usize) {
        if counted.change.is_none() && captured == 0 {
            return;
        }
        let is_same = counted.index == self.seen_count.index;
        let before = self.seen_count.change.filter(|_| is_same);
        let added = before.map(|before| before.wrapping_add(captured as u32));
        self.seen_count = Counted {
            index: counted.index,
            change: counted.change.or(added),
        };
    }

    /// Whether more was committed since the newest captured commit than the `found` transactions of another log, of which
    /// the live connections speak `now`. A recovery begins their count anew.
    pub(super) fn is_reset_missed(&self, db: &Database, now: Counted, found: usize) -> bool {
        let (Some(committed), Some(all)) = (now.since(self.seen_count), now.change) else {
            return false;
        };
        db.is_log_passed() && committed as usize != found && all as usize > found
    }

    /// Whether commits that nobody has looked at may have come and gone between the log with the salt `before` and the one
    /// with this header, in a log of their own or at the end of that one: neither does the header tell, nor did the same live
    /// connections count all the while.
    pub(super) fn may_have_missed_log(
        &self,
        db: &Database,
        header: &WalHeader,
        before: Option<Salt>,
        now: Counted,
    ) -> bool {
        let is_counted = now.index == self.seen_count.index && now.since(self.seen_count).is_some();
        let Emptied { last, since } = self.emptied;
        let before = before.or(last);
        let since = if before == last { since } else { 0 };
        let is_told = header.follows(before, since) && !self.has_left_open();
        db.is_log_passed() && !is_counted && !is_told
    }

    /// Whether the log that was looked at last has gone without being known to be over: it was empty then.
    fn has_left_open(&self) -> bool {
        let place = self.mark.and_then(|mark| mark.wal);
        place.is_some_and(|place| !self.log_ended && self.complete != Some(LogEnd::of(&place)))
    }

    /// At `gate`: the log, which may be empty already, goes.
    pub(super) fn note_emptied(
        &mut self,
        db: &Database,
        shared: &Shared,
        gate: Option<Gate>,
    ) -> Result<(), CaptureError> {
        if let Some(Gate::WalTruncate { kept: 0 } | Gate::WalUnlink) = gate {
            match open_log(db, shared) {
                Ok(Log::Valid(log)) => {
                    self.emptied = Emptied {
                        last: Some(log.header.salt),
                        since: 0,
                    }
                }
                Ok(Log::None) => self.emptied.since += 1,
                // It is nothing to go on from.
                Err(CaptureError::Unsupported(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Something has destroyed a log, and no gate was seen before that: commits may be lost of the history. The database is
    /// compared page by page. What happened before its place in the files was found is no gate of this run.
    pub(super) fn miss_gate(&mut self, db: &Database, reason: &'static str) {
        self.compare_because(db, reason);
        if self.has_found_place {
            self.tell_missed(db, reason);
        }
    }

    /// Counts a gate that was missed, and shows it until the comparison is stored.
    pub(super) fn tell_missed(&self, db: &Database, reason: &'static str) {
        if self.was_unguarded {
            return;
        }
        meter::GATES_MISSED.add(1);
        if let Some(client) = db.client() {
            client.update(|progress| {
                progress.status = Status::Gapped;
                progress.last_error = Some(format!(
                    "gapped: the log was destroyed, and no gate was seen before that ({reason})"
                ));
            });
        }
        tracing::warn!(
            client = %db.label(),
            reason,
            "A log was destroyed, and no gate was seen before that; the history is gapped"
        );
    }
}

impl Database {
    /// Which wal-index the connections have: another one where the first of them began it anew.
    pub(super) fn index_number(&self) -> u64 {
        self.lock_handles().index_number()
    }
}
