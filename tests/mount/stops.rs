//! How an instance ends: asked to while the mount is in use, and by an unmount from outside.

use std::fs::File;
use std::process::Command;

use super::support::daemon::{Daemon, Options, guid};
use super::support::process::{Bystander, output, succeeded};
use super::support::{mounts, sqlite};

const CREATE: &str = "PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES (1)";

#[test]
fn a_busy_mount_stays_in_place_and_its_user_is_named() {
    let mut daemon = Daemon::start(Options::default());
    let client = guid(1);
    let database = daemon.database(&client);
    sqlite::query(&database, CREATE);
    let user = Bystander::with_open(&database);
    let name = format!("sleep (pid {})", user.pid());

    assert_eq!(daemon.terminate().code(), Some(1));
    let said = daemon.log.text();
    let line = said.lines().last().unwrap_or_default();
    assert!(
        line.starts_with("litestream-multitenant: ") && line.contains(&name),
        "{said}"
    );
    assert!(
        mounts::connection_at(&daemon.data()).is_some(),
        "it is never detached"
    );
    let opened = File::open(&database).expect_err("new opens fail");
    assert_eq!(opened.raw_os_error(), Some(libc::ENOTCONN), "{opened}");
    // What was committed is in the store all the same.
    let restored = daemon.restore(&client, &[], "restored.db");
    assert_eq!(sqlite::query(&restored, "SELECT x FROM t"), "1");

    let refused = output(&mut daemon.mount_command());
    let text = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{text}");
    assert!(text.contains(&name), "{text}");

    drop(user);
    daemon.restart();
    sqlite::query(&database, "INSERT INTO t VALUES (2)");
    daemon.sync(&client);
    let restored = daemon.restore(&client, &[], "again.db");
    sqlite::assert_same(&database, &restored);
    assert_eq!(daemon.generations(&client).len(), 1);
    assert!(daemon.terminate().success());
}

#[test]
fn an_unmount_from_outside_syncs_and_ends_well() {
    let mut daemon = Daemon::start(Options {
        // Long enough that the last commit waits when the unmount comes.
        sync_interval: "20s",
        ..Options::default()
    });
    let client = guid(1);
    let database = daemon.database(&client);
    sqlite::query(&database, CREATE);
    daemon.sync(&client);
    sqlite::query(&database, "INSERT INTO t VALUES (2)");
    succeeded(Command::new("umount").arg(daemon.data()));
    let status = daemon.ended();
    assert!(status.success(), "{status}\n{}", daemon.log.text());
    assert_eq!(mounts::connection_at(&daemon.data()), None);
    let restored = daemon.restore(&client, &[], "restored.db");
    sqlite::assert_same(&database, &restored);
}
