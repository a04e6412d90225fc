//! Values as people write them: shares, addresses, prefixes, patterns. Each error is a sentence for the user.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::{AccessLists, SpoolReserve};
use crate::api::Listen;
use crate::format::quantity::{duration, size};
use crate::replicate::drills::Sample;
use crate::store::spec::Secret;
use crate::tenant::discovery::{self, is_safe_name};
use crate::tenant::places::refuse_reserved;
use crate::tenant::policy::{AtTimeout, Durability};

/// `5%` of the disk, or a size.
pub fn spool_reserve(text: &str) -> Result<SpoolReserve, String> {
    match text.strip_suffix('%') {
        None => size(text).map(SpoolReserve::Bytes),
        Some(number) => number
            .trim_end()
            .parse()
            .ok()
            .filter(|percent| *percent <= 100)
            .map(SpoolReserve::Percent)
            .ok_or_else(|| format!("{text:?} is no share: write 0% to 100%, or a size")),
    }
}

/// A whole number from 1 on.
pub fn count(text: &str) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|n| *n > 0)
        .ok_or_else(|| format!("{text:?} is no number from 1 on"))
}

/// A duration that is not zero.
pub fn positive(text: &str) -> Result<Duration, String> {
    let long_enough = |duration: Duration| match duration.is_zero() {
        true => Err("0 is too short".to_owned()),
        false => Ok(duration),
    };
    duration(text).and_then(long_enough)
}

/// A whole number of days from 1 on.
pub fn days(text: &str) -> Result<Duration, String> {
    let days: u32 = text
        .parse()
        .ok()
        .filter(|days| *days > 0)
        .ok_or_else(|| format!("{text:?} is no number of days from 1 on"))?;
    Ok(Duration::from_secs(u64::from(days) * 24 * 3600))
}

/// `true` or `false`.
pub fn boolean(text: &str) -> Result<bool, String> {
    text.parse()
        .map_err(|_| format!("{text:?} is neither true nor false"))
}

/// When a commit returns.
pub fn durability(text: &str) -> Result<Durability, String> {
    either(
        text,
        [Durability::Local, Durability::Store],
        Durability::as_str,
    )
}

/// What becomes of a commit that the store does not take in time.
pub fn at_timeout(text: &str) -> Result<AtTimeout, String> {
    either(
        text,
        [AtTimeout::Local, AtTimeout::Error],
        AtTimeout::as_str,
    )
}

/// When applications have access control lists.
pub fn access_lists(text: &str) -> Result<AccessLists, String> {
    either(
        text,
        [AccessLists::Auto, AccessLists::Always],
        AccessLists::as_str,
    )
}

/// Which of two it is, each of which is written as its `word`.
fn either<T: Copy>(text: &str, two: [T; 2], word: fn(T) -> &'static str) -> Result<T, String> {
    let [first, second] = two.map(word);
    let found = two.into_iter().find(|one| word(*one) == text);
    found.ok_or_else(|| format!("{text:?} is neither {first} nor {second}"))
}

/// A duration that is not zero, or `off`.
pub fn interval_or_off(text: &str) -> Result<Option<Duration>, String> {
    match text {
        "off" => Ok(None),
        text => positive(text).map(Some),
    }
}

/// Where to listen, but for the port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Host {
    Ip(IpAddr),
    /// A socket of this machine, by its absolute path.
    Unix(PathBuf),
}

/// An address to listen on, or `unix:PATH`.
pub fn host(text: &str) -> Result<Host, String> {
    if let Some(path) = Listen::unix(text) {
        return path.map(Host::Unix);
    }
    if text == "localhost" {
        return Ok(Host::Ip(Ipv4Addr::LOCALHOST.into()));
    }
    text.trim_start_matches('[')
        .trim_end_matches(']')
        .parse()
        .map(Host::Ip)
        .map_err(|_| {
            format!("{text:?} is no IP address: write 127.0.0.1, ::1, localhost or unix:PATH")
        })
}

/// A token that can stand in a header as it is. The error does not show it.
pub fn api_token(text: &str) -> Result<Secret, String> {
    let is_token = |b: u8| b.is_ascii_graphic();
    if (1..=4096).contains(&text.len()) && text.bytes().all(is_token) {
        return Ok(Secret(text.to_owned()));
    }
    Err("the token has to be letters, digits and signs of ASCII, without spaces".to_owned())
}

