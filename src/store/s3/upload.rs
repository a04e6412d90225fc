//! Create-only uploads: one request, or several parts of a large file that become an object all at once.

use std::io;
use std::path::Path;
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::client::customize::CustomizableOperation;
use aws_sdk_s3::config::http::{HttpRequest, HttpResponse};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::put_object::builders::PutObjectFluentBuilder;
use aws_sdk_s3::operation::put_object::{PutObjectError, PutObjectOutput};
use aws_sdk_s3::primitives::{ByteStream, Length};
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use bytes::Bytes;

use super::S3Store;
use super::connect::{ATTEMPT_TIMEOUT, md5, timeouts};
use super::keys::Current;
use super::learnt::{Condition, Manner};
use super::refusal::{is_conflict, is_precondition, refusal, wants_checksum};
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
/// The same in Google's words: there is no generation of the object.
const IF_GENERATION_MATCH: (&str, &str) = ("x-goog-if-generation-match", "0");

type PutRequest = CustomizableOperation<PutObjectOutput, PutObjectError, PutObjectFluentBuilder>;

/// Why nothing was stored.
pub(super) enum Refused {
    /// An object has that key.
    Precondition,
    /// Another request for that key was under way.
    Conflict,
    /// The server wants a checksum with it.
    Checksum(StoreError),
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
        } else if wants_checksum(error) {
            Self::Checksum(refusal(key, error))
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

    /// The error that it comes to, where it was not to happen.
    pub fn into_error(self, key: &str) -> StoreError {
        self.into_taken(key).unwrap_or_else(|| StoreError::Failed {
            key: key.to_owned(),
            reason: "the server says that there is an object".to_owned(),
        })
    }

    /// The error; none where the server says that another one has the key, or is about to.
    pub fn into_taken(self, _key: &str) -> Option<StoreError> {
        match self {
            Self::Precondition | Self::Conflict => None,
            Self::Checksum(error) | Self::Other(error) => Some(error),
        }
    }
}

impl S3Store {
    /// With the checksum that the server may want: whether it does shows at the first that it refuses for that.
    pub(super) async fn upload(
        &self,
        key: &str,
        body: &Body,
        condition: Condition,
    ) -> Result<(), Refused> {
        let manner = self.learnt.manner(condition);
        let sent = self.upload_in(key, body, manner).await;
        if manner.has_md5 || !matches!(sent, Err(Refused::Checksum(_))) {
            return sent;
        }
        let with_md5 = Manner {
            has_md5: true,
            ..manner
        };
        let sent = Box::pin(self.upload_in(key, body, with_md5)).await;
        if !matches!(sent, Err(Refused::Checksum(_) | Refused::Other(_))) {
            self.learnt.set_wants_md5();
        }
        sent
    }

    async fn upload_in(&self, key: &str, body: &Body, manner: Manner) -> Result<(), Refused> {
        match body {
            Body::Bytes(bytes) if (bytes.len() as u64) < SLOWEST => {
                self.upload_small(key, bytes, manner).await
            }
            // Apart, since it is large.
            _ => Box::pin(self.upload_large(key, body, manner)).await,
        }
    }

    async fn upload_large(&self, key: &str, body: &Body, manner: Manner) -> Result<(), Refused> {
        match body {
            Body::Bytes(bytes) => {
                let len = bytes.len() as u64;
                let stream = ByteStream::from(bytes.clone());
                self.upload_whole(key, stream, len, manner).await
            }
            Body::File(path) => {
                let local = |error: io::Error| Refused::local(key, path, &error);
                let len = tokio::fs::metadata(path).await.map_err(local)?.len();
                if len > PART {
                    return self.upload_parts(key, path, len, manner).await;
                }
                let stream = part_of(key, path, 0, len, manner).await?;
                self.upload_whole(key, stream, len, manner).await
            }
        }
    }

