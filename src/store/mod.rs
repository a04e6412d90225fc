//! Where replicas live: the trait that the rest of the program sees, and its two implementations.

pub mod directory;
pub mod metered;
pub mod probe;
pub mod retry;
pub mod s3;
pub mod spec;
pub mod stores;

use std::path::PathBuf;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::io::AsyncRead;

use crate::clock::UnixMs;

/// Keys are a format: plans are made from them without a store.
pub use crate::format::keys;
pub use probe::{Abilities, CreateOnly};

/// What is to be stored: never longer than `limits.memoryBytesPerTenant` in memory, else a file of the spool.
#[derive(Clone, Debug)]
pub enum Body {
    Bytes(Bytes),
    File(PathBuf),
}

/// What came of a create-only PUT.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Put {
    Created,
    /// An object has that key already; it was not touched.
    Exists,
}

/// An object as a listing shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ObjectInfo {
    pub key: String,
    /// Bytes.
    pub size: u64,
    /// When it was stored, by the store's clock; `UnixMs::MAX` where it does not say.
    pub modified_ms: UnixMs,
}

/// A part of a listing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListedPage {
    /// Ordered by key, or folder by folder.
    pub objects: Vec<ObjectInfo>,
    /// The store says that nothing comes after it. Unlike a whole listing's this is not confirmed.
    pub is_last: bool,
}

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{key}: there is no such object")]
    NotFound { key: String },
    /// The keys are wrong, or have no right to this.
    #[error("{key}: the store refused access ({reason}); check the credentials and their policy")]
    Denied { key: String, reason: String },
    /// The clocks of this machine and of the store differ by more than a signature may be off.
    #[error(
        "{key}: the store refuses the time of our requests ({reason}); set this machine's clock, and let NTP keep it"
    )]
    ClockSkew { key: String, reason: String },
    /// The store asked for fewer requests.
    #[error("{key}: the store is throttling ({reason})")]
    Throttled { key: String, reason: String },
    /// No answer, or an answer that says to come back later (5xx, a reset connection, a time-out).
    #[error("{key}: the store does not answer ({reason})")]
    Unavailable { key: String, reason: String },
    /// Whoever answers may be another server than the one that was meant.
    #[error(
        "{key}: the server's certificate is not trusted ({reason}); give the file with its authority in AWS_CA_BUNDLE"
    )]
    Untrusted { key: String, reason: String },
    /// What the server listed contradicts itself or what was asked for: more may be there.
    #[error(
        "{key}: the server's listing can't be relied on: {reason}; nothing is concluded from it"
    )]
    Incomplete { key: String, reason: String },
    /// Any other refusal, and local input or output errors of a directory store.
    #[error("{key}: {reason}")]
    Failed { key: String, reason: String },
}

impl StoreError {
    /// Whether the same request may succeed later without anybody changing anything.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            StoreError::Throttled { .. } | StoreError::Unavailable { .. }
        )
    }

    pub fn is_not_found(&self) -> bool {
        matches!(self, StoreError::NotFound { .. })
    }
}

/// An object store as this program uses one. Keys are relative to STORE's own prefix, without a leading slash.
///
/// Objects never change once written, so there is no overwrite. One call is one attempt within a bounded time;
/// repeating is the caller's decision.
#[async_trait]
pub trait ObjectStore: Send + Sync + 'static {
    /// Stores a new object, durably; an object that exists is left alone and reported.
    async fn put_new(&self, key: &str, body: &Body) -> Result<Put, StoreError>;

    /// Reads a whole object as a stream.
    async fn get(&self, key: &str) -> Result<Box<dyn AsyncRead + Send + Unpin>, StoreError>;

    /// Reads `len` bytes from `offset` on, fewer where the object ends before.
    async fn get_range(&self, key: &str, offset: u64, len: u64) -> Result<Bytes, StoreError>;

    /// Every object whose key starts with `prefix`, ordered by key.
    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, StoreError>;

    /// The next objects whose keys start with `prefix` and come after `after`, by one request: for those who look for what
    /// is missing, and confirm what they conclude by a whole listing.
    async fn list_after(&self, prefix: &str, after: &str) -> Result<ListedPage, StoreError> {
        let mut objects = self.list(prefix).await?;
        objects.retain(|object| object.key.as_str() > after);
        Ok(ListedPage {
            objects,
            is_last: true,
        })
    }

    /// The names directly below `prefix` (which ends in `/`) that have objects below them, ordered, without slashes.
    async fn list_folders(&self, prefix: &str) -> Result<Vec<String>, StoreError>;

    /// Removes objects; those that do not exist are no error.
    async fn delete(&self, keys: &[String]) -> Result<(), StoreError>;

    /// What the store's clock says, within a second or two: objects have their times from it. Writes no object, and asks
    /// for nothing but a listing of what starts with `prefix`.
    async fn now(&self, prefix: &str) -> Result<UnixMs, StoreError>;

    /// Finds out what the store can do, with new objects whose keys begin with `key`, and removes them. A store of which
    /// nothing has to be found out can do all.
    async fn probe(&self, _key: &str) -> Result<Abilities, StoreError> {
        Ok(Abilities::ALL)
    }

    /// Has keys that come from a file or another source outside the configuration read again before the next request.
    fn renew_keys(&self) {}

    /// STORE as the user would write it, without secrets.
    fn describe(&self) -> String;
}

/// Whether every store takes this key: relative, in one spelling, and unable to lead outside.
fn check_key(key: &str) -> Result<(), StoreError> {
    let is_name = |name: &str| !matches!(name, "" | "." | "..") && name.len() <= 255;
    if key.len() <= 900 && key.split('/').all(is_name) && !key.contains(char::is_control) {
        return Ok(());
    }
    Err(StoreError::Failed {
        key: key.escape_debug().to_string(),
        reason: "no key of an object: each of its parts has to be a file name".to_owned(),
    })
}

/// The same for the start of keys: empty, or a key whose last part may be cut off anywhere.
fn check_prefix(prefix: &str) -> Result<(), StoreError> {
    match prefix.strip_suffix('/').unwrap_or(prefix) {
        "" if prefix.is_empty() => Ok(()),
        key => check_key(key),
    }
}
