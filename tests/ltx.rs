//! The LTX codec: the worked example byte for byte, round trips, and every damage refused.

use std::collections::BTreeMap;

use litestream_multitenant::format::ltx::{
    CHECKSUM_FLAG, DatabaseChecksum, Decoder, Encoder, Header, LtxError, Trailer, lock_page,
    page_checksum,
};
use proptest::prelude::*;

type Pages = BTreeMap<u32, Vec<u8>>;

/// Written by Litestream 0.5.17 for `insert into t values('hello')` into a database of 512-byte pages.
const EXAMPLE: &str = "\
    4c545831 00000002 00000200 00000004 0000000000000002 0000000000000002 \
    000001a20a010d0c 0000000000000000 0000000000000cb0 0000000000000218 \
    4fb37622 e8c34198 0000000000000000 0000000000000000000000000000000000000000 \
    00000002 0001 00000021 \
    cf0d0000000101f70001f700000200ffd2000200c00000000701021768656c6c6f \
    000000000000 02642b 00 0000000000000004 0000000000000000 d9054134c12e6ea6";

fn example() -> Vec<u8> {
    let digits: Vec<u32> = EXAMPLE.chars().filter_map(|c| c.to_digit(16)).collect();
    let bytes = digits.chunks(2);
    bytes.map(|pair| (pair[0] << 4 | pair[1]) as u8).collect()
}

fn example_header() -> Header {
    Header {
        no_checksum: true,
        page_size: 512,
        commit: 4,
        min_txid: 2,
        max_txid: 2,
        timestamp_ms: 1_795_464_170_764,
        pre_apply_checksum: 0,
        wal_offset: 3248,
        wal_size: 536,
        wal_salt: (0x4fb3_7622, 0xe8c3_4198),
        node_id: 0,
    }
}

fn decode(bytes: &[u8]) -> Result<(Header, Pages, Trailer), LtxError> {
    let mut decoder = Decoder::new(bytes)?;
    let header = *decoder.header();
    let mut page = vec![0; header.page_size as usize];
    let mut pages = Pages::new();
    while let Some(pgno) = decoder.next_page(&mut page)? {
        pages.insert(pgno, page.clone());
    }
    Ok((header, pages, decoder.finish()?))
}

fn encode(header: Header, pages: &Pages, post_apply: u64) -> Result<Vec<u8>, LtxError> {
    let mut encoder = Encoder::new(Vec::new(), header)?;
    for (&pgno, page) in pages {
        encoder.page(pgno, page)?;
    }
    Ok(encoder.finish(post_apply)?.0)
}

fn sum_of(pages: &Pages) -> u64 {
    let mut sum = DatabaseChecksum::EMPTY;
    for (&pgno, page) in pages {
        sum.toggle(page_checksum(pgno, page));
    }
    sum.value()
}

fn snapshot_header(page_size: u32, commit: u32) -> Header {
    Header {
        no_checksum: false,
        page_size,
        commit,
        min_txid: 1,
        max_txid: 9,
        timestamp_ms: 1_000,
        pre_apply_checksum: 0,
        wal_offset: 0,
        wal_size: 0,
        wal_salt: (0, 0),
        node_id: 42,
    }
}

fn segment_header(page_size: u32, commit: u32) -> Header {
    Header {
        min_txid: 10,
        max_txid: 12,
        pre_apply_checksum: CHECKSUM_FLAG | 5,
        wal_offset: 32,
        wal_size: 24 + u64::from(page_size),
        wal_salt: (1, 2),
        ..snapshot_header(page_size, commit)
    }
}

/// A page that compresses partly, and differs from every other.
fn page(page_size: u32, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = vec![0; page_size as usize];
    for byte in bytes.iter_mut().take(page_size as usize / 2) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        *byte = state as u8;
    }
    bytes
}

fn snapshot(page_size: u32, commit: u32) -> (Vec<u8>, Pages) {
    let pages: Pages = (1..=commit)
        .map(|pgno| (pgno, page(page_size, u64::from(pgno))))
        .collect();
    let bytes = encode(snapshot_header(page_size, commit), &pages, sum_of(&pages))
        .expect("a complete snapshot");
    (bytes, pages)
}

#[test]
fn the_worked_example_decodes_exactly() {
    let (header, pages, trailer) = decode(&example()).expect("a file of the official program");
    assert_eq!(header, example_header());
    assert!(!header.is_snapshot());
    assert_eq!(pages.keys().copied().collect::<Vec<_>>(), [2]);
    let page = &pages[&2];
    assert_eq!(page[0], 0x0d, "a leaf of a table");
    assert_eq!(&page[512 - 5..], b"hello");
    assert_eq!(trailer.post_apply_checksum, 0);
    assert_eq!(trailer.file_checksum, 0xd905_4134_c12e_6ea6);
}

