//! Who may ask: who has the token where there is one; else this machine alone, and no page of another site. What is a
//! database's content or takes its protection away is then for the users of this machine whose it is.

use std::net::IpAddr;
use std::sync::Arc;

use subtle::ConstantTimeEq;
use warp::http::header::{AUTHORIZATION, HOST, HeaderValue, ORIGIN, WWW_AUTHENTICATE};
use warp::http::{HeaderMap, StatusCode};

use super::connections::Admitted;
use super::peer::Peer;
use super::replies::Refusal;
use crate::store::spec::Secret;

/// Where browsers say whose page a request is made for.
const FETCH_SITE: &str = "sec-fetch-site";

/// Who may make a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Whoever reaches the API.
    Open,
    /// Who has the token; where there is none, whoever is on this machine.
    Token,
    /// The same, but without a token only root, the instance's own user, and the owner of the database's file.
    Owner,
    /// The same, but without a token only root and the instance's own user.
    Administrator,
}

/// Who asks, by the connection.
#[derive(Clone, Debug)]
pub struct Asker {
    pub connection: Arc<Admitted>,
    /// By a socket with a name, which no browser reaches.
    pub by_socket: bool,
}

/// Refuses a request that may not be answered, whatever it is about.
pub fn check(
    token: Option<&Secret>,
    access: Access,
    asker: &Asker,
    headers: &HeaderMap,
) -> Result<(), Refusal> {
    match token {
        None if asker.by_socket => Ok(()),
        None => refuse_foreign(access == Access::Open, headers),
        Some(_) if access == Access::Open => Ok(()),
        Some(token) => refuse_without(token, headers),
    }
}

/// Refuses a call about one client whose content or protection is not the asker's. `owner` gives the user who owns its
/// file; it is asked where that decides.
pub fn check_user(
    token: Option<&Secret>,
    access: Access,
    peer: Peer,
    owner: impl FnOnce() -> Option<u32>,
) -> Result<(), Refusal> {
    if token.is_some() || !matches!(access, Access::Owner | Access::Administrator) {
        return Ok(());
    }
    let own = rustix::process::geteuid().as_raw();
    let uid = peer.uid();
    if uid.is_some_and(|uid| uid == 0 || uid == own) {
        return Ok(());
    }
    let is_owner = || uid.is_some() && owner() == uid;
    let allowed = match access {
        Access::Owner if is_owner() => return Ok(()),
        Access::Owner => "root, the instance's user and the owner of the database's file",
        _ => "root and the instance's user",
    };
    let asker = uid.map_or_else(
        || "the kernel does not say who asks".to_owned(),
        |uid| format!("user {uid} asks"),
    );
    Err(Refusal::new(
        StatusCode::FORBIDDEN,
        "not_allowed",
        format!(
            "without server.apiToken this is for {allowed}, and {asker}; set a token, or ask as one of them"
        ),
    ))
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
    use crate::api::connections::Connections;

    fn with(value: &str) -> HeaderMap {
        let value = HeaderValue::from_bytes(value.as_bytes()).expect("a header");
        HeaderMap::from_iter([(AUTHORIZATION, value)])
    }

    #[test]
    fn only_the_whole_token_is_let_in() {
        let token = Secret("s3cret-token".to_owned());
        let check = |headers| check(Some(&token), Access::Token, &asker(false), &headers);
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

    fn asker(by_socket: bool) -> Asker {
        let (admitted, _) = Connections::default().admit(Peer::Local);
        Asker {
            connection: Arc::new(admitted),
            by_socket,
        }
    }

    #[test]
    fn with_a_token_other_hosts_may_ask() {
        let token = Secret("t".to_owned());
        let token = Some(&token);
        let mut headers = with("Bearer t");
        headers.insert(HOST, HeaderValue::from_static("backup.example.org"));
        let asker = asker(false);
        assert_eq!(check(token, Access::Token, &asker, &headers), Ok(()));
        assert!(check(None, Access::Open, &asker, &headers).is_err());
        headers.remove(AUTHORIZATION);
        assert!(check(token, Access::Token, &asker, &headers).is_err());
        assert_eq!(check(token, Access::Open, &asker, &headers), Ok(()));
    }

    #[test]
    fn by_a_socket_the_host_is_any_and_the_token_is_wanted() {
        let token = Secret("t".to_owned());
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_static("unix"));
        let asker = asker(true);
        assert_eq!(check(None, Access::Token, &asker, &headers), Ok(()));
        assert!(check(Some(&token), Access::Token, &asker, &headers).is_err());
    }

    #[test]
    fn without_a_token_content_is_for_root_and_the_instance() {
        let own = rustix::process::geteuid().as_raw();
        let (stranger, owner) = (65_533, 65_532);
        let allowed = |access, peer| check_user(None, access, peer, || Some(owner)).is_ok();
        for access in [
            Access::Open,
            Access::Token,
            Access::Owner,
            Access::Administrator,
        ] {
            for uid in [0, own] {
                assert!(allowed(access, Peer::User(uid)), "{access:?} {uid}");
            }
            let is_free = matches!(access, Access::Open | Access::Token);
            for peer in [Peer::User(stranger), Peer::Local] {
                assert_eq!(allowed(access, peer), is_free, "{access:?} {peer:?}");
            }
            let is_his = access != Access::Administrator;
            assert_eq!(allowed(access, Peer::User(owner)), is_his, "{access:?}");
            let token = Secret("t".to_owned());
            assert_eq!(
                check_user(Some(&token), access, Peer::Local, || None),
                Ok(())
            );
        }
        let refusal = check_user(None, Access::Owner, Peer::User(stranger), || None);
        let message = refusal.expect_err("a stranger").message;
        assert!(
            message.contains("user 65533 asks") && message.contains("apiToken"),
            "{message}"
        );
    }
}
