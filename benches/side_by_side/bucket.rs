//! A bucket in memory behind a real S3 server, which counts what it is asked: both sides meet the same one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Instant, SystemTime};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::TryStreamExt;
use litestream_multitenant::format::ltx::Header;
use s3s::dto::*;
use s3s::{S3, S3Request, S3Response, S3Result, s3_error};

/// Keys that one page of a listing has.
const PAGE: usize = 1_000;

#[derive(Clone, Default)]
pub struct Bucket(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Stored>,
    /// The parts of uploads that are not complete, by upload and part.
    uploads: BTreeMap<String, BTreeMap<i32, Bytes>>,
    counts: BTreeMap<&'static str, Count>,
    arrivals: Vec<Arrival>,
    is_down: bool,
    /// Makes names for entity tags and uploads.
    names: u64,
}

#[derive(Clone)]
struct Stored {
    bytes: Bytes,
    tag: ETag,
    time: SystemTime,
    metadata: Option<Metadata>,
}

/// Requests of one operation, and bytes of their bodies and answers.
#[derive(Clone, Copy, Default)]
pub struct Count {
    pub requests: u64,
    pub sent: u64,
    pub received: u64,
}

/// An object that was stored.
#[derive(Clone)]
pub struct Arrival {
    pub key: String,
    pub at: Instant,
    /// None where it is no LTX file.
    pub header: Option<Header>,
}

impl Bucket {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("not poisoned")
    }

    /// What it was asked so far, by operation.
    pub fn counts(&self) -> BTreeMap<&'static str, Count> {
        self.lock().counts.clone()
    }

    /// What was stored, from number `first` on.
    pub fn arrivals_from(&self, first: usize) -> Vec<Arrival> {
        self.lock().arrivals[first..].to_vec()
    }

    pub fn arrived(&self) -> usize {
        self.lock().arrivals.len()
    }

    /// From now on every request is refused as a server does that is overloaded, or none is.
    pub fn set_down(&self, is_down: bool) {
        self.lock().is_down = is_down;
    }

    /// Counts a request with so many bytes; refused while the server is down.
    fn take(&self, operation: &'static str, received: usize) -> S3Result<MutexGuard<'_, State>> {
        let mut state = self.lock();
        let count = state.counts.entry(operation).or_default();
        count.requests += 1;
        count.received += received as u64;
        match state.is_down {
            true => Err(s3_error!(ServiceUnavailable)),
            false => Ok(state),
        }
    }
}

impl State {
    fn name(&mut self) -> String {
        self.names += 1;
        format!("{:032x}", self.names)
    }

    fn store(&mut self, key: String, bytes: Bytes, metadata: Option<Metadata>) -> ETag {
        let tag = ETag::Strong(self.name());
        self.arrivals.push(Arrival {
            key: key.clone(),
            at: Instant::now(),
            header: Header::decode(&bytes).ok(),
        });
        let stored = Stored {
            bytes,
            tag: tag.clone(),
            time: SystemTime::now(),
            metadata,
        };
        self.objects.insert(key, stored);
        tag
    }

    fn object(&self, key: &str) -> S3Result<Stored> {
        let found = self.objects.get(key);
        found.cloned().ok_or_else(|| s3_error!(NoSuchKey))
    }

    fn check_condition(&self, key: &str, condition: Option<&ETagCondition>) -> S3Result<()> {
        match condition {
            Some(ETagCondition::Any) if self.objects.contains_key(key) => {
                Err(s3_error!(PreconditionFailed))
            }
            _ => Ok(()),
        }
    }

    /// Notes what an answer carries.
    fn answers(&mut self, operation: &'static str, sent: usize) {
        self.counts.entry(operation).or_default().sent += sent as u64;
    }
}

async fn whole(body: Option<StreamingBlob>) -> S3Result<Bytes> {
    let Some(body) = body else {
        return Ok(Bytes::new());
    };
    let joined = body.try_fold(BytesMut::new(), |mut all, part| async move {
        all.extend_from_slice(&part);
        Ok(all)
    });
    let joined = joined.await.map_err(|_| s3_error!(IncompleteBody))?;
    Ok(joined.freeze())
}

fn streamed(bytes: Bytes) -> StreamingBlob {
    StreamingBlob::wrap(futures_util::stream::once(async {
        Ok::<_, std::io::Error>(bytes)
    }))
}

#[async_trait]
impl S3 for Bucket {
    async fn head_bucket(
        &self,
        _: S3Request<HeadBucketInput>,
    ) -> S3Result<S3Response<HeadBucketOutput>> {
        drop(self.take("HeadBucket", 0)?);
        Ok(S3Response::new(HeadBucketOutput::default()))
    }

    async fn get_bucket_location(
        &self,
        _: S3Request<GetBucketLocationInput>,
    ) -> S3Result<S3Response<GetBucketLocationOutput>> {
        drop(self.take("GetBucketLocation", 0)?);
        Ok(S3Response::new(GetBucketLocationOutput::default()))
    }

    async fn put_object(
        &self,
        request: S3Request<PutObjectInput>,
    ) -> S3Result<S3Response<PutObjectOutput>> {
        let input = request.input;
        let bytes = whole(input.body).await?;
        let mut state = self.take("PutObject", bytes.len())?;
        state.check_condition(&input.key, input.if_none_match.as_ref())?;
        let tag = state.store(input.key, bytes, input.metadata);
        Ok(S3Response::new(PutObjectOutput {
            e_tag: Some(tag),
            ..Default::default()
        }))
    }

