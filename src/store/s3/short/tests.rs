//! What goes the short way is what the SDK sends.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, SystemTime};

use aws_credential_types::provider::{ProvideCredentials, future};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::Builder;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Credentials, Region, RequestChecksumCalculation, SharedHttpClient,
};
use aws_smithy_runtime_api::client::http::HttpConnectorFuture;

use super::super::learnt::Condition;
use super::super::{AskedEncryption, S3Store};
use super::*;
use crate::store::spec::{Encryption, EncryptionAlgorithm};
use crate::store::{Body, ObjectStore, Put, StoreError};

const TIME_LIMIT: Duration = Duration::from_secs(20);
const INVOCATION: &str = "amz-sdk-invocation-id";
const ATTEMPT: &str = "amz-sdk-request";
const OF_SDK: &str = "x-amz-user-agent";
const CREATED: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

/// A request as it came: its first line, its headers, its body.
#[derive(Debug)]
struct Came {
    /// By which connection.
    from: SocketAddr,
    line: String,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Came {
    /// Whether the SDK made it.
    fn is_of_sdk(&self) -> bool {
        self.headers.contains_key(INVOCATION)
    }

    /// All that is the same in each request of the same object: not what has the moment in it, or tells of the SDK and its
    /// attempts.
    fn lasting(&self) -> BTreeMap<&str, &str> {
        let others = [INVOCATION, ATTEMPT, OF_SDK, "x-amz-date", "authorization"];
        let headers = self.headers.iter();
        headers
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .filter(|(name, _)| !others.contains(name))
            .collect()
    }

    /// But for those that need not be signed.
    fn signed_headers(&self) -> Vec<&str> {
        let (_, list) = self.headers["authorization"]
            .split_once("SignedHeaders=")
            .expect("a signature");
        let (list, _) = list.split_once(',').expect("more");
        let others = [INVOCATION, OF_SDK, "content-length"];
        let names = list.split(';');
        names.filter(|name| !others.contains(name)).collect()
    }
}

/// A server that gives these answers, one after another, and tells what came.
fn serve(answers: Vec<&'static str>) -> (String, Receiver<Came>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
    let address = format!("http://{}", listener.local_addr().expect("bound"));
    let (told, came) = channel();
    std::thread::spawn(move || {
        let mut answers = answers.into_iter();
        for connection in listener.incoming() {
            let connection = connection.expect("a connection");
            if !answer(connection, &mut answers, &told) {
                return;
            }
        }
    });
    (address, came)
}

/// Until there is no further answer, which is false, or no further request.
fn answer(
    connection: TcpStream,
    answers: &mut impl Iterator<Item = &'static str>,
    told: &Sender<Came>,
) -> bool {
    let from = connection.peer_addr().expect("a connection");
    let mut reader = BufReader::new(connection.try_clone().expect("a copy"));
    let mut writer = connection;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return true;
        }
        let mut headers = BTreeMap::new();
        loop {
            let mut header = String::new();
            reader.read_line(&mut header).expect("a header");
            let Some((name, value)) = header.trim_end().split_once(": ") else {
                break;
            };
            headers.insert(name.to_ascii_lowercase(), value.to_owned());
        }
        let len = headers.get("content-length");
        let len = len.map_or(0, |len| len.parse().expect("a number"));
        let mut body = vec![0; len];
        reader.read_exact(&mut body).expect("a body");
        let Some(answer) = answers.next() else {
            return false;
        };
        let line = line.trim_end().to_owned();
        told.send(Came {
            from,
            line,
            headers,
            body,
        })
        .expect("waits");
        writer.write_all(answer.as_bytes()).expect("answered");
    }
}

/// Such as are good for a session.
fn keys() -> Credentials {
    let token = Some("a token".to_owned());
    Credentials::new("AKIATEST", "a-secret-of-tests", token, None, "tests")
}

