//! Trying again: how often, and after which pause.

use std::future::Future;
use std::time::Duration;

use super::StoreError;
use crate::random;

/// The pauses between attempts of one thing: they double from the first to the longest, and a part of each is left to
/// chance, so that many do not come back at once.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            longest,
            next: first,
        }
    }

    /// For requests of a store.
    pub fn of_requests() -> Self {
        Self::new(Duration::from_millis(100), Duration::from_secs(10))
    }

    /// The next pause: between half and all of what it may be.
    pub fn pause(&mut self) -> Duration {
        let whole = self.next;
        self.next = (whole * 2).min(self.longest);
        let half = whole.as_micros() as u64 / 2;
        Duration::from_micros(half + random::number() % (half + 1))
    }

    /// It worked: the next failure begins anew.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

/// Makes a request up to `attempts` times, as long as its error may pass by itself.
///
/// # Errors
/// The last attempt's.
pub async fn repeat<T, F>(attempts: u32, mut request: impl FnMut() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let mut pauses = Backoff::of_requests();
    for _ in 1..attempts {
        match request().await {
            Err(error) if error.is_retryable() => tokio::time::sleep(pauses.pause()).await,
            done => return done,
        }
    }
    request().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_limit_and_begin_anew() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        for longest in [100, 200, 400, 800, 1000, 1000] {
            let pause = backoff.pause().as_millis();
            assert!(pause >= longest / 2 && pause <= longest, "{pause}");
        }
        backoff.reset();
        assert!(backoff.pause() <= Duration::from_millis(100));
    }

    #[tokio::test]
    async fn only_what_may_pass_is_repeated() {
        let fail = |retryable: bool| {
            let (key, reason) = ("a/b".to_owned(), "no".to_owned());
            match retryable {
                true => StoreError::Unavailable { key, reason },
                false => StoreError::Denied { key, reason },
            }
        };
        for (retryable, expected) in [(true, 3), (false, 1)] {
            let mut attempts = 0;
            let result: Result<(), _> = repeat(3, || {
                attempts += 1;
                std::future::ready(Err(fail(retryable)))
            })
            .await;
            assert!(result.is_err());
            assert_eq!(attempts, expected);
        }
        let mut failing = true;
        let result = repeat(2, || {
            let failed = std::mem::replace(&mut failing, false);
            std::future::ready(if failed { Err(fail(true)) } else { Ok(7) })
        });
        assert_eq!(result.await.expect("the second attempt"), 7);
    }
}
