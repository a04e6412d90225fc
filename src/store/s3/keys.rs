//! The client of a store, which is made anew when the server refuses its keys, or when it is told to: the SDK reads a file
//! of credentials once, and whoever replaces it expects the new ones to be used.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_credential_types::Credentials;
use aws_credential_types::provider::ProvideCredentials;
use aws_sdk_s3::Client;
use tokio::time::{Instant, timeout};

use super::connect::{Connected, connect};
use super::key_files::KeyFiles;
use crate::store::spec::S3Options;

/// The sources are asked again no more often than this, however many requests are refused.
const PAUSE: Duration = Duration::from_secs(10);
/// How long the sources may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// A client, and how many there were before it.
#[derive(Clone)]
pub(super) struct Current {
    pub number: u64,
    connected: Arc<Connected>,
}

impl Current {
    pub fn client(&self) -> &Client {
        &self.connected.client
    }
}

/// The keys to a store, by the client that has them.
pub(super) struct Keys {
    options: S3Options,
    current: Mutex<Current>,
    /// When the sources were asked last. Held while they are.
    asked: tokio::sync::Mutex<Option<Instant>>,
    /// What is in use is to be replaced before the next request.
    is_outdated: AtomicBool,
    /// None where the configuration has the keys.
    files: Option<KeyFiles>,
}

impl Keys {
    /// # Errors
    /// Which option is wrong.
    pub async fn open(options: &S3Options) -> Result<Self, String> {
        let connected = connect(options).await?;
        Ok(Self::new(options.clone(), connected))
    }

    fn new(options: S3Options, connected: Connected) -> Self {
        let connected = Arc::new(connected);
        let has_chain = connected.chain.is_some();
        Self {
            files: has_chain.then(KeyFiles::of_environment),
            options,
            current: Mutex::new(Current {
                number: 0,
                connected,
            }),
            asked: tokio::sync::Mutex::default(),
            is_outdated: AtomicBool::new(false),
        }
    }

    /// Keys that never change, to AWS.
    #[cfg(test)]
    pub fn of_client(client: Client) -> Self {
        let connected = Connected {
            client,
            chain: None,
            is_aws: true,
        };
        Self::new(S3Options::default(), connected)
    }

    pub fn current(&self) -> Current {
        let current = self.current.lock();
        current.unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn is_aws(&self) -> bool {
        self.current().connected.is_aws
    }

    /// Has the sources asked before the next request.
    pub fn set_outdated(&self) {
        self.is_outdated.store(true, Ordering::Relaxed);
    }

    /// Asks the sources where that is wanted.
    pub async fn refresh(&self) {
        if self.files.as_ref().is_some_and(KeyFiles::have_changed) {
            self.set_outdated();
        }
        if !self.is_outdated.load(Ordering::Relaxed) {
            return;
        }
        let mut asked = self.asked.lock().await;
        if self.is_outdated.swap(false, Ordering::Relaxed) {
            *asked = Some(Instant::now());
            // Apart, since it is large, and seldom done.
            Box::pin(self.ask_sources()).await;
        }
    }

    /// The server has refused the keys of `used`. Whether there are others now.
    pub async fn replace(&self, used: &Current) -> bool {
        if used.connected.chain.is_none() {
            return false;
        }
        let mut asked = self.asked.lock().await;
        if self.current().number != used.number {
            return true;
        }
        if asked.is_some_and(|at| at.elapsed() < PAUSE) {
            return false;
        }
        *asked = Some(Instant::now());
        Box::pin(self.ask_sources()).await
    }

    /// Takes a new client where it has other keys. One that can't be made, or has none, changes nothing.
    async fn ask_sources(&self) -> bool {
        let before = self.current();
        if before.connected.chain.is_none() {
            return false;
        }
        let asked = async {
            let new = connect(&self.options).await.ok()?;
            let keys = keys_of(&new).await?;
            (keys_of(&before.connected).await != Some(keys)).then_some(new)
        };
        let Ok(Some(connected)) = timeout(PATIENCE, asked).await else {
            return false;
        };
        let number = before.number + 1;
        let connected = Arc::new(connected);
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) =
            Current { number, connected };
        tracing::info!("The keys to the store were read again, and are others now");
        true
    }
}

/// What tells keys apart; none where there are none.
async fn keys_of(connected: &Connected) -> Option<(String, String, Option<String>)> {
    let keys: Credentials = connected.chain.as_ref()?.provide_credentials().await.ok()?;
    Some((
        keys.access_key_id().to_owned(),
        keys.secret_access_key().to_owned(),
        keys.session_token().map(str::to_owned),
    ))
}
