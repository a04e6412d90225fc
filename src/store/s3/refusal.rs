//! What an error of the SDK means to a caller who may try again. No message holds a secret or a signature.

use std::error::Error;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use super::date::skew;
use crate::clock::now_ms;
use crate::store::StoreError;

/// Longest part of a server's message that is passed on, in bytes.
const MAX_MESSAGE: usize = 300;

/// The store's error for whatever came of a request for `key`.
pub(super) fn refusal<E>(key: &str, error: &SdkError<E, HttpResponse>) -> StoreError
where
    E: ProvideErrorMetadata + Error + 'static,
{
    if let Some(reason) = elsewhere(error) {
        let key = key.to_owned();
        return StoreError::Failed { key, reason };
    }
    if let Some(reason) = distrust(error) {
        let key = key.to_owned();
        return StoreError::Untrusted { key, reason };
    }
    match error {
        SdkError::ServiceError(answer) => {
            let status = answer.raw().status().as_u16();
            let code = answer.err().code().unwrap_or("");
            if let Some(reason) = skew(answer.raw(), code, now_ms()) {
                let key = key.to_owned();
                return StoreError::ClockSkew { key, reason };
            }
            code_refusal(key, Some(status), code, answer.err().message())
        }
        SdkError::ResponseError(answer) if answer.raw().status().is_client_error() => {
            code_refusal(key, Some(answer.raw().status().as_u16()), "", None)
        }
        SdkError::ConstructionFailure(_) => StoreError::Failed {
            key: key.to_owned(),
            reason: causes(error),
        },
        _ if lacks_credentials(error) => StoreError::Denied {
            key: key.to_owned(),
            reason: "no credentials were found".to_owned(),
        },
        _ => StoreError::Unavailable {
            key: key.to_owned(),
            reason: causes(error),
        },
    }
}

/// Where the bucket is, for an answer that says that it is not here.
fn elsewhere<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> Option<String> {
    let answer = error.raw_response()?;
    let code = error.as_service_error().and_then(|error| error.code());
    let code = code.unwrap_or("");
    let status = answer.status().as_u16();
    let is_elsewhere = matches!(status, 301 | 307) || code == "AuthorizationHeaderMalformed";
    let region = answer.headers().get("x-amz-bucket-region");
    let region = region.filter(|region| is_elsewhere && !region.contains(char::is_control))?;
    Some(format!(
        "{}: the bucket is in the region {region}; give -region {region}, or s3.region in the configuration",
        describe(Some(status), code, None)
    ))
}

/// Why the certificate of the server was refused, where that is what failed.
fn distrust(error: &(dyn Error + 'static)) -> Option<String> {
    let mut next = Some(error);
    while let Some(error) = next {
        // One of input or output does not name what it was made of as its source.
        let inner = error
            .downcast_ref::<std::io::Error>()
            .and_then(|error| error.get_ref());
        let inner = inner.map(|inner| inner as &(dyn Error + 'static));
        let found = [Some(error), inner].into_iter().flatten();
        let mut refused = found.filter_map(|error| error.downcast_ref::<rustls::Error>());
        if let Some(rustls::Error::InvalidCertificate(why)) = refused.next() {
            return Some(one_line(&why.to_string()));
        }
        next = inner.or_else(|| error.source());
    }
    None
}

/// The store's error for an answer with this status (none within a batch), code and message.
pub(super) fn code_refusal(
    key: &str,
    status: Option<u16>,
    code: &str,
    message: Option<&str>,
) -> StoreError {
    let key = key.to_owned();
    let reason = describe(status, code, message);
    match (status, code) {
        (_, "NoSuchBucket") => StoreError::Failed {
            key,
            reason: "there is no such bucket".to_owned(),
        },
        (_, "NoSuchKey" | "NoSuchUpload") => StoreError::NotFound { key },
        (_, "SlowDown" | "Throttling" | "ThrottlingException" | "RequestLimitExceeded")
        | (Some(429), _) => StoreError::Throttled { key, reason },
        (_, "AccessDenied" | "ExpiredToken" | "InvalidToken" | "InvalidAccessKeyId")
        | (_, "SignatureDoesNotMatch" | "AuthorizationHeaderMalformed")
        | (Some(401 | 403), _) => StoreError::Denied { key, reason },
        (_, "RequestTimeout" | "InternalError" | "ServiceUnavailable" | "OperationAborted") => {
            StoreError::Unavailable { key, reason }
        }
        (Some(404), _) => StoreError::NotFound { key },
        (Some(501), _) => StoreError::Failed { key, reason },
        (Some(500..), _) => StoreError::Unavailable { key, reason },
        _ => StoreError::Failed { key, reason },
    }
}

/// Whether a create-only request found the key taken.
pub(super) fn is_precondition<E>(error: &SdkError<E, HttpResponse>) -> bool {
    status_of(error) == Some(412)
}

/// Whether the server wants a checksum that the request did not have: a bucket with object lock does.
pub(super) fn wants_checksum<E>(error: &SdkError<E, HttpResponse>) -> bool
where
    E: ProvideErrorMetadata,
{
    let Some(told) = error
        .as_service_error()
        .filter(|_| status_of(error) == Some(400))
    else {
        return false;
    };
    let message = told.message().unwrap_or("").to_ascii_lowercase();
    match told.code() {
        Some("MissingContentMD5") => true,
        Some("InvalidRequest" | "InvalidArgument") => ["content-md5", "x-amz-checksum-"]
            .iter()
            .any(|name| message.contains(name)),
        _ => false,
    }
}

/// Whether a create-only request met another one for the same key.
pub(super) fn is_conflict<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> bool {
    let code = error.as_service_error().and_then(|error| error.code());
    status_of(error) == Some(409) && code != Some("OperationAborted")
}

/// Whether a range began behind the object's last byte.
pub(super) fn is_past_the_end<E>(error: &SdkError<E, HttpResponse>) -> bool {
    status_of(error) == Some(416)
}

fn status_of<E>(error: &SdkError<E, HttpResponse>) -> Option<u16> {
    Some(error.raw_response()?.status().as_u16())
}

fn describe(status: Option<u16>, code: &str, message: Option<&str>) -> String {
    let mut text = code.to_owned();
    if let Some(status) = status {
        text = format!("{status} {code}").trim_end().to_owned();
    }
    // Messages about signatures may repeat what was signed.
    let speaks_of_keys = |text: &str| {
        ["ignature", "ccess Key", "oken"]
            .iter()
            .any(|part| text.contains(part))
    };
    if let Some(message) = message.filter(|text| !speaks_of_keys(text) && !speaks_of_keys(code)) {
        text.push_str(": ");
        text.push_str(&one_line(message));
    }
    text
}

fn one_line(message: &str) -> String {
    let mut line = message.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.len() > MAX_MESSAGE {
        line.truncate(line.floor_char_boundary(MAX_MESSAGE));
    }
    line
}

/// The error and what caused it, the outermost first.
fn causes(error: &(dyn Error + 'static)) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        if parts.last() != Some(&text) {
            parts.push(text);
        }
        next = error.source();
    }
    one_line(&parts.join(": "))
}

/// Whether no source of the chain has credentials at all, which waiting does not change.
fn lacks_credentials(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<CredentialsError>() {
            return matches!(
                error,
                CredentialsError::CredentialsNotLoaded(_)
                    | CredentialsError::InvalidConfiguration(_)
            );
        }
        next = error.source();
    }
    false
}
