//! What the store has to say of a database besides its pages: whose it is, and where it lay below its watch path.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::io::AsyncReadExt;

use super::RestoreError;
use super::list::ListedClient;
use super::replica::ATTEMPTS;
use crate::format::description::{Attributes, Description};
use crate::format::keys::{GenerationId, ObjectKey};
use crate::store::retry::repeat;
use crate::store::{ObjectStore, StoreError};
use crate::tenant::discovery::is_safe_name;

/// Bytes; a description has a few names.
const MAX_DESCRIPTION: u64 = 64 << 10;
/// Bytes of a path.
const MAX_PATH: usize = 4095;

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
    Ok(text.and_then(|text| parse(&text)))
}

/// Reads a `database.json`; none for what is no description of a database below a watch path.
pub fn parse(text: &[u8]) -> Option<Description> {
    let description = Description::parse(text);
    description.filter(|description| {
        is_safe_name(&description.tenant_id)
            && is_safe_name(&description.db_name)
            && stays_below(&description.path)
    })
}

/// Whether it is the description of the client that goes by this label, and no other's that was put in its place.
pub fn is_of(description: &Description, label: &str) -> bool {
    let (tenant, db_name) = (&description.tenant_id, &description.db_name);
    (tenant == db_name && tenant == label) || format!("{tenant}/{db_name}") == label
}

/// Where a database belongs below its watch path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// Of its file.
    pub path: PathBuf,
    /// What the directories of the path were like, the first one first; empty where that is not known.
    pub directories: Vec<Attributes>,
}

/// The place of a client while this generation was written. Where the store has no description, the client's name makes
/// it.
///
/// # Errors
/// Those of the store; `Description` for one that can't be read, or names a place that is not below a watch path.
pub async fn place_of(
    store: &Arc<dyn ObjectStore>,
    client: &ListedClient,
    generation: GenerationId,
) -> Result<Place, RestoreError> {
    let key = ObjectKey::Database(generation).below(&client.s3_prefix);
    let Some(text) = repeat(ATTEMPTS, || read(store, &key)).await? else {
        return Ok(Place {
            path: format!("{}.db", client.client).into(),
            directories: Vec::new(),
        });
    };
    let description = parse(&text).ok_or(RestoreError::Description { key })?;
    Ok(Place {
        path: description.path,
        directories: description.directories,
    })
}

/// Whether the bytes are names, one below the other.
fn stays_below(path: &Path) -> bool {
    let bytes = path.as_os_str().as_bytes();
    let is_name = |name: &[u8]| !matches!(name, b"" | b"." | b"..") && !name.contains(&0);
    bytes.len() <= MAX_PATH && bytes.split(|byte| *byte == b'/').all(is_name)
}

/// None where there is no such object.
async fn read(store: &Arc<dyn ObjectStore>, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
    let object = match store.get(key).await {
        Err(error) if error.is_not_found() => return Ok(None),
        other => other?,
    };
    let mut bytes = Vec::new();
    let read = object.take(MAX_DESCRIPTION).read_to_end(&mut bytes).await;
    read.map_err(|error| StoreError::Unavailable {
        key: key.to_owned(),
        reason: error.to_string(),
    })?;
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_description_leads_out_of_the_directory() {
        for path in ["a.db", "t/a.db", "a b/..c.db", "a\n.db", "\u{1b}[2J/a.db"] {
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
            "a//b.db",
            "a/./b.db",
            "a\0.db",
        ] {
            assert!(!stays_below(Path::new(path)), "{path}");
        }
    }
}
