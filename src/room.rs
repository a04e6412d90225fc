//! Memory that was needed at the fullest is given back: a thousand databases at once are soon a handful again. Tables give
//! back what they had room for, and threads what they have kept of what they freed.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash};
use std::sync::OnceLock;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvError};
use dashmap::DashMap;

/// What the binary has its allocator do; nobody else knows it.
#[derive(Clone, Copy, Debug)]
pub struct Allocator {
    /// In a process that was forked, into which no thread came along.
    pub after_fork: fn(),
    /// The calling thread keeps what it frees from here on, to take it again without a lock. None does so by itself.
    pub keep_freed: fn(),
    /// It gives back what it has kept: a single piece of that keeps a whole page.
    pub give_back_freed: fn(),
}

/// None in tests and in whatever else uses the library: then nothing is done.
static ALLOCATOR: OnceLock<Allocator> = OnceLock::new();

/// A thread that has had nothing to do for so long gives back what it has kept. That is before a rush has passed.
pub const IDLE: Duration = Duration::from_secs(if cfg!(test) { 0 } else { 5 });

/// The first holds.
pub fn set_allocator(allocator: Allocator) {
    ALLOCATOR.get_or_init(|| allocator);
}

/// First of all in a process that was forked.
pub fn make_whole_after_fork() {
    call(|allocator| allocator.after_fork);
}

/// At the start of a thread that allocates much.
pub fn keep_freed() {
    call(|allocator| allocator.keep_freed);
}

pub fn give_back_freed() {
    call(|allocator| allocator.give_back_freed);
}

fn call(hook: fn(&Allocator) -> fn()) {
    if let Some(allocator) = ALLOCATOR.get() {
        hook(allocator)();
    }
}

/// The next of a queue. Where none comes for a while, the thread gives back what it has kept, and waits on.
pub fn next<T>(queue: &Receiver<T>) -> Result<T, RecvError> {
    queue.recv_timeout(IDLE).or_else(|_| {
        give_back_freed();
        queue.recv()
    })
}

/// Entries for which a table always has room.
const LEAST: usize = 64;

/// One that is so much larger than it has to be gives back what it has too much; so it is seldom made anew.
const TOO_LARGE: usize = 8;

fn is_too_large(room: usize, entries: usize) -> bool {
    room > LEAST * TOO_LARGE && entries < room / TOO_LARGE
}

/// After something was taken out.
pub fn give_back<K: Eq + Hash, V, S: BuildHasher>(table: &mut HashMap<K, V, S>) {
    if is_too_large(table.capacity(), table.len()) {
        table.shrink_to(LEAST.max(2 * table.len()));
    }
}

/// The same of one that several threads use. Nothing of it may be held.
pub fn give_back_shared<K: Eq + Hash, V, S: BuildHasher + Clone>(table: &DashMap<K, V, S>) {
    if is_too_large(table.capacity(), table.len()) {
        table.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use crossbeam_channel::{Sender, bounded};

    use super::*;

    thread_local! {
        /// What comes while this thread gives back what it has kept.
        static MEANWHILE: RefCell<Option<Sender<&'static str>>> = const { RefCell::new(None) };
    }

    #[test]
    fn a_thread_gives_back_what_it_has_kept_before_it_waits_for_long() {
        set_allocator(Allocator {
            after_fork: || {},
            keep_freed: || {},
            give_back_freed: || {
                if let Some(sender) = MEANWHILE.take() {
                    sender.send("after it was given back").expect("taken");
                }
            },
        });
        let (sender, queue) = bounded(1);
        MEANWHILE.set(Some(sender.clone()));
        sender.send("at once").expect("taken");
        assert_eq!(next(&queue), Ok("at once"));
        assert!(queue.is_empty(), "there was something to do");
        drop(sender);
        assert_eq!(next(&queue), Ok("after it was given back"));
    }

    #[test]
    fn a_table_gives_back_its_room_when_little_is_left_in_it_and_keeps_what_is() {
        let full = (0..10_000).map(|n| (n, n));
        let mut table: HashMap<_, _> = full.clone().collect();
        let shared: DashMap<_, _> = full.collect();
        let most = [table.capacity(), shared.capacity()];
        for n in 100..10_000 {
            table.remove(&n);
            give_back(&mut table);
            shared.remove(&n);
            give_back_shared(&shared);
        }
        for (room, most) in [table.capacity(), shared.capacity()].into_iter().zip(most) {
            assert!(room < most / TOO_LARGE, "{room} of {most}");
        }
        assert!((0..100).all(|n| table[&n] == n && *shared.get(&n).expect("kept") == n));
        assert_eq!((table.len(), shared.len()), (100, 100));
    }
}
