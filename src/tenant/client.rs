//! One client: its names and places, what holds for it, and how far it has come.

use std::fmt;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::events::{EventKind, Events, HOT_JOURNAL};
use super::ids::{ClientId, Identity};
use super::policy::Policy;
use super::position::Waiting;
use super::progress::{Progress, Status, age_ms};
use crate::clock::{UnixMs, now_ms};
use crate::store::keys::GenerationId;

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
    /// When it was last looked at whether its replica is whole; Unix milliseconds.
    looked_at: AtomicI64,
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
            looked_at: AtomicI64::new(0),
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

    /// Whether its replica was not looked at for that long; then it counts as looked at now.
    pub fn takes_look(&self, now: UnixMs, every: Duration) -> bool {
        let before = self.looked_at.load(Ordering::Relaxed);
        // A clock that went back is no reason to wait for it.
        let is_due = age_ms(before, now) >= every.as_millis() as u64 || before > now;
        if is_due {
            self.looked_at.store(now, Ordering::Relaxed);
        }
        is_due
    }

    /// A new generation has to begin, after this one.
    pub fn set_overtaken_by(&self, generation: GenerationId) {
        self.lock_seldom().get_or_insert_default().overtaken_by = Some(generation);
    }

    /// Whether a new generation has still to begin.
    pub fn is_overtaken(&self) -> bool {
        let seldom = self.lock_seldom();
        seldom
            .as_ref()
            .is_some_and(|seldom| seldom.overtaken_by.is_some())
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
        let told = progress.found().notice.as_deref();
        Self {
            fails: progress.status == Status::Failing
                || progress.fault().is_some()
                || told.is_some_and(|told| told.starts_with(HOT_JOURNAL)),
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
    use crate::tenant::progress::NOTICE_SHOWN_MS;
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
            client.update(|progress| progress.forget_notice(now));
            client.progress().last_error
        };
        client.update(|progress| {
            let found = progress.found_mut();
            (found.notice, found.noticed_at) = (Some("foreign_change: looked into".into()), 5_000);
        });
        assert!(shown(5_000 + NOTICE_SHOWN_MS - 1).is_some());
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
