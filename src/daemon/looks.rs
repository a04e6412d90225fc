//! What is looked at each minute: ways past the mounts, sooner where somebody asks for health, and the folders that could
//! not be looked through before.

use std::sync::Arc;
use std::time::Duration;

use super::mounts::Mounts;
use crate::replicate::Fleet;

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

/// Looks through the folders that could not be looked through, and again. Never ends.
pub(super) async fn look_again(fleet: Arc<Fleet>) {
    loop {
        tokio::time::sleep(PERIOD).await;
        let fleet = fleet.clone();
        let looked = tokio::task::spawn_blocking(move || {
            for ship in fleet.ships() {
                ship.capture.look_again();
            }
        });
        if let Err(error) = looked.await {
            tracing::error!(%error, "The look through folders failed");
        }
    }
}
