//! Why a replica was not restored, listed or verified.

use std::io;
use std::path::{Path, PathBuf};

use crate::clock::{UnixMs, rfc3339};
use crate::format::keys::GenerationId;
use crate::format::ltx::LtxError;
use crate::format::plan::PlanError;
use crate::store::StoreError;

/// Keys are whole ones, below STORE.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{prefix}: there is no replica; `list` shows those that exist")]
    UnknownReplica { prefix: String },
    #[error("{prefix}: there is no generation-{generation}; `list CLIENT` shows those that exist")]
    UnknownGeneration {
        prefix: String,
        generation: GenerationId,
    },
    #[error("{prefix}: nothing is known from {} or before; the first moment is {}", rfc3339(*asked), rfc3339(*first))]
    BeforeFirst {
        prefix: String,
        asked: UnixMs,
        first: UnixMs,
    },
    /// The transaction is no moment: it lies within a segment, or outside of all that is stored.
    #[error("{prefix}: TXID {txid} is no moment to restore to; {}", nearest(*before, *after))]
    NoSuchTxid {
        prefix: String,
        txid: u64,
        /// The nearest moments' TXIDs on both sides.
        before: Option<u64>,
        after: Option<u64>,
    },
    #[error("{key}: the object is missing, and later ones need it")]
    Missing { key: String },
    #[error("{key}: the object is damaged: {source}")]
    Damaged { key: String, source: LtxError },
    /// The object is whole, and is not the one that belongs there.
    #[error("{key}: the object does not follow the one before it: {reason}")]
    OutOfPlace { key: String, reason: String },
    #[error("{prefix}: the restored database fails PRAGMA integrity_check: {finding}")]
    Inconsistent { prefix: String, finding: String },
    #[error("{prefix}: could not tell, PRAGMA integrity_check could not be run: {reason}")]
    Unchecked { prefix: String, reason: String },
    #[error(
        "{key}: it does not say where the database belongs below a watch path; restore this client by its name with -o"
    )]
    Description { key: String },
    #[error("{}: exists already; move it away, or give --force", path.display())]
    OutputExists { path: PathBuf },
    #[error("{}: process {pid} ({command}) has it open; end it first", path.display())]
    OutputOpen {
        path: PathBuf,
        pid: u32,
        command: String,
    },
    #[error("{}: can't {action}: {source}", path.display())]
    Local {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

impl RestoreError {
    /// Whether the replica itself is damaged: an object is missing, spoilt, or not where it belongs.
    pub fn is_damage(&self) -> bool {
        use RestoreError::*;
        matches!(
            self,
            Missing { .. } | Damaged { .. } | OutOfPlace { .. } | Inconsistent { .. }
        )
    }

    /// Whether SQLite's own check gave no answer, so that nobody can tell.
    pub fn is_unchecked(&self) -> bool {
        matches!(self, Self::Unchecked { .. })
    }

    /// Whether the store knows nothing by that name: a client, a generation or a moment.
    pub fn is_unknown(&self) -> bool {
        use RestoreError::*;
        matches!(
            self,
            UnknownReplica { .. }
                | UnknownGeneration { .. }
                | BeforeFirst { .. }
                | NoSuchTxid { .. }
        )
    }

    /// An error of this machine's files.
    pub(super) fn local<'a>(
        action: &'static str,
        path: &'a Path,
    ) -> impl FnOnce(io::Error) -> Self + 'a {
        move |source| Self::Local {
            action,
            path: path.to_owned(),
            source,
        }
    }

    /// An error of a plan for the replica at `prefix`.
    pub(super) fn plan(prefix: &str, error: PlanError) -> Self {
        match error {
            PlanError::UnknownGeneration(generation) => Self::UnknownGeneration {
                prefix: prefix.to_owned(),
                generation,
            },
            PlanError::Missing(key) => Self::Missing {
                key: key.below(prefix),
            },
        }
    }

    /// The store's error for an object that a listing or a plan has named.
    pub(super) fn listed(error: StoreError) -> Self {
        match error {
            StoreError::NotFound { key } => Self::Missing { key },
            other => Self::Store(other),
        }
    }
}

fn nearest(before: Option<u64>, after: Option<u64>) -> String {
    match (before, after) {
        (Some(before), Some(after)) => format!("the nearest are {before} and {after}"),
        (Some(before), None) => format!("the last is {before}"),
        (None, Some(after)) => format!("the first is {after}"),
        (None, None) => "there is none".to_owned(),
    }
}
