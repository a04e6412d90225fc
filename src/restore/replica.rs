//! One replica in the store: which objects it has, and what their headers say.

use std::sync::Arc;

use serde::{Serialize, Serializer};

use super::RestoreError;
use crate::clock::{UnixMs, rfc3339};
use crate::format::keys::{GenerationId, ObjectKey};
use crate::format::ltx::Header;
use crate::format::plan::{GenerationIndex, PlannedObject, ReplicaIndex, RestorePlan};
use crate::store::ObjectStore;
use crate::store::retry::repeat;

/// How often a request to the store is made before its error counts.
pub(super) const ATTEMPTS: u32 = 5;

/// A state that can be restored.
#[derive(Serialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Moment {
    /// The newest transaction in it.
    pub txid: u64,
    #[serde(rename = "time", serialize_with = "as_rfc3339")]
    pub time_ms: UnixMs,
}

fn as_rfc3339<S: Serializer>(ms: &UnixMs, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&rfc3339(*ms))
}

impl Moment {
    /// Whether `later` can follow in the same generation.
    pub(super) fn precedes(&self, later: &Moment) -> bool {
        self.txid < later.txid && self.time_ms <= later.time_ms
    }
}

/// A replica as one listing showed it.
pub(super) struct Replica {
    pub store: Arc<dyn ObjectStore>,
    pub prefix: String,
    pub index: ReplicaIndex,
}

impl Replica {
    /// Lists the objects below `prefix`.
    ///
    /// # Errors
    /// `UnknownReplica` where there is none.
    pub async fn load(store: &Arc<dyn ObjectStore>, prefix: &str) -> Result<Self, RestoreError> {
        let below = format!("{prefix}/");
        let listed = repeat(ATTEMPTS, || store.list(&below)).await?;
        let objects = listed
            .iter()
            .filter_map(|object| Some((ObjectKey::parse(prefix, &object.key)?, object.size)));
        let index = ReplicaIndex::new(objects);
        if index.newest().is_none() {
            return Err(RestoreError::UnknownReplica {
                prefix: prefix.to_owned(),
            });
        }
        Ok(Self {
            store: store.clone(),
            prefix: prefix.to_owned(),
            index,
        })
    }

    pub fn generation(&self, id: GenerationId) -> Result<&GenerationIndex, RestoreError> {
        let generation = self.index.generation(id);
        generation.map_err(|error| RestoreError::plan(&self.prefix, error))
    }

    pub fn plan(&self, id: GenerationId, seq: u32) -> Result<RestorePlan, RestoreError> {
        let plan = self.index.plan(id, seq);
        plan.map_err(|error| RestoreError::plan(&self.prefix, error))
    }

    /// The segments after the state `base`, up to and with `last`.
    pub fn unbroken(
        &self,
        id: GenerationId,
        base: u32,
        last: u32,
    ) -> Result<Vec<PlannedObject>, RestoreError> {
        let segments = self.index.segments(id, base, last);
        segments.map_err(|error| RestoreError::plan(&self.prefix, error))
    }

    /// Reads the moment of a state from its object's header, and nothing else of the object.
    pub async fn moment(&self, id: GenerationId, seq: u32) -> Result<Moment, RestoreError> {
        let key = self
            .generation(id)?
            .key_of_state(id, seq)
            .below(&self.prefix);
        let len = Header::SIZE as u64;
        let bytes = repeat(ATTEMPTS, || self.store.get_range(&key, 0, len))
            .await
            .map_err(RestoreError::listed)?;
        let header =
            Header::decode(&bytes).map_err(|source| RestoreError::Damaged { key, source })?;
        Ok(Moment {
            txid: header.max_txid,
            time_ms: header.timestamp_ms,
        })
    }
}
