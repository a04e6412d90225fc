//! Why a commit could not be captured.

use std::io;

use super::spool::SpoolError;
use super::state::StateError;
use crate::format::ltx::LtxError;
use crate::format::structure::Flaw;

/// Each has a code, which health shows before the sentence.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    #[error("{what}: {source}")]
    Io {
        what: &'static str,
        source: io::Error,
    },
    #[error(transparent)]
    Spool(#[from] SpoolError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error("make a segment: {0}")]
    Ltx(#[from] LtxError),
    #[error("the file is no SQLite database, and has no valid log")]
    NotADatabase,
    #[error("{missing} of its {pages} pages are missing from the file; copy it again, whole")]
    Incomplete { missing: u32, pages: u32 },
    #[error("{0}; SQLite can't read all of it")]
    Malformed(#[from] Flaw),
    /// Something else than SQLite writes the file, or has done so a moment ago.
    #[error("the file has not arrived yet: {0}")]
    Arriving(String),
    #[error("the log's format is not supported: {0}")]
    Unsupported(#[from] crate::format::wal::HeaderError),
    #[error("the log grows the database by {missing} pages that it does not hold")]
    Holes { missing: u32 },
    /// A log was destroyed that nobody read.
    #[error("a log was reset while a comparison of the whole database was due ({reason})")]
    LostWay { reason: &'static str },
    /// A writer has died in the middle of a transaction.
    #[error(
        "a rollback journal stands beside the database, and what is committed can't be told: {0}; open the database with SQLite, which rolls it back"
    )]
    HotJournal(String),
    /// Try again: somebody wrote the file in the middle, or a journal is there.
    #[error("the database was written past its log while it was read")]
    Disturbed,
    /// A defect of ours: the database is left alone for a while, the others go on.
    #[error("the capture panicked: {0}")]
    Panicked(String),
    /// The capture's threads are gone: the process is ending.
    #[error("the capture has stopped")]
    Stopped,
}

impl CaptureError {
    /// A word for programs.
    pub fn code(&self) -> &'static str {
        match self {
            CaptureError::Io { .. } => "io",
            CaptureError::Spool(SpoolError::Io { .. }) => "spool_io",
            CaptureError::Spool(_) => "spool_full",
            CaptureError::State(_) => "state",
            CaptureError::Ltx(_) => "ltx",
            CaptureError::NotADatabase => "not_a_database",
            CaptureError::Incomplete { .. } => "incomplete",
            CaptureError::Malformed(_) => super::arrival::MALFORMED,
            CaptureError::Arriving(_) => "arriving",
            CaptureError::Unsupported(_) => "unsupported_log",
            CaptureError::Holes { .. } => "holes",
            CaptureError::LostWay { .. } => "lost_way",
            CaptureError::HotJournal(_) => "hot_journal",
            CaptureError::Disturbed => "disturbed",
            CaptureError::Panicked(_) => "panicked",
            CaptureError::Stopped => "stopped",
        }
    }

    /// Whether the spool has no room, for this tenant at least.
    pub fn is_for_want_of_room(&self) -> bool {
        matches!(
            self,
            CaptureError::Spool(
                SpoolError::Full { .. } | SpoolError::Share { .. } | SpoolError::Reserve { .. }
            )
        )
    }

    /// Whether only a change of the file itself can help, so that trying again before is of no use.
    pub fn waits_for_the_file(&self) -> bool {
        matches!(
            self,
            CaptureError::NotADatabase
                | CaptureError::Incomplete { .. }
                | CaptureError::Malformed(_)
                | CaptureError::Unsupported(_)
                | CaptureError::HotJournal(_)
        )
    }

    /// Adds what was being done to an I/O error.
    pub fn io(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| CaptureError::Io { what, source }
    }
}
