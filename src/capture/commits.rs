//! Commits that wait for the store (`durability: store`).
//!
//! The write that would make the log's chain valid up to a new commit frame is held before it reaches the file: the
//! commit is captured as the log will be, stored, and only then written and answered. So whoever dies, no connection
//! has seen a commit that the store has not. One that the store does not take in time goes on, or fails: then it is
//! never written, and what was captured of it is taken back by a correcting segment.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::database::Database;
use super::drain::{Next, committed_extent};
use super::error::CaptureError;
use super::files::{Log, open_log};
use super::history::History;
use super::kept::Kept;
use super::once::Once;
use super::wal_reader::WalReader;
use super::workers::without_panic;
use super::{Capture, Shared};
use crate::clock::UnixMs;
use crate::format::scanner::Transaction;
use crate::format::wal::{FRAME_HEADER_SIZE, FrameHeader, HEADER_SIZE, Position, Salt, WalHeader};
use crate::meter;
use crate::tenant::policy::{AtTimeout, Durability};
use crate::tenant::roster::{Client, Status};

/// A writer publishes its commit at once, but for the sync of its log. One that has not by then has died.
const PUBLISHED_WITHIN: Duration = Duration::from_secs(10);
/// What health shows before the sentence.
const CODE: &str = "durability";

/// What becomes of a write that was held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It is carried out.
    Write,
    /// It fails, and nothing of it reaches the file.
    Fail,
}

/// Carries a held write out, or fails it, and answers the application.
pub type Decide = Box<dyn FnOnce(Verdict) + Send>;

/// Bytes that are to be written to a log.
#[derive(Clone, Debug)]
pub struct WalWrite {
    pub offset: u64,
    pub data: Arc<[u8]>,
}

/// A write that would complete a commit. Whoever comes first decides: the store's answer, or the time limit.
#[derive(Clone)]
pub(super) struct HeldCommit {
    db: Arc<Database>,
    write: WalWrite,
    decide: Once<Decide>,
    pub deadline: Instant,
}

/// What a held commit waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// The database has to be compared, or its wal-index to become readable, before it can be captured.
    Look,
    /// Its transaction, which is captured, to be stored.
    Stored(u64),
}

/// The held commits of one database: one, unless a program writes past SQLite.
#[derive(Default)]
pub(super) struct Commits {
    held: Kept<Vec<(Stage, HeldCommit)>>,
    /// Of the present log, in bytes; 0 while it is not known.
    page_size: AtomicU32,
    /// A commit went on without the store, and so do those after it until the store has caught up.
    are_local: AtomicBool,
    /// A commit that was captured has failed.
    has_failed: AtomicBool,
    /// They go through a rollback journal, and can't wait.
    are_by_journal: AtomicBool,
}

impl std::fmt::Debug for Commits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Commits").finish_non_exhaustive()
    }
}

impl Commits {
    /// Held ones that `is_meant`, which stay in the list.
    fn those(&self, is_meant: impl Fn(Stage) -> bool) -> Vec<HeldCommit> {
        let Some(held) = self.held.if_made() else {
            return Vec::new();
        };
        let meant = held.iter().filter(|(stage, _)| is_meant(*stage));
        meant.map(|(_, held)| held.clone()).collect()
    }
}

impl HeldCommit {
    pub fn is_decided(&self) -> bool {
        self.decide.is_taken()
    }

    /// It stays in the list until it is carried out: until then the log lacks it.
    fn decide(&self, verdict: Verdict) {
        if let Some(decide) = self.decide.take() {
            decide(verdict);
            self.leave();
        }
    }

    fn leave(&self) {
        let mut held = self.db.commits.held.lock();
        held.retain(|(_, held)| !held.decide.is(&self.decide));
    }

    /// The store has not taken it in time, or it can't be captured.
    pub fn give_up(&self, why: &str) {
        let Some(decide) = self.decide.take() else {
            return;
        };
        meter::DURABILITY_TIMEOUTS.add(1);
        let client = self.db.client();
        let policy = client.as_deref().map(Client::policy);
        let then = policy.map_or(AtTimeout::Local, |policy| policy.on_durability_timeout);
        let verdict = match then {
            AtTimeout::Local => {
                self.db.go_local(client.as_deref(), why);
                Verdict::Write
            }
            AtTimeout::Error => {
                let label = self.db.label();
                tracing::warn!(client = %label, error = why, "A commit failed: the store has not taken it");
                self.db.commits.has_failed.store(true, Ordering::SeqCst);
                Verdict::Fail
            }
        };
        decide(verdict);
        self.leave();
        self.db.mark_dirty();
    }
}