/// `HOST:PORT` or `unix:PATH`, or none for `none`.
pub fn listen(text: &str) -> Result<Option<Listen>, String> {
    if text == "none" {
        return Ok(None);
    }
    if let Some(path) = Listen::unix(text) {
        return path.map(|path| Some(Listen::Unix(path)));
    }
    let wrong = || {
        format!("{text:?} is no address: write HOST:PORT as in 127.0.0.1:8080, unix:PATH, or none")
    };
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let port = port.parse().map_err(|_| wrong())?;
    match self::host(host)? {
        Host::Ip(host) => Ok(Some(Listen::Tcp(SocketAddr::new(host, port)))),
        Host::Unix(_) => Err(wrong()),
    }
}

/// A watch path's prefix: `A-Z a-z 0-9 . _ -` in segments that are joined by `/`.
pub fn prefix(text: &str) -> Result<String, String> {
    let plain = |segment: &str| {
        !segment.is_empty()
            && segment != "."
            && segment != ".."
            && segment
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
    };
    if !text.split('/').all(plain) {
        return Err(format!(
            "{text:?} is no prefix: write letters, digits, `.`, `_` and `-`, joined by `/`"
        ));
    }
    if text.split('/').next() == Some("databases") {
        return Err(
            "a prefix may not begin with \"databases\": the store keeps its own objects there"
                .to_owned(),
        );
    }
    refuse_reserved(text, true)?;
    Ok(text.to_owned())
}

/// A URL that the SDK can use as it is. A user name and a password in it would be shown wherever it is named.
pub fn endpoint(text: &str) -> Result<String, String> {
    if text.contains('@') {
        return Err(
            "keys can't stand in the URL: write http://HOST:PORT or https://HOST, and the keys in `s3.accessKey` and `s3.secretKey`"
                .to_owned(),
        );
    }
    let rest = text
        .strip_prefix("http://")
        .or_else(|| text.strip_prefix("https://"));
    match rest {
        Some(host) if !host.is_empty() && !text.contains(char::is_whitespace) => {
            Ok(text.to_owned())
        }
        _ => Err(format!(
            "{text:?} is no URL: write http://HOST:PORT or https://HOST"
        )),
    }
}

/// A key of KMS: its id, its alias or its ARN.
pub fn kms_key_id(text: &str) -> Result<String, String> {
    let is_part = |b: u8| b.is_ascii_alphanumeric() || b"-_/:".contains(&b);
    if (1..=2048).contains(&text.len()) && text.bytes().all(is_part) {
        return Ok(text.to_owned());
    }
    Err("no key of KMS: write its id, `alias/NAME` or its ARN".to_owned())
}

/// A regular expression for names of databases.
pub fn guid_pattern(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("the pattern is empty".to_owned());
    }
    let checked = discovery::guid_pattern(text).map_err(|error| error.to_string());
    checked.map(|_| text.to_owned())
}

/// A regular expression with a group `tenant`.
pub fn tenant_regex(text: &str) -> Result<String, String> {
    let checked = discovery::tenant_pattern(text).map_err(|error| error.to_string());
    checked.map(|_| text.to_owned())
}

/// A glob on file names.
pub fn file_pattern(text: &str) -> Result<String, String> {
    let checked = discovery::file_pattern(text).map_err(|error| error.to_string());
    checked.map(|_| text.to_owned())
}

/// A tenant's, a client's or a database's name: it stands in keys, paths and log lines as it is.
pub fn name(text: &str) -> Result<String, String> {
    if is_safe_name(text) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "{text:?} is no name: write up to 200 letters, digits, `.`, `_` and `-`"
    ))
}

/// Where a replica lies in the store: names that are joined by `/`.
pub fn replica_prefix(text: &str) -> Result<String, String> {
    place(text, false)
}

/// The folder that a tenant's replicas are in: the same.
pub fn replica_folder(text: &str) -> Result<String, String> {
    place(text, true)
}

fn place(text: &str, is_folder: bool) -> Result<String, String> {
    let trimmed = text.strip_suffix('/').unwrap_or(text);
    refuse_reserved(trimmed, is_folder)?;
    let is_key = trimmed.len() <= 600 && trimmed.split('/').all(is_safe_name);
    if !is_key {
        return Err(format!(
            "{text:?} is no prefix: write letters, digits, `.`, `_` and `-`, joined by `/`"
        ));
    }
    Ok(trimmed.to_owned())
}

