//! A daemon before each S3 server, through each fault in turn: what is told, and that the history stays whole.

use std::time::Duration;

use serde_json::Value;

use super::support::daemon::{Daemon, Options, S3, guid};
use super::support::proxy::{Fault, Proxy};
use super::support::servers::Server;
use super::support::sqlite;
use super::support::workload::{Workload, acknowledged, assert_has_all};

/// For so long at most it may be unknown what a store can do.
const FIND_OUT: Duration = Duration::from_secs(20);

/// What comes, and what a client's `lastError` says of it. What never answers has a test of its own, which takes long.
const FAULTS: [(Fault, &str); 7] = [
    (Fault::Answer(500, "InternalError"), "does not answer (500"),
    (Fault::Answer(503, "SlowDown"), "is throttling"),
    (Fault::Reset, "does not answer"),
    (Fault::CutAnswers, "does not answer"),
    (Fault::LoseAcknowledgement, "does not answer"),
    (Fault::LoseEveryAnswer, "does not answer"),
    (Fault::Skewed(3_600), "set this machine's clock"),
];

#[test]
fn each_server_through_each_fault() {
    for server in Server::all() {
        let proxy = Proxy::start(&server.store.endpoint, Fault::None);
        let daemon = Daemon::start(Options {
            store: Some(S3 {
                endpoint: proxy.endpoint.clone(),
                ..server.store.clone()
            }),
            ..Options::default()
        });
        let (client, acks) = (guid(1), daemon.path("acks"));
        let writing = "--seconds 80 --autocheckpoint 40 --pause-ms 10";
        let writer = Workload::start(&daemon.database(&client), &acks, writing);
        writer.wait_for_acks(20);
        daemon.sync(&client);
        // Several writers at once find it out, and nothing that is stored waits for them.
        let mut found = Value::Null;
        daemon.wait_for(FIND_OUT, "what the store can do", || {
            found = daemon.get("/api/health").1["store"]["conditionalPut"].clone();
            !found.is_null()
        });
        assert_eq!(found, server.is_create_only);
        for (fault, said) in FAULTS {
            assert_told_and_over(&daemon, &client, &proxy, fault, said);
        }
        answers_late(&daemon, &client, &proxy);
        writer.kill9();
        daemon.sync(&client);
        let restored = daemon.restore(&client, &[], "restored.db");
        assert_has_all(&restored, &acknowledged(&acks));
        sqlite::assert_same(&daemon.database(&client), &restored);
        let generations = daemon.generations(&client).len();
        assert_eq!(generations, 1, "{}: an unbroken history", server.name);
        daemon.command(&["verify"], |_| {});
    }
}

fn assert_told_and_over(daemon: &Daemon, client: &str, proxy: &Proxy, fault: Fault, said: &str) {
    let errors = || daemon.health(client)["syncErrors"].as_u64();
    let before = errors();
    proxy.set(fault);
    daemon.wait_health(client, |health| {
        let error = health["lastError"].as_str().unwrap_or_default();
        health["syncErrors"].as_u64() > before && error.contains(said)
    });
    proxy.set(Fault::None);
    daemon.sync(client);
    let health = daemon.wait_health(client, |health| health["lastError"].is_null());
    assert_eq!(health["status"], "active", "{fault:?}: {health}");
}

/// Slowness is no fault: it costs lag.
fn answers_late(daemon: &Daemon, client: &str, proxy: &Proxy) {
    let before = daemon.health(client)["syncErrors"].clone();
    proxy.set(Fault::Delay(Duration::from_millis(700)));
    daemon.wait_health(client, |health| {
        health["replicationLagMs"].as_u64() > Some(500)
    });
    assert!(proxy.met() > 0, "the fault was never met");
    proxy.set(Fault::None);
    daemon.sync(client);
    assert_eq!(daemon.health(client)["syncErrors"], before);
}