impl Capture {
    /// Holds a write to `-wal` that `Database::may_complete_commit`, until the commit is stored or can't be in time.
    /// Returns at once.
    pub fn commit(&self, db: &Arc<Database>, write: WalWrite, decide: Decide) {
        let db = db.newest();
        let timeout = db.policy().durability_timeout;
        self.workers.commit(HeldCommit {
            db,
            write,
            decide: Once::new(decide),
            deadline: Instant::now() + timeout,
        });
    }

    /// Everything that was committed when `ticket` was given is in the store.
    pub fn settle(&self, db: &Arc<Database>, ticket: u64) {
        db.settle(ticket);
        db.stop_being_local();
        db.tell_of_journal();
        for held in db.commits.those(|stage| stage == Stage::Look) {
            held.leave();
            self.workers.look_at_commit(held);
        }
    }
}

/// On a capture worker: captures a held commit, or lets a write go that completes none.
pub(super) fn capture_held(shared: &Shared, held: HeldCommit, since: UnixMs) {
    if held.is_decided() {
        return;
    }
    let db = held.db.clone();
    let mut history = db.history();
    let ahead = without_panic(|| history.capture_ahead(&db, shared, &held.write, since));
    if let Err(CaptureError::Panicked(_)) = ahead {
        history.begin_anew();
    }
    let stage = match ahead {
        Ok(Ahead::NoCommit) => {
            drop(history);
            return held.decide(Verdict::Write);
        }
        Ok(Ahead::Unknown) => Stage::Look,
        Ok(Ahead::Captured(txid)) => Stage::Stored(txid),
        Err(error) => {
            drop(history);
            return held.give_up(&error.to_string());
        }
    };
    // Under the history's lock: it can't be stored before it is in the list.
    db.commits.held.lock().push((stage, held.clone()));
    drop(history);
    if held.is_decided() {
        held.leave();
    }
    db.request_settling();
}

impl Database {
    /// Whether its commits wait for the store now.
    fn holds_commits(&self) -> bool {
        self.client().is_some_and(|client| {
            let waits = client.policy().durability == Durability::Store;
            waits && !client.is_paused() && client.progress().status != Status::Refused
        }) && !self.commits.are_local.load(Ordering::SeqCst)
    }

    /// Whether a WRITE of `data` to `-wal` at `offset` has to pass `Capture::commit`: its commits wait for the store, and
    /// this may be the write that completes one. `read` reads of the log as it is.
    pub fn may_complete_commit(
        self: &Arc<Self>,
        offset: u64,
        data: &[u8],
        read: impl Fn(&mut [u8], u64) -> bool,
    ) -> bool {
        let db = self.newest();
        if offset == 0
            && let Ok(header) = WalHeader::decode(data)
        {
            db.note_page_size(header.page_size);
        }
        let is_header = offset + data.len() as u64 <= HEADER_SIZE;
        if is_header || !db.holds_commits() {
            return false;
        }
        let page_size = u64::from(db.commits.page_size.load(Ordering::SeqCst));
        if page_size == 0 || offset < HEADER_SIZE {
            return true;
        }
        let frame = FRAME_HEADER_SIZE + page_size;
        let within = (offset - HEADER_SIZE) % frame;
        let (begin, end) = (offset - within, within + data.len() as u64);
        let mut header = [0; FRAME_HEADER_SIZE as usize];
        let is_commit = |header: &[u8]| FrameHeader::decode(header).commit != 0;
        match within {
            // As SQLite writes a frame: first its header. With no page behind it, it completes nothing.
            0 if end == FRAME_HEADER_SIZE => is_commit(data) && read(&mut [0], begin + frame - 1),
            // Then its page, at once or in two parts.
            FRAME_HEADER_SIZE.. if end <= frame => !read(&mut header, begin) || is_commit(&header),
            _ => true,
        }
    }

    pub(super) fn note_page_size(&self, page_size: u32) {
        self.commits.page_size.store(page_size, Ordering::SeqCst);
    }

    /// Its transactions up to `txid` are stored: what waited for them is carried out.
    pub(super) fn release_commits(&self, txid: u64) {
        let is_stored = |stage| matches!(stage, Stage::Stored(waits) if waits <= txid);
        for held in self.commits.those(is_stored) {
            held.decide(Verdict::Write);
        }
    }

    /// Whether the log lacks a commit that is captured, as long as that is not written.
    pub(super) fn is_holding(&self) -> bool {
        let held = self.commits.held.if_made();
        let mut stages = held.iter().flat_map(|held| held.iter());
        stages.any(|(stage, _)| matches!(stage, Stage::Stored(_)))
    }

    fn go_local(&self, client: Option<&Client>, why: &str) {
        self.commits.are_local.store(true, Ordering::SeqCst);
        tracing::warn!(
            client = %self.label(),
            error = why,
            "A commit went on without the store; those of this database are on local disk alone until the store has caught up"
        );
        if let Some(client) = client {
            tell(
                client,
                Some(&format!("commits do not wait for the store: {why}")),
            );
        }
    }

