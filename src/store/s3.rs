//! The store in an S3 bucket. This module alone names the SDK.

mod abilities;
mod connect;
mod create;
mod date;
mod delete;
mod key_files;
mod keys;
mod learnt;
mod listing;
mod refusal;
mod short;
mod upload;

use std::io;

use async_trait::async_trait;
use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{Object, ServerSideEncryption};
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt};

use self::date::AnswerDate;
use self::keys::Keys;
use self::learnt::Learnt;
use self::listing::{Ask, Entry, Listing, Page};
use self::refusal::refusal;
use self::short::Known;
use super::probe::Abilities;
use super::spec::{Encryption, EncryptionAlgorithm, S3Options};
use super::{Body, ListedPage, ObjectInfo, ObjectStore, Put, StoreError, check_key, check_prefix};
use crate::clock::UnixMs;

/// A bucket, or the part of it below a prefix.
pub struct S3Store {
    keys: Keys,
    bucket: String,
    /// Without a slash at either end; empty for the whole bucket.
    prefix: String,
    encryption: AskedEncryption,
    short_way: Known,
    learnt: Learnt,
    /// Held by whoever finds out what the server does with a condition.
    learning: tokio::sync::Mutex<()>,
}

/// What is asked for with each new object; nothing where the bucket decides.
#[derive(Default)]
struct AskedEncryption {
    algorithm: Option<ServerSideEncryption>,
    kms_key_id: Option<String>,
}

impl From<&Encryption> for AskedEncryption {
    fn from(encryption: &Encryption) -> Self {
        Self {
            algorithm: Some(match encryption.algorithm {
                EncryptionAlgorithm::Aes256 => ServerSideEncryption::Aes256,
                EncryptionAlgorithm::Kms => ServerSideEncryption::AwsKms,
                EncryptionAlgorithm::KmsDsse => ServerSideEncryption::AwsKmsDsse,
            }),
            kms_key_id: encryption.kms_key_id.clone(),
        }
    }
}

impl S3Store {
    /// A client for `bucket`; the server is not contacted.
    ///
    /// # Errors
    /// `Failed` for options that contradict each other, or where no region is known.
    pub async fn open(bucket: &str, prefix: &str, options: &S3Options) -> Result<Self, StoreError> {
        let keys = Keys::open(options)
            .await
            .map_err(|reason| StoreError::Failed {
                key: format!("s3://{bucket}"),
                reason,
            })?;
        let encryption = options.encryption.as_ref();
        Ok(Self {
            prefix: prefix.to_owned(),
            encryption: encryption.map(Into::into).unwrap_or_default(),
            ..Self::new(keys, bucket)
        })
    }

    fn new(keys: Keys, bucket: &str) -> Self {
        Self {
            keys,
            bucket: bucket.to_owned(),
            prefix: String::new(),
            encryption: AskedEncryption::default(),
            short_way: Known::default(),
            learnt: Learnt::default(),
            learning: tokio::sync::Mutex::default(),
        }
    }

    /// Of which it is known already that it keeps writers apart.
    #[cfg(test)]
    fn of_client(client: aws_sdk_s3::Client, bucket: &str) -> Self {
        let store = Self::new(Keys::of_client(client), bucket);
        store
            .learnt
            .set_condition(Some(learnt::Condition::IfNoneMatch));
        store
    }

    fn full_key(&self, key: &str) -> String {
        match self.prefix.as_str() {
            "" => key.to_owned(),
            prefix => format!("{prefix}/{key}"),
        }
    }

