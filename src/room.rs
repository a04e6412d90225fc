//! What a table had room for at its fullest is given back when little of it is left: a thousand databases at once are
//! soon a handful again.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash};

use dashmap::DashMap;

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
    use super::*;

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
