//! Clients whose file is renamed away and back, again and again: what comes under such a name is captured once it has stayed
//! there for a while. The file goes nowhere, so that nothing is lost: where it stays it is captured with all that it holds.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Capture;
use crate::tenant::ids::ClientId;
use crate::tenant::roster::Client;

/// Times that a name may be vacated before what comes next has to stay.
const FREE: u32 = 3;
/// How long the first one has to stay after that, each further one twice as long.
const FIRST_STAY: Duration = Duration::from_secs(1);
const LONGEST_STAY: Duration = Duration::from_secs(16);
/// A name that was not vacated for so long is as any other.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);
/// Names that are counted; of more than these the one that was vacated first is forgotten.
const MOST: usize = 1_000;

/// How often names were vacated by a rename lately.
#[derive(Debug, Default)]
pub(super) struct Comings(Mutex<HashMap<ClientId, Vacated>>);

#[derive(Clone, Copy, Debug)]
struct Vacated {
    times: u32,
    last: Instant,
}

impl Comings {
    fn vacated(&self, id: &ClientId, now: Instant) {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_recent = |one: &Vacated| now.duration_since(one.last) < FORGOTTEN_AFTER;
        if names.len() >= MOST && !names.contains_key(id) {
            names.retain(|_, one| is_recent(one));
            let first = names.iter().min_by_key(|(_, one)| one.last);
            let first = first.map(|(id, _)| id.clone());
            if names.len() >= MOST
                && let Some(first) = first
            {
                names.remove(&first);
            }
        }
        let before = names.get(id).filter(|one| is_recent(one));
        let times = before.map_or(0, |one| one.times).saturating_add(1);
        names.insert(id.clone(), Vacated { times, last: now });
    }

    /// How long what came under that name just now has to stay.
    fn stay(&self, id: &ClientId, now: Instant) -> Duration {
        let names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match names.get(id) {
            Some(Vacated { times, last })
                if *times >= FREE && now.duration_since(*last) < FORGOTTEN_AFTER =>
            {
                let doubled = 1_u32.checked_shl(times - FREE).unwrap_or(u32::MAX);
                FIRST_STAY.saturating_mul(doubled).min(LONGEST_STAY)
            }
            _ => Duration::ZERO,
        }
    }
}

impl Capture {
    /// A client's file is called otherwise now.
    pub(super) fn note_vacated(&self, id: &ClientId) {
        self.comings.vacated(id, Instant::now());
    }

    /// How long a client's first capture waits.
    pub fn stay_of(&self, client: &Client) -> Duration {
        match client.progress().txid {
            0 => self.comings.stay(&client.id, Instant::now()),
            _ => Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_and_goes_has_to_stay_longer_each_time() {
        let comings = Comings::default();
        let (id, other) = (ClientId::single("", "a"), ClientId::single("", "b"));
        let now = Instant::now();
        let mut stays = Vec::new();
        for _ in 0..10 {
            stays.push(comings.stay(&id, now).as_secs());
            comings.vacated(&id, now);
        }
        assert_eq!(stays, [0, 0, 0, 1, 2, 4, 8, 16, 16, 16]);
        assert_eq!(comings.stay(&other, now), Duration::ZERO);
        let later = now + FORGOTTEN_AFTER;
        assert_eq!(comings.stay(&id, later), Duration::ZERO);
        comings.vacated(&id, later);
        assert_eq!(comings.stay(&id, later), Duration::ZERO, "it begins anew");
        for _ in 0..100 {
            comings.vacated(&id, later);
        }
        assert_eq!(comings.stay(&id, later), LONGEST_STAY);
    }

    #[test]
    fn so_many_names_are_counted_and_no_more() {
        let comings = Comings::default();
        let now = Instant::now();
        for n in 0..2 * MOST {
            let id = ClientId::single("", &n.to_string());
            comings.vacated(&id, now + Duration::from_millis(n as u64));
        }
        let names = comings.0.lock().expect("not poisoned");
        assert_eq!(names.len(), MOST);
        let last = ClientId::single("", &(2 * MOST - 1).to_string());
        assert!(names.contains_key(&last));
    }
}
