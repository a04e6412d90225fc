//! Preloaded into a program that uses SQLite: has it die, or a call fail, at one exact point of its work on its files.
//!
//! `SQLITE_FAULT="ACTION EVENT NAME NUMBER"` says what happens to the event of that number on a file whose name ends
//! so, or has that in it where NAME is `*…`: `die` before it, `die-after` it, or `fail` it with EIO.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use libc::{off64_t, size_t, ssize_t};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Action {
    Die,
    DieAfter,
    Fail,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Event {
    /// The header of a frame that ends a transaction.
    CommitHeader,
    /// The page behind such a header.
    CommitPage,
    /// A write at the file's start.
    WriteAtStart,
    Write,
    Sync,
    Truncate,
    Unlink,
}

struct Fault {
    action: Action,
    event: Event,
    name: String,
    /// Which of these events it is, counted from 1.
    number: u32,
    seen: AtomicU32,
}

impl Fault {
    fn is_of(&self, file: &[u8]) -> bool {
        match self.name.strip_prefix('*') {
            Some(part) => file
                .windows(part.len())
                .any(|found| found == part.as_bytes()),
            None => file.ends_with(self.name.as_bytes()),
        }
    }
}

static FAULT: LazyLock<Option<Fault>> = LazyLock::new(|| {
    let text = std::env::var("SQLITE_FAULT").ok()?;
    Some(parse(&text).unwrap_or_else(|| panic!("SQLITE_FAULT says {text:?}")))
});
/// The last write to a log was the header of a frame that ends a transaction.
static IN_COMMIT: AtomicBool = AtomicBool::new(false);

fn parse(text: &str) -> Option<Fault> {
    let [action, event, name, number] = *text.split(' ').collect::<Vec<_>>() else {
        return None;
    };
    Some(Fault {
        action: match action {
            "die" => Action::Die,
            "die-after" => Action::DieAfter,
            "fail" => Action::Fail,
            _ => return None,
        },
        event: match event {
            "commit-header" => Event::CommitHeader,
            "commit-page" => Event::CommitPage,
            "write-at-start" => Event::WriteAtStart,
            "write" => Event::Write,
            "sync" => Event::Sync,
            "truncate" => Event::Truncate,
            "unlink" => Event::Unlink,
            _ => return None,
        },
        name: name.to_owned(),
        number: number.parse().ok()?,
        seen: AtomicU32::new(0),
    })
}

/// Makes the call, unless the fault says otherwise: then it fails with EIO, or the process dies.
fn at<T>(events: &[Event], name: &[u8], failed: T, call: impl FnOnce() -> T) -> T {
    let due = FAULT.as_ref().filter(|fault| {
        events.contains(&fault.event)
            && fault.is_of(name)
            && fault.seen.fetch_add(1, Ordering::SeqCst) + 1 == fault.number
    });
    match due.map(|fault| fault.action) {
        None => call(),
        Some(Action::Die) => die(),
        Some(Action::DieAfter) => {
            call();
            die()
        }
        Some(Action::Fail) => {
            // SAFETY: the C library gives the address of this thread's own errno.
            unsafe { *libc::__errno_location() = libc::EIO };
            failed
        }
    }
}

fn die() -> ! {
    // SAFETY: signals this process alone, which can't ignore it.
    unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    unreachable!("SIGKILL was survived")
}

/// The name of an open file.
fn name_of(file: c_int) -> Vec<u8> {
    // What has no name, or is closed, is none of SQLite's files.
    std::fs::read_link(format!("/proc/self/fd/{file}"))
        .map(|path| path.as_os_str().as_bytes().to_owned())
        .unwrap_or_default()
}

/// What a write is to SQLite; keeps count of where in a log's frame it is.
fn events_of_write(name: &[u8], bytes: &[u8], offset: off64_t) -> Vec<Event> {
    let mut events = vec![Event::Write];
    if offset == 0 {
        events.push(Event::WriteAtStart);
    }
    if name.ends_with(b"-wal") {
        let is_header = bytes.len() == 24;
        let ends = is_header && bytes[4..8] != [0; 4];
        match (IN_COMMIT.swap(ends, Ordering::SeqCst), ends) {
            (_, true) => events.push(Event::CommitHeader),
            (true, false) if !is_header => events.push(Event::CommitPage),
            _ => {}
        }
    }
    events
}

/// The function that this one stands before.
///
/// # Safety
/// `F` must be the type of the C library's function of that name.
unsafe fn next<F: Copy>(name: &CStr) -> F {
    // SAFETY: RTLD_NEXT and a name are what dlsym takes.
    let found = unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr()) };
    assert!(!found.is_null(), "{name:?} is not in the C library");
    // SAFETY: a pointer to a function, which the caller knows the type of.
    unsafe { std::mem::transmute_copy(&found) }
}

/// # Safety
/// As `pwrite`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwrite64(
    file: c_int,
    from: *const c_void,
    length: size_t,
    offset: off64_t,
) -> ssize_t {
    type Write = unsafe extern "C" fn(c_int, *const c_void, size_t, off64_t) -> ssize_t;
    let name = name_of(file);
    // SAFETY: the caller gives a buffer of that length.
    let bytes = unsafe { std::slice::from_raw_parts(from.cast::<u8>(), length) };
    let events = events_of_write(&name, bytes, offset);
    // SAFETY: the same function with the same arguments.
    at(&events, &name, -1, || unsafe {
        next::<Write>(c"pwrite64")(file, from, length, offset)
    })
}

/// # Safety
/// As `fdatasync`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdatasync(file: c_int) -> c_int {
    type Sync = unsafe extern "C" fn(c_int) -> c_int;
    // SAFETY: the same function with the same arguments.
    at(&[Event::Sync], &name_of(file), -1, || unsafe {
        next::<Sync>(c"fdatasync")(file)
    })
}

/// # Safety
/// As `ftruncate`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ftruncate64(file: c_int, length: off64_t) -> c_int {
    type Truncate = unsafe extern "C" fn(c_int, off64_t) -> c_int;
    // SAFETY: the same function with the same arguments.
    at(&[Event::Truncate], &name_of(file), -1, || unsafe {
        next::<Truncate>(c"ftruncate64")(file, length)
    })
}

/// # Safety
/// As `unlink`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unlink(path: *const c_char) -> c_int {
    type Unlink = unsafe extern "C" fn(*const c_char) -> c_int;
    // SAFETY: the caller gives a path that ends with a zero.
    let name = unsafe { CStr::from_ptr(path) };
    // SAFETY: the same function with the same arguments.
    at(&[Event::Unlink], name.to_bytes(), -1, || unsafe {
        next::<Unlink>(c"unlink")(path)
    })
}
