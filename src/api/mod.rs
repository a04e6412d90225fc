//! The HTTP API: what is known of clients, mounts and store as JSON, a sync on demand, and metrics.

mod access;
pub mod bodies;
mod calls;
mod changes;
mod connections;
mod events;
mod exposition;
mod listen;
mod metrics;
mod openapi;
mod page;
mod peer;
pub mod query;
mod reads;
mod replicas;
mod replies;
pub mod routes;
mod server;
mod stalls;
mod table;
#[cfg(test)]
mod tests;
pub mod validation;
mod views;

use std::fs::File;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

pub use listen::Listen;

use futures_util::future::BoxFuture;
use tokio::sync::{Semaphore, watch};

use crate::mount::MountStatus;
use crate::replicate::{Fleet, StoreHealth, SyncError, Synced};
use crate::restore::{
    ListedGeneration, RestoreError, Restored, Target, list_moments, restore_unnamed,
};
use crate::store::spec::Secret;
use crate::tenant::request::{RegisterRequest, Registered, RequestError};
use crate::tenant::roster::{Client, Roster};

use listen::Listener;

/// Asks for the present state of all mounts.
pub type AskMounts = Box<dyn Fn() -> Vec<MountStatus> + Send + Sync>;

/// What a request for a change will have come to.
pub type Outcome<T> = BoxFuture<'static, Result<T, RequestError>>;

/// Changes who is replicated. Each is durable once its answer is there.
pub struct Changes {
    pub register: Box<dyn Fn(RegisterRequest) -> Outcome<Registered> + Send + Sync>,
    /// Pauses a client, or has it go on.
    pub set_paused: Box<dyn Fn(Arc<Client>, bool) -> Outcome<()> + Send + Sync>,
    pub unregister: Box<dyn Fn(Arc<Client>) -> Outcome<()> + Send + Sync>,
}

/// What the API answers from.
pub struct Api {
    pub roster: Arc<Roster>,
    pub fleet: Arc<Fleet>,
    pub mounts: AskMounts,
    pub changes: Changes,
    /// A directory for what is restored to be downloaded.
    pub scratch: PathBuf,
    /// Beyond this lag health is `degraded`.
    pub max_lag: Duration,
    pub started: Instant,
    /// Without one only this machine is answered, and no page of another site.
    pub token: Option<Secret>,
    /// Set once every mount answers, and what was known is registered.
    pub is_ready: Arc<AtomicBool>,
}

/// Why the API can't be served.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    #[error("listen on {listen}: {source}; choose another address with -listen, or `none`")]
    Bind {
        listen: Listen,
        source: std::io::Error,
    },
}

/// Takes the address, and gives what serves it until `shutdown` completes; answers that are under way are
/// finished then, within a few seconds. The address that is returned has the port that port 0 became.
///
/// # Errors
/// The address can't be had.
pub async fn bind(
    listen: Listen,
    api: Api,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(Listen, impl Future<Output = ()> + Send), ApiError> {
    let failed = |source| ApiError::Bind {
        listen: listen.clone(),
        source,
    };
    let listener = Listener::bind(&listen).await.map_err(failed)?;
    let bound = listener.listen().map_err(failed)?;
    let state = Arc::new(State::from(api));
    Ok((bound, server::serve(listener, state, shutdown)))
}

/// What a call waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wanted {
    Sync,
    Snapshot,
}

type AskSync = Box<
    dyn Fn(Wanted, Arc<Client>, Duration) -> BoxFuture<'static, Result<Synced, SyncError>>
        + Send
        + Sync,
>;

type AskMoments = Box<
    dyn Fn(Arc<Client>) -> BoxFuture<'static, Result<Vec<ListedGeneration>, RestoreError>>
        + Send
        + Sync,
>;

type AskRestore = Box<
    dyn Fn(Arc<Client>, Target) -> BoxFuture<'static, Result<(Restored, File), RestoreError>>
        + Send
        + Sync,
>;

type AskOwnerOfPlace = Box<dyn Fn(&RegisterRequest) -> Option<u32> + Send + Sync>;

type AskOwner = Box<dyn Fn(&Client) -> Option<u32> + Send + Sync>;

/// What the calls work with: the roster, and the questions that others answer.
struct State {
    /// Until then nothing is said of clients, and health is `starting`.
    is_ready: Arc<AtomicBool>,
    roster: Arc<Roster>,
    max_lag: Duration,
    started: Instant,
    mounts: AskMounts,
    changes: Changes,
    token: Option<Secret>,
    moments: AskMoments,
    /// Restores to a file without a name.
    restore: AskRestore,
    /// Places for those who list moments.
    lists: Arc<Semaphore>,
    /// Places for those who download databases.
    downloads: Arc<Semaphore>,
    /// The user who owns a client's file.
    owner: AskOwner,
    /// The user who owns the file that is to be registered, or the folder that it would be made in.
    owner_of_place: AskOwnerOfPlace,
    /// Places for those who listen to events.
    listeners: Arc<Semaphore>,
    /// Set when the server ends: what is streamed ends with it.
    closing: watch::Sender<bool>,
    store_health: Box<dyn Fn() -> StoreHealth + Send + Sync>,
    sync: AskSync,
}

impl State {
    fn is_ready(&self) -> bool {
        self.is_ready.load(Ordering::Acquire)
    }
}

impl From<Api> for State {
    fn from(api: Api) -> Self {
        let (for_health, for_owners) = (api.fleet.clone(), api.fleet.clone());
        let for_places = api.fleet.clone();
        let (for_moments, for_restores) = (api.fleet.clone(), api.fleet.clone());
        let for_sync = api.fleet;
        let scratch = api.scratch;
        Self {
            is_ready: api.is_ready,
            roster: api.roster,
            max_lag: api.max_lag,
            started: api.started,
            mounts: api.mounts,
            changes: api.changes,
            token: api.token,
            moments: Box::new(move |client| {
                let fleet = for_moments.clone();
                Box::pin(async move {
                    let store = fleet.store_of(&client)?;
                    list_moments(&store, client.s3_prefix()).await
                })
            }),
            restore: Box::new(move |client, target| {
                let (fleet, scratch) = (for_restores.clone(), scratch.clone());
                Box::pin(async move {
                    let store = fleet.store_of(&client)?;
                    restore_unnamed(&store, client.s3_prefix(), &target, &scratch).await
                })
            }),
            lists: Arc::new(Semaphore::new(replicas::MAX_LISTS)),
            downloads: Arc::new(Semaphore::new(replicas::MAX_DOWNLOADS)),
            owner: Box::new(move |client| for_owners.owner_of(client)),
            owner_of_place: Box::new(move |request| for_places.owner_of_place(request)),
            listeners: Arc::new(Semaphore::new(events::MAX_LISTENERS)),
            closing: watch::Sender::new(false),
            store_health: Box::new(move || for_health.store_health()),
            sync: Box::new(move |wanted, client, timeout| {
                let fleet = for_sync.clone();
                Box::pin(async move {
                    match wanted {
                        Wanted::Sync => fleet.sync(&client, timeout).await,
                        Wanted::Snapshot => fleet.snapshot(&client, timeout).await,
                    }
                })
            }),
        }
    }
}
