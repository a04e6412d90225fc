//! One client: its names and places, what holds for it, and how far it has come.

use std::fmt;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::events::{EventKind, Events};
use super::ids::{ClientId, Identity};
use super::policy::Policy;
use super::position::Waiting;
use crate::clock::{UnixMs, now_ms};
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
const NOTICE_SHOWN_MS: i64 = 10 * 60 * 1000;

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
    fn new() -> Self {
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

    /// A snapshot has proven every page since: a notice of that code has been shown for long enough.
    pub fn forget_notice(&mut self, code: &str, now: UnixMs) {
        let found = self.found();
        let is_of_code = found
            .notice
            .as_deref()
            .is_some_and(|text| text.starts_with(code));
        if is_of_code && now - found.noticed_at >= NOTICE_SHOWN_MS {
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
    fn fault(&self) -> Option<&str> {
        if self.unmounted {
            return Some("unmounted: its watch path is; what is written there is not seen");
        }
        let found = self.found.as_deref()?;
        let rival = found.rival.as_ref().map(|rival| rival.text.as_str());
        rival.or(found.damage.as_deref())
    }

    /// What is shown: a replica that is known to be damaged, or that another instance writes too, fails, and a client that
    /// is paused is nothing else, unless there is nothing to pause.
    fn shown(mut self) -> Self {
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
fn age_ms(since: UnixMs, now: UnixMs) -> u64 {
    now.saturating_sub(since).max(0) as u64
}

/// Where a replica lies.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// The store, a slash, and the place there.
    pub location: String,
    /// The place in the store.
    pub s3_prefix: String,
}

impl Place {
    /// The store alone.
    pub fn store(&self) -> &str {
        let store = self.location.strip_suffix(&self.s3_prefix);
        store.unwrap_or(&self.location)
    }
}

/// What is to be done when a client that was refused is admitted.
type OnAdmission = Box<dyn FnOnce(&Client) + Send>;

/// What few clients have, and few of them for long.
#[derive(Default)]
struct Seldom {
    on_admission: Option<OnAdmission>,
    /// The newest generation in the store is this one of another instance: ours has to come after it.
    overtaken_by: Option<GenerationId>,
}

impl fmt::Debug for Seldom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seldom").finish_non_exhaustive()
    }
}

/// One registered database.
#[derive(Debug)]
pub struct Client {
    pub id: ClientId,
    /// What logs, metrics and the API call it: the GUID, or `tenant/dbName`.
    pub label: Arc<str>,
    /// The database file, relative to the watch path.
    pub db_path: Arc<Path>,
    /// Where applications see the watch path.
    pub seen_at: Arc<Path>,
    /// Whether the registry in the store has to name it.
    pub is_listed: bool,
    /// Its store, a slash, and its place there; the place alone where there is no store for it.
    place: Arc<str>,
    /// Bytes of `place` before the place in the store; none where there is no store.
    before_place: Option<NonZero<u32>>,
    policy: Mutex<Arc<Policy>>,
    progress: Mutex<Progress>,
    /// Those who wait for its `replicated_txid` or `snapshot_txid`.
    waiting: Waiting,
    seldom: Mutex<Option<Box<Seldom>>>,
    /// None outside of a roster.
    events: Option<Events>,
}

impl Client {
    pub fn new(identity: Identity, db_path: Arc<Path>, seen_at: Arc<Path>) -> Self {
        let mut progress = Progress::new();
        progress.paused = !identity.policy.enabled;
        let whole = identity.location.as_ref();
        let before = whole.map_or(0, |whole| whole.len() - identity.s3_prefix.len());
        Self {
            id: identity.id,
            label: identity.label,
            db_path,
            seen_at,
            is_listed: identity.is_listed,
            before_place: NonZero::new(
                u32::try_from(before).expect("BUG: no store has such a name"),
            ),
            place: identity
                .location
                .unwrap_or_else(|| identity.s3_prefix.into()),
            policy: Mutex::new(identity.policy),
            progress: Mutex::new(progress),
            waiting: Waiting::default(),
            seldom: Mutex::default(),
            events: None,
        }
    }

    /// Tells those who listen what happens to it.
    pub(super) fn heard_by(self, events: Events) -> Self {
        Self {
            events: Some(events),
            ..self
        }
    }

    /// Has `act` done once it is admitted: at once where it is. Only the last that was asked for is done.
    pub fn when_admitted(&self, act: impl FnOnce(&Client) + Send + 'static) {
        let act: OnAdmission = Box::new(act);
        self.lock_seldom().get_or_insert_default().on_admission = Some(act);
        if self.lock().status != Status::Refused {
            self.act_on_admission();
        }
    }

    /// There is room for it by now.
    pub(super) fn admit(&self) {
        self.update(|progress| {
            progress.status = Status::Active;
            progress.last_error = None;
        });
        self.act_on_admission();
    }

    fn act_on_admission(&self) {
        let act = self.take_seldom(|seldom| seldom.on_admission.take());
        if let Some(act) = act {
            act(self);
        }
    }

    /// Takes something out, and gives back the room for it all where nothing else is in it.
    fn take_seldom<T>(&self, take: impl FnOnce(&mut Seldom) -> Option<T>) -> Option<T> {
        let mut seldom = self.lock_seldom();
        let taken = take(seldom.as_mut()?);
        seldom.take_if(|left| left.on_admission.is_none() && left.overtaken_by.is_none());
        taken
    }

    fn lock_seldom(&self) -> MutexGuard<'_, Option<Box<Seldom>>> {
        self.seldom.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its store and its place there; none where there is no store for it.
    pub fn location(&self) -> Option<&Arc<str>> {
        self.before_place.map(|_| &self.place)
    }

    /// Where its objects lie below its store's root, without a slash at either end.
    pub fn s3_prefix(&self) -> &str {
        let before = self.before_place.map_or(0, NonZero::get);
        &self.place[before as usize..]
    }

    /// The same as it is noted; none where there is no store for it.
    pub fn place(&self) -> Option<Place> {
        Some(Place {
            location: self.location()?.to_string(),
            s3_prefix: self.s3_prefix().to_owned(),
        })
    }

    /// What holds for it at present.
    pub fn policy(&self) -> Arc<Policy> {
        self.lock_policy().clone()
    }

    pub fn set_policy(&self, policy: Arc<Policy>) {
        *self.lock_policy() = policy;
    }

    fn lock_policy(&self) -> MutexGuard<'_, Arc<Policy>> {
        self.policy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The database file as applications see it.
    pub fn seen_path(&self) -> PathBuf {
        self.seen_at.join(&self.db_path)
    }

    /// The watch path's prefix, where it has one.
    pub fn prefix(&self) -> Option<&str> {
        (!self.id.prefix.is_empty()).then_some(&*self.id.prefix)
    }

    /// `PREFIX/` before the label where there is a prefix: the form that `restore` and `verify` take.
    pub fn full_label(&self) -> String {
        self.prefix().map_or_else(
            || self.label.to_string(),
            |prefix| format!("{prefix}/{}", self.label),
        )
    }

    /// A copy of how far this client has come.
    pub fn progress(&self) -> Progress {
        self.lock().clone().shown()
    }

    /// Whether nothing may be uploaded of it.
    pub fn is_paused(&self) -> bool {
        self.lock().paused
    }

    /// Changes the progress in place; whoever waits for `replicated_txid` or `snapshot_txid` sees it move, and whoever
    /// listens hears of what was stored and of failures.
    pub fn update(&self, change: impl FnOnce(&mut Progress)) {
        let (has_moved, event) = {
            let mut progress = self.lock();
            let place = |progress: &Progress| (progress.replicated_txid, progress.snapshot_txid);
            let (before, from) = (Noted::of(&progress), place(&progress));
            change(&mut progress);
            let event = before.event_at(&Noted::of(&progress));
            (place(&progress) != from, event)
        };
        if let (Some(event), Some(events)) = (event, &self.events) {
            events.tell(event, &self.id, &self.label);
        }
        if has_moved {
            self.waiting.tell();
        }
    }

    /// Waits until `replicated_txid` is `txid` or later.
    pub async fn replicated(&self, txid: u64) {
        let replicated = || self.lock().replicated_txid;
        self.waiting.reached(txid, replicated).await;
    }

    /// Waits until `snapshot_txid` is `txid` or later, and gives it.
    pub async fn snapshot(&self, txid: u64) -> u64 {
        let snapshot = || self.lock().snapshot_txid;
        self.waiting.reached(txid, snapshot).await
    }

    /// A new generation has to begin, after this one.
    pub fn set_overtaken_by(&self, generation: GenerationId) {
        self.lock_seldom().get_or_insert_default().overtaken_by = Some(generation);
    }

    /// What `set_overtaken_by` was told, once.
    pub fn take_overtaken_by(&self) -> Option<GenerationId> {
        self.take_seldom(|seldom| seldom.overtaken_by.take())
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What of a client's progress makes an event when it changes.
struct Noted {
    fails: bool,
    sync_errors: u64,
    /// 0 until something was stored in this run: what is only read from the state is no event.
    stored_txid: u64,
    oldest_pending_at: Option<UnixMs>,
}

impl Noted {
    fn of(progress: &Progress) -> Self {
        let stored = progress.last_sync_at.map(|_| progress.replicated_txid);
        Self {
            fails: progress.status == Status::Failing || progress.fault().is_some(),
            sync_errors: progress.sync_errors,
            stored_txid: stored.unwrap_or(0),
            oldest_pending_at: progress.oldest_pending_at,
        }
    }

    fn event_at(&self, after: &Self) -> Option<EventKind> {
        let fails = after.fails && !self.fails;
        if fails || after.sync_errors > self.sync_errors {
            Some(EventKind::Failed)
        } else if after.stored_txid > self.stored_txid {
            let waited = self.oldest_pending_at;
            let waited_ms = waited.map_or(0, |since| age_ms(since, now_ms()));
            Some(EventKind::Synced { waited_ms })
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tenant::discovery::Named;
    use crate::tenant::terms::Terms;

    fn client() -> Client {
        let identity = Terms::default().identity("", &Named::single("a"));
        Client::new(
            identity,
            Path::new("a.db").into(),
            Path::new("/data").into(),
        )
    }

    #[test]
    fn its_memory_is_one_piece_of_384_bytes() {
        // In an `Arc`, with its two counts.
        let bytes = size_of::<Client>() + 2 * size_of::<usize>();
        assert!(bytes <= 384, "{bytes} bytes");
    }

    #[test]
    fn what_few_clients_have_is_given_back() {
        let client = client();
        client.set_overtaken_by(GenerationId(7));
        client.when_admitted(|_| {});
        assert_eq!(client.take_overtaken_by(), Some(GenerationId(7)));
        assert_eq!(client.take_overtaken_by(), None);
        assert!(client.lock_seldom().is_none());
    }

    #[test]
    fn lag_is_the_age_of_the_oldest_commit_that_waits() {
        let client = client();
        assert_eq!(client.progress().lag_ms(5_000), 0);
        client.update(|progress| progress.oldest_pending_at = Some(4_000));
        assert_eq!(client.progress().lag_ms(5_000), 1_000);
        assert_eq!(client.progress().lag_ms(3_000), 0, "a clock that went back");
    }

    #[test]
    fn a_notice_is_shown_where_no_error_is() {
        let client = client();
        client.update(|progress| {
            progress.found_mut().notice = Some("foreign_change: looked into".to_owned())
        });
        let shown = client.progress();
        assert_eq!(shown.status, Status::Active);
        assert_eq!(shown.last_error, shown.found().notice);
        for (failed, told) in [
            (Some("no right".to_owned()), "retain: no right"),
            (None, "foreign_change: looked into"),
        ] {
            client.update(|progress| progress.note_upkeep("retain", failed.clone()));
            client.update(|progress| progress.note_upkeep("snapshot", None));
            assert_eq!(client.progress().last_error.as_deref(), Some(told));
        }
        client.update(|progress| progress.last_error = Some("store: gone".to_owned()));
        assert_eq!(client.progress().last_error.as_deref(), Some("store: gone"));
    }

    #[test]
    fn a_notice_goes_when_it_was_shown_for_a_while_and_is_proven_to_be_over() {
        let client = client();
        let shown = |now: UnixMs| {
            client.update(|progress| progress.forget_notice("foreign_change", now));
            client.progress().last_error
        };
        client.update(|progress| {
            let found = progress.found_mut();
            (found.notice, found.noticed_at) = (Some("foreign_change: looked into".into()), 5_000);
        });
        assert!(shown(5_000 + NOTICE_SHOWN_MS - 1).is_some());
        client.update(|progress| progress.forget_notice("behind_replica", i64::MAX));
        assert!(client.progress().last_error.is_some());
        assert_eq!(shown(5_000 + NOTICE_SHOWN_MS), None);
    }

    #[test]
    fn a_pause_is_shown_unless_there_is_nothing_to_pause() {
        let client = client();
        client.update(|progress| {
            progress.paused = true;
            progress.status = Status::Failing;
        });
        assert_eq!(client.progress().status, Status::Paused);
        client.update(|progress| progress.status = Status::Waiting);
        assert_eq!(client.progress().status, Status::Waiting);
    }
}
