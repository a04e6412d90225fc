//! What every store has to do.

use std::fs;

use futures_util::future::join_all;
use litestream_multitenant::clock::now_ms;
use litestream_multitenant::store::probe::probe;
use litestream_multitenant::store::{Body, Put, StoreError};

use super::scratch::Scratch;
use super::{body, keys, read};

#[tokio::test]
async fn an_object_is_created_once_and_read_back() {
    for scratch in Scratch::all().await {
        let store = &*scratch.store;
        let key = "databases/a/wal/1.wal";
        assert_eq!(
            store.put_new(key, &body("one")).await.expect("new"),
            Put::Created
        );
        if scratch.is_create_only {
            let again = store.put_new(key, &body("two")).await.expect("known");
            assert_eq!(again, Put::Exists);
        }
        assert_eq!(read(store, key).await, b"one");
        let listed = store.list("").await.expect("a listing");
        assert_eq!(listed.len(), 1);
        assert_eq!((listed[0].key.as_str(), listed[0].size), (key, 3));
        if let Some(path) = scratch.object_path(key) {
            assert_eq!(fs::read(path).expect("a file at its key"), b"one");
        }
    }
}

#[tokio::test]
async fn of_many_writers_of_one_key_exactly_one_creates_it() {
    let all = Scratch::all().await.into_iter();
    for scratch in all.filter(|scratch| scratch.is_create_only) {
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
        assert_eq!(created.len(), 1, "{}: {puts:?}", scratch.name);
        let expected = format!("writer {:02}", created[0]);
        assert_eq!(read(&*scratch.store, "a/key").await, expected.as_bytes());
    }
}

#[tokio::test]
async fn whether_create_only_is_honoured_is_found_out_and_the_probe_leaves_one_object() {
    for scratch in Scratch::all().await {
        for _ in 0..2 {
            let abilities = probe(&*scratch.store).await.expect("a probe");
            let honoured = abilities.create_only.is_relied_on();
            assert_eq!(honoured, scratch.is_create_only, "{}", scratch.name);
            assert_eq!(abilities.deletes_in_batches, Some(true));
            assert!(abilities.lists_at_once);
            assert_eq!(keys(&*scratch.store, "").await, ["registry/probe"]);
        }
    }
}

#[tokio::test]
async fn objects_have_the_time_of_the_stores_clock() {
    for scratch in Scratch::all().await {
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
        for scratch in Scratch::all().await {
            let body = Body::File(file.path().to_owned());
            let store = &*scratch.store;
            assert_eq!(
                store.put_new("a/file", &body).await.expect("new"),
                Put::Created
            );
            let again = store.put_new("a/file", &body).await.expect("known");
            assert_eq!(again == Put::Exists, scratch.is_create_only);
            assert!(read(store, "a/file").await == content, "other bytes");
            assert!(file.path().exists(), "the caller's file is the caller's");
        }
    }
}

#[tokio::test]
async fn a_file_that_is_gone_is_no_answer_of_the_store() {
    for scratch in Scratch::all().await {
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
    for scratch in Scratch::all().await {
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
            assert_eq!(part, expected, "{offset}+{len} in {}", scratch.name);
        }
    }
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    for scratch in Scratch::all().await {
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
    for scratch in Scratch::all().await {
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
    for scratch in Scratch::all().await {
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
    for scratch in Scratch::all().await {
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
    for scratch in Scratch::all().await {
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
