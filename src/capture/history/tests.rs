//! What a death has left of the page sums is mended from the state.

use super::*;
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
