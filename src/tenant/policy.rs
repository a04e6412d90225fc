//! How one database is replicated: the tenant's defaults, with what its tenant and it itself have otherwise. Pure.

use std::time::Duration;

/// When a commit returns to its application.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Durability {
    /// As SQLite does by itself.
    Local,
    /// Once it is in the store.
    Store,
}

impl Durability {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Durability::Local => "local",
            Durability::Store => "store",
        }
    }
}

/// What becomes of a commit that the store does not take in time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AtTimeout {
    /// It goes on, and so do those after it, until the store has caught up.
    Local,
    /// It fails, with an I/O error.
    Error,
}

impl AtTimeout {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            AtTimeout::Local => "local",
            AtTimeout::Error => "error",
        }
    }
}

/// What holds for one database.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Policy {
    /// False: it is known, and not replicated.
    pub enabled: bool,
    /// How long every moment stays restorable.
    pub retention: Duration,
    /// How long the replica stays once the database was removed.
    pub removed_retention: Duration,
    /// After a segment the next one waits so long; zero makes each captured transaction a segment.
    pub sync_interval: Duration,
    /// A snapshot is made so long after the one before it, where something has changed.
    pub snapshot_interval: Duration,
    pub durability: Durability,
    /// How long a commit waits for the store.
    pub durability_timeout: Duration,
    pub on_durability_timeout: AtTimeout,
    pub limits: TenantLimits,
}

/// What one tenant may use, all its databases together unless it says otherwise.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TenantLimits {
    /// Further databases of the tenant are `refused`.
    pub max_databases: usize,
    /// Bytes of captured data that each database may hold in memory before it goes to the spool.
    pub memory_bytes: u64,
    /// Requests to the store.
    pub requests_per_second: Option<u64>,
    /// Bytes sent to the store.
    pub bytes_per_second: Option<u64>,
    /// Of one core, for capture and upload.
    pub cpu_percent: Option<u64>,
}

const DAY: Duration = Duration::from_secs(24 * 3600);

impl Default for Policy {
    fn default() -> Self {
        Self {
            enabled: true,
            retention: 3 * DAY,
            removed_retention: 30 * DAY,
            sync_interval: Duration::from_secs(1),
            snapshot_interval: Duration::from_secs(3600),
            durability: Durability::Local,
            durability_timeout: Duration::from_secs(3),
            on_durability_timeout: AtTimeout::Local,
            limits: TenantLimits {
                max_databases: 20,
                memory_bytes: 16 << 20,
                requests_per_second: None,
                bytes_per_second: None,
                cpu_percent: None,
            },
        }
    }
}

/// What was written of a policy; absent means that of the level above.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PolicyWritten {
    pub enabled: Option<bool>,
    pub retention: Option<Duration>,
    pub removed_retention: Option<Duration>,
    pub sync_interval: Option<Duration>,
    pub snapshot_interval: Option<Duration>,
    pub durability: Option<Durability>,
    pub durability_timeout: Option<Duration>,
    pub on_durability_timeout: Option<AtTimeout>,
    pub max_databases: Option<usize>,
    pub memory_bytes: Option<u64>,
    pub requests_per_second: Option<u64>,
    pub bytes_per_second: Option<u64>,
    pub cpu_percent: Option<u64>,
}

impl PolicyWritten {
    /// The policy with what was written here put over it.
    pub fn over(&self, above: &Policy) -> Policy {
        let limits = &above.limits;
        Policy {
            enabled: self.enabled.unwrap_or(above.enabled),
            retention: self.retention.unwrap_or(above.retention),
            removed_retention: self.removed_retention.unwrap_or(above.removed_retention),
            sync_interval: self.sync_interval.unwrap_or(above.sync_interval),
            snapshot_interval: self.snapshot_interval.unwrap_or(above.snapshot_interval),
            durability: self.durability.unwrap_or(above.durability),
            durability_timeout: self.durability_timeout.unwrap_or(above.durability_timeout),
            on_durability_timeout: self
                .on_durability_timeout
                .unwrap_or(above.on_durability_timeout),
            limits: TenantLimits {
                max_databases: self.max_databases.unwrap_or(limits.max_databases),
                memory_bytes: self.memory_bytes.unwrap_or(limits.memory_bytes),
                requests_per_second: self.requests_per_second.or(limits.requests_per_second),
                bytes_per_second: self.bytes_per_second.or(limits.bytes_per_second),
                cpu_percent: self.cpu_percent.or(limits.cpu_percent),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_nearer_to_a_database_holds() {
        let tenant = PolicyWritten {
            retention: Some(DAY),
            requests_per_second: Some(5),
            ..PolicyWritten::default()
        };
        let client = PolicyWritten {
            retention: Some(2 * DAY),
            enabled: Some(false),
            ..PolicyWritten::default()
        };
        let of_tenant = tenant.over(&Policy::default());
        assert_eq!(of_tenant.retention, DAY);
        assert_eq!(of_tenant.sync_interval, Policy::default().sync_interval);
        let of_client = client.over(&of_tenant);
        assert_eq!((of_client.retention, of_client.enabled), (2 * DAY, false));
        assert_eq!(of_client.limits.requests_per_second, Some(5));
    }
}
