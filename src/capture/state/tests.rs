//! The state, written and read again.

use super::rows::{PAST, PAST_IN_ROW};
use super::*;
use crate::capture::mark::WalMark;
use crate::format::ltx::DatabaseChecksum;
use crate::format::wal::Position;
use crate::tenant::client::Place;

fn entry(generation: u64, seq: u32, wal: bool) -> Entry {
    Entry {
        mark: Mark {
            generation: GenerationId(generation),
            seq,
            txid: 40 + u64::from(seq),
            checksum: DatabaseChecksum::EMPTY,
            commit: 3,
            page_size: 4096,
            time_ms: 1_795_464_170_764,
            wal: wal.then_some(WalMark {
                salt: (u32::MAX, 2),
                position: Position {
                    offset: 4152,
                    checksum: (3, u32::MAX),
                },
            }),
        },
        snapshot: seq == 0,
        committed_at: 5,
        file_checksum: u64::MAX,
        sums: vec![(1, u64::MAX), (7, 1 << 63)],
    }
}

fn note(generation: u64, log_bytes: u64) -> SnapshotNote {
    SnapshotNote {
        generation: GenerationId(generation),
        seq: 0,
        stored_at: 77,
        log_bytes,
    }
}

fn stamps() -> Stamps {
    Stamps {
        database: Stamp {
            inode: 5,
            size: 6,
            modified_ns: 7,
            changed_ns: 8,
        },
        wal: Stamp::default(),
    }
}

#[test]
fn marks_stamps_and_the_instance_survive() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("state.db");
    let state = StateDb::open(&path, u64::MAX).expect("open");
    let id = state.id_of(Path::new("a.db")).expect("id");
    let place = Place {
        location: "file:///b/a".to_owned(),
        s3_prefix: "a".to_owned(),
    };
    state.save_place(id, &place).expect("a place");
    assert_eq!(state.place_of(id).expect("read"), Some(place.clone()));
    let stamps = stamps();
    state
        .save_stored(id, &entry(1, 0, false), &note(1, 0), None)
        .expect("stored");
    state.save_spooled(id, &entry(1, 1, true)).expect("spooled");
    state.save_spooled(id, &entry(1, 2, true)).expect("spooled");
    state
        .save_stored(id, &entry(1, 1, true), &note(1, 8), None)
        .expect("stored");
    state.save_stamps(id, Some(stamps)).expect("stamps");
    state.save_retain_at(id, Some(99)).expect("retention");
    drop(state);

    let state = StateDb::open(&path, 1).expect("open again");
    assert_eq!(state.node_id(), u64::MAX);
    assert_eq!(state.id_of(Path::new("a.db")).expect("id"), id);
    assert_eq!(
        state.load(id).expect("load"),
        Known {
            stored: Some(entry(1, 1, true)),
            spooled: vec![entry(1, 2, true)],
            snapshot: Some(note(1, 8)),
            past: vec![DatabaseChecksum::EMPTY.value(); 2],
        }
    );
    assert_eq!(
        state.all().expect("all"),
        HashMap::from([(
            PathBuf::from("a.db"),
            Seen {
                id,
                stamps: Some(stamps),
                has_history: true,
                place: Some(place),
            }
        )])
    );
    let upkeep = |outdated_since, retain_at| Upkeep {
        path: PathBuf::from("a.db"),
        outdated_since,
        retain_at,
    };
    assert_eq!(
        state.upkeep().expect("upkeep"),
        [upkeep(Some(77), Some(99))]
    );
    // A new generation replaces all of the old one.
    state
        .save_stored(id, &entry(2, 0, false), &note(2, 0), None)
        .expect("stored");
    let known = state.load(id).expect("load");
    assert_eq!(known.stored, Some(entry(2, 0, false)));
    assert_eq!(known.spooled, []);
    assert_eq!(state.upkeep().expect("upkeep"), [upkeep(None, Some(99))]);
    state.save_retain_at(id, None).expect("retention");
    assert_eq!(state.upkeep().expect("upkeep"), []);
    state.remove(id).expect("remove");
    assert_eq!(state.load(id).expect("load"), Known::default());
}

#[test]
fn of_the_states_that_were_stored_the_last_are_kept() {
    let dir = tempfile::tempdir().expect("a directory");
    let state = StateDb::open(&dir.path().join("state.db"), 1).expect("open");
    let id = state.id_of(Path::new("a.db")).expect("id");
    let mut all = Vec::new();
    for seq in 0..2 * PAST {
        let mut stored = entry(1, seq, false);
        stored.mark.txid = u64::from(seq) + 1;
        stored.mark.checksum.toggle(u64::from(seq) + 1);
        all.push(stored.mark.checksum.value());
        let noted = state.save_stored(id, &stored, &note(1, 0), None);
        noted.expect("stored");
        if !seq.is_multiple_of(PAST_IN_ROW / 4) {
            continue;
        }
        let past = state.load(id).expect("load").past;
        let least = all.len().min(PAST as usize);
        let most = least + PAST_IN_ROW as usize;
        assert!((least..=most).contains(&past.len()), "{}", past.len());
        let last = &all[all.len() - least..];
        assert!(last.iter().all(|sum| past.contains(sum)));
    }
    // Whatever numbers its segments have, a row does not grow for ever.
    for n in 0..u64::from(8 * PAST_IN_ROW) {
        let mut stored = entry(1, 1, false);
        stored.mark.checksum.toggle(n + 1);
        let noted = state.save_stored(id, &stored, &note(1, 0), None);
        noted.expect("stored");
    }
    let past = state.load(id).expect("load").past.len() as u32;
    assert!(past <= PAST + 3 * PAST_IN_ROW, "{past}");
}

#[test]
fn with_a_stored_segment_goes_that_all_is_stored_or_nothing_at_all() {
    let dir = tempfile::tempdir().expect("a directory");
    let state = StateDb::open(&dir.path().join("state.db"), 1).expect("open");
    let id = state.id_of(Path::new("a.db")).expect("id");
    let stamps = stamps();
    let nobody = id + 1;
    let refused = state.save_stored(nobody, &entry(1, 0, false), &note(1, 0), Some(stamps));
    assert!(refused.is_err(), "there is no such database");
    // What was refused has left no transaction open.
    for (seq, stamps) in [(0, Some(stamps)), (1, None)] {
        let noted = state.save_stored(id, &entry(1, seq, false), &note(1, 0), stamps);
        noted.expect("stored");
    }
    let all = state.all().expect("all");
    assert_eq!(all.len(), 1);
    // Without any, those before stay: files that were written since have others.
    assert_eq!(all[Path::new("a.db")].stamps, Some(stamps));
}

#[test]
fn who_has_it_open_keeps_no_instance_from_its_start() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("state.db");
    let database = Path::new("a.db");
    let id = StateDb::open(&path, 1).and_then(|state| state.id_of(database));
    let id = id.expect("a number");
    let other = Connection::open(&path).expect("opened");
    let count = |other: &Connection| {
        other.query_row("SELECT count(*) FROM database", [], |row| {
            row.get::<_, i64>(0)
        })
    };
    assert_eq!(count(&other), Ok(1));
    let state = StateDb::open(&path, 1).expect("opened beside it");
    assert_eq!(state.id_of(database).expect("known"), id);
    state.id_of(Path::new("b.db")).expect("a further one");
    assert_eq!(count(&other), Ok(2));
}
