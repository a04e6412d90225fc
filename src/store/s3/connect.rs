//! How an S3 server is reached: endpoint, region, credentials, proxies, trusted certificates, time limits.

use std::sync::{LazyLock, OnceLock};
use std::time::Duration;

use aws_config::environment::EnvironmentVariableRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::ProfileFileRegionProvider;
use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, ConfigLoader, Region, SdkConfig};
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::http::HttpRequest;
use aws_sdk_s3::config::{
    Credentials, IdentityCache, RequestChecksumCalculation, ResponseChecksumValidation,
    SharedHttpClient,
};
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{TlsContext, TrustStore};
use aws_smithy_http_client::{Builder, Connector, ConnectorBuilder, tls};
use aws_smithy_runtime_api::client::http::HttpConnectorSettings;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_types::service_config::ServiceConfigKey;
use md5::Digest;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::store::spec::S3Options;

/// Where an own server is given and nothing says its region.
const DEFAULT_REGION: &str = "us-east-1";
/// Names a file with the certificates that are trusted instead of this machine's, as AWS's own tools have it.
const CA_BUNDLE: &str = "AWS_CA_BUNDLE";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// For a request with everything but a large body.
pub(super) const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a transfer may make no progress.
const STALL_GRACE: Duration = Duration::from_secs(20);

/// One pool of connections for all stores of the process; or what is wrong with the certificates to trust.
static HTTPS: OnceLock<Result<SharedHttpClient, String>> = OnceLock::new();
/// For servers without TLS, which then need no root certificates on this machine.
static HTTP: LazyLock<SharedHttpClient> = LazyLock::new(|| {
    Builder::new().build_with_connector_fn(|settings, components| {
        connector(settings, components).build_http()
    })
});

/// A client and where its keys come from.
pub(super) struct Connected {
    pub client: Client,
    /// Where the keys come from the SDK's chain, which reads each source once.
    pub chain: Option<SharedCredentialsProvider>,
    /// The server is AWS's own.
    pub is_aws: bool,
}

/// A client that repeats nothing; the error says which option is wrong.
pub(super) async fn connect(options: &S3Options) -> Result<Connected, String> {
    if let Some(endpoint) = &options.endpoint {
        check_endpoint(endpoint)?;
    }
    let shared = loader(options)?.load().await;
    let endpoint = match &options.endpoint {
        Some(endpoint) => Some(endpoint.clone()),
        None => endpoint_of_the_environment(&shared),
    };
    let mut config = aws_sdk_s3::config::Builder::from(&shared)
        // The SDK would sign by the clock of the last answer, and nobody would learn that ours is wrong, which dates what
        // is stored.
        .disable_clock_skew_correction(true)
        .force_path_style(options.path_style.unwrap_or(endpoint.is_some()));
    if shared.region().is_none() {
        if endpoint.is_none() {
            return Err(
                "no region is known: give -region, or s3.region in the configuration".to_owned(),
            );
        }
        config = config.region(Region::new(DEFAULT_REGION));
    }
    let is_aws = endpoint.is_none();
    if let Some(endpoint) = endpoint {
        // Servers other than AWS's often don't know the newer checksums.
        config = config
            .endpoint_url(as_joined(&endpoint))
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
        if endpoint.starts_with("http://") {
            config = config.http_client(HTTP.clone());
        }
    }
    let is_chain = options.access_key.is_none();
    Ok(Connected {
        client: Client::from_conf(config.build()),
        chain: shared.credentials_provider().filter(|_| is_chain),
        is_aws,
    })
}

/// The SDK puts a bucket's name right behind the endpoint's path, whether or not that ends in a slash.
fn as_joined(endpoint: &str) -> String {
    let trimmed = endpoint.trim_end_matches('/');
    let host = trimmed.split_once("://").map_or(trimmed, |(_, host)| host);
    match host.contains('/') {
        true => format!("{trimmed}/"),
        false => trimmed.to_owned(),
    }
}

/// `AWS_ENDPOINT_URL_S3` or `AWS_ENDPOINT_URL`, or what the profile has in their places.
fn endpoint_of_the_environment(shared: &SdkConfig) -> Option<String> {
    let key = ServiceConfigKey::builder()
        .service_id("S3")
        .env("AWS_ENDPOINT_URL")
        .profile("endpoint_url")
        .build()
        .expect("BUG: all of a key");
    let of_s3 = shared
        .service_config()
        .and_then(|config| config.load_config(key));
    of_s3.or_else(|| shared.endpoint_url().map(str::to_owned))
}

