//! The keys of a replica's objects. Nobody else builds or parses one.

use std::fmt;
use std::str::FromStr;

/// The folder at a directory store's root where objects are written before they get their name; no listing shows it.
pub const INCOMING: &str = ".incoming";
/// The folders of one replica.
pub const FOLDERS_OF_REPLICA: [&str; 2] = ["snapshots", "wal"];

/// An unbroken history's name: 16 hex digits that sort by the time of its start.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct GenerationId(pub u64);

/// Low bits of a generation id that are random; the rest is its start in Unix milliseconds.
const RANDOM_BITS: u32 = 20;

impl GenerationId {
    /// The id of a generation that starts at `now_ms`, after `newest` where the store has one already. Nothing comes after
    /// the last id that there can be.
    pub fn next(now_ms: i64, newest: Option<GenerationId>, random: u32) -> Self {
        const LATEST: u64 = u64::MAX >> RANDOM_BITS;
        let after = newest.map_or(0, |id| (id.0 >> RANDOM_BITS) + 1);
        let high = (now_ms.max(0) as u64).max(after).min(LATEST);
        let id = (high << RANDOM_BITS) | u64::from(random & ((1 << RANDOM_BITS) - 1));
        Self(id.max(newest.map_or(0, |id| id.0.saturating_add(1))))
    }
}

impl GenerationId {
    /// An id of which the next one begins later than at `ms`.
    pub fn of_moment(ms: i64) -> Self {
        Self((ms.max(0) as u64) << RANDOM_BITS)
    }

    /// When it began, in Unix milliseconds, or later where the clock had gone back.
    pub fn started_ms(self) -> i64 {
        (self.0 >> RANDOM_BITS) as i64
    }
}

impl fmt::Display for GenerationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for GenerationId {
    type Err = ();

    /// Exactly 16 lower-case hex digits, with or without `generation-` before them.
    fn from_str(text: &str) -> Result<Self, ()> {
        let digits = text.strip_prefix("generation-").unwrap_or(text);
        parse_hex(digits, 16).map(Self).ok_or(())
    }
}

/// One object of a replica, relative to the replica's prefix.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum ObjectKey {
    /// `snapshots/generation-<id>/database.json`
    Database(GenerationId),
    /// `snapshots/generation-<id>/<seq>.snapshot`: the whole database at the end of segment `seq`.
    Snapshot(GenerationId, u32),
    /// `wal/generation-<id>/<seq>.wal`
    Segment(GenerationId, u32),
    /// `wal/generation-<id>/<first>-<last>.wal`
    Compacted(GenerationId, u32, u32),
}

impl ObjectKey {
    /// The whole key: `<replica prefix>/<object>`.
    pub fn below(self, replica_prefix: &str) -> String {
        format!("{replica_prefix}/{self}")
    }

    /// The replica that an object belongs to by its key, and the object.
    pub fn split(key: &str) -> Option<(&str, Self)> {
        let (at, _) = key.rmatch_indices('/').nth(2)?;
        let replica = &key[..at];
        Some((replica, Self::parse(replica, key)?))
    }

    /// Reads a key as a listing shows it; none for a key that is no object of this replica.
    pub fn parse(replica_prefix: &str, key: &str) -> Option<Self> {
        let rest = key.strip_prefix(replica_prefix)?.strip_prefix('/')?;
        let (kind, rest) = rest.split_once('/')?;
        let (generation, name) = rest.split_once('/')?;
        let generation: GenerationId = generation
            .starts_with("generation-")
            .then(|| generation.parse().ok())??;
        match kind {
            "snapshots" if name == "database.json" => Some(Self::Database(generation)),
            "snapshots" => {
                let seq = parse_seq(name.strip_suffix(".snapshot")?)?;
                Some(Self::Snapshot(generation, seq))
            }
            "wal" => {
                let range = name.strip_suffix(".wal")?;
                match range.split_once('-') {
                    None => Some(Self::Segment(generation, parse_seq(range)?)),
                    Some((first, last)) => {
                        let (first, last) = (parse_seq(first)?, parse_seq(last)?);
                        (first < last).then_some(Self::Compacted(generation, first, last))
                    }
                }
            }
            _ => None,
        }
    }

