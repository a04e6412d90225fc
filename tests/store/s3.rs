//! What is particular to S3.

use std::process::Command;
use std::sync::Arc;

use litestream_multitenant::store::spec::{S3Options, Secret, StoreSpec};
use litestream_multitenant::store::{ObjectStore, StoreError};

use super::body;
use super::support::process::binary;
use super::support::s3::S3Server;

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

/// The server takes no signature that is more than a quarter of an hour off.
#[test]
fn a_machine_whose_clock_is_off_is_told_by_how_much() {
    let server = S3Server::start();
    for (clock, said) in [
        ("+20m", "s ahead of the store's"),
        ("-1d", "s behind the store's"),
    ] {
        let listed = Command::new("faketime")
            .args(["-f", clock])
            .arg(binary().get_program())
            .args([
                "list",
                "-bucket",
                &server.bucket,
                "-endpoint",
                &server.endpoint,
            ])
            .env("AWS_ACCESS_KEY_ID", &server.access_key)
            .env("AWS_SECRET_ACCESS_KEY", &server.secret_key)
            .output()
            .expect("faketime, which `tests/run` installs");
        let told = String::from_utf8_lossy(&listed.stderr);
        assert_eq!(listed.status.code(), Some(1), "{clock}: {told}");
        assert!(told.contains(said), "{clock}: {told}");
        assert!(told.contains("set this machine's clock"), "{told}");
    }
}
