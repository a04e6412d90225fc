//! Stores what is not there yet, in the way that the server knows. Which that is shows when several writers want the same
//! key at once: writers in turn would not tell a server that looks and then writes from one that does both in one.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;

use super::S3Store;
use super::learnt::Condition;
use super::refusal::refusal;
use super::upload::Refused;
use crate::store::probe::CreateOnly;
use crate::store::retry::Backoff;
use crate::store::{Body, Put, StoreError};

/// How many want the same key.
const WRITERS: usize = 4;
/// Some servers take one write a second under a name.
const TURNS: u32 = 3;
const BETWEEN_TURNS: Duration = Duration::from_secs(1);
/// What is longer is not stored several times to learn something.
const SHORT: usize = 128 << 10;

/// What a server makes of a condition.
enum Finding {
    Honoured {
        /// None where only writers in turn were tried.
        is_atomic: Option<bool>,
    },
    /// It is accepted, and an object is replaced all the same.
    Ignored,
    /// Nothing is stored with it.
    Refused(StoreError),
    /// What came of it says nothing of the condition.
    Unclear(Put),
    Trouble(StoreError),
}

/// What came of the first object of a store.
pub(super) struct Learned {
    pub put: Put,
    /// None where it is still not known.
    pub create_only: Option<CreateOnly>,
}

impl S3Store {
    pub(super) async fn create(&self, key: &str, body: &Body) -> Result<Put, StoreError> {
        match self.learnt.condition() {
            Some(Condition::None) => match Box::pin(self.exists(key)).await? {
                true => Ok(Put::Exists),
                false => self.store(key, body, Condition::None).await,
            },
            Some(condition) => self.store(key, body, condition).await,
            // Apart, since it is large and seldom done.
            None => Box::pin(self.create_first(key, body)).await,
        }
    }

    /// Stores it with a condition that is known to hold, or without any.
    async fn store(&self, key: &str, body: &Body, condition: Condition) -> Result<Put, StoreError> {
        match self.upload(key, body, condition).await {
            Ok(()) => Ok(Put::Created),
            Err(Refused::Precondition) if Box::pin(self.exists(key)).await? => Ok(Put::Exists),
            Err(Refused::Precondition) => {
                self.learnt.set_condition(None);
                Err(StoreError::Unavailable {
                    key: key.to_owned(),
                    reason: "it refuses a new object because there is one, and there is none; what it can do is found out anew".to_owned(),
                })
            }
            // Another request for this key was under way; whether that one has succeeded is not said.
            Err(Refused::Conflict) => match Box::pin(self.exists(key)).await? {
                true => Ok(Put::Exists),
                false => Err(StoreError::Unavailable {
                    key: key.to_owned(),
                    reason: "a conflicting request was under way".to_owned(),
                }),
            },
            Err(refused) => Err(refused.into_error(key)),
        }
    }

    /// As long as it is not known what the server does with a condition, nothing relies on it.
    async fn create_first(&self, key: &str, body: &Body) -> Result<Put, StoreError> {
        if self.exists(key).await? {
            return Ok(Put::Exists);
        }
        if let Body::Bytes(bytes) = body
            && bytes.len() < SHORT
            && let Ok(_one) = self.learning.try_lock()
        {
            let here = |_| key.to_owned();
            return Ok(self.learn(here, bytes).await?.put);
        }
        let refused = match self.upload(key, body, Condition::IfNoneMatch).await {
            Ok(()) => return Ok(Put::Created),
            Err(Refused::Precondition | Refused::Conflict) if self.exists(key).await? => {
                return Ok(Put::Exists);
            }
            Err(refused) => refused.into_error(key),
        };
        if !matches!(refused, StoreError::Failed { .. }) {
            return Err(refused);
        }
        let plain = self.upload(key, body, Condition::None).await;
        plain.map(|()| Put::Created).map_err(|_| refused)
    }

    /// Stores it under keys that have no object, one for each condition, or one for all; and notes what the server knows.
    ///
    /// # Errors
    /// Those of the store, where it does not take the object in any way.
    pub(super) async fn learn(
        &self,
        key_for: impl Fn(Condition) -> String,
        bytes: &Bytes,
    ) -> Result<Learned, StoreError> {
        let mut refusals = Vec::new();
        let mut stored: Option<String> = None;
        for condition in [Condition::IfNoneMatch, Condition::IfGenerationMatch] {
            let key = key_for(condition);
            let is_new = stored.as_ref() != Some(&key);
            match self.find_out(&key, bytes, condition, is_new).await {
                Finding::Honoured { is_atomic } => {
                    return Ok(self.note(condition, is_atomic.unwrap_or(false)));
                }
                Finding::Ignored => stored = Some(key),
                Finding::Refused(error) => refusals.push(error),
                Finding::Unclear(put) => {
                    return Ok(Learned {
                        put,
                        create_only: None,
                    });
                }
                Finding::Trouble(error) => return Err(error),
            }
        }
        let key = key_for(Condition::None);
        if stored.as_ref() != Some(&key) {
            let body = Body::Bytes(bytes.clone());
            let plain = self.upload(&key, &body, Condition::None).await;
            if let Err(refused) = plain {
                refusals.push(refused.into_error(&key));
                return Err(refusals.swap_remove(0));
            }
        }
        Ok(self.note(Condition::None, false))
    }

