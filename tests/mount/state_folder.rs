//! The state folder is used only where it is this instance's alone: in a watch path that others write to, anybody may have
//! made it.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;

use super::support::daemon::{Daemon, Options};
use super::support::mounts;
use super::support::process::output;

const FOLDER: &str = ".litestream-multitenant";

fn refused(daemon: &Daemon, what: &str) {
    let refused = output(&mut daemon.mount_command());
    let said = String::from_utf8_lossy(&refused.stderr);
    let last = said.lines().last().unwrap_or_default();
    assert_eq!(refused.status.code(), Some(2), "{said}");
    let path = daemon.data().join(FOLDER);
    let path = path.to_str().expect("text");
    assert!(
        last.contains(path) && last.contains(what) && last.contains("-state-dir"),
        "{last}"
    );
    assert_eq!(mounts::connection_at(&daemon.data()), None);
}

fn modes(directory: &Path) -> Vec<(String, u32)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("a folder") {
        let path = entry.expect("an entry").path();
        let metadata = path.symlink_metadata().expect("there");
        found.push((path.display().to_string(), metadata.mode() & 0o7777));
        if metadata.is_dir() {
            found.extend(modes(&path));
        }
    }
    found
}

#[test]
fn a_folder_or_a_link_that_somebody_else_made_is_neither_followed_nor_used() {
    let mut daemon = Daemon::prepare(Options::default());
    fs::set_permissions(daemon.data(), Permissions::from_mode(0o777)).expect("open to all");
    let (folder, victim) = (daemon.data().join(FOLDER), daemon.path("victim"));
    fs::create_dir(&victim).expect("a folder");
    fs::write(victim.join("important.tmp"), "content").expect("a file");

    symlink(&victim, &folder).expect("a link");
    refused(&daemon, "symbolic link");
    fs::remove_file(&folder).expect("removed");
    fs::create_dir(&folder).expect("a folder");
    symlink(&victim, folder.join("spool")).expect("a link");
    refused(&daemon, "spool");
    chown(&folder, Some(1234), Some(1234)).expect("given");
    refused(&daemon, "belongs to uid 1234");
    assert_eq!(
        fs::read_dir(&victim).expect("read").count(),
        1,
        "nothing was made or removed there"
    );

    fs::remove_dir_all(&folder).expect("removed");
    daemon.restart();
    assert!(daemon.terminate().success());
    let found = modes(&folder);
    assert!(found.len() > 1, "{found:?}");
    assert!(found.iter().all(|(_, mode)| mode & 0o077 == 0), "{found:?}");
    fs::set_permissions(&folder, Permissions::from_mode(0o777)).expect("changed");
    refused(&daemon, "0777");
    fs::set_permissions(&folder, Permissions::from_mode(0o700)).expect("changed");
    daemon.restart();
}
