//! A daemon over stores that are not AWS: what they do not know is done without and said, and other keys are taken up.

use std::fs;
use std::path::Path;
use std::time::Duration;

use super::support::daemon::{Daemon, Options, guid};
use super::support::quirky::{Batches, Behaviour, Condition, Quirky};
use super::support::sqlite;

const CREATE: &str = "PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES (1)";
const INSERT: &str = "INSERT INTO t VALUES (2)";
/// How long something may take that is waited for.
const LIMIT: Duration = Duration::from_secs(40);

fn over(server: &Quirky) -> Options {
    Options {
        store: Some(server.store()),
        ..Options::default()
    }
}

#[test]
fn a_store_without_create_only_requests_takes_everything_and_health_says_what_that_means() {
    for condition in [
        Condition::Refused(501, "NotImplemented"),
        Condition::Refused(400, "InvalidArgument"),
        Condition::AlwaysTaken,
        Condition::Ignored,
        Condition::LooksFirst,
    ] {
        let server = Quirky::start(Behaviour {
            condition,
            ..Behaviour::GOOD
        });
        let mut daemon = Daemon::start(over(&server));
        let client = guid(1);
        sqlite::query(&daemon.database(&client), CREATE);
        daemon.sync(&client);
        sqlite::query(&daemon.database(&client), INSERT);
        daemon.sync(&client);
        daemon.wait_for(LIMIT, "the probe", || {
            daemon.get("/api/health").1["store"]["conditionalPut"] == false
        });
        let health = daemon.health(&client);
        assert!(health["lastError"].is_null(), "{condition:?}: {health}");
        let restored = daemon.restore(&client, &[], "restored.db");
        sqlite::assert_same(&daemon.database(&client), &restored);
        assert!(daemon.terminate().success());
        let said = daemon.log.text();
        let warned = said.matches("does not keep two writers apart").count();
        assert_eq!(warned, 1, "{condition:?}: {said}");
    }
}

#[test]
fn what_can_be_deleted_by_nobody_is_told_in_health_and_goes_when_it_can_be() {
    let refused = Behaviour {
        batches: Batches::Refused(501, "NotImplemented"),
        refuses_deletions: true,
        ..Behaviour::GOOD
    };
    let server = Quirky::start(refused);
    let daemon = Daemon::start(Options {
        tenant_defaults: ", retention: 1s, snapshotInterval: 1s",
        ..over(&server)
    });
    let client = guid(1);
    sqlite::query(&daemon.database(&client), CREATE);
    let told = |text: &serde_json::Value| text.as_str().is_some_and(|text| text.contains("501"));
    daemon.wait_for(LIMIT, "what can't be deleted", || {
        sqlite::query(&daemon.database(&client), INSERT);
        told(&daemon.health(&client)["lastError"])
    });
    let health = daemon.health(&client);
    let error = health["lastError"].as_str().expect("text");
    assert!(error.starts_with("retain: "), "{health}");
    assert_eq!(health["status"], "active", "it is replicated all the same");
    let (status, of_all) = daemon.get("/api/health");
    assert_eq!((status, &of_all["status"]), (200, &"degraded".into()));
    assert!(told(&of_all["store"]["error"]), "{of_all}");

    server.behave(Behaviour {
        refuses_deletions: false,
        ..refused
    });
    let first = |key: &String| key.ends_with("/00000000.snapshot");
    daemon.wait_for(LIMIT, "its deletion", || {
        sqlite::query(&daemon.database(&client), INSERT);
        !server.keys().iter().any(first)
    });
    daemon.wait_health(&client, |health| health["lastError"].is_null());
    assert_eq!(daemon.get("/api/health").1["status"], "ok");
}

fn write_keys(file: &Path, access_key: &str) {
    let text = format!(
        "[default]\naws_access_key_id = {access_key}\naws_secret_access_key = a-secret-of-tests\n"
    );
    fs::write(file, text).expect("written");
}

