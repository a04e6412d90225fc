//! One contract for both stores, and what is particular to each.

#[path = "support/s3.rs"]
mod s3;
#[path = "support/store.rs"]
mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::future::join_all;
use litestream_multitenant::clock::now_ms;
use litestream_multitenant::store::spec::{S3Options, Secret, StoreSpec};
use litestream_multitenant::store::{Body, ObjectStore, Put, StoreError, probe_conditional_put};
use s3::S3Server;
use support::Scratch;
use tempfile::TempDir;
use tokio::io::AsyncReadExt;

fn body(text: &str) -> Body {
    Body::Bytes(Bytes::copy_from_slice(text.as_bytes()))
}

async fn read(store: &dyn ObjectStore, key: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut object = store.get(key).await.expect("an object");
    object.read_to_end(&mut bytes).await.expect("its bytes");
    bytes
}

async fn keys(store: &dyn ObjectStore, prefix: &str) -> Vec<String> {
    let listed = store.list(prefix).await.expect("a listing");
    listed.into_iter().map(|object| object.key).collect()
}

#[tokio::test]
async fn an_object_is_created_once_and_read_back() {
    for scratch in Scratch::both().await {
        let store = &*scratch.store;
        let key = "databases/a/wal/1.wal";
        assert_eq!(
            store.put_new(key, &body("one")).await.expect("new"),
            Put::Created
        );
        assert_eq!(
            store.put_new(key, &body("two")).await.expect("known"),
            Put::Exists
        );
        assert_eq!(read(store, key).await, b"one");
        let listed = store.list("").await.expect("a listing");
        assert_eq!(listed.len(), 1);
        assert_eq!((listed[0].key.as_str(), listed[0].size), (key, 3));
        let stored = fs::read(scratch.object_path(key)).expect("a file at its key");
        assert_eq!(stored, b"one");
    }
}

#[tokio::test]
async fn of_many_writers_of_one_key_exactly_one_creates_it() {
    for scratch in Scratch::both().await {
        let puts = join_all((0..16).map(|writer| {
            let store = scratch.store.clone();
            async move {
                store
                    .put_new("a/key", &body(&format!("writer {writer:02}")))
                    .await
            }
        }))
        .await;
        let created: Vec<_> = puts
            .iter()
            .enumerate()
            .filter(|(_, put)| matches!(put, Ok(Put::Created)))
            .map(|(writer, _)| writer)
            .collect();
        assert_eq!(created.len(), 1, "{}: {puts:?}", scratch.store.describe());
        let expected = format!("writer {:02}", created[0]);
        assert_eq!(read(&*scratch.store, "a/key").await, expected.as_bytes());
    }
}

#[tokio::test]
async fn create_only_is_honoured_and_the_probe_leaves_one_object() {
    for scratch in Scratch::both().await {
        for _ in 0..2 {
            let honoured = probe_conditional_put(&*scratch.store)
                .await
                .expect("a probe");
            assert!(honoured, "{}", scratch.store.describe());
            assert_eq!(keys(&*scratch.store, "").await, ["registry/probe"]);
        }
    }
}

#[tokio::test]
async fn objects_have_the_time_of_the_stores_clock() {
    for scratch in Scratch::both().await {
        // A directory is made with its first object.
        scratch
            .store
            .put_new("first", &body("x"))
            .await
            .expect("new");
        let before = scratch.store.now("").await.expect("a time");
        scratch.store.put_new("a", &body("x")).await.expect("new");
        let after = scratch.store.now("none/").await.expect("a time");
        let listed = scratch.store.list("a").await.expect("listed");
        assert_eq!(keys(&*scratch.store, "").await, ["a", "first"]);
        // S3 tells whole seconds.
        let times = before / 1_000..=after.div_euclid(1_000) + 1;
        assert!(
            times.contains(&(listed[0].modified_ms / 1_000)),
            "{listed:?}"
        );
        assert!(before.abs_diff(now_ms()) < 60_000, "on one machine");
    }
}

#[tokio::test]
async fn files_are_stored_as_they_are() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    // Longer than one request carries to S3.
    let mebibyte = |n: u8| vec![n; 1 << 20];
    let long: Vec<u8> = (0..17).flat_map(mebibyte).collect();
    for content in [&b"short"[..], b"", &long] {
        fs::write(file.path(), content).expect("written");
        for scratch in Scratch::both().await {
            let body = Body::File(file.path().to_owned());
            let store = &*scratch.store;
            assert_eq!(
                store.put_new("a/file", &body).await.expect("new"),
                Put::Created
            );
            assert_eq!(
                store.put_new("a/file", &body).await.expect("known"),
                Put::Exists
            );
            assert!(read(store, "a/file").await == content, "other bytes");
            assert!(file.path().exists(), "the caller's file is the caller's");
        }
    }
}

