//! Create-only uploads: one request, or several parts of a large file that become an object all at once.

use std::io;
use std::path::Path;
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::put_object::builders::PutObjectFluentBuilder;
use aws_sdk_s3::primitives::{ByteStream, Length};
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use bytes::Bytes;

use super::S3Store;
use super::connect::{ATTEMPT_TIMEOUT, timeouts};
use super::refusal::{is_conflict, is_precondition, refusal};
use super::short::Lesson;
use crate::store::{Body, StoreError};

/// Bytes of a part, unless there would be more than `MAX_PARTS`. A shorter file goes up in one request; what fails
/// is sent again in pieces of this size.
const PART: u64 = 16 << 20;
const MAX_PARTS: u64 = 10_000;
/// Bytes a second that any connection worth waiting for has.
const SLOWEST: u64 = 128 << 10;
/// The only condition used: no object has the key.
const ANY: &str = "*";

/// Why nothing was stored.
pub(super) enum Refused {
    /// An object has that key.
    Precondition,
    /// Another request for that key was under way.
    Conflict,
    Other(StoreError),
}

impl Refused {
    fn from_sdk<E>(key: &str, error: &SdkError<E, HttpResponse>) -> Self
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        if is_precondition(error) {
            Self::Precondition
        } else if is_conflict(error) {
            Self::Conflict
        } else {
            Self::Other(refusal(key, error))
        }
    }

    /// An error of the file to be stored.
    fn local(key: &str, path: &Path, error: &dyn std::fmt::Display) -> Self {
        Self::Other(StoreError::Failed {
            key: key.to_owned(),
            reason: format!("read {}: {error}", path.display()),
        })
    }
}

impl S3Store {
    pub(super) async fn upload(&self, key: &str, body: &Body) -> Result<(), Refused> {
        match body {
            Body::Bytes(bytes) if (bytes.len() as u64) < SLOWEST => {
                self.upload_small(key, bytes).await
            }
            // Apart, since it is large.
            _ => Box::pin(self.upload_large(key, body)).await,
        }
    }

    async fn upload_large(&self, key: &str, body: &Body) -> Result<(), Refused> {
        match body {
            Body::Bytes(bytes) => {
                let len = bytes.len() as u64;
                let stream = ByteStream::from(bytes.clone());
                self.upload_whole(key, stream, len).await
            }
            Body::File(path) => {
                let local = |error: io::Error| Refused::local(key, path, &error);
                let len = tokio::fs::metadata(path).await.map_err(local)?.len();
                if len > PART {
                    return self.upload_parts(key, path, len).await;
                }
                let stream = part_of(key, path, 0, len).await?;
                self.upload_whole(key, stream, len).await
            }
        }
    }

    /// What is short goes the short way, once that is known.
    async fn upload_small(&self, key: &str, bytes: &Bytes) -> Result<(), Refused> {
        let full_key = self.full_key(key);
        if let Some(way) = self.short_way.get() {
            let sent = way.put(&full_key, bytes).await;
            let sent = sent.map(|sent| sent.map_err(|error| Refused::from_sdk(key, &error)));
            if !matches!(sent, Some(Ok(()) | Err(Refused::Precondition))) {
                self.short_way.forget(&way);
            }
            if let Some(sent) = sent {
                return sent;
            }
        }
        // Apart, since it is large.
        Box::pin(self.upload_and_learn(key, full_key, bytes)).await
    }

    async fn upload_and_learn(
        &self,
        key: &str,
        full_key: String,
        bytes: &Bytes,
    ) -> Result<(), Refused> {
        let lesson = Lesson::default();
        let listener = lesson.hears(&full_key);
        let request = self.request(full_key, ByteStream::from(bytes.clone()));
        let answer = request.customize().interceptor(listener).send().await;
        answer.map_err(|error| Refused::from_sdk(key, &error))?;
        self.short_way.keep(lesson.learnt());
        Ok(())
    }

    fn request(&self, full_key: String, stream: ByteStream) -> PutObjectFluentBuilder {
        self.client
            .put_object()
            .bucket(&self.bucket)
            .key(full_key)
            .if_none_match(ANY)
            .set_server_side_encryption(self.encryption.algorithm.clone())
            .set_ssekms_key_id(self.encryption.kms_key_id.clone())
            .body(stream)
    }

