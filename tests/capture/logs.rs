//! Logs as the scanner has to read them: cut at any byte, in the other byte order, with encrypted pages.

use litestream_multitenant::format::scanner::Scanner;
use litestream_multitenant::format::wal::WalHeader;
use litestream_multitenant::restore::At;
use rusqlite::Connection;

use super::bench::{Bench, Random, recovered, rounds};
use super::model::{prepare, step};
use super::wal::rewritten;

/// The pages of a database after the committed transactions that a log shows, cut at any byte, were put in.
fn replayed(database: &[u8], wal: &[u8]) -> Vec<u8> {
    let mut pages = database.to_vec();
    let Ok(header) = WalHeader::decode(wal) else {
        return pages;
    };
    let mut transactions = Vec::new();
    Scanner::new(header, header.start()).feed(&wal[32..], &mut transactions);
    let size = header.page_size as usize;
    for transaction in transactions {
        for page in transaction.pages {
            let to = (page.pgno as usize - 1) * size;
            if pages.len() < to + size {
                pages.resize(to + size, 0);
            }
            let from = page.offset as usize;
            pages[to..to + size].copy_from_slice(&wal[from..from + size]);
        }
        pages.resize(transaction.commit as usize * size, 0);
    }
    pages
}

#[test]
fn sqlite_15_a_log_that_is_cut_anywhere_shows_what_recovery_finds() {
    for seed in 1..=rounds(8) {
        let mut random = Random::of(seed);
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("source.db");
        let page_size = random.pick(&[512, 1024, 2048, 4096, 16384, 32768, 65536]);
        let auto_vacuum = random.below(3);
        let connection = Connection::open(&path).expect("open");
        prepare(&connection, page_size, auto_vacuum);
        for _ in 0..12 {
            let operation = random.below(100);
            step(operation, &mut random, &connection, page_size);
        }
        let database = std::fs::read(&path).expect("read");
        let wal = std::fs::read(dir.path().join("source.db-wal")).expect("read");
        let frame = page_size as usize + 24;
        // Ends of frames and their neighbours, where it matters, and any other bytes.
        let mut cuts: Vec<usize> = (0..12)
            .map(|_| random.below(wal.len() as u64 + 1) as usize)
            .collect();
        for _ in 0..8 {
            let whole = 32 + random.below((wal.len() / frame) as u64 + 1) as usize * frame;
            cuts.extend([whole.saturating_sub(1), whole, whole + 1]);
        }
        for cut in cuts.into_iter().map(|cut| cut.min(wal.len())) {
            let shown = recovered(dir.path(), &database, &wal[..cut]);
            assert!(
                replayed(&database, &wal[..cut]) == shown,
                "seed {seed}, page size {page_size}, cut at {cut} of {}",
                wal.len()
            );
        }
    }
}

/// A machine of the other byte order may have left the log.
#[test]
fn sqlite_10_a_log_of_the_other_byte_order_shows_what_recovery_finds() {
    for seed in 1..=rounds(4) {
        let mut random = Random::of(seed);
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("source.db");
        let connection = Connection::open(&path).expect("open");
        prepare(&connection, 1024, 0);
        for _ in 0..8 {
            // Writes alone, so that the log is long.
            let operation = random.below(60);
            step(operation, &mut random, &connection, 1024);
        }
        let database = std::fs::read(&path).expect("read");
        let wal = std::fs::read(dir.path().join("source.db-wal")).expect("read");
        let wal = rewritten(&wal, cfg!(target_endian = "little"), |_| {});
        for _ in 0..8 {
            let cut = random.below(wal.len() as u64 + 1) as usize;
            let shown = recovered(dir.path(), &database, &wal[..cut]);
            assert!(
                replayed(&database, &wal[..cut]) == shown,
                "seed {seed}, cut at {cut}"
            );
        }
        let shown = recovered(dir.path(), &database, &wal);
        assert!(
            replayed(&database, &wal) == shown && shown != database,
            "seed {seed}"
        );
    }
}

/// What encrypts pages before they get into the log leaves frame headers and checksums plain.
#[test]
fn sqlite_13_encrypted_pages_are_captured_without_their_key() {
    let encrypt = |bytes: &mut [u8]| bytes.iter_mut().for_each(|byte| *byte ^= 0x5a);
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("source.db");
    let connection = Connection::open(&path).expect("open");
    prepare(&connection, 2048, 0);
    let bench = Bench::new(true, 16 << 20);
    let mut random = Random::of(7);
    let mut txid = 0;
    for round in 0..6 {
        let committed = step(random.below(60), &mut random, &connection, 2048);
        let mut database = std::fs::read(&path).expect("read");
        let wal = std::fs::read(dir.path().join("source.db-wal")).expect("read");
        let mut shown = recovered(dir.path(), &database, &wal);
        encrypt(&mut database);
        encrypt(&mut shown);
        assert!(!shown.starts_with(b"SQLite format"));
        std::fs::write(bench.path(""), database).expect("written");
        std::fs::write(bench.path("-wal"), rewritten(&wal, false, encrypt)).expect("written");
        let now = bench.look();
        let expected = if round == 0 {
            1
        } else {
            txid + u64::from(committed)
        };
        assert_eq!(now, expected, "round {round}");
        txid = now;
        assert!(bench.restored(At::Newest) == shown, "round {round}");
    }
    assert!(txid > 3, "only {txid} transactions");
}
