//! Who may ask: who has the token where there is one; else this machine alone, and no page of another site.

use std::net::IpAddr;

use subtle::ConstantTimeEq;
use warp::http::header::{AUTHORIZATION, HOST, HeaderValue, ORIGIN, WWW_AUTHENTICATE};
use warp::http::{HeaderMap, StatusCode};

use super::replies::Refusal;
use crate::store::spec::Secret;

/// Where browsers say whose page a request is made for.
const FETCH_SITE: &str = "sec-fetch-site";

/// Refuses a request that may not be answered. `open` says that its call needs no token.
pub fn check(token: Option<&Secret>, open: bool, headers: &HeaderMap) -> Result<(), Refusal> {
    match token {
        None => refuse_foreign(open, headers),
        Some(_) if open => Ok(()),
        Some(token) => refuse_without(token, headers),
    }
}

fn refuse_without(token: &Secret, headers: &HeaderMap) -> Result<(), Refusal> {
    let given = headers.get(AUTHORIZATION).and_then(bearer);
    // In a time that does not tell how much of it is right; its length is no secret.
    if given.is_some_and(|given| bool::from(given.ct_eq(token.0.as_bytes()))) {
        return Ok(());
    }
    let (challenge, message) = match given {
        None => (
            r#"Bearer realm="litestream-multitenant""#,
            "this needs the header Authorization: Bearer, with server.apiToken",
        ),
        Some(_) => (
            r#"Bearer realm="litestream-multitenant", error="invalid_token""#,
            "the token is not server.apiToken",
        ),
    };
    Err(Refusal {
        header: Some((WWW_AUTHENTICATE, HeaderValue::from_static(challenge))),
        ..Refusal::new(StatusCode::UNAUTHORIZED, "unauthorized", message)
    })
}

/// The credentials of the scheme `Bearer`, whose name may be written in any case.
fn bearer(value: &HeaderValue) -> Option<&[u8]> {
    let (scheme, rest) = value.as_bytes().split_at_checked("Bearer ".len())?;
    scheme
        .eq_ignore_ascii_case(b"Bearer ")
        .then(|| rest.trim_ascii())
}

/// A page of another site must not reach the API through a browser: neither openly (Origin), nor by giving its own
/// name our address (Host), nor as what it shows or links to (Sec-Fetch-Site), but for the page itself.
fn refuse_foreign(open: bool, headers: &HeaderMap) -> Result<(), Refusal> {
    let refused = |header: &str| {
        Err(Refusal::new(
            StatusCode::FORBIDDEN,
            "foreign_request",
            format!("the {header} is not this API's own; use its loopback address"),
        ))
    };
    let host = match headers.get(HOST).map(|host| host.to_str()) {
        None => None,
        Some(Ok(host)) if is_loopback(host) => Some(host),
        Some(_) => return refused("Host"),
    };
    let from = headers.get(FETCH_SITE);
    if !open && from.is_some_and(|from| from == "cross-site" || from == "same-site") {
        return refused("Sec-Fetch-Site");
    }
    let Some(origin) = headers.get(ORIGIN) else {
        return Ok(());
    };
    let origin = origin.to_str().ok().and_then(|o| o.strip_prefix("http://"));
    if origin.is_some() && origin == host {
        return Ok(());
    }
    refused("Origin")
}

/// Whether a Host header, with its port or without, names this machine's loopback.
fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.parse::<u16>().is_ok() => name,
        _ => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']');
    let is_loopback = |address: IpAddr| address.is_loopback();
    name == "localhost" || address.parse().is_ok_and(is_loopback)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(value: &str) -> HeaderMap {
        let value = HeaderValue::from_bytes(value.as_bytes()).expect("a header");
        HeaderMap::from_iter([(AUTHORIZATION, value)])
    }

    #[test]
    fn only_the_whole_token_is_let_in() {
        let token = Secret("s3cret-token".to_owned());
        let check = |headers| check(Some(&token), false, &headers);
        for right in [
            "Bearer s3cret-token",
            "bearer s3cret-token",
            "Bearer  s3cret-token ",
        ] {
            assert_eq!(check(with(right)), Ok(()), "{right}");
        }
        for wrong in [
            "",
            "Bearer",
            "Bearer ",
            "Bearer s3cret-toke",
            "Bearer s3cret-token2",
            "Bearer S3CRET-TOKEN",
            "Basic s3cret-token",
            "s3cret-token",
            "Bearer s3cret-tokené",
        ] {
            let refusal = check(with(wrong)).expect_err(wrong);
            assert_eq!(refusal.status, StatusCode::UNAUTHORIZED, "{wrong}");
            assert!(refusal.header.is_some());
            assert!(!refusal.message.contains("s3cret"), "{}", refusal.message);
        }
        assert!(check(HeaderMap::new()).is_err());
    }

    #[test]
    fn with_a_token_other_hosts_may_ask() {
        let token = Secret("t".to_owned());
        let mut headers = with("Bearer t");
        headers.insert(HOST, HeaderValue::from_static("backup.example.org"));
        assert_eq!(check(Some(&token), false, &headers), Ok(()));
        assert!(check(None, true, &headers).is_err());
        headers.remove(AUTHORIZATION);
        assert!(check(Some(&token), false, &headers).is_err());
        assert_eq!(check(Some(&token), true, &headers), Ok(()), "an open call");
    }
}
