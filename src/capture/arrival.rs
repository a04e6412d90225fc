//! Databases that come from elsewhere: a file that is copied, moved or written over by something that is not SQLite.
//!
//! Such a file is no database before it is whole, and nobody says when that is. SQLite opens no file to write it without
//! reading it, and cuts none when it opens it: handles of that kind are external. While one is open, and no connection
//! works on the database, the file is arriving: nothing is captured of it. A first copy counts as whole when it was left
//! alone for a moment and its structure is sound, since its writer may never close it; what is written over a captured
//! database has to be closed.
//! What has arrived is checked by its structure before it is stored. Only where a connection works on it is a file with
//! a flaw stored all the same: its commits would be lost else, and the flaw is told.

use std::sync::Mutex;

use super::Shared;
use super::backing::Stamp;
use super::copy::Image;
use super::database::{Database, locked};
use super::error::CaptureError;
use super::files::is_left_alone;
use super::gate::Gate;
use super::handles::External;
use super::history::History;
use crate::clock::now_ms;
use crate::format::ltx::lock_page;
use crate::format::structure::{Check, Structure};

/// A file whose writer has closed it counts as arriving for so long after its last write where it has a flaw: an upload
/// in pieces opens it again.
const SETTLING_MS: i64 = 2_000;

/// How often things had happened that an image is to show.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Happened {
    arrivals: u32,
    journals: u32,
}

impl Database {
    /// Another file has come to stand in its place, or the one that stood there was cut to nothing.
    pub(super) fn note_arrival(&self) {
        self.with_handles(|handles| handles.arrivals.happened());
    }

    /// Its rollback journal was made, written, cut or removed.
    pub(super) fn note_journal(&self) {
        self.with_handles(|handles| handles.journals.happened());
    }

    /// Before an image is begun.
    pub(super) fn happened(&self) -> Happened {
        self.with_handles(|handles| Happened {
            arrivals: handles.arrivals.times(),
            journals: handles.journals.times(),
        })
    }

    /// The image that was begun then is captured.
    pub(super) fn has_arrived(&self, then: Happened) {
        self.with_handles(|handles| {
            handles.arrivals.captured(then.arrivals);
            handles.journals.captured(then.journals);
            handles.has_new_log &= handles.arrivals.is_due();
        });
        self.refused.take();
    }

    /// Whether something else than SQLite may have written its files since they were captured.
    pub(super) fn is_arriving(&self) -> bool {
        self.with_handles(|handles| {
            handles.external() != External::None || handles.arrivals.is_due()
        })
    }

    pub(super) fn external(&self) -> External {
        self.with_handles(|handles| handles.external())
    }
}

impl Shared {
    /// Whether connections work on the database: one has the wal-index open or holds a lock, or a journal was there since
    /// it was captured. One that has a database with a rollback journal open and does nothing can't be told.
    pub(super) fn is_in_use(&self, db: &Database, inode: u64) -> Result<bool, CaptureError> {
        let is_at_work =
            db.with_handles(|handles| handles.has_index() || handles.journals.is_due());
        Ok(is_at_work || self.has_lock(inode)?)
    }

    /// Whether something else than SQLite has the database's files open, and nothing of them may be captured yet.
    fn is_written_externally(&self, db: &Database, inode: u64) -> Result<bool, CaptureError> {
        Ok(db.external() != External::None && !self.is_in_use(db, inode)?)
    }

    /// Before the whole of a file is read.
    pub(super) fn refuse_unfinished(
        &self,
        db: &Database,
        stamp: &Stamp,
    ) -> Result<(), CaptureError> {
        if !self.is_written_externally(db, stamp.inode)? {
            return Ok(());
        }
        let is_as_refused = db.refused.get() == Some(*stamp);
        if stamp.size == 0 || is_as_refused || !is_left_alone(stamp) {
            return Err(CaptureError::Arriving(WRITTEN.to_owned()));
        }
        Ok(())
    }

    /// What becomes of a file with a flaw: given back where it is captured all the same.
    ///
    /// # Errors
    /// `Arriving` where it may yet become whole, else the flaw.
    pub(super) fn judge_flaw(
        &self,
        db: &Database,
        stamp: &Stamp,
        flaw: CaptureError,
    ) -> Result<CaptureError, CaptureError> {
        let is_open = db.external() != External::None;
        let is_arriving = db.is_arriving() && !self.is_in_use(db, stamp.inode)?;
        let is_new = now_ms() - stamp.modified_ns / 1_000_000 < SETTLING_MS;
        if is_open {
            // It need not be read again before it is another one.
            db.refused.set(*stamp);
        }
        if is_open || (is_arriving && is_new) {
            return Err(CaptureError::Arriving(flaw.to_string()));
        }
        match flaw {
            CaptureError::Malformed(_) if !is_arriving => Ok(flaw),
            flaw => Err(flaw),
        }
    }
}

