//! What the API says of clients, mounts and store, as JSON. Pure: from the roster's copies to structures.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use crate::clock::{UnixMs, rfc3339};
use crate::format::quantity;
use crate::mount::MountStatus;
use crate::replicate::StoreHealth;
use crate::tenant::events::{Event, EventKind};
use crate::tenant::roster::{Client, Progress, Status};

/// One database. What is absent is null.
#[derive(Serialize, Debug)]
#[serde(rename_all = "camelCase")]
pub struct DatabaseView {
    /// None, with the other names, for a file that is ignored.
    pub tenant_id: Option<String>,
    /// The GUID, or `tenant/dbName`.
    pub client_id: Option<String>,
    pub db_name: String,
    /// Absolute, as applications see it.
    pub db_path: String,
    pub prefix: Option<String>,
    pub s3_prefix: Option<String>,
    pub status: &'static str,
    pub enabled: bool,
    /// How long every moment stays restorable, as the configuration would have it.
    pub retention: Option<String>,
}

/// The name of a client that is gone.
#[derive(Serialize, Debug)]
#[serde(rename_all = "camelCase")]
pub struct IdentityView {
    pub tenant_id: String,
    pub client_id: String,
    pub db_name: String,
    pub prefix: Option<String>,
}

/// One database and how far its replication has come.
#[derive(Serialize, Debug)]
#[serde(rename_all = "camelCase")]
pub struct HealthView {
    #[serde(flatten)]
    pub database: DatabaseView,
    pub txid: u64,
    pub replicated_txid: u64,
    pub replication_lag_ms: u64,
    pub pending_bytes: u64,
    /// None until it was captured.
    pub database_bytes: Option<u64>,
    pub generation: Option<String>,
    pub last_sync_at: Option<String>,
    pub last_snapshot_at: Option<String>,
    /// None until a restore drill of this run has passed.
    pub last_proven_at: Option<String>,
    pub sync_errors: u64,
    pub last_error: Option<String>,
}

/// What happened to a client, with how far it has come.
#[derive(Serialize, Debug)]
#[serde(rename_all = "camelCase")]
pub struct EventView {
    #[serde(flatten)]
    pub health: HealthView,
    /// How long the oldest transaction had waited that is in the store now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waited_ms: Option<u64>,
}

/// The whole instance.
#[derive(Serialize, Debug)]
#[serde(rename_all = "camelCase")]
pub struct InstanceView {
    pub status: &'static str,
    pub version: &'static str,
    pub uptime_seconds: u64,
    pub mounts: Vec<MountView>,
    /// Clients by status.
    pub counts: BTreeMap<&'static str, usize>,
    pub store: StoreView,
}

#[derive(Serialize, Debug)]
#[serde(rename_all = "camelCase")]
pub struct MountView {
    pub watch_path: String,
    pub mountpoint: String,
    pub prefix: Option<String>,
    pub capture: &'static str,
    pub state: &'static str,
    pub error: Option<String>,
    /// How far the take-over of databases that were there before has come, while it lasts.
    pub take_over: Option<TakeOverView>,
}

#[derive(Serialize, Debug)]
pub struct TakeOverView {
    pub done: usize,
    pub total: usize,
}

#[derive(Serialize, Debug)]
#[serde(rename_all = "camelCase")]
pub struct StoreView {
    pub reachable: Option<bool>,
    pub conditional_put: Option<bool>,
    pub error: Option<String>,
}

/// Everything that the instance's view is made from.
pub struct Instance<'a> {
    pub clients: &'a [Progress],
    pub mounts: Vec<MountStatus>,
    pub store: StoreHealth,
    /// Every mount answers, and what was known is registered.
    pub is_ready: bool,
    pub max_lag: Duration,
    pub uptime: Duration,
    pub now: UnixMs,
}

pub fn identity(event: &Event) -> IdentityView {
    let id = &event.id;
    IdentityView {
        tenant_id: id.tenant.to_string(),
        client_id: event.label.clone(),
        db_name: id.db_name.to_string(),
        prefix: filled(&id.prefix),
    }
}

pub fn database(client: &Client, status: Status) -> DatabaseView {
    let db_path = client.seen_path();
    let policy = client.policy();
    DatabaseView {
        tenant_id: Some(client.id.tenant.to_string()),
        client_id: Some(client.label.to_string()),
        db_name: client.id.db_name.to_string(),
        db_path: db_path.to_string_lossy().into_owned(),
        prefix: filled(&client.id.prefix),
        s3_prefix: Some(client.s3_prefix().to_owned()),
        status: status.as_str(),
        enabled: policy.enabled,
        retention: Some(quantity::show_duration(policy.retention)),
    }
}

