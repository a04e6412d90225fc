//! The replicas that a command on data can reach: those in the store of all, and, where the configuration has their
//! keys, those in tenants' own stores.

use std::path::Path;
use std::sync::Arc;

use super::Failure;
use super::args::StoreArgs;
use crate::config::{Config, ConfigError};
use crate::restore::{Expected, ListedClient, Listing, list_clients};
use crate::store::ObjectStore;
use crate::store::stores::Stores;
use crate::tenant::claims::Judge;
use crate::tenant::discovery::{Named, Rules, RulesWritten};
use crate::tenant::ids::Identity;
use crate::tenant::policy::Policy;

/// The stores of a configuration, opened, and what it says of their clients.
pub(super) struct Replicas {
    pub stores: Stores,
    config: Config,
    /// The rules where no configuration has any for a prefix.
    defaults: Rules,
}

/// A replica as a command works with it.
#[derive(Clone)]
pub(super) struct Chosen {
    pub store: Arc<dyn ObjectStore>,
    /// Where its objects lie, without a slash at either end.
    pub s3_prefix: String,
    /// `PREFIX/` before its label where there is a prefix.
    pub name: String,
}

impl StoreArgs {
    /// Opens every store that the configuration and the flags name; no server is contacted yet. The directories of the
    /// configuration need not be on this machine.
    pub(super) async fn open(&self) -> Result<Replicas, Failure> {
        let (config, _absent) = self.load()?.look_at()?;
        if config.store.is_none() && config.own_stores.is_empty() {
            return Err(ConfigError::NoStore.into());
        }
        let shared = match &config.store {
            Some(spec) => Some(spec.open(&config.s3).await?),
            None => None,
        };
        let stores = Stores::new(shared);
        for own in &config.own_stores {
            stores.set_own(&own.tenant, own.store.open(&own.s3).await?, own.elsewhere);
        }
        let defaults = Rules::new(RulesWritten::default_for(Path::new("/")));
        let defaults = defaults.map_err(ConfigError::from)?;
        Ok(Replicas {
            stores,
            config,
            defaults,
        })
    }
}

impl Replicas {
    /// Everything that is in the stores.
    pub(super) async fn list(&self) -> Result<Listing, Failure> {
        Ok(list_clients(&self.stores, &self.expected()).await?)
    }

    /// The stores as a user would write them.
    pub(super) fn describe(&self) -> String {
        let own = self.config.own_stores.iter();
        let own = own.filter(|own| own.elsewhere).map(|own| &own.store);
        let all: Vec<_> = self
            .config
            .store
            .iter()
            .chain(own)
            .map(ToString::to_string)
            .collect();
        all.join(", ")
    }

    /// What there is of a listed client; none where nothing reaches it.
    pub(super) fn chosen(&self, listed: &ListedClient) -> Option<Chosen> {
        Some(Chosen {
            store: listed.store(&self.stores)?,
            s3_prefix: listed.s3_prefix.clone(),
            name: listed.name(),
        })
    }

