//! What the pipelines and upkeep ask of one database: carried out by workers, answered when it is done.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::adopt::StoredSegment;
use super::answers::Answers;
use super::database::Database;
use super::drain::Drained;
use super::error::CaptureError;
use super::history::Earlier;
use super::mark::Segment;
use super::merge::Number;
use super::notes::Note;
use super::snapshot::{self, Made};
use super::state::{SnapshotNote, Stamps, Upkeep};
use super::workers::{self, Look, counted};
use super::{Capture, Shared, merging};
use crate::clock::{UnixMs, now_ms};
use crate::format::plan::newest::NewestState;
use crate::store::keys::ObjectKey;

/// What came of a look for what is to be stored.
pub enum Looked {
    /// Whether this object is in the store has to be known before anything is captured.
    Unnoted(ObjectKey),
    Drained {
        drained: Drained,
        /// The next segment to be stored.
        front: Option<Box<Segment>>,
        /// Several wait, which `merge` may make fewer.
        are_several: bool,
    },
}

/// What there is to do after a segment has been stored.
pub struct Noted {
    /// The next one.
    pub next: Option<Segment>,
    /// The newest snapshot, with what has come after it.
    pub snapshot: Option<SnapshotNote>,
    /// All is stored, and that is noted.
    pub is_settled: bool,
}

impl Capture {
    /// Captures what was committed since the last look, or names the object that has to be looked for before: an earlier
    /// run may have stored it and died before it noted that. It is to be given to `adopt`, and is named once.
    pub async fn look(&self, db: &Arc<Database>) -> Result<Looked, CaptureError> {
        self.ask(db, |db, shared| {
            let mut history = db.history();
            history.load(db, shared)?;
            if let Some(key) = history.doubtful_successor() {
                return Ok(Looked::Unnoted(key));
            }
            drop(history);
            let drained = workers::drain(db, shared)?;
            let history = db.history();
            let front = history.front().map(Box::new);
            let are_several = history.may_have_run_to_store();
            Ok(Looked::Drained {
                drained,
                front,
                are_several,
            })
        })
        .await
    }

    /// Captures what was committed since the last look.
    pub async fn drain(&self, db: &Arc<Database>) -> Result<Drained, CaptureError> {
        self.ask(db, workers::drain).await
    }

    /// Merges what waits and was captured within one sync interval, but for the next one to be stored.
    pub async fn merge(&self, db: &Arc<Database>) -> Result<(), CaptureError> {
        let merge = |db: &Arc<Database>, shared: &Shared| {
            merging::before_store(db, shared);
            Ok(())
        };
        self.ask_for_all_pages(db, merge).await
    }

    /// Reads the whole database: a new generation, or what differs.
    pub async fn image(&self, db: &Arc<Database>) -> Result<(), CaptureError> {
        self.ask_for_all_pages(db, workers::make_image).await
    }

    /// Makes a further snapshot of the present generation. It is not part of what waits: it may be stored once its state
    /// is, and then `snapshot_stored` has to be told; or `drop_snapshot`.
    pub async fn snapshot(&self, db: &Arc<Database>) -> Result<Made, CaptureError> {
        self.ask_for_all_pages(db, snapshot::make).await
    }

    /// Whether a snapshot that `snapshot` gave with this still is of the state that has its number: what waited then may
    /// have been given up, and captured anew.
    pub async fn is_number_good(
        &self,
        db: &Arc<Database>,
        number: &Number,
    ) -> Result<bool, CaptureError> {
        let number = number.clone();
        self.ask(db, move |db, _| Ok(db.history().numbers.have(&number)))
            .await
    }

    /// A snapshot that `snapshot` gave with this is in the store.
    pub async fn snapshot_stored(
        &self,
        db: &Arc<Database>,
        segment: Segment,
        number: Number,
    ) -> Result<(), CaptureError> {
        self.ask(db, move |db, shared| {
            let mut history = db.history();
            history.snapshot_stored(shared, &segment)?;
            drop(number);
            history.rest();
            if let Some(client) = db.client() {
                // It has proven every page of what is stored.
                client.update(|progress| progress.forget_notice(now_ms()));
            }
            shared.remove_body(&segment)
        })
        .await
    }

    /// A snapshot that `snapshot` gave will not be stored.
    pub async fn drop_snapshot(
        &self,
        db: &Arc<Database>,
        segment: Segment,
    ) -> Result<(), CaptureError> {
        self.ask(db, move |_, shared| shared.remove_body(&segment))
            .await
    }

    /// The next segment to be stored.
    pub async fn front(&self, db: &Arc<Database>) -> Result<Option<Segment>, CaptureError> {
        self.ask(db, |db, shared| {
            let mut history = db.history();
            // Of one that was removed before its first look an earlier run may have left something.
            history.load(db, shared)?;
            Ok(history.front())
        })
        .await
    }

