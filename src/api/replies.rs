//! Answers: JSON, text, and errors as a code and a sentence.

use serde::Serialize;
use serde_json::json;
use warp::http::StatusCode;
use warp::http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER,
    X_CONTENT_TYPE_OPTIONS,
};

use crate::tenant::request::RequestError;

/// A whole answer.
pub type Reply = warp::reply::Response;

pub fn json(status: StatusCode, value: &impl Serialize) -> Reply {
    let text = serde_json::to_string(value).expect("BUG: an answer that is no JSON");
    let mut reply = media("application/json", Reply::new(text.into()));
    *reply.status_mut() = status;
    reply
}

pub fn text(content_type: &'static str, text: String) -> Reply {
    media(content_type, Reply::new(text.into()))
}

/// An answer without a body.
pub fn nothing() -> Reply {
    let mut reply = Reply::default();
    *reply.status_mut() = StatusCode::NO_CONTENT;
    reply
}

/// Takes the body over, as what it is.
pub fn media(content_type: &'static str, mut reply: Reply) -> Reply {
    let headers = reply.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    reply
}

/// A refusal: which status, which code, and a sentence for people.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    pub status: StatusCode,
    pub code: &'static str,
    pub message: String,
    /// What the status asks to be said besides.
    pub header: Option<(HeaderName, HeaderValue)>,
}

impl Refusal {
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
            header: None,
        }
    }

    /// Nothing is wrong with the request; there are too many at present.
    pub fn busy(message: impl Into<String>) -> Self {
        Self {
            header: Some((RETRY_AFTER, HeaderValue::from_static("1"))),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", message)
        }
    }

    /// Not every mount answers yet, or not all that was known is registered.
    pub fn starting() -> Self {
        let message = "the instance is starting; /api/health says when it is ready";
        Self {
            code: "starting",
            ..Self::busy(message)
        }
    }

    pub fn bad_query(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_query", message)
    }

    pub fn bad_body(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_body", message)
    }

    pub fn wrong_method(message: String, allowed: &[&str]) -> Self {
        let allowed = HeaderValue::from_str(&allowed.join(", "));
        Self {
            header: Some((ALLOW, allowed.expect("BUG: a method that is no token"))),
            ..Self::new(StatusCode::METHOD_NOT_ALLOWED, "wrong_method", message)
        }
    }
}

impl From<RequestError> for Refusal {
    fn from(error: RequestError) -> Self {
        let status = match &error {
            RequestError::Invalid { .. } => StatusCode::BAD_REQUEST,
            RequestError::Taken { .. } => StatusCode::CONFLICT,
            RequestError::Limit { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            RequestError::Unavailable { .. } => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, error.code(), error.to_string())
    }
}

impl From<Refusal> for Reply {
    fn from(refusal: Refusal) -> Self {
        let error = json!({"error": {"code": refusal.code, "message": refusal.message}});
        let mut reply = json(refusal.status, &error);
        if let Some((name, value)) = refusal.header {
            reply.headers_mut().insert(name, value);
        }
        reply
    }
}
