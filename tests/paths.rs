//! No way into a mount of the daemon's own: whatever takes a path is called only in files that are listed here, each with
//! the reason why none of its paths can lead there. `..` above all: above a directory of the first level it is the mount.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use regex::Regex;

/// What takes a path, by its name in the lists below.
static KINDS: LazyLock<Vec<(&str, Regex)>> = LazyLock::new(|| {
    let kinds = [
        (
            "std",
            r"\bfs::(canonicalize|copy|create_dir\w*|exists|hard_link|metadata|read|read_dir|read_link|read_to_string|remove_\w+|rename|set_permissions|symlink_metadata|write)\(|\bDirBuilder\b|\.(exists|try_exists|canonicalize|symlink_metadata|read_link|read_dir)\(\)|\bpath\w*\.(is_dir|is_file|is_symlink|metadata)\(\)",
        ),
        (
            "file",
            r"\bFile::(open|create\w*|options)\(|\bOpenOptions\b",
        ),
        (
            "rustix",
            r"(?:rustix::fs::|rfs::|^|[\s(!&=|])(access|accessat|chmod|chmodat|chown|chownat|link|linkat|lstat|mkdir|mkdirat|mknodat|openat2?|readlink|readlinkat|rename|renameat\w*|rmdir|stat|statat|statfs|statvfs|statx|symlink|symlinkat|unlink|unlinkat|utimensat|l?(get|set|list|remove)xattr\w*)\(|\b(rustix::fs|rfs)::open\(",
        ),
        ("proc", r#""/proc\b"#),
        ("above", r#""\.\."|\bParentDir\b"#),
        ("temporary", r"\b(tempfile|tempdir)(_in)?\(|\btemp_dir\("),
        ("sqlite", r"\bConnection::open"),
        (
            "program",
            r"\bCommand::new\(|\bcurrent_exe\(|\b(set_)?current_dir\(",
        ),
        (
            "mount",
            r"\brustix::mount::\w+\(|(?:^|[\s(!&=|])(open_tree|move_mount|unmount|umount2?|mount)\(",
        ),
        (
            "libc",
            r"\blibc::(open\w*|stat|lstat|fstatat\w*|statfs\w*|statvfs\w*|access|faccessat|readlink\w*|realpath|chdir|execv\w*|name_to_handle_at|inotify_add_watch|fanotify_mark|mount|umount2?|rename\w*|unlink\w*|mkdir\w*)\(|\bSYS_(mount_setattr|openat2?|statx|open_tree)\b",
        ),
        ("watch", r"\badd_watch\("),
        (
            "socket",
            r"\bUnix(Datagram|Stream|Listener)::(bind|connect|pair|unbound)|\bfrom_pathname\(",
        ),
    ];
    let regex = |(name, pattern)| (name, Regex::new(pattern).expect("a regex"));
    kinds.map(regex).into()
});

/// The head of a function, which calls nothing by its name.
static FUNCTION: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\bfn \w+").expect("a regex"));

/// A single name below a descriptor, or a path without links and without `..`, by `paths/beneath.rs`.
const BENEATH: &str = "from a descriptor of the directory underneath";
/// The state directory, reached from the directory underneath, or without links from where it lay at the start, which is no watch path.
const STATE: &str = "below the state directory";
/// The kernel's own file systems: neither asks any other.
const KERNEL: &str = "in /proc, /sys and /dev alone, of which no text is followed";
/// A path that is looked at step by step, by `paths/reach.rs`.
const REACHED: &str = "walked, and refused where it leads into a mount of ours";
/// Nothing is mounted in that process, or not yet.
const NO_MOUNT: &str = "where nothing is mounted by the process";
/// Outside the watch paths by `config/outside.rs`.
const OUTSIDE: &str = "in the directory of temporary files, which is no watch path";

/// Named by the environment, and outside the watch paths by `config/outside.rs`.
const CERTIFICATES: &str = "in a file of certificates, which is below no watch path";

/// In a process of its own, which may wait for the mount.
const CHILD: &str = "in a child process";
/// What is mounted over, which asks nobody: `umount` does not look into it; and the device that serves it.
const UNMOUNT: &str = "the mount point itself, to mount and to unmount, and /dev/fuse";
/// It is never resolved.
const REFUSED: &str = "only told from other names";
/// Single names, from the store's directory, to which `paths/reach.rs` has walked.
const FOLDER: &str = "from a descriptor of the store's directory";
/// By `config/outside.rs`.
const API_SOCKET: &str = "the API's socket, by its path without links, below no watch path";
const SOCKET: &str = "a socket of the system's own, /dev/log or the supervisor's";
const FAULT: &str = "in debug builds, where a test wants it";

/// File, what it calls, and why it may.
const ALLOWED: &[(&str, &str, &str)] = &[
    ("paths/beneath.rs", "above", BENEATH),
    ("paths/beneath.rs", "libc", BENEATH),
    ("paths/beneath.rs", "mount", BENEATH),
    ("paths/beneath.rs", "rustix", BENEATH),
    ("paths/reach.rs", "above", REACHED),
    ("paths/reach.rs", "proc", REACHED),
    ("paths/reach.rs", "rustix", REACHED),
    ("tenant/discovery.rs", "above", REFUSED),
    ("config/units.rs", "above", REFUSED),
    ("format/registry.rs", "above", REFUSED),
    ("api/validation.rs", "above", REFUSED),
    ("api/listen.rs", "socket", API_SOCKET),
    ("api/listen.rs", "std", API_SOCKET),
    ("cli/client.rs", "above", REFUSED),
    ("cli/ask.rs", "socket", NO_MOUNT),
    ("store/spec.rs", "above", REFUSED),
    ("store/mod.rs", "above", REFUSED),
    ("capture/backing.rs", "above", REFUSED),
    ("mount/directories.rs", "above", REFUSED),
    ("store/directory/folder.rs", "above", REFUSED),
    ("store/directory/folder.rs", "rustix", FOLDER),
    ("store/directory.rs", "rustix", FOLDER),
    ("store/directory.rs", "file", STATE),
    ("store/metered.rs", "std", STATE),
    ("store/s3/upload.rs", "std", STATE),
    ("store/s3/connect.rs", "std", CERTIFICATES),
    ("daemon/exec.rs", "program", CHILD),
    ("daemon/supervisor.rs", "socket", SOCKET),
    ("cli/syslog.rs", "socket", SOCKET),
    ("daemon.rs", "temporary", OUTSIDE),
    ("restore/verify.rs", "file", OUTSIDE),
    ("restore/check.rs", "proc", CHILD),
    ("restore/check.rs", "program", CHILD),
    ("restore/check.rs", "std", OUTSIDE),
    ("restore/checker.rs", "sqlite", CHILD),
    ("restore/verify.rs", "temporary", OUTSIDE),
    ("restore/mod.rs", "temporary", OUTSIDE),
    ("restore/fetch.rs", "temporary", OUTSIDE),
    ("daemon/start.rs", "proc", STATE),
    ("capture/disk.rs", "file", STATE),
    ("capture/disk.rs", "std", STATE),
    ("capture/spool.rs", "rustix", STATE),
    ("capture/spool.rs", "std", STATE),
    ("capture/page_sums.rs", "file", STATE),
    ("capture/history.rs", "file", STATE),
    ("capture/merge.rs", "file", STATE),
    ("capture/state.rs", "sqlite", STATE),
    ("capture/image.rs", "temporary", STATE),
    ("capture/copy.rs", "temporary", STATE),
    ("capture/state_folder.rs", "above", REFUSED),
    ("capture/state_folder.rs", "proc", STATE),
    ("capture/state_folder.rs", "rustix", STATE),
    ("capture/state_folder.rs", "std", STATE),
    ("capture/locks.rs", "file", KERNEL),
    ("capture/locks.rs", "proc", KERNEL),
    ("capture/watch.rs", "proc", BENEATH),
    ("capture/watch.rs", "watch", BENEATH),
    ("mount/attributes.rs", "libc", BENEATH),
    ("mount/attributes.rs", "proc", BENEATH),
    ("mount/attributes.rs", "rustix", BENEATH),
    ("mount/in_use.rs", "proc", BENEATH),
    ("mount/in_use.rs", "rustix", BENEATH),
    ("mount/in_use.rs", "std", BENEATH),
    ("mount/adoption.rs", "rustix", BENEATH),
    ("mount/files.rs", "rustix", BENEATH),
    ("mount/names.rs", "proc", BENEATH),
    ("mount/names.rs", "rustix", BENEATH),
    ("mount/passthrough.rs", "rustix", BENEATH),
    ("mount/mountinfo.rs", "proc", KERNEL),
    ("mount/mountinfo.rs", "std", KERNEL),
    ("mount/standstill.rs", "file", KERNEL),
    ("mount/standstill.rs", "proc", KERNEL),
    ("mount/standstill.rs", "std", KERNEL),
    ("mount/holders.rs", "proc", KERNEL),
    ("mount/holders.rs", "rustix", KERNEL),
    ("mount/holders.rs", "std", KERNEL),
    ("mount/lookout.rs", "proc", KERNEL),
    ("mount/lookout.rs", "std", KERNEL),
    ("mount/set_id.rs", "proc", KERNEL),
    ("mount/set_id.rs", "std", KERNEL),
    ("mount/answer.rs", "libc", CHILD),
    ("mount/preconditions.rs", "rustix", NO_MOUNT),
    ("mount/preconditions.rs", "std", NO_MOUNT),
    ("mount/fusermount.rs", "mount", UNMOUNT),
    ("mount/fusermount.rs", "program", UNMOUNT),
    ("mount/fusermount.rs", "socket", UNMOUNT),
    ("mount/fusermount.rs", "std", UNMOUNT),
    ("mount/session.rs", "mount", UNMOUNT),
    ("mount/session.rs", "rustix", UNMOUNT),
    ("fault.rs", "std", FAULT),
    ("cli/restore_all.rs", "std", NO_MOUNT),
    ("cli/restore.rs", "std", NO_MOUNT),
    ("cli/accounts.rs", "std", NO_MOUNT),
    ("cli/demo.rs", "sqlite", NO_MOUNT),
    ("cli/demo.rs", "std", NO_MOUNT),
    ("cli/demo.rs", "temporary", NO_MOUNT),
    ("cli/child.rs", "mount", NO_MOUNT),
    ("cli/child.rs", "program", NO_MOUNT),
    ("cli/verify.rs", "temporary", NO_MOUNT),
    ("cli/background.rs", "file", NO_MOUNT),
    ("cli/background.rs", "program", NO_MOUNT),
    ("restore/describe.rs", "above", REFUSED),
    ("restore/destination.rs", "file", NO_MOUNT),
    ("restore/destination.rs", "proc", NO_MOUNT),
    ("restore/destination.rs", "rustix", NO_MOUNT),
    ("restore/owner.rs", "rustix", NO_MOUNT),
    ("restore/output.rs", "proc", NO_MOUNT),
    ("restore/output.rs", "rustix", NO_MOUNT),
    ("restore/output.rs", "std", NO_MOUNT),
];

/// What is called in the code of a file that is no test.
fn called(text: &str) -> BTreeSet<&'static str> {
    let code = text
        .split("\n#[cfg(test)]\nmod tests")
        .next()
        .unwrap_or_default();
    let lines = code
        .lines()
        .filter(|line| !line.trim_start().starts_with("use "));
    let mut called = BTreeSet::new();
    for line in lines {
        let line = line.split("//").next().unwrap_or_default();
        let line = FUNCTION.replace_all(line, "");
        let found = KINDS.iter().filter(|(_, kind)| kind.is_match(&line));
        called.extend(found.map(|(name, _)| *name));
    }
    called
}

/// Only in tests, by what `mod` has above it.
fn is_of_tests(path: &str) -> bool {
    const FILES: [&str; 2] = ["capture/model.rs", "capture/recorder.rs"];
    path.starts_with("simulation/")
        || path.ends_with("/tests.rs")
        || path.contains("/tests/")
        || FILES.contains(&path)
}

fn sources(directory: &Path, root: &Path, found: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, root, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let below = path.strip_prefix(root).expect("below the root");
            let text = fs::read_to_string(&path).expect("text");
            found.push((below.to_str().expect("text").to_owned(), text));
        }
    }
}

