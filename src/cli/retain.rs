//! `retain`: deletes what of the replicas has outlived its retention, or prints what that would be.

use std::collections::HashMap;

use serde::Serialize;

use super::args::RetainArgs;
use super::replicas::{Replicas, left_out};
use super::{Failure, print, print_json, table};
use crate::clock::UnixMs;
use crate::format::plan::retention::AgedObject;
use crate::format::registry::RegistryKey;
use crate::replicate::retention::{carry_out, cutoff, erase, objects_of, plan_for};
use crate::restore::{ListedClient, Removed, begun_since, is_held};
use crate::store::{ObjectStore, StoreError};

pub(super) async fn run(args: RetainArgs) -> Result<(), Failure> {
    let replicas = args.store.open().await?;
    let mut listing = replicas.list().await?;
    let mut clocks = Clocks::default();
    let mut clients = Vec::new();
    for listed in &listing.clients {
        match retain_one(&replicas, listed, &mut clocks, args.dry_run).await {
            Ok(outlived) => clients.push(outlived),
            Err(error) => listing.failed.push(format!("{}: {error}", listed.name())),
        }
    }
    match args.json {
        true => print_json(&Results { clients })?,
        false => {
            let is_all = listing.failed.is_empty() && listing.elsewhere.is_empty();
            print(&text(&clients, args.dry_run, is_all))?;
        }
    }
    left_out(&listing)
}

/// What the stores' clocks say, by store; within the time of the command.
#[derive(Default)]
struct Clocks(HashMap<String, UnixMs>);

impl Clocks {
    async fn now(&mut self, store: &dyn ObjectStore, prefix: &str) -> Result<UnixMs, StoreError> {
        let name = store.describe();
        if let Some(now) = self.0.get(&name) {
            return Ok(*now);
        }
        let now = store.now(prefix).await?;
        self.0.insert(name, now);
        Ok(now)
    }
}

async fn retain_one(
    replicas: &Replicas,
    listed: &ListedClient,
    clocks: &mut Clocks,
    dry_run: bool,
) -> Result<Outlived, StoreError> {
    let store = listed
        .store(&replicas.stores)
        .expect("BUG: listed by that store");
    let policy = replicas.policy(listed);
    let prefix = listed.s3_prefix.as_str();
    let place = listed.registered_place(&replicas.stores);
    if is_held(&replicas.stores, &place).await? {
        return Ok(Outlived::new(listed, false, &[], dry_run));
    }
    let now = clocks.now(&*store, &format!("{prefix}/")).await?;
    if let Some(removed) = listed.removed {
        let due = removed.told <= cutoff(now, policy.removed_retention);
        // Listed first: what another database stores here from now on is not among them.
        let objects = objects_of(&*store, prefix).await?;
        if due && !begun_since(&*store, prefix, removed).await? {
            if !dry_run {
                erase(&*store, prefix, &objects).await?;
                forget(replicas, listed, removed).await?;
            }
            return Ok(Outlived::new(listed, true, &objects, dry_run));
        }
    }
    let plan = plan_for(&*store, prefix, policy.retention, now).await?;
    if !dry_run {
        carry_out(&*store, prefix, &plan).await?;
    }
    Ok(Outlived::new(listed, false, &plan.delete, dry_run))
}

/// Takes out of the registry what it says of a replica that is gone.
pub(super) async fn forget(
    replicas: &Replicas,
    listed: &ListedClient,
    removed: Removed,
) -> Result<(), StoreError> {
    let Some(shared) = replicas.stores.shared() else {
        return Ok(());
    };
    let gone = listed.registered_place(&replicas.stores);
    let is_told = |key: &String| {
        matches!(
            RegistryKey::parse(key),
            Some(RegistryKey::Removed { place, at_ms }) if place == gone && at_ms <= removed.at
        )
    };
    let told = shared.list(RegistryKey::REMOVED).await?;
    let entry = RegistryKey::of_replica(
        listed.elsewhere,
        &listed.prefix,
        &listed.client,
        &listed.s3_prefix,
    );
    let mut keys = vec![entry.to_string()];
    keys.extend(told.into_iter().map(|object| object.key).filter(is_told));
    shared.delete(&keys).await
}

#[derive(Serialize)]
struct Results {
    clients: Vec<Outlived>,
}

/// What goes, or would go, of one client.
#[derive(Serialize)]
struct Outlived {
    client: String,
    prefix: Option<String>,
    /// The database was removed long ago, and its whole replica goes.
    removed: bool,
    objects: usize,
    bytes: u64,
    /// In the order of deletion; only of a plan.
    #[serde(skip_serializing_if = "Option::is_none")]
    keys: Option<Vec<String>>,
}

impl Outlived {
    fn new(listed: &ListedClient, removed: bool, objects: &[AgedObject], is_plan: bool) -> Self {
        let key = |object: &AgedObject| object.key.below(&listed.s3_prefix);
        Self {
            client: listed.client.clone(),
            prefix: (!listed.prefix.is_empty()).then(|| listed.prefix.clone()),
            removed,
            objects: objects.len(),
            bytes: objects.iter().map(|object| object.size).sum(),
            keys: is_plan.then(|| objects.iter().map(key).collect()),
        }
    }

    fn label(&self) -> String {
        match self.removed {
            true => format!("{} (removed)", self.client),
            false => self.client.clone(),
        }
    }
}

/// `is_all`: every client was looked at. What is not known of the others is told by the error.
fn text(clients: &[Outlived], is_plan: bool, is_all: bool) -> String {
    let mut text = String::new();
    for key in clients
        .iter()
        .flat_map(|client| client.keys.iter().flatten())
    {
        text.push_str(&format!("{key}\n"));
    }
    let rows: Vec<_> = clients
        .iter()
        .filter(|client| client.objects > 0)
        .map(|client| {
            vec![
                client.label(),
                client.prefix.clone().unwrap_or_default(),
                client.objects.to_string(),
                client.bytes.to_string(),
            ]
        })
        .collect();
    if rows.is_empty() && !is_all {
        return String::new();
    }
    if rows.is_empty() {
        return "Nothing has outlived its retention.\n".to_owned();
    }
    let done = if is_plan { "TO DELETE" } else { "DELETED" };
    text + &table(&["CLIENT", "PREFIX", done, "BYTES"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_names_the_keys_and_a_run_only_counts() {
        let client = |keys: Option<&[&str]>, objects| Outlived {
            client: "abc".to_owned(),
            prefix: None,
            removed: false,
            objects,
            bytes: 10,
            keys: keys.map(|keys| keys.iter().map(|key| (*key).to_owned()).collect()),
        };
        assert_eq!(
            text(&[client(Some(&["a/1", "a/2"]), 2)], true, true),
            "a/1\na/2\nCLIENT  PREFIX  TO DELETE  BYTES\nabc             2          10\n"
        );
        assert_eq!(
            text(&[client(None, 2)], false, false),
            "CLIENT  PREFIX  DELETED  BYTES\nabc             2        10\n"
        );
        let none = |is_all| text(&[client(None, 0)], false, is_all);
        assert_eq!(none(true), "Nothing has outlived its retention.\n");
        assert_eq!(none(false), "", "that is not known of all");
    }
}
