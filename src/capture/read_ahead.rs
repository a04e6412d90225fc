//! Follows a log that is written fast, ahead of the look or the gate that captures it. Whoever waits at a gate then waits
//! for what was committed a moment before, and not for all since the last look.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::authority::Index;
use super::backing::Backing;
use super::database::Database;
use super::drain::committed_extent;
use super::error::CaptureError;
use super::files::{Log, open_log};
use super::history::History;
use super::mark::WalMark;
use super::wal_reader::WalReader;
use super::workers::{caught, listen_again};
use super::{Capture, Shared};
use crate::format::ltx::page_checksum;
use crate::format::scanner::{Scanner, Transaction};
use crate::format::wal::{FRAME_HEADER_SIZE, FrameHeader, WalHeader};

/// With fewer commits than these a look, or a gate, has little to read.
const FEWEST_COMMITS: u32 = if cfg!(test) { 2 } else { 16 };
/// Bytes that are followed in one go, for the database's gates wait meanwhile.
const AT_ONCE: u64 = 1 << 20;
/// Where so many transactions are known already, a look is due before long.
const MOST_KNOWN: usize = 8 << 10;

/// What was read of a log, and is not captured yet.
#[derive(Debug)]
pub(super) struct Followed {
    header: WalHeader,
    from: WalMark,
    scanner: Scanner,
    pub transactions: Vec<Transaction>,
}

impl Followed {
    pub(super) fn begin(log: &WalReader, from: WalMark) -> Self {
        Self {
            header: log.header,
            from,
            scanner: Scanner::new(log.header, from.position),
            transactions: Vec::new(),
        }
    }

    /// Goes on up to the byte `end`, where the chain does not end before.
    pub(super) fn go_on(&mut self, log: &mut WalReader, end: u64) -> Result<(), CaptureError> {
        log.follow(&mut self.scanner, end, &mut self.transactions)
            .map_err(CaptureError::io("read the log"))
    }

    /// The same; gives the checksum of the page in each frame, in their order. It goes not much further where it has found
    /// more than `most` transactions.
    pub(super) fn go_on_summing(
        &mut self,
        log: &mut WalReader,
        end: u64,
        most: usize,
    ) -> Result<Vec<u64>, CaptureError> {
        let mut sums = Vec::new();
        let mut each = |frame: &[u8]| {
            let (header, page) = frame.split_at(FRAME_HEADER_SIZE as usize);
            sums.push(page_checksum(FrameHeader::decode(header).pgno, page));
        };
        let (scanner, transactions) = (&mut self.scanner, &mut self.transactions);
        loop {
            let before = scanner.offset();
            let next = end.min(before + AT_ONCE);
            log.follow_each(scanner, next, transactions, &mut each)
                .map_err(CaptureError::io("read the log"))?;
            if scanner.offset() == before || transactions.len() > most {
                return Ok(sums);
            }
        }
    }

    /// Up to which byte of the log it was read.
    pub(super) fn offset(&self) -> u64 {
        self.scanner.offset()
    }

    /// Whether it is of this log, from there on, and no further than `end`.
    pub(super) fn leads(&self, log: &WalReader, from: WalMark, end: u64) -> bool {
        (self.header, self.from) == (log.header, from) && self.scanner.offset() <= end
    }
}

impl History {
    /// The committed transactions from `from` up to the byte `end`.
    pub(super) fn transactions(
        &mut self,
        log: &mut WalReader,
        from: WalMark,
        end: u64,
    ) -> Result<Vec<Transaction>, CaptureError> {
        let mut followed = self.take_followed(log, from, end);
        followed.go_on(log, end)?;
        Ok(followed.transactions)
    }

    /// What was read ahead of a log from `from` on, and not behind `end`; from there nothing, where that was not done.
    fn take_followed(&mut self, log: &WalReader, from: WalMark, end: u64) -> Box<Followed> {
        let known = self.followed.take();
        known
            .filter(|known| known.leads(log, from, end))
            .unwrap_or_else(|| Box::new(Followed::begin(log, from)))
    }

    /// Reads what follows in this log up to the byte `end`, where nothing of that was read ahead.
    pub(super) fn read_on(&self, log: &mut WalReader, end: u64) -> Result<(), CaptureError> {
        let is_unread = self.has_found_place && self.followed.is_none() && self.prepared.is_none();
        let captured = self.mark.and_then(|mark| mark.wal);
        let place = captured.filter(|place| is_unread && place.salt == log.header.salt);
        let Some(place) = place else {
            return Ok(());
        };
        let end = end.min(log.len);
        log.read_on(place.position.offset, end)
            .map_err(CaptureError::io("read the log"))
    }

    /// Reads on in the log, and captures nothing.
    pub(super) fn read_ahead(
        &mut self,
        db: &Database,
        shared: &Shared,
    ) -> Result<(), CaptureError> {
        if self.image.is_some() || !self.goes_on_by_log(db) {
            return Ok(());
        }
        let Some(mark) = self.mark else {
            return Ok(());
        };
        let Log::Valid(mut log) = open_log(db, shared)? else {
            return Ok(());
        };
        let Some(from) = self.goes_on_from(&mark, &log) else {
            return Ok(());
        };
        let extent = committed_extent(db, shared, &mut log, false)?;
        let Some(extent) = extent.filter(|extent| !extent.by_chain) else {
            return Ok(());
        };
        let end = extent.end.min(log.len);
        let mut followed = self.take_followed(&log, from, end);
        if followed.transactions.len() < MOST_KNOWN {
            let end = end.min(followed.scanner.offset() + AT_ONCE);
            followed.go_on(&mut log, end)?;
        }
        self.followed = Some(followed);
        db.followed.set(extent.counted.change);
        Ok(())
    }
}

/// `WalIndex::change` where a log was last read to, if that was seen.
#[derive(Debug, Default)]
pub(super) struct FollowedTo {
    /// One more than that; 0 for none.
    next: AtomicU64,
}

impl FollowedTo {
    pub fn get(&self) -> Option<u32> {
        let next = self.next.load(Ordering::SeqCst);
        next.checked_sub(1).map(|change| change as u32)
    }

    pub fn set(&self, change: Option<u32>) {
        let next = change.map_or(0, |change| u64::from(change) + 1);
        self.next.store(next, Ordering::SeqCst);
    }
}

impl Database {
    /// Whether so much was committed since the log was last read that it is worth while to read on.
    fn is_far_ahead(&self, backing: &Backing) -> bool {
        // The look, which is due, says what can't be read.
        let Ok(Index::Live(index)) = self.index(backing) else {
            return false;
        };
        let committed = match self.followed.get() {
            Some(followed) => index.change.wrapping_sub(followed),
            None => index.max_frame,
        };
        committed >= FEWEST_COMMITS
    }
}

impl Capture {
    /// Some time after a log that the kernel passes through was written: reads on in it, if it is written fast.
    pub(super) fn read_ahead_soon(&self, db: &Arc<Database>) {
        let db = db.newest();
        // What was looked at meanwhile is heard of again.
        if !db.is_dirty() || !db.is_far_ahead(&self.shared.backing) {
            return;
        }
        self.workers.look(Box::new(move |shared, _| {
            if let Err(error) = caught(&db, || db.history().read_ahead(&db, shared)) {
                tracing::debug!(client = %db.label(), %error, "A log was not read ahead of its look");
                return;
            }
            listen_again(&db, shared);
        }));
    }
}
