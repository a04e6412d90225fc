//! The stores of one instance: one for all tenants, and those that tenants have of their own.

use std::sync::Arc;

use dashmap::DashMap;

use super::ObjectStore;

/// Which tenant's databases go where. They share one pool of connections.
pub struct Stores {
    shared: Option<Arc<dyn ObjectStore>>,
    own: DashMap<String, Own>,
}

/// What a tenant has of its own.
#[derive(Clone)]
struct Own {
    store: Arc<dyn ObjectStore>,
    /// Another bucket, and not merely other keys to that of all.
    elsewhere: bool,
}

impl Stores {
    /// `shared` is none where each tenant has to have its own.
    pub fn new(shared: Option<Arc<dyn ObjectStore>>) -> Self {
        Self {
            shared,
            own: DashMap::new(),
        }
    }

    /// The store of all tenants that have none of their own. The registry lies in it.
    pub fn shared(&self) -> Option<&Arc<dyn ObjectStore>> {
        self.shared.as_ref()
    }

    /// Gives a tenant a store of its own, or another one; `elsewhere` says whether its objects lie in another bucket
    /// than those of all.
    pub fn set_own(&self, tenant: &str, store: Arc<dyn ObjectStore>, elsewhere: bool) {
        let own = Own { store, elsewhere };
        self.own.insert(tenant.to_owned(), own);
    }

    /// Has all of them read those of their keys again that come from outside the configuration.
    pub fn renew_keys(&self) {
        for store in self.shared.iter() {
            store.renew_keys();
        }
        for own in &self.own {
            own.store.renew_keys();
        }
    }

    /// Takes their own from those tenants that have none any more.
    pub fn keep_own(&self, has_one: impl Fn(&str) -> bool) {
        self.own.retain(|tenant, _| has_one(tenant));
    }

    /// Whether a tenant has a store or keys of its own.
    pub fn has_own(&self, tenant: &str) -> bool {
        self.own.contains_key(tenant)
    }

    /// Whether a tenant's objects lie in another bucket than those of all.
    pub fn is_elsewhere(&self, tenant: &str) -> bool {
        self.own.get(tenant).is_some_and(|own| own.elsewhere)
    }

    /// The store of a tenant; none where there is none for it.
    pub fn of(&self, tenant: &str) -> Option<Arc<dyn ObjectStore>> {
        self.at(tenant, self.is_elsewhere(tenant))
    }

    /// What reaches those objects of a tenant that lie in another bucket, or in that of all: with the tenant's own keys
    /// where it has such.
    pub fn at(&self, tenant: &str, elsewhere: bool) -> Option<Arc<dyn ObjectStore>> {
        let own = self.own.get(tenant).map(|own| own.clone());
        match own.filter(|own| own.elsewhere == elsewhere) {
            Some(own) => Some(own.store),
            None if elsewhere => None,
            None => self.shared.clone(),
        }
    }

    /// A place as the registry names it: below the store of all, or as a whole in a tenant's own bucket.
    pub fn registered_place(&self, tenant: &str, s3_prefix: &str) -> String {
        let own = self.own.get(tenant).map(|own| own.clone());
        match own.filter(|own| own.elsewhere) {
            Some(own) => format!("{}/{s3_prefix}", own.store.describe()),
            None => s3_prefix.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::directory::DirectoryStore;

    fn store(name: &str) -> Arc<dyn ObjectStore> {
        Arc::new(DirectoryStore::new(format!("/{name}").into()))
    }

    #[test]
    fn a_tenants_objects_lie_in_its_bucket_or_in_that_of_all() {
        let stores = Stores::new(Some(store("all")));
        stores.set_own("keys", store("all"), false);
        stores.set_own("bucket", store("own"), true);
        let described = |tenant: &str, elsewhere: bool| {
            let store = stores.at(tenant, elsewhere)?;
            Some(store.describe())
        };
        assert_eq!(described("x", false).as_deref(), Some("file:///all"));
        assert_eq!(described("x", true), None);
        assert_eq!(described("keys", false).as_deref(), Some("file:///all"));
        assert_eq!(described("keys", true), None);
        assert_eq!(described("bucket", true).as_deref(), Some("file:///own"));
        // What it had before it got its own.
        assert_eq!(described("bucket", false).as_deref(), Some("file:///all"));
        assert_eq!(stores.registered_place("keys", "a/b"), "a/b");
        assert_eq!(stores.registered_place("bucket", "a/b"), "file:///own/a/b");
        stores.keep_own(|tenant| tenant == "keys");
        assert_eq!(described("bucket", true), None);
        let without = Stores::new(None);
        assert!(without.of("x").is_none());
    }
}
