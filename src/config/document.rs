//! Reads a configuration file by the table of keys; every error names line and column.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use rustix::fs::OFlags;
use serde::de;

use super::keys::{self, Elements, Key, Set};
use super::walk;
use super::{ConfigError, DEFAULT_FILE, Written};
use crate::paths::reach;

/// Bytes; a configuration is a page or two.
const MAX_FILE: u64 = 1 << 20;

/// Reads `file`, or the default file where that exists; nothing written where it does not.
pub fn load(file: Option<&Path>) -> Result<Written, ConfigError> {
    let default = Path::new(DEFAULT_FILE);
    let file = match file {
        Some(file) => file,
        None if is_there(default) => default,
        None => return Ok(Written::default()),
    };
    let unreadable = |reason: String| ConfigError::Unreadable {
        file: file.to_owned(),
        reason,
    };
    let mut text = String::new();
    // Read again while it is mounted, too: then not through the mount.
    reach(file)
        .map_err(io::Error::from)
        .and_then(|reached| reached.open(OFlags::RDONLY))
        .and_then(|open| {
            File::from(open)
                .take(MAX_FILE + 1)
                .read_to_string(&mut text)
        })
        .map_err(|error| unreadable(format!("read the configuration: {error}")))?;
    if text.len() as u64 > MAX_FILE {
        return Err(unreadable(format!(
            "a configuration of more than {MAX_FILE} bytes"
        )));
    }
    read(&text, file, &|name| std::env::var(name).ok())
}

/// Whether it is to be read; one that can't be is an error then.
fn is_there(file: &Path) -> bool {
    reach(file).map_or(true, |reached| reached.is_whole())
}

/// Reads the text of `file`.
pub fn read(text: &str, file: &Path, environment: Environment) -> Result<Written, ConfigError> {
    parse(text, environment).map_err(|problem| ConfigError::InFile {
        file: file.to_owned(),
        line: problem.line,
        column: problem.column,
        reason: problem.reason,
    })
}

/// Why a file can't be read, and where: line and column count from 1.
#[derive(PartialEq, Eq, Debug)]
struct Problem {
    line: usize,
    column: usize,
    reason: String,
}

