//! Has what could not be written into the state written as soon as it can be.

use std::sync::Arc;
use std::time::Duration;

use super::Replicator;
use crate::store::retry::Backoff;

const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// Asleep unless something waits; until `stop`.
pub(super) async fn run(replicator: Arc<Replicator>) {
    let mut stop = replicator.stop.subscribe();
    tokio::select! {
        _ = stop.wait_for(|stop| *stop) => {}
        () = write_all(&replicator) => {}
    }
}

async fn write_all(replicator: &Replicator) {
    loop {
        replicator.capture.has_late().await;
        let mut pauses = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        loop {
            tokio::time::sleep(pauses.pause()).await;
            let capture = replicator.capture.clone();
            // Short statements, but they wait for a disk.
            match tokio::task::spawn_blocking(move || capture.write_late()).await {
                Ok(true) => break,
                Ok(false) => {}
                Err(error) => {
                    tracing::error!(error = %error, "What waits for the state could not be written");
                }
            }
        }
    }
}
