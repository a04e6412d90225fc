//! What was registered by hand comes back from the store where the state was lost: as far as the rules of this
//! configuration give the file to the client that the store tells of.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use super::fleet::{Fleet, Ship};
use crate::capture::Recalled;
use crate::format::description::{Attributes, Description};
use crate::format::keys::GenerationId;
use crate::restore::{
    ListedClient, Listing, RestoreError, describe, is_of, list_clients, placed_clients,
};
use crate::store::{ObjectStore, StoreError};
use crate::tenant::claims::{Claimant, Judge, Neighbours, Standing, refuse_place_of_others};
use crate::tenant::discovery::Named;
use crate::tenant::places::refuse_reserved;
use crate::tenant::policy::PolicyWritten;

/// Clients that are dealt with already, by prefix, label and place: each is told of once, however often the store is asked.
#[derive(Debug, Default)]
pub struct Recall {
    done: HashSet<(String, String, String)>,
}

impl Recall {
    /// False where it was dealt with before.
    fn begin(&mut self, client: &ListedClient) -> bool {
        let (prefix, label) = (client.prefix.clone(), client.client.clone());
        self.done.insert((prefix, label, client.s3_prefix.clone()))
    }
}

/// What a store says that a client has, where the rules let it be.
struct Claim<'a> {
    client: &'a ListedClient,
    ship: &'a Ship,
    named: Named,
    path: PathBuf,
    /// Of the file when it was replicated last.
    owner: Option<Attributes>,
    standing: Standing,
    /// Whether its objects lie where the configuration has them.
    is_at_home: bool,
}

impl Claim<'_> {
    /// The least is the best.
    fn rank(&self) -> (Standing, bool) {
        (self.standing, !self.is_at_home)
    }

    fn is_to_the_file_of(&self, other: &Self) -> bool {
        self.path == other.path && std::ptr::eq(self.ship, other.ship)
    }
}

impl Fleet {
    /// Registers again what the registry names of those watch paths whose state is new. To be called until it succeeds.
    ///
    /// # Errors
    /// Those of the store of all tenants.
    pub async fn recall(&self, recall: &mut Recall) -> Result<(), RestoreError> {
        let new: Vec<&Ship> = self
            .ships()
            .iter()
            .filter(|ship| ship.capture.has_new_state())
            .collect();
        let stores = self.stores();
        if new.is_empty() {
            return Ok(());
        }
        let placed = placed_clients(stores).await?;
        if placed.is_empty() {
            return Ok(());
        }
        let Listing {
            clients, elsewhere, ..
        } = list_clients(stores, &[]).await?;
        for client in elsewhere {
            if recall
                .done
                .insert((String::new(), client.clone(), String::new()))
            {
                tracing::warn!(
                    client,
                    "A registration in a bucket of its tenant is not taken up again: nothing here reaches that bucket"
                );
            }
        }
        let registered = clients.iter().filter(|client| {
            let named =
                |one: &&ListedClient| one.client == client.client && one.prefix == client.prefix;
            let is_named = placed.iter().filter(named).any(|one| one.lies_with(client));
            is_named && client.removed.is_none()
        });
        let neighbours = Neighbours {
            tenants: clients.iter().map(ListedClient::tenant).collect(),
            prefixes: HashSet::new(),
        };
        let (mut claims, mut refused) = (Vec::new(), Vec::new());
        for client in registered {
            let ships: Vec<&Ship> = new
                .iter()
                .filter(|ship| ship.capture.present_rules().prefix() == client.prefix)
                .copied()
                .collect();
            let Some(store) = client.store(stores).filter(|_| !ships.is_empty()) else {
                continue;
            };
            let description = newest_description(&store, &client.s3_prefix).await?;
            match claim(client, &ships, description, &neighbours) {
                Ok(claim) => claims.push(claim),
                Err(reason) => refused.push((client, reason)),
            }
        }
        for claim in &claims {
            match better(claim, &claims) {
                None if recall.begin(claim.client) => take_up(claim),
                None => {}
                Some(other) => {
                    let reason = format!(
                        "{} is claimed at {}/ as well, with as much right or more",
                        claim.path.display(),
                        other.client.s3_prefix
                    );
                    refused.push((claim.client, Refused::NotGiven(reason)));
                }
            }
        }
        for (client, reason) in refused {
            if recall.begin(client) {
                reason.tell(client);
            }
        }
        Ok(())
    }
}

