//! Finds out whether a store honours create-only PUTs, which some servers accept and ignore, and what its clock says.

use bytes::Bytes;

use super::{Body, ObjectStore, Put, StoreError};
use crate::clock::UnixMs;

/// Stores a tiny object twice under a key of its own, then deletes it: whether the second PUT was refused.
///
/// # Errors
/// Those of the store; the object may then be left behind, below `registry/`.
pub async fn probe_conditional_put(store: &dyn ObjectStore) -> Result<bool, StoreError> {
    let key = format!("registry/probe-{:016x}", random());
    let body = Body::Bytes(Bytes::from_static(b"probe"));
    store.put_new(&key, &body).await?;
    let second = store.put_new(&key, &body).await?;
    store.delete(&[key]).await?;
    Ok(second == Put::Exists)
}

/// What the store's clock says, within the time of these requests: stores a tiny object, and looks when that was.
///
/// # Errors
/// Those of the store; the object may then be left behind, below `registry/`.
pub async fn probe_time(store: &dyn ObjectStore) -> Result<UnixMs, StoreError> {
    let key = format!("registry/probe-{:016x}", random());
    let body = Body::Bytes(Bytes::from_static(b"probe"));
    store.put_new(&key, &body).await?;
    let listed = store.list(&key).await?;
    store.delete(std::slice::from_ref(&key)).await?;
    listed
        .first()
        .map(|object| object.modified_ms)
        .ok_or_else(|| StoreError::Failed {
            key,
            reason: "a listing does not show an object that was just stored".to_owned(),
        })
}

/// A number that no other process has.
pub(super) fn random() -> u64 {
    getrandom::u64().expect("BUG: the kernel has random numbers")
}
