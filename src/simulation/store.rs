//! An object store in memory that loses answers, delays, refuses, and carries requests out twice or much later.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::io::AsyncRead;

use super::chance::{Dice, Trace, lock};
use crate::clock::{UnixMs, now_ms};
use crate::store::{Body, ObjectInfo, ObjectStore, Put, StoreError};

/// A request that went out and has not come in yet.
struct Late {
    at: UnixMs,
    key: String,
    bytes: Bytes,
}

#[derive(Default)]
struct Content {
    objects: BTreeMap<String, (Bytes, UnixMs)>,
    late: Vec<Late>,
    /// Keys in the order in which they came.
    arrived: Vec<String>,
}

/// What the process and the simulation see of it. One that belongs to a dead process does nothing any more.
pub struct SimulatedStore {
    content: Arc<Mutex<Content>>,
    dice: Arc<Dice>,
    trace: Arc<Trace>,
    /// Of a thousand requests so many go wrong.
    faults: Arc<AtomicU64>,
    dead: Arc<AtomicBool>,
    instants: Arc<AtomicU64>,
}

enum Fate {
    Well,
    /// Refused, nothing done.
    Refused,
    /// Done, and the answer is lost.
    AnswerLost,
    /// The answer is an error, and the request comes in later all the same.
    Late,
    /// Done, and once more later.
    Twice,
}

impl SimulatedStore {
    pub fn new(dice: Arc<Dice>, trace: Arc<Trace>) -> Self {
        Self {
            content: Arc::default(),
            dice,
            trace,
            faults: Arc::default(),
            dead: Arc::default(),
            instants: Arc::default(),
        }
    }

    /// The same objects, for a process that begins now.
    pub fn of_next_process(&self) -> Self {
        Self {
            content: self.content.clone(),
            dice: self.dice.clone(),
            trace: self.trace.clone(),
            faults: self.faults.clone(),
            dead: Arc::default(),
            instants: Arc::default(),
        }
    }

    /// Its process has died: what it has sent may still arrive.
    pub fn die(&self) {
        self.dead.store(true, Ordering::Relaxed);
    }

    pub fn set_faults(&self, permille: u64) {
        self.faults.store(permille, Ordering::Relaxed);
    }

    /// Requests so far of this process.
    pub fn instants(&self) -> u64 {
        self.instants.load(Ordering::Relaxed)
    }

    /// What is under way and due comes in.
    pub fn arrive(&self) {
        let mut content = lock(&self.content);
        let now = now_ms();
        let (due, late) = std::mem::take(&mut content.late)
            .into_iter()
            .partition(|late| late.at <= now);
        content.late = late;
        let due: Vec<Late> = due;
        for late in due {
            let put = content.put(&late.key, late.bytes);
            self.trace.note(format_args!("late {} {put:?}", late.key));
        }
    }

    pub fn has_late(&self) -> bool {
        !lock(&self.content).late.is_empty()
    }

    /// The keys that came after the first `known` ones.
    pub fn arrived_after(&self, known: usize) -> Vec<String> {
        lock(&self.content).arrived[known..].to_vec()
    }

    pub fn object(&self, key: &str) -> Bytes {
        lock(&self.content).objects[key].0.clone()
    }

    fn put(&self, key: &str, bytes: Bytes) -> Put {
        lock(&self.content).put(key, bytes)
    }

    fn put_late(&self, key: &str, bytes: Bytes) {
        let at = now_ms() + self.dice.spread(200_000) as i64;
        let key = key.to_owned();
        lock(&self.content).late.push(Late { at, key, bytes });
    }

    /// On the way there, or back.
    async fn travel(&self) {
        self.instants.fetch_add(1, Ordering::Relaxed);
        if self.dice.chance(600) {
            let ms = self
                .dice
                .spread(if self.faults.load(Ordering::Relaxed) > 0 {
                    3000
                } else {
                    20
                });
            tokio::time::sleep(Duration::from_millis(ms)).await;
        }
    }

    fn fate(&self) -> Fate {
        if self.dead.load(Ordering::Relaxed) {
            return Fate::Refused;
        }
        if !self.dice.chance(self.faults.load(Ordering::Relaxed)) {
            return Fate::Well;
        }
        match self.dice.below(6) {
            0 | 1 => Fate::Refused,
            2 | 3 => Fate::AnswerLost,
            4 => Fate::Late,
            _ => Fate::Twice,
        }
    }

    fn error(&self, key: &str) -> StoreError {
        let (key, reason) = (key.to_owned(), "simulated".to_owned());
        match self.dice.below(5) {
            0 => StoreError::Throttled { key, reason },
            1 => StoreError::Denied { key, reason },
            2 => StoreError::Failed { key, reason },
            _ => StoreError::Unavailable { key, reason },
        }
    }

