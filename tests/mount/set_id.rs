//! Set-id bits after each kind of change, as in a plain directory; and what is said of refused clients at the end.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use super::support::daemon::{Daemon, Options, Served, guid};
use super::support::process::succeeded;
use super::support::sqlite;

/// Prints the mode of a file after each operation, for each mode, group and user.
const MATRIX: &str = "
import os, sys
directory = sys.argv[1]
USERS = {'owner': (1000, 1000, []), 'member': (1000, 1000, [2000]), 'stranger': (4000, 4000, []),
    'fellow': (4000, 4000, [2000]), 'root': (0, 0, [])}
MODES = [0o644, 0o2666, 0o2676, 0o4666, 0o6666, 0o6777, 0o2777, 0o4777, 0o1666, 0o6676]
def write(path, f): os.pwrite(f, b'y', 0)
def append(path, f): os.close((lambda g: (os.write(g, b'z'), g)[1])(os.open(path, os.O_WRONLY | os.O_APPEND)))
def truncate(path, f): os.truncate(path, 10)
def ftruncate(path, f): os.ftruncate(f, 10)
def open_truncate(path, f): os.close(os.open(path, os.O_WRONLY | os.O_TRUNC))
def fallocate(path, f): os.posix_fallocate(f, 0, 8192)
def give_group(path, f): os.chown(path, -1, os.getegid())
def give_nobody(path, f): os.chown(path, -1, -1)
def copy(path, f):
    from_source = os.open(source, os.O_RDONLY)
    os.copy_file_range(from_source, f, 4096, 0, 0)
    os.close(from_source)
OPERATIONS = [write, append, truncate, ftruncate, open_truncate, fallocate, give_group, give_nobody, copy]
source = os.path.join(directory, 'source')
with open(source, 'wb') as file:
    file.write(b's' * 4096)
os.chmod(source, 0o644)
for user, (uid, gid, groups) in USERS.items():
    paths = []
    for group in (1000, 2000, 3000):
        for mode in MODES:
            for operation in OPERATIONS:
                # The kernel does not tell the mount that somebody else asked for that.
                if operation is give_nobody and uid not in (0, 1000):
                    continue
                path = os.path.join(directory, f'{user}-{group}-{mode:o}-{operation.__name__}')
                with open(path, 'wb') as file:
                    file.write(b'x' * 100)
                os.chown(path, 1000, group)
                os.chmod(path, mode)
                paths.append((path, operation))
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.setgroups(groups); os.setresgid(gid, gid, gid); os.setresuid(uid, uid, uid)
        for path, operation in paths:
            f, outcome = None, 'done'
            try:
                f = os.open(path, os.O_RDWR)
                os.fstat(f)
                operation(path, f)
            except OSError as error:
                outcome = f'error {error.errno}'
            print(os.path.basename(path), outcome, f'{os.stat(path).st_mode:o}')
            if f is not None:
                os.close(f)
        sys.stdout.flush()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
";

fn matrix(directory: &Path) -> Vec<String> {
    fs::set_permissions(directory, fs::Permissions::from_mode(0o777)).expect("a mode");
    let mut command = Command::new("python3");
    command.args(["-c", MATRIX]).arg(directory);
    command.stderr(Stdio::inherit());
    succeeded(&mut command).lines().map(str::to_owned).collect()
}

#[test]
fn set_id_bits_go_and_stay_as_in_a_plain_directory() {
    for served in Served::ALL {
        let daemon = Daemon::start(Options::served(served));
        let scratch = daemon
            .path("data")
            .parent()
            .expect("a directory")
            .to_owned();
        fs::set_permissions(scratch, fs::Permissions::from_mode(0o755)).expect("a mode");
        let plain = daemon.path("plain");
        fs::create_dir(&plain).expect("a directory");
        let through = daemon.data().join("through");
        fs::create_dir(&through).expect("a directory");
        let (expected, found) = (matrix(&plain), matrix(&through));
        assert!(expected.len() > 1000, "{}", expected.len());
        let differ: Vec<_> = expected
            .iter()
            .zip(&found)
            .filter(|(expected, found)| expected != found)
            .collect();
        assert!(
            differ.is_empty() && expected.len() == found.len(),
            "{served:?}: {} differ: {differ:#?}",
            differ.len()
        );
    }
}

#[test]
fn refused_clients_are_not_counted_as_not_stored() {
    let mut daemon = Daemon::start(Options {
        config: "limits: {maxTenantsPerInstance: 1}".to_owned(),
        ..Options::default()
    });
    for n in 1..4 {
        let sql = "PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES (1)";
        sqlite::query(&daemon.database(&guid(n)), sql);
    }
    daemon.wait_health(&guid(3), |health| health["status"] == "refused");
    sqlite::query(&daemon.database(&guid(3)), "INSERT INTO t VALUES (2)");
    assert!(daemon.terminate().success());
    let log = daemon.log.text();
    assert!(!log.contains("Not everything was stored"), "{log}");
}
