//! Stores by their names, each played as it is known to be: what the probe finds, and that a replica is stored, listed,
//! restored, retained and purged all the same.

use std::sync::Arc;
use std::time::Duration;

use litestream_multitenant::clock::now_ms;
use litestream_multitenant::format::keys::ObjectKey;
use litestream_multitenant::replicate::retention::{carry_out, erase, objects_of, plan_for};
use litestream_multitenant::restore::{list_clients, list_moments};
use litestream_multitenant::store::probe::{CreateOnly, probe};
use litestream_multitenant::store::stores::Stores;
use litestream_multitenant::store::{ObjectStore, Put};

use super::replica::{FIRST, Model, NEWEST, PREFIX, Place, SECOND, restore};
use super::support::quirky::{Batches, Behaviour, Condition, Pages, Quirky};
use super::{body, keys};

/// A store as docs/stores.md has it, and what the probe says of it.
struct Named {
    name: &'static str,
    behaviour: Behaviour,
    create_only: CreateOnly,
    in_batches: bool,
}

const GOOD: Behaviour = Behaviour::GOOD;

fn named(name: &'static str, behaviour: Behaviour, create_only: CreateOnly) -> Named {
    Named {
        name,
        behaviour,
        create_only,
        in_batches: !matches!(behaviour.batches, Batches::Refused(..) | Batches::Pretended),
    }
}

fn all() -> Vec<Named> {
    let with = |condition, batches, pages| Behaviour {
        condition,
        batches,
        pages,
        ..GOOD
    };
    let known = Batches::Known;
    let cut = Pages::WithoutToken(3);
    let whole = Pages::Of(1000);
    vec![
        named("AWS", GOOD, CreateOnly::IfNoneMatch),
        named("R2", GOOD, CreateOnly::IfNoneMatch),
        named("Tigris", GOOD, CreateOnly::IfNoneMatch),
        named(
            "B2",
            with(Condition::Refused(501, "NotImplemented"), known, whole),
            CreateOnly::Unknown,
        ),
        named(
            "GCS",
            with(
                Condition::Google,
                Batches::Refused(501, "NotImplemented"),
                whole,
            ),
            CreateOnly::IfGenerationMatch,
        ),
        named(
            "OCI",
            with(Condition::Ignored, Batches::WantMd5, whole),
            CreateOnly::Unknown,
        ),
        named(
            "MinIO",
            with(Condition::Honoured, known, cut),
            CreateOnly::IfNoneMatch,
        ),
        named(
            "Ceph",
            with(Condition::LooksFirst, known, cut),
            CreateOnly::NotAtomic,
        ),
        named(
            "Wasabi",
            with(Condition::LooksFirst, known, cut),
            CreateOnly::NotAtomic,
        ),
        named(
            "Garage",
            with(Condition::Ignored, known, whole),
            CreateOnly::Unknown,
        ),
        named(
            "one that answers 400",
            with(Condition::Refused(400, "InvalidArgument"), known, whole),
            CreateOnly::Unknown,
        ),
        named(
            "one that answers 412 without a reason",
            with(Condition::AlwaysTaken, known, whole),
            CreateOnly::Unknown,
        ),
        named(
            "one that cuts its listings silently",
            with(Condition::Honoured, known, Pages::Silently(2)),
            CreateOnly::IfNoneMatch,
        ),
        named(
            "one that ignores the delimiter",
            with(Condition::Honoured, known, Pages::IgnoresDelimiter),
            CreateOnly::IfNoneMatch,
        ),
        named(
            "one that only pretends to delete in batches",
            with(Condition::Honoured, Batches::Pretended, whole),
            CreateOnly::IfNoneMatch,
        ),
        named(
            "one with object lock",
            Behaviour {
                wants_checksum: true,
                ..GOOD
            },
            CreateOnly::IfNoneMatch,
        ),
    ]
}

async fn open(server: &Quirky) -> Arc<dyn ObjectStore> {
    let opened = server.spec().open(&server.options()).await;
    opened.expect("not contacted yet")
}

#[tokio::test]
async fn each_store_is_found_out_and_used_as_it_is() {
    for one in all() {
        let server = Quirky::start(one.behaviour);
        let store = open(&server).await;
        let found = probe(&*store).await.expect(one.name);
        assert_eq!(found.create_only, one.create_only, "{}", one.name);
        assert_eq!(
            found.deletes_in_batches,
            Some(one.in_batches),
            "{}",
            one.name
        );
        assert!(found.lists_at_once, "{}", one.name);
        assert_eq!(server.keys(), ["registry/probe"], "{}", one.name);
        a_replica_lives_and_goes(one.name, &store).await;
    }
}

/// As a tenant's own store is used, of which nothing is asked before.
#[tokio::test]
async fn a_store_that_was_never_probed_is_found_out_by_its_first_object() {
    for one in all() {
        let server = Quirky::start(one.behaviour);
        let store = open(&server).await;
        a_replica_lives_and_goes(one.name, &store).await;
    }
}

async fn a_replica_lives_and_goes(name: &str, store: &Arc<dyn ObjectStore>) {
    let first = Model::of_sqlite(512, FIRST, 1, 1);
    let mut second = Model::of_sqlite(512, SECOND, 8, 2);
    let fourth = second.states[3].clone();
    let snapshot = second.snapshot(&fourth);
    second
        .objects
        .insert(ObjectKey::Snapshot(SECOND, 3), snapshot);
    for model in [&first, &second] {
        model.store(&**store, PREFIX).await;
    }
    let key = ObjectKey::Segment(SECOND, 1).below(PREFIX);
    let again = store.put_new(&key, &body("other")).await.expect(name);
    assert_eq!(again, Put::Exists, "{name}");

    let listing = list_clients(&Stores::new(Some(store.clone())), &[]).await;
    assert_eq!(listing.expect(name).clients.len(), 1, "{name}");
    let generations = list_moments(store, PREFIX).await.expect(name);
    let moments: Vec<_> = generations.iter().map(|one| one.moments.len()).collect();
    assert_eq!(moments, [first.states.len(), second.states.len()], "{name}");

    let place = Place::new();
    let restored = restore(store, PREFIX, NEWEST, &place.path()).await;
    let last = second.states.last().expect("some");
    assert_eq!(restored.expect(name).txid, last.txid, "{name}");
    assert!(std::fs::read(place.path()).expect("there") == last.bytes);

    // All of it is old enough.
    let later = now_ms() + 3_600_000;
    let plan = plan_for(&**store, PREFIX, Duration::from_secs(60), later).await;
    let plan = plan.expect(name);
    assert_eq!(plan.delete.len(), first.objects.len() + 4, "{name}");
    carry_out(&**store, PREFIX, &plan).await.expect(name);
    let left = objects_of(&**store, PREFIX).await.expect(name);
    assert_eq!(left.len(), second.objects.len() - 4, "{name}");
    erase(&**store, PREFIX, &left).await.expect(name);
    assert_eq!(
        keys(&**store, "databases/").await,
        [] as [&str; 0],
        "{name}"
    );
}
