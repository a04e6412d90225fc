//! The rows of the schema, as far as they say where tables and indexes begin.

use super::page::{Layout, varint};

/// What a row of the schema says.
#[derive(PartialEq, Eq, Debug)]
enum Row {
    /// The root of a table or index; beyond every page where it can't be one.
    Root(u32),
    /// It has none, or that lies on another page.
    Unknown,
}

/// The roots that the rows of a table's leaf name, if they can be rows of the schema.
pub(super) fn roots<'a>(
    layout: &'a Layout,
    number: u32,
    bytes: &'a [u8],
    cells: usize,
) -> impl Iterator<Item = u32> {
    let first = layout.rows(number, bytes, cells).next();
    let is_schema = first.and_then(row).is_some();
    let rows = layout.rows(number, bytes, if is_schema { cells } else { 0 });
    rows.filter_map(row).filter_map(|row| match row {
        Row::Root(root) => Some(root),
        Row::Unknown => None,
    })
}

/// Reads a record as one of type, name, table name, root and statement; none where it can't be one.
fn row(payload: &[u8]) -> Option<Row> {
    let mut at = 0;
    let header = varint(payload, &mut at)?;
    let mut types = [0; 5];
    for one in &mut types {
        *one = varint(payload, &mut at)?;
    }
    if header != at as u64 || types[..3].iter().any(|one| *one < 13 || one % 2 == 0) {
        return None;
    }
    let lengths = types.map(length);
    let kind = payload.get(at..at.checked_add(lengths[0])?)?;
    // In UTF-16 every other byte is zero.
    let kind = kind.iter().copied().filter(|byte| *byte != 0);
    let kind: Vec<u8> = kind.take(8).collect();
    match kind.as_slice() {
        b"table" | b"index" => {}
        b"view" | b"trigger" => return Some(Row::Unknown),
        _ => return None,
    }
    let start = lengths[..3]
        .iter()
        .try_fold(at, |at, length| at.checked_add(*length));
    let value = match types[3] {
        0 | 8 => return Some(Row::Unknown),
        9 => 1,
        1..=6 => {
            let bytes = start.and_then(|start| payload.get(start..start + lengths[3]));
            let Some(bytes) = bytes else {
                return Some(Row::Unknown);
            };
            let negative = bytes[0] >= 0x80;
            let begin = if negative { -1 } else { 0 };
            bytes
                .iter()
                .fold(begin, |value: i64, byte| value << 8 | i64::from(*byte))
        }
        _ => return Some(Row::Unknown),
    };
    Some(match value {
        0 => Row::Unknown,
        value => Row::Root(u32::try_from(value).unwrap_or(u32::MAX)),
    })
}

/// Bytes of a value of the serial type.
fn length(serial_type: u64) -> usize {
    let length = match serial_type {
        0 | 8..=11 => 0,
        1..=4 => serial_type,
        5 => 6,
        6 | 7 => 8,
        _ => (serial_type - 12) / 2,
    };
    usize::try_from(length).unwrap_or(usize::MAX)
}