    async fn upload_whole(&self, key: &str, stream: ByteStream, len: u64) -> Result<(), Refused> {
        let request = self.request(self.full_key(key), stream);
        // What is short does with the limits of all requests, and needs no configuration of its own.
        let answer = match len < SLOWEST {
            true => request.send().await,
            false => {
                let request = request.customize().config_override(allow_for(len));
                request.send().await
            }
        };
        answer.map_err(|error| Refused::from_sdk(key, &error))?;
        Ok(())
    }

    /// An upload that is neither completed nor aborted (this process dies in between) is no object, and the
    /// bucket's lifecycle rule for incomplete uploads removes it.
    async fn upload_parts(&self, key: &str, path: &Path, len: u64) -> Result<(), Refused> {
        let upload = MultipartUpload::begin(self, key).await?;
        let completed = upload.complete(path, len).await;
        if completed.is_err() {
            upload.abort().await;
        }
        completed
    }
}

/// A multipart upload under way.
struct MultipartUpload<'a> {
    client: &'a Client,
    bucket: &'a str,
    key: &'a str,
    full_key: String,
    id: String,
}

impl<'a> MultipartUpload<'a> {
    async fn begin(store: &'a S3Store, key: &'a str) -> Result<Self, Refused> {
        let full_key = store.full_key(key);
        let request = store.client.create_multipart_upload();
        let answer = request
            .bucket(&store.bucket)
            .key(&full_key)
            .set_server_side_encryption(store.encryption.algorithm.clone())
            .set_ssekms_key_id(store.encryption.kms_key_id.clone())
            .send()
            .await;
        let id = answer
            .map_err(|error| Refused::from_sdk(key, &error))?
            .upload_id;
        let no_id = || StoreError::Failed {
            key: key.to_owned(),
            reason: "the server gave the upload no id".to_owned(),
        };
        Ok(Self {
            client: &store.client,
            bucket: &store.bucket,
            key,
            full_key,
            id: id.ok_or_else(|| Refused::Other(no_id()))?,
        })
    }

    /// Uploads part after part, then makes them an object if none has the key.
    async fn complete(&self, path: &Path, len: u64) -> Result<(), Refused> {
        let part_len = PART.max(len.div_ceil(MAX_PARTS));
        let mut parts = CompletedMultipartUpload::builder();
        let mut number = 0;
        for offset in (0..len).step_by(part_len as usize) {
            number += 1;
            let part = part_len.min(len - offset);
            parts = parts.parts(self.part(number, path, offset, part).await?);
        }
        self.client
            .complete_multipart_upload()
            .bucket(self.bucket)
            .key(&self.full_key)
            .upload_id(&self.id)
            .multipart_upload(parts.build())
            .if_none_match(ANY)
            .customize()
            .config_override(allow_for(len))
            .send()
            .await
            .map_err(|error| Refused::from_sdk(self.key, &error))?;
        Ok(())
    }

    async fn part(
        &self,
        number: i32,
        path: &Path,
        offset: u64,
        len: u64,
    ) -> Result<CompletedPart, Refused> {
        let stream = part_of(self.key, path, offset, len).await?;
        let answer = self
            .client
            .upload_part()
            .bucket(self.bucket)
            .key(&self.full_key)
            .upload_id(&self.id)
            .part_number(number)
            .body(stream)
            .customize()
            .config_override(allow_for(len))
            .send()
            .await
            .map_err(|error| Refused::from_sdk(self.key, &error))?;
        Ok(CompletedPart::builder()
            .part_number(number)
            .set_e_tag(answer.e_tag)
            .build())
    }

    async fn abort(&self) {
        let request = self.client.abort_multipart_upload();
        let request = request.bucket(self.bucket).key(&self.full_key);
        if let Err(error) = request.upload_id(&self.id).send().await {
            let error = refusal(self.key, &error);
            tracing::warn!(%error, "An incomplete upload could not be aborted; the bucket keeps its parts");
        }
    }
}

async fn part_of(key: &str, path: &Path, offset: u64, len: u64) -> Result<ByteStream, Refused> {
    ByteStream::read_from()
        .path(path)
        .offset(offset)
        .length(Length::Exact(len))
        .build()
        .await
        .map_err(|error| Refused::local(key, path, &error))
}

/// Time limits for a request that moves `len` bytes.
fn allow_for(len: u64) -> aws_sdk_s3::config::Builder {
    let transfer = Duration::from_secs(len / SLOWEST);
    aws_sdk_s3::Config::builder().timeout_config(timeouts(ATTEMPT_TIMEOUT + transfer))
}
