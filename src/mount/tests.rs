//! The file system over a scratch directory, without a mount: each request is made as the kernel would.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use rustix::io::Errno;

use super::attributes::{AttributeChange, Attributes, Extended, NewTime};
use super::credentials::Caller;
use super::directories::Room;
use super::error::{OperationError, OperationResult};
use super::files::{Creation, Opened};
use super::handles::Service;
use super::inodes::{NodeId, ROOT};
use super::names::EntryName;
use super::passthrough::FileSystem;
use super::set_id::Changer;
use crate::capture::spool::SpoolLimits;
use crate::capture::{Capture, Database, LogPassing, STATE_FOLDER, Settings};
use crate::tenant::discovery::{Rules, RulesWritten};
use crate::tenant::roster::Roster;

const GUID: &str = "12345678-1234-5678-9abc-123456789012";
const UNPRIVILEGED: Changer = Changer::Unprivileged(Caller {
    uid: 7,
    gid: 7,
    pid: 0,
});
const ROOT_CALLER: Caller = Caller {
    uid: 0,
    gid: 0,
    pid: 0,
};
const DEADLINE: Duration = Duration::from_secs(10);

/// A file system without a mount, over a scratch directory.
struct Scratch {
    files: Arc<FileSystem<u32>>,
    directory: tempfile::TempDir,
    _state: tempfile::TempDir,
    _dirty: tokio::sync::mpsc::Receiver<Arc<Database>>,
}

fn scratch() -> Scratch {
    let directory = tempfile::tempdir().expect("a scratch directory");
    let state = tempfile::tempdir().expect("a state directory");
    let open = std::fs::File::open(directory.path()).expect("the directory");
    let backing = Arc::new(OwnedFd::from(open));
    let settings = Settings {
        gate_timeout: DEADLINE,
        log_passing: LogPassing::Never,
        spool: SpoolLimits {
            bytes: 1 << 20,
            reserve: crate::capture::reserve::SpoolReserve::Bytes(0),
        },
    };
    let rules = Rules::new(RulesWritten::default_for(directory.path())).expect("rules");
    let roster = Arc::new(Roster::new(10));
    let (capture, dirty) = Capture::start(
        backing.clone(),
        directory.path(),
        state.path(),
        settings,
        rules,
        roster,
        10,
    )
    .expect("a capture");
    Scratch {
        files: Arc::new(FileSystem::new(backing, capture).expect("a file system")),
        directory,
        _state: state,
        _dirty: dirty,
    }
}

impl Scratch {
    fn look_up(&self, parent: NodeId, name: &str) -> Option<NodeId> {
        let found = self.files.look_up(parent, OsStr::new(name));
        found.expect("looked up").map(|entry| entry.node)
    }

    fn found(&self, parent: NodeId, name: &str) -> NodeId {
        self.look_up(parent, name).expect("it is there")
    }

    fn write_file(&self, path: &str, content: &str) {
        std::fs::write(self.directory.path().join(path), content).expect("written");
    }

    fn create(&self, name: &str) -> (NodeId, Opened<u32>) {
        let creation = Creation {
            caller: ROOT_CALLER,
            umask: 0o022,
            mode: libc::S_IFREG | 0o666,
        };
        let name = OsStr::new(name);
        let (entry, opened) = self
            .files
            .create(ROOT, name, creation, libc::O_RDWR, |_| Ok(7))
            .expect("created");
        (entry.node, opened)
    }

    fn size(&self, node: NodeId) -> OperationResult<i64> {
        self.files
            .attributes(node, None)
            .map(|shown| shown.stat.st_size)
    }
}

/// Waits for the answer of an operation that may be given by another thread.
fn answer<T: Send + 'static>(ask: impl FnOnce(Box<dyn FnOnce(T) + Send>)) -> T {
    let (sender, receiver) = mpsc::channel();
    ask(Box::new(move |answer| {
        sender.send(answer).expect("somebody waits");
    }));
    receiver.recv_timeout(DEADLINE).expect("an answer in time")
}

