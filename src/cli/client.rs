//! CLIENT as the user types it, and the replica that it means.

use super::Failure;
use super::replicas::{Chosen, Replicas, elsewhere};
use crate::config::units;
use crate::restore::{ListedClient, placed_clients};
use crate::store::StoreError;
use crate::tenant::discovery::Named;

/// A database that a CLIENT can mean: the watch path's prefix, and its names.
#[derive(Clone, Debug)]
struct Reading {
    prefix: String,
    named: Named,
}

impl Reading {
    fn new(prefix: &str, named: Named) -> Self {
        Self {
            prefix: prefix.to_owned(),
            named,
        }
    }
}

/// The databases that a CLIENT can mean by its names: `x` is a GUID; `x/y` is a GUID y of the prefix x, or tenant x's
/// database y.
fn readings(text: &str) -> Result<Vec<Reading>, Failure> {
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
        return Ok(vec![Reading::new("", Named::single(last))]);
    };
    let mut found = Vec::new();
    if let Ok(prefix) = units::prefix(rest) {
        found.push(Reading::new(&prefix, Named::single(last)));
    }
    let (prefix, tenant) = rest.rsplit_once('/').unwrap_or(("", rest));
    let prefix_is_fine = prefix.is_empty() || units::prefix(prefix).is_ok();
    if is_name(tenant) && prefix_is_fine && !rest.starts_with('/') {
        let named = Named {
            db_name: last.to_owned(),
            single: false,
            ..Named::single(tenant)
        };
        found.push(Reading::new(prefix, named));
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

/// The replica that `text` means, by what lies in the stores. One reading is taken as it is: the command that works with
/// it says what is missing.
pub(super) async fn resolve(replicas: &Replicas, text: &str) -> Result<Chosen, Failure> {
    let readings = readings(text)?;
    let mut named: Vec<_> = replicas.named().collect();
    match placed_clients(&replicas.stores).await {
        Ok(placed) => named.extend(placed),
        // Keys for one replica alone reach it by its name.
        Err(StoreError::Denied { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let mut found: Vec<ListedClient> = Vec::new();
    for placed in named.into_iter().filter(|placed| placed.name() == text) {
        if !found.contains(&placed) {
            found.push(placed);
        }
    }
    let derived = readings
        .iter()
        .map(|reading| replicas.placed(&reading.prefix, &reading.named));
    let derived: Vec<_> = derived.collect();
    if let ([only], true) = (&derived[..], found.is_empty()) {
        return reached(replicas, only);
    }
    let mut refusal = None;
    for candidate in derived {
        let Some(place) = replicas.chosen(&candidate) else {
            continue;
        };
        let folder = format!("{}/", place.s3_prefix);
        match place.store.list_folders(&folder).await {
            Ok(folders) if folders.is_empty() || found.contains(&candidate) => {}
            Ok(_) => found.push(candidate),
            // These keys are for another reading.
            Err(error @ StoreError::Denied { .. }) => refusal = Some(error),
            Err(error) => return Err(error.into()),
        }
    }
    if found.len() > 1 {
        keep_present(replicas, &mut found).await?;
    }
    match (&found[..], refusal) {
        ([one], _) => reached(replicas, one),
        ([], Some(refusal)) => Err(refusal.into()),
        ([], None) => Err(Failure::NoReplica(format!(
            "{text}: the store {} has no such client; `list` shows those it has",
            replicas.describe()
        ))),
        ([first, second, ..], _) => Err(Failure::Other(format!(
            "{text}: the store has {} and {}; rename one of the prefixes",
            first.s3_prefix, second.s3_prefix
        ))),
    }
}

/// Of a client that has another place by now: what was left at the one before is noted as removed, or is not where the
/// configuration names it.
async fn keep_present(replicas: &Replicas, found: &mut Vec<ListedClient>) -> Result<(), Failure> {
    let listing = replicas.list().await?;
    let is_present = |one: &ListedClient| {
        let mut listed = listing.clients.iter();
        !listed.any(|listed| listed.lies_with(one) && listed.removed.is_some())
    };
    if found.iter().any(is_present) {
        found.retain(is_present);
    }
    let configured: Vec<_> = replicas.named().filter(|one| found.contains(one)).collect();
    if configured.len() == 1 {
        *found = configured;
    }
    Ok(())
}

fn reached(replicas: &Replicas, client: &ListedClient) -> Result<Chosen, Failure> {
    replicas
        .chosen(client)
        .ok_or_else(|| Failure::Other(elsewhere(&client.name())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tenant::terms::Terms;

    fn prefixes(text: &str) -> Vec<String> {
        let terms = Terms::default();
        readings(text)
            .expect(text)
            .iter()
            .map(|reading| terms.identity(&reading.prefix, &reading.named).s3_prefix)
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
            assert!(readings(text).is_err(), "{text:?}");
        }
        assert_eq!(
            prefixes("databases/abc"),
            ["databases/databases/abc"],
            "as a prefix it would reach into another client"
        );
    }
}
