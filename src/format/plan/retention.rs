//! Which objects of a replica have outlived their retention. Pure.
//!
//! Within a generation the newest snapshot that was stored at or before the cutoff is kept, with all that follows it.
//! An object is never stored before the moment that it holds, so whoever asks for a moment after the cutoff finds it.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};

use super::total;
use crate::format::keys::{GenerationId, ObjectKey};

/// An object and its age.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AgedObject {
    pub key: ObjectKey,
    /// Bytes.
    pub size: u64,
    /// When it was stored, in Unix milliseconds of the store's clock.
    pub modified_ms: i64,
}

/// What goes, and when there may be more.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RetentionPlan {
    /// In the order of deletion: a run that ends half-way leaves everything restorable that it was to leave.
    pub delete: Vec<AgedObject>,
    /// When the oldest snapshot was stored that does not go yet but makes others go once it has the age.
    pub next_ms: Option<i64>,
}

impl RetentionPlan {
    /// What goes, in runs that have to follow one another; within one the order says nothing.
    pub fn steps(&self) -> impl Iterator<Item = &[AgedObject]> {
        self.delete.chunk_by(|a, b| step(a.key) == step(b.key))
    }

    /// Bytes of what goes.
    pub fn bytes(&self) -> u64 {
        total(self.delete.iter().map(|object| object.size))
    }
}

/// Plans for one replica what goes of the objects that were stored at or before `cutoff_ms`. Never the newest
/// generation that can be restored, and of no generation what leads to a moment after the cutoff.
pub fn plan(objects: &[AgedObject], cutoff_ms: i64) -> RetentionPlan {
    let mut snapshots: BTreeMap<(GenerationId, u32), i64> = BTreeMap::new();
    for object in objects {
        if let ObjectKey::Snapshot(generation, seq) = object.key {
            snapshots.insert((generation, seq), object.modified_ms);
        }
    }
    let old_enough = |stored: &i64| *stored <= cutoff_ms;
    // By place in the history, and not by age: a snapshot that was stored late stands for its own place.
    let base = snapshots
        .iter()
        .filter(|(_, stored)| old_enough(stored))
        .map(|(place, _)| *place)
        .next_back();
    // The first snapshot of all makes nothing go, whatever its age.
    let next_ms = base.or(snapshots.keys().next().copied()).and_then(|place| {
        let later = snapshots.range((Excluded(place), Unbounded));
        later.map(|(_, stored)| *stored).min()
    });
    let Some(base) = base else {
        return RetentionPlan {
            delete: Vec::new(),
            next_ms,
        };
    };
    let mut delete: Vec<AgedObject> = objects
        .iter()
        .copied()
        .filter(|object| is_outlived(object.key, base))
        .collect();
    delete.sort_by_key(|object| (step(object.key), object.key));
    RetentionPlan { delete, next_ms }
}

/// Whether no moment from the snapshot at `base` on needs the object.
fn is_outlived(key: ObjectKey, (generation, seq): (GenerationId, u32)) -> bool {
    if key.generation() != generation {
        return key.generation() < generation;
    }
    match key {
        ObjectKey::Database(_) => false,
        ObjectKey::Snapshot(_, other) => other < seq,
        ObjectKey::Segment(_, last) | ObjectKey::Compacted(_, _, last) => last <= seq,
    }
}

