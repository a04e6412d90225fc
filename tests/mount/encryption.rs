//! What the server is asked to encrypt, by what it says of each object afterwards.

use super::support::daemon::{Daemon, Options, guid};
use super::support::moto::{Moto, documented_policy};
use super::support::sqlite;

/// Stores a small database, and one whose snapshot goes up in parts; what the server says of each object.
fn stored_with(moto: &Moto, s3: &'static str) -> Vec<serde_json::Value> {
    let keys = moto.user("instance", &documented_policy("Append-only"));
    let daemon = Daemon::start(Options {
        store: Some(moto.as_store(&keys)),
        s3,
        ..Options::default()
    });
    for (client, rows) in [(guid(1), 1), (guid(2), 24)] {
        let database = daemon.database(&client);
        sqlite::query(
            &database,
            &format!(
                "PRAGMA journal_mode=WAL; CREATE TABLE t(x); \
                 WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows}) \
                 INSERT INTO t SELECT randomblob(1000000) FROM n"
            ),
        );
        daemon.sync(&client);
        let restored = daemon.restore(&client, &[], &format!("{client}.restored"));
        sqlite::assert_same(&database, &restored);
    }
    let keys = moto.keys().into_iter();
    keys.map(|key| moto.head(&key)).collect()
}

/// The server tells by the form of its tag whether an object came in parts.
fn came_in_parts(head: &serde_json::Value) -> bool {
    head["ETag"].as_str().is_some_and(|tag| tag.contains('-'))
}

#[test]
fn every_object_is_stored_as_the_configuration_has_it() {
    for (s3, algorithm, key) in [
        (
            ", sse: 'aws:kms', kmsKeyId: alias/replicas",
            Some("aws:kms"),
            Some("alias/replicas"),
        ),
        (", sse: AES256", Some("AES256"), None),
    ] {
        let moto = Moto::start();
        let heads = stored_with(&moto, s3);
        assert!(heads.len() >= 4, "{heads:?}");
        assert!(heads.iter().any(came_in_parts), "{heads:?}");
        for head in &heads {
            assert_eq!(head["ServerSideEncryption"].as_str(), algorithm, "{head}");
            let told = head["SSEKMSKeyId"].as_str();
            assert_eq!(told.is_some(), key.is_some(), "{head}");
            assert!(
                told.is_none_or(|told| told.ends_with(key.expect("one"))),
                "{head}"
            );
        }
    }
}