/// A store there, as it is at AWS: with checksums, and keys that are good for a session.
fn store(endpoint: &str) -> S3Store {
    let http: SharedHttpClient = aws_smithy_http_client::Builder::new().build_http();
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .endpoint_url(endpoint)
        .region(Region::new("eu-central-1"))
        .credentials_provider(keys())
        .http_client(http)
        .retry_config(RetryConfig::disabled())
        .request_checksum_calculation(RequestChecksumCalculation::WhenSupported)
        .force_path_style(true);
    let encryption = Encryption {
        algorithm: EncryptionAlgorithm::Kms,
        kms_key_id: Some("a-key".to_owned()),
    };
    let client = Client::from_conf(config.build());
    S3Store {
        prefix: "a prefix".to_owned(),
        encryption: AskedEncryption::from(&encryption),
        ..S3Store::of_client(client, "replicas")
    }
}

fn next(came: &Receiver<Came>) -> Came {
    came.recv_timeout(TIME_LIMIT).expect("a request")
}

#[tokio::test]
async fn what_goes_the_short_way_is_what_the_sdk_sends() {
    let (endpoint, came) = serve(vec![CREATED; 3]);
    let store = store(&endpoint);
    let key = "a/b ~é+%'()!*,;:@&=$/c.d_e-f";
    let body = Body::Bytes(Bytes::from_static(b"some bytes"));
    let other = Body::Bytes(Bytes::from_static(b"others"));
    for body in [&body, &body, &other] {
        let put = store.put_new(key, body).await.expect("stored");
        assert_eq!(put, Put::Created);
    }
    let (first, second, third) = (next(&came), next(&came), next(&came));
    assert!(first.is_of_sdk());
    assert!(!second.is_of_sdk() && !third.is_of_sdk());
    assert_eq!(first.line, second.line);
    assert_eq!(first.lasting(), second.lasting());
    assert_eq!(first.signed_headers(), second.signed_headers());
    assert_eq!(first.body, second.body);
    for name in [
        "if-none-match",
        "x-amz-server-side-encryption",
        "x-amz-server-side-encryption-aws-kms-key-id",
        "x-amz-security-token",
        CHECKSUM,
    ] {
        assert!(second.headers.contains_key(name), "{name}: {second:?}");
    }
    assert_ne!(third.headers[CHECKSUM], second.headers[CHECKSUM]);
    assert_eq!(third.headers["content-length"], "6");
    assert_eq!(third.body, b"others");
}

/// What fails is told as the SDK tells it, its connection is kept where the SDK keeps it, and the next one is the SDK's again.
#[tokio::test]
async fn what_fails_the_short_way_means_what_it_does_to_the_sdk() {
    let refusals = [
        ("503 Slow Down", "SlowDown"),
        ("503 Service Unavailable", "ServiceUnavailable"),
        ("400 Bad Request", "RequestTimeout"),
        ("500 Internal", "InternalError"),
        ("403 Forbidden", "AccessDenied"),
        ("403 Forbidden", "RequestTimeTooSkewed"),
        ("404 Not Found", "NoSuchBucket"),
        ("409 Conflict", "OperationAborted"),
        ("400 Bad Request", "nonsense"),
    ];
    for (status, code) in refusals {
        let text = format!("<Error><Code>{code}</Code><Message>why not</Message></Error>");
        let text = if code == "nonsense" {
            "no XML".to_owned()
        } else {
            text
        };
        let refusal = format!(
            "HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{text}",
            text.len()
        );
        let refusal: &'static str = refusal.leak();
        let (endpoint, came) = serve(vec![refusal, CREATED, refusal, CREATED, CREATED]);
        let store = store(&endpoint);
        let body = Bytes::from_static(b"some bytes");
        let mut told = Vec::new();
        let mut connections = Vec::new();
        for is_of_sdk in [true, true, false, true, false] {
            let body = Body::Bytes(body.clone());
            let sent = store.upload("a/b", &body, Condition::IfNoneMatch).await;
            told.push(sent.map_err(|refused| match refused {
                super::super::upload::Refused::Precondition => "precondition".to_owned(),
                super::super::upload::Refused::Conflict => "conflict".to_owned(),
                super::super::upload::Refused::Checksum(error)
                | super::super::upload::Refused::Other(error) => format!("{error:?}"),
            }));
            let came = next(&came);
            assert_eq!(came.is_of_sdk(), is_of_sdk, "{code}");
            connections.push(came.from);
        }
        assert!(told[0].is_err());
        assert_eq!(told[0], told[2]);
        let is_kept = |after: usize| connections[after] == connections[after + 1];
        assert_eq!(is_kept(0), is_kept(2), "{code}");
        assert!(told[1].is_ok() && told[3].is_ok() && told[4].is_ok());
    }
}

