//! How far one client has come, what was found out about it, and what of that is shown.

use crate::clock::UnixMs;
use crate::store::keys::GenerationId;

/// What a client does at present (INTERFACE: the statuses of the API).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum Status {
    /// Registered; there is no file yet.
    Waiting,
    /// Replicating, or idle with everything stored.
    Active,
    /// Told to stop uploading.
    Paused,
    /// A stretch of history lost its resolution; being mended.
    Gapped,
    /// Known from an earlier run, and absent at start.
    Missing,
    /// Past a limit: the application is not hindered, nothing is uploaded.
    Refused,
    /// Something is wrong; `last_error` says what. Retried.
    Failing,
}

impl Status {
    pub const ALL: [Status; 7] = [
        Status::Waiting,
        Status::Active,
        Status::Paused,
        Status::Gapped,
        Status::Missing,
        Status::Refused,
        Status::Failing,
    ];

    /// The word that the API and the metrics use.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Waiting => "waiting",
            Status::Active => "active",
            Status::Paused => "paused",
            Status::Gapped => "gapped",
            Status::Missing => "missing",
            Status::Refused => "refused",
            Status::Failing => "failing",
        }
    }
}

/// What was found and mended is shown for so long at least.
pub(super) const NOTICE_SHOWN_MS: i64 = 10 * 60 * 1000;

/// How far one client has come. Times are Unix milliseconds.
#[derive(Clone, Debug)]
pub struct Progress {
    pub status: Status,
    /// The newest captured transaction; 0 before the first.
    pub txid: u64,
    /// The newest transaction in the store; 0 before the first.
    pub replicated_txid: u64,
    /// The newest transaction of which this run knows a snapshot in the store; 0 for none.
    pub snapshot_txid: u64,
    /// Bytes of the database as it was last captured; none before.
    pub database_bytes: Option<u64>,
    /// Bytes of captured segments that are not in the store yet.
    pub pending_bytes: u64,
    /// When the oldest commit was seen that is not in the store yet.
    pub oldest_pending_at: Option<UnixMs>,
    pub generation: Option<GenerationId>,
    pub last_sync_at: Option<UnixMs>,
    pub last_snapshot_at: Option<UnixMs>,
    /// Failed attempts to store something, since the start.
    pub sync_errors: u64,
    /// What few clients have.
    found: Option<Box<Found>>,
    /// Why the client is failing, gapped or refused: a code, a colon and a sentence.
    pub last_error: Option<String>,
    /// The newest generation that this run has stored something of.
    pub stored_generation: Option<GenerationId>,
    /// The watch path is not mounted any more: nothing that is written is seen. Shown as a failure.
    pub unmounted: bool,
    /// The file lacked commits that are in the store, which may have more transactions than the state knows of.
    pub is_behind: bool,
    /// Told to stop uploading, or not enabled. Shown as the status of a client that could be active.
    pub paused: bool,
}

/// What was found out about a client besides how far it has come.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// When a restore drill of this run has passed last.
    pub last_proven_at: Option<UnixMs>,
    /// When one was held last, whatever it came to.
    pub last_drill_at: Option<UnixMs>,
    /// What the last restore drill has found wrong with the replica: shown as a failure until one passes.
    pub damage: Option<String>,
    /// Another instance that replicates the same database: shown as a failure until it was not seen for a while.
    pub rival: Option<Rival>,
    /// What was found and mended in this run, and somebody should look into: a code, a colon and a sentence. Shown
    /// where no error is.
    pub notice: Option<String>,
    /// When that was found.
    pub noticed_at: UnixMs,
    /// The operation of upkeep that could not be done last, and why. Shown where no error is.
    pub undone: Option<(&'static str, String)>,
}

/// Another instance that was seen at work.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rival {
    pub seen_at: UnixMs,
    /// A code, a colon and a sentence.
    pub text: String,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self {
            status: Status::Active,
            txid: 0,
            replicated_txid: 0,
            snapshot_txid: 0,
            database_bytes: None,
            pending_bytes: 0,
            oldest_pending_at: None,
            generation: None,
            last_sync_at: None,
            last_snapshot_at: None,
            sync_errors: 0,
            found: None,
            last_error: None,
            stored_generation: None,
            unmounted: false,
            is_behind: false,
            paused: false,
        }
    }

    /// What was found out.
    pub fn found(&self) -> &Found {
        static NOTHING: Found = Found {
            last_proven_at: None,
            last_drill_at: None,
            damage: None,
            rival: None,
            notice: None,
            noticed_at: 0,
            undone: None,
        };
        self.found.as_deref().unwrap_or(&NOTHING)
    }

    /// The same, to be changed.
    pub fn found_mut(&mut self) -> &mut Found {
        self.found.get_or_insert_default()
    }

    /// A snapshot has proven every page since: a notice goes that has been shown for long enough.
    pub fn forget_notice(&mut self, now: UnixMs) {
        let found = self.found();
        if found.notice.is_some() && now - found.noticed_at >= NOTICE_SHOWN_MS {
            self.found_mut().notice = None;
        }
    }

    /// What came of an operation of upkeep.
    pub fn note_upkeep(&mut self, operation: &'static str, failed: Option<String>) {
        match failed {
            Some(why) => self.found_mut().undone = Some((operation, why)),
            None if self
                .found()
                .undone
                .as_ref()
                .is_some_and(|undone| undone.0 == operation) =>
            {
                self.found_mut().undone = None;
            }
            None => {}
        }
    }

    /// What is wrong however well the uploads go.
    pub(super) fn fault(&self) -> Option<&str> {
        if self.unmounted {
            return Some("unmounted: its watch path is; what is written there is not seen");
        }
        let found = self.found.as_deref()?;
        let rival = found.rival.as_ref().map(|rival| rival.text.as_str());
        rival.or(found.damage.as_deref())
    }

    /// What is shown: a replica that is known to be damaged, or that another instance writes too, fails, and a client that
    /// is paused is nothing else, unless there is nothing to pause.
    pub(super) fn shown(mut self) -> Self {
        let could_be_active = match self.status {
            Status::Active | Status::Gapped | Status::Failing | Status::Paused => true,
            Status::Waiting | Status::Missing | Status::Refused => false,
        };
        if let (Some(fault), true) = (self.fault(), could_be_active) {
            self.last_error = Some(fault.to_owned());
            self.status = Status::Failing;
        }
        if self.paused && could_be_active {
            self.status = Status::Paused;
        }
        if self.last_error.is_none() {
            let undone = self.found().undone.as_ref();
            let undone = undone.map(|(operation, why)| format!("{operation}: {why}"));
            self.last_error = undone.or_else(|| self.found().notice.clone());
        }
        self
    }

    /// Age of the oldest commit that is not in the store; 0 when all are.
    pub fn lag_ms(&self, now: UnixMs) -> u64 {
        self.oldest_pending_at.map_or(0, |since| age_ms(since, now))
    }
}

/// 0 for a clock that went back.
pub(super) fn age_ms(since: UnixMs, now: UnixMs) -> u64 {
    now.saturating_sub(since).max(0) as u64
}