fn loader(options: &S3Options) -> Result<ConfigLoader, String> {
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .http_client(https()?)
        .retry_config(RetryConfig::disabled())
        .timeout_config(timeouts(ATTEMPT_TIMEOUT))
        .stalled_stream_protection(
            StalledStreamProtectionConfig::enabled()
                .grace_period(STALL_GRACE)
                .build(),
        );
    let is_own = options.endpoint.is_some() || names_an_endpoint();
    match &options.region {
        Some(region) => loader = loader.region(Region::new(region.clone())),
        None if is_own => loader = loader.region(region_of_an_own_server()),
        None => {}
    }
    if let Some(endpoint) = &options.endpoint {
        loader = loader.endpoint_url(endpoint);
    }
    Ok(match (&options.access_key, &options.secret_key) {
        (Some(access), Some(secret)) => loader
            .credentials_provider(Credentials::new(
                &access.0,
                &secret.0,
                None,
                None,
                "configuration",
            ))
            .identity_cache(IdentityCache::no_cache()),
        (None, None) => loader,
        (Some(_), None) => return Err("accessKey is set without secretKey".to_owned()),
        (None, Some(_)) => return Err("secretKey is set without accessKey".to_owned()),
    })
}

/// Whether the environment says that the server is not AWS's.
fn names_an_endpoint() -> bool {
    ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"]
        .iter()
        .any(|name| std::env::var_os(name).is_some_and(|url| !url.is_empty()))
}

fn https() -> Result<SharedHttpClient, String> {
    let made = HTTPS.get_or_init(|| {
        let trusted = trusted()?;
        Ok(
            Builder::new().build_with_connector_fn(move |settings, components| {
                connector(settings, components)
                    .tls_provider(tls::Provider::Rustls(CryptoMode::Ring))
                    .tls_context(trusted.clone())
                    .build()
            }),
        )
    });
    made.clone()
}

/// What each connection has: the time limits of its client, and the proxies that the environment names.
fn connector(
    settings: Option<&HttpConnectorSettings>,
    components: Option<&RuntimeComponents>,
) -> ConnectorBuilder {
    let mut builder = Connector::builder().proxy_config(ProxyConfig::from_env());
    builder.set_connector_settings(settings.cloned());
    builder.set_sleep_impl(components.and_then(RuntimeComponents::sleep_impl));
    builder
}

/// The certificates of this machine, or those of `AWS_CA_BUNDLE`.
fn trusted() -> Result<TlsContext, String> {
    let Some(path) = std::env::var_os(CA_BUNDLE).filter(|path| !path.is_empty()) else {
        return Ok(TlsContext::default());
    };
    let wrong = |what: String| format!("{CA_BUNDLE} {}: {what}", path.display());
    let pem = std::fs::read(&path).map_err(|error| wrong(error.to_string()))?;
    check_certificates(&pem).map_err(wrong)?;
    let only = TrustStore::empty().with_pem_certificate(pem);
    let context = TlsContext::builder().with_trust_store(only).build();
    context.map_err(|error| wrong(error.to_string()))
}

/// What can't be read as a certificate would end the process when the first connection is made.
fn check_certificates(pem: &[u8]) -> Result<(), String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| format!("it is no PEM file ({error})"))?;
        roots
            .add(certificate)
            .map_err(|error| format!("a certificate in it can't be used ({error})"))?;
    }
    match roots.is_empty() {
        true => Err("it has no certificates; it has to be a PEM file of them".to_owned()),
        false => Ok(()),
    }
}

/// Time limits of one request whose whole may take `attempt`.
pub(super) fn timeouts(attempt: Duration) -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(READ_TIMEOUT.max(attempt))
        .operation_attempt_timeout(attempt)
        .operation_timeout(attempt)
        .build()
}

/// The checksum that every server knows, as its header has it.
pub(super) fn md5(bytes: &[u8]) -> String {
    aws_smithy_types::base64::encode(md5::Md5::digest(bytes))
}

/// Gives it to a request that has its body in memory.
pub(super) fn add_md5(request: &mut HttpRequest) {
    if let Some(sum) = request.body().bytes().map(md5) {
        request.headers_mut().insert("content-md5", sum);
    }
}

/// The SDK's own sources, but the one that asks a network address which only AWS's machines have.
fn region_of_an_own_server() -> RegionProviderChain {
    RegionProviderChain::first_try(EnvironmentVariableRegionProvider::new())
        .or_else(ProfileFileRegionProvider::new())
        .or_else(Region::new(DEFAULT_REGION))
}

fn check_endpoint(endpoint: &str) -> Result<(), String> {
    let host = endpoint
        .strip_prefix("http://")
        .or_else(|| endpoint.strip_prefix("https://"));
    match host {
        // A user name there would be a secret in every message.
        Some(host) if !host.is_empty() && !host.contains(['@', ' ']) => Ok(()),
        _ => Err("the endpoint has to be http:// or https:// and a host".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_bundle_of_certificates_is_refused_and_ends_nothing() {
        let block = |body: &str| {
            format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")
        };
        for (pem, said) in [
            (String::new(), "has no certificates"),
            ("no PEM".to_owned(), "has no certificates"),
            (block("%%%%"), "is no PEM file"),
            (block("AAAA"), "can't be used"),
        ] {
            let error = check_certificates(pem.as_bytes()).expect_err("refused");
            assert!(error.contains(said), "{pem}: {error}");
        }
    }
}
