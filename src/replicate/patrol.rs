//! Sees to it that what the store has acknowledged of idle clients is still there, at no request for each of them: the folders
//! that hold many clients are listed page by page, at a bounded pace, and compared with what is known. Only what seems to
//! be missing is looked at by itself.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::wholeness::Looked;
use super::{Fleet, Replicator, caught};
use crate::capture::Database;
use crate::format::keys::ObjectKey;
use crate::format::plan::newest::{NewestState, Shown};
use crate::store::{ObjectStore, StoreError};
use crate::tenant::roster::{Client, Status};

/// Between two requests.
const PAUSE: Duration = Duration::from_secs(1);
/// The first patrol of a run comes after this part of the interval.
const FIRST_AFTER: u32 = 24;
/// The folder that holds the clients whose place is derived from their names.
const DATABASES: &str = "databases/";

/// Goes on patrol at each `interval`, until `end` says so.
pub async fn run(interval: Duration, fleet: Arc<Fleet>, mut end: watch::Receiver<bool>) {
    let work = async {
        tokio::time::sleep(interval / FIRST_AFTER).await;
        loop {
            for ship in fleet.ships() {
                if let Err(error) = caught(patrol(&ship.replicator, interval)).await {
                    tracing::error!(error, "A patrol of the store panicked");
                }
            }
            tokio::time::sleep(interval).await;
        }
    };
    tokio::select! {
        () = work => {}
        // The sender goes only with the instance, which is the end as well.
        _ = end.wait_for(|end| *end) => {}
    }
}

/// A client of which something is stored.
struct Known {
    db: Arc<Database>,
    client: Arc<Client>,
    state: NewestState,
}

/// The clients in one store, by their places.
struct Beat {
    store: Arc<dyn ObjectStore>,
    clients: HashMap<String, Known>,
}

/// Looks once at all clients of a watch path.
async fn patrol(replicator: &Replicator, interval: Duration) {
    let beats = match beats(replicator).await {
        Ok(beats) => beats,
        Err(error) => {
            tracing::error!(%error, "What the store should have can't be read");
            return;
        }
    };
    // However short the interval is, a request is not all that is done.
    let pause = PAUSE.min(interval / 4);
    for beat in beats {
        let mut absent = Vec::new();
        for folder in folders(beat.clients.keys()) {
            match listed(&beat, &folder, pause).await {
                Ok(found) => absent.extend(found),
                Err(error) => {
                    tracing::warn!(%error, "A part of the store can't be looked through; it is tried again with the next patrol");
                }
            }
        }
        for place in absent {
            let Some(known) = beat.clients.get(&place) else {
                continue;
            };
            tokio::time::sleep(pause).await;
            match replicator.confirm_and_mend(&known.db, &known.client).await {
                Ok(Looked::Whole | Looked::Mending) => {}
                Err(error) => {
                    tracing::warn!(client = %known.client.label, %error, "Whether the replica is whole can't be told");
                }
            }
        }
    }
}

async fn beats(replicator: &Replicator) -> Result<Vec<Beat>, crate::capture::CaptureError> {
    let mut beats: HashMap<String, Beat> = HashMap::new();
    for (path, state) in replicator.capture.newest_states().await? {
        let Some(db) = replicator.capture.at_path(&path) else {
            continue;
        };
        let Some(client) = db.client().filter(|client| is_watched(client)) else {
            continue;
        };
        // One whose store is not configured says so in its own health.
        let Ok(store) = replicator.uplink.store_of(&client) else {
            continue;
        };
        let beat = beats.entry(store.describe()).or_insert_with(|| Beat {
            store,
            clients: HashMap::new(),
        });
        let place = client.s3_prefix().to_owned();
        beat.clients.insert(place, Known { db, client, state });
    }
    Ok(beats.into_values().collect())
}

fn is_watched(client: &Client) -> bool {
    match client.progress().status {
        Status::Active | Status::Gapped | Status::Failing | Status::Paused => true,
        Status::Waiting | Status::Missing | Status::Refused => false,
    }
}

/// The folders to be listed for these places: those that hold many, and of others their own.
fn folders<'a>(places: impl Iterator<Item = &'a String>) -> BTreeSet<String> {
    places
        .map(|place| {
            let above = match place.strip_prefix(DATABASES) {
                Some(_) => Some(DATABASES.to_owned()),
                None => place
                    .find(&format!("/{DATABASES}"))
                    .map(|at| format!("{}/{DATABASES}", &place[..at])),
            };
            above.unwrap_or_else(|| format!("{place}/"))
        })
        .collect()
}

/// Lists a folder; gives the places in it whose newest state was not shown whole.
async fn listed(beat: &Beat, folder: &str, pause: Duration) -> Result<Vec<String>, StoreError> {
    let mut unseen: HashSet<&str> = beat
        .clients
        .keys()
        .map(String::as_str)
        .filter(|place| format!("{place}/").starts_with(folder))
        .collect();
    let mut absent = Vec::new();
    // A client's objects come one after the other.
    let mut current: Option<(&str, Shown)> = None;
    let mut after = String::new();
    loop {
        let page = beat.store.list_after(folder, &after).await?;
        for object in &page.objects {
            let Some((place, key)) = ObjectKey::split(&object.key) else {
                continue;
            };
            if current.as_ref().is_none_or(|(known, _)| *known != place) {
                absent.extend(current.take().and_then(judged));
                if let Some((place, known)) = beat.clients.get_key_value(place)
                    && unseen.remove(place.as_str())
                {
                    current = Some((place, Shown::new(known.state)));
                }
            }
            if let Some((known, shown)) = &mut current
                && *known == place
            {
                shown.add(key);
            }
        }
        match page.objects.into_iter().next_back() {
            Some(last) if !page.is_last => after = last.key,
            _ => break,
        }
        tokio::time::sleep(pause).await;
    }
    absent.extend(current.and_then(judged));
    absent.extend(unseen.into_iter().map(str::to_owned));
    Ok(absent)
}

fn judged((place, shown): (&str, Shown)) -> Option<String> {
    shown.missing().map(|_| place.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_beside_each_other_are_listed_together() {
        let places = [
            "databases/a",
            "databases/acme/orders",
            "eu/databases/a",
            "eu/databases/b",
            "elsewhere/system",
            "a/b/databases/c",
        ]
        .map(str::to_owned);
        let folders: Vec<_> = folders(places.iter()).into_iter().collect();
        assert_eq!(
            folders,
            [
                "a/b/databases/",
                "databases/",
                "elsewhere/system/",
                "eu/databases/"
            ]
        );
    }
}
