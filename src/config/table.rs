//! The table of keys: one row each, with the default and the sentence that the documentation shows.

use super::CaptureWay;
use super::keys::Key;
use super::keys::Meaning::{self, List, Value};
use super::lists::{self, CLIENTS, TENANTS, WATCH_PATHS};
use super::units;
use super::written::Written;
use crate::format::quantity;
use crate::store::spec::{EncryptionAlgorithm, Secret, StoreSpec};
use crate::tenant::discovery::DEFAULT_GUID_PATTERN;

/// All tables: that of the single keys, and one for the sections of each list.
pub const TABLES: [&[Key]; 4] = [
    KEYS,
    lists::WATCH_PATH_KEYS,
    lists::CLIENT_KEYS,
    lists::TENANT_KEYS,
];

pub(super) const fn section(path: &'static str) -> Key {
    key(path, Meaning::Section, "", "")
}

pub(super) const fn key(
    path: &'static str,
    meaning: Meaning,
    default: &'static str,
    doc: &'static str,
) -> Key {
    Key {
        path,
        meaning,
        default,
        doc,
        same_as: None,
    }
}

pub(super) const fn synonym(path: &'static str, meaning: Meaning, same_as: &'static str) -> Key {
    Key {
        path,
        meaning,
        default: "",
        doc: "",
        same_as: Some(same_as),
    }
}

