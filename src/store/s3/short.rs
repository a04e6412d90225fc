//! The short way of a small object into the bucket: what the SDK makes anew for each request is kept of one that it has
//! made. Its own parts do the rest: keys and their renewal, signature, connections, and the reading of an answer that is
//! no success.
//!
//! A way is learnt from a request of the SDK that was carried out, and forgotten at the first that fails: whatever there
//! is to be done then (other keys, a connection that is no good any more), the SDK does with the next one.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use aws_runtime::auth::SigV4OperationSigningConfig;
use aws_runtime::auth::sigv4::SCHEME_ID;
use aws_sdk_s3::config::endpoint::Endpoint;
use aws_sdk_s3::config::http::{HttpRequest, HttpResponse};
use aws_sdk_s3::config::interceptors::BeforeTransmitInterceptorContextRef;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    ConfigBag, FrozenLayer, Intercept, Layer, RuntimeComponents, RuntimePlugin,
};
use aws_sdk_s3::error::{BoxError, ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::put_object::{PutObject, PutObjectError};
use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use aws_smithy_runtime_api::client::auth::{AuthScheme, AuthSchemeEndpointConfig};
use aws_smithy_runtime_api::client::connection::CaptureSmithyConnection;
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::identity::ResolveCachedIdentity;
use aws_smithy_runtime_api::client::ser_de::{DeserializeResponse, SharedResponseDeserializer};
use aws_smithy_types::{Document, base64};
use aws_types::SigningName;
use aws_types::region::SigningRegion;
use bytes::Bytes;
use crc_fast::CrcAlgorithm;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::connect::ATTEMPT_TIMEOUT;
use super::learnt::Manner;

/// What the SDK leaves as it is in the path of a key.
const IN_PATH: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'/');
const CHECKSUM: &str = "x-amz-checksum-crc32";
/// Of each request alike, and signed.
const SIGNED: [&str; 6] = [
    "content-type",
    "if-none-match",
    "x-amz-sdk-checksum-algorithm",
    "x-amz-server-side-encryption",
    "x-amz-server-side-encryption-aws-kms-key-id",
    "x-goog-if-generation-match",
];
const USER_AGENT: &str = "user-agent";
/// Of each request its own, or made by the signer, or left out: what the SDK says of itself beside `user-agent`.
const OTHERS: [&str; 8] = [
    "amz-sdk-invocation-id",
    "authorization",
    "content-length",
    "x-amz-content-sha256",
    "x-amz-date",
    "x-amz-security-token",
    "x-amz-user-agent",
    CHECKSUM,
];
const SIGNATURE: &str = "AWS4-HMAC-SHA256 ";
const HEX_DIGITS_OF_SHA256: usize = 64;

pub(super) type PutError = SdkError<PutObjectError, HttpResponse>;

/// A way that was learnt.
#[derive(Debug)]
pub(super) struct ShortWay {
    /// What stands before and after the key.
    address: (String, String),
    signed: Vec<(&'static str, String)>,
    user_agent: Option<String>,
    has_checksum: bool,
    endpoint: Endpoint,
    components: RuntimeComponents,
    /// What the signer has to know.
    signing: FrozenLayer,
    connector: SharedHttpConnector,
}

impl ShortWay {
    /// Learns from a signed request for `key`; none where it has anything that is not known here.
    fn learn(
        key: &str,
        request: &HttpRequest,
        components: &RuntimeComponents,
        config: &ConfigBag,
    ) -> Option<Self> {
        let (path, query) = match request.uri().split_once('?') {
            Some((path, query)) => (path, format!("?{query}")),
            None => (request.uri(), String::new()),
        };
        let before = path.strip_suffix(&in_path(key))?;
        let mut signed = Vec::new();
        for (name, value) in request.headers().iter() {
            match SIGNED.iter().find(|signed| **signed == name) {
                Some(known) => signed.push((*known, value.to_owned())),
                None if name == USER_AGENT || OTHERS.contains(&name) => {}
                None => return None,
            }
        }
        let header = |name: &str| request.headers().get(name).unwrap_or_default();
        let is_whole_signed = header("authorization").starts_with(SIGNATURE)
            && header("x-amz-content-sha256").len() == HEX_DIGITS_OF_SHA256;
        let endpoint = config.load::<Endpoint>()?.clone();
        let is_plain = !endpoint.properties().contains_key("backend");
        scheme_of(&endpoint)
            .filter(|_| request.method() == "PUT" && is_whole_signed && is_plain)?;

        let mut signing = Layer::new("ShortWay");
        signing.store_put(config.load::<SigV4OperationSigningConfig>()?.clone());
        signing.store_or_unset(config.load::<SigningName>().cloned());
        signing.store_or_unset(config.load::<SigningRegion>().cloned());
        let times = config.load::<TimeoutConfig>()?;
        let mut settings = HttpConnectorSettings::builder();
        settings.set_connect_timeout(times.connect_timeout());
        settings.set_read_timeout(times.read_timeout());
        let client = components.http_client()?;
        Some(Self {
            address: (before.to_owned(), query),
            signed,
            user_agent: request.headers().get(USER_AGENT).map(str::to_owned),
            has_checksum: request.headers().contains_key(CHECKSUM),
            endpoint,
            components: components.clone(),
            signing: signing.freeze(),
            connector: client.http_connector(&settings.build(), components),
        })
    }

