//! A place in a database's history, and the captured stretch that ends there.

use std::sync::Arc;

use super::spool::TxidRange;
use crate::clock::UnixMs;
use crate::format::ltx::DatabaseChecksum;
use crate::format::wal::{Position, Salt};
use crate::store::Body;
use crate::store::keys::{GenerationId, ObjectKey};

/// The state of a database after one of its transactions, and where its log goes on from there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mark {
    pub generation: GenerationId,
    /// Sequence number of the segment that ends here; 0 for the generation's first snapshot.
    pub seq: u32,
    pub txid: u64,
    pub checksum: DatabaseChecksum,
    /// The database's size in pages.
    pub commit: u32,
    pub page_size: u32,
    pub time_ms: UnixMs,
    /// Behind the last captured frame; none where the next log has to start anew.
    pub wal: Option<WalMark>,
}

impl Mark {
    /// Bytes of the database, its log not counted.
    pub fn database_bytes(&self) -> u64 {
        u64::from(self.commit) * u64::from(self.page_size)
    }
}

/// A place in one life of a log, behind a commit frame or at its start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WalMark {
    pub salt: Salt,
    pub position: Position,
}

/// A page and its checksum.
pub type PageSum = (u32, u64);

/// A captured stretch of history on its way to the store. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Segment {
    /// The first transaction in it; of a snapshot its only one.
    pub first_txid: u64,
    /// The state at its end.
    pub end: Mark,
    /// Whether it is the whole database and not a difference.
    pub snapshot: bool,
    /// When its first commit was seen.
    pub committed_at: UnixMs,
    /// An LTX file.
    pub body: Body,
    /// Bytes of the body.
    pub size: u64,
    /// The LTX file checksum, by which a lost acknowledgement is recognised.
    pub file_checksum: u64,
    /// Its pages' sums, ascending; empty for a snapshot, whose sums were written as a whole.
    pub sums: Arc<[PageSum]>,
    /// Noted in the state as waiting in the spool: it survives a restart.
    pub durable: bool,
}

impl Segment {
    pub fn key(&self) -> ObjectKey {
        if self.snapshot {
            ObjectKey::Snapshot(self.end.generation, self.end.seq)
        } else {
            ObjectKey::Segment(self.end.generation, self.end.seq)
        }
    }

    pub fn txids(&self) -> TxidRange {
        (self.first_txid, self.end.txid)
    }

    pub fn is_in_memory(&self) -> bool {
        matches!(self.body, Body::Bytes(_))
    }
}
