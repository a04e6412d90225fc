//! Logs that no SQLite of this machine would begin, made of ones that it has.

use litestream_multitenant::format::scanner::Scanner;
use litestream_multitenant::format::wal::{WalHeader, checksum};

/// A log with each page changed by `page`, and with checksums of this byte order.
pub fn rewritten(wal: &[u8], big_endian: bool, page: impl Fn(&mut [u8])) -> Vec<u8> {
    const MAGIC: u32 = 0x377f_0682;
    let header = WalHeader::decode(wal).expect("a valid log");
    let mut out = wal.to_vec();
    let put = |out: &mut [u8], at: usize, (first, second): (u32, u32)| {
        out[at..at + 4].copy_from_slice(&first.to_be_bytes());
        out[at + 4..at + 8].copy_from_slice(&second.to_be_bytes());
    };
    out[..4].copy_from_slice(&(MAGIC | u32::from(big_endian)).to_be_bytes());
    let mut sum = checksum(big_endian, (0, 0), &out[..24]);
    put(&mut out, 24, sum);
    let mut transactions = Vec::new();
    Scanner::new(header, header.start()).feed(&wal[32..], &mut transactions);
    let end = transactions.last().map_or(32, |last| last.end.offset) as usize;
    for frame in out[32..end].chunks_mut(header.page_size as usize + 24) {
        page(&mut frame[24..]);
        sum = checksum(big_endian, sum, &frame[..8]);
        sum = checksum(big_endian, sum, &frame[24..]);
        put(frame, 16, sum);
    }
    out
}