#[tokio::test]
async fn a_file_that_is_gone_is_no_answer_of_the_store() {
    for scratch in Scratch::both().await {
        let gone = Body::File("/nonexistent/segment".into());
        let error = scratch.store.put_new("a/b", &gone).await.expect_err("gone");
        assert!(matches!(error, StoreError::Failed { .. }), "{error}");
        assert!(!error.is_retryable() && !error.is_not_found());
        assert!(
            error.to_string().contains("/nonexistent/segment"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn ranges_end_with_the_object() {
    for scratch in Scratch::both().await {
        let store = &*scratch.store;
        store
            .put_new("a/b", &body("0123456789"))
            .await
            .expect("new");
        for (offset, len, expected) in [
            (0, 4, "0123"),
            (3, 4, "3456"),
            (8, 100, "89"),
            (0, u64::MAX, "0123456789"),
            (10, 1, ""),
            (1000, 5, ""),
            (4, 0, ""),
        ] {
            let part = store.get_range("a/b", offset, len).await.expect("a range");
            assert_eq!(part, expected, "{offset}+{len} in {}", store.describe());
        }
    }
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    for scratch in Scratch::both().await {
        let store = &*scratch.store;
        assert_eq!(keys(store, "").await, [] as [&str; 0]);
        assert!(
            store
                .list_folders("databases/")
                .await
                .expect("none")
                .is_empty()
        );
        assert!(store.get("a/b").await.err().expect("absent").is_not_found());
        let range = store.get_range("a/b", 0, 1).await;
        assert!(range.expect_err("absent").is_not_found());
        store.delete(&["a/b".to_owned()]).await.expect("no error");
    }
}

#[tokio::test]
async fn a_long_listing_is_whole_and_ordered() {
    for scratch in Scratch::both().await {
        let store = &scratch.store;
        // More than one page of a listing, which has 1,000.
        let mut expected: Vec<String> = (0..1_100).map(|n| format!("many/{n:x}.wal")).collect();
        for chunk in expected.chunks(50) {
            let puts = chunk.iter().map(|key| {
                let store = store.clone();
                async move { store.put_new(key, &body("x")).await }
            });
            for put in join_all(puts).await {
                assert_eq!(put.expect("new"), Put::Created);
            }
        }
        store.put_new("other/x", &body("x")).await.expect("new");
        expected.sort();
        assert_eq!(keys(&**store, "many/").await, expected);
        let ten: Vec<_> = expected
            .iter()
            .filter(|key| key.starts_with("many/10"))
            .cloned()
            .collect();
        assert_eq!(
            keys(&**store, "many/10").await,
            ten,
            "a prefix within a name"
        );
        store.delete(&expected).await.expect("deleted");
        assert_eq!(keys(&**store, "").await, ["other/x"]);
    }
}

#[tokio::test]
async fn folders_are_the_names_with_objects_below() {
    for scratch in Scratch::both().await {
        let store = &*scratch.store;
        for key in ["top", "d/b/wal/1", "d/b/wal/2", "d/a/x", "d/file", "e/c/x"] {
            store.put_new(key, &body(key)).await.expect("new");
        }
        assert_eq!(store.list_folders("d/").await.expect("two"), ["a", "b"]);
        assert_eq!(store.list_folders("").await.expect("two"), ["d", "e"]);
        store.delete(&["d/a/x".to_owned()]).await.expect("deleted");
        assert_eq!(store.list_folders("d/").await.expect("one"), ["b"]);
    }
}

#[tokio::test]
async fn names_with_odd_bytes_are_kept() {
    let odd = [
        "a b/c+d%2Fe.wal",
        "quotes \"'&<>/x",
        "tab-free/é/ü.wal",
        "x/..hidden",
        "x/.dot",
        "x/semi;colon?query#hash",
        "x/~tilde*[glob]",
    ];
    for scratch in Scratch::both().await {
        let store = &*scratch.store;
        for key in odd {
            assert_eq!(
                store.put_new(key, &body(key)).await.expect(key),
                Put::Created
            );
        }
        let mut expected = odd.map(str::to_owned);
        expected.sort();
        assert_eq!(keys(store, "").await, expected);
        for key in odd {
            assert_eq!(read(store, key).await, key.as_bytes());
        }
        store.delete(&expected).await.expect("deleted");
        assert_eq!(keys(store, "").await, [] as [&str; 0]);
    }
}

#[tokio::test]
async fn keys_that_would_lead_outside_are_refused() {
    for scratch in Scratch::both().await {
        let store = &*scratch.store;
        let long = "x".repeat(256);
        for key in [
            "",
            "/etc/x",
            "a//b",
            "a/",
            "../x",
            "a/../../x",
            "a/./b",
            "a\0b",
            "a\nb",
            &long,
        ] {
            for error in [
                store.put_new(key, &body("x")).await.err(),
                store.get(key).await.err(),
                store.get_range(key, 0, 1).await.err(),
                store.delete(&[key.to_owned()]).await.err(),
            ] {
                let error = error.expect("refused");
                assert!(
                    matches!(error, StoreError::Failed { .. }),
                    "{key:?}: {error}"
                );
                assert!(!error.to_string().contains(['\0', '\n']));
            }
        }
        for prefix in ["/", "../", "a/../", "a//"] {
            assert!(store.list(prefix).await.is_err(), "{prefix:?}");
            assert!(store.list_folders(prefix).await.is_err(), "{prefix:?}");
        }
    }
}

// What is particular to the directory.

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

// What is particular to S3.

async fn open_s3(server: &S3Server, options: &S3Options) -> Arc<dyn ObjectStore> {
    server
        .spec("")
        .open(options)
        .await
        .expect("not contacted yet")
}

#[tokio::test]
async fn wrong_keys_are_denied_and_never_shown() {
    let server = S3Server::start();
    let wrong = [
        (server.access_key.as_str(), "a-wrong-secret"),
        ("AKIAWRONG", server.secret_key.as_str()),
    ];
    for (access, secret) in wrong {
        let options = S3Options {
            access_key: Some(Secret(access.to_owned())),
            secret_key: Some(Secret(secret.to_owned())),
            ..server.options()
        };
        let store = open_s3(&server, &options).await;
        for error in [
            store.put_new("a/b", &body("x")).await.err(),
            store.get("a/b").await.err(),
            store.list("a/").await.err(),
            store.delete(&["a/b".to_owned()]).await.err(),
        ] {
            let error = error.expect("denied");
            assert!(matches!(error, StoreError::Denied { .. }), "{error:?}");
            let shown = format!("{error} {error:?}");
            for part in [secret, access, "Signature=", "AWS4-HMAC"] {
                assert!(!shown.contains(part), "{shown}");
            }
        }
    }
}

#[tokio::test]
async fn a_server_that_is_gone_may_come_back() {
    let mut server = S3Server::start();
    let store = open_s3(&server, &server.options()).await;
    store.put_new("a/b", &body("x")).await.expect("new");
    let stopped = tokio::task::spawn_blocking(move || server.stop());
    stopped.await.expect("stopped");
    let error = store.put_new("a/c", &body("x")).await.expect_err("gone");
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
    assert!(error.is_retryable());
    let error = store.list("").await.expect_err("gone");
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
}

#[tokio::test]
async fn a_bucket_that_does_not_exist_is_said() {
    let server = S3Server::start();
    let spec = StoreSpec::parse("s3://another-bucket").expect("a STORE");
    let store = spec
        .open(&server.options())
        .await
        .expect("not contacted yet");
    let error = store.list("").await.expect_err("no bucket");
    assert_eq!(
        error.to_string(),
        "s3://another-bucket: there is no such bucket"
    );
    assert!(!error.is_retryable());
}

#[tokio::test]
async fn options_that_contradict_each_other_are_refused() {
    let spec = StoreSpec::parse("bucket").expect("a STORE");
    let half = S3Options {
        endpoint: Some("http://127.0.0.1:1".to_owned()),
        access_key: Some(Secret("AKIA".to_owned())),
        ..S3Options::default()
    };
    let error = spec.open(&half).await.err().expect("refused");
    assert!(error.to_string().contains("secretKey"), "{error}");
    for endpoint in [
        "localhost:9000",
        "ftp://x",
        "http://",
        "http://user:pw@host",
    ] {
        let options = S3Options {
            endpoint: Some(endpoint.to_owned()),
            ..S3Options::default()
        };
        let error = spec.open(&options).await.err().expect(endpoint);
        assert!(error.to_string().contains("endpoint"), "{error}");
        assert!(!error.to_string().contains("pw"), "{error}");
    }
}
