//! Which objects make a state of the database: an index of a replica's keys, and the plan for one restore. Pure.

pub mod newest;
pub mod retention;

use std::collections::BTreeMap;

use crate::format::keys::{GenerationId, ObjectKey};

/// The objects of one replica, by generation.
#[derive(Clone, Debug, Default)]
pub struct ReplicaIndex {
    generations: BTreeMap<GenerationId, GenerationIndex>,
    /// The newest one of which there is a description.
    described: Option<GenerationId>,
    objects: usize,
}

/// The objects of one generation: sequence number to bytes.
#[derive(Clone, Debug, Default)]
pub struct GenerationIndex {
    snapshots: BTreeMap<u32, u64>,
    segments: BTreeMap<u32, u64>,
    /// The last segment that a compacted object holds.
    compacted_to: Option<u32>,
}

/// An object that a restore reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PlannedObject {
    pub key: ObjectKey,
    /// Bytes.
    pub size: u64,
}

/// What a restore reads, in this order: a snapshot, then every segment up to the state that was asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RestorePlan {
    pub generation: GenerationId,
    pub snapshot: PlannedObject,
    pub segments: Vec<PlannedObject>,
}

/// Why there is no plan.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PlanError {
    #[error("there is no generation-{0}")]
    UnknownGeneration(GenerationId),
    /// Later objects exist, so this one was lost or taken away.
    #[error("{0} is missing")]
    Missing(ObjectKey),
}

impl ReplicaIndex {
    /// An index of these objects and their sizes in bytes. Of compacted objects only the end is noted: what they hold,
    /// the segments hold as well.
    pub fn new(objects: impl IntoIterator<Item = (ObjectKey, u64)>) -> Self {
        let mut index = Self::default();
        for (key, size) in objects {
            index.objects += 1;
            let generation = index.generations.entry(key.generation()).or_default();
            match key {
                ObjectKey::Snapshot(_, seq) => _ = generation.snapshots.insert(seq, size),
                ObjectKey::Segment(_, seq) => _ = generation.segments.insert(seq, size),
                ObjectKey::Compacted(_, _, last) => {
                    generation.compacted_to = generation.compacted_to.max(Some(last));
                }
                ObjectKey::Database(id) => index.described = index.described.max(Some(id)),
            }
        }
        // One that has not come as far as its first snapshot is no history yet.
        index
            .generations
            .retain(|_, generation| !generation.is_empty());
        index
    }

    /// The generations that have snapshots or segments, oldest first.
    pub fn generations(&self) -> impl DoubleEndedIterator<Item = GenerationId> {
        self.generations.keys().copied()
    }

    pub fn newest(&self) -> Option<GenerationId> {
        self.generations().next_back()
    }

    /// How many objects it was made of.
    pub fn objects(&self) -> usize {
        self.objects
    }

    /// A generation after the newest that has a description, and nothing else.
    pub fn begun_later(&self) -> Option<GenerationId> {
        self.described.filter(|id| Some(*id) > self.newest())
    }

    pub fn has(&self, key: ObjectKey) -> bool {
        let Some(generation) = self.generations.get(&key.generation()) else {
            return false;
        };
        match key {
            ObjectKey::Snapshot(_, seq) => generation.snapshots.contains_key(&seq),
            ObjectKey::Segment(_, seq) => generation.segments.contains_key(&seq),
            ObjectKey::Database(_) | ObjectKey::Compacted(..) => false,
        }
    }

    /// The plan for the newest state of a generation.
    ///
    /// # Errors
    /// As `plan`; `Missing` too where an object shows that there was more.
    pub fn plan_newest(&self, id: GenerationId) -> Result<RestorePlan, PlanError> {
        let generation = self.generation(id)?;
        let newest = generation.newest().unwrap_or(0);
        if let Some(more) = generation.compacted_to.filter(|more| *more > newest) {
            return Err(PlanError::Missing(ObjectKey::Segment(id, more)));
        }
        self.plan(id, newest)
    }

    /// What would be stored next: after the newest state of a generation, and of what was begun after all of them.
    pub fn next_keys(&self, id: GenerationId) -> Vec<ObjectKey> {
        let newest = self.generation(id).ok().and_then(GenerationIndex::newest);
        let next = newest.and_then(|seq| seq.checked_add(1));
        let segment = next.map(|seq| ObjectKey::Segment(id, seq));
        let snapshot = self.begun_later().map(|id| ObjectKey::Snapshot(id, 0));
        segment.into_iter().chain(snapshot).collect()
    }

    /// # Errors
    /// `UnknownGeneration`.
    pub fn generation(&self, id: GenerationId) -> Result<&GenerationIndex, PlanError> {
        let generation = self.generations.get(&id);
        generation.ok_or(PlanError::UnknownGeneration(id))
    }

