//! Answers: JSON, text, and errors as a code and a sentence.

use serde::Serialize;
use serde_json::json;
use warp::http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use warp::http::{Response, StatusCode};

/// A whole answer.
pub type Reply = Response<String>;

pub fn json(status: StatusCode, value: &impl Serialize) -> Reply {
    let text = serde_json::to_string(value).expect("BUG: an answer that is no JSON");
    body(status, "application/json", text)
}

pub fn text(content_type: &'static str, text: String) -> Reply {
    body(StatusCode::OK, content_type, text)
}

fn body(status: StatusCode, content_type: &'static str, text: String) -> Reply {
    let mut reply = Response::new(text);
    *reply.status_mut() = status;
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
    /// The methods that the path has.
    pub allow: Option<String>,
}

impl Refusal {
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
            allow: None,
        }
    }

    pub fn bad_query(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_query", message)
    }

    pub fn not_yet(what: &str) -> Self {
        Self::new(
            StatusCode::NOT_IMPLEMENTED,
            "not_supported_yet",
            format!("{what} is not supported yet by this version"),
        )
    }
}

impl From<Refusal> for Reply {
    fn from(refusal: Refusal) -> Self {
        let error = json!({"error": {"code": refusal.code, "message": refusal.message}});
        let mut reply = json(refusal.status, &error);
        if let Some(allow) = refusal
            .allow
            .and_then(|allow| HeaderValue::try_from(allow).ok())
        {
            reply.headers_mut().insert(ALLOW, allow);
        }
        reply
    }
}
