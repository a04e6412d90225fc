//! How an S3 server is reached: endpoint, region, credentials, time limits.

use std::sync::LazyLock;
use std::time::Duration;

use aws_config::environment::EnvironmentVariableRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::ProfileFileRegionProvider;
use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, ConfigLoader, Region};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{
    Credentials, IdentityCache, RequestChecksumCalculation, ResponseChecksumValidation,
    SharedHttpClient,
};
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::{Builder, tls};

use crate::store::spec::S3Options;

/// Where an own server is given and nothing says its region.
const DEFAULT_REGION: &str = "us-east-1";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// For a request with everything but a large body.
pub(super) const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a transfer may make no progress.
const STALL_GRACE: Duration = Duration::from_secs(20);

/// One pool of connections for all stores of the process.
static HTTPS: LazyLock<SharedHttpClient> = LazyLock::new(|| {
    let provider = tls::Provider::Rustls(CryptoMode::Ring);
    Builder::new().tls_provider(provider).build_https()
});
/// For servers without TLS, which then need no root certificates on this machine.
static HTTP: LazyLock<SharedHttpClient> = LazyLock::new(|| Builder::new().build_http());

/// A client that repeats nothing; the error says which option is wrong.
pub(super) async fn client(options: &S3Options) -> Result<Client, String> {
    if let Some(endpoint) = &options.endpoint {
        check_endpoint(endpoint)?;
    }
    let shared = loader(options)?.load().await;
    let endpoint = shared.endpoint_url().map(str::to_owned);
    if shared.region().is_none() {
        return Err(
            "no region is known: give -region, or s3.region in the configuration".to_owned(),
        );
    }
    let mut config = aws_sdk_s3::config::Builder::from(&shared)
        // The SDK would sign by the clock of the last answer, and nobody would learn that ours is wrong, which dates what
        // is stored.
        .disable_clock_skew_correction(true)
        .force_path_style(options.path_style.unwrap_or(endpoint.is_some()));
    if let Some(endpoint) = endpoint {
        // Servers other than AWS's often don't know the newer checksums.
        config = config
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
        if endpoint.starts_with("http://") {
            config = config.http_client(HTTP.clone());
        }
    }
    Ok(Client::from_conf(config.build()))
}

fn loader(options: &S3Options) -> Result<ConfigLoader, String> {
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .http_client(HTTPS.clone())
        .retry_config(RetryConfig::disabled())
        .timeout_config(timeouts(ATTEMPT_TIMEOUT))
        .stalled_stream_protection(
            StalledStreamProtectionConfig::enabled()
                .grace_period(STALL_GRACE)
                .build(),
        );
    match (&options.region, &options.endpoint) {
        (Some(region), _) => loader = loader.region(Region::new(region.clone())),
        (None, Some(_)) => loader = loader.region(region_of_an_own_server()),
        (None, None) => {}
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

/// Time limits of one request whose whole may take `attempt`.
pub(super) fn timeouts(attempt: Duration) -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(READ_TIMEOUT.max(attempt))
        .operation_attempt_timeout(attempt)
        .operation_timeout(attempt)
        .build()
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
