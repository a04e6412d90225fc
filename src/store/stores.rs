//! The stores of one instance: one for all tenants, and those that tenants have of their own.

use std::sync::Arc;

use dashmap::DashMap;

use super::ObjectStore;

/// Which tenant's databases go where. They share one pool of connections.
pub struct Stores {
    shared: Option<Arc<dyn ObjectStore>>,
    own: DashMap<String, Arc<dyn ObjectStore>>,
}

impl Stores {
    /// `shared` is none where each tenant has to have its own.
    pub fn new(shared: Option<Arc<dyn ObjectStore>>) -> Self {
        Self {
            shared,
            own: DashMap::new(),
        }
    }

    /// The store of all tenants that have none of their own.
    pub fn shared(&self) -> Option<&Arc<dyn ObjectStore>> {
        self.shared.as_ref()
    }

    /// Gives a tenant a store of its own, or another one.
    pub fn set_own(&self, tenant: &str, store: Arc<dyn ObjectStore>) {
        self.own.insert(tenant.to_owned(), store);
    }

    /// Whether a tenant has a store of its own.
    pub fn has_own(&self, tenant: &str) -> bool {
        self.own.contains_key(tenant)
    }

    /// The store of a tenant; none where there is none for it.
    pub fn of(&self, tenant: &str) -> Option<Arc<dyn ObjectStore>> {
        let own = self.own.get(tenant).map(|store| store.clone());
        own.or_else(|| self.shared.clone())
    }
}
