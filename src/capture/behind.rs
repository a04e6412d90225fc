//! A database's file that is behind its replica: a power cut took commits that were stored already, or an older copy
//! was put in its place while nothing ran.
//!
//! It is seen when a run finds its place in the files for the first time: captured frames that are not in the log of
//! their salts, a whole database that is as one of the states before was, or pages that are as they were before a stored
//! segment. To go on from there would undo stored commits as if an application had. So a new generation begins with the
//! file as it is, and the one before stays restorable.

use std::collections::HashSet;

use super::adopt::StoredSegment;
use super::copy::Image;
use super::database::Database;
use super::error::CaptureError;
use super::history::History;
use super::mark::{Mark, PageSum};

const BEHIND_REPLICA: &str = "behind_replica";

/// What an earlier run has left, and the files have not confirmed in this one yet.
#[derive(Debug, Default)]
pub(super) struct Unconfirmed {
    /// Checksums of earlier states of the database, as they were stored.
    pub past: HashSet<u64>,
    /// Sums that pages had before an object changed them that was stored and not noted.
    pub former: Vec<PageSum>,
}

impl Unconfirmed {
    fn knows(&self, image: &Image) -> bool {
        let is_former = |(pgno, sum): &PageSum| image.sums.get(*pgno as usize - 1) == Some(sum);
        self.past.contains(&image.checksum().value()) || self.former.iter().any(is_former)
    }
}

impl History {
    /// The file has what was captured last: from here on it can't be behind.
    pub(super) fn confirm_files(&mut self) {
        self.unconfirmed = None;
        self.has_found_place = true;
    }

    /// Whether an image shows what the database was before the state `mark`.
    pub(super) fn is_behind(&self, image: &Image, mark: &Mark) -> bool {
        image.checksum() != mark.checksum
            && self
                .unconfirmed
                .as_ref()
                .is_some_and(|unconfirmed| unconfirmed.knows(image))
    }

    /// An object was stored whose commits the log does not show: notes how its pages were before it.
    pub(super) fn note_former(&mut self, object: &StoredSegment) -> Result<(), CaptureError> {
        if self.was_confirmed {
            return Ok(());
        }
        let table = self.sums.as_ref().expect("BUG: loaded without page sums");
        let failed = || CaptureError::io("read the page sums");
        let reader = table.reader();
        let mut former = Vec::new();
        for &(pgno, new) in object.sums() {
            let old = reader.sum(pgno).map_err(failed())?;
            if old != new && old != 0 {
                former.push((pgno, old));
            }
        }
        let unconfirmed = self.unconfirmed.get_or_insert_default();
        unconfirmed.former.extend(former);
        Ok(())
    }

    /// The file lacks commits that are in the store, the newest known of which is `newest`: a new generation begins.
    pub(super) fn fall_behind(&mut self, db: &Database, newest: &Mark) {
        self.mark = None;
        self.resync = None;
        self.confirm_files();
        if self.was_confirmed {
            // It went on while nobody followed it.
            return;
        }
        let Mark {
            generation, txid, ..
        } = newest;
        let client = db.client();
        tracing::warn!(
            client = %db.label(),
            prefix = client.as_deref().and_then(|client| client.prefix()),
            txid,
            %generation,
            "The database's file is behind its replica; a new generation begins, and the one before stays restorable"
        );
        if let Some(client) = client {
            let text = format!(
                "{BEHIND_REPLICA}: the file lacked commits that are in the store, up to transaction {txid} at least of generation {generation}; restore that where they are wanted"
            );
            client.update(|progress| {
                progress.found_mut().notice = Some(text);
                progress.is_behind = true;
            });
        }
    }
}
