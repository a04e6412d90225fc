//! What the store has to say of a database besides its pages: whose it is, and where it lay below its watch path.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use tokio::io::AsyncReadExt;

use super::list::ListedClient;
use super::replica::ATTEMPTS;
use crate::format::keys::{GenerationId, ObjectKey};
use crate::store::retry::repeat;
use crate::store::{ObjectStore, StoreError};
use crate::tenant::discovery::is_safe_name;

/// Bytes; a description has a few names.
const MAX_DESCRIPTION: u64 = 64 << 10;

/// What a generation's `database.json` says, as far as it is needed.
#[derive(Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Description {
    pub tenant_id: String,
    pub db_name: String,
    /// Of the database's file, below the watch path.
    pub path: PathBuf,
    /// The id of the instance that has written it.
    pub instance: Option<String>,
}

/// A generation's description; none where there is none that can be read, or where it names what can be no database
/// below a watch path: whoever may write to the store must not choose which file is taken up, or written.
///
/// # Errors
/// Those of the store.
pub async fn describe(
    store: &Arc<dyn ObjectStore>,
    s3_prefix: &str,
    generation: GenerationId,
) -> Result<Option<Description>, StoreError> {
    let key = ObjectKey::Database(generation).below(s3_prefix);
    let text = repeat(ATTEMPTS, || read(store, &key)).await?;
    Ok(Description::parse(&text))
}

impl Description {
    /// Reads a `database.json`; none for what is no description of a database below a watch path.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let description: Option<Self> = serde_json::from_slice(text).ok();
        description.filter(Self::stays_below)
    }

    /// Whether it is the description of the client that goes by this label, and no other's that was put in its place.
    pub fn is_of(&self, label: &str) -> bool {
        let goes_by_one_name = self.tenant_id == self.db_name && self.tenant_id == label;
        goes_by_one_name || format!("{}/{}", self.tenant_id, self.db_name) == label
    }

    fn stays_below(&self) -> bool {
        is_safe_name(&self.tenant_id) && is_safe_name(&self.db_name) && stays_below(&self.path)
    }
}

/// The path of the database's file below its watch path while this generation was written. Where the store does not
/// tell it, the client's name makes it.
///
/// # Errors
/// Those of the store.
pub async fn path_below_watch_path(
    store: &Arc<dyn ObjectStore>,
    client: &ListedClient,
    generation: GenerationId,
) -> Result<PathBuf, StoreError> {
    let described = describe(store, &client.s3_prefix, generation).await?;
    Ok(described
        .map(|description| description.path)
        .unwrap_or_else(|| format!("{}.db", client.client).into()))
}

fn stays_below(path: &Path) -> bool {
    let is_name = |part: Component| matches!(part, Component::Normal(_));
    let text = path.to_string_lossy();
    let is_plain = !text.contains(char::is_control) && !text.ends_with('/');
    is_plain && path.file_name().is_some() && path.components().all(is_name)
}

/// Empty where there is no such object.
async fn read(store: &Arc<dyn ObjectStore>, key: &str) -> Result<Vec<u8>, StoreError> {
    let object = match store.get(key).await {
        Err(error) if error.is_not_found() => return Ok(Vec::new()),
        other => other?,
    };
    let mut bytes = Vec::new();
    let read = object.take(MAX_DESCRIPTION).read_to_end(&mut bytes).await;
    read.map_err(|error| StoreError::Unavailable {
        key: key.to_owned(),
        reason: error.to_string(),
    })?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_description_leads_out_of_the_directory() {
        for path in ["a.db", "t/a.db", "a b/..c.db"] {
            assert!(stays_below(Path::new(path)), "{path}");
        }
        for path in [
            "",
            "/etc/passwd",
            "../a.db",
            "a/../../b.db",
            "./a.db",
            "a/..",
            "a.db/",
            "a\n.db",
        ] {
            assert!(!stays_below(Path::new(path)), "{path}");
        }
    }
}