    pub fn generation(self) -> GenerationId {
        match self {
            Self::Database(generation)
            | Self::Snapshot(generation, _)
            | Self::Segment(generation, _)
            | Self::Compacted(generation, ..) => generation,
        }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Database(id) => write!(f, "snapshots/generation-{id}/database.json"),
            Self::Snapshot(id, seq) => write!(f, "snapshots/generation-{id}/{seq:08x}.snapshot"),
            Self::Segment(id, seq) => write!(f, "wal/generation-{id}/{seq:08x}.wal"),
            Self::Compacted(id, first, last) => {
                write!(f, "wal/generation-{id}/{first:08x}-{last:08x}.wal")
            }
        }
    }
}

fn parse_seq(digits: &str) -> Option<u32> {
    parse_hex(digits, 8).and_then(|seq| u32::try_from(seq).ok())
}

/// Lower-case hex digits, exactly `len` of them, so that every key has one spelling.
fn parse_hex(digits: &str, len: usize) -> Option<u64> {
    let exact = digits.len() == len
        && digits
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    exact.then(|| u64::from_str_radix(digits, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generation_after_a_removal_begins_later_whatever_the_clock_says() {
        let removed_at = 1_795_464_170_764;
        let newest = Some(GenerationId::of_moment(removed_at));
        for now in [0, removed_at - 5_000, removed_at, removed_at + 5_000] {
            let next = GenerationId::next(now, newest, u32::MAX);
            assert!(next.started_ms() > removed_at, "{now}");
        }
    }

    const PREFIX: &str = "databases/12345678-1234-5678-9abc-123456789012";

    #[test]
    fn every_key_reads_back() {
        let id = GenerationId(0x0000_01a2_0a01_0d0c);
        for key in [
            ObjectKey::Database(id),
            ObjectKey::Snapshot(id, 0),
            ObjectKey::Segment(id, 1),
            ObjectKey::Segment(id, u32::MAX),
            ObjectKey::Compacted(id, 1, 0x20),
        ] {
            assert_eq!(ObjectKey::parse(PREFIX, &key.below(PREFIX)), Some(key));
        }
        assert_eq!(
            ObjectKey::Segment(id, 1).below(PREFIX),
            format!("{PREFIX}/wal/generation-000001a20a010d0c/00000001.wal")
        );
    }

    #[test]
    fn what_is_no_object_of_the_replica_is_ignored() {
        for name in [
            "wal/generation-000001a20a010d0c/1.wal",
            "wal/generation-000001a20a010d0c/00000001.WAL",
            "wal/generation-000001A20A010D0C/00000001.wal",
            "wal/000001a20a010d0c/00000001.wal",
            "wal/generation-000001a20a010d0c/00000002-00000001.wal",
            "wal/generation-000001a20a010d0c/x/00000001.wal",
            "snapshots/generation-000001a20a010d0c/00000000.wal",
            "other/generation-000001a20a010d0c/00000001.wal",
        ] {
            assert_eq!(ObjectKey::parse(PREFIX, &format!("{PREFIX}/{name}")), None);
        }
        assert_eq!(
            ObjectKey::parse(
                PREFIX,
                &format!("{PREFIX}0/{}", ObjectKey::Segment(GenerationId(1), 1))
            ),
            None,
            "another replica whose prefix starts the same"
        );
    }

    #[test]
    fn generations_sort_by_time_whatever_the_clock_does() {
        let first = GenerationId::next(1_000, None, u32::MAX);
        let second = GenerationId::next(500, Some(first), 0);
        assert!(second > first);
        assert!(GenerationId::next(2_000, Some(second), 0) > second);
        // A name in the store may claim any time.
        let late = GenerationId(u64::MAX - 1);
        assert_eq!(
            GenerationId::next(2_000, Some(late), 0),
            GenerationId(u64::MAX)
        );
    }
}
