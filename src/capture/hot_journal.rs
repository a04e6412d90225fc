//! Rollback journals that stand beside a database: of a transaction that is under way, or left by a writer that died.
//!
//! SQLite alone rolls back. The capture reads what is committed: the file with the journal's pages laid over it. Pages of
//! the file are read first and the journal after them, and SQLite writes a page's record before the page: so the journal has
//! each page that was changed, as long as it is the same one and nobody writes it meanwhile.

use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use super::Shared;
use super::backing::{Opened, Stamp, companion, read_up_to};
use super::copy::Image;
use super::database::Database;
use super::error::CaptureError;
use super::files::{is_left_alone, read_header};
use super::state::Stamps;
use crate::format::journal::Journal;
use crate::tenant::events::HOT_JOURNAL;

/// A journal from which the committed state can be read, for as long as it stays as it is.
#[derive(Debug)]
pub(super) struct HotJournal {
    file: Arc<File>,
    /// Of the journal.
    pub stamp: Stamp,
    pub journal: Journal,
}

impl Shared {
    /// The journal that SQLite would roll back at the next opening of the database; none where the file is what is
    /// committed.
    ///
    /// # Errors
    /// `Disturbed` while a transaction is being written. `HotJournal` where nobody can tell what is committed.
    pub(super) fn hot_journal(&self, db: &Database) -> Result<Option<HotJournal>, CaptureError> {
        let failed = CaptureError::io("look for a journal");
        let path = companion(&db.path, "-journal");
        let opened = self.backing.open_stamped(&path).map_err(failed)?;
        let Some(Opened { file, stamp }) = opened.filter(|opened| opened.stamp.size > 0) else {
            return self.refuse_other_writer(db).map(|()| None);
        };
        let page_size = read_header(db, self)?.map_or(0, |header| header.page_size);
        let mut read = |bytes: &mut [u8], at: u64| read_up_to(&file, bytes, at);
        let decoded = Journal::decode(stamp.size, page_size, &mut read);
        let Some(journal) = decoded.map_err(CaptureError::io("read the journal"))? else {
            return self.refuse_other_writer(db).map(|()| None);
        };
        let database = self.backing.stamp(&db.path);
        let database = database.map_err(CaptureError::io("look at the database"))?;
        if !is_left_alone(&stamp) || !is_left_alone(&database) {
            return Err(CaptureError::Disturbed);
        }
        if let Some(name) = journal.super_journal()
            && !self.has_super_journal(db, Path::new(std::ffi::OsStr::from_bytes(name)))?
        {
            // All of the databases have committed: this one's journal was not removed yet.
            return Ok(None);
        }
        Ok(Some(HotJournal {
            file,
            stamp,
            journal,
        }))
    }

    /// Whether what stands there is of the first transaction of a new database, which has not ended: it is empty. Told as a
    /// hot journal is.
    pub(super) fn leads_to_nothing(
        &self,
        db: &Database,
        stamps: &Stamps,
    ) -> Result<bool, CaptureError> {
        let is_so = match self.hot_journal(db) {
            Ok(found) => found.is_some_and(|hot| hot.journal.pages() == 0),
            // What has to be waited for is found by whoever reads the file.
            Err(CaptureError::Disturbed | CaptureError::HotJournal(_)) => false,
            Err(error) => return Err(error),
        };
        if is_so {
            db.note_hot_journal(true, self.has_writer(stamps.database.inode)?);
        }
        Ok(is_so)
    }

    /// Whether a super-journal is there, by the name that its writer had for it.
    fn has_super_journal(&self, db: &Database, name: &Path) -> Result<bool, CaptureError> {
        let seen_at = db.client().map(|client| client.seen_at.clone());
        let below = seen_at
            .as_deref()
            .and_then(|root| name.strip_prefix(root).ok());
        let Some(below) = below else {
            return Err(CaptureError::HotJournal(format!(
                "its transaction counts unless {} exists, which is outside of the watch path",
                name.display()
            )));
        };
        let stamp = self.backing.stamp(below);
        // As SQLite asks: an empty one is none.
        Ok(stamp
            .map_err(CaptureError::io("look for a super-journal"))?
            .size
            > 0)
    }

    /// The journal of a transaction that is written by another name of the file lies beside that name.
    fn refuse_other_writer(&self, db: &Database) -> Result<(), CaptureError> {
        let links = self.backing.links(&db.path);
        let Some((inode, links)) = links.map_err(CaptureError::io("look at the database"))? else {
            return Ok(());
        };
        let holds = db.turn.if_made().is_some_and(|turn| turn.holds());
        match links > 1 && !holds && self.has_writer(inode)? {
            true => Err(CaptureError::Disturbed),
            false => Ok(()),
        }
    }

    /// Whether the name of a journal leads to one that is no left-over of a commit; what can't be looked at counts as one.
    pub(super) fn may_have_hot_journal(&self, db: &Database) -> bool {
        self.backing.has_hot_journal(&db.path).unwrap_or(true)
    }
}

impl HotJournal {
    /// Puts the pages back that its transaction has changed.
    pub fn lay_over(&self, image: &mut Image) -> Result<(), CaptureError> {
        let mut read = |bytes: &mut [u8], at: u64| read_up_to(&self.file, bytes, at);
        let mut each = |pgno: u32, page: &[u8]| image.put(pgno, page);
        let done = self.journal.each_page(&mut read, &mut each);
        done.map_err(CaptureError::io("lay the journal over the image"))
    }
}

impl Database {
    /// Health and the log say of a journal that nobody has rolled back, until that is done. `is_written`: by a writer that
    /// is alive.
    pub(super) fn note_hot_journal(&self, is_there: bool, is_written: bool) {
        let Some(client) = self.client() else {
            return;
        };
        let is_told =
            |notice: Option<&str>| notice.is_some_and(|told| told.starts_with(HOT_JOURNAL));
        let was_told = is_told(client.progress().found().notice.as_deref());
        match (is_there && !is_written, was_told) {
            (true, false) => {
                let journal = companion(&client.seen_path(), "-journal");
                let text = format!(
                    "{HOT_JOURNAL}: a writer has died in the middle of a transaction and left {}; what was committed before it is stored, and the next connection that opens the database rolls it back",
                    journal.display()
                );
                tracing::warn!(client = %self.label(), prefix = client.prefix(), error = %text, "A journal has to be rolled back");
                client.update(|progress| progress.found_mut().notice = Some(text));
            }
            (false, true) => client.update(|progress| progress.found_mut().notice = None),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
