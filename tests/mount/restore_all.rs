//! `restore --all`: every client from the store alone, each where it lay below its watch path.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use super::support::daemon::{Daemon, Options, guid};
use super::support::process::{binary, output, succeeded};
use super::support::sqlite;

const CREATE: &str = "PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES (1)";

/// Runs it with a daemon's configuration, or the store alone; its exit code and what it said.
fn restore_all(daemon: &Daemon, dir: &Path, flags: &[&str], with_config: bool) -> (i32, String) {
    let mut command: Command = binary();
    command.args(["restore", "--all"]).arg(dir).args(flags);
    if with_config {
        command.arg("-config").arg(daemon.config());
    } else {
        command.arg(format!("-bucket=file://{}", daemon.path("store").display()));
    }
    let ended = output(&mut command);
    let said = [ended.stdout, ended.stderr].concat();
    let code = ended.status.code().expect("it ends by itself");
    (code, String::from_utf8(said).expect("text"))
}

fn rows(database: &Path) -> String {
    sqlite::query(database, "SELECT x FROM t")
}

#[test]
fn every_client_lies_where_it_lay_and_an_existing_file_hinders_its_own_alone() {
    let daemon = Daemon::start(Options {
        watch_paths: &["staging"],
        ..Options::default()
    });
    fs::create_dir(daemon.data().join("folder")).expect("a folder");
    let file = |n| format!("{}.db", guid(n));
    let databases = [
        (daemon.data().join(file(1)), file(1)),
        (
            daemon.data().join("folder").join(file(2)),
            format!("folder/{}", file(2)),
        ),
        (
            daemon.path("staging").join(file(1)),
            format!("staging/{}", file(1)),
        ),
    ];
    let removed = daemon.database(&guid(3));
    for (database, _) in &databases {
        sqlite::query(database, CREATE);
    }
    sqlite::query(&removed, CREATE);
    for call in ["1?prefix=", "2?", "3?", "1?prefix=staging"] {
        let (n, query) = call.split_once('?').expect("a query");
        let id = guid(n.parse().expect("a number"));
        let (status, json) = daemon.post(&format!("/api/databases/{id}/{id}/sync?{query}"));
        assert_eq!(status, 200, "{call}: {json}");
    }
    fs::remove_file(&removed).expect("removed");
    let registry = daemon.path("store/registry/removed");
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !registry.exists() {
        assert!(
            std::time::Instant::now() < deadline,
            "{}",
            daemon.log.text()
        );
        std::thread::park_timeout(std::time::Duration::from_millis(10));
    }

    let all = daemon.path("all");
    let (code, said) = restore_all(&daemon, &all, &[], false);
    assert_eq!(code, 0, "{said}");
    for (database, below) in &databases {
        sqlite::assert_same(database, &all.join(below));
    }
    assert!(!all.join(file(3)).exists(), "it was removed");

    fs::remove_file(all.join(&databases[1].1)).expect("removed");
    let (code, said) = restore_all(&daemon, &all, &[], false);
    assert_eq!(code, 1, "{said}");
    assert_eq!(said.matches("exists already").count(), 2, "{said}");
    assert!(said.contains(&format!("staging/{}", guid(1))), "{said}");
    sqlite::assert_same(&databases[1].0, &all.join(&databases[1].1));

    sqlite::query(&all.join(&databases[0].1), "DELETE FROM t");
    let (code, said) = restore_all(&daemon, &all, &["--if-missing"], false);
    assert_eq!(
        (code, rows(&all.join(&databases[0].1)).as_str()),
        (0, ""),
        "{said}"
    );
    let (code, said) = restore_all(&daemon, &all, &["--force"], false);
    assert_eq!(
        (code, rows(&all.join(&databases[0].1)).as_str()),
        (0, "1"),
        "{said}"
    );

    let (code, said) = restore_all(
        &daemon,
        &daemon.path("old"),
        &["--timestamp", "2000-01-01T00:00:00Z"],
        false,
    );
    assert_eq!(code, 1);
    assert_eq!(said.matches("the first moment is").count(), 3, "{said}");
    let on_terminal = format!(
        "{} restore --all '{}' -force -bucket=file://{}",
        binary().get_program().display(),
        all.display(),
        daemon.path("store").display()
    );
    let shown = succeeded(Command::new("script").args(["-qec", &on_terminal, "/dev/null"]));
    assert!(shown.contains("of 3 clients"), "a bar: {shown:?}");
    let (code, said) = restore_all(&daemon, &all, &["--force"], false);
    assert!(
        code == 0 && !said.contains("of 3 clients"),
        "no bar: {said}"
    );

    let (code, said) = restore_all(&daemon, &daemon.path("dry"), &["--dry-run"], false);
    assert_eq!(code, 0, "{said}");
    assert!(!daemon.path("dry").exists());
}