fn unlink(scratch: &Scratch, name: &str) -> OperationResult<()> {
    let entry = EntryName {
        parent: ROOT,
        name: OsStr::new(name),
    };
    answer(|done| scratch.files.unlink(entry, done))
}

fn rename(scratch: &Scratch, from: &str, to: &str, flags: u32) -> OperationResult<()> {
    let entry = |name| EntryName { parent: ROOT, name };
    let (from, to) = (OsStr::new(from), OsStr::new(to));
    answer(|done| scratch.files.rename(entry(from), entry(to), flags, done))
}

fn change(scratch: &Scratch, node: NodeId, size: u64) -> OperationResult<Attributes> {
    let change = AttributeChange {
        caller: ROOT_CALLER,
        mode: Some(0o600),
        uid: None,
        gid: None,
        size: Some(size),
        atime: Some(NewTime::Now),
        mtime: Some(NewTime::At {
            seconds: 17,
            nanoseconds: 4,
        }),
    };
    answer(|done| scratch.files.change_attributes(node, None, change, done))
}

#[test]
fn no_symbolic_link_leads_out_of_the_directory() {
    let scratch = scratch();
    let path = scratch.directory.path();
    symlink("/etc", path.join("out")).expect("linked");
    let link = scratch.found(ROOT, "out");
    let beyond = scratch.files.look_up(link, OsStr::new("passwd"));
    assert_eq!(beyond.expect_err("a link"), Errno::NOTDIR.into());

    // A directory that is exchanged for a link past the mount, after the kernel was told of it.
    std::fs::create_dir(path.join("d")).expect("made");
    scratch.write_file("d/passwd", "inside");
    let directory = scratch.found(ROOT, "d");
    let file = scratch.found(directory, "passwd");
    std::fs::rename(path.join("d"), path.join("elsewhere")).expect("renamed");
    symlink("/etc", path.join("d")).expect("linked");
    assert_eq!(scratch.size(file), Err(OperationError::Stale));
    let listed = scratch.files.look_up(directory, OsStr::new("passwd"));
    assert_eq!(listed.expect_err("moved away"), OperationError::Stale);
}

#[test]
fn an_unlinked_file_can_be_read_and_changed_until_it_is_forgotten() {
    let scratch = scratch();
    scratch.write_file("x", "content");
    let node = scratch.found(ROOT, "x");
    unlink(&scratch, "x").expect("unlinked");
    assert_eq!(scratch.look_up(ROOT, "x"), None);
    let changed = change(&scratch, node, 3).expect("changed").stat;
    let seen = (changed.st_nlink, changed.st_size, changed.st_mode & 0o7777);
    assert_eq!(seen, (0, 3, 0o600));
    assert_eq!((changed.st_mtime, changed.st_mtime_nsec), (17, 4));
    // Its number is not given to another file as long as the kernel knows it.
    scratch.write_file("y", "");
    assert_ne!(scratch.found(ROOT, "y"), node);
    scratch.files.forget(node, 1);
    assert_eq!(scratch.size(node), Err(OperationError::Stale));
}