pub fn health(client: &Client, now: UnixMs) -> HealthView {
    let progress = client.progress();
    HealthView {
        database: database(client, progress.status),
        txid: progress.txid,
        replicated_txid: progress.replicated_txid,
        replication_lag_ms: progress.lag_ms(now),
        pending_bytes: progress.pending_bytes,
        database_bytes: progress.database_bytes,
        generation: progress.generation.map(|id| id.to_string()),
        last_sync_at: progress.last_sync_at.map(rfc3339),
        last_snapshot_at: progress.last_snapshot_at.map(rfc3339),
        last_proven_at: progress.found().last_proven_at.map(rfc3339),
        sync_errors: progress.sync_errors,
        last_error: progress.last_error,
    }
}

/// A file that looks like a database and is none of ours, and why.
pub fn file(path: &Path, prefix: &str, status: &'static str, reason: String) -> HealthView {
    let stem = path.file_stem().unwrap_or_default();
    HealthView {
        database: DatabaseView {
            tenant_id: None,
            client_id: None,
            db_name: stem.to_string_lossy().into_owned(),
            db_path: path.to_string_lossy().into_owned(),
            prefix: filled(prefix),
            s3_prefix: None,
            status,
            enabled: false,
            retention: None,
        },
        txid: 0,
        replicated_txid: 0,
        replication_lag_ms: 0,
        pending_bytes: 0,
        database_bytes: None,
        generation: None,
        last_sync_at: None,
        last_snapshot_at: None,
        last_proven_at: None,
        sync_errors: 0,
        last_error: Some(reason),
    }
}

pub fn event(kind: EventKind, client: &Client, now: UnixMs) -> EventView {
    EventView {
        health: health(client, now),
        waited_ms: match kind {
            EventKind::Synced { waited_ms } => Some(waited_ms),
            EventKind::Registered | EventKind::Unregistered | EventKind::Failed => None,
        },
    }
}

pub fn instance(instance: Instance<'_>) -> InstanceView {
    let mut counts: BTreeMap<_, _> = Status::ALL.map(|status| (status.as_str(), 0)).into();
    for progress in instance.clients {
        *counts.entry(progress.status.as_str()).or_default() += 1;
    }
    InstanceView {
        status: instance.verdict(),
        version: env!("CARGO_PKG_VERSION"),
        uptime_seconds: instance.uptime.as_secs(),
        mounts: instance.mounts.into_iter().map(mount).collect(),
        counts,
        store: StoreView {
            reachable: instance.store.reachable,
            conditional_put: instance.store.conditional_put,
            error: instance.store.error,
        },
    }
}

impl Instance<'_> {
    fn verdict(&self) -> &'static str {
        if !self.is_ready {
            "starting"
        } else if self.mounts.iter().any(|mount| mount.state != "mounted") {
            "failing"
        } else if self.store.reachable == Some(false)
            || self.store.error.is_some()
            || self.clients.iter().any(|client| self.degrades(client))
        {
            "degraded"
        } else {
            "ok"
        }
    }

    fn degrades(&self, client: &Progress) -> bool {
        match client.status {
            Status::Paused => false,
            Status::Failing | Status::Gapped | Status::Refused | Status::Missing => true,
            Status::Waiting | Status::Active => {
                u128::from(client.lag_ms(self.now)) > self.max_lag.as_millis()
            }
        }
    }
}

fn mount(status: MountStatus) -> MountView {
    MountView {
        watch_path: status.watch_path.to_string_lossy().into_owned(),
        mountpoint: status.mountpoint.to_string_lossy().into_owned(),
        prefix: filled(&status.prefix),
        capture: status.capture,
        state: status.state,
        error: status.error,
        take_over: status.take_over.map(|take_over| TakeOverView {
            done: take_over.done,
            total: take_over.total,
        }),
    }
}

