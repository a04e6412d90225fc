//! How fast the scanner follows a log, and how fast segments are encoded and decoded, in bytes of pages a second.

use std::hint::black_box;
use std::path::Path;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use litestream_multitenant::format::ltx::{CHECKSUM_FLAG, Decoder, Encoder, Header};
use litestream_multitenant::format::scanner::Scanner;
use litestream_multitenant::format::wal::{HEADER_SIZE, WalHeader};
use rusqlite::{Connection, params};

const PAGE_SIZE: usize = 4096;
/// Customers, of whom about 30 fit a page.
const ROWS: usize = 60_000;
/// Rows of one transaction.
const BATCH: usize = 100;

/// A log that SQLite wrote, and the database that it makes.
struct Written {
    log: Vec<u8>,
    database: Vec<u8>,
}

/// An application's rows: names, times, a few numbers and a note; in transactions of some pages each.
fn written_by_sqlite() -> Written {
    let directory = tempfile::tempdir().expect("a scratch directory");
    let path = directory.path().join("bench.db");
    let mut connection = Connection::open(&path).expect("a database");
    connection
        .execute_batch(
            "PRAGMA page_size = 4096; PRAGMA journal_mode = wal; PRAGMA wal_autocheckpoint = 0;
             CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT, mail TEXT, since TEXT, visits INTEGER, note TEXT);
             CREATE INDEX by_mail ON customers (mail);",
        )
        .expect("valid SQL");
    for batch in 0..ROWS / BATCH {
        let transaction = connection.transaction().expect("begun");
        for row in batch * BATCH..(batch + 1) * BATCH {
            insert(&transaction, row);
        }
        transaction.commit().expect("committed");
    }
    let log = read(&directory.path().join("bench.db-wal"));
    connection.close().expect("closed, and so checkpointed");
    let database = read(&path);
    Written { log, database }
}

fn insert(connection: &Connection, row: usize) {
    let mixed = row.wrapping_mul(2_654_435_761) % 1_000_003;
    let mut insert = connection
        .prepare_cached("INSERT INTO customers VALUES (?, ?, ?, ?, ?, ?)")
        .expect("valid SQL");
    insert
        .execute(params![
            row as i64,
            format!("Customer {mixed}"),
            format!("customer.{mixed}@example.org"),
            format!(
                "2026-{:02}-{:02}T12:{:02}:00Z",
                mixed % 12 + 1,
                mixed % 28 + 1,
                mixed % 60
            ),
            mixed as i64,
            "Prefers to be called in the morning",
        ])
        .expect("inserted");
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).expect("a file")
}

/// As many bytes that nothing can compress (xorshift64).
fn incompressible(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

fn scan(log: &[u8]) -> usize {
    let header = WalHeader::decode(log).expect("SQLite's header");
    let mut scanner = Scanner::new(header, header.start());
    let mut transactions = Vec::new();
    assert!(scanner.feed(&log[HEADER_SIZE as usize..], &mut transactions));
    transactions.len()
}

fn encode(pages: &[u8], to: Vec<u8>) -> Vec<u8> {
    let header = Header {
        no_checksum: false,
        page_size: PAGE_SIZE as u32,
        commit: (pages.len() / PAGE_SIZE) as u32,
        min_txid: 2,
        max_txid: 2,
        timestamp_ms: 0,
        pre_apply_checksum: CHECKSUM_FLAG | 1,
        wal_offset: 0,
        wal_size: 0,
        wal_salt: (0, 0),
        node_id: 1,
    };
    let mut encoder = Encoder::new(to, header).expect("a header");
    for (pgno, page) in (1..).zip(pages.chunks_exact(PAGE_SIZE)) {
        encoder.page(pgno, page).expect("in order");
    }
    encoder.finish(CHECKSUM_FLAG | 2).expect("complete").0
}

fn decode(file: &[u8]) -> u32 {
    let mut decoder = Decoder::new(file).expect("our header");
    let mut page = [0; PAGE_SIZE];
    let mut last = 0;
    while let Some(pgno) = decoder.next_page(&mut page).expect("our page") {
        last = pgno;
        black_box(&page);
    }
    decoder.finish().expect("our trailer");
    last
}

fn codec(criterion: &mut Criterion) {
    let written = written_by_sqlite();
    let mut group = criterion.benchmark_group("scanner");
    group.throughput(Throughput::BytesDecimal(written.log.len() as u64));
    assert!(scan(&written.log) >= ROWS / BATCH);
    group.bench_function("log of SQLite", |bencher| {
        bencher.iter(|| scan(black_box(&written.log)));
    });
    group.finish();

    let random = incompressible(written.database.len());
    for (name, pages) in [
        ("database of SQLite", written.database),
        ("incompressible", random),
    ] {
        let mut group = criterion.benchmark_group("segment");
        group.throughput(Throughput::BytesDecimal(pages.len() as u64));
        let file = encode(&pages, Vec::new());
        assert_eq!(decode(&file) as usize, pages.len() / PAGE_SIZE);
        println!("{name}: {} bytes become {}", pages.len(), file.len());
        group.bench_function(format!("encode, {name}"), |bencher| {
            let room = || Vec::with_capacity(file.len());
            bencher.iter_batched(
                room,
                |to| encode(black_box(&pages), to),
                BatchSize::LargeInput,
            );
        });
        group.bench_function(format!("decode, {name}"), |bencher| {
            bencher.iter(|| decode(black_box(&file)));
        });
        group.finish();
    }
}

criterion_group!(benches, codec);
criterion_main!(benches);