#[test]
fn renames_carry_what_is_below_and_honour_their_flags() {
    let scratch = scratch();
    std::fs::create_dir_all(scratch.directory.path().join("a/b")).expect("made");
    scratch.write_file("a/b/x", "12345");
    let outer = scratch.found(ROOT, "a");
    let inner = scratch.found(outer, "b");
    let file = scratch.found(inner, "x");
    rename(&scratch, "a", "c", 0).expect("renamed");
    assert_eq!(scratch.size(file), Ok(5));

    scratch.write_file("one", "1");
    scratch.write_file("two", "22");
    let (one, two) = (scratch.found(ROOT, "one"), scratch.found(ROOT, "two"));
    let refused = rename(&scratch, "one", "two", libc::RENAME_NOREPLACE);
    assert_eq!(refused, Err(Errno::EXIST.into()));
    assert_eq!((scratch.size(one), scratch.size(two)), (Ok(1), Ok(2)));
    rename(&scratch, "one", "two", libc::RENAME_EXCHANGE).expect("exchanged");
    assert_eq!(scratch.found(ROOT, "one"), two);
    assert_eq!((scratch.size(one), scratch.size(two)), (Ok(1), Ok(2)));
    rename(&scratch, "one", "two", 0).expect("replaced");
    assert_eq!(scratch.size(one), Ok(1), "replaced, and still known");
    assert_eq!(scratch.found(ROOT, "two"), two);
    let whiteout = rename(&scratch, "two", "three", libc::RENAME_WHITEOUT);
    assert_eq!(whiteout, Err(OperationError::UnsupportedFlag));
}

#[test]
fn the_state_directory_is_not_there() {
    let scratch = scratch();
    let state = scratch.directory.path().join(STATE_FOLDER);
    std::fs::create_dir(&state).expect("made");
    scratch.write_file("x", "");
    assert_eq!(scratch.look_up(ROOT, STATE_FOLDER), None);
    let reserved = Err(OperationError::ReservedName);
    assert_eq!(rename(&scratch, "x", STATE_FOLDER, 0), reserved);
    assert_eq!(unlink(&scratch, STATE_FOLDER), Err(Errno::NOENT.into()));
    let handle = scratch.files.open_directory(ROOT, 0).expect("opened");
    let mut names = Vec::new();
    let list = |entry: &super::directories::DirectoryEntry| {
        names.push(entry.name().to_owned());
        Room::Left
    };
    scratch
        .files
        .read_directory(handle, 0, list)
        .expect("listed");
    names.sort();
    assert_eq!(names, [".", "..", "x"]);
}

#[test]
fn each_kind_of_file_is_served_in_its_way() {
    let scratch = scratch();
    scratch.files.set_passthrough(true);
    let db = format!("{GUID}.db");
    for (name, expected) in [
        ("plain", "passthrough"),
        (&db, "passthrough"),
        (&format!("{db}-shm"), "passthrough"),
        (&format!("{db}-wal"), "direct"),
        (&format!("{db}-journal"), "page cache"),
    ] {
        let (_, opened) = scratch.create(name);
        let service = match opened.service {
            Service::KernelPassthrough(_) => "passthrough",
            Service::PageCache => "page cache",
            Service::Direct => "direct",
        };
        assert_eq!(service, expected, "{name}");
    }
}

#[test]
fn a_set_id_file_is_not_passed_through() {
    let scratch = scratch();
    scratch.files.set_passthrough(true);
    scratch.write_file("x", "");
    let path = scratch.directory.path().join("x");
    let set_id = std::fs::Permissions::from_mode(0o4755);
    std::fs::set_permissions(path, set_id).expect("changed");
    let node = scratch.found(ROOT, "x");
    let opened = scratch.files.open(node, libc::O_RDWR, 0, |_| Ok(7));
    let opened = opened.expect("opened");
    assert!(matches!(opened.service, Service::PageCache));
    let written = answer(|done| {
        scratch
            .files
            .write(opened.handle, 0, b"x", UNPRIVILEGED, done)
    });
    assert_eq!(written, Ok(1));
    let mode = scratch
        .files
        .attributes(node, None)
        .expect("shown")
        .stat
        .st_mode;
    assert_eq!(mode & 0o7777, 0o755);
}

