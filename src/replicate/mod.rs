//! From captured segments to the store: a task per active client, none for the others.

use std::sync::Arc;
use std::time::Duration;

use crate::tenant::roster::Client;

/// What the store said last.
#[derive(Clone, Debug, Default)]
pub struct StoreHealth {
    /// None until the first answer.
    pub reachable: Option<bool>,
    /// Whether create-only PUTs are honoured; none until probed.
    pub conditional_put: Option<bool>,
    pub error: Option<String>,
}

/// Everything committed before the call is in the store.
#[derive(Clone, Copy, Debug)]
pub struct Synced {
    pub txid: u64,
    pub duration: Duration,
}

#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    #[error("not everything was stored within {0:?}")]
    TimedOut(Duration),
    #[error("the client is {0}")]
    NotActive(&'static str),
}

/// The replication of all clients of this process.
pub struct Replicator {}

impl Replicator {
    /// Waits until everything that was committed before the call is in the store.
    pub async fn sync(
        &self,
        _client: &Arc<Client>,
        _timeout: Duration,
    ) -> Result<Synced, SyncError> {
        todo!("capture")
    }

    pub fn store_health(&self) -> StoreHealth {
        StoreHealth::default()
    }
}