#[test]
fn paths_are_taken_where_none_can_lead_into_a_mount_of_ours() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    sources(&root, &root, &mut found);
    let mut offences = Vec::new();
    let mut unused: BTreeSet<_> = ALLOWED
        .iter()
        .map(|(file, kind, _)| (*file, *kind))
        .collect();
    for (path, text) in found.iter().filter(|(path, _)| !is_of_tests(path)) {
        for kind in called(text) {
            let entry = ALLOWED
                .iter()
                .find(|(file, listed, _)| file == path && *listed == kind);
            match entry {
                Some((file, listed, _)) => drop(unused.remove(&(*file, *listed))),
                None => offences.push(format!(
                    "src/{path}: `{kind}` takes a path: say why it can't lead into a mount of ours"
                )),
            }
        }
    }
    offences.extend(
        unused
            .iter()
            .map(|(file, kind)| format!("src/{file}: `{kind}` is listed and not called")),
    );
    assert!(offences.is_empty(), "\n{}", offences.join("\n"));
}

#[test]
fn each_kind_of_call_is_seen() {
    let planted = [
        ("std", "let path = std::fs::canonicalize(given)?;"),
        ("std", "if default.exists() {"),
        ("std", "tokio::fs::metadata(path).await"),
        ("std", "match path.is_dir() {"),
        ("file", "let file = File::open(path)?;"),
        ("file", "std::fs::OpenOptions::new()"),
        ("rustix", "rustix::fs::statat(directory, name, flags)"),
        ("rustix", "rfs::open(path, flags, mode)?"),
        ("rustix", "let known = statx(CWD, link, flags, mask)?;"),
        ("rustix", "rustix::fs::statvfs(&self.directory)"),
        ("rustix", "rustix::fs::getxattr(path, name, &mut value)?"),
        ("proc", "format!(\"/proc/self/fd/{number}\")"),
        ("above", "statat(&directory, \"..\", flags)"),
        ("temporary", "tempfile::tempfile_in(&scratch)"),
        ("temporary", "std::env::temp_dir()"),
        (
            "sqlite",
            "Connection::open_with_flags_and_vfs(path, flags, vfs)?",
        ),
        ("program", "Command::new(program)"),
        ("mount", "rustix::mount::unmount(path, flags)"),
        ("libc", "unsafe { libc::statfs(path, &mut answer) }"),
        ("watch", "inotify::add_watch(&self.events, path, flags)?"),
        ("socket", "UnixStream::connect(path)"),
    ];
    for (kind, code) in planted {
        assert!(called(code).contains(kind), "{kind}: {code}");
    }
    for (kind, _) in KINDS.iter() {
        assert!(planted.iter().any(|(planted, _)| planted == kind), "{kind}");
    }
    let harmless = [
        "// std::fs::canonicalize(path)",
        "use std::fs::{self, File};",
        "rustix::fs::fstat(&file)?",
        "fn rename(from: &Path, to: &Path)",
        "self.files.link(node, entry)",
        "one.mount()",
        "rustix::fs::fstatvfs(&self.backing)?",
        "self.files.read_directory(handle, offset, add)",
        "fn f() {}\n#[cfg(test)]\nmod tests { fn g() { std::fs::read(x) } }",
    ];
    for code in harmless {
        assert!(called(code).is_empty(), "{code}");
    }
}
