//! The configuration as meant, shown as YAML; secrets are masked.

use serde_yaml::{Mapping, Value};

use super::{Config, SpoolReserve};
use crate::api::Listen;
use crate::format::quantity::show_duration;
use crate::replicate::drills::Sample;
use crate::store::spec::{S3Options, Secret};
use crate::tenant::policy::Policy;

/// What stands in the place of a secret.
const MASK: &str = "***";

/// A section that is being filled.
#[derive(Default)]
struct Section(Mapping);

impl Section {
    fn put(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.0.insert(key.into(), value.into());
        self
    }

    fn put_some(self, key: &str, value: Option<impl Into<Value>>) -> Self {
        match value {
            Some(value) => self.put(key, value),
            None => self,
        }
    }

    fn value(self) -> Value {
        Value::Mapping(self.0)
    }
}

impl Config {
    /// Every key that has a value, defaults too, with secrets masked.
    pub fn show(&self) -> String {
        let mount = Section::default()
            .put("capture", self.capture_way.as_str())
            .put("gateTimeout", show_duration(self.gate_timeout))
            .put("accessControlLists", self.access_lists.as_str());
        let all = Section::default()
            .put_some("bucket", self.store.as_ref().map(ToString::to_string))
            .put("server", self.shown_server())
            .put("s3", self.shown_s3())
            .put("mount", mount.value())
            .put("autoDiscovery", self.shown_discovery())
            .put("tenantDefaults", policy(&self.terms.defaults).value())
            .put_some("clients", filled_list(self.shown_clients()))
            .put_some("tenants", filled_list(self.shown_tenants()))
            .put("limits", self.shown_limits())
            .put("verification", self.shown_verification());
        serde_yaml::to_string(&all.0).expect("BUG: a mapping of plain values")
    }

    fn shown_server(&self) -> Value {
        let section = match &self.listen {
            Some(Listen::Tcp(address)) => Section::default()
                .put("host", address.ip().to_string())
                .put("port", address.port()),
            Some(socket @ Listen::Unix(_)) => Section::default().put("host", socket.to_string()),
            None => Section::default(),
        };
        section
            .put_some("apiToken", masked(&self.api_token))
            .value()
    }

    fn shown_verification(&self) -> Value {
        let drills = self.drills;
        let listing = self.store_listing.map(show_duration);
        Section::default()
            .put_some(
                "interval",
                drills.map(|drills| show_duration(drills.interval)),
            )
            .put_some("sample", drills.map(|drills| shown_sample(drills.sample)))
            .put("storeListing", listing.unwrap_or_else(|| "off".to_owned()))
            .value()
    }

    fn shown_s3(&self) -> Value {
        let encryption = self.s3.encryption.as_ref();
        let kms_key_id = encryption.and_then(|encryption| encryption.kms_key_id.clone());
        s3(&self.s3)
            .put_some("sse", encryption.map(|one| one.algorithm.as_str()))
            .put_some("kmsKeyId", kms_key_id)
            .value()
    }

    fn shown_discovery(&self) -> Value {
        let section = Section::default().put("watchPaths", self.shown_watch_paths());
        // All watch paths have the same rules.
        let Some(first) = self.watch_paths.first() else {
            return section.value();
        };
        let rules = first.rules.written();
        section
            .put("enabled", rules.discovery)
            .put("patterns", rules.patterns.clone())
            .put_some("guidValidation", rules.guid_validation)
            .put("guidPattern", rules.guid_pattern.as_str())
            .put_some("tenantRegex", rules.tenant_regex.clone())
            .value()
    }

    fn shown_watch_paths(&self) -> Value {
        let each = self.watch_paths.iter().map(|watch_path| {
            Section::default()
                .put("path", watch_path.path.display().to_string())
                .put("mountpoint", watch_path.mountpoint.display().to_string())
                .put_some("prefix", filled(&watch_path.prefix))
                .value()
        });
        Value::Sequence(each.collect())
    }