/// A daemon whose keys stand in a file.
fn with_keys_of(file: &Path, server: &Quirky) -> Daemon {
    let store = server.store();
    let mut daemon = Daemon::prepare(Options {
        // The flags and the environment say the rest.
        config: String::new(),
        environment: vec![
            ("AWS_SHARED_CREDENTIALS_FILE", file.display().to_string()),
            ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
        ],
        ..Options::default()
    });
    daemon.add_flags(["-bucket", &store.bucket, "-endpoint", &store.endpoint].map(str::to_owned));
    daemon
}

#[test]
fn keys_that_are_replaced_in_the_shared_file_are_taken_up() {
    let server = Quirky::start(Behaviour::GOOD);
    let scratch = tempfile::tempdir().expect("a directory");
    let file = scratch.path().join("credentials");
    write_keys(&file, "AKIATEST");
    let mut daemon = with_keys_of(&file, &server);
    daemon.restart();
    let client = guid(1);
    sqlite::query(&daemon.database(&client), CREATE);
    daemon.sync(&client);

    // Refused first, and replaced then.
    server.take_key("AKIAOTHER");
    sqlite::query(&daemon.database(&client), INSERT);
    daemon.wait_health(&client, |health| health["status"] == "failing");
    server.requests();
    write_keys(&file, "AKIAOTHER");
    daemon.wait_health(&client, |health| health["status"] == "active");
    daemon.sync(&client);

    // Replaced before anything is refused: a signal is enough.
    let mark = daemon.log.mark();
    write_keys(&file, "AKIATHIRD");
    daemon.signal(libc::SIGHUP);
    daemon.wait_for(LIMIT, "the signal", || {
        daemon
            .log
            .text()
            .contains("The configuration was read again")
    });
    server.take_key("AKIATHIRD");
    sqlite::query(&daemon.database(&client), INSERT);
    daemon.sync(&client);
    let since = daemon.log.text_from(mark);
    assert!(!since.contains("did not take a segment"), "{since}");

    // Replaced, and nothing but the file tells of it.
    let mark = daemon.log.mark();
    write_keys(&file, "AKIAFOURTH");
    let mut since = String::new();
    let told = "The keys to the store were read again";
    daemon.wait_for(LIMIT, "the file's change", || {
        sqlite::query(&daemon.database(&client), INSERT);
        since = daemon.log.text_from(mark);
        since.contains(told)
    });
    let (before, _) = since.split_once(told).expect("it is there");
    assert!(!before.contains("did not take a segment"), "{since}");
    server.take_key("AKIAFOURTH");
    daemon.sync(&client);
    for key in ["AKIATEST", "AKIAOTHER", "AKIATHIRD", "AKIAFOURTH"] {
        assert!(!daemon.log.text().contains(key), "no key is ever logged");
    }
}

/// The sources of the keys are not asked again for each request of a tenant whose keys are just wrong.
#[test]
fn keys_that_stay_wrong_are_read_again_now_and_then() {
    let server = Quirky::start(Behaviour::GOOD);
    let scratch = tempfile::tempdir().expect("a directory");
    let file = scratch.path().join("credentials");
    let calls = scratch.path().join("calls");
    // A program that is asked for keys, and notes each time that it is.
    let program = scratch.path().join("keys.sh");
    let answer =
        r#"{"Version": 1, "AccessKeyId": "AKIAWRONG", "SecretAccessKey": "a-secret-of-tests"}"#;
    let script = format!("echo x >> {}; echo '{answer}'", calls.display());
    fs::write(&program, script).expect("written");
    let process = format!("[default]\ncredential_process = sh {}\n", program.display());
    fs::write(&file, process).expect("written");
    let mut daemon = with_keys_of(&file, &server);
    daemon.restart();
    let clients: Vec<_> = (1..=8).map(guid).collect();
    for client in &clients {
        sqlite::query(&daemon.database(client), CREATE);
    }
    for client in &clients {
        daemon.wait_health(client, |health| health["syncErrors"].as_u64() >= Some(8));
    }
    let asked = fs::read_to_string(&calls).expect("asked").lines().count();
    // Once each ten seconds, for those in use and those that might be, and a few at the start.
    assert!(asked <= 16, "{asked}");
}