#[test]
fn without_the_right_to_pass_through_files_go_through_the_daemon() {
    let scratch = scratch();
    scratch.files.set_passthrough(true);
    scratch.write_file("x", "");
    let node = scratch.found(ROOT, "x");
    let refuse = |errno: Errno| move |_: BorrowedFd<'_>| Err(errno.into());
    let opened = scratch
        .files
        .open(node, libc::O_RDONLY, 0, refuse(Errno::OPNOTSUPP))
        .expect("opened all the same");
    assert!(matches!(opened.service, Service::PageCache));
    assert!(scratch.files.is_passthrough(), "this file alone");
    scratch.files.release(opened.handle);
    let refused = scratch
        .files
        .open(node, libc::O_RDONLY, 0, refuse(Errno::PERM));
    refused.expect("opened all the same");
    assert!(!scratch.files.is_passthrough(), "for good");
}

#[test]
fn bytes_are_written_read_copied_and_found() {
    let scratch = scratch();
    let (_, from) = scratch.create("from");
    let (node, to) = scratch.create("to");
    let written = answer(|done| {
        scratch
            .files
            .write(from.handle, 8192, b"tail", Changer::Privileged, done)
    });
    assert_eq!(written, Ok(4));
    let seek = |whence| scratch.files.seek(from.handle, 0, whence);
    assert_eq!(seek(libc::SEEK_DATA), Ok(8192));
    assert_eq!(seek(libc::SEEK_HOLE), Ok(0));
    let (source, target) = ((from.handle, 8192), (to.handle, 2));
    let copied = answer(|done| {
        scratch
            .files
            .copy_range(source, target, 100, ROOT_CALLER, done)
    });
    assert_eq!(copied, Ok(4));
    scratch.files.read(to.handle, 0, 100, |read| {
        assert_eq!(read.expect("read"), b"\0\0tail");
    });
    let (keep, punch) = (libc::FALLOC_FL_KEEP_SIZE, libc::FALLOC_FL_PUNCH_HOLE);
    let allocate = |mode, length| {
        answer(|done| {
            let caller = ROOT_CALLER;
            scratch
                .files
                .allocate(to.handle, mode, 0, length, caller, done);
        })
    };
    assert_eq!(allocate(0, 100), Ok(()));
    assert_eq!(scratch.size(node), Ok(100));
    assert_eq!(allocate(keep | punch, 4), Ok(()));
    scratch.files.read(to.handle, 0, 6, |read| {
        assert_eq!(read.expect("read"), b"\0\0\0\0il");
    });
    let unknown = answer(|done| scratch.files.write(999, 0, b"x", Changer::Privileged, done));
    assert_eq!(unknown, Err(OperationError::UnknownHandle));
}

/// What the kernel takes of them, without `..` being looked up.
#[test]
fn a_listing_tells_of_the_directory_itself_and_of_the_one_above() {
    let scratch = scratch();
    std::fs::create_dir_all(scratch.directory.path().join("a/b")).expect("folders");
    let a = scratch.found(ROOT, "a");
    let b = scratch.found(a, "b");
    let root = scratch.files.attributes(ROOT, None).expect("asked").number;
    for (node, above) in [(a, root), (b, a)] {
        let handle = scratch.files.open_directory(node, 0).expect("opened");
        let mut dots = Vec::new();
        let listed = scratch
            .files
            .read_directory_plus(handle, 0, |entry, shown| {
                if entry.is_dot() {
                    let kind = super::attributes::file_type(&shown.attributes.stat);
                    assert!(kind.is_dir());
                    dots.push((entry.name().to_owned(), shown.attributes.number));
                }
                Room::Left
            });
        listed.expect("listed");
        dots.sort();
        assert_eq!(dots, [(".".into(), node), ("..".into(), above)]);
        scratch.files.release_directory(handle);
    }
    let above = scratch.files.look_up(a, OsStr::new(".."));
    assert!(above.is_err(), "it is no entry");
}