/// What is wrong with a key or with its value.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeyError {
    #[error("there is no key `{path}`; the nearest known one is `{nearest}`")]
    Unknown { path: String, nearest: &'static str },
    #[error("`{path}` is written twice")]
    Twice { path: &'static str },
    #[error("`{first}` and `{second}` mean the same; write one of them")]
    Synonyms {
        first: &'static str,
        second: &'static str,
    },
    #[error("`{path}`: {reason}")]
    Value { path: &'static str, reason: String },
    #[error("`{path}`: the environment has no variable {name}; set it, or write the value")]
    Unset { path: &'static str, name: String },
    #[error("`{path}`: a `${{` without its `}}`")]
    Unclosed { path: &'static str },
}

pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

fn parse(text: &str, environment: Environment) -> Result<Written, Problem> {
    let mut reader = Reader {
        environment,
        written: Written::default(),
        seen: BTreeMap::new(),
        error: None,
    };
    for (index, document) in serde_yaml::Deserializer::from_str(text).enumerate() {
        let outcome = if index == 0 {
            walk::document(&mut reader, document)
        } else {
            Err(de::Error::custom("a second document in the file"))
        };
        outcome.map_err(|error| located(&error, reader.error.take()))?;
    }
    Ok(reader.written)
}

/// The parser knows where it stood; the reader knows what was wrong.
fn located(error: &serde_yaml::Error, key_error: Option<KeyError>) -> Problem {
    let (line, column) = error
        .location()
        .map_or((1, 1), |place| (place.line(), place.column()));
    let reason = key_error.map_or_else(
        || {
            let text = error.to_string();
            let place = format!(" at line {line} column {column}");
            let text = text.strip_suffix(&place).unwrap_or(&text);
            // Without what stands there instead, which may be a secret in the wrong place.
            match (text.find("invalid type: "), text.rfind(", expected ")) {
                (Some(found), Some(expected)) => {
                    format!("{}{}", &text[..found], &text[expected + 2..])
                }
                _ => text.to_owned(),
            }
        },
        |error| error.to_string(),
    );
    Problem {
        line,
        column,
        reason: reason.replace('\n', " "),
    }
}

/// What has been read so far.
pub(super) struct Reader<'a> {
    environment: Environment<'a>,
    pub(super) written: Written,
    /// By the main spelling: the spelling that was used.
    seen: BTreeMap<&'static str, &'static str>,
    error: Option<KeyError>,
}

impl Reader<'_> {
    /// Keeps the error with its fields, and gives the parser one that it adds the place to.
    pub(super) fn fail<E: de::Error>(&mut self, error: KeyError) -> E {
        let parser_error = E::custom(&error);
        self.error = Some(error);
        parser_error
    }

    /// The key `name` of `section`, if it may stand here.
    pub(super) fn key(&mut self, section: &str, name: &str) -> Result<&'static Key, KeyError> {
        let Some(key) = keys::find(section, name) else {
            let path = match section {
                "" => name.to_owned(),
                section => format!("{section}.{name}"),
            };
            let nearest = keys::nearest(section, name);
            return Err(KeyError::Unknown { path, nearest });
        };
        let main = key.same_as.unwrap_or(key.path);
        match self.seen.insert(main, key.path) {
            Some(first) if first == key.path => Err(KeyError::Twice { path: key.path }),
            Some(first) => Err(KeyError::Synonyms {
                first,
                second: key.path,
            }),
            None => Ok(key),
        }
    }

    /// The keys that follow are of one more section of a list.
    pub(super) fn begin_element(&mut self, elements: &Elements) {
        (elements.begin)(&mut self.written);
        self.seen.retain(|path, _| {
            let rest = path.strip_prefix(elements.path);
            !rest.is_some_and(|rest| rest.starts_with('.'))
        });
    }

    /// Reads the text of a value into its place.
    pub(super) fn value(
        &mut self,
        path: &'static str,
        set: Set,
        text: &str,
    ) -> Result<(), KeyError> {
        let value = self.substituted(path, text)?;
        set(&mut self.written, &value).map_err(|reason| KeyError::Value {
            path,
            reason: match value == text {
                true => reason,
                // What the environment has may be a secret: the error is about what was written.
                false => set(&mut self.written, text).err().unwrap_or_else(|| {
                    "the value that the environment has does not fit".to_owned()
                }),
            },
        })
    }

    /// Replaces each `${NAME}` by the environment's value, which is not looked at again.
    fn substituted(&self, path: &'static str, text: &str) -> Result<String, KeyError> {
        let mut out = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("${") {
            let (name, after) = after.split_once('}').ok_or(KeyError::Unclosed { path })?;
            let value = (self.environment)(name).ok_or_else(|| KeyError::Unset {
                path,
                name: name.to_owned(),
            })?;
            out.push_str(before);
            out.push_str(&value);
            rest = after;
        }
        out.push_str(rest);
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Written, Problem> {
        parse(text, &|name| {
            (name == "SET").then(|| "from ${OUT}".to_owned())
        })
    }

    fn refused(text: &str) -> Problem {
        read(text).expect_err(text)
    }

    #[test]
    fn an_empty_file_says_nothing() {
        for text in ["", "# a comment\n", "---\n", "{}", "limits:\n"] {
            assert!(read(text).expect(text).max_lag.is_none());
        }
    }

    #[test]
    fn values_of_every_kind() {
        let written = read(
            r#"
server: {port: 0, host: "::1"}
s3:
  endpoint: http://127.0.0.1:9000
  region: eu-1
  pathStyle: true
  accessKey: key
  secretKey: "${SET}"
mount: {capture: auto, gateTimeout: 2s}
autoDiscovery:
  enabled: true
  watchPaths: [/data/]
  filePatterns: ["*.db", "*.sqlite"]
  guidValidation: true
tenantDefaults: {syncInterval: 0, durability: local}
limits: {maxTenantsPerInstance: 3, spoolBytes: 1 GiB, spoolReserve: 10%, maxLag: 1m30s}
"#,
        )
        .expect("all of it works");
        assert_eq!(written.port, Some(0));
        assert_eq!(written.patterns, ["*.db", "*.sqlite"]);
        assert_eq!(written.s3.secret_key.expect("a key").0, "from ${OUT}");
        let path = written.watch_paths[0].path.clone();
        assert_eq!(path, Some("/data/".into()));
        assert_eq!(written.max_lag, Some(std::time::Duration::from_secs(90)));
        assert_eq!(written.spool_bytes, Some(1 << 30));
    }

    #[test]
    fn a_watch_path_with_mountpoint_and_prefix() {
        let text = "autoDiscovery:\n  watchPaths:\n    - path: /data\n      mountpoint: /mnt\n      prefix: eu/a\n";
        let written = read(text).expect("known keys");
        let watch_path = &written.watch_paths[0];
        assert_eq!(watch_path.mountpoint, Some("/mnt".into()));
        assert_eq!(watch_path.prefix, "eu/a");
    }

    #[test]
    fn no_error_tells_what_the_environment_has_or_what_stands_in_the_wrong_place() {
        for text in [
            "server: {port: '${SET}'}",
            "s3: {endpoint: 'http://${SET}@host'}",
            "server: {apiToken: '${SET} '}",
            "limits: {maxLag: '${SET}'}",
            "s3: 'from ${OUT}'",
            "s3: {accessKey: {from: OUT}}",
            "clients: 'from ${OUT}'",
        ] {
            let problem = refused(text);
            assert!(!problem.reason.contains("OUT"), "{problem:?}");
        }
        let problem = refused("server: {port: '${SET}'}");
        assert!(problem.reason.contains("${SET}"), "{problem:?}");
        assert!(
            refused("s3: x")
                .reason
                .contains("expected keys with values")
        );
    }

    #[test]
    fn an_unknown_key_names_its_place_and_the_nearest() {
        let problem = refused("s3:\nlimits:\n    maxLags: 3s\n");
        assert_eq!((problem.line, problem.column), (3, 5));
        assert_eq!(
            problem.reason,
            "there is no key `limits.maxLags`; the nearest known one is `limits.maxLag`"
        );
        refused("autoDiscovery:\n  watchPaths[]: /data\n");
    }

    #[test]
    fn one_key_stands_once_whatever_its_spelling() {
        let problem = refused("autoDiscovery:\n  patterns: ['*.db']\n  filePatterns: ['*.db']\n");
        assert_eq!((problem.line, problem.column), (3, 3));
        assert!(problem.reason.contains("`autoDiscovery.patterns` and"));
        let problem = refused("limits:\n  maxLag: 1s\n  maxLag: 2s\n");
        assert!(problem.reason.contains("twice"), "{problem:?}");
    }

    #[test]
    fn a_value_that_cannot_be_read_names_its_place() {
        for (text, place) in [
            ("limits:\n  maxLag: soon\n", (2, 11)),
            ("limits:\n  maxLag: [1s]\n", (2, 11)),
            ("limits: 3\n", (1, 9)),
            ("autoDiscovery:\n  patterns: '*.db'\n", (2, 13)),
            ("autoDiscovery:\n  patterns: []\n", (2, 13)),
            ("autoDiscovery:\n  guidPattern: '['\n", (2, 16)),
            ("s3:\n  region: ${UNSET}\n", (2, 11)),
            ("s3:\n  region: ${SET\n", (2, 11)),
            ("s3:\n  region:\n", (2, 10)),
            ("s3: b: c\n", (1, 5)),
        ] {
            let problem = refused(text);
            assert_eq!((problem.line, problem.column), place, "{problem:?}");
            assert!(!problem.reason.contains('\n'), "{problem:?}");
        }
        assert!(
            refused("limits:\n---\nlimits:\n")
                .reason
                .contains("document")
        );
    }

    #[test]
    fn an_unset_variable_is_named_and_a_set_one_is_not_shown() {
        assert!(refused("s3: {region: '${UNSET}'}").reason.contains("UNSET"));
        let shown = format!("{:?}", read("s3: {accessKey: '${SET}'}").expect("a secret"));
        assert!(!shown.contains("from"), "{shown}");
    }

    /// With what is commented out as well it has every key but those of lists, which have examples of their own.
    #[test]
    fn the_example_file_has_every_key() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/config/litestream-multitenant.yml"
        );
        let text = std::fs::read_to_string(path).expect("the example");
        let comment = regex::Regex::new(r"(?m)^( *)# ([a-zA-Z0-9]+:| )").expect("a regex");
        let text = comment.replace_all(&text, "$1$2");
        let set = |_: &str| Some("set".to_owned());
        parse(&text, &set).expect("it parses");
        for key in keys::all() {
            let name = key.path.rsplit('.').next().expect("a name");
            let is_shown = text.contains(&format!("{name}:"));
            let is_in_a_list = key.path.contains("[]");
            let is_synonym = key.same_as.is_some();
            assert!(
                is_shown || is_in_a_list || is_synonym,
                "{} is missing",
                key.path
            );
        }
    }

    #[test]
    fn the_example_file_holds_the_defaults() {
        let example = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/config/litestream-multitenant.yml"
        );
        let mut written = load(Some(Path::new(example))).expect("it parses");
        let scratch = tempfile::tempdir().expect("a scratch directory");
        written.watch_paths[0].path = Some(scratch.path().to_owned());
        let defaults = Written {
            store: written.store.clone(),
            watch_paths: written.watch_paths.clone(),
            // Whether it was written makes a difference beside a `tenantRegex` alone.
            guid_validation: written.guid_validation,
            ..Written::default()
        };
        assert_eq!(
            format!("{:?}", written.resolve().expect("it is complete")),
            format!("{:?}", defaults.resolve().expect("as complete"))
        );
    }

    #[test]
    fn the_sections_of_lists_have_keys_of_their_own() {
        let written = read(
            r#"
clients:
  - {clientId: a, dbPath: /data/a.db, retention: 168h}
  - {clientId: b, dbPath: /data/b.db, retentionDays: 3, s3Prefix: x/b/}
tenants:
  - tenantId: acme
    s3Config: {bucket: own, accessKey: "${SET}", secretKey: s}
    requestsPerSecond: 5
"#,
        )
        .expect("all of it works");
        let hours = |n: u64| Some(std::time::Duration::from_secs(n * 3600));
        assert_eq!(written.clients[0].policy.retention, hours(168));
        assert_eq!(written.clients[1].policy.retention, hours(72));
        assert_eq!(written.clients[1].s3_prefix.as_deref(), Some("x/b"));
        assert_eq!(written.tenants[0].policy.requests_per_second, Some(5));
        assert!(!format!("{written:?}").contains("from ${OUT}"));

        let twice = refused("clients:\n  - {clientId: a, clientId: b}\n");
        assert!(
            twice
                .reason
                .contains("`clients[].clientId` is written twice"),
            "{twice:?}"
        );
        let unknown = refused("tenants:\n  - tenantId: a\n    s3Config: {buckets: x}\n");
        assert_eq!((unknown.line, unknown.column), (3, 16));
        assert!(
            unknown.reason.ends_with("`tenants[].s3Config.bucket`"),
            "{unknown:?}"
        );
        assert!(refused("clients: [a]").reason.contains("keys with values"));
    }

    /// The three examples of the first description of this program, as they stood there.
    #[test]
    fn the_examples_parse_unchanged_and_mean_what_they_say() {
        let example = |name: &str| {
            let path = format!("{}/config/{name}", env!("CARGO_MANIFEST_DIR"));
            let text = std::fs::read_to_string(path).expect("the example");
            let set = |name: &str| name.starts_with("TENANT_001_").then(|| "a key".to_owned());
            parse(&text, &set).expect(name).look_at().expect(name).0
        };
        let clients = example("clients.yml");
        assert_eq!(clients.store.expect("one").to_string(), "s3://company-data");
        let rules = &clients.watch_paths[0].rules;
        let guid = "98765432-4321-8765-cba9-876543210987";
        let second = rules
            .identify(Path::new(&format!("{guid}.db")))
            .expect("named");
        assert_eq!(second.s3_prefix, format!("databases/{guid}"));
        assert_eq!(second.policy.retention.as_secs(), 72 * 3600);
        let first = rules.identify(Path::new("12345678-1234-5678-9abc-123456789012.db"));
        assert_eq!(first.expect("named").policy.retention.as_secs(), 168 * 3600);

        let stores = example("tenant-stores.yml");
        assert_eq!(stores.own_stores[0].tenant, "tenant-001");
        assert_eq!(stores.own_stores[0].store.to_string(), "s3://company-data");
        assert_eq!(
            stores.terms.tenants["tenant-001"].prefix.as_deref(),
            Some("tenants/tenant-001")
        );

        let directories = example("tenant-directories.yml");
        assert_eq!(directories.limits.max_tenants, 500);
        let rules = &directories.watch_paths[0].rules;
        let orders = rules
            .identify(Path::new("acme/orders.sqlite"))
            .expect("found");
        assert_eq!(orders.s3_prefix, "databases/acme/orders");
    }

    #[test]
    fn what_is_shown_reads_back_and_means_the_same() {
        let text = r#"
bucket: s3://all/p
server: {host: 0.0.0.0, port: 81, apiToken: hush}
s3: {accessKey: hush, secretKey: hush, region: eu-1}
autoDiscovery: {watchPaths: [{path: /nowhere/a, prefix: a}, /nowhere/b], patterns: ['*.db', 'x?'], tenantRegex: 'a/(?P<tenant>[^/]+)/'}
tenantDefaults: {retention: 5h, syncInterval: 250ms}
clients: [{clientId: c, dbPath: /nowhere/b/c.db, s3Prefix: x/c, enabled: false}]
tenants: [{tenantId: t, s3Config: {bucket: own, prefix: y}, requestsPerSecond: 5, retentionDays: 3}]
limits: {spoolReserve: 7%, maxDatabasesPerTenant: 3, cpuPercentPerTenant: 50}
verification: {interval: 1h, sample: 3%}
"#;
        let shown = |text: &str| {
            let (config, _absent) = read(text).expect(text).look_at().expect(text);
            config.show()
        };
        let first = shown(text);
        assert!(!first.contains("hush"), "{first}");
        assert_eq!(shown(&first), first);
        for part in [
            "tenantRegex: a/",
            "s3Prefix: x/c",
            "sample: 3%",
            "requestsPerSecond: 5",
            "maxWatchPaths: 10",
        ] {
            assert!(first.contains(part), "{part}\n{first}");
        }
    }
}
