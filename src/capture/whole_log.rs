//! What a whole log says, and from where on it may be reset without a word: where the kernel passes a log through, a
//! complete checkpoint is the last that is heard before.

use super::Shared;
use super::database::Database;
use super::drain::committed_extent;
use super::error::CaptureError;
use super::files::{Log, open_log};
use super::history::History;
use super::mark::WalMark;
use super::wal_reader::WalReader;
use crate::format::scanner::Transaction;

/// The state of a log that was captured to its end at a complete checkpoint. SQLite resets a log only when a checkpoint
/// was complete and nothing was committed since.
#[derive(Clone, Copy, Debug)]
pub struct Complete {
    pub place: WalMark,
    /// `WalIndex::change` then; none where nobody could see it.
    pub change: Option<u32>,
}

/// What a whole log says.
pub(super) struct Committed {
    pub transactions: Vec<Transaction>,
    /// Nobody but the chain itself says that they are committed.
    pub by_chain: bool,
    /// `WalIndex::change` then.
    pub change: Option<u32>,
}

/// The committed transactions of the whole log; none where nothing can be said now.
pub(super) fn committed(
    db: &Database,
    shared: &Shared,
    log: &mut WalReader,
    at_gate: bool,
) -> Result<Option<Committed>, CaptureError> {
    let Some(extent) = committed_extent(db, shared, log, at_gate)? else {
        return Ok(None);
    };
    let end = extent.end.min(log.len);
    let transactions = log
        .transactions(log.header.start(), end)
        .map_err(CaptureError::io("read the log"))?;
    Ok(Some(Committed {
        transactions,
        by_chain: extent.by_chain,
        change: extent.change,
    }))
}

impl History {
    /// Whether nothing was captured since a complete checkpoint.
    pub(super) fn is_complete(&self) -> bool {
        let place = self.mark.and_then(|mark| mark.wal);
        self.complete
            .is_some_and(|complete| Some(complete.place) == place)
    }

    /// At a complete checkpoint of a log that an image is yet to be begun for: what that finds may be reset as well.
    pub(super) fn note_complete(
        &mut self,
        db: &Database,
        shared: &Shared,
    ) -> Result<(), CaptureError> {
        let Log::Valid(mut log) = open_log(db, shared)? else {
            return Ok(());
        };
        let Some(said) = committed(db, shared, &mut log, true)? else {
            return Ok(());
        };
        self.complete = said.transactions.last().map(|last| Complete {
            place: log.mark_at(last.end),
            change: said.change,
        });
        Ok(())
    }
}
