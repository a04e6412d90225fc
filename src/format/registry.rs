//! The keys below `registry/`, which lies once, at a store's root: what can't be told from the names of replicas.
//! What there is to know stands in the keys, so that a listing tells it.

use std::fmt;

/// One object of the registry. In its key a `%` and a slash of a name are written `%25` and `%2F`, and an empty name `%`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum RegistryKey {
    /// `registry/watch-paths/<prefix>.json`: there are replicas below `<prefix>/databases/`.
    WatchPath(String),
    /// `registry/databases/<watch path's prefix>/<label>/<place>.json`: a replica that lies at a configured place.
    Placed {
        prefix: String,
        label: String,
        s3_prefix: String,
    },
    /// `registry/elsewhere/<watch path's prefix>/<label>.json`: a database whose tenant has a bucket of its own.
    Elsewhere { prefix: String, label: String },
    /// `registry/removed/<place>/<time>.json`: the database was removed, in Unix milliseconds.
    Removed { s3_prefix: String, at_ms: i64 },
}

impl RegistryKey {
    pub const WATCH_PATHS: &str = "registry/watch-paths/";
    pub const PLACED: &str = "registry/databases/";
    pub const ELSEWHERE: &str = "registry/elsewhere/";
    pub const REMOVED: &str = "registry/removed/";

    /// Reads a key as a listing shows it; none for another object.
    pub fn parse(key: &str) -> Option<Self> {
        let names: Vec<&str> = key.strip_suffix(".json")?.split('/').collect();
        let parsed = match names[..] {
            ["registry", "watch-paths", prefix] if prefix != "%" => {
                Self::WatchPath(decoded(prefix))
            }
            ["registry", "databases", prefix, label, place] => Self::Placed {
                prefix: decoded(prefix),
                label: decoded(label),
                s3_prefix: decoded(place),
            },
            ["registry", "elsewhere", prefix, label] => Self::Elsewhere {
                prefix: decoded(prefix),
                label: decoded(label),
            },
            ["registry", "removed", place, time] => Self::Removed {
                s3_prefix: decoded(place),
                at_ms: time.parse().ok()?,
            },
            _ => return None,
        };
        // So that every key has one spelling.
        (parsed.to_string() == key).then_some(parsed)
    }
}

impl fmt::Display for RegistryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WatchPath(prefix) => write!(f, "{}{}", Self::WATCH_PATHS, encoded(prefix)),
            Self::Placed {
                prefix,
                label,
                s3_prefix,
            } => write!(
                f,
                "{}{}/{}/{}",
                Self::PLACED,
                encoded(prefix),
                encoded(label),
                encoded(s3_prefix)
            ),
            Self::Elsewhere { prefix, label } => {
                write!(
                    f,
                    "{}{}/{}",
                    Self::ELSEWHERE,
                    encoded(prefix),
                    encoded(label)
                )
            }
            Self::Removed { s3_prefix, at_ms } => {
                write!(f, "{}{}/{at_ms:013}", Self::REMOVED, encoded(s3_prefix))
            }
        }?;
        f.write_str(".json")
    }
}

fn encoded(name: &str) -> String {
    match name {
        "" => "%".to_owned(),
        name => name.replace('%', "%25").replace('/', "%2F"),
    }
}

fn decoded(name: &str) -> String {
    match name {
        "%" => String::new(),
        name => name.replace("%2F", "/").replace("%25", "%"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_reads_back() {
        let placed = |prefix: &str| RegistryKey::Placed {
            prefix: prefix.to_owned(),
            label: "acme/orders".to_owned(),
            s3_prefix: "tenants/acme/orders".to_owned(),
        };
        for (key, text) in [
            (
                RegistryKey::WatchPath("staging".to_owned()),
                "registry/watch-paths/staging.json",
            ),
            (
                RegistryKey::WatchPath("eu/a b".to_owned()),
                "registry/watch-paths/eu%2Fa b.json",
            ),
            (
                RegistryKey::WatchPath("100%2F".to_owned()),
                "registry/watch-paths/100%252F.json",
            ),
            (
                placed(""),
                "registry/databases/%/acme%2Forders/tenants%2Facme%2Forders.json",
            ),
            (
                placed("eu"),
                "registry/databases/eu/acme%2Forders/tenants%2Facme%2Forders.json",
            ),
            (
                RegistryKey::Elsewhere {
                    prefix: String::new(),
                    label: "x".to_owned(),
                },
                "registry/elsewhere/%/x.json",
            ),
            (
                RegistryKey::Removed {
                    s3_prefix: "databases/x".to_owned(),
                    at_ms: 1_736_937_045_000,
                },
                "registry/removed/databases%2Fx/1736937045000.json",
            ),
        ] {
            assert_eq!(key.to_string(), text);
            assert_eq!(RegistryKey::parse(text), Some(key), "{text}");
        }
    }

    #[test]
    fn other_objects_and_other_spellings_are_none() {
        for key in [
            "registry/watch-paths/.json",
            "registry/watch-paths/%.json",
            "registry/watch-paths/a/b.json",
            "registry/watch-paths/a%2fb.json",
            "registry/watch-paths/a",
            "registry/removed/x/12.json",
            "registry/removed/x/now.json",
            "registry/databases/a/b.json",
            "registry/other/a.json",
        ] {
            assert_eq!(RegistryKey::parse(key), None, "{key}");
        }
    }
}
