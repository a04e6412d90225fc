//! The calls that do something.

use serde_json::json;

use super::{GUID, Served};
use crate::tenant::roster::Status;

#[tokio::test]
async fn a_sync_or_a_snapshot_on_demand() {
    let api = Served::start().await;
    let client = api.register("", GUID);
    let path = format!("/api/databases/{GUID}/{GUID}/sync");
    let answer = api.ask("POST", &path, &[]).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json(), json!({"txid": 7, "durationMs": 12}));
    let snapshot = path.replace("/sync", "/snapshot");
    let answer = api.ask("POST", &snapshot, &[]).await;
    assert_eq!(
        (answer.status, answer.json()["txid"].clone()),
        (200, json!(8))
    );
    let late = api.ask("POST", &format!("{path}?timeout=0"), &[]).await;
    assert_eq!((late.status, late.code()), (504, "timed_out".to_owned()));
    client.update(|progress| progress.status = Status::Paused);
    let paused = api.ask("POST", &path, &[]).await;
    assert_eq!(
        (paused.status, paused.code()),
        (409, "not_active".to_owned())
    );
    let unknown = api.ask("POST", "/api/databases/a/b/sync", &[]).await;
    assert_eq!(unknown.status, 404);
    for timeout in ["soon", "6m", "-1s"] {
        let bad = api
            .ask("POST", &format!("{path}?timeout={timeout}"), &[])
            .await;
        assert_eq!((bad.status, bad.code()), (400, "bad_query".to_owned()));
    }
}

#[tokio::test]
async fn a_database_is_registered_by_both_forms() {
    let api = Served::start().await;
    let post = async |body: &str| api.send("POST", "/api/databases", &[], body).await;
    let orders = json!({"tenantId": "tenant-001", "dbPath": "/data/tenant-001/orders.db", "dbName": "orders"});
    let answer = post(&orders.to_string()).await;
    assert_eq!(answer.status, 201, "{}", answer.body);
    let json = answer.json();
    assert_eq!(json["clientId"], "tenant-001/orders");
    assert_eq!(json["dbPath"], "/data/tenant-001/orders.db");
    assert_eq!(post(&orders.to_string()).await.status, 200, "it is known");
    let guid = json!({"clientId": GUID}).to_string();
    // As the seed has it: curl says that it is a form.
    let form = [("Content-Type", "application/x-www-form-urlencoded")];
    let answer = api.send("POST", "/api/databases", &form, &guid).await;
    assert_eq!(answer.status, 201, "{}", answer.body);
    assert_eq!(answer.json()["s3Prefix"], format!("databases/{GUID}"));

    for (body, status, code) in [
        (
            json!({"clientId": GUID, "dbPath": "/data/other/../x.db"}),
            400,
            "bad_path",
        ),
        (
            json!({"clientId": GUID, "dbPath": "/etc/x.db"}),
            400,
            "foreign_path",
        ),
        (
            json!({"clientId": GUID, "dbPath": format!("/data/b/{GUID}.db")}),
            409,
            "path_taken",
        ),
        (json!({"clientId": "../x"}), 400, "bad_id"),
        (json!({"clientID": GUID}), 400, "bad_body"),
        (json!({"clientId": "unwritable"}), 503, "state"),
    ] {
        let answer = post(&body.to_string()).await;
        assert_eq!(
            (answer.status, answer.code()),
            (status, code.to_owned()),
            "{body}"
        );
    }
    assert_eq!(api.roster.len(), 2);
    for n in 0..8 {
        api.register("", &format!("c{n}"));
    }
    let answer = post("{\"clientId\": \"one-more\"}").await;
    assert_eq!(
        (answer.status, answer.code()),
        (422, "too_many_tenants".to_owned())
    );
}

#[tokio::test]
async fn a_body_is_bounded_and_nothing_comes_of_a_bad_one() {
    let api = Served::start().await;
    for (body, status, code) in [
        ("", 400, "bad_body"),
        ("clientId=x", 400, "bad_body"),
        ("{\"clientId\": \"x\"", 400, "bad_body"),
        (
            &format!("{{\"clientId\": \"{}\"}}", "x".repeat(70_000)),
            413,
            "too_large",
        ),
    ] {
        let answer = api.send("POST", "/api/databases", &[], body).await;
        assert_eq!((answer.status, answer.code()), (status, code.to_owned()));
    }
    assert!(api.roster.is_empty());
}

#[tokio::test]
async fn pausing_resuming_and_unregistering() {
    let api = Served::start().await;
    let client = api.register("", GUID);
    let path = format!("/api/databases/{GUID}/{GUID}");
    let put = async |body: &str| api.send("PUT", &format!("{path}/status"), &[], body).await;
    let answer = put("{\"status\": \"paused\"}").await;
    assert_eq!(
        (answer.status, answer.json()["status"].clone()),
        (200, json!("paused"))
    );
    assert_eq!(client.progress().status, Status::Paused);
    let answer = put("{\"status\": \"active\"}").await;
    assert_eq!(
        (answer.status, answer.json()["status"].clone()),
        (200, json!("active"))
    );
    for body in [
        "",
        "{}",
        "{\"status\": \"gone\"}",
        "{\"status\": \"paused\", \"x\": 1}",
    ] {
        let answer = put(body).await;
        assert_eq!(
            (answer.status, answer.code()),
            (400, "bad_body".to_owned()),
            "{body}"
        );
    }
    assert_eq!(client.progress().status, Status::Active);
    let answer = api.ask("DELETE", &path, &[]).await;
    assert_eq!((answer.status, answer.body.as_str()), (204, ""));
    assert!(api.roster.is_empty());
    assert_eq!(api.ask("DELETE", &path, &[]).await.status, 404);
    assert_eq!(put("{\"status\": \"active\"}").await.status, 404);
}

#[tokio::test]
async fn names_in_a_path_are_names_of_clients_or_of_nothing() {
    let api = Served::start().await;
    api.register("", GUID);
    let long = "x".repeat(5_000);
    for name in [
        "..",
        "%2e%2e",
        "%2E%2e%2fetc",
        "%00",
        "%0a",
        "%ef%bc%8e",
        long.as_str(),
    ] {
        let answer = api
            .ask("DELETE", &format!("/api/databases/{name}/{GUID}"), &[])
            .await;
        assert_eq!(
            (answer.status, answer.code()),
            (404, "unknown_client".to_owned()),
            "{name}"
        );
    }
    let answer = api
        .ask("DELETE", &format!("/api/databases/%ff/{GUID}"), &[])
        .await;
    assert_eq!((answer.status, answer.code()), (400, "bad_id".to_owned()));
    assert_eq!(api.roster.len(), 1);
}
