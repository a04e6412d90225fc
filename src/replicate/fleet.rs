//! All watch paths of an instance together, as the API and the supervisor see them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::uplink::{StoreHealth, Uplink};
use super::{Replicator, SyncError, Synced};
use crate::capture::Capture;
use crate::store::stores::Stores;
use crate::store::{ObjectStore, StoreError};
use crate::tenant::discovery::{Named, Rules, is_folder_of_replica};
use crate::tenant::request::{RegisterRequest, Registered, RequestError};
use crate::tenant::roster::Client;

/// Whether an application has the file at a path below the watch path open through the mount.
pub type IsOpen = Box<dyn Fn(&Path) -> bool + Send + Sync>;

/// The kernel tells of a close a moment after it.
const CLOSE_TIME: Duration = Duration::from_millis(200);

/// One watch path with its replication.
pub struct Ship {
    pub capture: Arc<Capture>,
    pub replicator: Arc<Replicator>,
    pub is_open: IsOpen,
}

/// The replication of all watch paths.
pub struct Fleet {
    uplink: Arc<Uplink>,
    ships: Vec<Ship>,
}

impl Fleet {
    pub fn new(uplink: Arc<Uplink>, ships: Vec<Ship>) -> Self {
        Self { uplink, ships }
    }

    pub fn ships(&self) -> &[Ship] {
        &self.ships
    }

    pub(super) fn stores(&self) -> &Stores {
        &self.uplink.stores
    }

    /// The store that a client's objects are in.
    ///
    /// # Errors
    /// `Failed` where there is none for its tenant.
    pub fn store_of(&self, client: &Client) -> Result<Arc<dyn ObjectStore>, StoreError> {
        self.uplink.store_of(client)
    }

    fn ship_of(&self, client: &Client) -> Option<&Ship> {
        let seen_at = &*client.seen_at;
        self.ships
            .iter()
            .find(|ship| ship.capture.seen_at() == seen_at)
    }

    /// Waits until everything that was committed before the call is in the store.
    pub async fn sync(&self, client: &Client, timeout: Duration) -> Result<Synced, SyncError> {
        let ship = self
            .ship_of(client)
            .ok_or(SyncError::NotActive("unregistered"))?;
        ship.replicator.sync(client, timeout).await
    }

    /// Waits until a snapshot of everything that was committed before the call is in the store.
    pub async fn snapshot(&self, client: &Client, timeout: Duration) -> Result<Synced, SyncError> {
        let ship = self
            .ship_of(client)
            .ok_or(SyncError::NotActive("unregistered"))?;
        ship.replicator.snapshot(client, timeout).await
    }

    /// Waits until everything that is committed is in the store, at most for `timeout`. Returns the names of those
    /// clients of which something is left in the log or in the spool.
    pub async fn sync_all(&self, timeout: Duration) -> Vec<String> {
        let all = self
            .ships
            .iter()
            .map(|ship| ship.replicator.sync_all(timeout));
        futures_util::future::join_all(all).await.concat()
    }

    pub fn store_health(&self) -> StoreHealth {
        self.uplink.health()
    }

    /// The mount at that place was taken away from outside.
    pub fn set_unmounted(&self, seen_at: &Path) {
        let mut ships = self.ships.iter();
        if let Some(ship) = ships.find(|ship| ship.capture.seen_at() == seen_at) {
            ship.capture.set_unmounted();
        }
    }

    /// Bytes that wait on local disk.
    pub fn spool_bytes(&self) -> u64 {
        self.ships
            .iter()
            .map(|ship| ship.capture.spool_bytes())
            .sum()
    }

    /// Registers a database as it was asked for.
    ///
    /// # Errors
    /// See `RequestError`; then nothing has changed.
    pub fn register(&self, request: &RegisterRequest) -> Result<Registered, RequestError> {
        let (ship, path) = self.place(request)?;
        if ship.capture.is_unmounted() {
            return Err(RequestError::Unavailable {
                code: "unmounted",
                message: format!(
                    "{} is not mounted any more; start again",
                    ship.capture.seen_at().display()
                ),
            });
        }
        let rules = ship.capture.present_rules();
        let named = named_by(request, &path, &rules)?;
        let is_open = || stays_open(|| (ship.is_open)(&path));
        ship.capture.register_by_hand(&path, named, is_open)
    }

