//! What is particular to the store in a directory.

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use litestream_multitenant::store::spec::{S3Options, StoreSpec};
use litestream_multitenant::store::{ObjectStore, Put};
use tempfile::TempDir;

use super::{body, keys, read};

struct Directory {
    root: TempDir,
    store: Arc<dyn ObjectStore>,
}

impl Directory {
    async fn new() -> Self {
        let root = TempDir::new().expect("a scratch directory");
        let spec = StoreSpec::Directory(root.path().to_owned());
        let store = spec.open(&S3Options::default()).await.expect("a store");
        Self { root, store }
    }
}

#[tokio::test]
async fn a_symbolic_link_is_never_followed() {
    let Directory { root, store } = Directory::new().await;
    let outside = TempDir::new().expect("a scratch directory");
    fs::write(outside.path().join("file"), "outside").expect("written");
    symlink(outside.path(), root.path().join("folder")).expect("a link");
    symlink(outside.path().join("file"), root.path().join("link")).expect("a link");

    for key in ["folder/file", "link"] {
        assert!(store.get(key).await.is_err(), "{key}");
    }
    assert!(store.put_new("folder/new", &body("x")).await.is_err());
    assert_eq!(
        store.put_new("link", &body("x")).await.expect("taken"),
        Put::Exists
    );
    assert_eq!(keys(&*store, "").await, [] as [&str; 0]);
    let left = fs::read_dir(outside.path()).expect("readable").count();
    assert_eq!(
        (left, fs::read(outside.path().join("file")).expect("there")),
        (1, b"outside".to_vec())
    );
}

#[tokio::test]
async fn what_a_dead_writer_left_is_swept_and_never_shown() {
    let Directory { root, store } = Directory::new().await;
    let incoming = root.path().join(".incoming");
    fs::create_dir(&incoming).expect("made");
    let (old, young) = (incoming.join("old"), incoming.join("young"));
    for path in [&old, &young] {
        fs::write(path, "half").expect("written");
    }
    let long_ago = SystemTime::now() - Duration::from_secs(7200);
    let file = fs::File::options().write(true).open(&old).expect("there");
    file.set_modified(long_ago).expect("aged");

    assert_eq!(keys(&*store, "").await, [] as [&str; 0]);
    assert!(store.list_folders("").await.expect("none").is_empty());
    store.put_new("a/b", &body("x")).await.expect("new");
    assert!(!old.exists() && young.exists());
    assert_eq!(
        fs::read_dir(&incoming).expect("there").count(),
        1,
        "its own is renamed away"
    );
    assert_eq!(store.list_folders("").await.expect("one"), ["a"]);
}

#[tokio::test]
async fn the_last_object_takes_its_folders_with_it() {
    let Directory { root, store } = Directory::new().await;
    for key in ["a/b/c/1", "a/d/2"] {
        store.put_new(key, &body("x")).await.expect("new");
    }
    store
        .delete(&["a/b/c/1".to_owned()])
        .await
        .expect("deleted");
    assert!(!root.path().join("a/b").exists() && root.path().join("a/d/2").exists());
    store.put_new("a/b/c/1", &body("again")).await.expect("new");
    assert_eq!(read(&*store, "a/b/c/1").await, b"again");
}

#[tokio::test]
async fn a_directory_that_has_gone_is_not_made_again() {
    let Directory { root, store } = Directory::new().await;
    store.put_new("a", &body("x")).await.expect("new");
    let aside = root.path().with_extension("aside");
    fs::rename(root.path(), &aside).expect("taken away");

    let error = store.put_new("b", &body("x")).await.expect_err("gone");
    assert!(error.is_retryable(), "{error}");
    assert!(error.to_string().contains("directory is gone"), "{error}");
    for refused in [store.list("").await.err(), store.get("a").await.err()] {
        assert!(refused.is_some_and(|error| error.is_retryable()));
    }
    assert!(!root.path().exists());

    fs::rename(&aside, root.path()).expect("brought back");
    store.put_new("b", &body("x")).await.expect("new");
    assert_eq!(keys(&*store, "").await, ["a", "b"]);
}

#[tokio::test]
async fn puts_and_deletions_of_one_folder_do_not_disturb_each_other() {
    let Directory { store, .. } = Directory::new().await;
    let rounds = (0..8).map(|writer| {
        let store = store.clone();
        tokio::spawn(async move {
            for round in 0..40 {
                let key = format!("a/b/{writer}-{round}");
                match store.put_new(&key, &body("x")).await {
                    Ok(put) => assert_eq!(put, Put::Created),
                    // The folder went away several times in a row; the caller tries again.
                    Err(error) => assert!(error.is_retryable(), "{error}"),
                }
                store.delete(&[key]).await.expect("deleted");
            }
        })
    });
    for round in join_all(rounds).await {
        round.expect("no panic");
    }
    assert_eq!(keys(&*store, "").await, [] as [&str; 0]);
}

#[tokio::test]
async fn a_file_where_a_folder_has_to_be_is_said() {
    let Directory { root, store } = Directory::new().await;
    fs::write(root.path().join("a"), "a file").expect("written");
    let error = store
        .put_new("a/b", &body("x"))
        .await
        .expect_err("in the way");
    assert!(
        error.to_string().contains("stands where a folder"),
        "{error}"
    );
    assert!(!error.is_retryable());
}