    async fn read<T>(&self, key: &str, read: impl FnOnce(&Content) -> T) -> Result<T, StoreError> {
        self.travel().await;
        if !matches!(self.fate(), Fate::Well | Fate::Twice) {
            return Err(self.error(key));
        }
        let found = read(&lock(&self.content));
        self.travel().await;
        Ok(found)
    }
}

impl Content {
    fn put(&mut self, key: &str, bytes: Bytes) -> Put {
        if self.objects.contains_key(key) {
            return Put::Exists;
        }
        self.objects.insert(key.to_owned(), (bytes, now_ms()));
        self.arrived.push(key.to_owned());
        Put::Created
    }
}

/// A request that its sender gives up, or that outlives it, may still arrive.
struct UnderWay<'a> {
    store: &'a SimulatedStore,
    key: &'a str,
    bytes: Option<Bytes>,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if let Some(bytes) = self.bytes.take()
            && self.store.dice.chance(500)
        {
            self.store.put_late(self.key, bytes);
        }
    }
}

#[async_trait]
impl ObjectStore for SimulatedStore {
    async fn put_new(&self, key: &str, body: &Body) -> Result<Put, StoreError> {
        let bytes = match body {
            Body::Bytes(bytes) => bytes.clone(),
            Body::File(path) => match std::fs::read(path) {
                Ok(bytes) => bytes.into(),
                Err(error) => {
                    let (key, reason) = (key.to_owned(), error.to_string());
                    return Err(StoreError::Failed { key, reason });
                }
            },
        };
        let mut under_way = UnderWay {
            store: self,
            key,
            bytes: Some(bytes.clone()),
        };
        if self.dead.load(Ordering::Relaxed) {
            under_way.bytes = None;
            return Err(self.error(key));
        }
        self.travel().await;
        under_way.bytes = None;
        let fate = self.fate();
        let put = match fate {
            Fate::Refused => return Err(self.error(key)),
            Fate::Late => {
                self.put_late(key, bytes);
                self.trace.note(format_args!("put {key} is late"));
                return Err(self.error(key));
            }
            Fate::Twice => {
                self.put_late(key, bytes.clone());
                self.put(key, bytes)
            }
            Fate::Well | Fate::AnswerLost => self.put(key, bytes),
        };
        self.trace.note(format_args!("put {key} {put:?}"));
        self.travel().await;
        match fate {
            Fate::AnswerLost => Err(self.error(key)),
            _ => Ok(put),
        }
    }

    async fn get(&self, key: &str) -> Result<Box<dyn AsyncRead + Send + Unpin>, StoreError> {
        let found = self.read(key, |content| content.objects.get(key).cloned());
        match found.await? {
            Some((bytes, _)) => Ok(Box::new(std::io::Cursor::new(bytes))),
            None => Err(StoreError::NotFound {
                key: key.to_owned(),
            }),
        }
    }

    async fn get_range(&self, key: &str, offset: u64, len: u64) -> Result<Bytes, StoreError> {
        let found = self.read(key, |content| content.objects.get(key).cloned());
        let Some((bytes, _)) = found.await? else {
            return Err(StoreError::NotFound {
                key: key.to_owned(),
            });
        };
        let from = (offset as usize).min(bytes.len());
        let to = (offset.saturating_add(len) as usize).min(bytes.len());
        Ok(bytes.slice(from..to))
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, StoreError> {
        self.read(prefix, |content| {
            let below = content.objects.range(prefix.to_owned()..);
            below
                .take_while(|(key, _)| key.starts_with(prefix))
                .map(|(key, (bytes, at))| ObjectInfo {
                    key: key.clone(),
                    size: bytes.len() as u64,
                    modified_ms: *at,
                })
                .collect()
        })
        .await
    }

    async fn list_folders(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        self.read(prefix, |content| {
            let below = content.objects.keys();
            let mut names: Vec<String> = below
                .filter_map(|key| key.strip_prefix(prefix)?.split_once('/'))
                .map(|(name, _)| name.to_owned())
                .collect();
            names.dedup();
            names
        })
        .await
    }

    async fn delete(&self, keys: &[String]) -> Result<(), StoreError> {
        for key in keys {
            lock(&self.content).objects.remove(key);
        }
        Ok(())
    }

    async fn now(&self, _prefix: &str) -> Result<UnixMs, StoreError> {
        Ok(now_ms())
    }

    fn describe(&self) -> String {
        "simulated".to_owned()
    }
}