    /// What is short goes the short way, once that is known.
    async fn upload_small(&self, key: &str, bytes: &Bytes, manner: Manner) -> Result<(), Refused> {
        let full_key = self.full_key(key);
        let keys = self.keys.current();
        let way = self.short_way.get((keys.number, manner));
        if let Some(way) = way {
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
        Box::pin(self.upload_and_learn(key, full_key, bytes, keys, manner)).await
    }

    async fn upload_and_learn(
        &self,
        key: &str,
        full_key: String,
        bytes: &Bytes,
        keys: Current,
        manner: Manner,
    ) -> Result<(), Refused> {
        let lesson = Lesson::default();
        let listener = lesson.hears(&full_key);
        let stream = ByteStream::from(bytes.clone());
        let request = self.request(keys.client(), full_key, stream, manner);
        let answer = request.interceptor(listener).send().await;
        answer.map_err(|error| Refused::from_sdk(key, &error))?;
        self.short_way.keep((keys.number, manner), lesson.learnt());
        Ok(())
    }

    fn request(
        &self,
        client: &Client,
        full_key: String,
        stream: ByteStream,
        manner: Manner,
    ) -> PutRequest {
        let request = client
            .put_object()
            .bucket(&self.bucket)
            .key(full_key)
            .set_if_none_match(if_none_match(manner))
            .set_content_md5(md5_of(&stream, manner))
            .set_server_side_encryption(self.encryption.algorithm.clone())
            .set_ssekms_key_id(self.encryption.kms_key_id.clone())
            .body(stream)
            .customize();
        match manner.condition {
            Condition::IfGenerationMatch => request.mutate_request(if_generation_match),
            Condition::IfNoneMatch | Condition::None => request,
        }
    }

    async fn upload_whole(
        &self,
        key: &str,
        stream: ByteStream,
        len: u64,
        manner: Manner,
    ) -> Result<(), Refused> {
        let keys = self.keys.current();
        let mut request = self.request(keys.client(), self.full_key(key), stream, manner);
        // What is short does with the limits of all requests, and needs no configuration of its own.
        if len >= SLOWEST {
            request = request.config_override(allow_for(len));
        }
        let answer = request.send().await;
        answer.map_err(|error| Refused::from_sdk(key, &error))?;
        Ok(())
    }

    /// An upload that is neither completed nor aborted (this process dies in between) is no object, and the
    /// bucket's lifecycle rule for incomplete uploads removes it.
    async fn upload_parts(
        &self,
        key: &str,
        path: &Path,
        len: u64,
        manner: Manner,
    ) -> Result<(), Refused> {
        let keys = self.keys.current();
        let upload = MultipartUpload::begin(self, keys.client(), key, manner).await?;
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
    manner: Manner,
}

impl<'a> MultipartUpload<'a> {
    async fn begin(
        store: &'a S3Store,
        client: &'a Client,
        key: &'a str,
        manner: Manner,
    ) -> Result<Self, Refused> {
        let full_key = store.full_key(key);
        let request = client.create_multipart_upload();
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
            client,
            bucket: &store.bucket,
            key,
            full_key,
            id: id.ok_or_else(|| Refused::Other(no_id()))?,
            manner,
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
        let mut request = self
            .client
            .complete_multipart_upload()
            .bucket(self.bucket)
            .key(&self.full_key)
            .upload_id(&self.id)
            .multipart_upload(parts.build())
            .set_if_none_match(if_none_match(self.manner))
            .customize()
            .config_override(allow_for(len));
        if self.manner.condition == Condition::IfGenerationMatch {
            request = request.mutate_request(if_generation_match);
        }
        let completed = request.send().await;
        completed.map_err(|error| Refused::from_sdk(self.key, &error))?;
        Ok(())
    }

    async fn part(
        &self,
        number: i32,
        path: &Path,
        offset: u64,
        len: u64,
    ) -> Result<CompletedPart, Refused> {
        let stream = part_of(self.key, path, offset, len, self.manner).await?;
        let answer = self
            .client
            .upload_part()
            .bucket(self.bucket)
            .key(&self.full_key)
            .upload_id(&self.id)
            .part_number(number)
            .set_content_md5(md5_of(&stream, self.manner))
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

fn if_none_match(manner: Manner) -> Option<String> {
    (manner.condition == Condition::IfNoneMatch).then(|| ANY.to_owned())
}

fn if_generation_match(request: &mut HttpRequest) {
    let (name, value) = IF_GENERATION_MATCH;
    request.headers_mut().insert(name, value);
}

/// The checksum of what is in memory, where the server wants it.
fn md5_of(stream: &ByteStream, manner: Manner) -> Option<String> {
    stream.bytes().filter(|_| manner.has_md5).map(md5)
}

/// In memory where it has to have a checksum.
async fn part_of(
    key: &str,
    path: &Path,
    offset: u64,
    len: u64,
    manner: Manner,
) -> Result<ByteStream, Refused> {
    let part = ByteStream::read_from()
        .path(path)
        .offset(offset)
        .length(Length::Exact(len))
        .build()
        .await
        .map_err(|error| Refused::local(key, path, &error))?;
    if !manner.has_md5 {
        return Ok(part);
    }
    let read = part.collect().await;
    let read = read.map_err(|error| Refused::local(key, path, &error))?;
    Ok(ByteStream::from(read.into_bytes()))
}

/// Time limits for a request that moves `len` bytes.
fn allow_for(len: u64) -> aws_sdk_s3::config::Builder {
    let transfer = Duration::from_secs(len / SLOWEST);
    aws_sdk_s3::Config::builder().timeout_config(timeouts(ATTEMPT_TIMEOUT + transfer))
}