/// What is there already is no failure of the way.
#[tokio::test]
async fn an_object_that_is_there_leaves_the_short_way_known() {
    let exists = "HTTP/1.1 412 Precondition Failed\r\ncontent-length: 0\r\n\r\n";
    // Whether there is one is looked for in between.
    let (endpoint, came) = serve(vec![CREATED, exists, CREATED, CREATED]);
    let store = store(&endpoint);
    let body = Body::Bytes(Bytes::from_static(b"some bytes"));
    for (is_of_sdk, expected) in [
        (true, Put::Created),
        (false, Put::Exists),
        (false, Put::Created),
    ] {
        let put: Result<Put, StoreError> = store.put_new("a/b", &body).await;
        assert_eq!(put.expect("an answer"), expected);
        assert_eq!(next(&came).is_of_sdk(), is_of_sdk);
        if expected == Put::Exists {
            assert!(next(&came).line.starts_with("HEAD "));
        }
    }
}

/// What would have been sent to a server that is not there.
#[derive(Clone, Debug, Default)]
struct Nobody {
    came: Arc<Mutex<Vec<HttpRequest>>>,
    status: u16,
}

impl Nobody {
    fn answering(status: u16) -> Self {
        Self {
            status,
            ..Self::default()
        }
    }

    fn requests(&self) -> MutexGuard<'_, Vec<HttpRequest>> {
        self.came.lock().expect("no panic")
    }
}

impl HttpConnector for Nobody {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        self.requests().push(request);
        let status = self.status.try_into().expect("a status");
        HttpConnectorFuture::ready(Ok(HttpResponse::new(status, SdkBody::empty())))
    }
}

