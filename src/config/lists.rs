//! The tables of keys for the sections of the lists: watch paths, clients, tenants.

use super::keys::Meaning::Value;
use super::keys::{Elements, Key};
use super::table::{filled, key, put, section, synonym};
use super::units;
use super::written::{ClientWritten, TenantWritten, WatchPathWritten, Written};
use crate::format::quantity;
use crate::store::spec::{Secret, StoreSpec};

pub(super) static WATCH_PATHS: Elements = Elements {
    path: "autoDiscovery.watchPaths[]",
    begin: |w| w.watch_paths.push(WatchPathWritten::default()),
    text: Some(path),
};

pub(super) static CLIENTS: Elements = Elements {
    path: "clients[]",
    begin: |w| w.clients.push(ClientWritten::default()),
    text: None,
};

pub(super) static TENANTS: Elements = Elements {
    path: "tenants[]",
    begin: |w| w.tenants.push(TenantWritten::default()),
    text: None,
};

pub(super) const WATCH_PATH_KEYS: &[Key] = &[
    key(
        "autoDiscovery.watchPaths[].path",
        Value(path),
        "required",
        "the directory that the application uses",
    ),
    key(
        "autoDiscovery.watchPaths[].mountpoint",
        Value(|w, text| {
            let mountpoint = filled(text)?.into();
            put(&mut w.watch_path().mountpoint, Ok(mountpoint))
        }),
        "the path itself",
        "mount there, and not over the path",
    ),
    key(
        "autoDiscovery.watchPaths[].prefix",
        Value(|w, text| {
            w.watch_path().prefix = units::prefix(text)?;
            Ok(())
        }),
        "none",
        "goes before `databases/…` in the store; needed where several watch paths have the same names",
    ),
];

fn path(written: &mut Written, text: &str) -> Result<(), String> {
    let path = filled(text)?.into();
    put(&mut written.watch_path().path, Ok(path))
}

/// A key of `tenantDefaults`, as one client or tenant has it otherwise.
macro_rules! term {
    ($list:literal, $name:literal, $of:ident, $field:ident, $read:expr) => {
        key(
            concat!($list, ".", $name),
            Value(|w, text| put(&mut w.$of().policy.$field, $read(text))),
            "",
            "",
        )
    };
}

pub(super) const CLIENT_KEYS: &[Key] = &[
    key(
        "clients[].clientId",
        Value(|w, text| put(&mut w.client().client_id, units::name(text))),
        "required",
        "what it is called: tenant and name at once",
    ),
    key(
        "clients[].dbPath",
        Value(|w, text| {
            let path = filled(text)?.into();
            put(&mut w.client().db_path, Ok(path))
        }),
        "required",
        "its file, by the absolute path that applications see; it need not exist yet",
    ),
    key(
        "clients[].s3Prefix",
        Value(|w, text| put(&mut w.client().s3_prefix, units::replica_prefix(text))),
        "`databases/<clientId>`",
        "where its objects lie in the store, used as written",
    ),
    term!("clients[]", "retention", client, retention, units::positive),
    synonym(
        "clients[].retentionDays",
        Value(|w, text| put(&mut w.client().policy.retention, units::days(text))),
        "clients[].retention",
    ),
    term!(
        "clients[]",
        "removedRetention",
        client,
        removed_retention,
        units::positive
    ),
    term!(
        "clients[]",
        "syncInterval",
        client,
        sync_interval,
        quantity::duration
    ),
    term!(
        "clients[]",
        "snapshotInterval",
        client,
        snapshot_interval,
        units::positive
    ),
    term!("clients[]", "enabled", client, enabled, units::boolean),
    term!(
        "clients[]",
        "durability",
        client,
        durability,
        units::durability
    ),
    term!(
        "clients[]",
        "durabilityTimeout",
        client,
        durability_timeout,
        units::positive
    ),
    term!(
        "clients[]",
        "onDurabilityTimeout",
        client,
        on_durability_timeout,
        units::at_timeout
    ),
];

pub(super) const TENANT_KEYS: &[Key] = &[
    key(
        "tenants[].tenantId",
        Value(|w, text| put(&mut w.tenant().tenant_id, units::name(text))),
        "required",
        "whose terms these are; for a GUID database the GUID",
    ),
    section("tenants[].s3Config"),
    key(
        "tenants[].s3Config.bucket",
        Value(|w, text| put(&mut w.tenant().bucket, StoreSpec::parse(text))),
        "the store of all",
        "a store of its own",
    ),
    key(
        "tenants[].s3Config.prefix",
        Value(|w, text| put(&mut w.tenant().prefix, units::replica_folder(text))),
        "the derived place",
        "its databases lie at `<prefix>/<dbName>`",
    ),
    key(
        "tenants[].s3Config.accessKey",
        Value(|w, text| put(&mut w.tenant().s3.access_key, filled(text).map(Secret))),
        "those of `s3`",
        "goes with its `secretKey`; never printed",
    ),
    key(
        "tenants[].s3Config.secretKey",
        Value(|w, text| put(&mut w.tenant().s3.secret_key, filled(text).map(Secret))),
        "those of `s3`",
        "never printed",
    ),
    key(
        "tenants[].s3Config.endpoint",
        Value(|w, text| put(&mut w.tenant().s3.endpoint, units::endpoint(text))),
        "that of `s3`",
        "URL of an S3-compatible server",
    ),
    key(
        "tenants[].s3Config.region",
        Value(|w, text| put(&mut w.tenant().s3.region, filled(text))),
        "that of `s3`",
        "the bucket's region",
    ),
    term!("tenants[]", "retention", tenant, retention, units::positive),
    synonym(
        "tenants[].retentionDays",
        Value(|w, text| put(&mut w.tenant().policy.retention, units::days(text))),
        "tenants[].retention",
    ),
    term!(
        "tenants[]",
        "removedRetention",
        tenant,
        removed_retention,
        units::positive
    ),
    term!(
        "tenants[]",
        "syncInterval",
        tenant,
        sync_interval,
        quantity::duration
    ),
    term!(
        "tenants[]",
        "snapshotInterval",
        tenant,
        snapshot_interval,
        units::positive
    ),
    term!("tenants[]", "enabled", tenant, enabled, units::boolean),
    term!(
        "tenants[]",
        "durability",
        tenant,
        durability,
        units::durability
    ),
    term!(
        "tenants[]",
        "durabilityTimeout",
        tenant,
        durability_timeout,
        units::positive
    ),
    term!(
        "tenants[]",
        "onDurabilityTimeout",
        tenant,
        on_durability_timeout,
        units::at_timeout
    ),
    term!(
        "tenants[]",
        "maxDatabasesPerTenant",
        tenant,
        max_databases,
        units::count
    ),
    term!(
        "tenants[]",
        "memoryBytesPerTenant",
        tenant,
        memory_bytes,
        quantity::size
    ),
    term!(
        "tenants[]",
        "requestsPerSecond",
        tenant,
        requests_per_second,
        units::rate
    ),
    term!(
        "tenants[]",
        "bytesPerSecond",
        tenant,
        bytes_per_second,
        units::bytes_rate
    ),
    term!(
        "tenants[]",
        "cpuPercentPerTenant",
        tenant,
        cpu_percent,
        units::percent
    ),
];
