//! Places for connections: so many for each peer, and some that are spare, where only health is answered. Whoever comes is
//! let in; who has been let in longest without asking makes room.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::peer::Peer;

/// Connections at one time, but for the spare ones.
pub const MAX_CONNECTIONS: usize = 256;
/// Of these, of one peer.
pub const MAX_OF_PEER: usize = 64;
/// Connections beyond that: each is cut off soon, and only health is answered.
pub const MAX_SPARE: usize = 32;

/// What a connection may ask.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    Regular,
    /// Health alone, once.
    Spare,
}

/// All connections that there are.
#[derive(Clone, Debug, Default)]
pub struct Connections(Arc<Mutex<Held>>);

#[derive(Debug, Default)]
struct Held {
    /// Places that were ever given.
    given: u64,
    /// In the order in which they came.
    connections: BTreeMap<u64, Connection>,
}

#[derive(Debug)]
struct Connection {
    peer: Peer,
    place: Place,
    has_asked: bool,
    /// Dropped to cut it off.
    _keep: oneshot::Sender<()>,
}

/// A connection's place, until it is dropped.
#[derive(Debug)]
pub struct Admitted {
    connections: Connections,
    number: u64,
    pub peer: Peer,
    pub place: Place,
}

/// Resolves when the connection has to end.
pub type CutOff = oneshot::Receiver<()>;

