//! How far a log may be believed: what of its chain is committed. Pure.
//!
//! The chain alone is not enough. A writer that dies between its commit frame and the wal-index leaves a commit that
//! the live connections never see and soon overwrite; and just before a reset the wal-index already speaks of the next
//! log. So: while a `-shm` is open through the mount its header decides; where it speaks of another log, the record
//! that was made when it last spoke of this one; where nobody has a `-shm` open, the chain, as SQLite's own recovery.
//! The last close takes its `-shm` away before the log: what was noted then holds, whether its handle is gone by then
//! or not.

use crate::format::wal::Salt;
use crate::format::wal_index::WalIndex;

/// How many commits the live connections have counted.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counted {
    /// `Database::index_number` of the one that has the count: each begins at 0.
    pub index: u64,
    /// `WalIndex::change`; none where it could not be seen.
    pub change: Option<u32>,
}

impl Counted {
    /// What the one with that number says.
    pub fn of(number: u64, index: &WalIndex) -> Self {
        Self {
            index: number,
            change: Some(index.change),
        }
    }

    /// As it was so many commits before. Those from before a recovery are not counted.
    pub fn without(self, commits: u32) -> Self {
        Self {
            change: self.change.map(|change| change.saturating_sub(commits)),
            ..self
        }
    }

    /// Commits between the two: all of the later one where that is another.
    pub fn since(self, before: Counted) -> Option<u32> {
        match self.index == before.index {
            true => Some(self.change?.wrapping_sub(before.change?)),
            false => self.change,
        }
    }
}

/// What the wal-index said at a drain point: a complete checkpoint, or the unlink of `-shm`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record {
    pub salt: Salt,
    pub max_frame: u32,
    /// At that frame.
    pub counted: Counted,
    /// Writes to `-wal` that had been seen by then.
    pub wal_writes: u64,
    /// Made at the unlink of `-shm`: nobody else has the database open then, so that no commit was under way.
    pub last_close: bool,
}

/// What was noted of the log that the wal-index speaks of, and of the one before.
#[derive(Clone, Copy, Default, Debug)]
pub struct Records {
    newest: Option<Record>,
    earlier: Option<Record>,
}

impl Records {
    pub fn note(&mut self, record: Record) {
        if self.newest.is_some_and(|newest| newest.salt != record.salt) {
            self.earlier = self.newest;
        }
        self.newest = Some(record);
        // Its log still stands there where its first write over it has failed: what was committed in it stays the same.
        if let Some(earlier) = &mut self.earlier {
            earlier.wal_writes = record.wal_writes;
            earlier.last_close = record.last_close;
        }
    }

    /// What was noted of the log with that salt.
    pub fn of(&self, salt: Salt) -> Option<Record> {
        let records = [self.newest, self.earlier].into_iter().flatten();
        records.into_iter().find(|record| record.salt == salt)
    }
}

/// What can be seen of the wal-index now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Index {
    /// Nobody has `-shm` open for writing through the mount, or its content can't be seen from here.
    Absent,
    /// It is open, and its header was never whole while it was read: recovery, or a death in the middle of an update.
    Unreadable,
    Live(WalIndex),
}

/// How much of the chain may be taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Limit {
    /// As far as it validates.
    Chain,
    /// Up to this frame, counted from 1.
    Frame(u32),
    /// Nothing can be said now; look again.
    Unknown,
}

