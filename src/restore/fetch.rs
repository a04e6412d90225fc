//! Objects on their way to being applied: a few ahead, each in memory if it is small, else in a scratch file.

use std::fs::File;
use std::io::{self, BufReader, Cursor, Read, Seek};
use std::path::Path;

use futures_util::{Stream, StreamExt, stream};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

use super::RestoreError;
use super::replica::{ATTEMPTS, Replica};
use crate::format::ltx::{Header, LtxError};
use crate::format::plan::PlannedObject;
use crate::store::StoreError;
use crate::store::retry::repeat;

/// Objects that are fetched while another one is applied.
const AHEAD: usize = 8;
/// Longest object that is kept in memory, in bytes.
const MAX_IN_MEMORY: u64 = 8 << 20;
/// A scratch file is written in pieces of this size.
const COPY_BUFFER: usize = 1 << 20;

/// A whole object on this machine.
pub(super) enum Fetched {
    Memory(Vec<u8>),
    /// Without a name, so that nothing of it stays behind.
    File(File),
}

impl Fetched {
    pub fn reader(self) -> Box<dyn Read + Send> {
        match self {
            Self::Memory(bytes) => Box::new(Cursor::new(bytes)),
            Self::File(file) => Box::new(BufReader::with_capacity(COPY_BUFFER, file)),
        }
    }
}

impl Replica {
    /// The objects in the order given. Those too large for memory go through `scratch`, a directory.
    pub(super) fn fetch_all<'a>(
        &'a self,
        objects: &'a [PlannedObject],
        scratch: &'a Path,
    ) -> impl Stream<Item = Result<(PlannedObject, Fetched), RestoreError>> + 'a {
        stream::iter(objects)
            .map(move |&object| async move { Ok((object, self.fetch(object, scratch).await?)) })
            .buffered(AHEAD)
    }

    async fn fetch(&self, object: PlannedObject, scratch: &Path) -> Result<Fetched, RestoreError> {
        let key = object.key.below(&self.prefix);
        if object.size <= MAX_IN_MEMORY {
            let bytes = repeat(ATTEMPTS, || self.read(&key, object.size)).await;
            return Ok(Fetched::Memory(bytes.map_err(RestoreError::listed)?));
        }
        let fetched = repeat(ATTEMPTS, || async {
            Ok(match self.spool(&key, object.size, scratch).await {
                Err(Spooling::Store(error)) => return Err(error),
                Err(Spooling::Final(error)) => Err(error),
                Ok(file) => Ok(file),
            })
        });
        let file = fetched.await.map_err(RestoreError::listed)?;
        file.map(Fetched::File)
    }

    async fn read(&self, key: &str, size: u64) -> Result<Vec<u8>, StoreError> {
        // One more than there should be, to see it if there is more.
        let mut object = self.store.get(key).await?.take(size + 1);
        let mut bytes = Vec::with_capacity(size as usize + 1);
        let read = object.read_to_end(&mut bytes).await;
        read.map_err(|error| broken_off(key, &error))?;
        check_size(key, size, bytes.len() as u64)?;
        Ok(bytes)
    }

    async fn spool(&self, key: &str, size: u64, scratch: &Path) -> Result<File, Spooling> {
        let local = |error| {
            let local = RestoreError::local("write a scratch file in it", scratch);
            Spooling::Final(local(error))
        };
        let mut object = self.store.get(key).await?.take(size.saturating_add(1));
        let start = read_header(key, size, &mut object).await?;
        let file = tempfile::tempfile_in(scratch).map_err(local)?;
        let mut file = tokio::fs::File::from_std(file);
        file.write_all(&start).await.map_err(local)?;
        let mut buffer = vec![0; COPY_BUFFER];
        let mut copied = start.len() as u64;
        loop {
            let len = read_some(key, &mut object, &mut buffer).await?;
            if len == 0 {
                break;
            }
            file.write_all(&buffer[..len]).await.map_err(local)?;
            copied += len as u64;
        }
        check_size(key, size, copied)?;
        file.flush().await.map_err(local)?;
        let mut file = file.into_std().await;
        file.rewind().map_err(local)?;
        Ok(file)
    }
}

/// Why a copy has failed: by the store, which may be asked again, or for good.
enum Spooling {
    Store(StoreError),
    Final(RestoreError),
}

impl From<StoreError> for Spooling {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Reads the header of an object that is to be copied, so that what can't be one does not fill the disk first.
async fn read_header(
    key: &str,
    size: u64,
    object: &mut (impl AsyncRead + Unpin),
) -> Result<[u8; Header::SIZE], Spooling> {
    let mut start = [0; Header::SIZE];
    let read = object.read_exact(&mut start).await;
    read.map_err(|error| broken_off(key, &error))?;
    let checked = match Header::decode(&start) {
        Ok(header) if size > header.longest_object() => Err(LtxError::TrailingBytes),
        other => other.map(|_| start),
    };
    checked.map_err(|source| {
        Spooling::Final(RestoreError::Damaged {
            key: key.to_owned(),
            source,
        })
    })
}

async fn read_some(
    key: &str,
    object: &mut (impl AsyncRead + Unpin),
    buffer: &mut [u8],
) -> Result<usize, StoreError> {
    let read = object.read(buffer).await;
    read.map_err(|error| broken_off(key, &error))
}

/// A transfer that failed on the way says nothing about the object.
fn broken_off(key: &str, error: &io::Error) -> StoreError {
    StoreError::Unavailable {
        key: key.to_owned(),
        reason: error.to_string(),
    }
}

/// Objects never change, so other bytes than were listed are a transfer that ended early.
fn check_size(key: &str, listed: u64, received: u64) -> Result<(), StoreError> {
    if listed == received {
        return Ok(());
    }
    Err(StoreError::Unavailable {
        key: key.to_owned(),
        reason: format!("{listed} bytes were listed, and others came"),
    })
}
