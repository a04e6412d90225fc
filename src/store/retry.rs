//! Repeating a request of the store: how often, and after which pause.

use std::future::Future;
use std::time::Duration;

use super::StoreError;
use super::probe::random;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// The pause after `failures` failures in a row (1 at least): doubling, at most ten seconds, and between half and
/// all of that by chance, so that many clients do not come back at once.
pub fn pause_after(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    let longest = (FIRST_PAUSE * (1 << doublings)).min(LONGEST_PAUSE);
    let half = longest.as_millis() as u64 / 2;
    Duration::from_millis(half + random() % (half + 1))
}

/// Makes a request up to `attempts` times, as long as its error may pass by itself.
///
/// # Errors
/// The last attempt's.
pub async fn repeat<T, F>(attempts: u32, mut request: impl FnMut() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let mut failures = 0;
    loop {
        match request().await {
            Err(error) if error.is_retryable() && failures + 1 < attempts => failures += 1,
            done => return done,
        }
        tokio::time::sleep(pause_after(failures)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_limit() {
        for failures in 1..=40 {
            let longest = (FIRST_PAUSE * (1 << (failures - 1).min(16))).min(LONGEST_PAUSE);
            let pause = pause_after(failures);
            assert!(
                pause >= longest / 2 && pause <= longest,
                "{failures}: {pause:?}"
            );
        }
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
