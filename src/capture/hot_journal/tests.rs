//! What the capture reads of a hot journal is what SQLite rolls back.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use crate::format::journal::Journal;
use crate::format::ltx::lock_page;
use crate::format::sqlite::{DatabaseHeader, HEADER_SIZE, JOURNAL_MAGIC};

fn journal_of(database: &Path) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push("-journal");
    name.into()
}

fn read_from(bytes: &[u8]) -> impl FnMut(&mut [u8], u64) -> io::Result<usize> + '_ {
    |buffer, at| {
        let from = bytes.len().min(at as usize);
        let length = buffer.len().min(bytes.len() - from);
        buffer[..length].copy_from_slice(&bytes[from..from + length]);
        Ok(length)
    }
}

/// The database as it was, by our own reading.
fn rolled_back(database: &[u8], journal: &[u8]) -> Vec<u8> {
    let page_size = DatabaseHeader::decode(&database[..HEADER_SIZE]).map_or(0, |h| h.page_size);
    let decoded = Journal::decode(journal.len() as u64, page_size, &mut read_from(journal));
    let Some(decoded) = decoded.expect("read") else {
        return database.to_vec();
    };
    let size = decoded.page_size() as usize;
    let mut image = database.to_vec();
    image.resize(decoded.pages() as usize * size, 0);
    let mut each = |pgno: u32, page: &[u8]| {
        image[(pgno as usize - 1) * size..][..size].copy_from_slice(page);
        Ok(())
    };
    decoded
        .each_page(&mut read_from(journal), &mut each)
        .expect("read");
    image
}

/// The same by SQLite, of a copy.
fn recovered(folder: &Path, database: &[u8], journal: &[u8]) -> Vec<u8> {
    let copy = folder.join("copy.db");
    let _ = fs::remove_file(journal_of(&copy));
    fs::write(&copy, database).expect("written");
    fs::write(journal_of(&copy), journal).expect("written");
    let connection = Connection::open(&copy).expect("opened");
    let count = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()));
    count.expect("read");
    drop(connection);
    fs::read(&copy).expect("read")
}

/// Copies of file and journal in the middle of transactions, as a death leaves them: in each mode that has a journal, of
/// small and large pages, synced and not, once and several times, with growth and with a shrink.
#[test]
fn what_a_death_leaves_is_rolled_back_as_sqlite_does() {
    let scratch = tempfile::tempdir().expect("a folder");
    let mut hot = 0;
    for (n, (mode, page_size, synchronous)) in [
        ("DELETE", 512, "FULL"),
        ("TRUNCATE", 1024, "NORMAL"),
        ("PERSIST", 4096, "OFF"),
        ("PERSIST", 4096, "FULL"),
        ("DELETE", 65536, "EXTRA"),
    ]
    .into_iter()
    .enumerate()
    {
        let path = scratch.path().join(format!("{n}.db"));
        let connection = Connection::open(&path).expect("opened");
        let run = |sql: &str| connection.execute_batch(sql).expect(sql);
        run(&format!(
            "PRAGMA page_size={page_size}; PRAGMA auto_vacuum=INCREMENTAL; PRAGMA journal_mode={mode};
             PRAGMA synchronous={synchronous}; PRAGMA cache_size=4; PRAGMA cache_spill=4;
             CREATE TABLE t(id INTEGER PRIMARY KEY, x BLOB);
             WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM n WHERE i < 800)
             INSERT INTO t SELECT i, randomblob(300) FROM n;"
        ));
        let check = |hot: &mut u32| {
            let database = fs::read(&path).expect("read");
            let journal = fs::read(journal_of(&path)).unwrap_or_default();
            let ours = rolled_back(&database, &journal);
            assert!(
                ours == recovered(scratch.path(), &database, &journal),
                "{mode} {page_size} {synchronous}"
            );
            *hot += u32::from(ours != database);
        };
        check(&mut hot);
        run("BEGIN IMMEDIATE");
        check(&mut hot);
        for change in [
            "UPDATE t SET x = randomblob(300) WHERE id % 3 = 1",
            "INSERT INTO t SELECT id + 10000, randomblob(500) FROM t",
            "DELETE FROM t WHERE id > 200",
            "PRAGMA incremental_vacuum",
            "UPDATE t SET x = randomblob(310)",
        ] {
            run(change);
            check(&mut hot);
        }
        run("ROLLBACK");
        check(&mut hot);
        run("UPDATE t SET x = randomblob(200)");
        check(&mut hot);
        run("BEGIN; UPDATE t SET x = randomblob(300) WHERE id < 100");
        check(&mut hot);
    }
    assert!(hot > 10, "{hot} of them");
}

/// The name is given where SQLite reads one, and it rolls back only while that exists.
#[test]
fn a_super_journal_decides_for_sqlite() {
    let scratch = tempfile::tempdir().expect("a folder");
    let path = scratch.path().join("a.db");
    let connection = Connection::open(&path).expect("opened");
    connection
        .execute_batch(
            "PRAGMA cache_size=4; CREATE TABLE t(x); INSERT INTO t VALUES (randomblob(20000));
             BEGIN; UPDATE t SET x = randomblob(20000)",
        )
        .expect("changed");
    connection.cache_flush().expect("written");
    let database = fs::read(&path).expect("read");
    let mut journal = fs::read(journal_of(&path)).expect("read");
    let super_journal = scratch.path().join("a.db-mj0123AB9CD");
    let name = super_journal.as_os_str().as_bytes();
    let before = rolled_back(&database, &journal);
    assert!(before != database);
    let sum = name.iter().map(|byte| u32::from(*byte)).sum::<u32>();
    journal.extend(lock_page(4096).to_be_bytes());
    journal.extend(name);
    journal.extend((name.len() as u32).to_be_bytes());
    journal.extend(sum.to_be_bytes());
    journal.extend(JOURNAL_MAGIC);
    let decode = |journal: &[u8]| {
        let decoded = Journal::decode(journal.len() as u64, 4096, &mut read_from(journal));
        decoded.expect("read").expect("a journal")
    };
    assert_eq!(decode(&journal).super_journal(), Some(name));
    assert!(rolled_back(&database, &journal) == before);
    // It lists the journals that it is of.
    let copied = journal_of(&scratch.path().join("copy.db"));
    let mut children = copied.as_os_str().as_bytes().to_vec();
    children.push(0);
    fs::write(&super_journal, children).expect("written");
    assert!(recovered(scratch.path(), &database, &journal) == before);
    let _ = fs::remove_file(&super_journal);
    let committed = recovered(scratch.path(), &database, &journal);
    assert!(committed == database, "without it the transaction counts");
    // One whose sum is wrong is none.
    let at = journal.len() - 9;
    journal[at] ^= 1;
    assert_eq!(decode(&journal).super_journal(), None);
}
