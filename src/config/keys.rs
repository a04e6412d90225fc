//! Every key of the configuration file, in one table: what it does, whether it works yet, and how it is read.

use super::units;
use super::written::{WatchPathWritten, Written};
use crate::store::spec::{Secret, StoreSpec};
use crate::tenant::discovery::{DEFAULT_GUID_PATTERN, Rules};

/// Reads a value into its place; the error is a sentence that says what is wrong with it.
pub type Set = fn(&mut Written, &str) -> Result<(), String>;

/// What stands behind a key.
#[derive(Clone, Copy)]
pub enum Meaning {
    /// Further keys.
    Section,
    /// One value.
    Value(Set),
    /// A list of values.
    List(Set),
    /// A list of watch paths.
    WatchPaths,
    /// A path, or a section.
    WatchPath(Set),
    /// Works, but as yet with this value only.
    Only(&'static str),
    /// Known, and refused by name.
    NotYet,
}

/// A key by its whole path, as `limits.maxLag`.
pub struct Key {
    pub path: &'static str,
    pub meaning: Meaning,
    /// As the documentation shows it; empty where there is none.
    pub default: &'static str,
    pub doc: &'static str,
    /// The other spelling of the same key, where there is one.
    pub same_as: Option<&'static str>,
}

impl Key {
    /// The path of the section that the key stands in; empty at the top.
    fn section(&self) -> &'static str {
        self.path
            .rsplit_once('.')
            .map_or("", |(section, _)| section)
    }

    fn name(&self) -> &'static str {
        self.path
            .rsplit_once('.')
            .map_or(self.path, |(_, name)| name)
    }
}

/// The row of one element of `autoDiscovery.watchPaths`.
const WATCH_PATH: &str = "autoDiscovery.watchPaths[]";

/// The keys that a file can name.
fn writable() -> impl Iterator<Item = &'static Key> {
    KEYS.iter().filter(|key| key.path != WATCH_PATH)
}

/// The key `name` of `section`.
pub fn find(section: &str, name: &str) -> Option<&'static Key> {
    writable().find(|key| key.name() == name && key.section() == section)
}

/// One element of `autoDiscovery.watchPaths`.
pub fn watch_path_element() -> &'static Key {
    KEYS.iter()
        .find(|key| key.path == WATCH_PATH)
        .expect("BUG: watch paths have no row")
}

/// The known key that looks most like `name`; of equals, one of the same section.
pub fn nearest(section: &str, name: &str) -> &'static str {
    let written = name.to_lowercase();
    writable()
        .min_by_key(|key| {
            let distance = edit_distance(&written, &key.name().to_lowercase());
            (distance, key.section() != section)
        })
        .map(|key| key.path)
        .expect("BUG: the table of keys is empty")
}

/// How many characters must be changed, added or removed to make `b` of `a`.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let changed = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

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

use Meaning::{List, NotYet, Only, Value, WatchPaths};

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
        Value(|w, text| put(&mut w.host, units::loopback_host(text))),
        "127.0.0.1",
        "the API's address; only loopback, as long as `server.apiToken` is not supported",
    ),
    key(
        "server.port",
        Value(|w, text| put(&mut w.port, port(text))),
        "8080",
        "the API's port; 0 takes a free one, which the log line `Ready` names",
    ),
    not_yet("server.apiToken"),
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
        Value(|w, text| put(&mut w.gate_timeout, units::duration(text))),
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
    not_yet("tenantDefaults.retention"),
    synonym(
        "tenantDefaults.retentionDays",
        NotYet,
        "tenantDefaults.retention",
    ),
    not_yet("tenantDefaults.removedRetention"),
    key(
        "tenantDefaults.syncInterval",
        Value(|w, text| put(&mut w.sync_interval, units::duration(text))),
        "1s",
        "under load one segment is stored in this time; 0 makes each captured transaction a segment",
    ),
    not_yet("tenantDefaults.snapshotInterval"),
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
        Value(|w, text| put(&mut w.memory_bytes_per_tenant, units::size(text))),
        "16 MiB",
        "captured data in memory; what is more goes to the spool",
    ),
    not_yet("limits.cpuPercentPerTenant"),
    key(
        "limits.spoolBytes",
        Value(|w, text| put(&mut w.spool_bytes, units::size(text))),
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
        Value(|w, text| put(&mut w.max_lag, units::duration(text))),
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

/// A URL that the SDK can use as it is.
pub fn parse_endpoint(text: &str) -> Result<String, String> {
    let rest = text
        .strip_prefix("http://")
        .or_else(|| text.strip_prefix("https://"));
    match rest {
        Some(host) if !host.is_empty() && !text.contains(char::is_whitespace) => {
            Ok(text.to_owned())
        }
        _ => Err(format!(
            "{text:?} is no URL: write http://HOST:PORT or https://HOST"
        )),
    }
}

fn endpoint(written: &mut Written, text: &str) -> Result<(), String> {
    put(&mut written.s3.endpoint, parse_endpoint(text))
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

/// A regular expression that `Rules` takes.
pub fn parse_guid_pattern(text: &str) -> Result<String, String> {
    Rules::new("", &[], &filled(text)?).map_err(|error| error.to_string())?;
    Ok(text.to_owned())
}

fn guid_pattern(written: &mut Written, text: &str) -> Result<(), String> {
    put(&mut written.guid_pattern, parse_guid_pattern(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_consistent() {
        for (i, key) in KEYS.iter().enumerate() {
            assert!(
                KEYS[..i].iter().all(|other| other.path != key.path),
                "{} twice",
                key.path
            );
            let section = key.section();
            assert!(
                section.is_empty() || KEYS.iter().any(|other| other.path == section),
                "{section} has no row"
            );
            if let Some(other) = key.same_as {
                assert!(KEYS.iter().any(|key| key.path == other), "{other}");
            }
        }
    }

    #[test]
    fn the_nearest_key_is_named() {
        assert_eq!(nearest("", "buckett"), "bucket");
        assert_eq!(nearest("server", "bucke"), "server.bucket");
        assert_eq!(
            nearest("tenantDefaults", "sync_interval"),
            "tenantDefaults.syncInterval"
        );
        assert_eq!(nearest("", "endpoint"), "s3.endpoint");
        assert_eq!(nearest("limits", "maxlag"), "limits.maxLag");
    }

    #[test]
    fn distances() {
        assert_eq!(edit_distance("", ""), 0);
        assert_eq!(edit_distance("", "abc"), 3);
        assert_eq!(edit_distance("kitten", "sitting"), 3);
        assert_eq!(edit_distance("flaw", "lawn"), 2);
    }
}
