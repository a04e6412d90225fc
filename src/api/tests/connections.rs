//! Connections: what is cut off, and how they end.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{DEADLINE, Served};

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
