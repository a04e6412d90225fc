//! Stores that are new and empty: in a directory, and in a bucket of each server.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use litestream_multitenant::store::ObjectStore;
use litestream_multitenant::store::spec::{S3Options, StoreSpec};
use tempfile::TempDir;

use super::support::servers::{Server, open};

/// A store, and what keeps it alive.
pub struct Scratch {
    pub name: &'static str,
    pub store: Arc<dyn ObjectStore>,
    pub is_create_only: bool,
    kind: Kind,
}

enum Kind {
    Directory(TempDir),
    Bucket { server: Box<Server>, prefix: String },
}

impl Scratch {
    /// One in each kind of store.
    pub async fn all() -> Vec<Self> {
        let mut all = vec![Self::directory().await];
        for server in Server::all() {
            all.push(Self::in_bucket_of(server).await);
        }
        all
    }

    async fn directory() -> Self {
        let root = TempDir::new().expect("a scratch directory");
        let text = format!("file://{}/store", root.path().display());
        let spec = StoreSpec::parse(&text).expect("a STORE");
        Self {
            name: "directory",
            store: spec.open(&S3Options::default()).await.expect("a store"),
            is_create_only: true,
            kind: Kind::Directory(root),
        }
    }

    async fn in_bucket_of(server: Server) -> Self {
        let prefix = new_prefix();
        Self {
            name: server.name,
            store: open(&server.store, &prefix).await,
            is_create_only: server.is_create_only,
            kind: Kind::Bucket {
                server: Box::new(server),
                prefix,
            },
        }
    }

    /// The file that holds an object, behind the store's back; none where that is the server's secret.
    pub fn object_path(&self, key: &str) -> Option<PathBuf> {
        match &self.kind {
            Kind::Directory(root) => Some(root.path().join("store").join(key)),
            Kind::Bucket { server, prefix } => server.object_path(&format!("{prefix}/{key}")),
        }
    }
}

/// A prefix that no other test of this process has, so that a key which loses it would be seen.
pub fn new_prefix() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("below/a prefix {}", NEXT.fetch_add(1, Ordering::Relaxed))
}
