//! From what the user asked for to the state that is it: a binary search over the headers of a generation.

use super::RestoreError;
use super::replica::{Moment, Replica};
use crate::clock::UnixMs;
use crate::format::keys::GenerationId;
use crate::format::plan::RestorePlan;

/// Which state of a replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Target {
    /// None: the newest one that has such a moment.
    pub generation: Option<GenerationId>,
    pub at: At,
}

/// Which moment of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum At {
    Newest,
    /// Exactly the state after this transaction.
    Txid(u64),
    /// The newest state at or before this time.
    Time(UnixMs),
}

impl Replica {
    /// The plan for the state that `target` means.
    ///
    /// # Errors
    /// Those with `is_unknown` where there is no such state; `Missing` and `Damaged` for objects on the way to it.
    pub(super) async fn locate(&self, target: &Target) -> Result<RestorePlan, RestoreError> {
        let candidates = match target.generation {
            Some(id) => {
                self.generation(id)?;
                vec![id]
            }
            // Newest first.
            None => self.index.generations().rev().collect(),
        };
        match target.at {
            At::Newest => self.plan_newest(candidates[0]),
            At::Time(time_ms) => self.locate_time(&candidates, time_ms).await,
            At::Txid(txid) => self.locate_txid(&candidates, txid).await,
        }
    }

    /// In the newest candidate that begins at or before the time.
    async fn locate_time(
        &self,
        candidates: &[GenerationId],
        time_ms: UnixMs,
    ) -> Result<RestorePlan, RestoreError> {
        let mut first = time_ms;
        for &id in candidates {
            let states = self.generation(id)?.states();
            let later = self.first_state(id, &states, |moment| moment.time_ms > time_ms);
            match later.await? {
                Some((0, moment)) => first = moment.time_ms,
                Some((after, _)) => return self.plan(id, states[after - 1]),
                None => return self.plan_newest(id),
            }
        }
        Err(RestoreError::BeforeFirst {
            prefix: self.prefix.clone(),
            asked: time_ms,
            first,
        })
    }

    /// In the newest candidate that begins at or before the transaction: later ones begin after it.
    async fn locate_txid(
        &self,
        candidates: &[GenerationId],
        txid: u64,
    ) -> Result<RestorePlan, RestoreError> {
        // The nearest moment after the transaction that any generation has.
        let mut after = None;
        let mut before = None;
        for &id in candidates {
            let states = self.generation(id)?.states();
            let reached = self.first_state(id, &states, |moment| moment.txid >= txid);
            let place = match reached.await? {
                Some((place, moment)) if moment.txid == txid => {
                    return self.plan(id, states[place]);
                }
                Some((place, moment)) => {
                    after = Some(moment.txid);
                    place
                }
                None => states.len(),
            };
            if place > 0 {
                before = Some(self.moment(id, states[place - 1]).await?.txid);
                break;
            }
        }
        Err(RestoreError::NoSuchTxid {
            prefix: self.prefix.clone(),
            txid,
            before,
            after,
        })
    }

    /// The first of `states` for which `is_past` holds, and its moment; none where it holds for none of them.
    ///
    /// # Errors
    /// `OutOfPlace` for a header whose moment does not lie between those already read: transactions and times
    /// ascend within a generation, and a search that was misled would end at a wrong state.
    async fn first_state(
        &self,
        id: GenerationId,
        states: &[u32],
        is_past: impl Fn(&Moment) -> bool,
    ) -> Result<Option<(usize, Moment)>, RestoreError> {
        let (mut low, mut high) = (0, states.len());
        let mut before: Option<Moment> = None;
        let mut found: Option<(usize, Moment)> = None;
        while low < high {
            let middle = low + (high - low) / 2;
            let moment = self.moment(id, states[middle]).await?;
            let ascends = before.is_none_or(|before| before.precedes(&moment))
                && found.is_none_or(|(_, after)| moment.precedes(&after));
            if !ascends {
                let key = self.generation(id)?.key_of_state(id, states[middle]);
                return Err(RestoreError::OutOfPlace {
                    key: key.below(&self.prefix),
                    reason: "its TXID and time do not lie between its neighbours'".to_owned(),
                });
            }
            if is_past(&moment) {
                (found, high) = (Some((middle, moment)), middle);
            } else {
                (before, low) = (Some(moment), middle + 1);
            }
        }
        Ok(found)
    }
}
