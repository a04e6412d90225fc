//! What was committed, and whether everything in the store is a part of that.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use bytes::Bytes;

use super::chance::hash_of;
use crate::format::keys::{GenerationId, ObjectKey};
use crate::format::ltx::{Decoder, Header};

/// Something that must hold does not.
pub type Broken = String;

/// A state that was in the store, at the end of one of its objects.
#[derive(Clone, Copy, Debug)]
pub struct Stored {
    pub txid: u64,
    /// Which of the committed states.
    pub index: usize,
    pub content: u64,
    checksum: u64,
}

/// One generation as its objects make it.
#[derive(Default)]
struct Line {
    pages: Vec<u8>,
    states: BTreeMap<u32, Stored>,
}

/// The committed states, in their order, and what the store has of them.
#[derive(Default)]
pub struct Oracle {
    committed: Vec<u64>,
    /// Those of them that a connection has seen in WAL mode.
    seen: BTreeSet<usize>,
    /// Those that no connection has seen, with what was before them being there again: who can't see the wal-index takes
    /// them for the newest until that is retracted.
    unseen: BTreeSet<usize>,
    /// When each content was committed.
    places: HashMap<u64, Vec<usize>>,
    lines: BTreeMap<GenerationId, Line>,
    /// Objects that wait for those before them.
    waiting: BTreeMap<ObjectKey, Bytes>,
    /// What was found out and not told yet.
    found: Vec<String>,
}

impl Oracle {
    /// The database is so now, or would be so after SQLite's recovery. Its number, where it was another one before.
    pub fn commit(&mut self, content: &[u8], is_seen: bool) -> Option<usize> {
        let content = hash_of(&content);
        if self.committed.last() == Some(&content) {
            return None;
        }
        self.places
            .entry(content)
            .or_default()
            .push(self.committed.len());
        let number = self.committed.len();
        if is_seen && number > 1 && self.committed[number - 2] == content {
            self.unseen.insert(number - 1);
        }
        self.committed.push(content);
        if is_seen {
            self.seen.insert(number);
        }
        Some(number)
    }

    /// How many states were committed.
    pub fn len(&self) -> usize {
        self.committed.len()
    }

    /// An object is in the store.
    pub fn arrived(&mut self, key: ObjectKey, bytes: Bytes) {
        self.waiting.insert(key, bytes);
    }

    /// Looks at what came in. What only a transaction that is being written can have is left for later, unless `all`.
    pub fn check(&mut self, all: bool) -> Result<(), Broken> {
        loop {
            let ready = self.waiting.keys().copied().find(|key| self.is_ready(*key));
            let Some(key) = ready else {
                return Ok(());
            };
            let bytes = self.waiting.remove(&key).expect("it is there");
            if !self.look_at(key, &bytes, all)? {
                self.waiting.insert(key, bytes);
                return Ok(());
            }
        }
    }

    /// What was found out since it was asked for last.
    pub fn take_found(&mut self) -> Vec<String> {
        std::mem::take(&mut self.found)
    }

    fn is_ready(&self, key: ObjectKey) -> bool {
        let has = |generation, seq| {
            let line = self.lines.get(generation);
            line.is_some_and(|line| line.states.contains_key(&seq))
        };
        match &key {
            ObjectKey::Database(_) | ObjectKey::Compacted(..) | ObjectKey::Snapshot(_, 0) => true,
            ObjectKey::Snapshot(generation, seq) => has(generation, *seq),
            ObjectKey::Segment(generation, seq) => has(generation, *seq - 1),
        }
    }