impl Connections {
    /// Gives a place to whoever comes; that may cut another connection off.
    pub fn admit(&self, peer: Peer) -> (Admitted, CutOff) {
        let mut held = self.lock();
        let place = held.make_room(peer);
        held.given += 1;
        let number = held.given;
        let (keep, cut_off) = oneshot::channel();
        held.connections.insert(
            number,
            Connection {
                peer,
                place,
                has_asked: false,
                _keep: keep,
            },
        );
        let admitted = Admitted {
            connections: self.clone(),
            number,
            peer,
            place,
        };
        (admitted, cut_off)
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Admitted {
    /// A request has come.
    pub fn asked(&self) {
        if let Some(connection) = self.connections.lock().connections.get_mut(&self.number) {
            connection.has_asked = true;
        }
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.connections.lock().connections.remove(&self.number);
    }
}

impl Held {
    fn make_room(&mut self, peer: Peer) -> Place {
        let regular = self.count(|one| one.place == Place::Regular);
        let own = self.count(|one| one.place == Place::Regular && one.peer == peer);
        if own < MAX_OF_PEER && regular < MAX_CONNECTIONS {
            return Place::Regular;
        }
        // Of its own, or of those that all places have gone to.
        let makes_room = |one: &Connection| {
            one.place == Place::Regular && !one.has_asked && (one.peer == peer || own < MAX_OF_PEER)
        };
        if self.cut_off_first(makes_room) {
            return Place::Regular;
        }
        if self.count(|one| one.place == Place::Spare) >= MAX_SPARE {
            let greediest = self.greediest();
            self.cut_off_first(|one| one.place == Place::Spare && Some(one.peer) == greediest);
        }
        Place::Spare
    }

    fn count(&self, which: impl Fn(&Connection) -> bool) -> usize {
        self.connections.values().filter(|one| which(one)).count()
    }

    /// The peer that has most of the spare places.
    fn greediest(&self) -> Option<Peer> {
        let mut counts = BTreeMap::<Peer, usize>::new();
        for one in self.connections.values() {
            if one.place == Place::Spare {
                *counts.entry(one.peer).or_default() += 1;
            }
        }
        let most = counts.into_iter().max_by_key(|(_, count)| *count)?;
        Some(most.0)
    }

    /// Ends the longest there of these. False where there is none.
    fn cut_off_first(&mut self, which: impl Fn(&Connection) -> bool) -> bool {
        let first = self.connections.iter().find(|(_, one)| which(one));
        let Some(number) = first.map(|(number, _)| *number) else {
            return false;
        };
        self.connections.remove(&number);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot::error::TryRecvError;

    fn is_cut_off(cut_off: &mut CutOff) -> bool {
        matches!(cut_off.try_recv(), Err(TryRecvError::Closed))
    }

    #[test]
    fn a_peer_beyond_its_share_has_spare_places_and_the_others_theirs() {
        let connections = Connections::default();
        let mut all = Vec::new();
        for n in 0..MAX_OF_PEER + MAX_SPARE + 5 {
            let (admitted, cut_off) = connections.admit(Peer::User(1));
            let expected = match n < MAX_OF_PEER {
                true => Place::Regular,
                false => Place::Spare,
            };
            assert_eq!(admitted.place, expected, "{n}");
            admitted.asked();
            all.push((admitted, cut_off));
        }
        let (other, mut kept) = connections.admit(Peer::User(2));
        assert_eq!(other.place, Place::Regular);
        let cut: Vec<_> = (0..all.len())
            .filter(|n| is_cut_off(&mut all[*n].1))
            .collect();
        let expected: Vec<_> = (MAX_OF_PEER..MAX_OF_PEER + 5).collect();
        assert_eq!(cut, expected, "the first of the spare ones");
        assert!(!is_cut_off(&mut kept));
        all.clear();
        let (admitted, _) = connections.admit(Peer::User(1));
        assert_eq!(admitted.place, Place::Regular, "they are gone");
    }

    #[test]
    fn who_does_not_ask_makes_room_for_the_next_one() {
        let connections = Connections::default();
        let mut all: Vec<_> = (0..MAX_OF_PEER)
            .map(|_| connections.admit(Peer::Local))
            .collect();
        all[0].0.asked();
        let (next, _) = connections.admit(Peer::Local);
        assert_eq!(next.place, Place::Regular);
        assert!(!is_cut_off(&mut all[0].1) && is_cut_off(&mut all[1].1));
    }

    #[test]
    fn where_all_places_are_taken_who_does_not_ask_makes_room_for_another_peer() {
        let connections = Connections::default();
        let peers = (MAX_CONNECTIONS / MAX_OF_PEER) as u32;
        let mut all = Vec::new();
        for peer in 0..peers {
            for _ in 0..MAX_OF_PEER {
                all.push(connections.admit(Peer::User(peer)));
            }
        }
        let (admitted, _) = connections.admit(Peer::User(peers));
        assert_eq!(admitted.place, Place::Regular);
        assert!(is_cut_off(&mut all[0].1));
        all.iter().for_each(|(admitted, _)| admitted.asked());
        drop(admitted);
        let (first, _) = connections.admit(Peer::User(peers));
        assert_eq!(first.place, Place::Regular, "one place has become free");
        first.asked();
        let (second, _) = connections.admit(Peer::User(peers));
        assert_eq!(second.place, Place::Spare);
    }

    #[test]
    fn who_has_most_of_the_spare_places_makes_room() {
        let connections = Connections::default();
        let mut greedy: Vec<_> = (0..MAX_OF_PEER + MAX_SPARE - 1)
            .map(|_| {
                let (admitted, cut_off) = connections.admit(Peer::User(1));
                admitted.asked();
                (admitted, cut_off)
            })
            .collect();
        let mut modest: Vec<_> = (0..MAX_OF_PEER + 1)
            .map(|_| {
                let (admitted, cut_off) = connections.admit(Peer::User(2));
                admitted.asked();
                (admitted, cut_off)
            })
            .collect();
        let last = modest.last_mut().expect("some");
        assert_eq!(last.0.place, Place::Spare);
        assert!(!is_cut_off(&mut last.1));
        let (next, _) = connections.admit(Peer::User(2));
        assert_eq!(next.place, Place::Spare);
        assert!(is_cut_off(&mut greedy[MAX_OF_PEER].1));
        assert!(!is_cut_off(&mut modest.last_mut().expect("some").1));
    }
}
