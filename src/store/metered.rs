//! A store whose requests, results and bytes are counted.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::io::{AsyncRead, ReadBuf};

use super::{Abilities, Body, ListedPage, ObjectInfo, ObjectStore, Put, StoreError};
use crate::clock::UnixMs;
use crate::meter::{self, Request, RequestResult};

/// Counts what is asked of `store`.
pub struct Metered {
    store: Arc<dyn ObjectStore>,
}

impl Metered {
    pub fn new(store: Arc<dyn ObjectStore>) -> Self {
        Self { store }
    }
}

fn counted<T>(request: Request, answer: Result<T, StoreError>) -> Result<T, StoreError> {
    request.count(match &answer {
        Ok(_) => RequestResult::Ok,
        Err(StoreError::NotFound { .. }) => RequestResult::NotFound,
        Err(StoreError::Denied { .. }) => RequestResult::Denied,
        Err(StoreError::ClockSkew { .. }) => RequestResult::ClockSkew,
        Err(StoreError::Throttled { .. }) => RequestResult::Throttled,
        Err(StoreError::Unavailable { .. }) => RequestResult::Unavailable,
        Err(
            StoreError::Failed { .. }
            | StoreError::Incomplete { .. }
            | StoreError::Untrusted { .. },
        ) => RequestResult::Failed,
    });
    answer
}

#[async_trait]
impl ObjectStore for Metered {
    async fn put_new(&self, key: &str, body: &Body) -> Result<Put, StoreError> {
        let put = counted(Request::Put, self.store.put_new(key, body).await)?;
        if put == Put::Created {
            meter::BYTES_SENT.add(size_of_body(body).await);
        }
        Ok(put)
    }

    async fn get(&self, key: &str) -> Result<Box<dyn AsyncRead + Send + Unpin>, StoreError> {
        let content = counted(Request::Get, self.store.get(key).await)?;
        Ok(Box::new(MeteredReader(content)))
    }

    async fn get_range(&self, key: &str, offset: u64, len: u64) -> Result<Bytes, StoreError> {
        let answer = self.store.get_range(key, offset, len).await;
        let bytes = counted(Request::GetRange, answer)?;
        meter::BYTES_RECEIVED.add(bytes.len() as u64);
        Ok(bytes)
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, StoreError> {
        counted(Request::List, self.store.list(prefix).await)
    }

    async fn list_after(&self, prefix: &str, after: &str) -> Result<ListedPage, StoreError> {
        counted(Request::List, self.store.list_after(prefix, after).await)
    }

    async fn list_folders(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        counted(Request::ListFolders, self.store.list_folders(prefix).await)
    }

    async fn delete(&self, keys: &[String]) -> Result<(), StoreError> {
        counted(Request::Delete, self.store.delete(keys).await)
    }

    async fn now(&self, prefix: &str) -> Result<UnixMs, StoreError> {
        counted(Request::List, self.store.now(prefix).await)
    }

    async fn probe(&self, key: &str) -> Result<Abilities, StoreError> {
        counted(Request::Put, self.store.probe(key).await)
    }

    fn renew_keys(&self) {
        self.store.renew_keys();
    }

    fn describe(&self) -> String {
        self.store.describe()
    }
}

async fn size_of_body(body: &Body) -> u64 {
    match body {
        Body::Bytes(bytes) => bytes.len() as u64,
        // What was just stored is still there; where it is not, it is not counted.
        Body::File(path) => tokio::fs::metadata(path).await.map_or(0, |file| file.len()),
    }
}

/// Counts the bytes that are read.
struct MeteredReader(Box<dyn AsyncRead + Send + Unpin>);

impl AsyncRead for MeteredReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.0).poll_read(cx, buffer))?;
        meter::BYTES_RECEIVED.add((buffer.filled().len() - before) as u64);
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::directory::DirectoryStore;
    use tokio::io::AsyncReadExt;

    #[tokio::test]
    async fn requests_results_and_bytes() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Metered::new(Arc::new(DirectoryStore::new(dir.path().join("store"))));
        // Other tests of this process may count as well, so each number is at least what it should be.
        let puts = Request::Put.counted(RequestResult::Ok);
        let missing = Request::Get.counted(RequestResult::NotFound);
        let (sent, received) = (meter::BYTES_SENT.get(), meter::BYTES_RECEIVED.get());

        let body = Body::Bytes(Bytes::from_static(b"twelve bytes"));
        store.put_new("a/b", &body).await.expect("stored");
        assert!(store.get("a/c").await.is_err());
        let mut text = String::new();
        let mut content = store.get("a/b").await.expect("it is there");
        content.read_to_string(&mut text).await.expect("text");
        assert_eq!(text, "twelve bytes");

        assert!(Request::Put.counted(RequestResult::Ok) > puts);
        assert!(Request::Get.counted(RequestResult::NotFound) > missing);
        assert!(meter::BYTES_SENT.get() >= sent + 12);
        assert!(meter::BYTES_RECEIVED.get() >= received + 12);
    }
}