#[test]
fn the_worked_example_is_encoded_byte_for_byte_from_its_block() {
    let bytes = example();
    let (_, pages, _) = decode(&bytes).expect("a file of the official program");
    let mut encoder = Encoder::new(Vec::new(), example_header()).expect("header");
    encoder
        .frame(2, &bytes[0x6e..0x8f], &pages[&2])
        .expect("the block is this page's");
    let (written, trailer) = encoder.finish(0).expect("complete");
    assert_eq!(written, bytes);
    assert_eq!(trailer.file_checksum, 0xd905_4134_c12e_6ea6);
}

#[test]
fn a_block_of_another_page_is_not_written() {
    let bytes = example();
    let mut encoder = Encoder::new(Vec::new(), example_header()).expect("header");
    let refused = encoder.frame(2, &bytes[0x6e..0x8f], &[0; 512]);
    assert!(matches!(refused, Err(LtxError::Compression { pgno: 2 })));
}

/// Every prefix of a file is refused, and so is a file with a byte more.
#[test]
fn every_truncation_is_refused() {
    for bytes in [example(), snapshot(512, 3).0] {
        for len in 0..bytes.len() {
            let error = decode(&bytes[..len]).expect_err("a part is no file");
            assert!(matches!(error, LtxError::Truncated), "{len}: {error}");
        }
        let longer = [&bytes[..], &[0]].concat();
        assert!(matches!(decode(&longer), Err(LtxError::TrailingBytes)));
    }
}

/// Only a flip within an LZ4 block that decompresses to the same page is accepted: it changes nothing.
#[test]
fn every_flipped_bit_that_changes_the_content_is_refused() {
    for bytes in [example(), snapshot(512, 3).0, snapshot(4096, 2).0] {
        let sound = decode(&bytes).expect("not damaged yet");
        let mut harmless = 0;
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            if let Ok(content) = decode(&damaged) {
                assert_eq!(content, sound, "bit {bit}");
                harmless += 1;
            }
        }
        assert!(
            harmless < bytes.len() * 8 / 100,
            "{harmless} harmless flips"
        );
    }
}

#[test]
fn sizes_in_a_file_are_not_believed() {
    let mut bytes = example();
    bytes[0x6a..0x6e].copy_from_slice(&u32::MAX.to_be_bytes());
    assert!(matches!(
        decode(&bytes),
        Err(LtxError::Compression { pgno: 2 })
    ));

    // A block that would grow without end: a match of 2^20 bytes in a page of 512.
    let mut bomb = example()[..100].to_vec();
    let block = [&[0x1f, 0, 1, 0][..], &[255; 500], &[0]].concat();
    bomb.extend_from_slice(&[0, 0, 0, 2, 0, 1]);
    bomb.extend_from_slice(&(block.len() as u32).to_be_bytes());
    bomb.extend_from_slice(&block);
    assert!(matches!(
        decode(&bomb),
        Err(LtxError::Compression { pgno: 2 })
    ));
}

#[test]
fn the_legacy_frame_form_is_refused_by_name() {
    let mut bytes = example();
    bytes[0x69] = 0;
    let error = decode(&bytes).expect_err("no size");
    assert!(error.to_string().contains("legacy"), "{error}");
    bytes[0x69] = 3;
    assert!(matches!(
        decode(&bytes),
        Err(LtxError::FrameFlags { pgno: 2, flags: 3 })
    ));
}

#[test]
fn the_encoder_refuses_what_no_reader_would_take() {
    let zeros = vec![0; 512];
    let start = |header| Encoder::new(Vec::new(), header).expect("header");

    let mut segment = start(segment_header(512, 5));
    segment.page(3, &zeros).expect("in range");
    for pgno in [3, 2, 0, 6] {
        let refused = segment.page(pgno, &zeros);
        assert!(
            matches!(refused, Err(LtxError::PageNumber { .. })),
            "{pgno}"
        );
    }
    let short = segment.page(4, &zeros[..511]);
    assert!(matches!(
        short,
        Err(LtxError::PageLength { given: 511, .. })
    ));
    assert!(matches!(segment.finish(0), Err(LtxError::PostApply { .. })));

    let mut incomplete = start(snapshot_header(512, 3));
    let skipped = incomplete.page(2, &zeros);
    assert!(matches!(
        skipped,
        Err(LtxError::IncompleteSnapshot { pgno: 1 })
    ));
    incomplete.page(1, &zeros).expect("the first");
    let ended = incomplete.finish(CHECKSUM_FLAG);
    assert!(matches!(
        ended,
        Err(LtxError::IncompleteSnapshot { pgno: 2 })
    ));

    let mut wrong_sum = start(snapshot_header(512, 1));
    wrong_sum.page(1, &zeros).expect("the only page");
    let ended = wrong_sum.finish(CHECKSUM_FLAG | 1);
    assert!(matches!(ended, Err(LtxError::DatabaseChecksum { .. })));

    let header = Header {
        page_size: 1000,
        ..segment_header(512, 1)
    };
    assert!(matches!(
        Encoder::new(Vec::new(), header),
        Err(LtxError::HeaderField {
            field: "page size",
            ..
        })
    ));
}

