//! No damaged, missing or reordered object passes a restore, whichever store it comes from.

#[path = "restore_hostile/bombs.rs"]
mod bombs;
#[path = "support/replica.rs"]
mod replica;
#[path = "support/s3.rs"]
mod s3;
#[path = "support/store.rs"]
mod support;

use std::collections::BTreeMap;
use std::fs;

use litestream_multitenant::format::keys::ObjectKey;
use litestream_multitenant::format::ltx::Header;
use litestream_multitenant::format::registry::RegistryKey;
use litestream_multitenant::restore::{list_clients, list_moments, verify_replica};
use litestream_multitenant::store::stores::Stores;
use replica::{
    FIRST, Model, NEWEST, PREFIX, Place, SECOND, State, at_txid, encode, restore, restore_by_force,
};
use support::Scratch;

type Objects = BTreeMap<ObjectKey, Vec<u8>>;
type Spoil = fn(&mut Objects, &Model, &Model);

struct Damage {
    name: &'static str,
    /// What is done to the objects of a model; and to which of them the refusal has to point.
    spoil: Spoil,
    refused: ObjectKey,
}

fn segment(seq: u32) -> ObjectKey {
    ObjectKey::Segment(FIRST, seq)
}

const SNAPSHOT: ObjectKey = ObjectKey::Snapshot(FIRST, 0);

