//! One replica in the store: which objects it has, and what their headers say.

use std::sync::Arc;

use serde::{Serialize, Serializer};

use super::RestoreError;
use crate::clock::{UnixMs, rfc3339};
use crate::format::keys::{GenerationId, ObjectKey};
use crate::format::ltx::Header;
use crate::format::plan::{GenerationIndex, PlannedObject, ReplicaIndex, RestorePlan};
use crate::store::retry::repeat;
use crate::store::{ObjectStore, StoreError};

/// How often a request to the store is made before its error counts.
pub(super) const ATTEMPTS: u32 = 5;
/// How often it is listed where something is there that is not listed.
const LISTINGS: u32 = 3;

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
    /// Lists the objects below `prefix`, and looks for what would come next: a listing that leaves out the end would be
    /// taken for a database as it once was. `wanted` is the generation whose end matters; none for the newest.
    ///
    /// # Errors
    /// `UnknownReplica` where there is none; `Incomplete` of the store where an object is there again and again that is
    /// not listed.
    pub async fn load(
        store: &Arc<dyn ObjectStore>,
        prefix: &str,
        wanted: Option<GenerationId>,
    ) -> Result<Self, RestoreError> {
        let mut next: Option<ObjectKey> = None;
        for _ in 0..LISTINGS {
            let replica = Self::list(store, prefix).await?;
            // It may have been stored meanwhile. One that has come since is newer than this restore.
            if next.is_some_and(|key| replica.index.has(key)) {
                return Ok(replica);
            }
            next = match next {
                None => replica.what_is_next(wanted).await?,
                known => known,
            };
            if next.is_none() {
                return Ok(replica);
            }
        }
        let next = next.expect("BUG: else it has returned");
        Err(RestoreError::Store(StoreError::Incomplete {
            key: format!("{prefix}/"),
            reason: format!("{} is there, and is not listed", next.below(prefix)),
        }))
    }

    async fn list(store: &Arc<dyn ObjectStore>, prefix: &str) -> Result<Self, RestoreError> {
        let below = format!("{prefix}/");
        let listed = repeat(ATTEMPTS, || store.list(&below)).await?;
        let objects = listed
            .iter()
            .filter_map(|object| Some((ObjectKey::parse(prefix, &object.key)?, object.size)));
        let index = ReplicaIndex::new(objects);
        if index.newest().is_none() && index.begun_later().is_none() {
            return Err(unknown(prefix));
        }
        Ok(Self {
            store: store.clone(),
            prefix: prefix.to_owned(),
            index,
        })
    }

    /// An object that is there and comes after all that is listed. Without any history, it has to be there.
    async fn what_is_next(
        &self,
        wanted: Option<GenerationId>,
    ) -> Result<Option<ObjectKey>, RestoreError> {
        let newest = self.index.newest();
        let Some(id) = wanted.or(newest).or(self.index.begun_later()) else {
            return Ok(None);
        };
        for key in self.index.next_keys(id) {
            if self.exists(&key.below(&self.prefix)).await? {
                return Ok(Some(key));
            }
        }
        match newest {
            Some(_) => Ok(None),
            None => Err(unknown(&self.prefix)),
        }
    }

    async fn exists(&self, key: &str) -> Result<bool, RestoreError> {
        match repeat(ATTEMPTS, || self.store.get_range(key, 0, 1)).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            // Keys with rights for one prefix are not told of a GET that there is none, but that it is refused.
            Err(StoreError::Denied { .. }) => {
                let listed = repeat(ATTEMPTS, || self.store.list(key)).await?;
                Ok(listed.iter().any(|object| object.key == key))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The plan for the newest state of a generation.
    pub fn plan_newest(&self, id: GenerationId) -> Result<RestorePlan, RestoreError> {
        let plan = self.index.plan_newest(id);
        plan.map_err(|error| RestoreError::plan(&self.prefix, error))
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

fn unknown(prefix: &str) -> RestoreError {
    RestoreError::UnknownReplica {
        prefix: prefix.to_owned(),
    }
}
