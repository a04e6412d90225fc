//! What a database without a log has for the comparisons of its file: what was written of it, and whose turn it is.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use super::database::Database;
use super::kept::Held;
use super::turns::Turn;
use super::writes::Writes;

impl Database {
    pub(super) fn writes(&self) -> Held<'_, Writes> {
        self.writes.lock()
    }

    /// Bytes were written, or may have changed otherwise. Where nobody has asked for that, it is not counted.
    pub(super) fn note_written(&self, bytes: Range<u64>) {
        if let Some(mut writes) = self.writes.if_made() {
            writes.note(bytes);
        }
    }

    /// A write may have been missed. Where nobody has asked for what was written, nothing of it is known.
    pub(super) fn lose_writes(&self) {
        if let Some(mut writes) = self.writes.if_made() {
            writes.lose();
        }
    }

    pub(super) fn has_pending_writes(&self) -> bool {
        let writes = self.writes.if_made();
        writes.is_some_and(|writes| writes.is_pending())
    }

    pub(super) fn turn(&self) -> Held<'_, Turn> {
        self.turn.lock()
    }

    /// Whether the next transaction with a rollback journal has to pass `Capture::transaction_begins`.
    pub fn wants_its_turn(self: &Arc<Self>) -> bool {
        let newest = self.newest();
        let turn = newest.turn.if_made();
        turn.is_some_and(|turn| turn.is_wanted(Instant::now()))
    }

    /// The whole file is going to be read; what is written from now on is counted where all of it is seen.
    pub(super) fn begin_whole(&self) {
        let handles = self.lock_handles();
        self.writes().begin_whole(handles.all_writes_are_seen());
    }

    /// What was captured last was written with a log or a journal, or without: then nothing tells where a transaction
    /// ends, and health says so.
    pub(super) fn note_boundaries(&self, are_told: bool) {
        const CODE: &str = "no_commit_boundary";
        let Some(client) = self.client() else {
            return;
        };
        client.update(|progress| {
            let notice = progress.found().notice.as_deref();
            let is_noted = notice.is_some_and(|notice| notice.starts_with(CODE));
            if are_told && is_noted {
                progress.found_mut().notice = None;
            } else if !are_told && notice.is_none() {
                progress.found_mut().notice = Some(format!(
                    "{CODE}: it is written without log and journal (journal_mode MEMORY or OFF, or past SQLite), so that nothing tells where a transaction ends; use another journal_mode"
                ));
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::capture::FileKind;
    use crate::capture::queue::Queue;

    #[test]
    fn of_what_was_written_nothing_is_kept_before_somebody_asks_for_it() {
        let (queue, _out) = Queue::new(1, Path::new("state").into());
        let db = Arc::new(Database::new(Path::new("a.db").into(), queue));
        let write = || {
            db.written_at(FileKind::Database, 0..4096);
            db.resized(FileKind::Database, 8192);
        };
        write();
        assert!(db.writes.if_made().is_none());
        db.begin_whole();
        db.writes().end_whole();
        write();
        assert_eq!(db.writes().pages(4096, 2, 4), [1, 3, 4]);
    }
}
