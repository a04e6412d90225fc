//! Restores from both stores: every moment equals the model; what can be restored is told by the store alone.

#[path = "restore/claims.rs"]
mod claims;
#[path = "restore/files.rs"]
mod files;
#[path = "support/replica.rs"]
mod replica;
#[path = "support/s3.rs"]
mod s3;
#[path = "support/store.rs"]
mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use litestream_multitenant::format::keys::ObjectKey;
use litestream_multitenant::format::registry::RegistryKey;
use litestream_multitenant::restore::{
    At, Integrity, ListedClient, Moment, RestoreError, Target, list_clients, list_moments,
    plan_restore, restore_to_file, verify_replica,
};
use litestream_multitenant::store::Body;
use litestream_multitenant::store::stores::Stores;
use replica::{
    FIRST, Model, NEWEST, PREFIX, Place, SECOND, State, at_txid, restore, restore_by_force,
};
use s3::S3Server;
use support::Scratch;
use tempfile::TempDir;

const GUID: &str = "12345678-1234-5678-9abc-123456789012";
const OTHER: &str = "databases/87654321-1234-5678-9abc-123456789012";

fn at_time(time_ms: i64) -> Target {
    let at = At::Time(time_ms);
    Target { at, ..NEWEST }
}

#[tokio::test]
async fn every_moment_equals_the_model() {
    for scratch in Scratch::both().await {
        let store = &scratch.store;
        let first = Model::of_sqlite(512, FIRST, 1, 1);
        let mut second = Model::of_sqlite(4096, SECOND, 8, 2);
        // A later snapshot makes it short, and is exactly what the segments make.
        let fifth = second.states[5].clone();
        second
            .objects
            .insert(ObjectKey::Snapshot(SECOND, 5), second.snapshot(&fifth));
        for model in [&first, &second] {
            model.store(&**store, PREFIX).await;
        }

        for (model, generation) in [(&first, FIRST), (&second, SECOND)] {
            for (seq, state) in model.states.iter().enumerate() {
                for target in [
                    at_txid(state.txid),
                    at_time(state.time_ms),
                    at_time(state.time_ms + 999),
                ] {
                    let place = Place::new();
                    let restored = restore(store, PREFIX, target, &place.path())
                        .await
                        .expect("sound");
                    assert_eq!(
                        (restored.txid, restored.time_ms),
                        (state.txid, state.time_ms)
                    );
                    assert_eq!(restored.generation, generation);
                    assert_eq!(restored.checksum, model.checksum(&state.bytes));
                    assert!(
                        fs::read(place.path()).expect("there") == state.bytes,
                        "{target:?}"
                    );
                    assert_eq!(place.names(), ["restored.db"]);
                    let objects = if generation == SECOND && seq >= 5 {
                        seq - 4
                    } else {
                        seq + 1
                    };
                    assert_eq!(restored.objects, objects);
                }
            }
        }
        let place = Place::new();
        let newest = restore(store, PREFIX, NEWEST, &place.path())
            .await
            .expect("sound");
        assert_eq!((newest.txid, newest.page_size), (14, 4096));
        assert_eq!(
            u64::from(newest.pages) * 4096,
            fs::metadata(place.path()).expect("there").len()
        );

        let older = Target {
            generation: Some(FIRST),
            ..NEWEST
        };
        let restored = restore(store, PREFIX, older, &Place::new().path())
            .await
            .expect("sound");
        assert_eq!(restored.txid, 7);

        let verified = verify_replica(store, PREFIX, place.directory.path())
            .await
            .expect("sound");
        assert_eq!((verified.generation, verified.txid), (SECOND, 14));
        assert_eq!(verified.integrity, Integrity::Ok);
        assert_eq!(place.names(), ["restored.db"], "no scratch is left");
    }
}

