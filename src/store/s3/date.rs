//! The server's clock, as the head of its answers tells it, and what it means where ours is another.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::config::interceptors::BeforeDeserializationInterceptorContextRef;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::primitives::{DateTime, DateTimeFormat};

use crate::clock::UnixMs;

/// Servers refuse a signature whose time is further from their own clock, in milliseconds.
const TOLERANCE_MS: i64 = 15 * 60 * 1_000;
/// Nothing was told yet.
const NONE: UnixMs = UnixMs::MIN;

/// Keeps the date of the answer to the request that it is given to.
#[derive(Clone, Debug)]
pub(super) struct AnswerDate(Arc<AtomicI64>);

impl Default for AnswerDate {
    fn default() -> Self {
        Self(Arc::new(AtomicI64::new(NONE)))
    }
}

impl AnswerDate {
    /// None where there was no answer, or one without a date.
    pub fn get(&self) -> Option<UnixMs> {
        Some(self.0.load(Ordering::Relaxed)).filter(|ms| *ms != NONE)
    }
}

impl Intercept for AnswerDate {
    fn name(&self) -> &'static str {
        "AnswerDate"
    }

    fn read_after_transmit(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if let Some(ms) = date_of(context.response()) {
            self.0.store(ms, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// None where the answer has no date.
fn date_of(answer: &HttpResponse) -> Option<UnixMs> {
    let text = answer.headers().get("date")?;
    let date = DateTime::from_str(text, DateTimeFormat::HttpDate).ok()?;
    date.to_millis().ok()
}

/// How this machine's clock differs from the server's, where a refusal with this code is for that reason: not every
/// server says so, and some call the signature wrong instead.
pub(super) fn skew(answer: &HttpResponse, code: &str, now: UnixMs) -> Option<String> {
    let is_told = code == "RequestTimeTooSkewed";
    let ahead = date_of(answer).map(|theirs| now.saturating_sub(theirs));
    let is_seen = matches!(answer.status().as_u16(), 400 | 401 | 403)
        && ahead.is_some_and(|ahead| ahead.saturating_abs() > TOLERANCE_MS);
    (is_told || is_seen).then(|| match ahead.map(|ahead| ahead / 1_000) {
        Some(ahead @ 1..) => format!("this machine's clock is {ahead} s ahead of the store's"),
        Some(behind @ ..0) => format!("this machine's clock is {} s behind the store's", -behind),
        // A proxy in between may have a clock of its own.
        Some(0) | None => code.to_owned(),
    })
}
