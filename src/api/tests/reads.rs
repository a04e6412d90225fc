//! The calls that only look.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;

use super::{GUID, Served};
use crate::tenant::roster::Status;

#[tokio::test]
async fn nothing_is_said_of_clients_before_it_is_ready() {
    let is_ready = Arc::new(AtomicBool::new(false));
    let api = Served::start_with(|state| state.is_ready = is_ready.clone()).await;
    api.register("", GUID);
    let health = api.get("/api/health").await;
    assert_eq!(
        (health.status, &health.json()["status"]),
        (503, &"starting".into())
    );
    for (method, path) in [
        ("GET", "/api/databases".to_owned()),
        ("GET", "/api/health/clients".to_owned()),
        ("GET", "/metrics".to_owned()),
        ("POST", "/api/databases".to_owned()),
        ("POST", format!("/api/databases/{GUID}/{GUID}/sync")),
    ] {
        let answer = api.ask(method, &path, &[]).await;
        assert_eq!(
            (answer.status, answer.code()),
            (503, "starting".to_owned()),
            "{path}"
        );
    }
    assert_eq!(api.get("/").await.status, 200, "the page may wait for it");
    is_ready.store(true, Ordering::Release);
    assert_eq!(api.get("/api/health").await.json()["status"], "ok");
    assert_eq!(api.get("/api/health/clients").await.status, 200);
}

#[tokio::test]
async fn databases_with_and_without_filters() {
    let api = Served::start().await;
    assert_eq!(
        api.get("/api/databases").await.json(),
        json!({"databases": [], "total": 0})
    );
    api.register("", GUID);
    api.register("eu", "other")
        .update(|progress| progress.status = Status::Failing);
    let answer = api.get("/api/databases").await;
    assert_eq!(answer.status, 200);
    assert!(answer.head.contains("content-type: application/json"));
    let json = answer.json();
    assert_eq!(json["total"], 2);
    assert_eq!(json["databases"][0]["dbPath"], format!("/data/{GUID}.db"));
    for (query, total) in [
        (format!("tenant={GUID}"), 1),
        ("tenant=nobody".to_owned(), 0),
        ("status=failing".to_owned(), 1),
        ("status=active&prefix=eu".to_owned(), 0),
        ("prefix=eu".to_owned(), 1),
        ("prefix=".to_owned(), 1),
    ] {
        let json = api.get(&format!("/api/databases?{query}")).await.json();
        assert_eq!(json["total"], total, "{query}");
        assert_eq!(json["databases"].as_array().expect("a list").len(), total);
    }
}

#[tokio::test]
async fn health_of_the_instance_and_of_clients() {
    let api = Served::start().await;
    let client = api.register("", GUID);
    let json = api.get("/api/health").await.json();
    assert_eq!(json["status"], "ok");
    assert_eq!(json["counts"]["active"], 1);
    assert_eq!(json["store"]["conditionalPut"], true);
    assert_eq!(json["mounts"][0]["mountpoint"], "/data");
    assert_eq!(json["version"], env!("CARGO_PKG_VERSION"));

    client.update(|progress| progress.status = Status::Failing);
    let answer = api.get("/api/health").await;
    assert_eq!(
        (answer.status, answer.json()["status"].clone()),
        (200, json!("degraded"))
    );
    *api.mount_state.lock().expect("not poisoned") = "bypassed";
    let answer = api.get("/api/health").await;
    assert_eq!(
        (answer.status, answer.json()["status"].clone()),
        (503, json!("failing"))
    );

    let all = api.get("/api/health/clients").await.json();
    let one = api.get(&format!("/api/health/clients/{GUID}")).await.json();
    let named = api.get(&format!("/api/health/clients/{GUID}/{GUID}")).await;
    assert_eq!(all, json!({"clients": [one.clone()]}));
    assert_eq!(named.json(), one);
    let none = api.get("/api/health/clients?status=gapped").await.json();
    assert_eq!(none, json!({"clients": []}));
    let unknown = api.get("/api/health/clients/nobody").await;
    assert_eq!(
        (unknown.status, unknown.code()),
        (404, "unknown_client".to_owned())
    );
}

#[tokio::test]
async fn the_same_guid_under_two_prefixes_needs_the_prefix() {
    let api = Served::start().await;
    api.register("eu", GUID);
    api.register("us", GUID);
    let path = format!("/api/health/clients/{GUID}");
    let answer = api.get(&path).await;
    assert_eq!(answer.status, 409);
    let message = answer.json()["error"]["message"].to_string();
    assert!(
        message.contains(&format!("eu/{GUID}, us/{GUID}")),
        "{message}"
    );
    let one = api.get(&format!("{path}?prefix=us")).await.json();
    assert_eq!(one["s3Prefix"], format!("us/databases/{GUID}"));
    assert_eq!(api.get(&format!("{path}?prefix=asia")).await.status, 404);
}

#[tokio::test]
async fn metrics_are_text() {
    let api = Served::start().await;
    api.register("", GUID);
    let answer = api.get("/metrics").await;
    assert!(
        answer
            .head
            .contains("content-type: text/plain; version=0.0.4")
    );
    let line = format!("litestream_databases_active{{client=\"{GUID}\"}} 1");
    assert!(
        answer.body.lines().any(|one| one == line),
        "{}",
        answer.body
    );
}

#[tokio::test]
async fn files_that_are_ignored_are_shown_to_who_asks_for_them() {
    let api = Served::start().await;
    api.register("", GUID);
    api.roster
        .ignore("/data/plain.db".into(), "no_rule: no rule takes it");
    let all = api.get("/api/databases").await.json();
    assert_eq!(all["total"], 1);
    let json = api.get("/api/databases?status=ignored").await.json();
    let expected = json!({"databases": [{
        "tenantId": null, "clientId": null, "dbName": "plain", "dbPath": "/data/plain.db", "prefix": null,
        "s3Prefix": null, "status": "ignored", "enabled": false, "retention": null,
    }], "total": 1});
    assert_eq!(json, expected);
    let json = api
        .get("/api/health/clients?status=ignored&prefix=")
        .await
        .json();
    assert_eq!(json["clients"][0]["lastError"], "no_rule: no rule takes it");
    for none in ["tenant=x", "prefix=eu"] {
        let json = api
            .get(&format!("/api/databases?status=ignored&{none}"))
            .await
            .json();
        assert_eq!(json["total"], 0, "{none}");
    }
}