fn damages() -> Vec<Damage> {
    fn truncate(objects: &mut Objects, key: ObjectKey, left: impl Fn(usize) -> usize) {
        let object = objects.get_mut(&key).expect("there");
        object.truncate(left(object.len()));
    }
    fn rewrite(objects: &mut Objects, model: &Model, seq: usize, change: fn(&mut Header)) {
        let (from, to) = (&model.states[seq - 1], &model.states[seq]);
        let mut header = model.segment_header(from, to);
        change(&mut header);
        let sum = if header.no_checksum {
            0
        } else {
            model.checksum(&to.bytes)
        };
        objects.insert(
            segment(seq as u32),
            encode(header, &model.changed(from, to), sum),
        );
    }
    let list: [(&'static str, ObjectKey, Spoil); 21] = [
        ("a segment without its last byte", segment(3), |o, _, _| {
            truncate(o, segment(3), |len| len - 1)
        }),
        ("half a segment", segment(3), |o, _, _| {
            truncate(o, segment(3), |len| len / 2)
        }),
        ("a segment's header alone", segment(3), |o, _, _| {
            truncate(o, segment(3), |_| 100)
        }),
        ("an empty segment", segment(6), |o, _, _| {
            truncate(o, segment(6), |_| 0)
        }),
        ("half a snapshot", SNAPSHOT, |o, _, _| {
            truncate(o, SNAPSHOT, |len| len / 2)
        }),
        ("a byte more", segment(2), |o, _, _| {
            o.get_mut(&segment(2)).expect("there").push(0)
        }),
        ("no snapshot", SNAPSHOT, |o, _, _| _ = o.remove(&SNAPSHOT)),
        ("a segment missing in the middle", segment(3), |o, _, _| {
            _ = o.remove(&segment(3))
        }),
        ("the first segment missing", segment(1), |o, _, _| {
            _ = o.remove(&segment(1))
        }),
        ("a segment of another replica", segment(3), |o, _, other| {
            o.insert(segment(3), other.objects[&segment(3)].clone());
        }),
        (
            "a snapshot of another replica",
            segment(1),
            |o, _, other| {
                o.insert(SNAPSHOT, other.objects[&SNAPSHOT].clone());
            },
        ),
        (
            "a segment again under the next number",
            segment(4),
            |o, model, _| {
                o.insert(segment(4), model.objects[&segment(3)].clone());
            },
        ),
        (
            "a segment again after the last",
            segment(7),
            |o, model, _| {
                o.insert(segment(7), model.objects[&segment(6)].clone());
            },
        ),
        (
            "two segments in each other's place",
            segment(2),
            |o, model, _| {
                o.insert(segment(2), model.objects[&segment(3)].clone());
                o.insert(segment(3), model.objects[&segment(2)].clone());
            },
        ),
        (
            "a segment where the snapshot was",
            SNAPSHOT,
            |o, model, _| {
                o.insert(SNAPSHOT, model.objects[&segment(1)].clone());
            },
        ),
        (
            "a snapshot where a segment was",
            segment(2),
            |o, model, _| {
                o.insert(segment(2), model.snapshot(&model.states[2]));
            },
        ),
        (
            "a commit field beyond all pages",
            segment(3),
            |o, model, _| {
                rewrite(o, model, 3, |header| header.commit = u32::MAX);
            },
        ),
        ("a TXID range up to the end", segment(4), |o, model, _| {
            rewrite(o, model, 3, |header| header.max_txid = i64::MAX as u64 - 1);
        }),
        (
            "a time before its predecessor's",
            segment(3),
            |o, model, _| {
                rewrite(o, model, 3, |header| header.timestamp_ms = 0);
            },
        ),
        (
            "another instance's state before",
            segment(3),
            |o, model, _| {
                rewrite(o, model, 3, |header| header.pre_apply_checksum ^= 1);
            },
        ),
        ("no database checksums", segment(3), |o, model, _| {
            rewrite(o, model, 3, |header| {
                (header.no_checksum, header.pre_apply_checksum) = (true, 0);
            });
        }),
    ];
    list.map(|(name, refused, spoil)| Damage {
        name,
        spoil,
        refused,
    })
    .into()
}

async fn expect_damage(scratch: &Scratch, prefix: &str, refused: ObjectKey) {
    let place = Place::new();
    let restored = restore(&scratch.store, prefix, NEWEST, &place.path()).await;
    let error = restored.expect_err("damaged");
    assert!(
        error.is_damage() && error.to_string().contains(&refused.below(prefix)),
        "{error}"
    );
    assert!(place.names().is_empty());
}

async fn expect_refusal(scratch: &Scratch, prefix: &str, name: &str, refused: ObjectKey) {
    let store = &scratch.store;
    let key = refused.below(prefix);
    let place = Place::new();
    let restored = restore(store, prefix, NEWEST, &place.path()).await;
    let verified = verify_replica(store, prefix, place.directory.path()).await;
    for error in [restored.expect_err(name), verified.expect_err(name)] {
        assert!(error.is_damage(), "{name}: {error:?}");
        assert!(error.to_string().contains(&key), "{name}: {error}");
        assert!(!error.to_string().contains('\n'));
    }
    assert_eq!(place.names(), [] as [&str; 0], "{name}: files are left");
}

#[tokio::test]
async fn every_damage_is_refused_by_its_key_and_leaves_no_file() {
    let model = Model::of_sqlite(512, FIRST, 1, 1);
    let other = Model::of_sqlite(512, FIRST, 1, 2);
    for scratch in Scratch::both().await {
        for (
            n,
            Damage {
                name,
                spoil,
                refused,
            },
        ) in damages().into_iter().enumerate()
        {
            let prefix = format!("databases/damage-{n}");
            let mut objects = model.objects.clone();
            spoil(&mut objects, &model, &other);
            let spoilt = Model {
                objects,
                states: Vec::new(),
                ..model
            };
            spoilt.store(&*scratch.store, &prefix).await;
            expect_refusal(&scratch, &prefix, name, refused).await;
        }
    }
}

#[tokio::test]
async fn a_segment_of_another_generation_is_refused() {
    let scratch = Scratch::directory().await;
    let mut model = Model::of_sqlite(512, FIRST, 1, 1);
    let foreign = Model::of_sqlite(512, SECOND, 8, 1);
    let object = foreign.objects[&ObjectKey::Segment(SECOND, 3)].clone();
    model.objects.insert(segment(3), object);
    model.store(&*scratch.store, PREFIX).await;
    expect_refusal(&scratch, PREFIX, "from another generation", segment(3)).await;
}

#[tokio::test]
async fn another_page_size_within_a_generation_is_refused() {
    let scratch = Scratch::directory().await;
    let mut model = Model::new(1024, FIRST);
    let state = |txid| State {
        txid,
        time_ms: 0,
        bytes: vec![txid as u8; 4096],
    };
    model.commit(state(1));
    model.commit(state(2));
    let mut smaller = Model::new(512, FIRST);
    smaller.commit(state(1));
    smaller.commit(state(2));
    model
        .objects
        .insert(segment(1), smaller.objects[&segment(1)].clone());
    model.store(&*scratch.store, PREFIX).await;
    expect_refusal(&scratch, PREFIX, "another page size", segment(1)).await;
}

/// What no file can be as long as is the object's fault, and not the disk's.
#[tokio::test]
async fn a_commit_beyond_what_files_can_have_is_refused() {
    let scratch = Scratch::directory().await;
    let mut model = Model::new(65536, FIRST);
    for txid in [1, 2] {
        model.commit(State {
            txid,
            time_ms: 0,
            bytes: vec![txid as u8; 65536],
        });
    }
    let (from, to) = (&model.states[0], &model.states[1]);
    let header = Header {
        commit: u32::MAX,
        ..model.segment_header(from, to)
    };
    let object = encode(header, &model.changed(from, to), model.checksum(&to.bytes));
    model.objects.insert(segment(1), object);
    model.store(&*scratch.store, PREFIX).await;
    expect_refusal(&scratch, PREFIX, "256 TiB", segment(1)).await;
}

/// Names that are no keys of ours, and registrations that would lead out of the directory of `restore --all`.
#[tokio::test]
async fn hostile_keys_hide_no_client_and_make_none() {
    let model = Model::of_sqlite(512, FIRST, 1, 1);
    let place = "tenants/acme/orders";
    let placed = |prefix: &str, label: &str, s3_prefix: &str| {
        RegistryKey::of_replica(false, prefix, label, s3_prefix).to_string()
    };
    for scratch in Scratch::both().await {
        model.store(&*scratch.store, PREFIX).await;
        model.store(&*scratch.store, place).await;
        for key in [
            "databases/a\nb/snapshots/x",
            "databases/a\u{85}b/c/x",
            &placed("../..", "acme/orders", place),
            &placed("/etc", "acme/orders", place),
            &placed("", "../../etc/cron", place),
            &placed("", "a\nb", place),
            &placed("", "acme/orders", "../databases"),
            &RegistryKey::WatchPath("..".to_owned()).to_string(),
            &RegistryKey::WatchPath("/etc".to_owned()).to_string(),
        ] {
            let path = scratch.object_path(key);
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            fs::write(path, "{}").expect("written");
        }
        let stores = Stores::new(Some(scratch.store.clone()));
        let listing = list_clients(&stores, &[]).await.expect("listed");
        let places = listing.clients.iter().map(|client| &client.s3_prefix);
        assert_eq!(places.collect::<Vec<_>>(), [PREFIX]);
        assert_eq!(listing.failed, [] as [&str; 0]);
    }
}

/// One bit in each of many places of the stored files, behind the store's back.
#[tokio::test]
async fn a_flipped_bit_is_refused_or_changes_nothing() {
    let model = Model::of_sqlite(512, FIRST, 1, 1);
    let newest = &model.states.last().expect("states").bytes;
    for scratch in Scratch::both().await {
        model.store(&*scratch.store, PREFIX).await;
        let mut refused = 0;
        for (n, key) in [SNAPSHOT, segment(2), segment(4), segment(6)]
            .into_iter()
            .enumerate()
        {
            let path = scratch.object_path(&key.below(PREFIX));
            let sound = fs::read(&path).expect("there");
            for at in (n..sound.len()).step_by(sound.len() / 12) {
                let mut damaged = sound.clone();
                damaged[at] ^= 1 << (at % 8);
                fs::write(&path, &damaged).expect("written");
                let place = Place::new();
                match restore(&scratch.store, PREFIX, NEWEST, &place.path()).await {
                    Ok(_) => assert!(&fs::read(place.path()).expect("there") == newest),
                    Err(error) => {
                        refused += 1;
                        assert!(error.is_damage(), "byte {at}: {error:?}");
                        assert!(error.to_string().contains(&key.below(PREFIX)), "{error}");
                        assert!(place.names().is_empty());
                    }
                }
            }
            fs::write(&path, &sound).expect("written");
        }
        assert!(refused > 40, "{refused}");
    }
}

/// A later snapshot that is whole, and is not what the segments make.
#[tokio::test]
async fn a_snapshot_that_is_not_the_segments_state_is_found() {
    let scratch = Scratch::directory().await;
    let mut model = Model::of_sqlite(512, FIRST, 1, 1);
    let other = Model::of_sqlite(512, FIRST, 1, 2);
    let key = ObjectKey::Snapshot(FIRST, 4);
    model.objects.insert(key, other.snapshot(&other.states[4]));
    model.store(&*scratch.store, PREFIX).await;
    let place = Place::new();
    let verified = verify_replica(&scratch.store, PREFIX, place.directory.path()).await;
    let error = verified.expect_err("another snapshot");
    assert!(
        error.is_damage() && error.to_string().contains(&key.below(PREFIX)),
        "{error}"
    );
    // A restore begins with it, and meets a segment that was made for another state.
    expect_damage(&scratch, PREFIX, segment(5)).await;
}

#[tokio::test]
async fn force_on_a_damaged_replica_leaves_the_old_file() {
    let Scratch { store, .. } = &Scratch::directory().await;
    let mut model = Model::of_sqlite(512, FIRST, 1, 1);
    model.objects.remove(&segment(3));
    model.store(&**store, PREFIX).await;
    let place = Place::new();
    fs::write(place.path(), "old").expect("written");
    let forced = restore_by_force(store, &place.path()).await;
    assert!(forced.expect_err("damaged").is_damage());
    assert_eq!(fs::read(place.path()).expect("there"), b"old");
    assert_eq!(place.names(), ["restored.db"]);
    // What lies before the gap can still be had.
    let restored = restore(store, PREFIX, at_txid(3), &Place::new().path()).await;
    assert_eq!(restored.expect("before the gap").txid, 3);
    let listed = list_moments(store, PREFIX).await.expect("listed");
    let txids: Vec<_> = listed[0].moments.iter().map(|moment| moment.txid).collect();
    assert_eq!(txids, [1, 2, 3], "only what can be restored");
}