/// The single keys. Keys below a refused section are not listed: the section itself is refused.
pub const KEYS: &[Key] = &[
    key(
        "bucket",
        Value(store),
        "required",
        "the store: `name`, `s3://name/prefix` or `file:///directory`",
    ),
    section("server"),
    synonym("server.bucket", Value(store), "bucket"),
    key(
        "server.host",
        Value(|w, text| put(&mut w.host, units::host(text))),
        "127.0.0.1",
        "the API's address, or `unix:PATH` for a socket of this machine; one that is not loopback needs `server.apiToken`",
    ),
    key(
        "server.port",
        Value(|w, text| put(&mut w.port, port(text))),
        "8080",
        "the API's port; 0 takes a free one, which the log line `Ready` names",
    ),
    key(
        "server.apiToken",
        Value(|w, text| put(&mut w.api_token, units::api_token(text))),
        "none",
        "every request then needs `Authorization: Bearer …`, but `GET /api/health` and the page; never printed",
    ),
    section("s3"),
    key(
        "s3.endpoint",
        Value(|w, text| put(&mut w.s3.endpoint, units::endpoint(text))),
        "AWS's own",
        "URL of an S3-compatible server",
    ),
    key(
        "s3.region",
        Value(|w, text| put(&mut w.s3.region, filled(text))),
        "the SDK's own",
        "the bucket's region",
    ),
    key(
        "s3.pathStyle",
        Value(|w, text| put(&mut w.s3.path_style, units::boolean(text))),
        "true with an endpoint",
        "the bucket's name in the path instead of the host name",
    ),
    key(
        "s3.accessKey",
        Value(|w, text| put(&mut w.s3.access_key, filled(text).map(Secret))),
        "the SDK's chain",
        "goes with `s3.secretKey`; never printed",
    ),
    key(
        "s3.secretKey",
        Value(|w, text| put(&mut w.s3.secret_key, filled(text).map(Secret))),
        "the SDK's chain",
        "never printed; write `${NAME}` to take it from the environment",
    ),
    key(
        "s3.sse",
        Value(|w, text| put(&mut w.sse, EncryptionAlgorithm::parse(text))),
        "as the bucket has it",
        "how the server encrypts each object: `AES256`, `aws:kms` or `aws:kms:dsse`; in tenants' own buckets too",
    ),
    key(
        "s3.kmsKeyId",
        Value(|w, text| put(&mut w.kms_key_id, units::kms_key_id(text))),
        "the account's own",
        "the key of KMS, with `s3.sse: aws:kms` or `aws:kms:dsse`",
    ),
    section("mount"),
    key(
        "mount.capture",
        Value(capture),
        "auto",
        "`passthrough`: the kernel passes writes to `-wal` to the file underneath, and the daemon is told; refused at start where it can't. `intercept`: they go through the daemon. `auto`: `passthrough` where it works",
    ),
    key(
        "mount.gateTimeout",
        Value(|w, text| put(&mut w.gate_timeout, quantity::duration(text))),
        "5s",
        "the longest that one file operation waits for its capture, or for a comparison",
    ),
    key(
        "mount.accessControlLists",
        Value(|w, text| put(&mut w.access_lists, units::access_lists(text))),
        "auto",
        "`always`: they work as in the directory underneath. `auto`: where there are some in it when it is mounted; elsewhere they are refused, and `ls -l` of many files is quicker",
    ),
    section("autoDiscovery"),
    key(
        "autoDiscovery.enabled",
        Value(|w, text| put(&mut w.discovery, units::boolean(text))),
        "true",
        "databases are found by their names; `false`: mounted all the same, only `clients` and the API register",
    ),
    key(
        "autoDiscovery.watchPaths",
        Meaning::Elements(&WATCH_PATHS),
        "the parents of `clients[].dbPath`, else required",
        "directories, each as a path or as `{path, mountpoint, prefix}`, with all that is below them; up to `limits.maxWatchPaths`",
    ),
    key(
        "autoDiscovery.patterns",
        List(pattern),
        "`*.db`",
        "globs on the file name: which files can be databases",
    ),
    synonym(
        "autoDiscovery.filePatterns",
        List(pattern),
        "autoDiscovery.patterns",
    ),
    key(
        "autoDiscovery.guidValidation",
        Value(|w, text| put(&mut w.guid_validation, units::boolean(text))),
        "true",
        "a database is named by a GUID; `false`, without a `tenantRegex`: tenant and name are the file's stem; `true`, with one: its databases need a GUID too",
    ),
    key(
        "autoDiscovery.guidPattern",
        Value(|w, text| put(&mut w.guid_pattern, units::guid_pattern(text))),
        DEFAULT_GUID_PATTERN,
        "regular expression that must match the whole file name, or the whole stem",
    ),
    key(
        "autoDiscovery.tenantRegex",
        Value(|w, text| put(&mut w.tenant_regex, units::tenant_regex(text))),
        "none",
        "with a group `tenant`, matched in the directory part (with its last `/`) of the path that applications see; files that it does not match fall to the GUID rule",
    ),
    section("tenantDefaults"),
    key(
        "tenantDefaults.retention",
        Value(|w, text| put(&mut w.defaults.retention, units::positive(text))),
        "72h",
        "how long every moment stays restorable; older ones go when a snapshot is as old",
    ),
    synonym(
        "tenantDefaults.retentionDays",
        Value(|w, text| put(&mut w.defaults.retention, units::days(text))),
        "tenantDefaults.retention",
    ),
    key(
        "tenantDefaults.removedRetention",
        Value(|w, text| put(&mut w.defaults.removed_retention, units::positive(text))),
        "30d",
        "how long the replica of a removed database stays",
    ),
    key(
        "tenantDefaults.syncInterval",
        Value(|w, text| put(&mut w.defaults.sync_interval, quantity::duration(text))),
        "1s",
        "under load a few segments are stored in this time; 0 makes each captured transaction a segment",
    ),
    key(
        "tenantDefaults.snapshotInterval",
        Value(|w, text| put(&mut w.defaults.snapshot_interval, units::positive(text))),
        "1h",
        "a new snapshot after this time, where something has changed; earlier where the log since the last one outgrows the database",
    ),
    key(
        "tenantDefaults.durability",
        Value(|w, text| put(&mut w.defaults.durability, units::durability(text))),
        "local",
        "`store`: a commit in WAL mode returns only when it is in the store",
    ),
    key(
        "tenantDefaults.durabilityTimeout",
        Value(|w, text| put(&mut w.defaults.durability_timeout, units::positive(text))),
        "3s",
        "with `store`: how long a commit waits; keep it below the busy time-outs of the other writers",
    ),
    key(
        "tenantDefaults.onDurabilityTimeout",
        Value(|w, text| {
            put(
                &mut w.defaults.on_durability_timeout,
                units::at_timeout(text),
            )
        }),
        "local",
        "what then becomes of it: `local`, it goes on, or `error`, it fails",
    ),
    key(
        "tenantDefaults.enabled",
        Value(|w, text| put(&mut w.defaults.enabled, units::boolean(text))),
        "true",
        "`false`: known, not replicated",
    ),
    key(
        "clients",
        Meaning::Elements(&CLIENTS),
        "none",
        "databases one by one, whatever their names, also before their files exist: `clientId`, `dbPath`, `s3Prefix`, and any key of `tenantDefaults`",
    ),
    key(
        "tenants",
        Meaning::Elements(&TENANTS),
        "none",
        "tenants with terms of their own: `tenantId`, `s3Config: {bucket, prefix, accessKey, secretKey, endpoint, region}`, any key of `tenantDefaults`, and any limit of a tenant",
    ),
    section("limits"),
    key(
        "limits.maxTenantsPerInstance",
        Value(|w, text| put(&mut w.max_tenants, units::count(text))),
        "1000",
        "clients beyond are `refused` and shown in health; the application is never hindered",
    ),
    key(
        "limits.maxDatabasesPerTenant",
        Value(|w, text| put(&mut w.defaults.max_databases, units::count(text))),
        "20",
        "further databases of the tenant are `refused`",
    ),
    key(
        "limits.maxWatchPaths",
        Value(|w, text| put(&mut w.max_watch_paths, units::count(text))),
        "10",
        "more watch paths are an error",
    ),
    key(
        "limits.maxConcurrentSyncs",
        Value(|w, text| put(&mut w.max_concurrent_syncs, units::count(text))),
        "50",
        "uploads in flight, all tenants together",
    ),
    key(
        "limits.requestsPerSecond",
        Value(|w, text| put(&mut w.defaults.requests_per_second, units::rate(text))),
        "none",
        "requests to the store for one tenant",
    ),
    key(
        "limits.bytesPerSecond",
        Value(|w, text| put(&mut w.defaults.bytes_per_second, units::bytes_rate(text))),
        "none",
        "bytes sent to the store for one tenant",
    ),
    key(
        "limits.memoryBytesPerTenant",
        Value(|w, text| put(&mut w.defaults.memory_bytes, quantity::size(text))),
        "16 MiB",
        "captured data in memory; what is more goes to the spool",
    ),
    key(
        "limits.cpuPercentPerTenant",
        Value(|w, text| put(&mut w.defaults.cpu_percent, units::percent(text))),
        "none",
        "of one core, for the capture and upload of one database; what gates capture, or what is made ahead of a commit, is not held up, and of these the latter counts for the next round",
    ),
    key(
        "limits.spoolBytes",
        Value(|w, text| put(&mut w.spool_bytes, quantity::size(text))),
        "10 GiB",
        "captured data that waits on local disk, all tenants together",
    ),
    key(
        "limits.spoolReserve",
        Value(|w, text| put(&mut w.spool_reserve, units::spool_reserve(text))),
        "5%",
        "free space of that disk which the spool never takes: a size, or a share of the disk and then at least 1 GiB; where that is more than half of what there is room for, at least that half, and never less than 64 MiB ([why](decisions/0001-spool-reserve.md)). The log of a start says what room there is",
    ),
    key(
        "limits.maxLag",
        Value(|w, text| put(&mut w.max_lag, quantity::duration(text))),
        "30s",
        "beyond, health is `degraded`",
    ),
    section("verification"),
    key(
        "verification.interval",
        Value(|w, text| put(&mut w.drill_interval, units::positive(text))),
        "off",
        "how often clients are restored in the background, proven and thrown away",
    ),
    key(
        "verification.sample",
        Value(|w, text| put(&mut w.drill_sample, units::sample(text))),
        "1",
        "how many clients each time, a number or a percentage; those that were not proven for the longest time come first",
    ),
    key(
        "verification.storeListing",
        Value(|w, text| put(&mut w.listing_interval, units::interval_or_off(text))),
        "24h",
        "how often the store is listed, to see that what idle clients have there still is; `off` for never",
    ),
];

/// Puts a value that could be read into its place.
pub(super) fn put<T>(place: &mut Option<T>, value: Result<T, String>) -> Result<(), String> {
    *place = Some(value?);
    Ok(())
}

pub(super) fn filled(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("the value is missing".to_owned());
    }
    Ok(text.to_owned())
}

fn store(written: &mut Written, text: &str) -> Result<(), String> {
    put(&mut written.store, StoreSpec::parse(text))
}

fn port(text: &str) -> Result<u16, String> {
    text.parse()
        .map_err(|_| format!("{text:?} is no port: write 0 to 65535"))
}

fn capture(written: &mut Written, text: &str) -> Result<(), String> {
    let ways = [
        CaptureWay::Auto,
        CaptureWay::Intercept,
        CaptureWay::Passthrough,
    ];
    let way = ways.into_iter().find(|way| way.as_str() == text);
    let way = way.ok_or_else(|| format!("{text:?} is none of auto, intercept, passthrough"));
    put(&mut written.capture_way, way)
}

fn pattern(written: &mut Written, text: &str) -> Result<(), String> {
    written.patterns.push(units::file_pattern(text)?);
    Ok(())
}
