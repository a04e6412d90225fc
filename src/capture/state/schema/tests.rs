//! A state that an earlier version has made.

use std::path::Path;

use super::*;
use crate::capture::state::{Known, StateDb};

/// As version 0 made them, with two databases: one that is stored up to its third segment and has a fourth in the spool, and
/// one of which only its first snapshot waits there.
const BEFORE: &str = "
    CREATE TABLE instance (node_id INTEGER NOT NULL);
    INSERT INTO instance VALUES (7);
    CREATE TABLE database (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        path BLOB NOT NULL UNIQUE,
        db_inode INTEGER, db_size INTEGER, db_modified INTEGER,
        wal_inode INTEGER, wal_size INTEGER, wal_modified INTEGER
    ) STRICT;
    INSERT INTO database VALUES (1, CAST('a.db' AS BLOB), 1, 2, 3, 4, 5, 6);
    INSERT INTO database (id, path) VALUES (2, CAST('b.db' AS BLOB));
    CREATE TABLE mark (
        database INTEGER NOT NULL REFERENCES database(id) ON DELETE CASCADE,
        seq INTEGER NOT NULL,
        stored INTEGER NOT NULL,
        generation INTEGER NOT NULL, txid INTEGER NOT NULL, checksum INTEGER NOT NULL,
        commit_pages INTEGER NOT NULL, page_size INTEGER NOT NULL, time_ms INTEGER NOT NULL,
        salt1 INTEGER, salt2 INTEGER, wal_offset INTEGER, sum1 INTEGER, sum2 INTEGER,
        committed_at INTEGER NOT NULL, file_checksum INTEGER NOT NULL,
        snapshot INTEGER NOT NULL, sums BLOB NOT NULL,
        PRIMARY KEY (database, generation, seq)
    ) STRICT, WITHOUT ROWID;
    INSERT INTO mark VALUES
        (1, 3, 1, 10, 4, -9, 2, 4096, 50, 1, 2, 4152, 3, 4, 51, 52, 0, x'010000000200000000000000'),
        (1, 4, 0, 10, 5, -8, 2, 4096, 60, 1, 2, 8272, 5, 6, 61, 62, 0, x''),
        (2, 0, 0, 11, 1, -7, 1, 4096, 70, NULL, NULL, NULL, NULL, NULL, 71, 72, 1, x'');
    CREATE TABLE past (
        database INTEGER NOT NULL REFERENCES database(id) ON DELETE CASCADE,
        txid INTEGER NOT NULL, checksum INTEGER NOT NULL,
        PRIMARY KEY (database, txid)
    ) STRICT, WITHOUT ROWID;
    WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 40)
        INSERT INTO past SELECT 1, n, -n FROM n;
    CREATE TABLE snapshot (
        database INTEGER PRIMARY KEY REFERENCES database(id) ON DELETE CASCADE,
        generation INTEGER NOT NULL, seq INTEGER NOT NULL, stored_at INTEGER NOT NULL,
        log_bytes INTEGER NOT NULL, retain_at INTEGER
    ) STRICT;
    INSERT INTO snapshot VALUES (1, 10, 0, 80, 81, 82);
";

fn made_before() -> (tempfile::TempDir, StateDb) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("state.db");
    let before = Connection::open(&path).expect("made");
    before.execute_batch(BEFORE).expect("filled");
    drop(before);
    let state = StateDb::open(&path, 1).expect("brought up to date");
    (dir, state)
}

#[test]
fn what_an_earlier_version_knew_is_known() {
    let (dir, state) = made_before();
    let told = |state: &StateDb| {
        assert_eq!((state.node_id(), state.is_new()), (7, false));
        let Known {
            stored,
            spooled,
            snapshot,
            mut past,
        } = state.load(1).expect("read");
        let stored = stored.expect("the third segment");
        assert_eq!((stored.mark.seq, stored.mark.txid), (3, 4));
        assert_eq!(stored.mark.wal.map(|wal| wal.position.offset), Some(4152));
        assert_eq!((stored.committed_at, stored.file_checksum), (51, 52));
        assert_eq!(stored.sums, [(1, 2)]);
        assert_eq!(spooled.len(), 1);
        assert_eq!((spooled[0].mark.seq, spooled[0].file_checksum), (4, 62));
        let snapshot = snapshot.expect("one");
        assert_eq!((snapshot.generation.0, snapshot.seq), (10, 0));
        assert_eq!((snapshot.stored_at, snapshot.log_bytes), (80, 81));
        past.sort_unstable_by_key(|sum| std::cmp::Reverse(*sum));
        let all: Vec<u64> = (1..=40).map(|n: i64| -n as u64).collect();
        assert_eq!(past, all);

        let other = state.load(2).expect("read");
        assert_eq!((other.stored, other.snapshot), (None, None));
        assert!(other.spooled[0].snapshot && other.past.is_empty());

        let all = state.all().expect("read");
        let (a, b) = (&all[Path::new("a.db")], &all[Path::new("b.db")]);
        // When its files were changed was not noted then.
        assert_eq!((a.stamps, b.stamps), (None, None));
        assert!(a.has_history && b.has_history);
        let upkeep = state.upkeep().expect("read");
        assert_eq!(upkeep.len(), 1);
        assert_eq!(
            (upkeep[0].outdated_since, upkeep[0].retain_at),
            (Some(80), Some(82))
        );
    };
    told(&state);
    drop(state);
    let again = StateDb::open(&dir.path().join("state.db"), 1).expect("opened again");
    told(&again);
}

#[test]
fn what_a_later_version_has_made_is_refused_untouched() {
    let (dir, state) = made_before();
    drop(state);
    let path = dir.path().join("state.db");
    let later = Connection::open(&path).expect("opened");
    later
        .pragma_update(None, "user_version", VERSION + 1)
        .expect("as a later one");
    drop(later);
    let before = std::fs::read(&path).expect("read");
    let refused = StateDb::open(&path, 1).expect_err("refused");
    assert!(refused.to_string().contains("a later version"), "{refused}");
    assert!(std::fs::read(&path).expect("read") == before);
}