#[tokio::test]
async fn what_is_no_moment_names_its_neighbours() {
    let Scratch { store, .. } = &Scratch::directory().await;
    let mut model = Model::new(512, FIRST);
    for (txid, time_ms) in [(3, 3_000), (5, 5_000), (9, 9_000)] {
        let bytes = vec![txid as u8; 1024];
        model.commit(State {
            txid,
            time_ms,
            bytes,
        });
    }
    model.store(&**store, PREFIX).await;
    let place = Place::new();
    for (target, expected) in [
        (at_txid(4), "the nearest are 3 and 5"),
        (at_txid(8), "the nearest are 5 and 9"),
        (at_txid(2), "the first is 3"),
        (at_txid(0), "the first is 3"),
        (at_txid(10), "the last is 9"),
        (at_time(2_999), "1970-01-01T00:00:03.000Z"),
        (
            Target {
                generation: Some(SECOND),
                ..NEWEST
            },
            "generation-0000000200000000",
        ),
    ] {
        let error = restore(store, PREFIX, target, &place.path())
            .await
            .expect_err("no moment");
        assert!(error.is_unknown() && !error.is_damage(), "{error:?}");
        assert!(error.to_string().contains(expected), "{error}");
        assert!(!error.to_string().contains('\n'));
    }
    let error = restore(store, OTHER, NEWEST, &place.path())
        .await
        .expect_err("no replica");
    assert!(
        error.is_unknown() && error.to_string().contains(OTHER),
        "{error}"
    );
    assert!(place.names().is_empty());

    for (time_ms, txid) in [(3_000, 3), (4_999, 3), (5_000, 5), (i64::MAX, 9)] {
        let restored = restore(store, PREFIX, at_time(time_ms), &Place::new().path()).await;
        assert_eq!(restored.expect("a moment").txid, txid);
    }
    let planned = plan_restore(store, PREFIX, &at_txid(5))
        .await
        .expect("a plan")
        .to_string();
    let lines: Vec<_> = planned.lines().collect();
    assert_eq!(lines.len(), 3);
    assert!(
        lines[0].ends_with(&ObjectKey::Snapshot(FIRST, 0).below(PREFIX)),
        "{planned}"
    );
    assert!(
        lines[1].ends_with(&ObjectKey::Segment(FIRST, 1).below(PREFIX)),
        "{planned}"
    );
    assert!(lines[2].ends_with("bytes in 2 objects"), "{planned}");
}

/// A transaction between two generations, where one has ended and the next has begun later.
#[tokio::test]
async fn a_txid_between_generations_names_both() {
    let Scratch { store, .. } = &Scratch::directory().await;
    for (generation, txid) in [(FIRST, 3), (SECOND, 7)] {
        let mut model = Model::new(512, generation);
        let bytes = vec![1; 512];
        model.commit(State {
            txid,
            time_ms: 1_000,
            bytes,
        });
        model.store(&**store, PREFIX).await;
    }
    let place = Place::new();
    let error = restore(store, PREFIX, at_txid(5), &place.path())
        .await
        .expect_err("between");
    assert!(
        error.to_string().contains("the nearest are 3 and 7"),
        "{error}"
    );
}

/// Bytes as a cipher leaves them.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_be_bytes()
    });
    words.take(len.div_ceil(8)).flatten().take(len).collect()
}

