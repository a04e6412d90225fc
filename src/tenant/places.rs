//! The places that databases have in stores: no two are equal, and none lies within another. Pure.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use super::discovery::is_folder_of_replica;
use crate::format::keys::INCOMING;

/// The folder of all replicas that lie where their names say, also behind a watch path's prefix.
const DATABASES: &str = "databases";
const REGISTRY: &str = "registry";

/// Refuses a place for one replica, or with `is_folder` for a tenant's, that would meet what a store or this program keeps
/// there for itself.
///
/// # Errors
/// One sentence.
pub fn refuse_reserved(place: &str, is_folder: bool) -> Result<(), String> {
    let mut parts = place.split('/');
    if parts.clone().next() == Some(REGISTRY) {
        return Err(format!(
            "a prefix may not begin with {REGISTRY:?}: the store keeps its own objects there"
        ));
    }
    if !is_folder && parts.clone().next_back() == Some(DATABASES) {
        return Err(format!(
            "a prefix may not end with {DATABASES:?}: the replicas of others lie there"
        ));
    }
    match parts.find(|part| *part == INCOMING || is_folder_of_replica(part)) {
        Some(part) => Err(format!(
            "{part:?} can't be part of the prefix {place:?}: the store uses that name itself"
        )),
        None => Ok(()),
    }
}

/// Who has which place. A place is a path whose parts are joined by `/`.
#[derive(Debug)]
pub struct Places<Owner>(BTreeMap<Arc<str>, Owner>);

impl<Owner> Default for Places<Owner> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<Owner: Clone> Places<Owner> {
    /// Takes a place for `owner`.
    ///
    /// # Errors
    /// The owner of one that is equal to it, lies within it, or that it lies within.
    pub fn take(&mut self, place: &Arc<str>, owner: Owner) -> Result<(), Owner> {
        if let Some(other) = self.in_the_way(place) {
            return Err(other.clone());
        }
        self.0.insert(place.clone(), owner);
        Ok(())
    }

    /// Gives a place back.
    pub fn leave(&mut self, place: &str) {
        self.0.remove(place);
    }

    fn in_the_way(&self, place: &str) -> Option<&Owner> {
        let around = place
            .match_indices('/')
            .map(|(at, _)| &place[..at])
            .chain([place])
            .find_map(|outer| self.0.get(outer));
        around.or_else(|| {
            let within = format!("{place}/");
            let from = (Bound::Included(within.as_str()), Bound::Unbounded);
            let (first, owner) = self.0.range::<str, _>(from).next()?;
            first.starts_with(&within).then_some(owner)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_store_keeps_for_itself_is_no_place() {
        for place in [
            "a",
            "databases/x",
            "x/registry",
            "wallet/snapshots2",
            "databases.old",
        ] {
            assert_eq!(refuse_reserved(place, false), Ok(()), "{place}");
        }
        for place in [
            ".incoming",
            ".incoming/x",
            "x/.incoming",
            "x/.incoming/y",
            "registry",
            "registry/x",
            "databases",
            "eu/databases",
            "databases/acme/wal",
            "databases/acme/snapshots/x",
        ] {
            refuse_reserved(place, false).expect_err(place);
        }
        assert_eq!(refuse_reserved("databases", true), Ok(()));
    }

    #[test]
    fn no_place_is_taken_twice_nor_within_another() {
        let mut places = Places::default();
        places
            .take(&"s3://b/databases/acme/orders".into(), "a")
            .expect("free");
        places
            .take(&"s3://b/databases/acme/orders2".into(), "b")
            .expect("a name that begins alike");
        places
            .take(&"s3://c/databases/acme".into(), "c")
            .expect("another bucket");
        for (taken, owner) in [
            ("s3://b/databases/acme/orders", "a"),
            ("s3://b/databases/acme/orders/x", "a"),
            ("s3://b/databases/acme", "a"),
            ("s3://b", "a"),
            ("s3://b/databases/acme/orders2/wal", "b"),
        ] {
            assert_eq!(places.take(&taken.into(), "x"), Err(owner), "{taken}");
        }
        places.leave("s3://b/databases/acme/orders");
        places
            .take(&"s3://b/databases/acme/orders/x".into(), "d")
            .expect("free again");
    }
}
