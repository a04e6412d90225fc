//! Restore drills in the background: at each interval a sample of the clients is restored, proven and thrown away; those
//! that were not proven for the longest time come first.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::{Fleet, caught};
use crate::clock::now_ms;
use crate::restore::{RestoreError, Verified, verify_replica};
use crate::tenant::roster::{Client, Roster, Status};

/// What health calls it.
const DRILL: &str = "drill";

/// `verification` of the configuration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Drills {
    pub interval: Duration,
    /// How many clients at each interval.
    pub sample: Sample,
}

/// A part of all clients.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sample {
    Count(usize),
    Percent(u8),
}

impl Sample {
    /// How many of `all` that is; at least one where there is any.
    fn of(self, all: usize) -> usize {
        match self {
            Self::Count(count) => count.min(all),
            Self::Percent(percent) => (all * usize::from(percent)).div_ceil(100),
        }
    }
}

/// Holds drills until `end` says so. `scratch` is a directory that takes the largest database.
pub async fn run(
    drills: Drills,
    fleet: Arc<Fleet>,
    roster: Arc<Roster>,
    scratch: PathBuf,
    mut end: watch::Receiver<bool>,
) {
    let work = async {
        loop {
            tokio::time::sleep(drills.interval).await;
            for client in sample(roster.all(), drills.sample) {
                if let Err(error) = caught(hold(&fleet, &client, &scratch)).await {
                    tracing::error!(client = %client.label, error, "A restore drill panicked");
                }
            }
        }
    };
    tokio::select! {
        () = work => {}
        // The sender goes only with the instance, which is the end as well.
        _ = end.wait_for(|end| *end) => {}
    }
}

/// Those that come next: of what is replicated the one whose last drill is longest ago first, and before it those that had
/// none. One of which nothing can be told comes no sooner than the others.
fn sample(mut clients: Vec<Arc<Client>>, sample: Sample) -> Vec<Arc<Client>> {
    clients.retain(|client| {
        let progress = client.progress();
        progress.replicated_txid > 0 && progress.status != Status::Refused
    });
    clients.sort_by_cached_key(|client| client.progress().found().last_drill_at);
    clients.truncate(sample.of(clients.len()));
    clients
}

async fn hold(fleet: &Fleet, client: &Client, scratch: &std::path::Path) {
    let begun = std::time::Instant::now();
    let outcome = match prove(fleet, client, scratch).await {
        // Retention may have taken an object away since it was listed: only what is seen twice is damage.
        Err(error) if error.is_damage() => prove(fleet, client, scratch).await,
        other => other,
    };
    client.update(|progress| progress.found_mut().last_drill_at = Some(now_ms()));
    let s3_path = format!("{}/", client.s3_prefix());
    let duration = format!("{}ms", begun.elapsed().as_millis());
    match outcome {
        Ok(verified) => {
            client.update(|progress| {
                let found = progress.found_mut();
                found.last_proven_at = Some(now_ms());
                found.damage = None;
                progress.note_upkeep(DRILL, None);
            });
            tracing::info!(
                client = %client.label,
                prefix = client.prefix(),
                operation = "restore",
                duration = %duration,
                s3_path = %s3_path,
                txid = verified.txid,
                "Restore drill passed"
            );
        }
        Err(error) if error.is_unchecked() => {
            client.update(|progress| progress.note_upkeep(DRILL, Some(error.to_string())));
            tracing::warn!(
                client = %client.label,
                prefix = client.prefix(),
                operation = "restore",
                duration = %duration,
                s3_path = %s3_path,
                error = %error,
                "A restore drill could not tell whether the replica is sound"
            );
        }
        Err(error) => {
            if error.is_damage() {
                let damage = format!("damaged: {error}");
                client.update(|progress| progress.found_mut().damage = Some(damage));
            }
            tracing::error!(
                client = %client.label,
                prefix = client.prefix(),
                operation = "restore",
                duration = %duration,
                s3_path = %s3_path,
                error = %error,
                "Restore drill failed"
            );
        }
    }
}

async fn prove(
    fleet: &Fleet,
    client: &Client,
    scratch: &std::path::Path,
) -> Result<Verified, RestoreError> {
    let store = fleet.store_of(client)?;
    verify_replica(&store, client.s3_prefix(), scratch).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tenant::ids::Identity;

    fn client(name: &str, replicated_txid: u64, last_drill_at: Option<i64>) -> Arc<Client> {
        let seen_at = std::path::Path::new("/data").into();
        let client = Client::new(
            Identity::plain("", name),
            std::path::Path::new("x.db").into(),
            seen_at,
        );
        client.update(|progress| {
            progress.replicated_txid = replicated_txid;
            progress.found_mut().last_drill_at = last_drill_at;
        });
        Arc::new(client)
    }

    #[test]
    fn the_one_whose_drill_is_longest_ago_comes_first() {
        let all = [
            client("late", 1, Some(9)),
            client("early", 1, Some(3)),
            client("never", 1, None),
            client("empty", 0, None),
        ];
        let names = |count| -> Vec<_> {
            let chosen = sample(all.to_vec(), count);
            chosen
                .iter()
                .map(|client| client.label.to_string())
                .collect()
        };
        assert_eq!(names(Sample::Count(2)), ["never", "early"]);
        assert_eq!(names(Sample::Count(9)), ["never", "early", "late"]);
        assert_eq!(names(Sample::Percent(34)), ["never", "early"]);
        assert_eq!(names(Sample::Percent(1)), ["never"]);
    }
}