/// What SQLite can't read is damaged, unless it is as a cipher leaves a database: with no page that is plain, and no
/// order in the first.
#[tokio::test]
async fn what_sqlite_finds_or_cannot_read_is_damage_unless_it_is_encrypted() {
    let Scratch { store, .. } = &Scratch::directory().await;
    let directory = TempDir::new().expect("a scratch directory");
    let sound = Model::of_sqlite(512, FIRST, 1, 1).states[3].bytes.clone();
    let with = |at: std::ops::Range<usize>, bytes: &[u8]| {
        let mut changed = sound.clone();
        changed[at].copy_from_slice(bytes);
        changed
    };
    let mut header_alone = noise(sound.len());
    header_alone[..32].copy_from_slice(&sound[..32]);
    let mut never_written = noise(sound.len());
    never_written[1024..1536].fill(0);
    let cases = [
        ("sound", sound.clone(), Some(Integrity::Ok)),
        ("encrypted", noise(sound.len()), Some(Integrity::Encrypted)),
        ("header-alone", header_alone, Some(Integrity::Encrypted)),
        ("never-written", never_written, Some(Integrity::Encrypted)),
        ("two-pages", with(512 * 3..512 * 5, &[0xff; 1024]), None),
        ("zeros", with(0..512, &[0; 512]), None),
        ("all-zeros", vec![0; sound.len()], None),
        ("first-page-noise", with(0..512, &noise(512)), None),
        (
            "text",
            b"no database ".repeat(sound.len() / 12 + 1)[..sound.len()].to_vec(),
            None,
        ),
        ("no-magic", with(0..1, b"s"), None),
        ("no-page-size", with(16..18, &[0; 2]), None),
        ("another-page-size", with(16..18, &[4, 0]), None),
        ("schema-format", with(47..48, &[9]), None),
    ];
    for (name, bytes, expected) in cases {
        let prefix = format!("databases/{name}");
        let mut model = Model::new(512, FIRST);
        model.commit(State {
            txid: 1,
            time_ms: 0,
            bytes,
        });
        model.store(&**store, &prefix).await;
        let verified = verify_replica(store, &prefix, directory.path()).await;
        match (verified, expected) {
            (Ok(verified), Some(expected)) => assert_eq!(verified.integrity, expected, "{name}"),
            (Err(error), None) => {
                let told = error.to_string();
                assert!(
                    error.is_damage() && told.contains(&prefix),
                    "{name}: {told}"
                );
            }
            (other, _) => panic!("{name}: {other:?}"),
        }
    }
    assert_eq!(fs::read_dir(directory.path()).expect("there").count(), 0);
}

#[tokio::test]
async fn an_empty_database_is_an_empty_file() {
    let Scratch { store, .. } = &Scratch::directory().await;
    let mut model = Model::new(4096, FIRST);
    for (txid, len) in [(1, 0), (2, 8192), (3, 0)] {
        model.commit(State {
            txid,
            time_ms: 0,
            bytes: vec![txid as u8; len],
        });
    }
    model.store(&**store, PREFIX).await;
    for state in &model.states {
        let place = Place::new();
        let restored = restore(store, PREFIX, at_txid(state.txid), &place.path())
            .await
            .expect("sound");
        assert_eq!(fs::read(place.path()).expect("there"), state.bytes);
        assert_eq!(restored.pages as usize * 4096, state.bytes.len());
    }
    let verified = verify_replica(store, PREFIX, Place::new().directory.path()).await;
    assert_eq!(verified.expect("sound").integrity, Integrity::Ok);
}

/// Longer than what is kept in memory.
#[tokio::test]
async fn a_large_object_passes_through_a_scratch_file() {
    for scratch in Scratch::both().await {
        let bytes = noise(12 << 20);
        let mut model = Model::new(65536, FIRST);
        model.commit(State {
            txid: 1,
            time_ms: 0,
            bytes: bytes.clone(),
        });
        model.store(&*scratch.store, PREFIX).await;
        let place = Place::new();
        let calls = AtomicUsize::new(0);
        let progress = |_| _ = calls.fetch_add(1, Ordering::Relaxed);
        let path = place.path();
        let restored = restore_to_file(&scratch.store, PREFIX, &NEWEST, &path, false, &progress);
        assert!(restored.await.expect("sound").bytes > 8 << 20);
        assert!(fs::read(place.path()).expect("there") == bytes);
        assert_eq!(calls.into_inner(), 1);
        assert_eq!(place.names(), ["restored.db"]);
    }
}

#[tokio::test]
async fn an_existing_output_is_an_error_before_anything_is_asked() {
    let mut server = S3Server::start();
    let store = server
        .spec("x")
        .open(&server.options())
        .await
        .expect("a store");
    let stopped = tokio::task::spawn_blocking(move || server.stop());
    stopped.await.expect("stopped");
    for name in ["restored.db", "restored.db-wal", "restored.db-journal"] {
        let place = Place::new();
        fs::write(place.directory.path().join(name), "precious").expect("written");
        let error = restore(&store, PREFIX, NEWEST, &place.path())
            .await
            .expect_err("exists");
        assert!(
            matches!(error, RestoreError::OutputExists { .. }),
            "{error:?}"
        );
        assert!(error.to_string().contains(name), "{error}");
        assert_eq!(place.names(), [name]);
    }
    // The server is gone, which says nothing about the replica.
    let place = Place::new();
    let error = restore(&store, PREFIX, NEWEST, &place.path())
        .await
        .expect_err("gone");
    assert!(matches!(error, RestoreError::Store(_)), "{error:?}");
    assert!(!error.is_damage() && !error.is_unknown());
    assert!(place.names().is_empty());
}