    /// A key as the callers know it; none for one that is not below the prefix.
    fn own_key<'a>(&self, full: &'a str) -> Option<&'a str> {
        match self.prefix.as_str() {
            "" => Some(full),
            prefix => full.strip_prefix(prefix)?.strip_prefix('/'),
        }
    }

    /// What an error of a listing is about: all of the store, where the prefix is empty.
    fn named(&self, prefix: &str) -> String {
        match prefix {
            "" => self.describe(),
            prefix => prefix.to_owned(),
        }
    }

    /// As users write it.
    fn described(&self) -> String {
        match self.prefix.as_str() {
            "" => format!("s3://{}", self.bucket),
            prefix => format!("s3://{}/{prefix}", self.bucket),
        }
    }

    /// Makes a request, and once more where its keys were refused and there are others.
    async fn with_keys<T, F>(&self, request: impl Fn() -> F + Send + Sync) -> Result<T, StoreError>
    where
        T: Send,
        F: Future<Output = Result<T, StoreError>> + Send,
    {
        self.keys.refresh().await;
        let used = self.keys.current();
        match request().await {
            Err(StoreError::Denied { .. }) if Box::pin(self.keys.replace(&used)).await => {
                request().await
            }
            answer => answer,
        }
    }

    /// All that begins with `prefix`, or the folders directly below it, as `entry` and `folder` name them.
    async fn list_all<T: Send>(
        &self,
        prefix: &str,
        delimiter: Option<&str>,
        entry: impl Fn(&Object) -> Option<(String, T)> + Send + Sync,
        folder: impl Fn(&str) -> Option<(String, T)> + Send + Sync,
    ) -> Result<Listing<T>, StoreError> {
        let start = self.full_key(prefix);
        let confirms = !self.keys.is_aws();
        let mut listing = Listing::new(self.named(prefix), start.clone(), confirms);
        let mut next = Some(Ask::Start);
        while let Some(ask) = next {
            let keys = self.keys.current();
            let mut request = keys.client().list_objects_v2().bucket(&self.bucket);
            request = request
                .prefix(&start)
                .set_delimiter(delimiter.map(str::to_owned));
            request = match &ask {
                Ask::Start => request,
                Ask::Token(token) => request.continuation_token(token),
                Ask::After(key) | Ask::Confirm(key) => request.start_after(key),
            };
            let answer = request.send().await;
            let answer = answer.map_err(|error| refusal(&self.named(prefix), &error))?;
            next = listing.add_page(&ask, page_of(&answer, &entry, &folder))?;
        }
        Ok(listing)
    }

    /// An object of a listing as its callers know it; none for one whose key is nobody's: that keeps nobody from the others.
    fn listed(&self, object: &Object) -> Option<ObjectInfo> {
        let key = self.own_key(object.key()?)?;
        check_key(key).ok()?;
        Some(ObjectInfo {
            key: key.to_owned(),
            size: u64::try_from(object.size()?).ok()?,
            modified_ms: modified_ms(object),
        })
    }

    async fn list_once(&self, prefix: &str) -> Result<Vec<ObjectInfo>, StoreError> {
        let entry = |object: &Object| {
            let listed = self.listed(object)?;
            Some((listed.key.clone(), listed))
        };
        let listing = self.list_all(prefix, None, entry, |_| None).await?;
        Ok(listing.found().into_values().collect())
    }

    async fn list_after_once(&self, prefix: &str, after: &str) -> Result<ListedPage, StoreError> {
        let keys = self.keys.current();
        let request = keys.client().list_objects_v2().bucket(&self.bucket);
        let request = request.prefix(self.full_key(prefix));
        let request = match after {
            "" => request,
            after => request.start_after(self.full_key(after)),
        };
        let answer = request.send().await;
        let answer = answer.map_err(|error| refusal(&self.named(prefix), &error))?;
        let listed = answer.contents().iter();
        let listed = listed.filter_map(|object| self.listed(object));
        let objects: Vec<_> = listed
            .filter(|object| object.key.starts_with(prefix) && object.key.as_str() > after)
            .collect();
        let is_last = !answer.is_truncated().unwrap_or(false);
        if objects.is_empty() && !is_last {
            return Err(StoreError::Incomplete {
                key: self.named(prefix),
                reason: "there is more, and the server does not give it".to_owned(),
            });
        }
        Ok(ListedPage { objects, is_last })
    }

    async fn list_folders_once(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        let start = self.full_key(prefix);
        let name_in = |key: &str| {
            let (name, _) = key.strip_prefix(&start)?.split_once('/')?;
            check_key(&format!("{prefix}{name}")).ok()?;
            Some((name.to_owned(), ()))
        };
        // A server that ignores the delimiter gives objects instead.
        let entry = |object: &Object| name_in(object.key()?);
        let listing = self.list_all(prefix, Some("/"), entry, name_in).await?;
        Ok(listing.found().into_keys().collect())
    }

    async fn get_once(&self, key: &str) -> Result<Box<dyn AsyncRead + Send + Unpin>, StoreError> {
        let keys = self.keys.current();
        let request = keys.client().get_object().bucket(&self.bucket);
        let answer = request.key(self.full_key(key)).send().await;
        let body: ByteStream = answer.map_err(|error| refusal(key, &error))?.body;
        Ok(Box::new(body.into_async_read()))
    }

    async fn get_range_once(&self, key: &str, offset: u64, len: u64) -> Result<Bytes, StoreError> {
        let last = offset.saturating_add(len - 1).min(i64::MAX as u64);
        let keys = self.keys.current();
        let request = keys.client().get_object().bucket(&self.bucket);
        let request = request.range(format!("bytes={offset}-{last}"));
        let answer = match request.key(self.full_key(key)).send().await {
            Ok(answer) => answer,
            Err(error) if refusal::is_past_the_end(&error) => return Ok(Bytes::new()),
            Err(error) => return Err(refusal(key, &error)),
        };
        if answer.content_range.is_none() && offset > 0 {
            return Err(StoreError::Failed {
                key: key.to_owned(),
                reason: "the server does not know range requests".to_owned(),
            });
        }
        read_at_most(answer.body, len)
            .await
            .map_err(|error| StoreError::Unavailable {
                key: key.to_owned(),
                reason: error.to_string(),
            })
    }

    async fn now_once(&self, prefix: &str) -> Result<UnixMs, StoreError> {
        let date = AnswerDate::default();
        let keys = self.keys.current();
        let request = keys.client().list_objects_v2().bucket(&self.bucket);
        request
            .prefix(self.full_key(prefix))
            .max_keys(1)
            .customize()
            .interceptor(date.clone())
            .send()
            .await
            .map_err(|error| refusal(&self.named(prefix), &error))?;
        date.get().ok_or_else(|| StoreError::Failed {
            key: self.named(prefix),
            reason: "the server's answers have no date; what is too old can't be told".to_owned(),
        })
    }
}

