//! The replicas that a command works with: those of the store, and those of tenants that have a store of their own.

use std::collections::HashSet;
use std::sync::Arc;

use super::args::StoreArgs;
use super::client::{self, Chosen};
use super::{Failure, NAME};
use crate::restore::{ListedClient, clients_elsewhere, list_clients};
use crate::store::ObjectStore;

/// A replica, and where it lies.
pub(super) struct Replica {
    pub client: ListedClient,
    pub store: Arc<dyn ObjectStore>,
}

impl Replica {
    /// `PREFIX/` before the client where there is a prefix.
    pub(super) fn name(&self) -> String {
        match self.client.prefix.as_str() {
            "" => self.client.client.clone(),
            prefix => format!("{prefix}/{}", self.client.client),
        }
    }
}

/// Every replica that can be reached.
pub(super) struct Replicas {
    pub found: Vec<Replica>,
    /// Clients whose tenants have a store of their own, of which nothing is known here.
    unreachable: Vec<String>,
}

impl Replicas {
    /// Those in the store, and in the stores that tenants of the configuration have of their own.
    pub(super) async fn all(args: &StoreArgs) -> Result<Self, Failure> {
        let stores = Stores::open(args).await?;
        let mut found = Vec::new();
        let mut places = HashSet::new();
        for store in stores.all() {
            for client in list_clients(store).await? {
                // A tenant may have its own keys to the store of all.
                if places.insert((store.describe(), client.s3_prefix.clone())) {
                    let store = store.clone();
                    found.push(Replica { client, store });
                }
            }
        }
        let mut unreachable = match &stores.shared {
            Some(shared) => clients_elsewhere(&**shared).await?,
            None => Vec::new(),
        };
        unreachable.retain(|name| found.iter().all(|replica| replica.name() != *name));
        Ok(Self { found, unreachable })
    }

    /// The one that `text` means.
    pub(super) async fn one(
        args: &StoreArgs,
        text: &str,
    ) -> Result<(Chosen, Arc<dyn ObjectStore>), Failure> {
        let stores = Stores::open(args).await?;
        let own = stores
            .own
            .iter()
            .find(|(tenant, _)| text.split('/').any(|part| part == tenant));
        let store = own.map(|(_, store)| store).or(stores.shared.as_ref());
        let Some(store) = store else {
            return Err(Failure::Other(format!(
                "{text}: no store is configured for it; give `-bucket STORE`"
            )));
        };
        Ok((client::resolve(&**store, text).await?, store.clone()))
    }

    /// Names what can't be reached, a line each; what a command that had to leave them out ends with.
    pub(super) fn left_out(&self) -> Result<(), Failure> {
        for name in &self.unreachable {
            eprintln!(
                "{NAME}: {name}: its tenant has a store of its own; give -config FILE, which names it"
            );
        }
        match self.unreachable.len() {
            0 => Ok(()),
            left => Err(Failure::Other(format!(
                "{left} clients are in stores of their own, and were left out"
            ))),
        }
    }
}

/// The store of all, where there is one, and those of single tenants.
struct Stores {
    shared: Option<Arc<dyn ObjectStore>>,
    own: Vec<(String, Arc<dyn ObjectStore>)>,
}

impl Stores {
    async fn open(args: &StoreArgs) -> Result<Self, Failure> {
        let written = args.load()?;
        let mut own = Vec::new();
        for one in written.own_stores()? {
            own.push((one.tenant, one.store.open(&one.s3).await?));
        }
        let shared = match &written.store {
            None if !own.is_empty() => None,
            _ => Some(written.required_store()?.open(&written.s3).await?),
        };
        Ok(Self { shared, own })
    }

    fn all(&self) -> impl Iterator<Item = &Arc<dyn ObjectStore>> {
        self.shared
            .iter()
            .chain(self.own.iter().map(|(_, store)| store))
    }
}