    /// False where it can't be told yet.
    fn look_at(&mut self, key: ObjectKey, bytes: &Bytes, all: bool) -> Result<bool, Broken> {
        match key {
            ObjectKey::Database(_) => return Ok(true),
            ObjectKey::Compacted(..) => return Err(format!("{key}: nobody makes these")),
            ObjectKey::Snapshot(generation, seq) if seq > 0 => {
                let (_, pages, _) = applied(key, bytes, Vec::new())?;
                let known = self.lines[&generation].states[&seq].content;
                return match hash_of(&&pages[..]) == known {
                    true => Ok(true),
                    false => Err(format!("{key} is another state than its segment's end")),
                };
            }
            ObjectKey::Snapshot(..) | ObjectKey::Segment(..) => {}
        }
        let (ObjectKey::Snapshot(generation, seq) | ObjectKey::Segment(generation, seq)) = key
        else {
            unreachable!("the others are told apart above");
        };
        let line = self.lines.entry(generation).or_default();
        let before = line.states.last_key_value().map(|(_, state)| *state);
        let (header, pages, checksum) = applied(key, bytes, line.pages.clone())?;
        let content = hash_of(&&pages[..]);
        if let (ObjectKey::Segment(..), Some(before)) = (key, before)
            && (header.min_txid != before.txid + 1 || header.pre_apply_checksum != before.checksum)
        {
            return Err(format!("{key} does not follow what is before it"));
        }
        let from = before.map_or(0, |before| before.index);
        let places = self.places.get(&content).map_or(&[][..], |places| places);
        let Some(index) = places.iter().copied().find(|index| *index >= from) else {
            return match (all, places) {
                (false, _) => Ok(false),
                (true, []) => Err(format!("{key} is a state that never was")),
                (true, _) => Err(format!(
                    "{key} goes back to state {places:?}, and before it was {from}"
                )),
            };
        };
        line.pages = pages;
        let state = Stored {
            txid: header.max_txid,
            index,
            content,
            checksum,
        };
        line.states.insert(seq, state);
        self.found.push(format!("{key} is state {index}"));
        Ok(true)
    }

    /// The newest state of the newest generation.
    pub fn newest(&self) -> Option<(GenerationId, Stored)> {
        let with_states = self.lines.iter().rev();
        let (generation, line) = with_states
            .into_iter()
            .find(|(_, line)| !line.states.is_empty())?;
        Some((*generation, *line.states.last_key_value()?.1))
    }

    /// So many committed states are stored, if the newest stored one is the last of those that it may be.
    pub fn newest_stored(&self) -> usize {
        let newest = self.newest().map(|(_, stored)| stored.content);
        let places = newest.and_then(|content| self.places.get(&content)?.last());
        places.map_or(0, |index| {
            index + 1 + usize::from(self.unseen.contains(index))
        })
    }

    pub fn generations(&self) -> impl Iterator<Item = GenerationId> {
        self.lines.keys().copied()
    }

    /// Every state that can be restored.
    pub fn states(&self) -> impl Iterator<Item = (GenerationId, Stored)> {
        self.lines
            .iter()
            .flat_map(|(generation, line)| line.states.values().map(|state| (*generation, *state)))
    }

    /// The newest state of the store is the newest that was committed.
    pub fn is_all_stored(&self) -> bool {
        let newest = self.newest().map(|(_, stored)| stored.content);
        newest == self.committed.last().copied()
    }

    /// The first committed state after the first stored one that is no moment of the newest generation. Before the database
    /// was in WAL mode, only its newest state counts.
    pub fn first_missing(&self) -> Option<usize> {
        let (_, line) = self.lines.last_key_value()?;
        let first = line.states.first_key_value()?.1.index;
        if self.seen.first().is_none_or(|seen| first < *seen) {
            return None;
        }
        let stored: HashSet<u64> = line.states.values().map(|state| state.content).collect();
        let is_kept = |index: &usize| stored.contains(&self.committed[*index]);
        (first..self.committed.len()).find(|index| self.seen.contains(index) && !is_kept(index))
    }

    /// Whether what came in is all told.
    pub fn left_over(&self) -> Vec<String> {
        self.waiting.keys().map(ToString::to_string).collect()
    }
}

/// The pages after an object was put over those before it.
fn applied(
    key: ObjectKey,
    bytes: &Bytes,
    mut pages: Vec<u8>,
) -> Result<(Header, Vec<u8>, u64), Broken> {
    let broken = |error: crate::format::ltx::LtxError| format!("{key}: {error}");
    let mut decoder = Decoder::new(&bytes[..]).map_err(broken)?;
    let header = *decoder.header();
    let page_size = header.page_size as usize;
    let mut page = vec![0; page_size];
    pages.resize(header.commit as usize * page_size, 0);
    while let Some(pgno) = decoder.next_page(&mut page).map_err(broken)? {
        let at = (pgno as usize - 1) * page_size;
        pages[at..at + page_size].copy_from_slice(&page);
    }
    let trailer = decoder.finish().map_err(broken)?;
    Ok((header, pages, trailer.post_apply_checksum))
}
