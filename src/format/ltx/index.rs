//! The page index: which page's frame lies where in the file.

use super::{Header, LtxError};

/// The frames seen so far, in file order. They follow each other, so their lengths give their offsets:
/// about three bytes a page are kept.
#[derive(Default)]
pub(super) struct PageIndex {
    /// For each frame two varints: page number minus the one before, length.
    deltas: Vec<u8>,
    last_pgno: u32,
}

impl PageIndex {
    /// Notes a frame of `len` bytes. `pgno` is above that of all frames before.
    pub fn push(&mut self, pgno: u32, len: u64) {
        let step = pgno - self.last_pgno;
        push_varint(&mut self.deltas, u64::from(step));
        push_varint(&mut self.deltas, len);
        self.last_pgno = pgno;
    }

    /// Gives the index's bytes piece by piece, its final length field included.
    pub fn write(
        &self,
        mut sink: impl FnMut(&[u8]) -> Result<(), LtxError>,
    ) -> Result<(), LtxError> {
        let mut size = 0;
        let mut pgno = 0;
        let mut offset = Header::SIZE as u64;
        let mut deltas = self.deltas.as_slice();
        let mut entry = Vec::with_capacity(LONGEST_INDEX_ENTRY);
        while !deltas.is_empty() {
            pgno += take_varint(&mut deltas);
            let len = take_varint(&mut deltas);
            entry.clear();
            push_varint(&mut entry, pgno);
            push_varint(&mut entry, offset);
            push_varint(&mut entry, len);
            sink(&entry)?;
            size += entry.len() as u64;
            offset += len;
        }
        sink(&[0])?;
        sink(&(size + 1).to_be_bytes())
    }
}

const MAX_VARINT: usize = 10;
/// Bytes of a page's entry, at most.
pub(super) const LONGEST_INDEX_ENTRY: usize = 3 * MAX_VARINT;
/// Bytes behind the last entry.
pub(super) const INDEX_END_SIZE: usize = 9;

/// Appends `value` as an unsigned LEB128 varint.
fn push_varint(to: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        to.push(value as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}

/// Reads a varint that `push_varint` wrote.
fn take_varint(from: &mut &[u8]) -> u64 {
    let mut value = 0;
    let mut shift = 0;
    while let Some((&byte, rest)) = from.split_first() {
        *from = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            break;
        }
        shift += 7;
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_read_back() {
        for value in [0, 1, 0x7f, 0x80, 300, u64::from(u32::MAX), u64::MAX] {
            let mut bytes = Vec::new();
            push_varint(&mut bytes, value);
            assert!(bytes.len() <= MAX_VARINT);
            let mut rest = bytes.as_slice();
            assert_eq!(take_varint(&mut rest), value);
            assert!(rest.is_empty());
        }
    }

    #[test]
    fn offsets_follow_from_lengths() {
        let mut index = PageIndex::default();
        index.push(2, 43);
        index.push(300, 10);
        let mut bytes = Vec::new();
        index
            .write(|piece| {
                bytes.extend_from_slice(piece);
                Ok(())
            })
            .expect("a Vec takes all");
        let expected = [
            &[2, 100, 43][..],
            &[0xac, 0x02, 0x8f, 0x01, 10],
            &[0],
            &9_u64.to_be_bytes(),
        ];
        assert_eq!(bytes, expected.concat());
    }
}