/// The stamp of a file that was refused while somebody had it open. Few databases ever have one.
#[derive(Debug, Default)]
pub(super) struct Refused(Mutex<Option<Box<Stamp>>>);

impl Refused {
    fn get(&self) -> Option<Stamp> {
        locked(&self.0).as_deref().copied()
    }

    fn set(&self, stamp: Stamp) {
        *locked(&self.0) = Some(stamp.into());
    }

    fn take(&self) {
        *locked(&self.0) = None;
    }
}

/// What the failure of a database with a flaw begins with.
pub(super) const MALFORMED: &str = "malformed";
/// Why a file is still arriving, where nothing else is known of it.
pub(super) const WRITTEN: &str = "a process writes the file, and it is not SQLite";

impl History {
    /// Before a look. At a gate what stands there is captured in any case.
    pub(super) fn refuse_arriving(
        &self,
        db: &Database,
        shared: &Shared,
        gate: Option<Gate>,
    ) -> Result<(), CaptureError> {
        let external = db.external();
        let has_to_be_closed = external == External::Log || self.mark.is_some();
        if gate.is_some() || external == External::None || !has_to_be_closed {
            return Ok(());
        }
        let stamp = shared.stamps(db)?.database;
        let is_known = stamp == self.seen_stamp || self.at_rest == Some(stamp);
        let is_as_captured = external == External::Database && is_known;
        match !is_as_captured && shared.is_written_externally(db, stamp.inode)? {
            true => Err(CaptureError::Arriving(WRITTEN.to_owned())),
            false => Ok(()),
        }
    }

    /// Whether the log came from elsewhere, and nobody has it open now: it is of a hot copy, of which only all of it counts.
    pub(super) fn has_new_log(
        &self,
        db: &Database,
        shared: &Shared,
        inode: u64,
    ) -> Result<bool, CaptureError> {
        let is_closed =
            db.with_handles(|handles| handles.has_new_log && handles.external() == External::None);
        Ok(is_closed && !shared.is_in_use(db, inode)?)
    }
}

/// Checks the structure of what an image has shown of the file with this stamp, before it is stored.
///
/// # Errors
/// `Arriving` and `Malformed` where it is not to be stored.
pub(super) fn prove(
    db: &Database,
    shared: &Shared,
    image: &Image,
    stamp: &Stamp,
) -> Result<(), CaptureError> {
    let pages = image.sums.len() as u32;
    let mut check = Check::new(image.page_size, pages);
    let mut page = vec![0; image.page_size as usize];
    for number in 1..=pages {
        image.get(number, &mut page)?;
        check.page(number, &page);
    }
    match check.finish() {
        Ok(Structure::Sound) => tell_sound(db),
        // Nobody can say whether it is whole.
        Ok(Structure::Encrypted) if shared.is_written_externally(db, stamp.inode)? => {
            return Err(CaptureError::Arriving(WRITTEN.to_owned()));
        }
        Ok(Structure::Encrypted) => {}
        Err(flaw) => {
            let flaw = shared.judge_flaw(db, stamp, CaptureError::Malformed(flaw))?;
            tell_malformed(db, &flaw);
        }
    }
    Ok(())
}

/// A database with a flaw is stored as it is, and shown as a failure until a later image is sound.
fn tell_malformed(db: &Database, flaw: &CaptureError) {
    tracing::error!(
        client = %db.label(),
        prefix = db.client().as_deref().and_then(|client| client.prefix()),
        error = %flaw,
        "The database is malformed, and stored as it is"
    );
    if let Some(client) = db.client() {
        let text = format!("{MALFORMED}: {flaw}; it is stored as it is");
        client.update(|progress| progress.found_mut().damage = Some(text));
    }
}

fn tell_sound(db: &Database) {
    let Some(client) = db.client() else { return };
    let damage = client.progress().found().damage.clone();
    if damage.is_some_and(|damage| damage.starts_with(MALFORMED)) {
        client.update(|progress| progress.found_mut().damage = None);
    }
}

/// A database of `commit` pages has each of them in its file or its log, but for the one that is never used.
///
/// # Errors
/// `Incomplete`
pub(super) fn refuse_missing_pages(image: &Image, commit: u32) -> Result<(), CaptureError> {
    let lock = lock_page(image.page_size);
    let is_there = |pgno: u32| {
        image
            .sums
            .get(pgno as usize - 1)
            .is_some_and(|sum| *sum != 0)
    };
    let missing = (1..=commit).filter(|pgno| *pgno != lock && !is_there(*pgno));
    match missing.count() as u32 {
        0 => Ok(()),
        missing => Err(CaptureError::Incomplete {
            missing,
            pages: commit,
        }),
    }
}
