//! Bodies of requests: JSON of a bounded size, that has to come in a bounded time, with known fields only.

use std::pin::pin;
use std::time::Duration;

use bytes::Buf;
use futures_util::{Stream, StreamExt};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use warp::http::StatusCode;

use super::replies::Refusal;

/// Bytes.
const MAX_BODY: usize = 64 << 10;
const TIMEOUT: Duration = Duration::from_secs(15);
/// For a body that nobody wants.
const DISCARD_TIME: Duration = Duration::from_secs(1);

/// `POST /api/databases`, in both its forms.
#[derive(Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewDatabase {
    #[serde(default, deserialize_with = "given")]
    pub tenant_id: Option<String>,
    #[serde(default, deserialize_with = "given")]
    pub db_path: Option<String>,
    #[serde(default, deserialize_with = "given")]
    pub db_name: Option<String>,
    #[serde(default, deserialize_with = "given")]
    pub client_id: Option<String>,
    #[serde(default, deserialize_with = "given")]
    pub s3_prefix: Option<String>,
}

/// What is given is not null.
fn given<'de, D: Deserializer<'de>>(value: D) -> Result<Option<String>, D::Error> {
    String::deserialize(value).map(Some)
}

/// `PUT …/status`.
#[derive(Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(deny_unknown_fields)]
pub struct NewStatus {
    pub status: Wish,
}

/// What a database is told to be.
#[derive(Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "lowercase")]
pub enum Wish {
    Active,
    Paused,
}

/// Reads a whole body, whatever its Content-Type says.
pub async fn read<T: DeserializeOwned, E>(
    body: impl Stream<Item = Result<impl Buf, E>>,
) -> Result<T, Refusal> {
    read_within(TIMEOUT, body).await
}

/// Takes what still comes of the body of a request that is refused, within bounds: one who sends it after the head, and finds
/// the connection closed, may never read why.
pub async fn discard<E>(body: impl Stream<Item = Result<impl Buf, E>>) {
    // Whatever is wrong with it, the request is refused all the same.
    let _ = tokio::time::timeout(DISCARD_TIME, collect(body)).await;
}

async fn read_within<T: DeserializeOwned, E>(
    timeout: Duration,
    body: impl Stream<Item = Result<impl Buf, E>>,
) -> Result<T, Refusal> {
    let bytes = tokio::time::timeout(timeout, collect(body))
        .await
        .map_err(|_| {
            let message = format!("the body did not come within {timeout:?}");
            Refusal::new(StatusCode::REQUEST_TIMEOUT, "slow_body", message)
        })??;
    parse(&bytes)
}

async fn collect<E>(body: impl Stream<Item = Result<impl Buf, E>>) -> Result<Vec<u8>, Refusal> {
    let mut body = pin!(body);
    let mut bytes = Vec::new();
    while let Some(part) = body.next().await {
        let mut part = part.map_err(|_| Refusal::bad_body("the body ends before its end"))?;
        if bytes.len() + part.remaining() > MAX_BODY {
            let message = format!("the body has more than {MAX_BODY} bytes");
            let status = StatusCode::PAYLOAD_TOO_LARGE;
            return Err(Refusal::new(status, "too_large", message));
        }
        while part.has_remaining() {
            let chunk = part.chunk();
            bytes.extend_from_slice(chunk);
            part.advance(chunk.len());
        }
    }
    Ok(bytes)
}

/// Reads the bytes of a body.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Refusal> {
    let wrong = |why: String| {
        // It may name a field as the body has it.
        let why = why.replace(char::is_control, " ");
        Refusal::bad_body(format!("the body is not as it should be: {why}"))
    };
    // An array would do for a structure, too.
    match bytes.trim_ascii().first() {
        Some(b'{') => serde_json::from_slice(bytes).map_err(|error| wrong(error.to_string())),
        Some(_) => Err(wrong("a JSON object is expected".to_owned())),
        None => Err(wrong("it is empty".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use futures_util::stream;

    type Part = Result<Bytes, ()>;

    async fn read_parts<T: DeserializeOwned>(parts: Vec<Part>) -> Result<T, Refusal> {
        read(stream::iter(parts)).await
    }

    #[tokio::test]
    async fn a_body_in_parts() {
        let parts = vec![
            Ok(Bytes::from_static(b" {\"tenantId\": \"a\", ")),
            Ok(Bytes::from_static(b"\"dbName\": \"b\"}")),
        ];
        let body: NewDatabase = read_parts(parts).await.expect("JSON");
        assert_eq!(body.tenant_id.as_deref(), Some("a"));
        assert_eq!(body.db_name.as_deref(), Some("b"));
        assert_eq!(body.client_id, None);
    }

    #[tokio::test]
    async fn what_is_wrong_with_a_body_is_said() {
        for (text, expected) in [
            ("", "it is empty"),
            ("  ", "it is empty"),
            ("[]", "a JSON object"),
            ("[null,null,null,null,null]", "a JSON object"),
            ("\"x\"", "a JSON object"),
            ("{", "EOF"),
            ("{\"tenantid\": \"a\"}", "unknown field `tenantid`"),
            ("{\"a\\nb\": 1}", "unknown field `a b`"),
            ("{\"tenantId\": 1}", "invalid type"),
            ("{\"tenantId\": null}", "invalid type"),
            (
                "{\"tenantId\": \"a\", \"tenantId\": \"b\"}",
                "duplicate field",
            ),
            ("{} {}", "trailing characters"),
        ] {
            let refusal = read_parts::<NewDatabase>(vec![Ok(text.into())])
                .await
                .expect_err(text);
            assert_eq!((refusal.status.as_u16(), refusal.code), (400, "bad_body"));
            assert!(refusal.message.contains(expected), "{}", refusal.message);
            assert!(!refusal.message.contains('\n'), "{}", refusal.message);
        }
        let refusal = read_parts::<NewStatus>(vec![Ok("{\"status\": \"gone\"}".into())]).await;
        let message = refusal.expect_err("no such status").message;
        assert!(message.contains("`active` or `paused`"), "{message}");
        let broken = read_parts::<NewStatus>(vec![Ok("{".into()), Err(())]).await;
        assert_eq!(broken.expect_err("cut off").code, "bad_body");
    }

    #[tokio::test]
    async fn a_body_is_bounded() {
        let part = || Ok(Bytes::from(vec![b' '; MAX_BODY / 2]));
        let mut parts: Vec<Part> = vec![part(), part()];
        let refusal = read_parts::<NewStatus>(parts.clone()).await;
        assert_eq!(refusal.expect_err("empty").code, "bad_body");
        parts.push(Ok(" ".into()));
        let refusal = read_parts::<NewStatus>(parts).await.expect_err("too long");
        assert_eq!((refusal.status.as_u16(), refusal.code), (413, "too_large"));
    }

    #[tokio::test]
    async fn a_body_that_does_not_come_is_given_up() {
        let never = stream::pending::<Part>();
        let refusal = read_within::<NewStatus, ()>(Duration::from_millis(10), never).await;
        let refusal = refusal.expect_err("it never comes");
        assert_eq!((refusal.status.as_u16(), refusal.code), (408, "slow_body"));
    }
}
