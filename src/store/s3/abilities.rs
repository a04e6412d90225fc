//! Finds out what a server can do, with objects of its own.

use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;

use super::S3Store;
use super::learnt::Condition;
use super::refusal::refusal;
use crate::store::probe::Abilities;
use crate::store::{ObjectStore, StoreError};

const CONTENT: &[u8] = b"probe";
/// The MD5 of nothing, and so of other content.
const WRONG_MD5: &str = "1B2M2Y8AsgTpgAmY7PhCfg==";

impl S3Store {
    pub(super) async fn find_abilities(&self, key: &str) -> Result<Abilities, StoreError> {
        let name = |condition| match condition {
            Condition::IfNoneMatch => format!("{key}-a"),
            Condition::IfGenerationMatch => format!("{key}-b"),
            Condition::None => format!("{key}-c"),
        };
        let bytes = Bytes::from_static(CONTENT);
        let learned = self.learn(name, &bytes).await;
        let Some(create_only) = learned?.create_only else {
            self.clear(key).await?;
            return Err(StoreError::Unavailable {
                key: key.to_owned(),
                reason: "what it makes of a create-only PUT could not be told; it is asked again"
                    .to_owned(),
            });
        };
        let checks_content = self.refuses_a_wrong_checksum(&format!("{key}-d")).await?;
        let listed = self.list(key).await?;
        let deletes_in_batches = self.clear(key).await?;
        Ok(Abilities {
            create_only,
            deletes_in_batches,
            checks_content,
            lists_at_once: !listed.is_empty(),
        })
    }

    /// Removes what was stored; whether that was done in batches, and none where the keys may not.
    async fn clear(&self, key: &str) -> Result<Option<bool>, StoreError> {
        let keys: Vec<_> = ["a", "b", "c", "d"]
            .map(|end| format!("{key}-{end}"))
            .into();
        match self.remove(&keys).await {
            Err(StoreError::Denied { .. }) => return Ok(None),
            other => other?,
        }
        Ok(Some(!self.learnt.deletes_singly()))
    }

    async fn refuses_a_wrong_checksum(&self, key: &str) -> Result<bool, StoreError> {
        let client = self.keys.current();
        let sent = client
            .client()
            .put_object()
            .bucket(&self.bucket)
            .key(self.full_key(key))
            .content_md5(WRONG_MD5)
            .body(ByteStream::from_static(CONTENT))
            .send()
            .await;
        match sent.map_err(|error| refusal(key, &error)) {
            Ok(_) => Ok(false),
            Err(StoreError::Failed { .. }) => Ok(true),
            Err(error) => Err(error),
        }
    }
}
