//! Whether a replica's deletion is suspended: the registry in the store of all says so.

use super::replica::ATTEMPTS;
use crate::format::registry::RegistryKey;
use crate::store::StoreError;
use crate::store::retry::repeat;
use crate::store::stores::Stores;

/// Whether nothing of the replica at `place` may be deleted, `place` being as the registry names it. Without a store of
/// all there is no registry, and no hold.
///
/// # Errors
/// Those of the store: who can't tell must not delete.
pub async fn is_held(stores: &Stores, place: &str) -> Result<bool, StoreError> {
    let Some(shared) = stores.shared() else {
        return Ok(false);
    };
    let key = RegistryKey::Held {
        place: place.to_owned(),
    };
    let key = key.to_string();
    let listed = repeat(ATTEMPTS, || shared.list(&key)).await?;
    Ok(listed.iter().any(|object| object.key == key))
}
