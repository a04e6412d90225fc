//! Every request to each server through each fault: what it answers, within which time, and that afterwards all is
//! there as it was.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::{BoxFuture, join_all};
use litestream_multitenant::store::{Body, ObjectStore, Put, StoreError};
use tokio::io::AsyncReadExt;

use super::scratch::new_prefix;
use super::support::daemon::S3;
use super::support::proxy::{Fault, Proxy};
use super::support::servers::{Server, open};
use super::{body, keys, read};

/// Longer than what the SDK or the server sends in one piece.
const LONG: usize = 300_000;
/// A request is given up after half a minute.
const GIVEN_UP: Duration = Duration::from_secs(40);

/// A server that has two objects, behind a proxy.
struct Behind {
    server: Server,
    proxy: Proxy,
    store: Arc<dyn ObjectStore>,
}

impl Behind {
    async fn new(server: Server) -> Self {
        let proxy = Proxy::start(&server.store.endpoint, Fault::None);
        let behind = S3 {
            endpoint: proxy.endpoint.clone(),
            ..server.store.clone()
        };
        let store = open(&behind, &new_prefix()).await;
        for key in ["a/1", "a/2"] {
            store.put_new(key, &long()).await.expect("new");
        }
        // From here on few bytes go the short way.
        store.put_new("few", &few()).await.expect("new");
        store.delete(&["few".to_owned()]).await.expect("deleted");
        Self {
            server,
            proxy,
            store,
        }
    }

    /// Makes each kind of request while the fault lasts, all at once; what each came to, and after how long.
    async fn under(&self, fault: Fault) -> Vec<(&'static str, Result<(), StoreError>, Duration)> {
        self.proxy.set(fault);
        let store = &*self.store;
        let requests: [(&'static str, BoxFuture<'_, Result<(), StoreError>>); 9] = [
            ("put", Box::pin(put(store, "put/bytes", long()))),
            ("put of a file", Box::pin(put_file(store))),
            ("put of a few bytes", Box::pin(put(store, "put/few", few()))),
            ("get", Box::pin(get(store))),
            ("get of a range", Box::pin(get_range(store))),
            ("list", Box::pin(list(store))),
            ("list of folders", Box::pin(list_folders(store))),
            ("delete", Box::pin(delete(store))),
            ("now", Box::pin(now(store))),
        ];
        let timed = requests.map(|(name, request)| async move {
            let begun = Instant::now();
            (name, request.await, begun.elapsed())
        });
        let outcomes = join_all(timed).await;
        assert!(
            self.proxy.met() > 0,
            "{}: {fault:?} was never met",
            self.server.name
        );
        self.proxy.set(Fault::None);
        outcomes
    }

    /// What was there is there as it was, and what was to be stored can be.
    async fn assert_sound(&self) {
        let store = &*self.store;
        for key in ["a/1", "a/2"] {
            assert!(read(store, key).await == long_bytes(), "{key} was changed");
        }
        for key in ["put/bytes", "put/file"] {
            store.put_new(key, &long()).await.expect("stored");
            assert!(read(store, key).await == long_bytes(), "{key} is other");
        }
        store.put_new("put/few", &few()).await.expect("stored");
        assert!(read(store, "put/few").await == b"few", "it is other");
        assert_eq!(
            keys(store, "").await,
            ["a/1", "a/2", "put/bytes", "put/few", "put/file"],
            "{}",
            self.server.name
        );
    }
}

fn long_bytes() -> Vec<u8> {
    (0..LONG as u32).map(|n| (n % 251) as u8).collect()
}

fn long() -> Body {
    Body::Bytes(Bytes::from(long_bytes()))
}

fn few() -> Body {
    body("few")
}

async fn put(store: &dyn ObjectStore, key: &str, body: Body) -> Result<(), StoreError> {
    let put = store.put_new(key, &body).await?;
    assert_eq!(put, Put::Created, "{key}");
    Ok(())
}

async fn put_file(store: &dyn ObjectStore) -> Result<(), StoreError> {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), long_bytes()).expect("written");
    put(store, "put/file", Body::File(file.path().to_owned())).await
}

async fn get(store: &dyn ObjectStore) -> Result<(), StoreError> {
    let mut bytes = Vec::new();
    let mut object = store.get("a/1").await?;
    let read = object.read_to_end(&mut bytes).await;
    read.map_err(|error| StoreError::Unavailable {
        key: "a/1".to_owned(),
        reason: error.to_string(),
    })?;
    assert!(bytes == long_bytes(), "a short object was taken for whole");
    Ok(())
}

async fn get_range(store: &dyn ObjectStore) -> Result<(), StoreError> {
    let part = store.get_range("a/2", 1_000, 200_000).await?;
    assert!(part == long_bytes()[1_000..201_000], "another part");
    Ok(())
}

async fn list(store: &dyn ObjectStore) -> Result<(), StoreError> {
    let listed = store.list("a/").await?;
    assert_eq!(listed.len(), 2, "a part was taken for the whole listing");
    Ok(())
}

