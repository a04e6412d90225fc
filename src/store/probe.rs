//! Finds out whether a store honours create-only PUTs, which some servers accept and ignore.

use bytes::Bytes;

use super::{Body, ObjectStore, Put, StoreError};

/// A tiny object that stays, so that nothing has to be deleted, and each start after the first needs one request.
const PROBE: &str = "registry/probe";

/// Stores the same object again where it is not refused at once: whether a PUT of what exists is refused.
///
/// # Errors
/// Those of the store.
pub async fn probe_conditional_put(store: &dyn ObjectStore) -> Result<bool, StoreError> {
    let body = Body::Bytes(Bytes::from_static(b"probe"));
    for _ in 0..2 {
        if store.put_new(PROBE, &body).await? == Put::Exists {
            return Ok(true);
        }
    }
    Ok(false)
}
