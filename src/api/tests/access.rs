//! Who is answered, and what is refused by name.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Served;
use crate::store::spec::Secret;

#[tokio::test]
async fn what_there_is_not_is_said_by_name() {
    let api = Served::start().await;
    let answer = api.get("/api/nothing").await;
    assert_eq!(
        (answer.status, answer.code()),
        (404, "unknown_route".to_owned())
    );
    let answer = api.ask("DELETE", "/api/health", &[]).await;
    assert_eq!(
        (answer.status, answer.code()),
        (405, "wrong_method".to_owned())
    );
    assert!(answer.head.contains("allow: get"), "{}", answer.head);
    for query in ["status=odd", "nobody=1", "status=active&status=active"] {
        let answer = api.get(&format!("/api/databases?{query}")).await;
        assert_eq!(
            (answer.status, answer.code()),
            (400, "bad_query".to_owned()),
            "{query}"
        );
    }
}

#[tokio::test]
async fn pages_of_other_sites_are_refused() {
    let api = Served::start().await;
    let own = api.addr.to_string();
    let origin = format!("http://{own}");
    for (headers, status) in [
        (vec![("Host", "localhost")], 200),
        (vec![("Host", "[::1]:8080")], 200),
        (
            vec![("Host", own.as_str()), ("Origin", origin.as_str())],
            200,
        ),
        (vec![("Host", "evil.example")], 403),
        (vec![("Host", "evil.example:80")], 403),
        (vec![("Host", "127.0.0.1.evil.example")], 403),
        (vec![("Host", "10.0.0.1")], 403),
        (vec![("Origin", "http://evil.example")], 403),
        (vec![("Origin", "http://127.0.0.1:1")], 403),
        (vec![("Origin", "null")], 403),
    ] {
        let answer = api.ask("GET", "/api/health", &headers).await;
        assert_eq!(answer.status, status, "{headers:?}");
    }
    for (path, from, status) in [
        ("/api/databases", "same-origin", 200),
        ("/api/databases", "none", 200),
        ("/api/databases", "cross-site", 403),
        ("/api/databases", "same-site", 403),
        ("/", "cross-site", 200),
    ] {
        let answer = api.ask("GET", path, &[("Sec-Fetch-Site", from)]).await;
        assert_eq!(answer.status, status, "{path} {from}");
    }
}

#[tokio::test]
async fn with_a_token_only_its_bearer_is_answered() {
    let api =
        Served::start_with(|state| state.token = Some(Secret("s3cret-token".to_owned()))).await;
    let right = ("Authorization", "Bearer s3cret-token");
    for path in [
        "/api/databases",
        "/metrics",
        "/api/health/clients",
        "/api/nothing",
    ] {
        for headers in [vec![], vec![("Authorization", "Bearer other")]] {
            let answer = api.ask("GET", path, &headers).await;
            assert_eq!(
                (answer.status, answer.code()),
                (401, "unauthorized".to_owned())
            );
            assert!(answer.head.contains("www-authenticate: bearer realm="));
            assert!(!answer.body.contains("s3cret"), "{}", answer.body);
        }
    }
    let answer = api.ask("POST", "/api/databases", &[]).await;
    assert_eq!(answer.status, 401, "before the body is parsed");
    let foreign = [right, ("Host", "backup.example.org")];
    assert_eq!(api.ask("GET", "/api/databases", &foreign).await.status, 200);
    assert_eq!(api.ask("GET", "/api/nothing", &[right]).await.status, 404);
    for open in ["/api/health", "/", "/page.js", "/page.css", "/icon.svg"] {
        assert_eq!(api.get(open).await.status, 200, "{open}");
    }
}

#[tokio::test]
async fn a_refusal_is_read_by_one_who_sends_the_body_later() {
    let api =
        Served::start_with(|state| state.token = Some(Secret("s3cret-token".to_owned()))).await;
    let mut stream = TcpStream::connect(api.addr).await.expect("connected");
    let head = "POST /api/databases HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n";
    stream.write_all(head.as_bytes()).await.expect("sent");
    tokio::time::sleep(Duration::from_millis(100)).await;
    stream.write_all(b"{}").await.expect("it is taken");
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 401");
}