    fn stop_being_local(&self) {
        if !self.commits.are_local.swap(false, Ordering::SeqCst) {
            return;
        }
        tracing::info!(client = %self.label(), "Commits wait for the store again");
        if let Some(client) = self.client() {
            tell(&client, None);
        }
    }

    /// How its newest commit was made.
    pub(super) fn note_commits_by_journal(&self, is_so: bool) {
        self.commits.are_by_journal.store(is_so, Ordering::SeqCst);
    }

    /// Says in health where its commits were to wait for the store, and can't.
    fn tell_of_journal(&self) {
        let Some(client) = self.client() else {
            return;
        };
        if client.policy().durability == Durability::Store {
            let can_not = self.commits.are_by_journal.load(Ordering::SeqCst);
            let why = "commits of a rollback journal do not wait for the store; change to PRAGMA journal_mode=WAL";
            tell(&client, can_not.then_some(why));
        }
    }

    pub(super) fn take_failed_commit(&self) -> bool {
        self.commits.has_failed.swap(false, Ordering::SeqCst)
    }
}

/// Shows why commits do not wait, or no longer; another error is left alone.
fn tell(client: &Client, why: Option<&str>) {
    client.update(|progress| {
        let told = progress.last_error.as_deref();
        if told.is_none_or(|told| told.starts_with(CODE)) {
            progress.last_error = why.map(|why| format!("{CODE}: {why}"));
        }
    });
}

/// What was found in a held write.
enum Ahead {
    NoCommit,
    /// The commit is captured, as this transaction.
    Captured(u64),
    /// It can't be said before the database was looked at.
    Unknown,
}

/// A commit that was captured before it was written, and is not published yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unpublished {
    salt: Salt,
    until: Instant,
}

impl History {
    /// Captures the commit that `write` would complete.
    fn capture_ahead(
        &mut self,
        db: &Database,
        shared: &Shared,
        write: &WalWrite,
        since: UnixMs,
    ) -> Result<Ahead, CaptureError> {
        let drained = self.drain(db, shared, None, None, since)?;
        if matches!(drained.next, Next::Image | Next::Unknown) {
            return Ok(Ahead::Unknown);
        }
        let Log::Valid(mut log) = open_log(db, shared)? else {
            return Ok(Ahead::NoCommit);
        };
        let place = self.mark.and_then(|mark| mark.wal);
        let Some(place) = place.filter(|place| place.salt == log.header.salt) else {
            return Ok(Ahead::Unknown);
        };
        let read = |log: &mut WalReader| {
            let transactions = log.transactions(place.position, log.len);
            transactions.map_err(CaptureError::io("read the log"))
        };
        let before = read(&mut log)?;
        log.lay_over(write.offset, write.data.clone());
        let after = read(&mut log)?;
        if after.is_empty() || end_of(&after) == end_of(&before) {
            return Ok(Ahead::NoCommit);
        }
        self.unpublished = Some(Unpublished {
            salt: place.salt,
            until: Instant::now() + PUBLISHED_WITHIN,
        });
        match self.capture(db, shared, &log, place, &after, since) {
            Err(CaptureError::Holes { .. }) => {
                self.compare_because(db, "holes");
                return Ok(Ahead::Unknown);
            }
            captured => captured?,
        }
        let mark = self.mark.expect("BUG: captured without a mark");
        let end = mark.wal.expect("BUG: captured from no log");
        db.set_captured_end(end.position.offset);
        Ok(Ahead::Captured(mark.txid))
    }

    /// Whether the newest captured commit is still on its way into the log, or to the live connections.
    pub(super) fn is_ahead(
        &mut self,
        db: &Database,
        shared: &Shared,
        log: &mut WalReader,
    ) -> Result<bool, CaptureError> {
        let place = self.mark.and_then(|mark| mark.wal);
        let (Some(unpublished), Some(place)) = (self.unpublished, place) else {
            return Ok(false);
        };
        // Before the log is read: it is written before it is let go.
        let is_held = db.is_holding();
        let is_written = log
            .chains(&place)
            .map_err(CaptureError::io("read the log's last captured frame"))?;
        let is_ahead = unpublished.salt == log.header.salt
            && match is_written {
                false => is_held,
                true => {
                    let extent = committed_extent(db, shared, log, false)?;
                    let is_published = extent.is_some_and(|it| it.end >= place.position.offset);
                    !is_published && Instant::now() < unpublished.until
                }
            };
        if !is_ahead {
            self.unpublished = None;
        }
        Ok(is_ahead)
    }
}

fn end_of(transactions: &[Transaction]) -> Option<Position> {
    transactions.last().map(|last| last.end)
}