#[async_trait]
impl ObjectStore for S3Store {
    async fn put_new(&self, key: &str, body: &Body) -> Result<Put, StoreError> {
        check_key(key)?;
        self.with_keys(|| self.create(key, body)).await
    }

    async fn get(&self, key: &str) -> Result<Box<dyn AsyncRead + Send + Unpin>, StoreError> {
        check_key(key)?;
        self.with_keys(|| self.get_once(key)).await
    }

    async fn get_range(&self, key: &str, offset: u64, len: u64) -> Result<Bytes, StoreError> {
        check_key(key)?;
        if len == 0 {
            return Ok(Bytes::new());
        }
        let request = || self.get_range_once(key, offset, len);
        self.with_keys(request).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, StoreError> {
        check_prefix(prefix)?;
        self.with_keys(|| self.list_once(prefix)).await
    }

    async fn list_after(&self, prefix: &str, after: &str) -> Result<ListedPage, StoreError> {
        check_prefix(prefix)?;
        check_prefix(after)?;
        self.with_keys(|| self.list_after_once(prefix, after)).await
    }

    async fn list_folders(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        check_prefix(prefix)?;
        self.with_keys(|| self.list_folders_once(prefix)).await
    }

    async fn delete(&self, keys: &[String]) -> Result<(), StoreError> {
        keys.iter().try_for_each(|key| check_key(key))?;
        self.with_keys(|| self.remove(keys)).await
    }

    async fn now(&self, prefix: &str) -> Result<UnixMs, StoreError> {
        check_prefix(prefix)?;
        self.with_keys(|| self.now_once(prefix)).await
    }

    async fn probe(&self, key: &str) -> Result<Abilities, StoreError> {
        check_key(key)?;
        self.with_keys(|| self.find_abilities(key)).await
    }

    fn renew_keys(&self) {
        self.keys.set_outdated();
    }

    fn describe(&self) -> String {
        self.described()
    }
}

/// A page of a listing, with what its entries are to the caller.
fn page_of<T>(
    answer: &ListObjectsV2Output,
    entry: impl Fn(&Object) -> Option<(String, T)>,
    folder: impl Fn(&str) -> Option<(String, T)>,
) -> Page<T> {
    let objects = answer.contents().iter().filter_map(|object| {
        Some(Entry {
            key: object.key()?.to_owned(),
            found: entry(object),
        })
    });
    let folders = answer.common_prefixes().iter().filter_map(|common| {
        let prefix = common.prefix()?;
        Some(Entry {
            key: prefix.to_owned(),
            found: folder(prefix),
        })
    });
    Page {
        objects: objects.collect(),
        folders: folders.collect(),
        is_truncated: answer.is_truncated(),
        token: answer.next_continuation_token().map(str::to_owned),
        key_count: answer.key_count(),
        max_keys: answer.max_keys(),
    }
}

/// An object of which the server does not say when it was stored counts as new: nothing may be concluded from its age.
fn modified_ms(object: &Object) -> UnixMs {
    object
        .last_modified()
        .and_then(|time| time.to_millis().ok())
        .unwrap_or(UnixMs::MAX)
}

/// Reads a body, but no more than was asked for.
async fn read_at_most(body: ByteStream, len: u64) -> io::Result<Bytes> {
    let mut bytes = Vec::new();
    body.into_async_read()
        .take(len)
        .read_to_end(&mut bytes)
        .await?;
    Ok(bytes.into())
}
