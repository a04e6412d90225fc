//! One contract for all stores, what each server does to it under faults, and what is particular to each.

mod contract;
mod directory;
mod faults;
mod listings;
mod named;
mod reach;
mod s3;
mod scratch;

#[path = "../support/mod.rs"]
#[allow(dead_code, reason = "the tests of the mount need the rest of it")]
mod support;

#[path = "../support/replica.rs"]
#[allow(dead_code, reason = "the tests of restores need the rest of it")]
mod replica;

use bytes::Bytes;
use litestream_multitenant::store::{Body, ObjectStore};
use tokio::io::AsyncReadExt;

pub fn body(text: &str) -> Body {
    Body::Bytes(Bytes::copy_from_slice(text.as_bytes()))
}

/// A server that has refused a long body closes its connection, and the next request may be the one to find that out: like
/// the program, this tries again.
pub async fn read(store: &dyn ObjectStore, key: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut object = match store.get(key).await {
        Err(error) if error.is_retryable() => store.get(key).await,
        answer => answer,
    }
    .expect("an object");
    object.read_to_end(&mut bytes).await.expect("its bytes");
    bytes
}

pub async fn keys(store: &dyn ObjectStore, prefix: &str) -> Vec<String> {
    let listed = store.list(prefix).await.expect("a listing");
    listed.into_iter().map(|object| object.key).collect()
}