    /// Stores a new object; none where nothing was sent, which the SDK may do, or say why not.
    pub async fn put(&self, key: &str, bytes: &Bytes) -> Option<Result<(), PutError>> {
        let mut config = ConfigBag::base();
        config.push_shared_layer(self.signing.clone());
        let sent = async {
            let mut request = self.request(key, bytes, &config).await?;
            let used = CaptureSmithyConnection::new();
            request.add_extension(used.clone());
            let answer = self.connector.call(request).await;
            let read = match answer {
                Ok(answer) => read(answer).await,
                Err(error) => Err(SdkError::dispatch_failure(error)),
            };
            if read.as_ref().is_err_and(is_better_off_elsewhere)
                && let Some(connection) = used.get()
            {
                connection.poison();
            }
            Some(read)
        };
        let sent = tokio::time::timeout(ATTEMPT_TIMEOUT, sent).await;
        sent.unwrap_or_else(|elapsed| Some(Err(SdkError::timeout_error(elapsed))))
    }

    /// A signed request.
    async fn request(&self, key: &str, bytes: &Bytes, config: &ConfigBag) -> Option<HttpRequest> {
        let (before, after) = &self.address;
        let mut request = HttpRequest::new(SdkBody::from(bytes.clone()));
        request.set_method("PUT").ok()?;
        let address = format!("{before}{}{after}", in_path(key));
        request.set_uri(address).ok()?;
        let headers = request.headers_mut();
        for (name, value) in &self.signed {
            headers.try_insert(*name, value.clone()).ok()?;
        }
        if self.has_checksum {
            headers.try_insert(CHECKSUM, checksum(bytes)).ok()?;
        }
        let scheme = self.components.auth_scheme(SCHEME_ID)?;
        let keys = scheme.identity_resolver(&self.components)?;
        let cache = self.components.identity_cache();
        let identity = cache.resolve_cached_identity(keys, &self.components, config);
        let identity = identity.await.ok()?;
        let place = scheme_of(&self.endpoint)?;
        let signer = scheme.signer();
        signer
            .sign_http_request(&mut request, &identity, place, &self.components, config)
            .ok()?;
        // The signature says what the body is, and so how long; each further header that it is over takes time.
        let headers = request.headers_mut();
        let length = bytes.len().to_string();
        headers.try_insert("content-length", length).ok()?;
        if let Some(user_agent) = &self.user_agent {
            headers.try_insert(USER_AGENT, user_agent.clone()).ok()?;
        }
        Some(request)
    }
}

/// What an answer means.
async fn read(mut answer: HttpResponse) -> Result<(), PutError> {
    let body = std::mem::replace(answer.body_mut(), SdkBody::taken());
    match ByteStream::new(body).collect().await {
        Ok(body) => *answer.body_mut() = SdkBody::from(body.into_bytes()),
        Err(error) => return Err(SdkError::response_error(error, answer)),
    }
    match answer.status().is_success() {
        true => Ok(()),
        false => Err(refused(answer)),
    }
}

/// What the SDK reads in an answer that is no success.
fn refused(answer: HttpResponse) -> PutError {
    let mut config = ConfigBag::base();
    if let Some(own) = PutObject::new().config() {
        config.push_shared_layer(own);
    }
    let Some(reader) = config.load::<SharedResponseDeserializer>() else {
        return SdkError::response_error("nothing reads the answer", answer);
    };
    let read = reader.deserialize_nonstreaming_with_config(&answer, &config);
    let mut told = None;
    let error = read.err().map(|error| {
        error.map_operation_error(|error| told = error.downcast::<PutObjectError>().ok())
    });
    match (told, error) {
        (Some(told), _) => SdkError::service_error(told, answer),
        (None, Some(error)) => SdkError::response_error(error.to_string(), answer),
        (None, None) => SdkError::response_error("neither success nor refusal", answer),
    }
}

/// Whether the next request is not to take the same connection, which may lead to the one server of many that is ill. As the
/// SDK has it, not where the store as a whole wants fewer requests.
fn is_better_off_elsewhere(error: &PutError) -> bool {
    let code = error.as_service_error().and_then(|error| error.code());
    let status = error.raw_response().map(|answer| answer.status());
    match (status, code) {
        (_, Some("RequestTimeout")) | (None, _) => true,
        (_, Some("SlowDown")) => false,
        (Some(status), _) => status.is_server_error(),
    }
}

fn in_path(key: &str) -> String {
    utf8_percent_encode(key, IN_PATH).to_string()
}

fn checksum(bytes: &[u8]) -> String {
    let sum = crc_fast::checksum(CrcAlgorithm::Crc32IsoHdlc, bytes);
    base64::encode((sum as u32).to_be_bytes())
}

/// How an endpoint wants to have its requests signed, where that is the usual way.
fn scheme_of(endpoint: &Endpoint) -> Option<AuthSchemeEndpointConfig<'_>> {
    let typed = endpoint.auth_schemes();
    if let Some(first) = typed.first() {
        let is_it = first.name() == SCHEME_ID.inner();
        return is_it.then(|| AuthSchemeEndpointConfig::from_typed(first));
    }
    let Some(Document::Array(schemes)) = endpoint.properties().get("authSchemes") else {
        return None;
    };
    let first = schemes.first()?;
    let name = first.as_object()?.get("name")?.as_string()?;
    (name == SCHEME_ID.inner()).then(|| AuthSchemeEndpointConfig::from(Some(first)))
}

