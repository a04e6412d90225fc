//! The handles through which applications may write a database's files, counted.

use super::FileKind;
use super::lent::Lent;

/// How a file was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpenedAs {
    pub writable: bool,
    /// The kernel passes reads and writes to the backing file.
    pub passthrough: bool,
    /// As SQLite opens no file: to be written and not read, or cut to nothing when it was created.
    pub external: bool,
}

/// How often something happened, and how often it had when that was last captured.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Tally {
    times: u32,
    captured: u32,
}

impl Tally {
    pub fn happened(&mut self) {
        self.times = self.times.wrapping_add(1);
    }

    pub fn times(self) -> u32 {
        self.times
    }

    /// As it was after so many times is captured.
    pub fn captured(&mut self, times: u32) {
        self.captured = times;
    }

    pub fn is_due(self) -> bool {
        self.times != self.captured
    }
}

/// Handles that may write.
#[derive(Debug, Default)]
pub(super) struct Handles {
    /// Of `-shm`: those whose content can be seen on the backing file, and the others.
    index_visible: u32,
    index_hidden: u32,
    /// The wal-index was begun anew by somebody who has it open: the first to open it cuts it before anything else.
    /// Until then it may be what a crash left behind, and says nothing.
    index_begun: bool,
    index_number: u32,
    /// Of the database file.
    pub writers: u32,
    /// Those of them whose writes the kernel passes through.
    unseen_writers: u32,
    /// Those of the database file and of its log that something else than SQLite has opened.
    external_writers: u32,
    external_log_writers: u32,
    /// How often that was so, and how often when its files were last captured.
    pub arrivals: Tally,
    /// The same of its rollback journals' changes, by which SQLite alone is known to have written.
    pub journals: Tally,
    /// The log came from elsewhere since its database was captured.
    pub has_new_log: bool,
    pub lent: Lent,
}

/// What something else than SQLite has open to write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum External {
    None,
    Database,
    /// The log; the database as well, or not.
    Log,
}

/// What the handles tell of the wal-index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sight {
    /// Nobody has it open, or it can't be seen from here.
    None,
    /// It may be from before a crash.
    Old,
    Clear,
}

impl Handles {
    pub fn opened(&mut self, kind: FileKind, how: OpenedAs) {
        if let Some(count) = self.external_count(kind, how) {
            *count += 1;
            self.arrivals.happened();
            self.has_new_log |= kind == FileKind::Wal;
        }
        let Some(count) = self.count(kind, how) else {
            return;
        };
        *count += 1;
        let first = *count == 1;
        if is_unseen(kind, how) {
            self.unseen_writers += 1;
        }
        if first && kind == FileKind::Shm {
            self.index_begun = false;
        }
    }

    /// Handles of something else than SQLite; none for files of which they don't matter.
    fn external_count(&mut self, kind: FileKind, how: OpenedAs) -> Option<&mut u32> {
        match (kind, how.external) {
            (FileKind::Database, true) => Some(&mut self.external_writers),
            (FileKind::Wal, true) => Some(&mut self.external_log_writers),
            _ => None,
        }
    }

    /// Who has the files open that is not SQLite.
    pub fn external(&self) -> External {
        match (self.external_writers, self.external_log_writers) {
            (_, 1..) => External::Log,
            (1.., 0) => External::Database,
            (0, 0) => External::None,
        }
    }

    /// Whether a connection has the wal-index open.
    pub fn has_index(&self) -> bool {
        self.index_visible + self.index_hidden > 0
    }

    pub fn released(&mut self, kind: FileKind, how: OpenedAs) {
        if let Some(count) = self.external_count(kind, how) {
            *count -= 1;
            self.arrivals.happened();
            self.has_new_log |= kind == FileKind::Wal;
        }
        if let Some(count) = self.count(kind, how) {
            *count -= 1;
        }
        if is_unseen(kind, how) {
            self.unseen_writers -= 1;
        }
    }

    /// Those that have it open did so under another name, and somebody has begun it since.
    pub fn index_was_begun(&mut self) {
        self.index_begun = true;
    }

    pub fn index_begins(&mut self) {
        self.index_begun = true;
        self.index_number = self.index_number.wrapping_add(1);
    }

    /// Which wal-index they have: another one where the first of them began it anew.
    pub fn index_number(&self) -> u64 {
        self.index_number.into()
    }

    pub fn sight_of_index(&self) -> Sight {
        match (
            self.index_visible > 0 && self.index_hidden == 0,
            self.index_begun,
        ) {
            (false, _) => Sight::None,
            (true, false) => Sight::Old,
            (true, true) => Sight::Clear,
        }
    }

    /// Whether every write of the database file comes to us.
    pub fn all_writes_are_seen(&self) -> bool {
        self.unseen_writers == 0
    }

    /// Takes over those of `other`, which are older.
    pub fn take_over(&mut self, other: Handles) {
        if self.index_visible + self.index_hidden == 0 {
            self.index_begun = other.index_begun;
        }
        self.index_number = self.index_number.max(other.index_number).wrapping_add(1);
        self.index_visible += other.index_visible;
        self.index_hidden += other.index_hidden;
        self.writers += other.writers;
        self.unseen_writers += other.unseen_writers;
        self.external_writers += other.external_writers;
        self.external_log_writers += other.external_log_writers;
        self.arrivals.happened();
        self.has_new_log |= other.has_new_log;
        self.lent.take_over(other.lent);
    }

    fn count(&mut self, kind: FileKind, how: OpenedAs) -> Option<&mut u32> {
        match (kind, how.writable, how.passthrough) {
            // Nobody maps a wal-index that he can't read.
            (FileKind::Shm, _, _) if how.external => None,
            (FileKind::Shm, true, true) => Some(&mut self.index_visible),
            (FileKind::Shm, true, false) => Some(&mut self.index_hidden),
            (FileKind::Database, true, _) => Some(&mut self.writers),
            _ => None,
        }
    }
}

/// Whether the kernel passes writes of the database file through.
pub(super) fn is_unseen(kind: FileKind, how: OpenedAs) -> bool {
    kind == FileKind::Database && how.writable && how.passthrough
}
