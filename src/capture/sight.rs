//! What is seen of a database's wal-index, and noted of it at the points where it is about to go.

use super::authority::{Counted, Index, Record};
use super::backing::{Backing, read_wal_index};
use super::database::Database;
use super::gate::Gate;
use super::handles::Sight;
use crate::format::wal::Salt;

impl Database {
    /// What the wal-index says now, to whoever may see it.
    pub(super) fn index(&self, backing: &Backing) -> std::io::Result<Index> {
        match self.lock_handles().sight_of_index() {
            Sight::None => return Ok(Index::Absent),
            Sight::Old => return Ok(Index::Unreadable),
            Sight::Clear => {}
        }
        let Some(shm) = self.open_companion(backing, "-shm")? else {
            return Ok(Index::Unreadable);
        };
        Ok(read_wal_index(&shm.file)?.map_or(Index::Unreadable, Index::Live))
    }

    /// At the drain point `at`: notes how far the present log's commits reach. False where the wal-index is open and
    /// could not be read: a writer is in the middle of it.
    pub(super) fn take_record(&self, backing: &Backing, at: Gate) -> std::io::Result<bool> {
        let number = self.index_number();
        let index = match self.index(backing)? {
            Index::Live(index) => index,
            Index::Absent => return Ok(true),
            Index::Unreadable => return Ok(false),
        };
        self.records.lock().note(Record {
            salt: index.salt,
            max_frame: index.max_frame,
            counted: Counted::of(number, &index),
            wal_writes: self.wal_writes(),
            last_close: at == Gate::ShmUnlink,
        });
        Ok(true)
    }

    /// What was noted of the log with that salt.
    pub(super) fn record(&self, salt: Salt) -> Option<Record> {
        self.records.if_made()?.of(salt)
    }
}
