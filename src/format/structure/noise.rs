//! Whether bytes look like what a cipher makes: each value about as often as every other.

/// Bytes of a first page that may be plain in an encrypted database.
const PLAIN_HEADER: usize = 100;
/// Of 256 values that are equally likely, the sum of squared deviations (chi square, 255 degrees of freedom) is 255 in
/// the mean, with a standard deviation of 23; this is eight of those above.
const MOST: f64 = 440.0;
/// Fewer bytes tell nothing.
const FEWEST: usize = 256;

/// Whether `bytes` look encrypted.
pub fn is_noise(bytes: &[u8]) -> bool {
    if bytes.len() < FEWEST {
        return false;
    }
    let mut counts = [0u32; 256];
    for byte in bytes {
        counts[usize::from(*byte)] += 1;
    }
    let expected = bytes.len() as f64 / 256.0;
    let deviations = counts.iter().map(|count| {
        let deviation = f64::from(*count) - expected;
        deviation * deviation / expected
    });
    deviations.sum::<f64>() < MOST
}

pub(super) fn is_zero(bytes: &[u8]) -> bool {
    let or = |chunk: &[u8]| chunk.iter().fold(0, |all, byte| all | byte);
    bytes.chunks(256).all(|chunk| or(chunk) == 0)
}

/// Whether page `number` of an encrypted database may look so: as noise, or never written.
pub(super) fn may_be_encrypted(number: u32, page: &[u8]) -> bool {
    let start = if number == 1 { PLAIN_HEADER } else { 0 };
    is_noise(&page[start..]) || (number != 1 && is_zero(page))
}