/// Decides for the log with `salt`, of which `wal_writes` writes have been seen.
pub fn limit(salt: Salt, index: Index, record: Option<Record>, wal_writes: u64) -> Limit {
    let record = record.filter(|record| record.salt == salt);
    match (index, record) {
        (Index::Live(index), _) if index.salt == salt => Limit::Frame(index.max_frame),
        // A reset is under way: all that was committed in this log was there at its last complete checkpoint.
        (Index::Live(_), Some(record)) => Limit::Frame(record.max_frame),
        // The first commit of a new log is not published yet.
        (Index::Live(_), None) => Limit::Frame(0),
        // Nothing was written since: the last close. The handle of the `-shm` that it took away may be open still.
        (Index::Absent | Index::Unreadable, Some(record))
            if record.last_close && record.wal_writes == wal_writes =>
        {
            Limit::Frame(record.max_frame)
        }
        (Index::Unreadable, _) => Limit::Unknown,
        // Killed writers, or one in exclusive mode without an index: recovery would take the whole chain.
        (Index::Absent, _) => Limit::Chain,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_whose_reset_has_failed_keeps_its_limit_until_the_last_close() {
        let mut records = Records::default();
        let record = |salt, max_frame, wal_writes, last_close| Record {
            salt,
            max_frame,
            counted: Counted::default(),
            wal_writes,
            last_close,
        };
        records.note(record(OLD, 7, 20, false));
        // The index tells of the next log before that is begun, and it never is.
        records.note(record(NEW, 0, 20, true));
        let limit_of = |salt| limit(salt, Index::Absent, records.of(salt), 20);
        assert_eq!(limit_of(OLD), Limit::Frame(7));
        assert_eq!(limit_of(NEW), Limit::Frame(0));
        assert_eq!(limit_of((3, 3)), Limit::Chain);
    }

    const OLD: Salt = (1, 1);
    const NEW: Salt = (2, 2);

    fn live(salt: Salt, max_frame: u32) -> Index {
        Index::Live(WalIndex {
            salt,
            max_frame,
            change: 0,
            page_size: 4096,
        })
    }

    fn record(salt: Salt, max_frame: u32) -> Option<Record> {
        Some(Record {
            salt,
            max_frame,
            counted: Counted::default(),
            wal_writes: 10,
            last_close: true,
        })
    }

    /// As it is made at a complete checkpoint.
    fn record_among_writers(salt: Salt, max_frame: u32) -> Option<Record> {
        record(salt, max_frame).map(|record| Record {
            last_close: false,
            ..record
        })
    }

    #[test]
    fn the_live_index_decides_over_chain_and_record() {
        assert_eq!(limit(OLD, live(OLD, 7), None, 99), Limit::Frame(7));
        assert_eq!(
            limit(OLD, live(OLD, 7), record(OLD, 3), 99),
            Limit::Frame(7)
        );
    }

    #[test]
    fn at_a_reset_the_record_decides_since_the_index_speaks_of_the_next_log() {
        assert_eq!(
            limit(OLD, live(NEW, 0), record(OLD, 7), 10),
            Limit::Frame(7)
        );
        // A phantom commit after the checkpoint does not count.
        assert_eq!(
            limit(OLD, live(NEW, 0), record(OLD, 7), 12),
            Limit::Frame(7)
        );
    }

    #[test]
    fn the_first_commit_of_a_new_log_waits_for_its_publication() {
        assert_eq!(
            limit(NEW, live(OLD, 7), record(OLD, 7), 12),
            Limit::Frame(0)
        );
    }

    #[test]
    fn without_an_index_a_fresh_record_decides_and_else_the_chain() {
        assert_eq!(
            limit(OLD, Index::Absent, record(OLD, 7), 10),
            Limit::Frame(7)
        );
        assert_eq!(limit(OLD, Index::Absent, record(OLD, 7), 11), Limit::Chain);
        assert_eq!(limit(OLD, Index::Absent, record(NEW, 7), 10), Limit::Chain);
        assert_eq!(limit(OLD, Index::Absent, None, 0), Limit::Chain);
    }

    #[test]
    fn a_commit_that_was_under_way_at_a_checkpoint_counts_when_its_writers_died_after_it() {
        let record = record_among_writers(OLD, 7);
        assert_eq!(limit(OLD, Index::Absent, record, 10), Limit::Chain);
    }

    #[test]
    fn an_index_in_the_middle_of_an_update_says_nothing() {
        let record = record_among_writers(OLD, 7);
        assert_eq!(limit(OLD, Index::Unreadable, record, 10), Limit::Unknown);
    }

    #[test]
    fn an_index_that_the_last_close_took_away_is_no_update_under_way() {
        assert_eq!(
            limit(OLD, Index::Unreadable, record(OLD, 7), 10),
            Limit::Frame(7)
        );
        assert_eq!(
            limit(OLD, Index::Unreadable, record(OLD, 7), 11),
            Limit::Unknown
        );
    }
}
