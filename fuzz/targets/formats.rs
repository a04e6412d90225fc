//! Binary formats: SQLite's log, wal-index, database and journal headers, and LTX. What a checksum would keep the fuzzer
//! from is tried a second time with checksums that are right.

use litestream_multitenant::capture::StoredSegment;
use litestream_multitenant::format::ltx::{Decoder, Encoder, Header, LtxError, Trailer};
use litestream_multitenant::format::scanner::{Scanner, Transaction};
use litestream_multitenant::format::sqlite::{DatabaseHeader, journal_is_hot};
use litestream_multitenant::format::structure::{Check, Structure};
use litestream_multitenant::format::wal::{
    FRAME_HEADER_SIZE, FrameHeader, HEADER_SIZE, Position, WalHeader, checksum,
};
use litestream_multitenant::format::wal_index::{INDEX_HEADERS_SIZE, WalIndex};

/// Bytes of a log's or a frame's header that its checksum covers or follows.
const WAL_SUM_AT: usize = 24;
const FRAME_SUM_AT: usize = 16;
const INDEX_SUM_AT: usize = 40;
/// Pages of one object that are looked at; the fuzzer's inputs are small, and LZ4 makes them large.
const MAX_PAGES: usize = 4096;

pub fn wal(data: &[u8]) {
    check_log(data);
    let mut sealed = data.to_vec();
    if seal_log(&mut sealed) {
        check_log(&sealed);
    }
}

/// However the log comes in, the same transactions are found, within its bytes, one behind the other.
fn check_log(log: &[u8]) {
    let Ok(header) = WalHeader::decode(log) else {
        return;
    };
    let frame = header.frame_size() as usize;
    let (whole, end) = scan(header, log, usize::MAX);
    let (pieces, same_end) = scan(header, log, frame);
    assert_eq!((&whole, end), (&pieces, same_end), "fed frame by frame");
    let frames = log[HEADER_SIZE as usize..].chunks_exact(frame);
    let marks = frames.filter(|frame| FrameHeader::decode(frame).commit != 0);
    assert!(whole.len() <= marks.count(), "a commit without its mark");
    let mut before = header.start().offset;
    for transaction in &whole {
        assert_ne!(transaction.commit, 0);
        assert!(transaction.end.offset > before && transaction.end.offset <= log.len() as u64);
        for page in &transaction.pages {
            assert_ne!(page.pgno, 0);
            let is_within = page.offset >= before + FRAME_HEADER_SIZE
                && page.offset + u64::from(header.page_size) <= transaction.end.offset;
            assert!(is_within, "a page outside of its transaction");
        }
        before = transaction.end.offset;
    }
    assert_eq!(end.offset, before);
}

fn scan(header: WalHeader, log: &[u8], piece: usize) -> (Vec<Transaction>, Position) {
    let mut scanner = Scanner::new(header, header.start());
    let mut found = Vec::new();
    loop {
        let rest = &log[scanner.offset() as usize..];
        let piece = &rest[..rest.len().min(piece)];
        let is_whole = piece.len() as u64 >= header.frame_size();
        if !is_whole || !scanner.feed(piece, &mut found) {
            return (found, scanner.committed());
        }
    }
}

/// Makes the log's checksums and salts right, as far as it has whole frames. False where it can be no log.
fn seal_log(log: &mut [u8]) -> bool {
    let Some((head, frames)) = log.split_at_mut_checked(HEADER_SIZE as usize) else {
        return false;
    };
    let big_endian = head[3] & 1 == 1;
    let mut sum = checksum(big_endian, (0, 0), &head[..WAL_SUM_AT]);
    put_pair(&mut head[WAL_SUM_AT..], sum);
    let Ok(header) = WalHeader::decode(head) else {
        return false;
    };
    for frame in frames.chunks_exact_mut(header.frame_size() as usize) {
        let (start, page) = frame.split_at_mut(FRAME_HEADER_SIZE as usize);
        sum = checksum(big_endian, checksum(big_endian, sum, &start[..8]), page);
        put_pair(&mut start[8..], header.salt);
        put_pair(&mut start[FRAME_SUM_AT..], sum);
    }
    true
}

fn put_pair(to: &mut [u8], (first, second): (u32, u32)) {
    to[..4].copy_from_slice(&first.to_be_bytes());
    to[4..8].copy_from_slice(&second.to_be_bytes());
}