#[tokio::test]
async fn force_replaces_a_file_that_nobody_has_open() {
    let Scratch { store, .. } = &Scratch::directory().await;
    let model = Model::of_sqlite(512, FIRST, 1, 1);
    model.store(&**store, PREFIX).await;
    let place = Place::new();
    for suffix in ["", "-wal", "-shm", "-journal"] {
        let path = place.directory.path().join(format!("restored.db{suffix}"));
        fs::write(path, "old").expect("written");
    }
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o640)).expect("its owner");

    let open = fs::File::open(place.path()).expect("there");
    let forced = restore_by_force(store, &place.path()).await;
    let error = forced.expect_err("open");
    assert!(
        matches!(error, RestoreError::OutputOpen { pid, .. } if pid == std::process::id()),
        "{error:?}"
    );
    assert_eq!(fs::read(place.path()).expect("there"), b"old");
    assert_eq!(place.names().len(), 4);
    drop(open);

    let forced = restore_by_force(store, &place.path()).await;
    forced.expect("nobody has it open");
    let bytes = &model.states.last().expect("states").bytes;
    assert!(&fs::read(place.path()).expect("there") == bytes);
    assert_eq!(place.names(), ["restored.db"]);
    let mode = fs::metadata(place.path())
        .expect("there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o640, "its application can still open it");
}

#[tokio::test]
async fn the_store_alone_tells_its_clients_and_moments() {
    for scratch in Scratch::both().await {
        let store = &scratch.store;
        let stores = Stores::new(Some(store.clone()));
        let clients = async || list_clients(&stores, &[]).await.expect("listed").clients;
        assert_eq!(clients().await, []);
        let mut model = Model::new(512, FIRST);
        for txid in 1..=120 {
            model.commit(State {
                txid,
                time_ms: txid as i64,
                bytes: vec![txid as u8; 512],
            });
        }
        model.store(&**store, PREFIX).await;
        let first = format!("{PREFIX}/wal/generation-{FIRST}/00000001.wal");
        assert!(
            scratch.object_path(&first).is_file(),
            "the documented layout"
        );
        let mut small = Model::new(512, FIRST);
        small.commit(State {
            txid: 1,
            time_ms: 5,
            bytes: vec![1; 512],
        });
        for prefix in [
            "databases/acme/orders",
            "databases/acme/users",
            "eu/staging/databases/x",
        ] {
            small.store(&**store, prefix).await;
        }
        small.store(&**store, "unregistered/databases/y").await;
        let registered = RegistryKey::WatchPath("eu/staging".to_owned()).to_string();
        let body = Body::Bytes(Bytes::from_static(b"{}"));
        store.put_new(&registered, &body).await.expect("new");

        let client = |client: &str, prefix: &str, s3_prefix: &str| ListedClient {
            client: client.to_owned(),
            prefix: prefix.to_owned(),
            s3_prefix: s3_prefix.to_owned(),
            elsewhere: false,
            removed: None,
        };
        assert_eq!(
            clients().await,
            [
                client(GUID, "", PREFIX),
                client("acme/orders", "", "databases/acme/orders"),
                client("acme/users", "", "databases/acme/users"),
                client("x", "eu/staging", "eu/staging/databases/x"),
            ]
        );
        let listed = list_moments(store, PREFIX).await.expect("listed");
        assert_eq!((listed.len(), listed[0].id), (1, FIRST));
        let expected: Vec<_> = (1..=120)
            .map(|txid| Moment {
                txid,
                time_ms: txid as i64,
            })
            .collect();
        assert_eq!(listed[0].moments, expected);
        assert!(
            list_moments(store, OTHER)
                .await
                .expect_err("none")
                .is_unknown()
        );
    }
}
