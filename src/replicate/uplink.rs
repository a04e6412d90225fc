//! What the replication of all watch paths shares: the stores, the permits, the pace of each tenant, and what the
//! store said last.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, SemaphorePermit};
use tokio::time::Instant;

use super::repeated::Repeated;
use crate::clock::now_ms;
use crate::random;
use crate::restore::is_held;
use crate::store::stores::Stores;
use crate::store::{ObjectStore, StoreError};
use crate::tenant::pace::Pace;
use crate::tenant::roster::Client;

/// How long a reading of the store's clock is good for.
const CLOCK_READING: Duration = Duration::from_secs(3600);
/// What the store said is told in health for so long; then it is asked again, where somebody asks for health.
const STALE: Duration = Duration::from_secs(60);
/// No request has succeeded for so long: an outage. Less is a store that refuses some of many, whose pauses have to stay.
const OUTAGE: Duration = Duration::from_secs(5);
/// What waited for the end of an outage is tried again within so long.
const AFTER_OUTAGE_MS: u64 = 500;
/// A deletion that was refused is asked for again after so long: keys without that right are no fault, and somebody else's
/// `retain` deletes.
const AFTER_REFUSAL: Duration = Duration::from_secs(3600);

/// What the store said last.
#[derive(Clone, Debug, Default)]
pub struct StoreHealth {
    /// None until the first answer.
    pub reachable: Option<bool>,
    /// Whether create-only PUTs are honoured; none until probed.
    pub conditional_put: Option<bool>,
    /// What the last request failed of, a refusal of the keys too, or why nothing could be deleted; none where all succeeded.
    pub error: Option<String>,
}

/// The way to the stores.
pub struct Uplink {
    pub stores: Stores,
    permits: Semaphore,
    /// Only of tenants that have a limit.
    paces: Mutex<HashMap<OfTenant, Paces>>,
    /// When each store's clock was read, and how many milliseconds it was ahead of ours.
    clocks: Mutex<HashMap<String, (Instant, i64)>>,
    health: Mutex<StoreHealth>,
    /// When the store of all said it; none before the first answer.
    answered: Mutex<Option<Instant>>,
    answer_wanted: Notify,
    /// When a request to the store of all succeeded last.
    succeeded: Mutex<Option<Instant>>,
    came_back: Notify,
    failures: Mutex<Repeated>,
    /// Stores that have refused a deletion, and it was said.
    without_deletion: Mutex<HashSet<String>>,
    /// Stores in which something could not be deleted last, and why.
    undeleted: Mutex<BTreeMap<String, String>>,
}

/// A watch path's prefix, and a tenant's name.
type OfTenant = (Arc<str>, Arc<str>);

#[derive(Default)]
struct Paces {
    requests: Pace,
    bytes: Pace,
}

impl Uplink {
    /// `max_concurrent_syncs`: uploads in flight, of all clients together.
    pub fn new(stores: Stores, max_concurrent_syncs: usize) -> Arc<Self> {
        Arc::new(Self {
            stores,
            permits: Semaphore::new(max_concurrent_syncs),
            paces: Mutex::default(),
            clocks: Mutex::default(),
            health: Mutex::default(),
            answered: Mutex::default(),
            answer_wanted: Notify::new(),
            succeeded: Mutex::default(),
            came_back: Notify::new(),
            failures: Mutex::new(Repeated::new(std::time::Instant::now())),
            without_deletion: Mutex::default(),
            undeleted: Mutex::default(),
        })
    }

    /// The store that a client's objects are in. A client without one is refused, and nothing is asked for it.
    pub(super) fn store_of(&self, client: &Client) -> Result<Arc<dyn ObjectStore>, StoreError> {
        self.store_of_tenant(&client.id.tenant)
    }

    pub(super) fn store_of_tenant(&self, tenant: &str) -> Result<Arc<dyn ObjectStore>, StoreError> {
        self.stores.of(tenant).ok_or_else(|| StoreError::Failed {
            key: tenant.to_owned(),
            reason: "the tenant has no store".to_owned(),
        })
    }

    /// Whether nothing of a replica may be deleted.
    pub(super) async fn is_held(&self, tenant: &str, s3_prefix: &str) -> Result<bool, StoreError> {
        let place = self.stores.registered_place(tenant, s3_prefix);
        is_held(&self.stores, &place).await
    }