/// What a way is good for: the client that it was learnt of, by its number, and what its requests have.
pub(super) type Purpose = (u64, Manner);

/// The way that was learnt last.
#[derive(Debug, Default)]
pub(super) struct Known(Mutex<Option<(Purpose, Arc<ShortWay>)>>);

impl Known {
    pub fn get(&self, purpose: Purpose) -> Option<Arc<ShortWay>> {
        let known = self.lock();
        let (_, way) = known.as_ref().filter(|(of, _)| *of == purpose)?;
        Some(way.clone())
    }

    pub fn keep(&self, purpose: Purpose, way: Option<ShortWay>) {
        if let Some(way) = way {
            *self.lock() = Some((purpose, Arc::new(way)));
        }
    }

    /// That one failed; another may be known by now.
    pub fn forget(&self, failed: &Arc<ShortWay>) {
        let mut known = self.lock();
        if known
            .as_ref()
            .is_some_and(|(_, way)| Arc::ptr_eq(way, failed))
        {
            *known = None;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<(Purpose, Arc<ShortWay>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Learns from a request that is given what `hears`.
#[derive(Debug, Default)]
pub(super) struct Lesson(Arc<Mutex<Option<ShortWay>>>);

impl Lesson {
    pub fn hears(&self, key: &str) -> Listener {
        Listener {
            key: key.to_owned(),
            lesson: Arc::downgrade(&self.0),
        }
    }

    /// What was learnt; none where the request is not one that could be made here.
    pub fn learnt(self) -> Option<ShortWay> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A way has all that its request was made with, and so this; it must not keep the way in turn.
#[derive(Debug)]
pub(super) struct Listener {
    key: String,
    lesson: Weak<Mutex<Option<ShortWay>>>,
}

impl Intercept for Listener {
    fn name(&self) -> &'static str {
        "Listener"
    }

    fn read_after_signing(
        &self,
        context: &BeforeTransmitInterceptorContextRef<'_>,
        components: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if let Some(lesson) = self.lesson.upgrade() {
            let way = ShortWay::learn(&self.key, context.request(), components, config);
            *lesson.lock().unwrap_or_else(PoisonError::into_inner) = way;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
