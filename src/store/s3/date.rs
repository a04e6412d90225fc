//! The server's clock, as the head of its answers tells it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use aws_sdk_s3::config::interceptors::BeforeDeserializationInterceptorContextRef;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::primitives::{DateTime, DateTimeFormat};

use crate::clock::UnixMs;

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
        let date = context.response().headers().get("date");
        let date = date.and_then(|text| DateTime::from_str(text, DateTimeFormat::HttpDate).ok());
        if let Some(ms) = date.and_then(|date| date.to_millis().ok()) {
            self.0.store(ms, Ordering::Relaxed);
        }
        Ok(())
    }
}
