//! Carries out a replica's retention: lists it, plans, and deletes in batches.

use std::time::Duration;

use crate::clock::UnixMs;
use crate::format::keys::ObjectKey;
use crate::format::plan::retention::{AgedObject, RetentionPlan, plan};
use crate::store::retry::repeat;
use crate::store::{ObjectStore, StoreError};

/// Stores tell whole seconds: what could be a second younger than it says stays.
const CLOCK_GRAIN: Duration = Duration::from_secs(2);
/// How often a request is made before its error counts.
const ATTEMPTS: u32 = 3;

/// Every object of the replica below `prefix`.
///
/// # Errors
/// Those of the listing.
pub async fn objects_of(
    store: &dyn ObjectStore,
    prefix: &str,
) -> Result<Vec<AgedObject>, StoreError> {
    let below = format!("{prefix}/");
    let listed = repeat(ATTEMPTS, || store.list(&below)).await?;
    let objects = listed.iter().filter_map(|object| {
        Some(AgedObject {
            key: ObjectKey::parse(prefix, &object.key)?,
            size: object.size,
            modified_ms: object.modified_ms,
        })
    });
    Ok(objects.collect())
}

/// Plans what of the replica below `prefix` is older than `retention`, `now` being the store's time.
///
/// # Errors
/// Those of the listing.
pub async fn plan_for(
    store: &dyn ObjectStore,
    prefix: &str,
    retention: Duration,
    now: UnixMs,
) -> Result<RetentionPlan, StoreError> {
    let objects = objects_of(store, prefix).await?;
    Ok(plan(&objects, cutoff(now, retention)))
}

/// What was stored at or before this time is older than `retention`, `now` being the store's time.
pub fn cutoff(now: UnixMs, retention: Duration) -> UnixMs {
    let retention = i64::try_from((retention + CLOCK_GRAIN).as_millis()).unwrap_or(i64::MAX);
    now.saturating_sub(retention)
}

/// Deletes what the plan names, in its order, with one batch of requests for each kind of object.
///
/// # Errors
/// Those of the deletion; what is left is planned again the next time.
pub async fn carry_out(
    store: &dyn ObjectStore,
    prefix: &str,
    plan: &RetentionPlan,
) -> Result<(), StoreError> {
    for kind in plan.steps() {
        let keys: Vec<String> = kind.iter().map(|object| object.key.below(prefix)).collect();
        repeat(ATTEMPTS, || store.delete(&keys)).await?;
    }
    Ok(())
}

/// Deletes all `objects` of a replica; the snapshots go last, so that what is left can be planned again.
///
/// # Errors
/// Those of the deletion.
pub async fn erase(
    store: &dyn ObjectStore,
    prefix: &str,
    objects: &[AgedObject],
) -> Result<(), StoreError> {
    let is_snapshot = |object: &&AgedObject| matches!(object.key, ObjectKey::Snapshot(..));
    let (snapshots, rest): (Vec<&AgedObject>, Vec<_>) = objects.iter().partition(is_snapshot);
    for part in [rest, snapshots] {
        let keys: Vec<_> = part.iter().map(|object| object.key.below(prefix)).collect();
        repeat(ATTEMPTS, || store.delete(&keys)).await?;
    }
    Ok(())
}
