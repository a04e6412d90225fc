//! Wall-clock time as Unix milliseconds, and its RFC 3339 form. The only reader of the system clock for moments.

use std::time::{SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A moment in Unix milliseconds, as it stands in an LTX header.
pub type UnixMs = i64;

/// The present moment.
pub fn now_ms() -> UnixMs {
    #[cfg(test)]
    if let Some(now) = simulated::now() {
        return now;
    }
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => since.as_millis() as UnixMs,
        Err(before) => -(before.duration().as_millis() as UnixMs),
    }
}

/// `2025-01-15T10:30:45.123Z`; always UTC, always three digits of fraction.
pub fn rfc3339(ms: UnixMs) -> String {
    let format = time::macros::format_description!(
        "[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z"
    );
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000)
        .ok()
        .and_then(|moment| moment.format(&format).ok())
        .unwrap_or_else(|| format!("@{ms}ms"))
}

/// Reads an RFC 3339 time with its offset; parts of a millisecond are cut off.
pub fn parse_rfc3339(text: &str) -> Option<UnixMs> {
    let moment = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    Some((moment.unix_timestamp_nanos().div_euclid(1_000_000)) as UnixMs)
}

#[cfg(test)]
pub(crate) mod simulated {
    use std::cell::Cell;

    use super::UnixMs;

    thread_local! {
        static NOW: Cell<Option<UnixMs>> = const { Cell::new(None) };
    }

    pub fn now() -> Option<UnixMs> {
        NOW.get()
    }

    /// From now on it is `now` on this thread; what the system says again where it is none.
    pub fn set(now: Option<UnixMs>) {
        NOW.set(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_survives_its_text_form() {
        for ms in [0, 1, 1_795_464_170_764, -1] {
            assert_eq!(parse_rfc3339(&rfc3339(ms)), Some(ms));
        }
        assert_eq!(rfc3339(1_736_937_045_123), "2025-01-15T10:30:45.123Z");
        assert_eq!(
            parse_rfc3339("2025-01-15T11:30:45.1239+01:00"),
            Some(1_736_937_045_123)
        );
        assert_eq!(parse_rfc3339("2025-01-15 11:30"), None);
    }
}
