//! Who may ask what of the API where there is no token: each user of the machine for itself.

use std::fs;
use std::os::unix::fs::{FileTypeExt, chown};
use std::path::Path;
use std::process::Command;

use serde_json::json;

use super::support::daemon::{Daemon, Options, guid};
use super::support::process::{output, succeeded};
use super::support::sqlite;

const CREATE: &str = "PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES ('secret')";
/// The user who owns the database's file, and one who has nothing to do with it.
const OWNER: u32 = 65_532;
const STRANGER: u32 = 65_533;

/// The status and the body of an answer to a user.
fn ask(user: u32, address: &str, method: &str, path: &str, body: &str) -> (u16, Vec<u8>) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/ask.py");
    let mut command = Command::new("python3");
    command.arg(script);
    command.args([&user.to_string(), address, method, path, body]);
    let answered = output(&mut command);
    let errors = String::from_utf8_lossy(&answered.stderr);
    assert!(answered.status.success(), "{errors}");
    let end = answered.stdout.iter().position(|b| *b == b'\n');
    let (status, rest) = answered.stdout.split_at(end.expect("a status"));
    let status = String::from_utf8_lossy(status).parse().expect("a number");
    (status, rest[1..].to_vec())
}

fn client_of_owner(daemon: &Daemon) -> String {
    let client = guid(1);
    let database = daemon.database(&client);
    sqlite::query(&database, CREATE);
    daemon.sync(&client);
    chown(&database, Some(OWNER), Some(OWNER)).expect("given away");
    client
}

/// What each may, over this address.
fn assert_each_has_his_own(daemon: &Daemon, address: &str, client: &str) {
    let route = format!("/api/databases/{client}/{client}");
    let paused = r#"{"status":"paused"}"#;
    for (user, method, path, body, expected) in [
        (STRANGER, "GET", format!("{route}/download"), "", 403),
        (OWNER, "GET", format!("{route}/download"), "", 403),
        (STRANGER, "PUT", format!("{route}/status"), paused, 403),
        (STRANGER, "DELETE", route.clone(), "", 403),
        (STRANGER, "GET", format!("{route}/moments"), "", 200),
        (STRANGER, "GET", "/api/health".to_owned(), "", 200),
        (OWNER, "PUT", format!("{route}/status"), paused, 200),
        (
            OWNER,
            "PUT",
            format!("{route}/status"),
            r#"{"status":"active"}"#,
            200,
        ),
    ] {
        let (status, answer) = ask(user, address, method, &path, body);
        let text = String::from_utf8_lossy(&answer);
        assert_eq!(status, expected, "{user} {method} {path}: {text}");
        if status == 403 {
            assert!(
                text.contains("not_allowed") && text.contains("apiToken"),
                "{text}"
            );
        }
    }
    let hidden = daemon.data().join("bank/hidden.dat");
    let guessed = daemon.data().join(format!("{}.db", guid(7)));
    fs::create_dir_all(hidden.parent().expect("a folder")).expect("a folder");
    fs::copy(daemon.database(client), &hidden).expect("copied");
    let (own, owned) = (daemon.data().join("own"), daemon.data().join("own/x.dat"));
    fs::create_dir_all(&own).expect("a folder");
    chown(&own, Some(OWNER), Some(OWNER)).expect("given away");
    for (user, body, expected) in [
        (STRANGER, json!({"tenantId": "evil", "dbPath": hidden}), 403),
        (
            STRANGER,
            json!({"tenantId": "evil", "dbPath": guessed}),
            403,
        ),
        (STRANGER, json!({"clientId": guid(8)}), 403),
        (STRANGER, json!({"tenantId": "evil", "dbPath": owned}), 403),
        (
            OWNER,
            json!({"clientId": guid(9), "dbPath": own.join(format!("{}.db", guid(9))), "s3Prefix": "elsewhere/x"}),
            403,
        ),
        (OWNER, json!({"tenantId": "mine", "dbPath": owned}), 201),
        (0, json!({"tenantId": "bank", "dbPath": hidden}), 201),
    ] {
        let (status, answer) = ask(user, address, "POST", "/api/databases", &body.to_string());
        let text = String::from_utf8_lossy(&answer);
        assert_eq!(status, expected, "{user} {body}: {text}");
    }
    let (status, downloaded) = ask(0, address, "GET", &format!("{route}/download"), "");
    assert_eq!(status, 200);
    let file = daemon.path("downloaded.db");
    fs::write(&file, downloaded).expect("written");
    assert_eq!(sqlite::query(&file, "SELECT x FROM t"), "secret");
    let (status, _) = ask(OWNER, address, "DELETE", &route, "");
    assert_eq!(status, 204);
}

#[test]
fn without_a_token_each_user_has_what_is_his() {
    let daemon = Daemon::start(Options::default());
    let client = client_of_owner(&daemon);
    assert_each_has_his_own(&daemon, &daemon.api().to_string(), &client);
}

#[test]
fn a_socket_of_the_machine_is_listened_on() {
    let mut daemon = Daemon::prepare(Options::default());
    let socket = daemon.path("api.sock");
    let address = format!("unix:{}", socket.display());
    daemon.add_flags(["-listen".to_owned(), address.clone()]);
    // Others have to reach the socket.
    succeeded(Command::new("chmod").arg("755").arg(daemon.path(".")));
    for killed in [true, false] {
        daemon.restart();
        let kind = fs::symlink_metadata(&socket).expect("there").file_type();
        assert!(kind.is_socket());
        assert_eq!(ask(STRANGER, &address, "GET", "/api/health", "").0, 200);
        let status = daemon.command(&["status", "-listen", &address], |_| {});
        assert!(status.contains("CLIENT"), "{status}");
        match killed {
            true => daemon.kill9(),
            false => assert!(daemon.terminate().success()),
        }
        assert_eq!(socket.exists(), killed, "it goes in order");
    }
    daemon.restart();
    let client = guid(1);
    let database = daemon.database(&client);
    sqlite::query(&database, CREATE);
    chown(&database, Some(OWNER), Some(OWNER)).expect("given away");
    let sync = format!("/api/databases/{client}/{client}/sync");
    assert_eq!(ask(OWNER, &address, "POST", &sync, "").0, 200);
    assert_each_has_his_own(&daemon, &address, &client);
    let second = output(&mut daemon.mount_command());
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(
        !second.status.success() && said.trim_end().lines().count() == 1,
        "{said}"
    );
    assert!(socket.exists(), "it is the first one's");
}
