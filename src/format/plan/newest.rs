//! What the newest state of a replica consists of, and what of it a listing lacks. Pure.

use crate::format::keys::{GenerationId, ObjectKey};

/// The newest state of a replica, as far as it was acknowledged by the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NewestState {
    pub generation: GenerationId,
    /// The sequence number of the newest snapshot of that generation.
    pub snapshot: u32,
    /// The sequence number of the newest segment, or of that snapshot.
    pub newest: u32,
}

/// The objects of a newest state that a listing has shown so far.
#[derive(Clone, Debug)]
pub struct Shown {
    state: NewestState,
    is_described: bool,
    /// The newest snapshot that is not older than the one that has to be there.
    snapshot: Option<u32>,
    /// Segments after that, as ranges of sequence numbers; one range where nothing is missing and the listing is ordered.
    segments: Vec<(u32, u32)>,
}

impl Shown {
    pub fn new(state: NewestState) -> Self {
        Self {
            state,
            is_described: false,
            snapshot: None,
            segments: Vec::new(),
        }
    }

    /// Takes an object into account; one of another generation is none of it.
    pub fn add(&mut self, key: ObjectKey) {
        let NewestState {
            generation,
            snapshot,
            newest,
        } = self.state;
        if key.generation() != generation {
            return;
        }
        match key {
            ObjectKey::Database(_) => self.is_described = true,
            ObjectKey::Snapshot(_, seq) if (snapshot..=newest).contains(&seq) => {
                self.snapshot = self.snapshot.max(Some(seq));
            }
            ObjectKey::Segment(_, seq) if seq > snapshot && seq <= newest => {
                match self.segments.last_mut() {
                    Some((_, last)) if *last + 1 == seq => *last = seq,
                    _ => self.segments.push((seq, seq)),
                }
            }
            ObjectKey::Snapshot(..) | ObjectKey::Segment(..) | ObjectKey::Compacted(..) => {}
        }
    }

    /// The first object that the newest state needs and that was not shown; none where all were.
    pub fn missing(mut self) -> Option<ObjectKey> {
        let NewestState {
            generation,
            snapshot,
            newest,
        } = self.state;
        if !self.is_described {
            return Some(ObjectKey::Database(generation));
        }
        let Some(base) = self.snapshot else {
            return Some(ObjectKey::Snapshot(generation, snapshot));
        };
        self.segments.sort_unstable();
        let mut reached = base;
        for (first, last) in self.segments {
            if first > reached.saturating_add(1) {
                break;
            }
            reached = reached.max(last);
        }
        (reached < newest).then(|| ObjectKey::Segment(generation, reached + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const G: GenerationId = GenerationId(7);

    fn missing(state: (u32, u32), keys: &[ObjectKey]) -> Option<ObjectKey> {
        let mut shown = Shown::new(NewestState {
            generation: G,
            snapshot: state.0,
            newest: state.1,
        });
        keys.iter().for_each(|key| shown.add(*key));
        shown.missing()
    }

    fn objects(snapshots: &[u32], segments: &[u32]) -> Vec<ObjectKey> {
        let snapshots = snapshots.iter().map(|seq| ObjectKey::Snapshot(G, *seq));
        let segments = segments.iter().map(|seq| ObjectKey::Segment(G, *seq));
        let described = [ObjectKey::Database(G)];
        described
            .into_iter()
            .chain(snapshots)
            .chain(segments)
            .collect()
    }

    #[test]
    fn a_snapshot_and_all_segments_after_it_are_the_newest_state() {
        assert_eq!(missing((0, 0), &objects(&[0], &[])), None);
        assert_eq!(missing((0, 3), &objects(&[0], &[1, 2, 3])), None);
        assert_eq!(
            missing((2, 4), &objects(&[0, 2], &[3, 4])),
            None,
            "no older one"
        );
        assert_eq!(
            missing((0, 3), &objects(&[0], &[3, 1, 2])),
            None,
            "in any order"
        );
        assert_eq!(
            missing((0, 3), &objects(&[0], &[1, 2, 3, 4, 5])),
            None,
            "it has gone on"
        );
        assert_eq!(
            missing((0, 5), &objects(&[0, 4], &[5])),
            None,
            "a newer snapshot"
        );
    }

    #[test]
    fn what_is_missing_is_named() {
        let segment = |seq| Some(ObjectKey::Segment(G, seq));
        assert_eq!(missing((0, 3), &[]), Some(ObjectKey::Database(G)));
        let without = objects(&[], &[1, 2, 3]);
        assert_eq!(missing((0, 3), &without), Some(ObjectKey::Snapshot(G, 0)));
        assert_eq!(
            missing((2, 3), &objects(&[0], &[1, 2, 3])),
            Some(ObjectKey::Snapshot(G, 2))
        );
        assert_eq!(missing((0, 3), &objects(&[0], &[1, 3])), segment(2));
        assert_eq!(missing((0, 3), &objects(&[0], &[1, 2])), segment(3));
        assert_eq!(missing((0, 3), &objects(&[0], &[])), segment(1));
        let other = GenerationId(8);
        let keys = [ObjectKey::Database(other), ObjectKey::Snapshot(other, 0)];
        assert_eq!(missing((0, 0), &keys), Some(ObjectKey::Database(G)));
    }

    #[test]
    fn the_end_of_the_numbers_is_no_overflow() {
        let last = u32::MAX;
        assert_eq!(
            missing((last - 1, last), &objects(&[last - 1], &[last])),
            None
        );
        assert_eq!(
            missing((last - 1, last), &objects(&[last - 1], &[])),
            Some(ObjectKey::Segment(G, last))
        );
        assert_eq!(missing((last, last), &objects(&[last], &[])), None);
    }
}
