//! Looks for ways past the mounts: each minute, and sooner where somebody asks for health.

use std::time::Duration;

use super::mounts::Mounts;

const PERIOD: Duration = Duration::from_secs(60);
/// However often health is asked for. A look costs milliseconds.
const SHORTEST: Duration = Duration::from_secs(5);

/// Looks at all mounts, and again. Never ends.
pub(super) async fn look_out(mounts: Mounts) {
    loop {
        for lookout in mounts.lookouts() {
            let looked = tokio::task::spawn_blocking(move || lookout.look()).await;
            if let Err(error) = looked {
                tracing::error!(%error, "The look for ways past the mount failed");
            }
        }
        tokio::time::sleep(SHORTEST).await;
        // Out of time it is as if somebody had asked.
        let _ = tokio::time::timeout(PERIOD - SHORTEST, mounts.look_wanted()).await;
    }
}