    /// The rules that decide which file below a watch path of that prefix is whose.
    pub(super) fn judges(&self, prefix: &str) -> Vec<Judge<'_>> {
        let watch_paths = self.config.watch_paths.iter();
        let judges = watch_paths.filter(|watch_path| watch_path.prefix == prefix);
        let judges: Vec<_> = judges
            .map(|watch_path| Judge::Configuration(&watch_path.rules))
            .collect();
        match judges.is_empty() {
            true => vec![Judge::Defaults(&self.defaults)],
            false => judges,
        }
    }

    /// Whether a listed client lies where this configuration has it.
    pub(super) fn is_at_home(&self, listed: &ListedClient) -> bool {
        let names = listed.client.split_once('/');
        let named = match names {
            None => Named::single(&listed.client),
            Some((tenant, db_name)) => Named {
                db_name: db_name.to_owned(),
                single: false,
                ..Named::single(tenant)
            },
        };
        let configured = self.named().find(|one| one.name() == listed.name());
        let home = configured.unwrap_or_else(|| self.placed(&listed.prefix, &named));
        home.lies_with(listed)
    }

    /// The prefixes of the configuration's watch paths.
    pub(super) fn configured_prefixes(&self) -> impl Iterator<Item = &str> {
        self.config
            .watch_paths
            .iter()
            .map(|one| one.prefix.as_str())
    }

    /// The clients of tenants with stores of their own, and where else such have databases.
    fn expected(&self) -> Vec<Expected> {
        let clients = self.named().filter(|client| {
            let tenant = client.tenant();
            self.stores.has_own(tenant)
        });
        let mut expected: Vec<_> = clients.map(Expected::Client).collect();
        for own in &self.config.own_stores {
            let mut folders: Vec<String> = Vec::new();
            for prefix in self.prefixes() {
                let folder = self.folder_of(&own.tenant, prefix);
                if folders.contains(&folder) {
                    continue;
                }
                folders.push(folder.clone());
                expected.push(Expected::Folder {
                    tenant: own.tenant.clone(),
                    prefix: prefix.to_owned(),
                    folder,
                    elsewhere: own.elsewhere,
                });
            }
        }
        expected
    }

    /// The databases of `clients`, whether anything of them is in a store or not.
    pub(super) fn named(&self) -> impl Iterator<Item = ListedClient> + '_ {
        let identities = self.config.watch_paths.iter().flat_map(|watch_path| {
            let named = watch_path.rules.named().values();
            named.map(|named| watch_path.rules.identity(named))
        });
        identities.map(|identity| self.listed(identity))
    }

    /// The place of a database by what the configuration says of its tenant.
    pub(super) fn placed(&self, prefix: &str, named: &Named) -> ListedClient {
        self.listed(self.config.terms.identity(prefix, named))
    }

    fn listed(&self, identity: Identity) -> ListedClient {
        ListedClient {
            elsewhere: self.stores.is_elsewhere(&identity.id.tenant),
            client: identity.label.to_string(),
            prefix: identity.id.prefix.to_string(),
            s3_prefix: identity.s3_prefix,
            removed: None,
        }
    }

    /// What holds for a client: its own terms, else those of its tenant, else those of all.
    pub(super) fn policy(&self, client: &ListedClient) -> Arc<Policy> {
        let named = self.config.watch_paths.iter().flat_map(|watch_path| {
            let named = watch_path.rules.named().values();
            named.map(|named| watch_path.rules.identity(named))
        });
        let mut own = named
            .filter(|own| *own.label == *client.client && *own.id.prefix == *client.prefix)
            .map(|own| own.policy);
        own.next().unwrap_or_else(|| {
            let tenant = Named::single(client.tenant());
            self.config.terms.identity(&client.prefix, &tenant).policy
        })
    }

    fn prefixes(&self) -> Vec<&str> {
        let watch_paths = self.config.watch_paths.iter();
        let mut prefixes: Vec<_> = watch_paths.map(|one| one.prefix.as_str()).collect();
        if prefixes.is_empty() {
            prefixes.push("");
        }
        prefixes.sort_unstable();
        prefixes.dedup();
        prefixes
    }

    /// The folder that a tenant's databases are in.
    fn folder_of(&self, tenant: &str, prefix: &str) -> String {
        let terms = self.config.terms.tenants.get(tenant);
        match terms.and_then(|terms| terms.prefix.clone()) {
            Some(folder) => folder,
            None => self.placed(prefix, &Named::single(tenant)).s3_prefix,
        }
    }
}

/// What a command did not do of a listing.
pub(super) fn left_out(listing: &Listing) -> Result<(), Failure> {
    let mut reasons = Vec::new();
    if !listing.elsewhere.is_empty() {
        reasons.push(elsewhere(&listing.elsewhere.join(", ")));
    }
    reasons.extend(listing.failed.iter().cloned());
    match reasons.is_empty() {
        true => Ok(()),
        false => Err(Failure::Other(reasons.join("; "))),
    }
}

/// Why clients can't be reached.
pub(super) fn elsewhere(clients: &str) -> String {
    format!(
        "{clients}: in a bucket of its tenant, which is not this store; give the `-config` that has the tenant's `s3Config`"
    )
}