    fn shown_clients(&self) -> Vec<Value> {
        let each = self.watch_paths.iter().flat_map(|watch_path| {
            let mut named: Vec<_> = watch_path.rules.named().iter().collect();
            named.sort_by_key(|(path, _)| *path);
            named.into_iter().map(|(path, named)| {
                let identity = watch_path.rules.identity(named);
                let section = Section::default()
                    .put("clientId", &*identity.label)
                    .put(
                        "dbPath",
                        watch_path.mountpoint.join(path).display().to_string(),
                    )
                    .put("s3Prefix", identity.s3_prefix);
                with_policy(section, &identity.policy).value()
            })
        });
        each.collect()
    }

    fn shown_tenants(&self) -> Vec<Value> {
        let mut tenants: Vec<_> = self.terms.tenants.iter().collect();
        tenants.sort_by_key(|(tenant, _)| *tenant);
        let each = tenants.into_iter().map(|(tenant, terms)| {
            let own = self.own_stores.iter().find(|own| own.tenant == *tenant);
            let server = own.map_or_else(Section::default, |own| s3(&own.s3));
            let server = server
                .put_some("bucket", terms.store.clone())
                .put_some("prefix", terms.prefix.clone());
            let section = Section::default()
                .put("tenantId", tenant.as_str())
                .put("s3Config", server.value());
            with_limits(with_policy(section, &terms.policy), &terms.policy).value()
        });
        each.collect()
    }

    fn shown_limits(&self) -> Value {
        let limits = &self.limits;
        let reserve = match limits.spool_reserve {
            SpoolReserve::Percent(percent) => format!("{percent}%"),
            SpoolReserve::Bytes(bytes) => bytes.to_string(),
        };
        let section = Section::default()
            .put("maxTenantsPerInstance", limits.max_tenants)
            .put("maxWatchPaths", limits.max_watch_paths)
            .put("maxConcurrentSyncs", limits.max_concurrent_syncs)
            .put("spoolBytes", limits.spool_bytes)
            .put("spoolReserve", reserve)
            .put("maxLag", show_duration(limits.max_lag));
        with_limits(section, &self.terms.defaults).value()
    }
}

fn shown_sample(sample: Sample) -> String {
    match sample {
        Sample::Count(count) => count.to_string(),
        Sample::Percent(percent) => format!("{percent}%"),
    }
}

/// An empty list is left out, as it has to be in a file.
fn filled_list(list: Vec<Value>) -> Option<Value> {
    (!list.is_empty()).then_some(Value::Sequence(list))
}

fn filled(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

fn masked(secret: &Option<Secret>) -> Option<&'static str> {
    secret.as_ref().map(|_| MASK)
}

fn s3(options: &S3Options) -> Section {
    Section::default()
        .put_some("endpoint", options.endpoint.clone())
        .put_some("region", options.region.clone())
        .put_some("pathStyle", options.path_style)
        .put_some("accessKey", masked(&options.access_key))
        .put_some("secretKey", masked(&options.secret_key))
}

fn policy(policy: &Policy) -> Section {
    with_policy(Section::default(), policy)
}

fn with_policy(section: Section, policy: &Policy) -> Section {
    section
        .put("enabled", policy.enabled)
        .put("retention", show_duration(policy.retention))
        .put("removedRetention", show_duration(policy.removed_retention))
        .put("syncInterval", show_duration(policy.sync_interval))
        .put("snapshotInterval", show_duration(policy.snapshot_interval))
        .put("durability", policy.durability.as_str())
        .put(
            "durabilityTimeout",
            show_duration(policy.durability_timeout),
        )
        .put("onDurabilityTimeout", policy.on_durability_timeout.as_str())
}

fn with_limits(section: Section, policy: &Policy) -> Section {
    let limits = &policy.limits;
    section
        .put("maxDatabasesPerTenant", limits.max_databases)
        .put("memoryBytesPerTenant", limits.memory_bytes)
        .put_some("requestsPerSecond", limits.requests_per_second)
        .put_some("bytesPerSecond", limits.bytes_per_second)
        .put_some("cpuPercentPerTenant", limits.cpu_percent)
}
