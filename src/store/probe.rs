//! Finds out whether a store honours create-only PUTs, which some servers accept and ignore.

use bytes::Bytes;

use super::{Body, ObjectStore, Put, StoreError};

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

/// A number that no other process has.
pub(super) fn random() -> u64 {
    getrandom::u64().expect("BUG: the kernel has random numbers")
}
