//! Finds out what a store can do, and whether it can be used.

use bytes::Bytes;

use super::{Body, ObjectStore, StoreError};
use crate::random;

/// A tiny object that stays: whether the store can be used is asked by storing it again.
const PROBE: &str = "registry/probe";

/// What a store makes of a PUT that must not replace anything.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CreateOnly {
    /// Of many writers one creates the object.
    IfNoneMatch,
    /// The same, by Google's name for it.
    IfGenerationMatch,
    /// Of writers in turn one does, of writers at the same moment several.
    NotAtomic,
    /// It refuses every condition, or ignores it.
    Unknown,
}

impl CreateOnly {
    /// Whether two writers are kept apart.
    pub fn is_relied_on(self) -> bool {
        matches!(self, Self::IfNoneMatch | Self::IfGenerationMatch)
    }

    /// As the log has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::IfNoneMatch => "If-None-Match",
            Self::IfGenerationMatch => "x-goog-if-generation-match",
            Self::NotAtomic => "not atomic",
            Self::Unknown => "none",
        }
    }
}

/// What a store can do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Abilities {
    pub create_only: CreateOnly,
    /// Many objects with one request; none where the keys may not delete.
    pub deletes_in_batches: Option<bool>,
    /// It refuses what does not have the checksum that was sent with it.
    pub checks_content: bool,
    /// A new object is in the next listing.
    pub lists_at_once: bool,
}

impl Abilities {
    pub const ALL: Self = Self {
        create_only: CreateOnly::IfNoneMatch,
        deletes_in_batches: Some(true),
        checks_content: true,
        lists_at_once: true,
    };
}

/// Finds out what the store can do, with a few objects that are deleted again where the keys may do that.
///
/// # Errors
/// Those of the store; `Unavailable` also where nothing could be concluded this time.
pub async fn probe(store: &dyn ObjectStore) -> Result<Abilities, StoreError> {
    let key = format!("{PROBE}-{:016x}", random::number());
    let abilities = store.probe(&key).await?;
    check_usable(store).await?;
    Ok(abilities)
}

/// Whether the store takes objects.
///
/// # Errors
/// Those of the store.
pub async fn check_usable(store: &dyn ObjectStore) -> Result<(), StoreError> {
    let body = Body::Bytes(Bytes::from_static(b"probe"));
    store.put_new(PROBE, &body).await.map(drop)
}
