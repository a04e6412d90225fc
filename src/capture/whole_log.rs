//! What a whole log says.

use super::Shared;
use super::authority::Counted;
use super::database::Database;
use super::drain::committed_extent;
use super::error::CaptureError;
use super::wal_reader::WalReader;
use crate::format::scanner::Transaction;

/// What a whole log says.
pub(super) struct Committed {
    pub transactions: Vec<Transaction>,
    /// Nobody but the chain itself says that they are committed.
    pub by_chain: bool,
    /// Where the wal-index spoke of it.
    pub counted: Counted,
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
        counted: extent.counted,
    }))
}