    /// The `segment` that `front` gave is in the store. `stamps` are the files' before the look that captured all there
    /// was: with the last segment it is noted that the next start need not look, as `settled` does. `may_wait`: for others
    /// that are noted with it.
    pub async fn stored(
        &self,
        db: &Arc<Database>,
        segment: &Segment,
        stamps: Option<Stamps>,
        may_wait: bool,
    ) -> Result<Noted, CaptureError> {
        let (done, answer) = oneshot::channel();
        let note = Note {
            db: db.clone(),
            end: segment.end,
            file_checksum: segment.file_checksum,
            stamps,
            done,
        };
        match may_wait {
            true => self.workers.note(note),
            false => self.workers.look(note.into_look()),
        }
        answer.await.unwrap_or(Err(CaptureError::Stopped))
    }

    /// When something of the replica may have outlived its retention is noted for the next start.
    pub async fn save_retain_at(
        &self,
        db: &Arc<Database>,
        at: Option<UnixMs>,
    ) -> Result<(), CaptureError> {
        self.ask(db, move |db, shared| {
            let id = db.id().ok_or(CaptureError::Stopped)?;
            Ok(shared.state.save_retain_at(id, at)?)
        })
        .await
    }

    /// What earlier runs have left for upkeep.
    pub async fn upkeep(&self) -> Result<Vec<Upkeep>, CaptureError> {
        let (done, answer) = oneshot::channel();
        let look = move |shared: &Shared, _: &mut Answers| drop(done.send(shared.state.upkeep()));
        self.workers.look(Box::new(look));
        Ok(answer.await.map_err(|_| CaptureError::Stopped)??)
    }

    /// What the store has to have of a database for its newest acknowledged state; none where nothing is stored.
    pub async fn newest_state(
        &self,
        db: &Arc<Database>,
    ) -> Result<Option<NewestState>, CaptureError> {
        self.ask(db, |db, shared| match db.id() {
            Some(id) => Ok(shared.state.newest_state(id)?),
            None => Ok(None),
        })
        .await
    }

    /// The same of all databases, by their paths below the watch path.
    pub async fn newest_states(
        &self,
    ) -> Result<Vec<(std::path::PathBuf, NewestState)>, CaptureError> {
        let (done, answer) = oneshot::channel();
        let look =
            move |shared: &Shared, _: &mut Answers| drop(done.send(shared.state.newest_states()));
        self.workers.look(Box::new(look));
        Ok(answer.await.map_err(|_| CaptureError::Stopped)??)
    }

    /// What waits can't be stored under its names: a new generation has to begin, after what the store has.
    pub async fn abandon(
        &self,
        db: &Arc<Database>,
        earlier: Option<Earlier>,
    ) -> Result<(), CaptureError> {
        self.ask(db, move |db, shared| db.history().abandon(shared, earlier))
            .await
    }

    /// Goes on from a segment that is in the store under the number of the oldest one that waits. False where it does
    /// not follow what was stored before.
    pub async fn adopt(
        &self,
        db: &Arc<Database>,
        object: StoredSegment,
    ) -> Result<bool, CaptureError> {
        self.ask(db, move |db, shared| {
            db.history().adopt(db, shared, &object)
        })
        .await
    }

    /// All is stored, and nothing was written since `stamps` were taken: the next start need not look.
    pub async fn settled(
        &self,
        db: &Arc<Database>,
        stamps: Option<Stamps>,
    ) -> Result<(), CaptureError> {
        self.ask(db, move |db, shared| {
            let stamps = stamps.filter(|_| !db.is_dirty());
            let history = db.history();
            history.save_stamps(shared, stamps)?;
            history.rest();
            Ok(())
        })
        .await
    }

    /// Has a worker do something with one database; only workers wait for a database's history.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        db: &Arc<Database>,
        work: impl FnOnce(&Arc<Database>, &Shared) -> Result<T, CaptureError> + Send + 'static,
    ) -> Result<T, CaptureError> {
        let (look, answer) = asked(db, work);
        self.workers.look(look);
        answer.await.unwrap_or(Err(CaptureError::Stopped))
    }

    /// The same for what reads the whole database.
    async fn ask_for_all_pages<T: Send + 'static>(
        &self,
        db: &Arc<Database>,
        work: impl FnOnce(&Arc<Database>, &Shared) -> Result<T, CaptureError> + Send + 'static,
    ) -> Result<T, CaptureError> {
        let (look, answer) = asked(db, work);
        self.workers.image(look);
        answer.await.unwrap_or(Err(CaptureError::Stopped))
    }
}

/// The answer to what a worker was asked.
type Answer<T> = oneshot::Receiver<Result<T, CaptureError>>;

/// Work for a worker, and where its answer comes.
fn asked<T: Send + 'static>(
    db: &Arc<Database>,
    work: impl FnOnce(&Arc<Database>, &Shared) -> Result<T, CaptureError> + Send + 'static,
) -> (Look, Answer<T>) {
    let (done, answer) = oneshot::channel();
    let db = db.clone();
    let look = move |shared: &Shared, answers: &mut Answers| {
        let answer = counted(&db, || work(&db, shared));
        // An asker that has gone away does not need it.
        answers.add(move || drop(done.send(answer)));
    };
    (Box::new(look), answer)
}
