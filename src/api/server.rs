//! Serves connections: how large a request's head is, and how long each may take or stand still.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::task::JoinSet;
use warp::http::header::{CONNECTION, HeaderValue};

use super::access::Asker;
use super::connections::{Connections, Place};
use super::listen::{Listener, Stream};
use super::peer::Peer;
use super::replies::Reply;
use super::stalls::Unstalled;
use super::{State, calls};

/// Bytes of a request's line and headers.
const MAX_HEAD: usize = 16 << 10;
const MAX_HEADERS: usize = 64;
/// A client that has not sent its whole head by then is cut off; also the longest idle time.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// One who takes nothing of an answer for so long is cut off.
const STALL_TIMEOUT: Duration = Duration::from_secs(15);
/// No connection lives longer, so that one who takes a byte now and then can't keep it.
const CONNECTION_LIFETIME: Duration = Duration::from_secs(3600);
/// One that is spare gives its place back soon.
const SPARE_LIFETIME: Duration = Duration::from_secs(3);
/// For answers that are under way when the server ends.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(3);
/// Pause after a failed accept, which mostly means that descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// What answers requests.
trait Answers:
    Service<Request<Incoming>, Response = Reply, Error = Infallible, Future: Send + 'static>
    + Send
    + 'static
{
}

impl<S> Answers for S where
    S: Service<Request<Incoming>, Response = Reply, Error = Infallible, Future: Send + 'static>
        + Send
        + 'static
{
}

/// Serves until `shutdown` completes.
pub async fn serve(listener: Listener, state: Arc<State>, shutdown: impl Future<Output = ()>) {
    let service = TowerToHyperService::new(warp::service(calls::filter(state.clone())));
    let mut builder = Builder::new(TokioExecutor::new()).http1_only();
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS);
    let by_socket = matches!(listener, Listener::Unix(..));
    let places = Connections::default();
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    tokio::pin!(shutdown);
    let mut is_refusing = false;
    loop {
        let (stream, peer) = tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => continue,
            accepted = accept(&listener, &mut is_refusing) => accepted,
        };
        let (admitted, cut_off) = places.admit(peer);
        let asker = Asker {
            connection: Arc::new(admitted),
            by_socket,
        };
        let lifetime = match asker.connection.place {
            Place::Regular => CONNECTION_LIFETIME,
            Place::Spare => SPARE_LIFETIME,
        };
        let service = with_asker(service.clone(), asker);
        let connection = builder
            .serve_connection(TokioIo::new(Unstalled::new(stream, STALL_TIMEOUT)), service)
            .into_owned();
        let connection = graceful.watch(connection);
        connections.spawn(async move {
            tokio::select! {
                ended = connection => if let Err(error) = ended {
                    tracing::debug!(%error, "API connection ended");
                },
                () = tokio::time::sleep(lifetime) => {
                    tracing::debug!("API connection cut off at its lifetime");
                }
                _ = cut_off => tracing::debug!("API connection cut off for another one"),
            }
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

/// Tells the service with each request who asks. A connection that is spare has one request.
fn with_asker<S>(service: S, asker: Asker) -> impl Answers
where
    S: Answers + Clone,
{
    service_fn(move |mut request: Request<Incoming>| {
        asker.connection.asked();
        let is_last = asker.connection.place == Place::Spare;
        request.extensions_mut().insert(asker.clone());
        let answer = service.call(request);
        async move {
            let mut reply = answer.await?;
            if is_last {
                let close = HeaderValue::from_static("close");
                reply.headers_mut().insert(CONNECTION, close);
            }
            Ok(reply)
        }
    })
}

/// The next connection.
async fn accept(listener: &Listener, is_refusing: &mut bool) -> (Box<dyn Stream>, Peer) {
    loop {
        match listener.accept().await {
            Ok(accepted) => {
                *is_refusing = false;
                return accepted;
            }
            Err(error) => {
                // Once until one is accepted.
                if !std::mem::replace(is_refusing, true) {
                    tracing::warn!(%error, "API connections are not accepted");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