    /// The watch path that the database is below, and its path there.
    fn place(&self, request: &RegisterRequest) -> Result<(&Ship, PathBuf), RequestError> {
        let Some(path) = &request.db_path else {
            let id = request.client_id.as_deref().unwrap_or_default();
            return match &self.ships[..] {
                [only] => Ok((only, PathBuf::from(format!("{id}.db")))),
                _ => Err(invalid(
                    "bad_path",
                    "there are several watch paths; say which with dbPath",
                )),
            };
        };
        self.ships
            .iter()
            .find_map(|ship| {
                let below = path.strip_prefix(ship.capture.seen_at()).ok()?;
                below.file_name().map(|_| (ship, below.to_owned()))
            })
            .ok_or_else(|| {
                let seen = self
                    .ships
                    .iter()
                    .map(|ship| ship.capture.seen_at().display().to_string());
                let seen: Vec<_> = seen.collect();
                invalid(
                    "bad_path",
                    format!(
                        "{} lies below no watch path; these are {}",
                        path.display(),
                        seen.join(", ")
                    ),
                )
            })
    }

    /// The user who owns the client's file; none where it is not there or can't be looked at.
    pub fn owner_of(&self, client: &Client) -> Option<u32> {
        self.ship_of(client)?.capture.owner_of(&client.db_path)
    }

    /// The user who owns the file that a request names, or the nearest folder above it; none where that can't be told.
    pub fn owner_of_place(&self, request: &RegisterRequest) -> Option<u32> {
        let (ship, path) = self.place(request).ok()?;
        ship.capture.owner_of_place(&path)
    }

    /// Stops the replication of a client, as if its file were removed.
    ///
    /// # Errors
    /// `Unavailable`; then nothing has changed.
    pub fn unregister(&self, client: &Client) -> Result<(), RequestError> {
        self.known(client)?.capture.exclude(client)
    }

    /// Stops a client's uploads, or lets them go on.
    ///
    /// # Errors
    /// `Unavailable`; then nothing has changed.
    pub fn set_paused(&self, client: &Client, paused: bool) -> Result<(), RequestError> {
        self.known(client)?.capture.set_paused(client, paused)
    }

    fn known(&self, client: &Client) -> Result<&Ship, RequestError> {
        self.ship_of(client)
            .ok_or_else(|| RequestError::Unavailable {
                code: "unregistered_meanwhile",
                message: "the client is not registered any more".to_owned(),
            })
    }

    /// Puts other rules in force, by the place that applications see each watch path at. What can't be done while it runs
    /// is logged.
    pub fn set_rules(&self, mut rules: HashMap<PathBuf, Rules>) {
        for ship in &self.ships {
            let Some(rules) = rules.remove(ship.capture.seen_at()) else {
                continue;
            };
            if ship.capture.is_unmounted() {
                continue;
            }
            match ship.capture.set_rules(rules, &ship.is_open) {
                Ok(later) => {
                    ship.replicator.rules_changed();
                    for what in later {
                        tracing::warn!(
                            path = %what.path.display(),
                            error = what.reason,
                            "Takes effect at the next start"
                        );
                    }
                }
                Err(error) => {
                    tracing::error!(error = %error, "The watch path could not be looked through");
                }
            }
        }
    }
}

fn invalid(code: &'static str, message: impl Into<String>) -> RequestError {
    RequestError::Invalid {
        code,
        message: message.into(),
    }
}

/// The names of a database that is registered by hand.
fn named_by(request: &RegisterRequest, path: &Path, rules: &Rules) -> Result<Named, RequestError> {
    let s3_prefix = request.s3_prefix.clone();
    if let Some(id) = &request.client_id {
        if !rules.is_guid(id) {
            return Err(invalid(
                "bad_client_id",
                format!(
                    "{id:?} is no GUID; with autoDiscovery.guidValidation: false it need not be one"
                ),
            ));
        }
        return Ok(Named {
            s3_prefix,
            ..Named::single(id)
        });
    }
    let tenant = request.tenant_id.clone().unwrap_or_default();
    let stem = path
        .file_stem()
        .and_then(|stem| stem.to_str())
        .unwrap_or_default();
    let db_name = request.db_name.as_deref().unwrap_or(stem);
    if db_name != stem {
        return Err(invalid(
            "bad_db_name",
            format!("dbName {db_name:?} is not the stem of dbPath, which is {stem:?}"),
        ));
    }
    if is_folder_of_replica(db_name) || !crate::tenant::discovery::is_safe_name(db_name) {
        return Err(invalid(
            "bad_db_name",
            format!("{db_name:?} is no name of a database"),
        ));
    }
    Ok(Named {
        // A GUID database is the same whichever form of the request names it.
        single: tenant == db_name && rules.wants_guids() && rules.is_guid(&tenant),
        tenant,
        db_name: db_name.to_owned(),
        s3_prefix,
        policy: Default::default(),
    })
}
/// Whether it is still open after a while in which a close may be told.
fn stays_open(is_open: impl Fn() -> bool) -> bool {
    let end = Instant::now() + CLOSE_TIME;
    while is_open() {
        if Instant::now() >= end {
            return true;
        }
        std::thread::sleep(CLOSE_TIME / 20);
    }
    false
}