/// A whole number from 1 on.
pub fn rate(text: &str) -> Result<u64, String> {
    count(text).map(|n| n as u64)
}

/// A size from one byte on.
pub fn bytes_rate(text: &str) -> Result<u64, String> {
    match size(text)? {
        0 => Err("0 would hold everything up; leave the key out for no limit".to_owned()),
        bytes => Ok(bytes),
    }
}

/// A number of clients, or a share of them.
pub fn sample(text: &str) -> Result<Sample, String> {
    let wrong = || format!("{text:?} is no sample: write a number from 1 on, or 1% to 100%");
    match text.strip_suffix('%') {
        None => count(text).map(Sample::Count).map_err(|_| wrong()),
        Some(share) => share
            .trim_end()
            .parse()
            .ok()
            .filter(|percent| (1..=100).contains(percent))
            .map(Sample::Percent)
            .ok_or_else(wrong),
    }
}

/// `50`, or `50%`.
pub fn percent(text: &str) -> Result<u64, String> {
    let number = text.strip_suffix('%').unwrap_or(text).trim_end();
    let percent = number
        .parse()
        .ok()
        .filter(|percent| (1..=100_000).contains(percent));
    percent.ok_or_else(|| format!("{text:?} is no percentage of one core: write 1 or more"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_of_a_disk() {
        assert_eq!(spool_reserve("5%"), Ok(SpoolReserve::Percent(5)));
        assert_eq!(spool_reserve("2 GiB"), Ok(SpoolReserve::Bytes(2 << 30)));
        assert!(spool_reserve("101%").is_err());
    }

    #[test]
    fn addresses_to_listen_on() {
        assert_eq!(listen("none"), Ok(None));
        for text in ["127.0.0.1:0", "[::1]:8080", "localhost:80", "127.8.8.8:1"] {
            assert!(matches!(listen(text), Ok(Some(_))), "{text}");
        }
        for text in ["0.0.0.0:80", "[::]:80", "192.168.1.1:80"] {
            assert!(matches!(listen(text), Ok(Some(_))), "{text}");
        }
        let socket = PathBuf::from("/run/x.sock");
        assert_eq!(
            listen("unix:/run/x.sock"),
            Ok(Some(Listen::Unix(socket.clone())))
        );
        assert_eq!(host("unix:/run/x.sock"), Ok(Host::Unix(socket)));
        for text in [
            "",
            "8080",
            "127.0.0.1",
            "127.0.0.1:x",
            "example.org:80",
            "unix:x",
            "unix:",
        ] {
            assert!(listen(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn tokens_that_can_be_sent() {
        assert!(api_token("0123-abc/+=~").is_ok());
        for text in ["", "abc def", "abcdé", "abc\ndef"] {
            let error = api_token(text).expect_err(text);
            assert!(text.is_empty() || !error.contains(text), "{error}");
        }
    }

    #[test]
    fn prefixes_stay_below_the_store() {
        for text in ["production", "eu-1/staging", "a.b_c", "my/databases"] {
            assert_eq!(prefix(text), Ok(text.to_owned()));
        }
        for text in [
            "",
            "/a",
            "a/",
            "a//b",
            ".",
            "..",
            "a/../b",
            "a b",
            "ü",
            "databases",
            "databases/x",
            "registry",
            ".incoming",
            "a/.incoming",
            "a/wal",
        ] {
            assert!(prefix(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn replicas_lie_where_no_store_keeps_anything() {
        for text in ["x", "databases/x", "a/b/", "tenants/acme"] {
            let place = text.trim_end_matches('/').to_owned();
            assert_eq!(replica_prefix(text), Ok(place), "{text:?}");
        }
        for text in [
            "",
            "/",
            "/a",
            "a//",
            "a//b",
            "a/../b",
            "a/./b",
            "..",
            "a\n",
            "a\u{7f}",
            "a\0b",
            ".incoming",
            ".incoming/x",
            "x/.incoming",
            "registry/x",
            "databases",
            "x/wal",
            "snapshots/x",
        ] {
            let error = replica_prefix(text).expect_err(text);
            assert!(!error.contains(char::is_control), "{error:?}");
        }
        assert_eq!(replica_folder("databases"), Ok("databases".to_owned()));
        replica_folder(".incoming").expect_err("the store's");
    }
}
