//! A listing that leaves something out is never taken for a replica that is older or smaller than it is.

use std::sync::Arc;

use litestream_multitenant::restore::{list_clients, list_moments, verify_replica};
use litestream_multitenant::store::stores::Stores;
use litestream_multitenant::store::{ObjectStore, StoreError};

use super::keys;
use super::replica::{FIRST, Model, NEWEST, PREFIX, Place, SECOND, State, restore};
use super::support::quirky::{Behaviour, Pages, Quirky};

/// Two generations of one client, and nothing else.
async fn stored(server: &Quirky) -> (Arc<dyn ObjectStore>, Model) {
    let store = server.spec().open(&server.options()).await;
    let store = store.expect("not contacted yet");
    let first = Model::of_sqlite(512, FIRST, 1, 1);
    let second = Model::of_sqlite(512, SECOND, 8, 2);
    for model in [&first, &second] {
        model.store(&*store, PREFIX).await;
    }
    (store, second)
}

fn with(pages: Pages) -> Behaviour {
    Behaviour {
        pages,
        ..Behaviour::GOOD
    }
}

#[tokio::test]
async fn whatever_was_left_out_is_asked_for_again() {
    let server = Quirky::start(Behaviour::GOOD);
    let (store, newest) = stored(&server).await;
    let all = keys(&*store, "").await;
    let last = newest.states.last().expect("some");
    for size in [1, 2, 3, 7, 13, 14, 15] {
        for pages in [
            Pages::Of(size),
            Pages::WithoutToken(size),
            Pages::Silently(size),
        ] {
            server.behave(with(pages));
            assert_eq!(keys(&*store, "").await, all, "{pages:?}");
            let folders = store.list_folders(&format!("{PREFIX}/")).await;
            assert_eq!(folders.expect("two"), ["snapshots", "wal"], "{pages:?}");
            let listing = list_clients(&Stores::new(Some(store.clone())), &[]).await;
            assert_eq!(listing.expect("one").clients.len(), 1, "{pages:?}");
            let place = Place::new();
            let restored = restore(&store, PREFIX, NEWEST, &place.path()).await;
            assert_eq!(restored.expect("all of it").txid, last.txid, "{pages:?}");
        }
    }
}

#[tokio::test]
async fn what_contradicts_itself_is_an_error_by_name_and_nothing_is_restored() {
    let server = Quirky::start(Behaviour::GOOD);
    let (store, newest) = stored(&server).await;
    let scratch = Place::new();
    for (pages, said) in [
        (Pages::RepeatsToken(2), "come twice"),
        (Pages::IgnoresPrefix, "ignores the prefix"),
        (Pages::SaysNothing, "does not say whether it is the last"),
        (Pages::Miscounts(2), "fewer keys than it says"),
        // What comes next is looked for by its name.
        (Pages::OnlyTheFirst(2), "is there, and is not listed"),
        (Pages::OnlyTheFirst(9), "is there, and is not listed"),
    ] {
        // Something else, for a server that ignores the prefix.
        server.behave(Behaviour::GOOD);
        let other = newest.objects.values().next().expect("some").clone();
        let other = litestream_multitenant::store::Body::Bytes(other.into());
        store.put_new("another", &other).await.expect("stored");
        server.behave(with(pages));
        let place = Place::new();
        let restored = restore(&store, PREFIX, NEWEST, &place.path()).await;
        let error = restored.expect_err("refused");
        assert!(error.to_string().contains(said), "{pages:?}: {error}");
        assert!(!error.is_damage() && !error.is_unknown(), "{error:?}");
        assert_eq!(place.names(), [] as [&str; 0]);
        let verified = verify_replica(&store, PREFIX, scratch.directory.path()).await;
        assert!(verified.is_err_and(|error| !error.is_damage()), "{pages:?}");
        assert!(list_moments(&store, PREFIX).await.is_err(), "{pages:?}");
    }
}

/// Nothing is concluded from a page that is full and says that it is all.
#[tokio::test]
async fn a_server_that_gives_the_first_page_again_and_again_is_refused() {
    let server = Quirky::start(Behaviour::GOOD);
    let (store, _) = stored(&server).await;
    server.behave(with(Pages::RepeatsToken(1)));
    let error = store.list("").await.expect_err("refused");
    assert!(matches!(error, StoreError::Incomplete { .. }), "{error:?}");
}

/// An object that is stored between the listing and the look for what comes next is no contradiction.
#[tokio::test]
async fn a_replica_that_grows_meanwhile_is_restored() {
    let server = Quirky::start(Behaviour::GOOD);
    let (store, newest) = stored(&server).await;
    let last = newest.states.last().expect("some").clone();
    let mut longer = newest;
    longer.commit(State {
        txid: last.txid + 1,
        time_ms: last.time_ms + 1,
        bytes: last.bytes.clone(),
    });
    server.hide_once("00000007.wal");
    longer.store(&*store, PREFIX).await;
    let place = Place::new();
    let restored = restore(&store, PREFIX, NEWEST, &place.path()).await;
    assert_eq!(restored.expect("the newest").txid, last.txid + 1);
}
