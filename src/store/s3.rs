//! The store in an S3 bucket. This module alone names the SDK.

mod connect;
mod date;
mod listing;
mod refusal;
mod short;
mod upload;

use std::io;

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{Delete, Object, ObjectIdentifier, ServerSideEncryption};
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt};

use self::date::AnswerDate;
use self::listing::Listing;
use self::refusal::{code_refusal, refusal};
use self::short::Known;
use super::spec::{Encryption, EncryptionAlgorithm, S3Options};
use super::{Body, ObjectInfo, ObjectStore, Put, StoreError, check_key, check_prefix};
use crate::clock::UnixMs;

/// The most keys that one DeleteObjects request takes.
const DELETE_BATCH: usize = 1000;

/// A bucket, or the part of it below a prefix.
pub struct S3Store {
    client: Client,
    bucket: String,
    /// Without a slash at either end; empty for the whole bucket.
    prefix: String,
    encryption: AskedEncryption,
    short_way: Known,
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
        let client = connect::client(options)
            .await
            .map_err(|reason| StoreError::Failed {
                key: format!("s3://{bucket}"),
                reason,
            })?;
        Ok(Self {
            client,
            bucket: bucket.to_owned(),
            prefix: prefix.to_owned(),
            encryption: options
                .encryption
                .as_ref()
                .map(Into::into)
                .unwrap_or_default(),
            short_way: Known::default(),
        })
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

    async fn exists(&self, key: &str) -> Result<bool, StoreError> {
        let request = self.client.head_object().bucket(&self.bucket);
        match request.key(self.full_key(key)).send().await {
            Ok(_) => Ok(true),
            Err(error) => match refusal(key, &error) {
                StoreError::NotFound { .. } => Ok(false),
                other => Err(other),
            },
        }
    }

    async fn delete_batch(&self, keys: &[String]) -> Result<(), StoreError> {
        let first = keys.first().map_or("", String::as_str);
        let mut batch = Delete::builder().quiet(true);
        for key in keys {
            let object = ObjectIdentifier::builder().key(self.full_key(key)).build();
            batch = batch.objects(object.expect("BUG: an object with a key"));
        }
        let answer = self
            .client
            .delete_objects()
            .bucket(&self.bucket)
            .delete(batch.build().expect("BUG: a batch with objects"))
            .send()
            .await
            .map_err(|error| refusal(first, &error))?;
        for error in answer.errors() {
            let key = error.key().and_then(|full| self.own_key(full));
            let code = error.code().unwrap_or("unknown");
            match code_refusal(key.unwrap_or(first), None, code, error.message()) {
                StoreError::NotFound { .. } => {}
                other => return Err(other),
            }
        }
        Ok(())
    }
}

#[async_trait]
impl ObjectStore for S3Store {
    async fn put_new(&self, key: &str, body: &Body) -> Result<Put, StoreError> {
        check_key(key)?;
        match self.upload(key, body).await {
            Err(upload::Refused::Precondition) => Ok(Put::Exists),
            // Another request for this key was under way; whether that one has succeeded is not said.
            Err(upload::Refused::Conflict) => match Box::pin(self.exists(key)).await? {
                true => Ok(Put::Exists),
                false => Err(StoreError::Unavailable {
                    key: key.to_owned(),
                    reason: "a conflicting request was under way".to_owned(),
                }),
            },
            Err(upload::Refused::Other(error)) => Err(error),
            Ok(()) => Ok(Put::Created),
        }
    }

    async fn get(&self, key: &str) -> Result<Box<dyn AsyncRead + Send + Unpin>, StoreError> {
        check_key(key)?;
        let request = self.client.get_object().bucket(&self.bucket);
        let answer = request.key(self.full_key(key)).send().await;
        let body: ByteStream = answer.map_err(|error| refusal(key, &error))?.body;
        Ok(Box::new(body.into_async_read()))
    }

    async fn get_range(&self, key: &str, offset: u64, len: u64) -> Result<Bytes, StoreError> {
        check_key(key)?;
        if len == 0 {
            return Ok(Bytes::new());
        }
        let last = offset.saturating_add(len - 1).min(i64::MAX as u64);
        let request = self.client.get_object().bucket(&self.bucket);
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

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, StoreError> {
        check_prefix(prefix)?;
        let request = self.client.list_objects_v2().bucket(&self.bucket);
        let mut pages = request
            .prefix(self.full_key(prefix))
            .into_paginator()
            .send();
        let mut listing = Listing::new(self.named(prefix));
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| refusal(&self.named(prefix), &error))?;
            listing.add_page(page.contents().iter().filter_map(|object| {
                let key = self.own_key(object.key()?)?;
                // What is no key of ours is nobody's, and keeps nobody from the others.
                check_key(key).ok()?;
                Some(ObjectInfo {
                    key: key.to_owned(),
                    size: u64::try_from(object.size()?).ok()?,
                    modified_ms: modified_ms(object),
                })
            }))?;
        }
        let mut found = listing.found();
        found.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(found)
    }

    async fn list_folders(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        check_prefix(prefix)?;
        let start = self.full_key(prefix);
        let request = self.client.list_objects_v2().bucket(&self.bucket);
        let request = request.prefix(&start).delimiter("/");
        let mut pages = request.into_paginator().send();
        let mut listing = Listing::new(self.named(prefix));
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| refusal(&self.named(prefix), &error))?;
            listing.add_page(page.common_prefixes().iter().filter_map(|folder| {
                let name = folder.prefix()?.strip_prefix(&start)?.strip_suffix('/')?;
                check_key(&format!("{prefix}{name}")).ok()?;
                Some(name.to_owned())
            }))?;
        }
        let mut names = listing.found();
        names.sort();
        Ok(names)
    }

    async fn delete(&self, keys: &[String]) -> Result<(), StoreError> {
        keys.iter().try_for_each(|key| check_key(key))?;
        for batch in keys.chunks(DELETE_BATCH) {
            self.delete_batch(batch).await?;
        }
        Ok(())
    }

    async fn now(&self, prefix: &str) -> Result<UnixMs, StoreError> {
        check_prefix(prefix)?;
        let date = AnswerDate::default();
        let request = self.client.list_objects_v2().bucket(&self.bucket);
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

    fn describe(&self) -> String {
        match self.prefix.as_str() {
            "" => format!("s3://{}", self.bucket),
            prefix => format!("s3://{}/{prefix}", self.bucket),
        }
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