impl HttpClient for Nobody {
    fn http_connector(
        &self,
        _: &HttpConnectorSettings,
        _: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

/// A store at AWS itself.
fn store_at_aws(bucket: &str, nobody: &Nobody, change: impl FnOnce(Builder) -> Builder) -> S3Store {
    let builder = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-central-1"))
        .credentials_provider(keys())
        .http_client(nobody.clone())
        .retry_config(RetryConfig::disabled());
    S3Store::of_client(Client::from_conf(change(builder).build()), bucket)
}

type Change = fn(Builder) -> Builder;

/// Over TLS the SDK sends the same, and so does what goes the short way, to whichever of AWS's addresses.
#[tokio::test]
async fn at_aws_itself_it_goes_the_short_way_as_well() {
    let same: Change = |builder| builder;
    let places: [(&str, Change, &str); 6] = [
        (
            "replicas",
            same,
            "https://replicas.s3.eu-central-1.amazonaws.com/",
        ),
        (
            "re.pli.cas",
            same,
            "https://s3.eu-central-1.amazonaws.com/re.pli.cas/",
        ),
        (
            "replicas",
            |b| b.force_path_style(true),
            "https://s3.eu-central-1.amazonaws.com/replicas/",
        ),
        (
            "replicas",
            |b| b.use_dual_stack(true),
            "https://replicas.s3.dualstack.eu-central-1.amazonaws.com/",
        ),
        (
            "replicas",
            |b| b.use_fips(true).region(Region::new("us-east-1")),
            "https://replicas.s3-fips.us-east-1.amazonaws.com/",
        ),
        (
            "replicas",
            |b| b.accelerate(true),
            "https://replicas.s3-accelerate.amazonaws.com/",
        ),
    ];
    for (bucket, change, address) in places {
        let nobody = Nobody::answering(200);
        let store = store_at_aws(bucket, &nobody, change);
        for _ in 0..2 {
            let body = Body::Bytes(Bytes::from_static(b"some bytes"));
            store
                .put_new("a/b \"<>[\\]^`{|}#?c", &body)
                .await
                .expect("stored");
        }
        let requests = nobody.requests();
        let [first, second] = &requests[..] else {
            panic!("{requests:?}");
        };
        assert!(second.uri().starts_with(address), "{}", second.uri());
        assert_eq!(first.uri(), second.uri());
        assert!(first.headers().contains_key(INVOCATION));
        assert!(!second.headers().contains_key(INVOCATION), "{second:?}");
        for name in [
            "x-amz-content-sha256",
            CHECKSUM,
            "x-amz-security-token",
            "if-none-match",
        ] {
            assert_eq!(first.headers().get(name), second.headers().get(name));
            assert!(second.headers().contains_key(name), "{name}");
        }
    }
}

/// The way has what the SDK's request was made with, which must not keep the way in turn.
#[tokio::test]
async fn a_request_that_fails_keeps_no_memory() {
    for status in [200, 503] {
        let nobody = Nobody::answering(status);
        let store = store_at_aws("replicas", &nobody, |builder| builder);
        for _ in 0..3 {
            let body = Body::Bytes(Bytes::from_static(b"some bytes"));
            let put = store.put_new("a/b", &body).await;
            assert_eq!(put.is_ok(), status == 200);
        }
        drop(store);
        nobody.requests().clear();
        assert_eq!(Arc::strong_count(&nobody.came), 1, "{status}");
    }
}

/// Keys that are good for a moment only, each other than those before.
#[derive(Debug, Default)]
struct Short(AtomicU32);

impl ProvideCredentials for Short {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        let number = self.0.fetch_add(1, Ordering::Relaxed);
        let (id, token) = (format!("AKIA{number}"), format!("token {number}"));
        let end = SystemTime::now() + Duration::from_millis(1);
        let keys = Credentials::new(id, "a-secret-of-tests", Some(token), Some(end), "tests");
        future::ProvideCredentials::ready(Ok(keys))
    }
}

#[tokio::test]
async fn keys_are_renewed_on_the_short_way_as_well() {
    let nobody = Nobody::answering(200);
    let store = store_at_aws("replicas", &nobody, |builder| {
        builder.credentials_provider(Short::default())
    });
    for number in 0..3 {
        let body = Body::Bytes(Bytes::from_static(b"some bytes"));
        store.put_new("a/b", &body).await.expect("stored");
        let request = nobody.requests().pop().expect("it was sent");
        let header = |name: &str| request.headers().get(name).expect("it has it");
        assert!(header("authorization").contains(&format!("AKIA{number}/")));
        assert_eq!(header("x-amz-security-token"), format!("token {number}"));
        assert_eq!(request.headers().contains_key(INVOCATION), number == 0);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_way_shows_no_keys() {
    let nobody = Nobody::answering(200);
    let store = store_at_aws("replicas", &nobody, |builder| builder);
    let body = Body::Bytes(Bytes::from_static(b"some bytes"));
    store.put_new("a/b", &body).await.expect("stored");
    nobody.requests().clear();
    let purpose = (0, store.learnt.manner(Condition::IfNoneMatch));
    let shown = format!("{:?}", store.short_way.get(purpose).expect("it is learnt"));
    assert!(shown.contains("if-none-match"), "{shown}");
    for secret in ["a-secret-of-tests", "a token", "Signature="] {
        assert!(!shown.contains(secret), "{secret}: {shown}");
    }
}

/// As servers do with connections that are idle for long.
#[tokio::test]
async fn a_connection_that_was_closed_meanwhile_is_not_felt() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
    let endpoint = format!("http://{}", listener.local_addr().expect("bound"));
    let (told, came) = channel();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            // It ends with the first answer.
            let (told, connection) = (told.clone(), connection.expect("a connection"));
            let mut closing = std::iter::once(CREATED);
            let copy = connection.try_clone().expect("a copy");
            let served = std::thread::spawn(move || answer(copy, &mut closing, &told));
            std::thread::sleep(Duration::from_millis(20));
            connection.shutdown(Shutdown::Both).expect("closed");
            served.join().expect("served");
        }
    });
    let store = store(&endpoint);
    for is_of_sdk in [true, false, false, false] {
        let body = Body::Bytes(Bytes::from_static(b"some bytes"));
        store.put_new("a/b", &body).await.expect("stored");
        assert_eq!(next(&came).is_of_sdk(), is_of_sdk);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