fn filled(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::format::keys::GenerationId;
    use crate::tenant::discovery::Named;
    use crate::tenant::terms::Terms;
    use serde_json::json;

    fn client(prefix: &str) -> Client {
        let named = Named::single("12345678-1234-5678-9abc-123456789012");
        let identity = Terms::default().identity(prefix, &named);
        let path = "a/12345678-1234-5678-9abc-123456789012.db";
        Client::new(identity, Path::new(path).into(), Path::new("/data").into())
    }

    #[test]
    fn a_new_client_has_null_where_nothing_is_known() {
        let view = health(&client(""), 0);
        let expected = json!({
            "tenantId": "12345678-1234-5678-9abc-123456789012",
            "clientId": "12345678-1234-5678-9abc-123456789012",
            "dbName": "12345678-1234-5678-9abc-123456789012",
            "dbPath": "/data/a/12345678-1234-5678-9abc-123456789012.db",
            "prefix": null,
            "s3Prefix": "databases/12345678-1234-5678-9abc-123456789012",
            "status": "active", "enabled": true, "retention": "72h",
            "txid": 0, "replicatedTxid": 0, "replicationLagMs": 0, "pendingBytes": 0,
            "databaseBytes": null,
            "generation": null, "lastSyncAt": null, "lastSnapshotAt": null, "lastProvenAt": null,
            "syncErrors": 0, "lastError": null,
        });
        assert_eq!(serde_json::to_value(view).expect("JSON"), expected);
    }

    #[test]
    fn a_client_with_a_history() {
        let client = client("staging");
        client.update(|progress| {
            progress.status = Status::Gapped;
            progress.txid = 9;
            progress.replicated_txid = 7;
            progress.oldest_pending_at = Some(1_000);
            progress.generation = Some(GenerationId(0x1a));
            progress.last_sync_at = Some(0);
            progress.last_error = Some("spool_full: the spool is full".to_owned());
        });
        let view = serde_json::to_value(health(&client, 1_045)).expect("JSON");
        assert_eq!(view["prefix"], "staging");
        assert_eq!(
            view["s3Prefix"],
            "staging/databases/12345678-1234-5678-9abc-123456789012"
        );
        assert_eq!(view["status"], "gapped");
        assert_eq!(view["replicationLagMs"], 45);
        assert_eq!(view["generation"], "000000000000001a");
        assert_eq!(view["lastSyncAt"], "1970-01-01T00:00:00.000Z");
        assert_eq!(view["lastError"], "spool_full: the spool is full");
    }

    fn progress(change: impl FnOnce(&mut Progress)) -> Progress {
        let client = client("");
        client.update(change);
        client.progress()
    }

    fn verdict(clients: &[Progress], state: &'static str, reachable: Option<bool>) -> &'static str {
        with_store(clients, state, reachable, None)
    }

    fn with_store(
        clients: &[Progress],
        state: &'static str,
        reachable: Option<bool>,
        error: Option<String>,
    ) -> &'static str {
        let mount = MountStatus {
            watch_path: "/data".into(),
            mountpoint: "/data".into(),
            prefix: String::new(),
            capture: "intercept",
            file_passthrough: true,
            state,
            error: None,
            take_over: None,
        };
        let view = instance(Instance {
            clients,
            mounts: vec![mount],
            store: StoreHealth {
                reachable,
                error,
                ..StoreHealth::default()
            },
            is_ready: true,
            max_lag: Duration::from_secs(30),
            uptime: Duration::from_secs(1),
            now: 40_000,
        });
        assert_eq!(view.counts.len(), Status::ALL.len());
        assert_eq!(view.counts.values().sum::<usize>(), clients.len());
        view.status
    }

    #[test]
    fn what_degrades_health_and_what_fails_it() {
        assert_eq!(verdict(&[], "mounted", None), "ok");
        assert_eq!(verdict(&[], "mounted", Some(true)), "ok");
        assert_eq!(verdict(&[], "mounted", Some(false)), "degraded");
        let refused = Some("the store refused access".to_owned());
        assert_eq!(with_store(&[], "mounted", Some(true), refused), "degraded");
        assert_eq!(verdict(&[], "bypassed", Some(true)), "failing");
        assert_eq!(verdict(&[], "unmounted", Some(true)), "failing");
        let with_status = |status| progress(|progress| progress.status = status);
        for (status, expected) in [
            (Status::Waiting, "ok"),
            (Status::Active, "ok"),
            (Status::Paused, "ok"),
            (Status::Gapped, "degraded"),
            (Status::Missing, "degraded"),
            (Status::Refused, "degraded"),
            (Status::Failing, "degraded"),
        ] {
            assert_eq!(verdict(&[with_status(status)], "mounted", None), expected);
        }
        let lagging = |since| progress(|progress| progress.oldest_pending_at = Some(since));
        assert_eq!(verdict(&[lagging(10_000)], "mounted", None), "ok");
        assert_eq!(verdict(&[lagging(9_999)], "mounted", None), "degraded");
        let paused = progress(|progress| {
            progress.oldest_pending_at = Some(0);
            progress.status = Status::Paused;
        });
        assert_eq!(verdict(&[paused], "mounted", None), "ok");
    }
}
