//! Removes objects: many with one request where the server knows that, else one by one.

use aws_sdk_s3::types::{Delete, ObjectIdentifier};
use futures_util::{StreamExt, TryStreamExt, stream};

use super::S3Store;
use super::connect::add_md5;
use super::refusal::{code_refusal, refusal};
use crate::store::StoreError;

/// The most keys that one DeleteObjects request takes.
const BATCH: usize = 1000;
/// Requests in flight, where each removes one object.
const AT_ONCE: usize = 16;

impl S3Store {
    pub(super) async fn remove(&self, keys: &[String]) -> Result<(), StoreError> {
        for batch in keys.chunks(BATCH) {
            if self.learnt.deletes_singly() {
                self.delete_singly(batch).await?;
                continue;
            }
            match self.delete_batch(batch).await {
                // What the server makes of the request says nothing of the objects.
                Err(error @ (StoreError::Failed { .. } | StoreError::NotFound { .. })) => {
                    self.delete_singly(batch).await?;
                    self.note_deletes_singly(&error.to_string());
                }
                other => other?,
            }
            if !self.learnt.deletes_in_batches() {
                self.look_whether_it_was_done(batch).await?;
            }
        }
        Ok(())
    }

    /// A server that does not know the request may say that all is done.
    async fn look_whether_it_was_done(&self, batch: &[String]) -> Result<(), StoreError> {
        let Some(first) = batch.first() else {
            return Ok(());
        };
        if self.exists(first).await? {
            self.delete_singly(batch).await?;
            self.note_deletes_singly("what a batch names is there afterwards");
        } else if !self.learnt.deletes_singly() {
            self.learnt.set_deletes_in_batches();
        }
        Ok(())
    }

    fn note_deletes_singly(&self, reason: &str) {
        if self.learnt.set_deletes_singly() {
            tracing::info!(
                s3_path = %self.described(),
                reason,
                "The store does not delete in batches: objects are deleted one by one"
            );
        }
    }

    async fn delete_batch(&self, keys: &[String]) -> Result<(), StoreError> {
        let first = keys.first().map_or("", String::as_str);
        let mut batch = Delete::builder().quiet(true);
        for key in keys {
            let object = ObjectIdentifier::builder().key(self.full_key(key)).build();
            batch = batch.objects(object.expect("BUG: an object with a key"));
        }
        let client = self.keys.current();
        let answer = client
            .client()
            .delete_objects()
            .bucket(&self.bucket)
            .delete(batch.build().expect("BUG: a batch with objects"))
            .customize()
            // Some servers want this checksum, and know no other.
            .mutate_request(add_md5)
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

    async fn delete_singly(&self, keys: &[String]) -> Result<(), StoreError> {
        let deletions: Vec<_> = keys.iter().map(|key| self.delete_one(key)).collect();
        stream::iter(deletions)
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await
    }

    async fn delete_one(&self, key: &str) -> Result<(), StoreError> {
        let client = self.keys.current();
        let request = client.client().delete_object().bucket(&self.bucket);
        match request.key(self.full_key(key)).send().await {
            Ok(_) => Ok(()),
            Err(error) => match refusal(key, &error) {
                StoreError::NotFound { .. } => Ok(()),
                other => Err(other),
            },
        }
    }
}