    /// What the server makes of a condition, by several writers at once where the key is new, and then by one more.
    async fn find_out(
        &self,
        key: &str,
        bytes: &Bytes,
        condition: Condition,
        is_new: bool,
    ) -> Finding {
        let body = Body::Bytes(bytes.clone());
        let mut created = 0;
        if is_new {
            let writers = (0..WRITERS).map(|_| self.upload(key, &body, condition));
            let (mut taken, mut refused, mut trouble) = (0, None, None);
            for outcome in join_all(writers).await {
                match outcome.map_err(|refused| refused.into_taken(key)) {
                    Ok(()) => created += 1,
                    Err(None) => taken += 1,
                    Err(Some(error @ StoreError::Failed { .. })) => refused = Some(error),
                    Err(Some(error)) => trouble = Some(error),
                }
            }
            match (created, taken) {
                (0, 0) => {
                    return match trouble {
                        Some(error) => Finding::Trouble(error),
                        None => Finding::Refused(refused.expect("BUG: each had an outcome")),
                    };
                }
                (0, _) => return self.taken_by_nobody(key).await,
                (_, 0) => {}
                (created, _) => {
                    return Finding::Honoured {
                        is_atomic: Some(created == 1),
                    };
                }
            }
        }
        let is_atomic = (created > 1).then_some(false);
        let mut pauses = Backoff::new(BETWEEN_TURNS, BETWEEN_TURNS * 4);
        for _ in 0..TURNS {
            return match self.upload(key, &body, condition).await {
                Ok(()) => Finding::Ignored,
                Err(Refused::Precondition) => Finding::Honoured { is_atomic },
                Err(refused) => match refused.into_error(key) {
                    StoreError::Throttled { .. } => {
                        tokio::time::sleep(pauses.pause()).await;
                        continue;
                    }
                    error @ StoreError::Failed { .. } if created == 0 => Finding::Refused(error),
                    _ => Finding::Unclear(Put::Created),
                },
            };
        }
        Finding::Unclear(Put::Created)
    }

    /// The server says that there is an object, and there was none.
    async fn taken_by_nobody(&self, key: &str) -> Finding {
        match self.exists(key).await {
            // By another one, or an acknowledgement was lost.
            Ok(true) => Finding::Unclear(Put::Exists),
            Ok(false) => Finding::Refused(StoreError::Failed {
                key: key.to_owned(),
                reason: "the server refuses a new object because there is one, and there is none"
                    .to_owned(),
            }),
            Err(error) => Finding::Trouble(error),
        }
    }

    /// Goes by it from now on, and says once what can't be relied on.
    fn note(&self, condition: Condition, is_atomic: bool) -> Learned {
        let create_only = match condition {
            Condition::None => CreateOnly::Unknown,
            _ if !is_atomic => CreateOnly::NotAtomic,
            Condition::IfNoneMatch => CreateOnly::IfNoneMatch,
            Condition::IfGenerationMatch => CreateOnly::IfGenerationMatch,
        };
        if self.learnt.set_condition(Some(condition)) && !create_only.is_relied_on() {
            tracing::warn!(
                s3_path = %self.described(),
                create_only = create_only.as_str(),
                "The store does not keep two writers apart: an object that is there is looked for first, and two instances with one bucket are found by listing, at the next snapshot, not at once"
            );
        }
        Learned {
            put: Put::Created,
            create_only: Some(create_only),
        }
    }

    /// Whether an object has the key. Keys with rights for one prefix are not told of a HEAD that there is none, but that it
    /// is refused.
    pub(super) async fn exists(&self, key: &str) -> Result<bool, StoreError> {
        let keys = self.keys.current();
        let request = keys.client().head_object().bucket(&self.bucket);
        let full_key = self.full_key(key);
        match request.key(&full_key).send().await {
            Ok(_) => return Ok(true),
            Err(error) => match refusal(key, &error) {
                StoreError::NotFound { .. } => return Ok(false),
                StoreError::Denied { .. } | StoreError::Failed { .. } => {}
                other => return Err(other),
            },
        }
        // In the order of keys this one is the first that begins so.
        let request = keys.client().list_objects_v2().bucket(&self.bucket);
        let listed = request.prefix(&full_key).max_keys(1).send().await;
        let listed = listed.map_err(|error| refusal(key, &error))?;
        let mut objects = listed.contents().iter();
        Ok(objects.any(|object| object.key() == Some(&full_key)))
    }
}