#[test]
fn a_large_directory_is_listed_once_however_small_the_answers() {
    let scratch = scratch();
    for number in 0..3000 {
        scratch.write_file(&format!("file-{number}"), "");
    }
    let handle = scratch.files.open_directory(ROOT, 0).expect("opened");
    let mut offsets = vec![0];
    let mut names = Vec::new();
    loop {
        let before = names.len();
        let mut offset = *offsets.last().expect("one at least");
        let listed = scratch
            .files
            .read_directory_plus(handle, offset, |entry, _| {
                if names.len() == before + 7 {
                    return Room::Full;
                }
                names.push(entry.name().to_owned());
                offset = entry.next_offset;
                Room::Left
            });
        listed.expect("listed");
        if names.len() == before {
            break;
        }
        offsets.push(offset);
    }
    let distinct: HashSet<_> = names.iter().collect();
    assert_eq!((names.len(), distinct.len()), (3002, 3002));
    // Going back goes on from there.
    for (step, offset) in [(300, offsets[300]), (2, offsets[2])] {
        let mut first = None;
        let listed = scratch.files.read_directory(handle, offset, |entry| {
            first = Some(entry.name().to_owned());
            Room::Full
        });
        listed.expect("listed");
        assert_eq!(first.as_ref(), names.get(step * 7));
    }
}

#[test]
fn extended_attributes_are_those_of_the_backing_file() {
    let scratch = scratch();
    scratch.write_file("x", "");
    let node = scratch.found(ROOT, "x");
    let files = &scratch.files;
    let (name, hidden) = (OsStr::new("user.a"), OsStr::new("trusted.b"));
    files
        .set_extended_attribute(node, name, b"value", 0)
        .expect("set");
    files
        .set_extended_attribute(node, hidden, b"value", 0)
        .expect("set");
    assert_eq!(
        files.extended_attribute(node, name, 0),
        Ok(Extended::Length(5))
    );
    let value = files.extended_attribute(node, name, 64);
    assert_eq!(value, Ok(Extended::Bytes(b"value".to_vec())));
    let short = files.extended_attribute(node, name, 2);
    assert_eq!(short, Err(Errno::RANGE.into()));
    let other = Caller {
        uid: 7,
        gid: 7,
        pid: 0,
    };
    let names = |size, caller| files.extended_attribute_names(node, size, caller);
    assert_eq!(names(0, ROOT_CALLER), Ok(Extended::Length(17)));
    assert_eq!(names(64, other), Ok(Extended::Bytes(b"user.a\0".to_vec())));
    files
        .remove_extended_attribute(node, name)
        .expect("removed");
    assert_eq!(names(0, other), Ok(Extended::Length(0)));
}

#[test]
fn an_attribute_that_was_missing_is_found_once_it_is_given() {
    let scratch = scratch();
    scratch.write_file("x", "");
    let node = scratch.found(ROOT, "x");
    let files = &scratch.files;
    let name = OsStr::new("security.capability");
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for _ in 0..2 {
        let missing = files.extended_attribute(node, name, 0);
        assert_eq!(missing, Err(Errno::NODATA.into()));
    }
    files
        .set_extended_attribute(node, name, &capability, 0)
        .expect("set");
    assert_eq!(
        files.extended_attribute(node, name, 0),
        Ok(Extended::Length(capability.len()))
    );
}

#[test]
fn what_waits_for_a_gate_is_answered_by_another_thread() {
    let scratch = scratch();
    let db = format!("{GUID}.db");
    scratch.create(&db);
    let (_, wal) = scratch.create(&format!("{db}-wal"));
    let (sender, receiver) = mpsc::channel();
    let files = &scratch.files;
    files.write(
        wal.handle,
        0,
        &[0; 32],
        Changer::Privileged,
        move |written| {
            let here = std::thread::current().id();
            sender.send((written, here)).expect("somebody waits");
        },
    );
    let (written, thread) = receiver.recv_timeout(DEADLINE).expect("answered");
    assert_eq!(written, Ok(32));
    assert_ne!(thread, std::thread::current().id());
    unlink(&scratch, &format!("{db}-wal")).expect("unlinked");
}
