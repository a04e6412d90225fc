//! Values in few bytes: small numbers take one, and each is as long as it has to be. For memory only, and never for what is
//! written down. Pure.

use super::authority::Counted;
use super::backing::Stamp;
use super::mark::{Mark, WalMark};
use super::resets::{Emptied, LogEnd};
use super::state::SnapshotNote;
use crate::format::ltx::DatabaseChecksum;
use crate::format::wal::Position;
use crate::store::keys::GenerationId;

/// What can be taken out again as it was put in, in the same order.
pub(super) trait Packed: Sized {
    fn put(&self, into: &mut Vec<u8>);

    /// Takes it from the front.
    fn take(from: &mut &[u8]) -> Self;
}

/// Seven bits a byte, the lowest first; the last byte has its highest bit clear.
impl Packed for u64 {
    fn put(&self, into: &mut Vec<u8>) {
        let mut rest = *self;
        while rest > 0x7f {
            into.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        into.push(rest as u8);
    }

    fn take(from: &mut &[u8]) -> Self {
        let mut number = 0;
        for shift in (0..Self::BITS).step_by(7) {
            let (byte, rest) = from.split_first().expect("BUG: it was put in");
            *from = rest;
            number |= Self::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        number
    }
}

impl Packed for u32 {
    fn put(&self, into: &mut Vec<u8>) {
        u64::from(*self).put(into);
    }

    fn take(from: &mut &[u8]) -> Self {
        u64::take(from) as u32
    }
}

/// The sign is the lowest bit, so that negative numbers are as short as others.
impl Packed for i64 {
    fn put(&self, into: &mut Vec<u8>) {
        (((self << 1) ^ (self >> 63)) as u64).put(into);
    }

    fn take(from: &mut &[u8]) -> Self {
        let number = u64::take(from);
        (number >> 1) as i64 ^ -((number & 1) as i64)
    }
}

impl Packed for bool {
    fn put(&self, into: &mut Vec<u8>) {
        u64::from(*self).put(into);
    }

    fn take(from: &mut &[u8]) -> Self {
        u64::take(from) != 0
    }
}

impl<T: Packed> Packed for Option<T> {
    fn put(&self, into: &mut Vec<u8>) {
        self.is_some().put(into);
        if let Some(value) = self {
            value.put(into);
        }
    }

    fn take(from: &mut &[u8]) -> Self {
        bool::take(from).then(|| T::take(from))
    }
}

impl<A: Packed, B: Packed> Packed for (A, B) {
    fn put(&self, into: &mut Vec<u8>) {
        self.0.put(into);
        self.1.put(into);
    }

    fn take(from: &mut &[u8]) -> Self {
        (A::take(from), B::take(from))
    }
}

impl<T: Packed> Packed for Vec<T> {
    fn put(&self, into: &mut Vec<u8>) {
        (self.len() as u64).put(into);
        for value in self {
            value.put(into);
        }
    }

    fn take(from: &mut &[u8]) -> Self {
        (0..u64::take(from)).map(|_| T::take(from)).collect()
    }
}

impl Packed for GenerationId {
    fn put(&self, into: &mut Vec<u8>) {
        self.0.put(into);
    }

    fn take(from: &mut &[u8]) -> Self {
        Self(u64::take(from))
    }
}

impl Packed for DatabaseChecksum {
    fn put(&self, into: &mut Vec<u8>) {
        self.value().put(into);
    }

    fn take(from: &mut &[u8]) -> Self {
        Self::from_value(u64::take(from)).expect("BUG: it was one")
    }
}

/// A structure of what is packed, by all of its fields.
macro_rules! packed {
    ($type:ident { $($field:ident),+ $(,)? }) => {
        impl $crate::capture::packed::Packed for $type {
            fn put(&self, into: &mut Vec<u8>) {
                let Self { $($field),+ } = self;
                $($crate::capture::packed::Packed::put($field, into);)+
            }

            fn take(from: &mut &[u8]) -> Self {
                Self { $($field: $crate::capture::packed::Packed::take(from)),+ }
            }
        }
    };
}
pub(super) use packed;

packed!(Mark {
    generation,
    seq,
    txid,
    checksum,
    commit,
    page_size,
    time_ms,
    wal
});
packed!(WalMark { salt, position });
packed!(Position { offset, checksum });
packed!(Stamp {
    inode,
    size,
    modified_ns,
    changed_ns
});
packed!(SnapshotNote {
    generation,
    seq,
    stored_at,
    log_bytes
});
packed!(LogEnd { salt, offset });
packed!(Emptied { last, since });
packed!(Counted { index, change });

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Any = (
        (u64, u32),
        (i64, (bool, (Option<u64>, Vec<(u32, Option<i64>)>))),
    );

    proptest! {
        #[test]
        fn what_is_taken_out_is_what_was_put_in(values: Vec<Any>) {
            let mut bytes = Vec::new();
            values.put(&mut bytes);
            let mut left = &bytes[..];
            prop_assert_eq!(Vec::<Any>::take(&mut left), values);
            prop_assert!(left.is_empty());
        }

        #[test]
        fn a_number_takes_no_more_than_it_has_to(number: u64, near in -64_i64..64) {
            let length = |number: u64| {
                let mut bytes = Vec::new();
                number.put(&mut bytes);
                bytes.len() as u32
            };
            prop_assert_eq!(length(number), (u64::BITS - number.leading_zeros()).div_ceil(7).max(1));
            let mut bytes = Vec::new();
            near.put(&mut bytes);
            prop_assert_eq!(bytes.len(), 1);
        }
    }
}
