//! The table of keys: one row each, with the default and the sentence that the documentation shows.

use super::keys::Meaning::{self, List, Only, Value, WatchPaths};
use super::keys::{Key, WATCH_PATH};
use super::units;
use super::written::{WatchPathWritten, Written};
use crate::format::quantity;
use crate::store::spec::{Secret, StoreSpec};
use crate::tenant::discovery::{DEFAULT_GUID_PATTERN, Rules};

const fn section(path: &'static str) -> Key {
    key(path, Meaning::Section, "", "")
}

const fn key(
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

const fn synonym(path: &'static str, meaning: Meaning, same_as: &'static str) -> Key {
    Key {
        path,
        meaning,
        default: "",
        doc: "",
        same_as: Some(same_as),
    }
}

const fn not_yet(path: &'static str) -> Key {
    key(path, Meaning::NotYet, "", "")
}

/// The table. Keys below a refused section are not listed: the section itself is refused.
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
        "the API's address; one that is not loopback needs `server.apiToken`",
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
        Value(endpoint),
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
    not_yet("s3.sse"),
    not_yet("s3.kmsKeyId"),
    section("mount"),
    key(
        "mount.capture",
        Value(capture),
        "auto",
        "`intercept`: writes to `-wal` go through the daemon; `auto` picks, at present always `intercept`",
    ),
    key(
        "mount.gateTimeout",
        Value(|w, text| put(&mut w.gate_timeout, quantity::duration(text))),
        "5s",
        "the longest that one file operation waits for its capture",
    ),
    section("autoDiscovery"),
    key(
        "autoDiscovery.enabled",
        Only("true"),
        "true",
        "databases are found by their names",
    ),
    key(
        "autoDiscovery.watchPaths",
        WatchPaths,
        "required",
        "one directory, as a path or as `{path, mountpoint, prefix}`; several are not supported yet",
    ),
    key(WATCH_PATH, Meaning::WatchPath(watch_path), "", ""),
    key(
        "autoDiscovery.watchPaths[].path",
        Value(watch_path),
        "required",
        "the directory that the application uses",
    ),
    key(
        "autoDiscovery.watchPaths[].mountpoint",
        Value(mountpoint),
        "the path itself",
        "mount there, and not over the path",
    ),
    key(
        "autoDiscovery.watchPaths[].prefix",
        Value(prefix),
        "none",
        "goes before `databases/…` in the store",
    ),
    key(
        "autoDiscovery.patterns",
        List(pattern),
        "`*.db`",
        "which file names can be databases, each as `*.` and an extension",
    ),
    synonym(
        "autoDiscovery.filePatterns",
        List(pattern),
        "autoDiscovery.patterns",
    ),
    key(
        "autoDiscovery.guidValidation",
        Only("true"),
        "true",
        "a database is named by a GUID",
    ),
    key(
        "autoDiscovery.guidPattern",
        Value(guid_pattern),
        DEFAULT_GUID_PATTERN,
        "regular expression that must match the whole file name, or the whole stem",
    ),
    not_yet("autoDiscovery.tenantRegex"),
    section("tenantDefaults"),
    key(
        "tenantDefaults.retention",
        Value(|w, text| put(&mut w.retention, units::positive(text))),
        "72h",
        "how long every moment stays restorable; older ones go when a snapshot is as old",
    ),
    synonym(
        "tenantDefaults.retentionDays",
        Value(|w, text| put(&mut w.retention, units::days(text))),
        "tenantDefaults.retention",
    ),
    not_yet("tenantDefaults.removedRetention"),
    key(
        "tenantDefaults.syncInterval",
        Value(|w, text| put(&mut w.sync_interval, quantity::duration(text))),
        "1s",
        "under load one segment is stored in this time; 0 makes each captured transaction a segment",
    ),
    key(
        "tenantDefaults.snapshotInterval",
        Value(|w, text| put(&mut w.snapshot_interval, units::positive(text))),
        "1h",
        "a new snapshot after this time, where something has changed; earlier where the log since the last one outgrows the database",
    ),
    key(
        "tenantDefaults.durability",
        Only("local"),
        "local",
        "a commit returns when it is on local disk",
    ),
    not_yet("tenantDefaults.durabilityTimeout"),
    not_yet("tenantDefaults.onDurabilityTimeout"),
    key(
        "tenantDefaults.enabled",
        Only("true"),
        "true",
        "tenants are replicated",
    ),
    not_yet("clients"),
    not_yet("tenants"),
    section("limits"),
    key(
        "limits.maxTenantsPerInstance",
        Value(|w, text| put(&mut w.max_tenants, units::count(text))),
        "1000",
        "clients beyond are `refused` and shown in health; the application is never hindered",
    ),
    not_yet("limits.maxDatabasesPerTenant"),
    not_yet("limits.maxWatchPaths"),
    key(
        "limits.maxConcurrentSyncs",
        Value(|w, text| put(&mut w.max_concurrent_syncs, units::count(text))),
        "50",
        "uploads in flight, all tenants together",
    ),
    not_yet("limits.requestsPerSecond"),
    not_yet("limits.bytesPerSecond"),
    key(
        "limits.memoryBytesPerTenant",
        Value(|w, text| put(&mut w.memory_bytes_per_tenant, quantity::size(text))),
        "16 MiB",
        "captured data in memory; what is more goes to the spool",
    ),
    not_yet("limits.cpuPercentPerTenant"),
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
        "free space of that disk which the spool never takes: a share (and at least 1 GiB), or a size",
    ),
    key(
        "limits.maxLag",
        Value(|w, text| put(&mut w.max_lag, quantity::duration(text))),
        "30s",
        "beyond, health is `degraded`",
    ),
    not_yet("verification"),
];

