//! What can be restored, and a database as it was.

use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::{GUID, Served};
use crate::api::replicas::MAX_DOWNLOADS;

#[tokio::test]
async fn the_moments_of_a_client() {
    let api = Served::start().await;
    api.register("", GUID);
    let answer = api
        .get(&format!("/api/databases/{GUID}/{GUID}/moments"))
        .await;
    assert_eq!(answer.status, 200);
    let expected = json!({"generations": [{"id": "000000000000001a", "moments": [
        {"txid": 1, "time": "1970-01-01T00:00:00.000Z"},
        {"txid": 3, "time": "1970-01-01T00:00:02.000Z"},
    ]}]});
    assert_eq!(answer.json(), expected);
    for (client, status, code) in [
        ("nothing", 404, "nothing_stored"),
        ("damaged", 500, "damaged"),
    ] {
        api.register("", client);
        for call in ["moments", "download"] {
            let answer = api
                .get(&format!("/api/databases/{client}/{client}/{call}"))
                .await;
            assert_eq!((answer.status, answer.code()), (status, code.to_owned()));
        }
    }
}

#[tokio::test]
async fn a_database_as_it_was() {
    let api = Served::start().await;
    api.register("", GUID);
    let path = format!("/api/databases/{GUID}/{GUID}/download");
    for (query, txid) in [
        ("", "3"),
        ("?timestamp=1970-01-01T00:00:01Z", "1"),
        ("?timestamp=1970-01-01T01:00:02%2B01:00", "3"),
        ("?txid=1", "1"),
    ] {
        let answer = api.get(&format!("{path}{query}")).await;
        assert_eq!(answer.status, 200, "{query}");
        assert!(answer.body == txid.repeat(512_000), "{query}");
        for line in [
            "content-length: 512000",
            "content-type: application/vnd.sqlite3",
            &format!("content-disposition: attachment; filename=\"{GUID}.db\""),
            &format!("litestream-txid: {txid}"),
        ] {
            assert!(answer.head.contains(line), "{line}: {}", answer.head);
        }
    }
    for (query, status, code) in [
        ("?timestamp=yesterday", 400, "bad_query"),
        ("?timestamp=2025-01-15T10:30:45", 400, "bad_query"),
        ("?txid=-1", 400, "bad_query"),
        ("?txid=1&timestamp=1970-01-01T00:00:01Z", 400, "bad_query"),
        ("?txid=2", 404, "unknown_moment"),
        ("?timestamp=1969-12-31T00:00:00Z", 404, "unknown_moment"),
    ] {
        let answer = api.get(&format!("{path}{query}")).await;
        assert_eq!(
            (answer.status, answer.code()),
            (status, code.to_owned()),
            "{query}"
        );
    }
}

#[tokio::test]
async fn downloads_are_bounded_and_take_no_place_of_others() {
    let api = Served::start().await;
    api.register("", "large");
    let path = "/api/databases/large/large/download";
    let mut slow = Vec::new();
    for _ in 0..MAX_DOWNLOADS {
        let mut stream = TcpStream::connect(api.addr).await.expect("connected");
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        stream.readable().await.expect("its head comes");
        slow.push(stream);
    }
    let answer = api.get(path).await;
    assert_eq!((answer.status, answer.code()), (503, "busy".to_owned()));
    assert!(answer.head.contains("retry-after: 1"), "{}", answer.head);
    let moments = api.get("/api/databases/large/large/moments").await;
    assert_eq!(moments.status, 200, "{}", moments.body);
    drop(slow);
}