    /// A place among the requests in flight, once the tenant's limits allow a request that sends so many bytes.
    pub(super) async fn permit(&self, client: &Client, bytes: u64) -> SemaphorePermit<'_> {
        if let Some(at) = self.pace(client, bytes) {
            tokio::time::sleep_until(at).await;
        }
        self.permits.acquire().await.expect("BUG: never closed")
    }

    /// When the tenant may make the request; none for at once.
    fn pace(&self, client: &Client, bytes: u64) -> Option<Instant> {
        let policy = client.policy();
        let limits = &policy.limits;
        if limits.requests_per_second.is_none() && limits.bytes_per_second.is_none() {
            return None;
        }
        let tenant = (client.id.prefix.clone(), client.id.tenant.clone());
        let mut paces = self.paces.lock().unwrap_or_else(PoisonError::into_inner);
        let paces = paces.entry(tenant).or_default();
        let now = Instant::now().into_std();
        let requests = limits
            .requests_per_second
            .map(|rate| paces.requests.take(now, 1, rate));
        let bytes = limits
            .bytes_per_second
            .map(|rate| paces.bytes.take(now, bytes, rate));
        requests.max(bytes).map(Instant::from_std)
    }

    /// What the store of all tenants said last. Where that is long ago, it is wanted anew: an instance that has nothing to
    /// store would not notice that its store has gone.
    pub fn health(&self) -> StoreHealth {
        let answered = *self.lock_answered();
        if answered.is_some_and(|at| at.elapsed() >= STALE) {
            self.answer_wanted.notify_one();
        }
        let mut health = self.lock_health().clone();
        if health.error.is_none() {
            health.error = self.lock_undeleted().values().next().cloned();
        }
        health
    }

    /// What has outlived its retention could not be deleted: told in health until it can be.
    pub(super) fn retention_failed(&self, tenant: &str, why: &str) {
        if let Some(store) = self.stores.of(tenant) {
            let told = format!("retain: {why}");
            self.lock_undeleted().insert(store.describe(), told);
        }
    }

    /// Whatever had outlived its retention there is deleted.
    pub(super) fn retention_succeeded(&self, tenant: &str) {
        if let Some(store) = self.stores.of(tenant) {
            self.lock_undeleted().remove(&store.describe());
        }
    }

    fn lock_undeleted(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.undeleted
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the store is to be asked for no other reason than to know whether it answers.
    pub async fn answer_wanted(&self) {
        self.answer_wanted.notified().await;
    }

    fn lock_answered(&self) -> MutexGuard<'_, Option<Instant>> {
        self.answered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells whether the store honours create-only PUTs.
    pub fn set_conditional_put(&self, honoured: bool) {
        self.lock_health().conditional_put = Some(honoured);
    }

    /// Notes what came of a request to the store of all tenants.
    pub fn note_answer(&self, failed: Option<&StoreError>) {
        let now = Instant::now();
        *self.lock_answered() = Some(now);
        if failed.is_none() {
            let mut succeeded = self
                .succeeded
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let before = succeeded.replace(now);
            if before.is_none_or(|before| now - before >= OUTAGE) {
                self.came_back.notify_waiters();
            }
        }
        let mut health = self.lock_health();
        health.reachable = Some(failed.is_none_or(|error| !error.is_retryable()));
        health.error = failed.map(ToString::to_string);
    }

    /// Notes what came of a request for a client: a tenant's own store says nothing of the others'.
    pub(super) fn note_answer_of(&self, client: &Client, failed: Option<&StoreError>) {
        if !self.stores.has_own(&client.id.tenant) {
            self.note_answer(failed);
        }
    }

    /// A pause after a failure, which ends early, and not for all at once, where an outage does.
    pub(super) async fn pause_of(&self, client: &Client, pause: Duration) {
        let came_back = async {
            match self.stores.has_own(&client.id.tenant) {
                true => std::future::pending().await,
                false => self.came_back.notified().await,
            }
            let some = random::number() % AFTER_OUTAGE_MS;
            tokio::time::sleep(Duration::from_millis(some)).await;
        };
        tokio::select! {
            biased;
            () = tokio::time::sleep(pause) => {}
            () = came_back => {}
        }
    }

    /// A request for a client has had no answer for longer than it should need.
    pub(super) fn note_silence_of(&self, client: &Client, waited: Duration) {
        if !self.stores.has_own(&client.id.tenant) {
            self.note_silence(waited);
        }
    }

    /// A request to the store of all has had no answer for longer than it should need.
    pub fn note_silence(&self, waited: Duration) {
        let mut health = self.lock_health();
        health.reachable = Some(false);
        health.error = Some(format!("the store has not answered for {waited:?}"));
    }

    /// Whether a failure is to be logged, and then how many were not since the last.
    pub(super) fn failure_to_log(&self) -> Option<u64> {
        self.failures
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .say(std::time::Instant::now())
    }

    /// A tenant's store refuses what retention asks for: said once for each store, until it does not any more. How long to
    /// leave it alone.
    pub(super) fn pause_after_refusal(&self, tenant: &str, refusal: &StoreError) -> Duration {
        let is_news = self
            .stores
            .of(tenant)
            .is_some_and(|store| self.lock_without_deletion().insert(store.describe()));
        if is_news {
            tracing::warn!(
                operation = "retain",
                error = %refusal,
                "The keys may not delete here; what has outlived its retention stays until `retain` runs with keys that may"
            );
        }
        AFTER_REFUSAL
    }

    /// A tenant's store has deleted something.
    pub(super) fn deletion_succeeded(&self, tenant: &str) {
        if let Some(store) = self.stores.of(tenant) {
            self.lock_without_deletion().remove(&store.describe());
        }
    }

    fn lock_without_deletion(&self) -> MutexGuard<'_, HashSet<String>> {
        self.without_deletion
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_health(&self) -> MutexGuard<'_, StoreHealth> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Milliseconds that the store's clock is ahead of ours, within a second or two. `prefix`: what may be listed of it.
    pub(super) async fn clock_ahead(
        &self,
        store: &dyn ObjectStore,
        prefix: &str,
    ) -> Result<i64, StoreError> {
        let name = store.describe();
        let known = self.lock_clocks().get(&name).copied();
        if let Some((read_at, ahead)) = known
            && read_at.elapsed() < CLOCK_READING
        {
            return Ok(ahead);
        }
        let ahead = store.now(prefix).await? - now_ms();
        self.lock_clocks().insert(name, (Instant::now(), ahead));
        Ok(ahead)
    }

    fn lock_clocks(&self) -> MutexGuard<'_, HashMap<String, (Instant, i64)>> {
        self.clocks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tenant::ids::Identity;
    use futures_util::FutureExt;

    #[test]
    fn an_answer_is_wanted_where_the_last_is_old_and_health_is_asked_for() {
        let uplink = Uplink::new(Stores::new(None), 1);
        let is_wanted = || {
            uplink.health();
            uplink.answer_wanted().now_or_never().is_some()
        };
        assert!(!is_wanted(), "the first answer comes by itself");
        uplink.note_answer(None);
        assert!(!is_wanted(), "it is new");
        *uplink.lock_answered() = Instant::now().checked_sub(STALE);
        assert!(
            uplink.answer_wanted().now_or_never().is_none(),
            "nobody asks"
        );
        assert!(is_wanted());
        uplink.note_answer(None);
        assert!(!is_wanted());
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_ends_with_an_outage_and_not_with_a_refusal_among_many() {
        let uplink = Uplink::new(Stores::new(None), 1);
        let identity = Identity::plain("", "a");
        let place = |path: &str| std::path::Path::new(path).into();
        let client = Client::new(identity, place("a.db"), place("/data"));
        let pause = Duration::from_secs(60);
        let most = Duration::from_millis(AFTER_OUTAGE_MS);
        for (quiet, ends_early) in [(OUTAGE, true), (OUTAGE / 2, false)] {
            uplink.note_answer(None);
            let begun = Instant::now();
            let pausing = uplink.pause_of(&client, pause);
            let coming_back = async {
                tokio::time::sleep(quiet).await;
                uplink.note_answer(None);
            };
            tokio::join!(pausing, coming_back);
            let took = begun.elapsed();
            assert_eq!(took <= quiet + most, ends_early, "{took:?}");
            assert_eq!(took >= pause, !ends_early, "{took:?}");
        }
    }
}