    async fn head_object(
        &self,
        request: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        let stored = self.take("HeadObject", 0)?.object(&request.input.key)?;
        Ok(S3Response::new(HeadObjectOutput {
            content_length: Some(stored.bytes.len() as i64),
            e_tag: Some(stored.tag),
            last_modified: Some(stored.time.into()),
            metadata: stored.metadata,
            ..Default::default()
        }))
    }

    async fn get_object(
        &self,
        request: S3Request<GetObjectInput>,
    ) -> S3Result<S3Response<GetObjectOutput>> {
        let mut state = self.take("GetObject", 0)?;
        let stored = state.object(&request.input.key)?;
        let len = stored.bytes.len() as u64;
        let (bytes, range) = match request.input.range {
            None => (stored.bytes, None),
            Some(range) => {
                let asked = range.check(len)?;
                let told = format!("bytes {}-{}/{len}", asked.start, asked.end - 1);
                let part = asked.start as usize..asked.end as usize;
                (stored.bytes.slice(part), Some(told))
            }
        };
        state.answers("GetObject", bytes.len());
        Ok(S3Response::new(GetObjectOutput {
            content_length: Some(bytes.len() as i64),
            content_range: range,
            body: Some(streamed(bytes)),
            e_tag: Some(stored.tag),
            last_modified: Some(stored.time.into()),
            metadata: stored.metadata,
            ..Default::default()
        }))
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let state = self.take("ListObjectsV2", 0)?;
        let input = request.input;
        let prefix = input.prefix.clone().unwrap_or_default();
        let after = input
            .continuation_token
            .as_ref()
            .max(input.start_after.as_ref());
        let after = after.cloned().unwrap_or_default();
        let most = input.max_keys.map_or(PAGE, |most| most as usize).min(PAGE);
        let (mut contents, mut folders) = (Vec::new(), BTreeSet::new());
        let (mut last, mut is_truncated) = (String::new(), false);
        let matching = state.objects.range(prefix.clone()..);
        for (key, stored) in matching.take_while(|(key, _)| key.starts_with(&prefix)) {
            let rest = &key[prefix.len()..];
            let folder = input.delimiter.as_ref().and_then(|delimiter| {
                let end = rest.find(delimiter)? + delimiter.len();
                Some(key[..prefix.len() + end].to_owned())
            });
            let entry = folder.as_ref().unwrap_or(key);
            if *entry <= after
                || folder
                    .as_ref()
                    .is_some_and(|folder| folders.contains(folder))
            {
                continue;
            }
            if contents.len() + folders.len() == most {
                is_truncated = true;
                break;
            }
            last.clone_from(entry);
            match folder {
                Some(folder) => drop(folders.insert(folder)),
                None => contents.push(Object {
                    key: Some(key.clone()),
                    size: Some(stored.bytes.len() as i64),
                    e_tag: Some(stored.tag.clone()),
                    last_modified: Some(stored.time.into()),
                    ..Default::default()
                }),
            }
        }
        Ok(S3Response::new(ListObjectsV2Output {
            key_count: Some((contents.len() + folders.len()) as i32),
            is_truncated: Some(is_truncated),
            next_continuation_token: is_truncated.then_some(last),
            contents: Some(contents),
            common_prefixes: Some(
                folders
                    .into_iter()
                    .map(|prefix| CommonPrefix {
                        prefix: Some(prefix),
                    })
                    .collect(),
            ),
            name: Some(input.bucket),
            prefix: input.prefix,
            delimiter: input.delimiter,
            ..Default::default()
        }))
    }

    async fn delete_object(
        &self,
        request: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        let mut state = self.take("DeleteObject", 0)?;
        state.objects.remove(&request.input.key);
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }

    async fn delete_objects(
        &self,
        request: S3Request<DeleteObjectsInput>,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        let mut state = self.take("DeleteObjects", 0)?;
        for object in request.input.delete.objects {
            state.objects.remove(&object.key);
        }
        Ok(S3Response::new(DeleteObjectsOutput::default()))
    }

    async fn create_multipart_upload(
        &self,
        request: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        let mut state = self.take("CreateMultipartUpload", 0)?;
        let id = state.name();
        state.uploads.insert(id.clone(), BTreeMap::new());
        Ok(S3Response::new(CreateMultipartUploadOutput {
            bucket: Some(request.input.bucket),
            key: Some(request.input.key),
            upload_id: Some(id),
            ..Default::default()
        }))
    }

    async fn upload_part(
        &self,
        request: S3Request<UploadPartInput>,
    ) -> S3Result<S3Response<UploadPartOutput>> {
        let input = request.input;
        let bytes = whole(input.body).await?;
        let mut state = self.take("UploadPart", bytes.len())?;
        let tag = ETag::Strong(state.name());
        let upload = state.uploads.get_mut(&input.upload_id);
        let upload = upload.ok_or_else(|| s3_error!(NoSuchUpload))?;
        upload.insert(input.part_number, bytes);
        Ok(S3Response::new(UploadPartOutput {
            e_tag: Some(tag),
            ..Default::default()
        }))
    }

    async fn complete_multipart_upload(
        &self,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let input = request.input;
        let mut state = self.take("CompleteMultipartUpload", 0)?;
        state.check_condition(&input.key, input.if_none_match.as_ref())?;
        let parts = state.uploads.remove(&input.upload_id);
        let parts = parts.ok_or_else(|| s3_error!(NoSuchUpload))?;
        let joined: Vec<u8> = parts.into_values().flatten().collect();
        let tag = state.store(input.key.clone(), joined.into(), None);
        Ok(S3Response::new(CompleteMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            e_tag: Some(tag),
            ..Default::default()
        }))
    }
}