#[test]
fn the_lock_page_is_never_stored() {
    assert_eq!(lock_page(4096), 262_145);
    assert_eq!(lock_page(65536), 16_385);
    assert_eq!(lock_page(512), 2_097_153);

    let lock = lock_page(65536);
    let zeros = vec![0; 65536];
    let mut encoder = Encoder::new(Vec::new(), segment_header(65536, lock + 1)).expect("header");
    let refused = encoder.page(lock, &zeros);
    assert!(matches!(refused, Err(LtxError::PageNumber { .. })));
}

#[test]
fn an_empty_database_is_a_file_without_pages() {
    for header in [snapshot_header(4096, 0), segment_header(4096, 0)] {
        let bytes = encode(header, &Pages::new(), CHECKSUM_FLAG).expect("no pages");
        let (read, pages, trailer) = decode(&bytes).expect("sound");
        assert_eq!((read, pages.len()), (header, 0));
        assert_eq!(trailer.post_apply_checksum, CHECKSUM_FLAG);
        assert!(matches!(
            encode(header, &Pages::new(), CHECKSUM_FLAG | 1),
            Err(LtxError::PostApply { .. })
        ));
    }
}

#[test]
fn pages_left_unread_are_no_success() {
    let (bytes, _) = snapshot(512, 2);
    let mut decoder = Decoder::new(bytes.as_slice()).expect("header");
    decoder.next_page(&mut [0; 512]).expect("the first");
    assert!(matches!(decoder.finish(), Err(LtxError::PagesLeft)));
}

fn any_page(page_size: u32) -> impl Strategy<Value = Vec<u8>> {
    let len = page_size as usize;
    prop_oneof![
        any::<u8>().prop_map(move |byte| vec![byte; len]),
        any::<u64>().prop_map(move |seed| page(page_size, seed)),
        proptest::collection::vec(any::<u8>(), len..=len),
    ]
}

fn any_segment() -> impl Strategy<Value = (Header, Pages, u64)> {
    (9_u32..=16, 1_u32..2_000_000).prop_flat_map(|(shift, commit)| {
        let page_size = 1 << shift;
        let pgno = (1..=commit).prop_filter("not the lock page", move |&pgno| {
            pgno != lock_page(page_size)
        });
        let pages = proptest::collection::btree_map(pgno, any_page(page_size), 0..6);
        let txids = (2_u64..1 << 62, 0_u64..1000);
        (pages, txids, any::<i64>(), any::<[u64; 3]>()).prop_map(
            move |(pages, (min_txid, more), timestamp_ms, [pre, post, node_id])| {
                let header = Header {
                    min_txid,
                    max_txid: min_txid + more,
                    timestamp_ms,
                    pre_apply_checksum: CHECKSUM_FLAG | pre,
                    node_id,
                    ..segment_header(page_size, commit)
                };
                (header, pages, CHECKSUM_FLAG | post)
            },
        )
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn segments_read_back((header, pages, post_apply) in any_segment()) {
        let bytes = encode(header, &pages, post_apply).expect("valid");
        let (read, read_pages, trailer) = decode(&bytes).expect("sound");
        prop_assert_eq!(read, header);
        prop_assert_eq!(read_pages, pages);
        prop_assert_eq!(trailer.post_apply_checksum, post_apply);
    }

    #[test]
    fn snapshots_read_back(shift in 9_u32..=16, commit in 0_u32..20) {
        let (bytes, pages) = snapshot(1 << shift, commit);
        let (header, read_pages, trailer) = decode(&bytes).expect("sound");
        prop_assert_eq!(header, snapshot_header(1 << shift, commit));
        prop_assert_eq!(trailer.post_apply_checksum, sum_of(&pages));
        prop_assert_eq!(read_pages, pages);
    }

    /// No bytes make the decoder panic, and none that no encoder wrote are accepted.
    #[test]
    fn noise_after_a_header_is_refused(noise in proptest::collection::vec(any::<u8>(), 0..600)) {
        let bytes = [&segment_header(512, 1 << 20).encode()[..], &noise].concat();
        prop_assert!(decode(&bytes).is_err());
    }
}
