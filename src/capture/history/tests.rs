//! What a death has left of the page sums is mended from the state.

use super::*;
use crate::capture::model::Model;
use crate::capture::page_sums::path_in;
use crate::capture::workers;
use crate::format::ltx::DatabaseChecksum;

fn entry(txid: u64, sums: &[PageSum], all: &[u64]) -> Entry {
    let mut checksum = DatabaseChecksum::EMPTY;
    all.iter().for_each(|sum| checksum.toggle(*sum));
    Entry {
        mark: Mark {
            generation: GenerationId(7),
            seq: txid as u32 - 1,
            txid,
            checksum,
            commit: all.len() as u32,
            page_size: 4096,
            time_ms: 0,
            wal: None,
        },
        snapshot: txid == 1,
        committed_at: 0,
        file_checksum: 0,
        sums: sums.to_vec(),
    }
}

/// Sums of pages have their highest bit set.
const SUMS: [u64; 3] = [1 << 63 | 5, 1 << 63 | 9, 1 << 63 | 12];
const NEW: u64 = 1 << 63 | 77;

#[test]
fn a_table_that_a_death_left_between_two_states_is_mended() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("1.sums");
    let first = entry(1, &[], &SUMS);
    let then = entry(2, &[(1, NEW)], &[NEW]);
    let known = Known {
        stored: Some(first.clone()),
        spooled: vec![then.clone()],
        ..Known::default()
    };
    let mut table = PageSums::new(dir.path().into(), 1);
    let header = sums_header(&first.mark);
    table.rewrite(&header, &SUMS).expect("a table");
    let written = std::fs::read(&path).expect("read");
    table
        .make_durable(&sums_header(&then.mark), 1, &then.sums)
        .expect("durable");
    let shrunk = std::fs::read(&path).expect("read");

    // The first bytes of a shrunken table are those of the state before, as far as the death has left them.
    let mut cut = shrunk.clone();
    cut[..64].copy_from_slice(&written[..64]);
    for left in [written, cut, shrunk] {
        std::fs::write(&path, &left).expect("written");
        let mended = bring_table_to(&mut table, &then, &known).expect("read");
        assert!(mended, "{} bytes were left", left.len());
    }
}

#[test]
fn what_the_table_lacks_of_stored_segments_the_state_has() {
    let mut model = Model::new(7, 16 << 20);
    let (db, shared) = (model.db.clone(), model.capture.shared.clone());
    workers::make_image(&db, &shared).expect("a first image");
    let table = |id| std::fs::read(path_in(&shared.directory, id)).expect("a table");
    let mut waited = 0;
    for n in 0..30 {
        let id = db.history().id;
        let before = table(id);
        model.run(&format!("INSERT INTO t VALUES ({n}, 'a row')"));
        workers::drain(&db, &shared).expect("captured");
        while db.history().front().is_some() {
            db.history().stored(&db, &shared, None).expect("stored");
        }
        let mut history = db.history();
        let captured = history.mark.expect("captured");
        let has_waited = table(id) == before;
        waited += u32::from(has_waited);
        if n % 5 == 4 {
            // As after a death at this moment.
            history.begin_anew();
            history.load(&db, &shared).expect("loaded");
            assert_eq!(history.mark, Some(captured), "after {n}");
            assert_eq!(
                table(id) == before,
                !has_waited,
                "it is that of the state now"
            );
        } else {
            history.rest();
        }
    }
    assert!(
        waited >= 20,
        "it was written though it could wait: {waited} of 30 did"
    );
}
