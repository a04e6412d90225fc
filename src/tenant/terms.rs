//! What the configuration says of tenants: the policy of each, and in which store and where its databases lie. Pure.

use std::collections::HashMap;
use std::sync::Arc;

use super::discovery::Named;
use super::ids::{ClientId, Identity, derived_prefix, label_of};
use super::policy::{Policy, PolicyWritten};

/// The terms of all tenants.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Terms {
    pub defaults: Arc<Policy>,
    pub tenants: HashMap<String, TenantTerms>,
    /// The store of those tenants that have none of their own, as it is shown; none where each has to have its own.
    pub store: Option<String>,
    /// The address of its server, where one is configured.
    pub server: Option<String>,
}

/// What one tenant has otherwise.
#[derive(Clone, PartialEq, Debug)]
pub struct TenantTerms {
    pub policy: Arc<Policy>,
    /// Where its databases lie, each below its own name; none for the derived place.
    pub prefix: Option<String>,
    /// Its own store, as it is shown.
    pub store: Option<String>,
    /// The address of that one's server, where one is configured.
    pub server: Option<String>,
}

impl Terms {
    /// The identity of a database below a watch path of that prefix.
    pub fn identity(&self, prefix: &str, named: &Named) -> Identity {
        let mut id = ClientId::single(prefix, &named.tenant);
        if named.db_name != named.tenant {
            id.db_name = named.db_name.as_str().into();
        }
        let tenant = self.tenants.get(&named.tenant);
        let configured = named.s3_prefix.clone().or_else(|| {
            let prefix = tenant?.prefix.as_ref()?;
            Some(format!("{prefix}/{}", named.db_name))
        });
        let is_listed = configured.is_some();
        let s3_prefix = configured.unwrap_or_else(|| derived_prefix(&id, named.single));
        let location = self
            .store_of(&named.tenant)
            .map(|store| format!("{store}/{s3_prefix}").into());
        Identity {
            label: label_of(&id, named.single),
            policy: self.policy(&named.tenant, &named.policy),
            id,
            s3_prefix,
            is_listed,
            location,
        }
    }

    /// The store that a tenant's databases are in, with its server's address before it where one is configured.
    pub fn store_of(&self, tenant: &str) -> Option<String> {
        let own = self.tenants.get(tenant);
        let own = own.and_then(|own| Some((own.store.as_ref()?, own.server.as_ref())));
        let (store, server) = own.or(Some((self.store.as_ref()?, self.server.as_ref())))?;
        Some(match server {
            Some(server) => format!("{server} {store}"),
            None => store.clone(),
        })
    }

    fn policy(&self, tenant: &str, written: &PolicyWritten) -> Arc<Policy> {
        let above = self
            .tenants
            .get(tenant)
            .map_or(&self.defaults, |tenant| &tenant.policy);
        if *written == PolicyWritten::default() {
            return above.clone();
        }
        Arc::new(written.over(above))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn terms() -> Terms {
        let policy = Policy {
            retention: Duration::from_secs(5),
            ..Policy::default()
        };
        let acme = TenantTerms {
            policy: Arc::new(policy),
            prefix: Some("tenants/acme".to_owned()),
            store: Some("s3://own".to_owned()),
            server: Some("http://other".to_owned()),
        };
        Terms {
            defaults: Arc::default(),
            tenants: [("acme".to_owned(), acme)].into(),
            store: Some("s3://all".to_owned()),
            server: None,
        }
    }

    #[test]
    fn a_tenants_own_place_and_terms() {
        let orders = Named {
            tenant: "acme".to_owned(),
            db_name: "orders".to_owned(),
            single: false,
            ..Named::single("")
        };
        let identity = terms().identity("eu", &orders);
        assert_eq!(&*identity.label, "acme/orders");
        assert_eq!(identity.full_label(), "eu/acme/orders");
        assert_eq!(identity.s3_prefix, "tenants/acme/orders");
        assert_eq!(
            identity.location.as_deref(),
            Some("http://other s3://own/tenants/acme/orders")
        );
        assert_eq!(identity.policy.retention, Duration::from_secs(5));
        let written = Named {
            s3_prefix: Some("x/y".to_owned()),
            ..orders
        };
        assert_eq!(terms().identity("eu", &written).s3_prefix, "x/y");
    }

    #[test]
    fn everybody_else_shares_a_store_and_the_defaults() {
        let terms = terms();
        let identity = terms.identity("", &Named::single("beta"));
        assert_eq!(
            identity.location.as_deref(),
            Some("s3://all/databases/beta")
        );
        assert!(Arc::ptr_eq(&identity.policy, &terms.defaults));
        assert!(!identity.is_listed);
        let without = Terms {
            store: None,
            ..terms
        };
        assert_eq!(without.identity("", &Named::single("beta")).location, None);
    }
}