pub fn wal_index(data: &[u8]) {
    let mut bytes = [0; INDEX_HEADERS_SIZE];
    let len = data.len().min(bytes.len());
    bytes[..len].copy_from_slice(&data[..len]);
    check_index(&bytes);
    let (copy, second) = bytes.split_at_mut(INDEX_HEADERS_SIZE / 2);
    let sum = checksum(cfg!(target_endian = "big"), (0, 0), &copy[..INDEX_SUM_AT]);
    copy[INDEX_SUM_AT..INDEX_SUM_AT + 4].copy_from_slice(&sum.0.to_ne_bytes());
    copy[INDEX_SUM_AT + 4..].copy_from_slice(&sum.1.to_ne_bytes());
    second.copy_from_slice(copy);
    let is_initialised = copy[12] != 0;
    assert_eq!(check_index(&bytes), is_initialised, "two equal copies");
}

/// Whether the bytes are an index, which then is one only as long as both its copies are equal.
fn check_index(bytes: &[u8; INDEX_HEADERS_SIZE]) -> bool {
    let Some(index) = WalIndex::decode(bytes) else {
        return false;
    };
    assert!(index.page_size <= 0xfe00 + 65536);
    let mut torn = *bytes;
    torn[INDEX_HEADERS_SIZE / 2] ^= 1;
    assert_eq!(WalIndex::decode(&torn), None);
    true
}

pub fn sqlite(data: &[u8]) {
    if let Some(header) = DatabaseHeader::decode(data) {
        assert!(header.page_size.is_power_of_two() && (512..=65536).contains(&header.page_size));
        assert_ne!(header.pages, Some(0));
        assert!(!journal_is_hot(data), "both a database and a journal");
    }
}

/// Bytes of a page of an image, whatever its header says where that is no page size.
const PAGE_SIZES: [u32; 3] = [512, 1024, 4096];

/// An image is checked whatever is in it, and one that is cut off is never sound by its own header.
pub fn structure(data: &[u8]) {
    let said = DatabaseHeader::decode(data);
    let sizes = PAGE_SIZES
        .into_iter()
        .chain(said.map(|header| header.page_size));
    for page_size in sizes {
        let pages = data.chunks_exact(page_size as usize);
        let count = u32::try_from(pages.len()).expect("a small input");
        let mut check = Check::new(page_size, count);
        for (page, number) in pages.zip(1..) {
            check.page(number, page);
        }
        let is_short = said
            .and_then(|header| header.pages)
            .is_some_and(|pages| pages > count);
        match check.finish() {
            Ok(Structure::Sound) => assert!(count == 0 || !is_short, "pages are missing"),
            Ok(Structure::Encrypted) => assert!(count > 0),
            Err(flaw) => assert!(!flaw.to_string().contains('\n'), "one line"),
        }
    }
}

type Pages = Vec<(u32, Vec<u8>)>;

/// What can be read can be written again, and both readers of segments agree. Checksums that are wrong are put right, so
/// that what lies behind them is reached.
pub fn ltx(data: &[u8]) {
    let mut bytes = data.to_vec();
    loop {
        match decode(&bytes) {
            Ok((header, pages, trailer)) => return check_object(&bytes, header, &pages, trailer),
            Err(LtxError::FileChecksum { computed, stored }) if computed != stored => {
                let at = bytes.len() - 8;
                bytes[at..].copy_from_slice(&computed.to_be_bytes());
            }
            Err(LtxError::DatabaseChecksum { computed, .. }) => {
                let at = bytes.len() - Trailer::SIZE;
                bytes[at..at + 8].copy_from_slice(&computed.to_be_bytes());
            }
            Err(error) => {
                assert!(!error.is_io(), "reading from memory: {error}");
                assert!(!error.to_string().contains('\n'), "one line");
                return;
            }
        }
    }
}

fn decode(bytes: &[u8]) -> Result<(Header, Pages, Trailer), LtxError> {
    let mut decoder = Decoder::new(bytes)?;
    let header = *decoder.header();
    let mut page = vec![0; header.page_size as usize];
    let mut pages = Pages::new();
    while let Some(pgno) = decoder.next_page(&mut page)? {
        assert!(pgno <= header.commit);
        pages.push((pgno, page.clone()));
        if pages.len() > MAX_PAGES {
            return Err(LtxError::PagesLeft);
        }
    }
    Ok((header, pages, decoder.finish()?))
}

fn check_object(bytes: &[u8], header: Header, pages: &Pages, trailer: Trailer) {
    let stored = StoredSegment::decode(bytes);
    assert_eq!(
        stored.is_ok(),
        !header.no_checksum,
        "the readers do not agree"
    );
    let mut encoder = Encoder::new(Vec::new(), header).expect("a header that was read");
    for (pgno, page) in pages {
        encoder.page(*pgno, page).expect("pages that were read");
    }
    let written = encoder.finish(trailer.post_apply_checksum);
    let (again, _) = written.expect("an object that was read");
    let (same, same_pages, same_trailer) = decode(&again).expect("what was written");
    assert_eq!(
        (header, trailer.post_apply_checksum),
        (same, same_trailer.post_apply_checksum)
    );
    assert!(pages == &same_pages, "other pages were written");
}
