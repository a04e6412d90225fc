//! Serves connections: a bound on how many, how large a request's head is, and how long each may take or stand still.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use super::stalls::Unstalled;
use super::{State, calls};

/// Connections at one time; further ones wait in the kernel's backlog.
const MAX_CONNECTIONS: usize = 256;
/// Bytes of a request's line and headers.
const MAX_HEAD: usize = 16 << 10;
const MAX_HEADERS: usize = 64;
/// A client that has not sent its whole head by then is cut off; also the longest idle time.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);
/// One who takes nothing of an answer for so long is cut off.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// No connection lives longer, so that one who takes a byte now and then can't keep it.
const CONNECTION_LIFETIME: Duration = Duration::from_secs(3600);
/// For answers that are under way when the server ends.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(3);
/// Pause after a failed accept, which mostly means that descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Serves until `shutdown` completes.
pub async fn serve(listener: TcpListener, state: Arc<State>, shutdown: impl Future<Output = ()>) {
    let service = warp::service(calls::filter(state.clone()));
    let mut builder = Builder::new(TokioExecutor::new()).http1_only();
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS);
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    tokio::pin!(shutdown);
    loop {
        let (stream, permit) = tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => continue,
            accepted = accept(&listener, &permits) => accepted,
        };
        let service = TowerToHyperService::new(service.clone());
        let connection = builder
            .serve_connection(TokioIo::new(Unstalled::new(stream, STALL_TIMEOUT)), service)
            .into_owned();
        let connection = graceful.watch(connection);
        connections.spawn(async move {
            match tokio::time::timeout(CONNECTION_LIFETIME, connection).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%error, "API connection ended"),
                Err(_) => tracing::debug!("API connection cut off at its lifetime"),
            }
            drop(permit);
        });
    }
    drop(listener);
    state.closing.send_replace(true);
    if tokio::time::timeout(SHUTDOWN_GRACE, graceful.shutdown())
        .await
        .is_err()
    {
        tracing::debug!("API answers cut off at shutdown");
    }
    connections.shutdown().await;
}

/// The next connection, once there may be another one.
async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> (TcpStream, OwnedSemaphorePermit) {
    let permit = permits
        .clone()
        .acquire_owned()
        .await
        .expect("BUG: the semaphore is never closed");
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return (stream, permit),
            Err(error) => {
                tracing::warn!(%error, "API connection not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