async fn list_folders(store: &dyn ObjectStore) -> Result<(), StoreError> {
    let folders = store.list_folders("").await?;
    assert!(folders.contains(&"a".to_owned()), "{folders:?}");
    Ok(())
}

async fn delete(store: &dyn ObjectStore) -> Result<(), StoreError> {
    store.delete(&["nothing".to_owned()]).await
}

async fn now(store: &dyn ObjectStore) -> Result<(), StoreError> {
    store.now("a/").await.map(drop)
}

/// Every request to each server fails as `expected` says, soon; afterwards all is as it was.
async fn each_fails(fault: Fault, expected: impl Fn(&StoreError) -> bool, soon: Duration) {
    for server in Server::all() {
        let behind = Behind::new(server).await;
        for (request, outcome, took) in behind.under(fault).await {
            let name = behind.server.name;
            let error = outcome.expect_err(&format!("{name}: {request} under {fault:?}"));
            assert!(expected(&error), "{name}: {request}: {error:?}");
            assert!(took < soon, "{name}: {request} took {took:?}");
        }
        behind.assert_sound().await;
    }
}

const SOON: Duration = Duration::from_secs(10);

fn unavailable(error: &StoreError) -> bool {
    matches!(error, StoreError::Unavailable { .. }) && error.is_retryable()
}

#[tokio::test]
async fn answers_that_come_late_are_waited_for() {
    const LATE: Duration = Duration::from_millis(800);
    for server in Server::all() {
        let behind = Behind::new(server).await;
        for (request, outcome, took) in behind.under(Fault::Delay(LATE)).await {
            outcome.expect(request);
            assert!(took >= LATE, "{request} took {took:?}");
        }
        behind.assert_sound().await;
    }
}

#[tokio::test]
async fn errors_of_the_server_are_worth_another_attempt() {
    for fault in [
        Fault::Answer(500, "InternalError"),
        Fault::Answer(503, "ServiceUnavailable"),
        Fault::Answer(502, ""),
    ] {
        each_fails(fault, unavailable, SOON).await;
    }
}

#[tokio::test]
async fn a_server_that_wants_fewer_requests_is_understood() {
    let throttled =
        |error: &StoreError| matches!(error, StoreError::Throttled { .. }) && error.is_retryable();
    for fault in [
        Fault::Answer(503, "SlowDown"),
        Fault::Answer(429, "TooManyRequests"),
    ] {
        each_fails(fault, throttled, SOON).await;
    }
}

#[tokio::test]
async fn connections_that_are_reset_are_worth_another_attempt() {
    each_fails(Fault::Reset, unavailable, SOON).await;
}

#[tokio::test]
async fn an_answer_that_is_cut_is_never_taken_for_whole() {
    each_fails(Fault::CutAnswers, unavailable, SOON).await;
}

#[tokio::test]
async fn without_an_answer_nobody_knows_whether_it_was_carried_out() {
    each_fails(Fault::LoseEveryAnswer, unavailable, SOON).await;
}

/// What was never acknowledged is there all the same, and the next attempt finds it.
#[tokio::test]
async fn a_lost_acknowledgement_is_found_by_the_next_attempt() {
    for server in Server::all() {
        let behind = Behind::new(server).await;
        for (request, outcome, _) in behind.under(Fault::LoseAcknowledgement).await {
            match request {
                "put" | "put of a file" | "put of a few bytes" => {
                    assert!(unavailable(&outcome.expect_err(request)))
                }
                _ => outcome.expect(request),
            }
        }
        let again = behind.store.put_new("put/bytes", &body("other")).await;
        if behind.server.is_create_only {
            assert_eq!(again.expect("an answer"), Put::Exists);
        }
        behind
            .store
            .delete(&["put/bytes".to_owned()])
            .await
            .expect("deleted");
        behind.assert_sound().await;
    }
}

/// Each server by itself, since it takes half a minute.
#[tokio::test]
async fn a_request_that_is_never_answered_is_given_up() {
    let each = Server::all().into_iter().map(|server| async {
        let behind = Behind::new(server).await;
        for (request, outcome, took) in behind.under(Fault::Hang).await {
            assert!(unavailable(&outcome.expect_err(request)), "{request}");
            assert!(took < GIVEN_UP, "{request} took {took:?}");
        }
        behind.assert_sound().await;
    });
    join_all(each).await;
}

#[tokio::test]
async fn a_clock_that_is_off_is_called_that() {
    for (ahead, said) in [
        (3_600, "s behind the store's"),
        (-86_400, "s ahead of the store's"),
    ] {
        let by_clock = |error: &StoreError| {
            let text = error.to_string();
            matches!(error, StoreError::ClockSkew { .. })
                && !error.is_retryable()
                && text.contains(said)
                && text.contains("set this machine's clock")
                && !text.contains("credentials")
        };
        each_fails(Fault::Skewed(ahead), by_clock, SOON).await;
    }
}
