//! Descriptors of this process: each file that an application has open takes some, of a number that all share.
//!
//! A part is kept for the daemon itself. Of the rest a user may hold as many as are left free: alone half of them, two
//! that want all a third each, and whoever comes later finds as many as each of them has.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Of an open file: its own, and one that keeps the file in reach where its name is removed.
const OF_A_FILE: usize = 2;
/// Kept for the daemon, where a quarter of all is not between these.
const LEAST_KEPT: usize = 128;
const MOST_KEPT: usize = 4096;
/// Where the system sets no limit.
const UNLIMITED: u64 = 1 << 20;

/// Those of applications.
#[derive(Debug)]
pub(super) struct Descriptors {
    room: usize,
    held: Mutex<Held>,
}

#[derive(Default, Debug)]
struct Held {
    total: usize,
    users: HashMap<u32, User>,
}

#[derive(Default, Debug)]
struct User {
    held: usize,
    /// How many it held when an open of it was refused, and that was told.
    told_at: Option<usize>,
}

/// The descriptors of one open file or directory, until it is dropped.
#[derive(Debug)]
pub struct Taken {
    from: Arc<Descriptors>,
    uid: u32,
}

static OF_PROCESS: LazyLock<Arc<Descriptors>> =
    LazyLock::new(|| Arc::new(Descriptors::of_limit(raised_limit())));

impl Descriptors {
    /// Those of this process, whose limit is raised as far as it may be.
    pub fn of_process() -> Arc<Self> {
        OF_PROCESS.clone()
    }

    fn of_limit(limit: u64) -> Self {
        let limit = usize::try_from(limit.min(UNLIMITED)).unwrap_or(MOST_KEPT);
        let kept = (limit / 4).clamp(LEAST_KEPT, MOST_KEPT);
        Self {
            room: limit.saturating_sub(kept),
            held: Mutex::default(),
        }
    }

    /// Takes those of one file for a user; none where that would be more than its share.
    pub fn take(self: &Arc<Self>, uid: u32) -> Option<Taken> {
        let mut held = self.lock();
        let free = self.room.saturating_sub(held.total);
        let user = held.users.entry(uid).or_default();
        if user.held + OF_A_FILE > free {
            if user.told_at.is_none() {
                user.told_at = Some(user.held);
                tracing::warn!(
                    uid,
                    open_files = user.held / OF_A_FILE,
                    "A user has its share of open files: further opens of its processes get ENFILE; raise the hard limit of open files (LimitNOFILE=), or close some"
                );
            }
            return None;
        }
        user.held += OF_A_FILE;
        held.total += OF_A_FILE;
        Some(Taken {
            from: self.clone(),
            uid,
        })
    }

    /// Who is at its share, for health.
    pub fn exhausted(&self) -> Option<String> {
        let held = self.lock();
        let mut users: Vec<_> = held
            .users
            .iter()
            .filter(|(_, user)| user.told_at.is_some())
            .map(|(uid, user)| format!("uid {uid} ({} open files)", user.held / OF_A_FILE))
            .collect();
        users.sort_unstable();
        (!users.is_empty()).then(|| {
            format!(
                "at their share of open files, and refused more: {}",
                users.join(", ")
            )
        })
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let mut held = self.from.lock();
        held.total -= OF_A_FILE;
        if let Some(user) = held.users.get_mut(&self.uid) {
            user.held -= OF_A_FILE;
            // Told anew only once it held half as many.
            if user.told_at.is_some_and(|told_at| user.held <= told_at / 2) {
                user.told_at = None;
            }
            if user.held == 0 {
                held.users.remove(&self.uid);
            }
        }
    }
}

/// The limit of open files, raised to the hard one.
fn raised_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum.unwrap_or(UNLIMITED),
        Err(error) => {
            tracing::warn!(%error, "Could not raise the limit of open files");
            limit.current.unwrap_or(UNLIMITED)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take_all(descriptors: &Arc<Descriptors>, uid: u32) -> Vec<Taken> {
        std::iter::from_fn(|| descriptors.take(uid)).collect()
    }

    #[test]
    fn a_user_holds_no_more_than_it_leaves_free() {
        let descriptors = Arc::new(Descriptors::of_limit(1024));
        assert_eq!(descriptors.room, 768);
        let first = take_all(&descriptors, 1);
        assert_eq!(first.len(), 192);
        let second = take_all(&descriptors, 2);
        assert_eq!(second.len(), 96);
        assert!(descriptors.take(1).is_none());
        assert!(descriptors.take(3).is_some(), "others find room");
        let told = descriptors.exhausted().expect("told");
        assert!(told.contains("uid 1 (192 open files), uid 2 (96"), "{told}");
        drop(first);
        drop(second);
        assert_eq!(descriptors.exhausted(), None);
        assert_eq!(descriptors.lock().total, 0);
        assert!(descriptors.lock().users.is_empty());
    }

    #[test]
    fn a_part_is_kept_for_the_daemon() {
        let room = |limit| Descriptors::of_limit(limit).room;
        assert_eq!((room(64), room(200), room(4096)), (0, 72, 3072));
        assert_eq!(room(u64::MAX), (1 << 20) - MOST_KEPT);
    }
}