    /// The plan for the state at the end of `seq`: the newest snapshot at or before it and all that follows.
    ///
    /// # Errors
    /// `UnknownGeneration`; `Missing` for the first object on the way that is not there.
    pub fn plan(&self, id: GenerationId, seq: u32) -> Result<RestorePlan, PlanError> {
        let generation = self.generation(id)?;
        let (&base, &size) = generation
            .snapshots
            .range(..=seq)
            .next_back()
            .ok_or(PlanError::Missing(generation.first_snapshot_key(id)))?;
        let snapshot = PlannedObject {
            key: ObjectKey::Snapshot(id, base),
            size,
        };
        Ok(RestorePlan {
            generation: id,
            snapshot,
            segments: self.segments(id, base, seq)?,
        })
    }

    /// The segments after the state `base`, up to and with `last`.
    ///
    /// # Errors
    /// As `plan`.
    pub fn segments(
        &self,
        id: GenerationId,
        base: u32,
        last: u32,
    ) -> Result<Vec<PlannedObject>, PlanError> {
        let generation = self.generation(id)?;
        let segments = (base..last).map(|before| {
            let key = ObjectKey::Segment(id, before + 1);
            let size = generation.segments.get(&(before + 1));
            size.map(|&size| PlannedObject { key, size })
                .ok_or(PlanError::Missing(key))
        });
        segments.collect()
    }
}

impl GenerationIndex {
    fn is_empty(&self) -> bool {
        self.snapshots.is_empty() && self.segments.is_empty() && self.compacted_to.is_none()
    }

    /// The sequence numbers of all states that the objects claim to reach, ascending, whether or not something
    /// on the way there is missing. Segments before the first snapshot reach none.
    pub fn states(&self) -> Vec<u32> {
        let Some((&first, _)) = self.snapshots.first_key_value() else {
            // No snapshot at all: that has to be said by the plan, not passed over.
            return self.segments.keys().copied().collect();
        };
        let mut seqs: Vec<u32> = self.segments.range(first..).map(|(&seq, _)| seq).collect();
        seqs.extend(self.snapshots.keys());
        seqs.sort_unstable();
        seqs.dedup();
        seqs
    }

    /// The last of `states`.
    pub fn newest(&self) -> Option<u32> {
        let last_snapshot = self.snapshots.last_key_value();
        let last_segment = self.segments.last_key_value();
        last_snapshot.max(last_segment).map(|(&seq, _)| seq)
    }

    /// Those of `states` that can be restored: a snapshot and unbroken segments lead there.
    pub fn restorable(&self) -> Vec<u32> {
        let mut reached = None;
        let is_reached = |&seq: &u32| {
            let follows = reached.is_some_and(|last: u32| last.checked_add(1) == Some(seq));
            let reaches =
                self.snapshots.contains_key(&seq) || (follows && self.segments.contains_key(&seq));
            if reaches {
                reached = Some(seq);
            }
            reaches
        };
        self.states().into_iter().filter(is_reached).collect()
    }

    /// The object whose header tells the moment of a state: its segment, or a snapshot where there is none.
    pub fn key_of_state(&self, id: GenerationId, seq: u32) -> ObjectKey {
        match self.segments.contains_key(&seq) {
            true => ObjectKey::Segment(id, seq),
            false => ObjectKey::Snapshot(id, seq),
        }
    }

    /// The snapshots, ascending, as objects to read.
    pub fn snapshots(&self, id: GenerationId) -> impl Iterator<Item = PlannedObject> {
        self.snapshots
            .iter()
            .map(move |(&seq, &size)| PlannedObject {
                key: ObjectKey::Snapshot(id, seq),
                size,
            })
    }

    /// The first snapshot, or the one that every generation begins with.
    fn first_snapshot_key(&self, id: GenerationId) -> ObjectKey {
        let first = self.snapshots.keys().next().copied().unwrap_or(0);
        ObjectKey::Snapshot(id, first)
    }
}

/// The sum of sizes as a listing has them, whatever it says.
pub fn total(sizes: impl Iterator<Item = u64>) -> u64 {
    sizes.fold(0, u64::saturating_add)
}

impl RestorePlan {
    /// Every object, in the order of reading.
    pub fn objects(&self) -> impl Iterator<Item = PlannedObject> {
        std::iter::once(self.snapshot).chain(self.segments.iter().copied())
    }

