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
    /// `registry/elsewhere/<watch path's prefix>/<label>/<place>.json`: a database whose tenant has a bucket of its own,
    /// and its place there.
    Elsewhere {
        prefix: String,
        label: String,
        s3_prefix: String,
    },
    /// `registry/removed/<place>/<time>.json`: the database was removed, in Unix milliseconds. The place is a whole one,
    /// as `s3://bucket/place`, where it is not in this store.
    Removed { place: String, at_ms: i64 },
    /// `registry/holds/<place>.json`: nothing of the replica there is deleted. The place is as that of a removal.
    Held { place: String },
}

impl RegistryKey {
    pub const WATCH_PATHS: &str = "registry/watch-paths/";
    pub const PLACED: &str = "registry/databases/";
    pub const ELSEWHERE: &str = "registry/elsewhere/";
    pub const REMOVED: &str = "registry/removed/";

    /// What names a replica whose place can't be told from its names, or that lies in a bucket of its tenant.
    pub fn of_replica(elsewhere: bool, prefix: &str, label: &str, s3_prefix: &str) -> Self {
        let (prefix, label) = (prefix.to_owned(), label.to_owned());
        let s3_prefix = s3_prefix.to_owned();
        match elsewhere {
            false => Self::Placed {
                prefix,
                label,
                s3_prefix,
            },
            true => Self::Elsewhere {
                prefix,
                label,
                s3_prefix,
            },
        }
    }

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
            ["registry", "elsewhere", prefix, label, place] => Self::Elsewhere {
                prefix: decoded(prefix),
                label: decoded(label),
                s3_prefix: decoded(place),
            },
            ["registry", "removed", place, time] => Self::Removed {
                place: decoded(place),
                at_ms: time.parse().ok()?,
            },
            ["registry", "holds", place] => Self::Held {
                place: decoded(place),
            },
            _ => return None,
        };
        // So that every key has one spelling.
        (parsed.leads_nowhere_else() && parsed.to_string() == key).then_some(parsed)
    }

    /// Whether its names can be put together to keys and to paths as they are: whoever may write to the store must not
    /// choose where a restore writes.
    fn leads_nowhere_else(&self) -> bool {
        match self {
            Self::WatchPath(prefix) => is_path(prefix),
            Self::Placed {
                prefix,
                label,
                s3_prefix,
            }
            | Self::Elsewhere {
                prefix,
                label,
                s3_prefix,
            } => (prefix.is_empty() || is_path(prefix)) && is_path(label) && is_path(s3_prefix),
            // These are compared, and lead to nothing.
            Self::Removed { .. } | Self::Held { .. } => true,
        }
    }
}

/// Names that are joined by slashes, none of which leads up or would be a line of its own.
fn is_path(text: &str) -> bool {
    let is_name = |name: &str| !matches!(name, "" | "." | "..");
    text.split('/').all(is_name) && !text.contains(char::is_control)
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
            Self::Elsewhere {
                prefix,
                label,
                s3_prefix,
            } => write!(
                f,
                "{}{}/{}/{}",
                Self::ELSEWHERE,
                encoded(prefix),
                encoded(label),
                encoded(s3_prefix)
            ),
            Self::Removed { place, at_ms } => {
                write!(f, "{}{}/{at_ms:013}", Self::REMOVED, encoded(place))
            }
            Self::Held { place } => write!(f, "registry/holds/{}", encoded(place)),
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
                    s3_prefix: "databases/x".to_owned(),
                },
                "registry/elsewhere/%/x/databases%2Fx.json",
            ),
            (
                RegistryKey::Removed {
                    place: "databases/x".to_owned(),
                    at_ms: 1_736_937_045_000,
                },
                "registry/removed/databases%2Fx/1736937045000.json",
            ),
            (
                RegistryKey::Held {
                    place: "databases/x".to_owned(),
                },
                "registry/holds/databases%2Fx.json",
            ),
        ] {
            assert_eq!(key.to_string(), text);
            assert_eq!(RegistryKey::parse(text), Some(key), "{text}");
        }
    }

    #[test]
    fn names_that_would_lead_elsewhere_are_none() {
        let placed = |prefix: &str, label: &str, s3_prefix: &str| RegistryKey::Placed {
            prefix: prefix.to_owned(),
            label: label.to_owned(),
            s3_prefix: s3_prefix.to_owned(),
        };
        for wrong in [
            "..",
            "/etc",
            "a/../../b",
            "a//b",
            "a/",
            ".",
            "a\nb",
            "\u{1b}[2J",
        ] {
            for key in [
                RegistryKey::WatchPath(wrong.to_owned()),
                placed(wrong, "acme/orders", "tenants/acme"),
                placed("", wrong, "tenants/acme"),
                placed("", "acme/orders", wrong),
                RegistryKey::of_replica(true, wrong, "acme", "databases/acme"),
            ] {
                assert_eq!(RegistryKey::parse(&key.to_string()), None, "{key}");
            }
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