/// What the description at a client's place claims, in the watch path whose rules give most for it.
fn claim<'a>(
    client: &'a ListedClient,
    ships: &[&'a Ship],
    description: Option<Description>,
    neighbours: &Neighbours<'_>,
) -> Result<Claim<'a>, Refused> {
    let not_given = |reason: &str| Refused::NotGiven(reason.to_owned());
    refuse_reserved(&client.s3_prefix, false).map_err(Refused::NotGiven)?;
    let description = description
        .ok_or_else(|| not_given("no description of a database can be read at its place"))?;
    if !is_of(&description, &client.client) {
        let (tenant, db_name) = (description.tenant_id, description.db_name);
        return Err(Refused::OfAnother(format!("{tenant}/{db_name}")));
    }
    let path = description.path;
    let mut best = Err(not_given("its watch path is none of this configuration's"));
    for &ship in ships {
        let rules = ship.capture.present_rules();
        match Judge::Configuration(&rules).weigh(&client.client, &path) {
            Ok(standing) => {
                let is_there = ship.capture.has_file(&path);
                let better = best
                    .as_ref()
                    .is_ok_and(|(_, best)| *best <= (standing, !is_there));
                if !better {
                    best = Ok((ship, (standing, !is_there)));
                }
            }
            Err(baseless) if best.is_err() => {
                best = Err(Refused::NotGiven(format!("{}: {baseless}", path.display())));
            }
            Err(_) => {}
        }
    }
    let (ship, (standing, _)) = best?;
    let claimant = Claimant {
        prefix: client.prefix.clone(),
        label: client.client.clone(),
        path,
        is_at_home: true,
    };
    let baseless = |baseless| Refused::NotGiven(format!("{}: {baseless}", claimant.path.display()));
    refuse_place_of_others(&claimant, standing, neighbours).map_err(baseless)?;
    let path = claimant.path;
    let mut named = Named {
        single: !client.client.contains('/'),
        tenant: description.tenant_id,
        db_name: description.db_name,
        s3_prefix: None,
        policy: PolicyWritten::default(),
    };
    let home = ship.capture.present_rules().identity(&named);
    named.s3_prefix = Some(client.s3_prefix.clone());
    Ok(Claim {
        client,
        ship,
        named,
        path,
        owner: description.file,
        standing,
        is_at_home: home.s3_prefix == client.s3_prefix,
    })
}

/// Another claim to the same file that is as good or better.
fn better<'a, 'b>(claim: &Claim<'_>, all: &'b [Claim<'a>]) -> Option<&'b Claim<'a>> {
    let others = all
        .iter()
        .filter(|other| other.client != claim.client && other.is_to_the_file_of(claim));
    others
        .min_by_key(|other| other.rank())
        .filter(|other| other.rank() <= claim.rank())
}

fn take_up(claim: &Claim<'_>) {
    let path = &claim.path;
    let recalled = Recalled {
        path,
        named: claim.named.clone(),
        owner: claim.owner,
    };
    match claim
        .ship
        .capture
        .recall(recalled, || (claim.ship.is_open)(path))
    {
        Ok(true) => {}
        Ok(false) => tracing::warn!(
            client = %claim.client.client,
            path = %path.display(),
            "A registration came back from the store while its file is open; it takes effect at the next start"
        ),
        Err(error) => Refused::NotGiven(error.to_string()).tell(claim.client),
    }
}

/// Why a registration stays forgotten.
enum Refused {
    /// The description is another client's, by these names.
    OfAnother(String),
    /// The file is not given to the client.
    NotGiven(String),
}

impl Refused {
    fn tell(&self, client: &ListedClient) {
        let prefix = (!client.prefix.is_empty()).then_some(&client.prefix);
        let s3_path = format!("{}/", client.s3_prefix);
        match self {
            Self::OfAnother(other) => tracing::warn!(
                client = %client.client, prefix, %s3_path, error = other,
                "What lies at the place of a registration is another database's; it is not taken up again"
            ),
            Self::NotGiven(reason) => tracing::warn!(
                client = %client.client, prefix, %s3_path, error = reason,
                "A registration that the store tells of is not taken up again; register it anew if it is right"
            ),
        }
    }
}

/// The newest generation's description; none where there is none that can be read.
async fn newest_description(
    store: &Arc<dyn ObjectStore>,
    s3_prefix: &str,
) -> Result<Option<Description>, StoreError> {
    let folder = format!("{s3_prefix}/snapshots/");
    let generations = store.list_folders(&folder).await?;
    let ids = generations
        .iter()
        .filter_map(|name| name.parse::<GenerationId>().ok());
    match ids.max() {
        Some(newest) => describe(store, s3_prefix, newest).await,
        None => Ok(None),
    }
}
