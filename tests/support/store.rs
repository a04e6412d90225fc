//! The two real stores that every test of the contract runs against.

use std::sync::Arc;

use litestream_multitenant::store::ObjectStore;
use litestream_multitenant::store::spec::{S3Options, StoreSpec};
use tempfile::TempDir;

use super::s3::S3Server;

/// A new, empty store and what keeps it alive.
pub struct Scratch {
    pub store: Arc<dyn ObjectStore>,
    kind: Kind,
}

enum Kind {
    Directory(TempDir),
    S3(S3Server),
}

impl Scratch {
    pub async fn directory() -> Self {
        let root = TempDir::new().expect("a scratch directory");
        let text = format!("file://{}/store", root.path().display());
        let spec = StoreSpec::parse(&text).expect("a STORE");
        let store = spec.open(&S3Options::default()).await.expect("a store");
        let kind = Kind::Directory(root);
        Self { store, kind }
    }

    /// Below a prefix, so that a key which loses it would be seen.
    pub async fn s3() -> Self {
        let server = S3Server::start();
        let opened = server.spec("below/a prefix").open(&server.options()).await;
        let store = opened.expect("a store");
        let kind = Kind::S3(server);
        Self { store, kind }
    }

    pub async fn both() -> [Self; 2] {
        [Self::directory().await, Self::s3().await]
    }

    /// The file that holds an object, behind the store's back.
    pub fn object_path(&self, key: &str) -> std::path::PathBuf {
        match &self.kind {
            Kind::Directory(root) => root.path().join("store").join(key),
            Kind::S3(server) => server.object_path(&format!("below/a prefix/{key}")),
        }
    }
}
