//! The places that databases have in stores: no two are equal, and none lies within another. Pure.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

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