    /// Bytes of all objects.
    pub fn bytes(&self) -> u64 {
        total(self.objects().map(|object| object.size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const G: GenerationId = GenerationId(7);

    fn index(snapshots: &[u32], segments: &[u32]) -> ReplicaIndex {
        let snapshots = snapshots.iter().map(|&seq| ObjectKey::Snapshot(G, seq));
        let segments = segments.iter().map(|&seq| ObjectKey::Segment(G, seq));
        ReplicaIndex::new(snapshots.chain(segments).map(|key| (key, 100)))
    }

    fn planned(index: &ReplicaIndex, seq: u32) -> Result<(u32, Vec<u32>), PlanError> {
        let plan = index.plan(G, seq)?;
        let ObjectKey::Snapshot(_, base) = plan.snapshot.key else {
            panic!("{plan:?}");
        };
        let seqs = plan.segments.iter().map(|object| match object.key {
            ObjectKey::Segment(_, seq) => seq,
            other => panic!("{other}"),
        });
        Ok((base, seqs.collect()))
    }

    #[test]
    fn the_newest_snapshot_at_or_before_and_all_that_follows() {
        let index = index(&[0, 3], &[1, 2, 3, 4, 5]);
        assert_eq!(planned(&index, 0), Ok((0, vec![])));
        assert_eq!(planned(&index, 2), Ok((0, vec![1, 2])));
        assert_eq!(planned(&index, 3), Ok((3, vec![])));
        assert_eq!(planned(&index, 5), Ok((3, vec![4, 5])));
        let generation = index.generation(G).expect("known");
        assert_eq!(generation.newest(), Some(5));
        assert_eq!(generation.restorable(), [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn a_missing_number_is_named_and_never_an_early_end() {
        let index = index(&[0, 5], &[1, 3, 4, 6, 8]);
        let missing = |seq| PlanError::Missing(ObjectKey::Segment(G, seq));
        assert_eq!(planned(&index, 1), Ok((0, vec![1])));
        assert_eq!(planned(&index, 4), Err(missing(2)));
        assert_eq!(
            planned(&index, 6),
            Ok((5, vec![6])),
            "a snapshot bridges it"
        );
        assert_eq!(planned(&index, 8), Err(missing(7)));
        let generation = index.generation(G).expect("known");
        assert_eq!(generation.states(), [0, 1, 3, 4, 5, 6, 8]);
        assert_eq!(generation.restorable(), [0, 1, 5, 6]);
    }

    #[test]
    fn segments_without_a_snapshot_name_it() {
        let index = index(&[], &[1, 2]);
        let missing = PlanError::Missing(ObjectKey::Snapshot(G, 0));
        assert_eq!(planned(&index, 2), Err(missing));
        let generation = index.generation(G).expect("known");
        assert_eq!(generation.newest(), Some(2));
        assert_eq!(generation.restorable(), [] as [u32; 0]);
    }

    #[test]
    fn what_retention_left_before_the_first_snapshot_reaches_nothing() {
        let index = index(&[4], &[3, 4, 5]);
        let generation = index.generation(G).expect("known");
        assert_eq!(generation.states(), [4, 5]);
        assert_eq!(planned(&index, 5), Ok((4, vec![5])));
    }

    #[test]
    fn a_generation_that_has_only_its_description_is_none_yet() {
        let index = ReplicaIndex::new([(ObjectKey::Database(G), 100)]);
        assert_eq!(index.newest(), None);
        assert!(matches!(
            index.plan(G, 0),
            Err(PlanError::UnknownGeneration(G))
        ));
    }

    #[test]
    fn what_shows_that_there_was_more_is_no_early_end() {
        let objects = [
            ObjectKey::Snapshot(G, 0),
            ObjectKey::Segment(G, 1),
            ObjectKey::Compacted(G, 1, 3),
        ];
        let index = ReplicaIndex::new(objects.map(|key| (key, 100)));
        let missing = PlanError::Missing(ObjectKey::Segment(G, 3));
        assert_eq!(index.plan_newest(G), Err(missing));
        assert_eq!(planned(&index, 1), Ok((0, vec![1])));

        let later = GenerationId(8);
        let alone = [ObjectKey::Snapshot(G, 0), ObjectKey::Compacted(later, 1, 3)];
        let index = ReplicaIndex::new(alone.map(|key| (key, 100)));
        assert_eq!(index.newest(), Some(later), "it has a history");
        assert!(index.plan_newest(later).is_err());

        let begun = [ObjectKey::Segment(G, 4), ObjectKey::Database(later)];
        let index = ReplicaIndex::new(begun.map(|key| (key, 100)));
        assert_eq!(index.begun_later(), Some(later));
        let next = [ObjectKey::Segment(G, 5), ObjectKey::Snapshot(later, 0)];
        assert_eq!(index.next_keys(G), next);
        assert!(index.has(ObjectKey::Segment(G, 4)) && !index.has(next[0]));
    }

    #[test]
    fn sizes_that_no_objects_can_have_are_no_overflow() {
        let keys = [ObjectKey::Snapshot(G, 0), ObjectKey::Segment(G, 1)];
        let index = ReplicaIndex::new(keys.map(|key| (key, u64::MAX)));
        assert_eq!(index.plan(G, 1).expect("a plan").bytes(), u64::MAX);
    }

    #[test]
    fn the_end_of_the_numbers_is_no_overflow() {
        let index = index(&[u32::MAX - 1], &[u32::MAX]);
        assert_eq!(
            planned(&index, u32::MAX),
            Ok((u32::MAX - 1, vec![u32::MAX]))
        );
        let generation = index.generation(G).expect("known");
        assert_eq!(generation.restorable(), [u32::MAX - 1, u32::MAX]);
    }
}
