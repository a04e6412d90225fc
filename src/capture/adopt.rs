//! A segment of ours that is in the store already, other than we would write it now: the process died between the
//! store's acknowledgement and its own note of it. The history goes on from what is stored.

use super::Shared;
use super::database::Database;
use super::error::CaptureError;
use super::files::{Log, open_log};
use super::history::{History, sums_header};
use super::mark::{Mark, PageSum, WalMark};
use super::state::Entry;
use crate::clock::now_ms;
use crate::format::ltx::{DatabaseChecksum, Decoder, Header, LtxError, page_checksum};

/// A stored segment, decoded and verified.
#[derive(Debug)]
pub struct StoredSegment {
    pub header: Header,
    checksum: DatabaseChecksum,
    file_checksum: u64,
    /// Bytes of the object.
    size: u64,
    sums: Vec<PageSum>,
}

impl StoredSegment {
    /// Reads a whole segment.
    pub fn decode(bytes: &[u8]) -> Result<Self, LtxError> {
        let mut decoder = Decoder::new(bytes)?;
        let header = *decoder.header();
        let mut page = vec![0; header.page_size as usize];
        let mut sums = Vec::new();
        while let Some(pgno) = decoder.next_page(&mut page)? {
            sums.push((pgno, page_checksum(pgno, &page)));
        }
        let trailer = decoder.finish()?;
        let checksum = DatabaseChecksum::from_value(trailer.post_apply_checksum).ok_or(
            LtxError::PostApply {
                value: trailer.post_apply_checksum,
            },
        )?;
        Ok(Self {
            header,
            checksum,
            file_checksum: trailer.file_checksum,
            size: bytes.len() as u64,
            sums,
        })
    }
}

impl History {
    /// Goes on from `object`, which stands in the store right behind what is known to be stored; what waits is captured
    /// anew from there. False where it does not follow: then it is not ours.
    pub(super) fn adopt(
        &mut self,
        db: &Database,
        shared: &Shared,
        object: &StoredSegment,
    ) -> Result<bool, CaptureError> {
        let header = &object.header;
        let Some(before) = self.stored else {
            return Ok(false);
        };
        let follows = header.node_id == shared.state.node_id()
            && header.page_size == before.page_size
            && header.min_txid == before.txid + 1
            && header.pre_apply_checksum == before.checksum.value()
            && self
                .front()
                .is_none_or(|front| front.end.generation == before.generation && !front.snapshot);
        // What is durable is in the table of page sums already, which then is past the state before.
        if !follows || self.pending.iter().any(|segment| segment.durable) {
            return Ok(false);
        }
        let end = Mark {
            seq: before.seq + 1,
            txid: header.max_txid,
            checksum: object.checksum,
            commit: header.commit,
            time_ms: header.timestamp_ms,
            wal: self.place_behind(db, shared, header)?,
            ..before
        };
        let entry = Entry {
            mark: end,
            snapshot: false,
            committed_at: now_ms(),
            file_checksum: object.file_checksum,
            sums: object.sums.clone(),
        };
        let note = self.snapshot_after(&end, object.size);
        shared.state.save_stored(self.id, &entry, &note)?;
        self.pending.clear();
        let table = self.sums.as_mut().expect("BUG: loaded without page sums");
        table.drop_overlay();
        table
            .make_durable(&sums_header(&end), end.seq, &object.sums)
            .map_err(CaptureError::io("write the page sums"))?;
        self.stored = Some(end);
        self.snapshot = Some(note);
        self.mark = Some(end);
        self.tail = object.sums.clone().into();
        self.last_txid = self.last_txid.max(end.txid);
        self.log_ended = false;
        if end.wal.is_none() {
            self.resync = Some("adopted");
        }
        self.report(db);
        Ok(true)
    }

    /// Where the present log goes on behind what the object holds of it; none where that was another log.
    fn place_behind(
        &self,
        db: &Database,
        shared: &Shared,
        header: &Header,
    ) -> Result<Option<WalMark>, CaptureError> {
        let Log::Valid(log) = open_log(db, shared)? else {
            return Ok(None);
        };
        if log.header.salt != header.wal_salt {
            return Ok(None);
        }
        let position = log
            .position_at(header.wal_offset + header.wal_size)
            .map_err(CaptureError::io("read the log"))?;
        Ok(position.map(|position| WalMark {
            salt: header.wal_salt,
            position,
        }))
    }
}