#[test]
fn a_database_comes_back_to_its_directory_whatever_bytes_name_it_and_to_its_owner() {
    let daemon = Daemon::start(Options::default());
    let file = |n| format!("{}.db", guid(n));
    let folders: [&[u8]; 4] = [
        b"plain 50%",
        b"t\tn\n\x1b",
        b"\xff/\xfe\x01",
        "ü%41".as_bytes(),
    ];
    let mut databases = Vec::new();
    for (n, folder) in (1..).zip(folders) {
        let folder = Path::new(OsStr::from_bytes(folder));
        let directory = daemon.data().join(folder);
        fs::create_dir_all(&directory).expect("a folder");
        let database = directory.join(file(n));
        fs::write(&database, "").expect("a file");
        for (path, mode) in [(&database, 0o640), (&directory, 0o750)] {
            fs::set_permissions(path, Permissions::from_mode(mode)).expect("its mode");
            chown(path, Some(1000 + n), Some(2000)).expect("its owner");
        }
        sqlite::query(&database, CREATE);
        daemon.sync(&guid(n));
        databases.push((database, folder.join(file(n))));
    }
    let all = daemon.path("all");
    let (code, said) = restore_all(&daemon, &all, &[], false);
    assert_eq!(code, 0, "{said}");
    assert!(
        said.ends_with("databases: 4 restored, 0 skipped, 0 failed\n"),
        "{said}"
    );
    for (n, (database, below)) in (1..).zip(&databases) {
        let restored = all.join(below);
        sqlite::assert_same(database, &restored);
        let parent = restored.parent().expect("a folder");
        for (path, mode) in [(restored.as_path(), 0o640), (parent, 0o750)] {
            let found = fs::metadata(path).expect("there");
            let has = (found.uid(), found.gid(), found.mode() & 0o7777);
            assert_eq!(has, (1000 + n, 2000, mode), "{}", path.display());
        }
    }
}

#[test]
fn a_tenant_with_a_store_of_its_own_is_named_where_that_is_not_known() {
    let mut daemon = Daemon::prepare(Options {
        discovery: ", tenantRegex: 'data/(?P<tenant>[^/]+)/'",
        ..Options::default()
    });
    let own = daemon.path("own");
    daemon.configure(format!(
        "tenants: [{{tenantId: acme, s3Config: {{bucket: 'file://{}', prefix: tenants/acme}}}}]\n",
        own.display()
    ));
    daemon.restart();
    for tenant in ["acme", "beta"] {
        fs::create_dir(daemon.data().join(tenant)).expect("a folder");
        sqlite::query(&daemon.data().join(tenant).join("orders.db"), CREATE);
        let (status, json) = daemon.post(&format!("/api/databases/{tenant}/orders/sync"));
        assert_eq!(status, 200, "{json}");
    }
    let all = daemon.path("all");
    let (code, said) = restore_all(&daemon, &all, &[], false);
    assert_eq!(code, 1, "{said}");
    assert!(
        said.contains("acme/orders: in a bucket of its tenant"),
        "{said}"
    );
    assert_eq!(rows(&all.join("beta/orders.db")), "1");
    let (code, said) = restore_all(&daemon, &all, &["--if-missing"], true);
    assert_eq!(code, 0, "{said}");
    assert_eq!(rows(&all.join("acme/orders.db")), "1");
    let restored = daemon.restore("acme/orders", &[], "one.db");
    assert_eq!(rows(&restored), "1");
    let listed = daemon.command(&["list"], |_| {});
    assert!(
        listed.contains("acme/orders") && listed.contains("beta/orders"),
        "{listed}"
    );
    let verified = daemon.command(&["verify"], |_| {});
    assert_eq!(verified.matches(" ok ").count(), 2, "{verified}");
}
