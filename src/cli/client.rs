//! CLIENT as the user types it, and the replica that it means.

use std::fmt;

use super::Failure;
use crate::config::units;
use crate::restore::placed_clients;
use crate::store::ObjectStore;
use crate::tenant::ids::{ClientId, derived_prefix, label_of};

/// A replica as a command works with it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Chosen {
    /// `PREFIX/` before its label where there is a prefix.
    name: String,
    s3_prefix: String,
}

impl Chosen {
    fn new(id: &ClientId, single: bool) -> Self {
        let label = label_of(id, single);
        Self {
            name: match id.prefix.as_str() {
                "" => label,
                prefix => format!("{prefix}/{label}"),
            },
            s3_prefix: derived_prefix(id, single),
        }
    }

    /// Where its objects lie, without a slash at either end.
    pub(super) fn replica_prefix(&self) -> String {
        self.s3_prefix.clone()
    }
}

impl fmt::Display for Chosen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// The replicas that a CLIENT can mean by its derived place: `x` is a GUID; `x/y` is a GUID y of the prefix x, or tenant
/// x's database y.
fn candidates(text: &str) -> Result<Vec<Chosen>, Failure> {
    let wrong = || {
        Failure::Usage(format!(
            "{text:?} is no CLIENT: write a GUID or tenant/dbName, with PREFIX/ before it where there is one"
        ))
    };
    let (rest, last) = match text.rsplit_once('/') {
        None => (None, text),
        Some((rest, last)) => (Some(rest), last),
    };
    if !is_name(last) {
        return Err(wrong());
    }
    let Some(rest) = rest else {
        return Ok(vec![Chosen::new(&ClientId::single("", last), true)]);
    };
    let mut found = Vec::new();
    if let Ok(prefix) = units::prefix(rest) {
        found.push(Chosen::new(&ClientId::single(&prefix, last), true));
    }
    let (prefix, tenant) = rest.rsplit_once('/').unwrap_or(("", rest));
    let prefix_is_fine = prefix.is_empty() || units::prefix(prefix).is_ok();
    if is_name(tenant) && prefix_is_fine && !rest.starts_with('/') {
        let id = ClientId {
            prefix: prefix.to_owned(),
            tenant: tenant.to_owned(),
            db_name: last.to_owned(),
        };
        found.push(Chosen::new(&id, false));
    }
    if found.is_empty() {
        return Err(wrong());
    }
    Ok(found)
}

/// Whether a text can be one segment of a key, and no way out of it.
fn is_name(text: &str) -> bool {
    !text.contains('/')
        && !matches!(text, "" | "." | "..")
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

/// The replica that `text` means, by what lies in the store. One candidate is taken as it is: the command that
/// works with it says what is missing.
pub(super) async fn resolve(store: &dyn ObjectStore, text: &str) -> Result<Chosen, Failure> {
    let candidates = candidates(text)?;
    let mut found: Vec<_> = placed_clients(store)
        .await?
        .into_iter()
        .map(|listed| Chosen {
            name: match listed.prefix.as_str() {
                "" => listed.client,
                prefix => format!("{prefix}/{}", listed.client),
            },
            s3_prefix: listed.s3_prefix,
        })
        .filter(|placed| placed.name == text)
        .collect();
    if let ([only], true) = (&candidates[..], found.is_empty()) {
        return Ok(only.clone());
    }
    for candidate in candidates {
        if found.contains(&candidate) {
            continue;
        }
        let folder = format!("{}/", candidate.s3_prefix);
        if !store.list_folders(&folder).await?.is_empty() {
            found.push(candidate);
        }
    }
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => Err(Failure::Other(format!(
            "{text}: the store {} has no such client; `list` shows those it has",
            store.describe()
        ))),
        _ => Err(Failure::Other(format!(
            "{text}: the store has {} and {}; rename one of the prefixes",
            found[0].s3_prefix, found[1].s3_prefix
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefixes(text: &str) -> Vec<String> {
        candidates(text)
            .expect(text)
            .iter()
            .map(Chosen::replica_prefix)
            .collect()
    }

    #[test]
    fn every_reading_of_a_client() {
        assert_eq!(prefixes("abc"), ["databases/abc"]);
        assert_eq!(prefixes("eu/abc"), ["eu/databases/abc", "databases/eu/abc"]);
        assert_eq!(prefixes("a/b/c"), ["a/b/databases/c", "a/databases/b/c"]);
    }

    #[test]
    fn nothing_leads_out_of_the_store() {
        for text in [
            "", "/", "/a", "a/", "..", "../a", "a/..", "a/../b", "a//b", "./a", "a b", "a\\b",
            "a\nb", "é", "a\0b",
        ] {
            assert!(candidates(text).is_err(), "{text:?}");
        }
        assert_eq!(
            prefixes("databases/abc"),
            ["databases/databases/abc"],
            "as a prefix it would reach into another client"
        );
    }
}
