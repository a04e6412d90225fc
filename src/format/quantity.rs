//! Durations and sizes as people write them. Each error is a sentence for the user.

use std::time::Duration;

/// `250ms`, `1s`, `1h30m`, `72h`, `30d`, and `0`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || {
        format!("{text:?} is no duration: write numbers with ms, s, m, h or d, as in 1h30m, or 0")
    };
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text;
    let mut millis: u64 = 0;
    while !rest.is_empty() {
        let (number, after) = split_at_first(rest, |c| !c.is_ascii_digit());
        let (unit, after) = split_at_first(after, |c| c.is_ascii_digit());
        let scale = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(wrong()),
        };
        let part = number
            .parse::<u64>()
            .ok()
            .and_then(|n| n.checked_mul(scale));
        millis = part
            .and_then(|part| part.checked_add(millis))
            .ok_or_else(wrong)?;
        rest = after;
    }
    if text.is_empty() {
        return Err(wrong());
    }
    Ok(Duration::from_millis(millis))
}

/// A duration in the largest unit up to hours that it is a whole number of: `72h`, `90m`, `250ms`.
pub fn show_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    let units = [(3_600_000, "h"), (60_000, "m"), (1_000, "s")];
    let whole = units
        .into_iter()
        .find(|(unit, _)| millis.is_multiple_of(*unit));
    match whole {
        Some(_) if millis == 0 => "0".to_owned(),
        Some((unit, name)) => format!("{}{name}", millis / unit),
        None => format!("{millis}ms"),
    }
}

/// Bytes: `65536`, `16 MiB`, `10GiB`, `1 GB`.
pub fn size(text: &str) -> Result<u64, String> {
    let wrong =
        || format!("{text:?} is no size: write bytes, or a number with KiB, MiB, GiB or TiB");
    let (number, unit) = split_at_first(text, |c| !c.is_ascii_digit());
    let scale: u64 = match unit.trim() {
        "" | "B" => 1,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return Err(wrong()),
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(scale))
        .ok_or_else(wrong)
}

fn split_at_first(text: &str, end: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(end).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_that_is_shown_reads_back() {
        for text in ["0", "72h", "90m", "3s", "250ms", "1h"] {
            assert_eq!(show_duration(duration(text).expect(text)), text);
        }
        assert_eq!(show_duration(duration("30d").expect("days")), "720h");
    }

    #[test]
    fn durations() {
        for (text, ms) in [
            ("0", 0),
            ("10ms", 10),
            ("1s", 1_000),
            ("1h30m", 5_400_000),
            ("72h", 259_200_000),
            ("1m500ms", 60_500),
            ("30d", 2_592_000_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in [
            "",
            "1",
            "s",
            "-1s",
            "1.5s",
            "1 s",
            "1y",
            "99999999999999999999d",
            "1sx",
        ] {
            assert!(duration(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(size("65536"), Ok(65_536));
        assert_eq!(size("16 MiB"), Ok(16 << 20));
        assert_eq!(size("10GiB"), Ok(10 << 30));
        assert_eq!(size("1 GB"), Ok(1_000_000_000));
        for text in ["", "MiB", "-1", "1.5 GiB", "16 mib", "99999999999 TiB"] {
            assert!(size(text).is_err(), "{text:?}");
        }
    }
}