/// Puts a value that could be read into its place.
fn put<T>(place: &mut Option<T>, value: Result<T, String>) -> Result<(), String> {
    *place = Some(value?);
    Ok(())
}

fn filled(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("the value is missing".to_owned());
    }
    Ok(text.to_owned())
}

fn store(written: &mut Written, text: &str) -> Result<(), String> {
    put(&mut written.store, StoreSpec::parse(text))
}

fn endpoint(written: &mut Written, text: &str) -> Result<(), String> {
    put(&mut written.s3.endpoint, units::endpoint(text))
}

fn port(text: &str) -> Result<u16, String> {
    text.parse()
        .map_err(|_| format!("{text:?} is no port: write 0 to 65535"))
}

fn capture(_: &mut Written, text: &str) -> Result<(), String> {
    match text {
        "auto" | "intercept" => Ok(()),
        "passthrough" => Err("`passthrough` is not supported yet by this version".to_owned()),
        _ => Err(format!("{text:?} is none of auto, intercept, passthrough")),
    }
}

fn watch_path_of(written: &mut Written) -> &mut WatchPathWritten {
    written.watch_path.get_or_insert_default()
}

fn watch_path(written: &mut Written, text: &str) -> Result<(), String> {
    watch_path_of(written).path = Some(filled(text)?.into());
    Ok(())
}

fn mountpoint(written: &mut Written, text: &str) -> Result<(), String> {
    watch_path_of(written).mountpoint = Some(filled(text)?.into());
    Ok(())
}

fn prefix(written: &mut Written, text: &str) -> Result<(), String> {
    watch_path_of(written).prefix = units::prefix(text)?;
    Ok(())
}

fn pattern(written: &mut Written, text: &str) -> Result<(), String> {
    Rules::new("", &[text.to_owned()], DEFAULT_GUID_PATTERN).map_err(|error| error.to_string())?;
    written.patterns.push(text.to_owned());
    Ok(())
}

fn guid_pattern(written: &mut Written, text: &str) -> Result<(), String> {
    put(&mut written.guid_pattern, units::guid_pattern(text))
}