/// Snapshots go before the segments that build on them, so that what is left of a run that ended half-way reaches
/// nothing, and is no history with a hole; a generation's description goes last.
fn step(key: ObjectKey) -> u8 {
    match key {
        ObjectKey::Snapshot(..) => 0,
        ObjectKey::Segment(..) | ObjectKey::Compacted(..) => 1,
        ObjectKey::Database(_) => 2,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::format::plan::ReplicaIndex;

    const G: GenerationId = GenerationId(7);
    const H: GenerationId = GenerationId(8);

    fn aged(key: ObjectKey, modified_ms: i64) -> AgedObject {
        AgedObject {
            key,
            size: 10,
            modified_ms,
        }
    }

    fn keys(plan: &RetentionPlan) -> Vec<ObjectKey> {
        plan.delete.iter().map(|object| object.key).collect()
    }

    fn index(objects: &[AgedObject]) -> ReplicaIndex {
        ReplicaIndex::new(objects.iter().map(|object| (object.key, object.size)))
    }

    #[test]
    fn the_newest_snapshot_before_the_cutoff_stays_with_all_after_it() {
        use ObjectKey::{Compacted, Database, Segment, Snapshot};
        let objects = [
            aged(Database(G), 0),
            aged(Snapshot(G, 0), 10),
            aged(Segment(G, 1), 20),
            aged(Segment(G, 2), 30),
            aged(Compacted(G, 1, 2), 31),
            aged(Compacted(G, 2, 3), 32),
            aged(Snapshot(G, 2), 35),
            aged(Segment(G, 3), 40),
            aged(Snapshot(G, 3), 50),
        ];
        let plan_at = |cutoff| plan(&objects, cutoff);
        assert_eq!(keys(&plan_at(34)), []);
        assert_eq!(plan_at(34).next_ms, Some(35));
        let second = plan_at(35);
        let gone = [
            Snapshot(G, 0),
            Segment(G, 1),
            Segment(G, 2),
            Compacted(G, 1, 2),
        ];
        assert_eq!(keys(&second), gone);
        assert_eq!((second.bytes(), second.next_ms), (40, Some(50)));
        let third = plan_at(1_000);
        assert_eq!(third.delete.len(), 7, "{third:?}");
        assert_eq!(third.next_ms, None);
        assert!(!keys(&third).contains(&Database(G)));
    }

    #[test]
    fn a_generation_goes_when_its_successor_is_old_enough() {
        use ObjectKey::{Database, Segment, Snapshot};
        let objects = [
            aged(Database(G), 0),
            aged(Snapshot(G, 0), 10),
            aged(Segment(G, 1), 20),
            aged(Database(H), 25),
            aged(Snapshot(H, 0), 30),
            aged(Segment(H, 1), 40),
        ];
        assert_eq!(keys(&plan(&objects, 29)), []);
        assert_eq!(plan(&objects, 29).next_ms, Some(30));
        let all_of_g = [Snapshot(G, 0), Segment(G, 1), Database(G)];
        assert_eq!(keys(&plan(&objects, 30)), all_of_g);
    }

    #[test]
    fn the_only_snapshot_stays_however_old_it_is() {
        let objects = [
            aged(ObjectKey::Snapshot(G, 0), 10),
            // Begun, and not restorable.
            aged(ObjectKey::Database(H), 20),
            aged(ObjectKey::Segment(H, 1), 20),
        ];
        let plan = plan(&objects, i64::MAX);
        assert_eq!((keys(&plan), plan.next_ms), (vec![], None));
        assert_eq!(super::plan(&[], i64::MAX), RetentionPlan::default());
    }

    /// A replica's objects, and for each state its place and its time.
    type History = (Vec<AgedObject>, Vec<((GenerationId, u32), i64)>);

    /// Generations of segments and snapshots, each stored some time after its moment.
    fn history(steps: &[(u8, u8, u8)]) -> History {
        let (mut objects, mut states) = (Vec::new(), Vec::new());
        let (mut generation, mut seq, mut now) = (0, 0, 0);
        for &(kind, pause, delay) in steps {
            now += i64::from(pause) + 1;
            let stored = now + i64::from(delay);
            let begins = generation == 0 || kind < 10;
            if begins {
                (generation, seq) = (generation + 1, 0);
                objects.push(aged(ObjectKey::Database(GenerationId(generation)), stored));
            } else {
                seq += 1;
            }
            let id = GenerationId(generation);
            if begins || kind > 200 {
                objects.push(aged(ObjectKey::Snapshot(id, seq), stored + 1));
            }
            if !begins {
                objects.push(aged(ObjectKey::Segment(id, seq), stored));
            }
            if seq >= 2 && kind % 5 == 0 {
                let first = seq - u32::from(pause) % (seq - 1) - 1;
                objects.push(aged(ObjectKey::Compacted(id, first, seq), stored + 2));
            }
            states.push(((id, seq), now));
        }
        (objects, states)
    }

    proptest! {
        /// Whoever asks for a moment inside the window gets it, before, after, and at any point in between.
        #[test]
        fn every_moment_inside_the_window_stays_restorable(
            steps in prop::collection::vec(any::<(u8, u8, u8)>(), 1..60),
            cutoff in 0i64..16_000,
            deleted in any::<prop::sample::Index>(),
            chosen in any::<u64>(),
        ) {
            let (objects, states) = history(&steps);
            let plan = plan(&objects, cutoff);
            let done = deleted.index(plan.delete.len() + 1);
            // Within a step the store deletes in whatever order.
            let (gone, rest) = plan.delete.split_at(done);
            let in_step = rest.iter().take_while(|one| step(one.key) == step(rest[0].key));
            let also = in_step.enumerate().filter(|(n, _)| chosen >> (n % 64) & 1 == 1);
            let gone: Vec<_> = gone.iter().chain(also.map(|(_, one)| one)).collect();
            let left: Vec<AgedObject> = objects
                .iter()
                .copied()
                .filter(|object| !gone.contains(&object))
                .collect();
            let end = states.last().expect("some").1 + 300;
            for asked in cutoff.min(end)..=end {
                // Also the newest moment at or before the cutoff: it is what the cutoff itself is answered with.
                let Some((place, _)) = states.iter().rev().find(|(_, time)| *time <= asked) else {
                    continue;
                };
                let before = index(&objects).plan(place.0, place.1).expect("before");
                let after = index(&left).plan(place.0, place.1).expect("after");
                prop_assert_eq!(before.objects().last(), after.objects().last());
            }
        }
    }
}
