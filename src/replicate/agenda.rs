//! Which databases upkeep has to come back to, and when. Pure.

use std::collections::{BTreeSet, HashMap};
use std::num::NonZero;
use std::path::Path;
use std::sync::Arc;

use crate::clock::UnixMs;
use crate::room;

/// What is to be done for a database.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(super) enum Chore {
    /// Its newest snapshot is too old, or too much log has come after it.
    Snapshot,
    /// Something of its replica may have outlived its retention.
    Retention,
}

/// The chores that wait, each of a database at most once. A database that nothing is to be done for is not in it.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    /// Each database once, at its earliest time.
    due: BTreeSet<(UnixMs, Arc<Path>)>,
    times: HashMap<Arc<Path>, Times>,
}

/// When each of a database's chores is due.
#[derive(Debug, Default)]
struct Times {
    snapshot: Option<NonZero<UnixMs>>,
    retention: Option<NonZero<UnixMs>>,
}

impl Times {
    fn of(&mut self, chore: Chore) -> &mut Option<NonZero<UnixMs>> {
        match chore {
            Chore::Snapshot => &mut self.snapshot,
            Chore::Retention => &mut self.retention,
        }
    }

    /// The chore that comes first.
    fn earliest(&self) -> Option<(NonZero<UnixMs>, Chore)> {
        let snapshot = self.snapshot.map(|at| (at, Chore::Snapshot));
        let retention = self.retention.map(|at| (at, Chore::Retention));
        snapshot.into_iter().chain(retention).min()
    }

    /// When that is due.
    fn due_at(&self) -> Option<UnixMs> {
        self.earliest().map(|(at, _)| at.get())
    }
}

impl Agenda {
    /// Notes a chore; of two times the earlier one holds. Returns whether it is a new one or has become earlier.
    pub fn note(&mut self, path: &Arc<Path>, chore: Chore, at: UnixMs) -> bool {
        let at = NonZero::new(at.max(1)).expect("BUG: it is positive");
        let times = self.times.entry(path.clone()).or_default();
        let before = times.due_at();
        let time = times.of(chore);
        if time.is_some_and(|known| known <= at) {
            return false;
        }
        *time = Some(at);
        let now = times.due_at();
        self.due_again(path, before, now);
        true
    }

    /// When the next one is due.
    pub fn next_at(&self) -> Option<UnixMs> {
        self.due.first().map(|(at, ..)| *at)
    }

    /// Takes out one that is due at `now`.
    pub fn take_due(&mut self, now: UnixMs) -> Option<(Arc<Path>, Chore)> {
        if self.next_at()? > now {
            return None;
        }
        let (_, path) = self.due.pop_first()?;
        let times = self
            .times
            .get_mut(&path)
            .expect("BUG: what is due has a time");
        let (_, chore) = times.earliest().expect("BUG: what is due has a time");
        *times.of(chore) = None;
        let next = times.due_at();
        if next.is_none() {
            self.times.remove(&path);
            room::give_back(&mut self.times);
        }
        self.due_again(&path, None, next);
        Some((path, chore))
    }

    fn due_again(&mut self, path: &Arc<Path>, before: Option<UnixMs>, now: Option<UnixMs>) {
        if before == now {
            return;
        }
        if let Some(before) = before {
            self.due.remove(&(before, path.clone()));
        }
        self.due.extend(now.map(|now| (now, path.clone())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chores_come_in_time_and_the_earlier_time_holds() {
        let mut agenda = Agenda::default();
        let path = |name: &str| -> Arc<Path> { Path::new(name).into() };
        let (a, b) = (&path("a.db"), &path("b.db"));
        assert!(agenda.note(a, Chore::Snapshot, 50));
        assert!(agenda.note(b, Chore::Retention, 40));
        assert!(!agenda.note(a, Chore::Snapshot, 60));
        assert!(agenda.note(a, Chore::Snapshot, 30));
        assert!(agenda.note(a, Chore::Retention, 70));
        assert_eq!(agenda.next_at(), Some(30));
        assert_eq!(agenda.take_due(29), None);
        assert_eq!(agenda.take_due(45), Some((a.clone(), Chore::Snapshot)));
        assert_eq!(agenda.take_due(45), Some((b.clone(), Chore::Retention)));
        assert_eq!(agenda.take_due(45), None);
        assert!(agenda.note(a, Chore::Snapshot, 60), "it was taken out");
        assert_eq!(agenda.take_due(100), Some((a.clone(), Chore::Snapshot)));
        assert_eq!(agenda.take_due(100), Some((a.clone(), Chore::Retention)));
        assert_eq!((agenda.take_due(100), agenda.next_at()), (None, None));
    }
}
