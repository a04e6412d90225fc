//! Connections: what is cut off, and how they end.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{DEADLINE, Served};

const PROMPT: Duration = Duration::from_secs(2);

#[tokio::test]
async fn a_head_without_end_is_cut_off() {
    let api = Served::start().await;
    let long = "x".repeat(64 << 10);
    let request = format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {long}");
    let mut stream = TcpStream::connect(api.addr).await.expect("connected");
    // The server may close before it has read all of it.
    let _ = stream.write_all(request.as_bytes()).await;
    let mut answer = Vec::new();
    let read = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer)).await;
    let read = read.expect("cut off in time");
    let text = String::from_utf8_lossy(&answer);
    assert!(read.is_err() || text.starts_with("HTTP/1.1 431"), "{text}");
    assert_eq!(api.get("/api/health").await.status, 200, "it goes on");
}

#[tokio::test]
async fn shutdown_ends_idle_connections() {
    let api = Served::start().await;
    let mut idle = TcpStream::connect(api.addr).await.expect("connected");
    assert_eq!(api.get("/api/health").await.status, 200);
    api.shutdown.send(()).expect("it is served");
    tokio::time::timeout(DEADLINE, api.task)
        .await
        .expect("ended in time")
        .expect("ended well");
    let mut rest = Vec::new();
    let read = idle.read_to_end(&mut rest).await;
    assert!(read.is_err() || rest.is_empty());
    assert!(TcpStream::connect(api.addr).await.is_err());
}

/// As many as there are places, and more.
const MANY: usize = 300;

#[tokio::test]
async fn who_asks_nothing_keeps_nobody_out() {
    let api = Served::start().await;
    let mut idle = Vec::new();
    for _ in 0..MANY {
        idle.push(TcpStream::connect(api.addr).await.expect("connected"));
    }
    for path in ["/api/health", "/api/databases", "/metrics"] {
        let begun = Instant::now();
        assert_eq!(api.get(path).await.status, 200, "{path}");
        assert!(begun.elapsed() < PROMPT, "{path}: {:?}", begun.elapsed());
    }
    drop(idle);
}

#[tokio::test]
async fn health_is_answered_where_all_places_of_a_peer_are_taken() {
    let api = Served::start().await;
    let mut busy = Vec::new();
    for _ in 0..MANY {
        let mut stream = TcpStream::connect(api.addr).await.expect("connected");
        let request = "GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\n";
        stream.write_all(request.as_bytes()).await.expect("sent");
        // One that is cut off has answered, or not.
        let mut first = [0];
        let _ = stream.read(&mut first).await;
        busy.push(stream);
    }
    let begun = Instant::now();
    let answer = api.get("/api/databases").await;
    assert_eq!((answer.status, answer.code()), (503, "busy".to_owned()));
    let health = api.get("/api/health").await;
    assert_eq!(health.status, 200);
    assert!(health.head.contains("connection: close"), "{}", health.head);
    assert!(begun.elapsed() < PROMPT, "{:?}", begun.elapsed());
    drop(busy);
    tokio::time::timeout(DEADLINE, async {
        while api.get("/api/databases").await.status != 200 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("there are places again");
}
