//! Whether many databases were worked on, and that has passed.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// So many pipelines that end are a rush; and it goes on as long as so many end within `QUIET`.
const MANY: u32 = 256;
const QUIET: Duration = Duration::from_secs(10);

/// Nothing is timed while there is none.
#[derive(Debug, Default)]
pub(super) struct Rush {
    /// Pipelines that have ended: since the last one has passed, or since `QUIET` before `ask_at`.
    ended: u32,
    ask_at: Option<Instant>,
}

impl Rush {
    pub fn one_has_ended(&mut self) {
        self.ended += 1;
        if self.ask_at.is_none() && self.ended >= MANY {
            self.begin_to_wait();
        }
    }

    /// Waits until one has passed; it may be asked anew at any time.
    pub async fn has_passed(&mut self) {
        while let Some(at) = self.ask_at {
            sleep_until(at).await;
            if self.ended < MANY {
                *self = Self::default();
                return;
            }
            self.begin_to_wait();
        }
        std::future::pending().await
    }

    fn begin_to_wait(&mut self) {
        self.ended = 0;
        self.ask_at = Some(Instant::now() + QUIET);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_rush_has_passed_when_few_more_end() {
        let mut rush = Rush::default();
        let begun = Instant::now();
        (1..MANY).for_each(|_| rush.one_has_ended());
        tokio::time::advance(2 * QUIET).await;
        assert!(rush.has_passed().now_or_never().is_none(), "they are few");
        (0..=MANY).for_each(|_| rush.one_has_ended());
        tokio::time::timeout(QUIET / 2, rush.has_passed())
            .await
            .expect_err("it has not passed yet");
        (0..MANY).for_each(|_| rush.one_has_ended());
        rush.has_passed().await;
        assert_eq!(begun.elapsed().as_secs(), 4 * QUIET.as_secs(), "it went on");
        assert!(
            rush.has_passed().now_or_never().is_none(),
            "it is told once"
        );
    }
}
