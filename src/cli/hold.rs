//! `hold` and `purge`: suspends the deletion of a client's replica, and erases the replica of one that was removed.

use bytes::Bytes;

use super::args::{HoldArgs, PurgeArgs};
use super::replicas::Replicas;
use super::retain::forget;
use super::{Failure, print};
use crate::format::registry::RegistryKey;
use crate::replicate::retention::{erase, objects_of};
use crate::restore::{ListedClient, is_held};
use crate::store::Body;

pub(super) async fn hold(args: HoldArgs) -> Result<(), Failure> {
    let replicas = args.store.open().await?;
    let listed = listed(&replicas, &args.client).await?;
    let Some(shared) = replicas.stores.shared() else {
        return Err(Failure::Other(format!(
            "{}: there is no store of all clients to note a hold in; give `-bucket STORE`",
            args.client
        )));
    };
    let key = RegistryKey::Held {
        place: listed.registered_place(&replicas.stores),
    };
    let key = key.to_string();
    if args.off {
        shared.delete(&[key]).await?;
        return print(&format!("{} is not held any more\n", listed.name()));
    }
    // One that is held already stays so.
    shared
        .put_new(&key, &Body::Bytes(Bytes::from_static(b"{}\n")))
        .await?;
    print(&format!(
        "{} is held: nothing of its replica is deleted until `hold {} --off`\n",
        listed.name(),
        listed.name()
    ))
}

pub(super) async fn purge(args: PurgeArgs) -> Result<(), Failure> {
    let replicas = args.store.open().await?;
    let listed = listed(&replicas, &args.client).await?;
    let name = listed.name();
    let Some(removed) = listed.removed else {
        return Err(Failure::Other(format!(
            "{name}: it is not removed, and an instance may be replicating it; remove its database, or DELETE it over the API, first"
        )));
    };
    if is_held(&replicas.stores, &listed.registered_place(&replicas.stores)).await? {
        return Err(Failure::Other(format!(
            "{name}: it is held; end that with `hold {name} --off` first"
        )));
    }
    let store = listed
        .store(&replicas.stores)
        .expect("BUG: listed by that store");
    let objects = objects_of(&*store, &listed.s3_prefix).await?;
    erase(&*store, &listed.s3_prefix, &objects).await?;
    forget(&replicas, &listed, removed).await?;
    print(&format!("{name}: erased {} objects\n", objects.len()))
}

/// The client by this name that has a replica.
async fn listed(replicas: &Replicas, text: &str) -> Result<ListedClient, Failure> {
    let listing = replicas.list().await?;
    let named = listing
        .clients
        .into_iter()
        .find(|client| client.name() == text);
    named.ok_or_else(|| {
        Failure::Other(format!(
            "{text}: the store {} has no such client; `list` shows those it has",
            replicas.describe()
        ))
    })
}
