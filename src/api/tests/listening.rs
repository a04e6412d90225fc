//! Server-sent events, as a client of HTTP receives them.

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpStream;

use super::{DEADLINE, GUID, Served};
use crate::api::events::MAX_LISTENERS;
use crate::tenant::ids::ClientId;
use crate::tenant::roster::Status;

struct Listening(Lines<BufReader<TcpStream>>);

impl Listening {
    /// Listens, and waits for the greeting: what happens from now on is heard.
    async fn start(api: &Served) -> Self {
        let mut stream = TcpStream::connect(api.addr).await.expect("connected");
        let request = "GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\n";
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut listening = Self(BufReader::new(stream).lines());
        assert_eq!(listening.line_with("HTTP/1.1 ").await, "200 OK");
        assert_eq!(
            listening.line_with("content-type: ").await,
            "text/event-stream"
        );
        listening.line_with("retry: ").await;
        listening
    }

    /// The rest of the next line that begins so; none at the end.
    async fn next_with(&mut self, start: &str) -> Option<String> {
        let next = async {
            loop {
                let line = self.0.next_line().await.expect("a line")?;
                if let Some(rest) = line.strip_prefix(start) {
                    return Some(rest.to_owned());
                }
            }
        };
        tokio::time::timeout(DEADLINE, next).await.expect("in time")
    }

    async fn line_with(&mut self, start: &str) -> String {
        self.next_with(start).await.expect("a line before the end")
    }

    async fn event(&mut self) -> (String, Value) {
        let kind = self.line_with("event: ").await;
        let data = self.line_with("data: ").await;
        (kind, serde_json::from_str(&data).expect("JSON"))
    }
}

#[tokio::test]
async fn what_happens_to_a_client_is_heard() {
    let api = Served::start().await;
    let mut listening = Listening::start(&api).await;
    let client = api.register("eu", GUID);
    let (kind, data) = listening.event().await;
    assert_eq!(
        (kind.as_str(), &data["clientId"]),
        ("registered", &GUID.into())
    );
    assert_eq!(data["prefix"], "eu");
    client.update(|progress| {
        progress.last_sync_at = Some(1);
        progress.txid = 9;
        progress.replicated_txid = 9;
    });
    let (kind, data) = listening.event().await;
    assert_eq!(
        (kind.as_str(), &data["replicatedTxid"]),
        ("synced", &9.into())
    );
    assert_eq!(data["replicationLagMs"], 0);
    client.update(|progress| {
        progress.status = Status::Failing;
        progress.last_error = Some("store: line one\nline two".to_owned());
    });
    let (kind, data) = listening.event().await;
    assert_eq!(
        (kind.as_str(), &data["status"]),
        ("failed", &"failing".into())
    );
    assert_eq!(data["lastError"], "store: line one\nline two");
    api.roster
        .unregister(&ClientId::single("eu", GUID), &client.db_path);
    let (kind, data) = listening.event().await;
    assert_eq!(
        (kind.as_str(), &data["clientId"]),
        ("unregistered", &GUID.into())
    );
}

#[tokio::test]
async fn one_who_does_not_read_is_told_what_was_missed() {
    let api = Served::start().await;
    let client = api.register("", GUID);
    let mut listening = Listening::start(&api).await;
    client.update(|progress| {
        progress.last_sync_at = Some(1);
        // Long, so that the connection is soon full.
        progress.last_error = Some("x".repeat(4_000));
    });
    let mut missed = 0;
    let mut heard = 0;
    // In one go: the server's task has no chance to send in between.
    for txid in 1..=5_000 {
        client.update(|progress| progress.replicated_txid = txid);
    }
    while heard + missed < 5_000 {
        match listening.event().await {
            (kind, data) if kind == "missed" => {
                missed += data["missed"].as_u64().expect("a number")
            }
            (kind, _) => {
                assert_eq!(kind, "synced");
                heard += 1;
            }
        }
    }
    assert!(missed > 0 && heard > 0, "{missed} {heard}");
}

#[tokio::test]
async fn listeners_are_bounded_and_end_with_the_server() {
    let api = Served::start().await;
    let mut all = Vec::new();
    for _ in 0..MAX_LISTENERS {
        all.push(Listening::start(&api).await);
    }
    let answer = api.get("/api/events").await;
    assert_eq!((answer.status, answer.code()), (503, "busy".to_owned()));
    api.shutdown.send(()).expect("it is served");
    for mut listening in all {
        // The end of the stream, not a cut.
        assert_eq!(listening.next_with("0").await.as_deref(), Some(""));
    }
    let ended = tokio::time::timeout(DEADLINE, api.task).await;
    ended.expect("in time").expect("ended well");
}
