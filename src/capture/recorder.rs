//! For simulations: whoever watches a thread hears of each change of files before it is made, and may forbid it.
//!
//! `disk.rs` tells of the capture's own changes. What SQLite does is heard through a VFS that is "unix" but for the
//! functions here: each goes through a function of the VFS's owner, which carries it out or does not.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Mutex;

use rusqlite::ffi;

use super::database::locked;

/// What is done to a file.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Change<'a> {
    /// Made empty, or emptied.
    Create(&'a Path),
    Write(&'a Path, u64, &'a [u8]),
    Cut(&'a Path, u64),
    Sync(&'a Path),
    Rename(&'a Path, &'a Path),
    Remove(&'a Path),
    /// Of SQLite's files only.
    Open(&'a Path),
    Close(&'a Path),
    /// The wal-index of a database.
    OpenIndex(&'a Path),
    /// Whether it is to be removed.
    CloseIndex(bool),
}

type Watcher = Rc<dyn Fn(&Change<'_>) -> io::Result<()>>;

thread_local! {
    static WATCHER: RefCell<Option<Watcher>> = const { RefCell::new(None) };
}

/// SQLite's open files, by address.
static OPEN: Mutex<BTreeMap<usize, Opened>> = Mutex::new(BTreeMap::new());

/// From now on `watcher` hears of the changes that this thread makes.
pub(crate) fn set(watcher: Option<Watcher>) {
    WATCHER.set(watcher);
}

/// Tells of a change that is about to be made.
pub(super) fn before(change: &Change<'_>) -> io::Result<()> {
    let watcher = WATCHER.with_borrow(Clone::clone);
    watcher.map_or(Ok(()), |watcher| watcher(change))
}

/// The path of an open file.
pub(super) fn path_of(file: &File) -> io::Result<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// Carries a change out, or does not; gives SQLite's code.
pub(crate) type Around = fn(&Change<'_>, &mut dyn FnMut() -> c_int) -> c_int;

/// For the state database: told, then done.
pub(super) fn tell(change: &Change<'_>, act: &mut dyn FnMut() -> c_int) -> c_int {
    match (before(change), change) {
        // A file that is not closed is a descriptor less for who comes after.
        (Ok(()), _) | (_, Change::Close(_) | Change::CloseIndex(_)) => act(),
        (Err(_), _) => ffi::SQLITE_IOERR,
    }
}

#[derive(Clone)]
struct Opened {
    path: PathBuf,
    around: Around,
    unix: &'static ffi::sqlite3_io_methods,
    has_index: bool,
}

/// What `pAppData` of a watched VFS leads to.
struct Watched {
    unix: *mut ffi::sqlite3_vfs,
    around: Around,
}

/// Has all that `vfs`, a copy of "unix", does to files go through `around`.
///
/// # Safety
/// `vfs` is not registered yet; it is to live as long as the process.
pub(crate) unsafe fn wrap(vfs: &mut ffi::sqlite3_vfs, around: Around) {
    // SAFETY: asks for what SQLite has registered at its start.
    let unix = unsafe { ffi::sqlite3_vfs_find(c"unix".as_ptr()) };
    let watched = Box::leak(Box::new(Watched { unix, around }));
    vfs.pAppData = std::ptr::from_mut(watched).cast();
    vfs.xOpen = Some(open);
    vfs.xDelete = Some(delete);
}

/// Registers a VFS with that name.
pub(crate) fn register(name: &'static CStr, around: Around) {
    // SAFETY: as in `state_vfs`: a leaked copy of the default VFS, with functions of its own.
    let code = unsafe {
        let mut vfs = *ffi::sqlite3_vfs_find(c"unix".as_ptr());
        vfs.zName = name.as_ptr();
        vfs.pNext = std::ptr::null_mut();
        wrap(&mut vfs, around);
        ffi::sqlite3_vfs_register(Box::leak(Box::new(vfs)), 0)
    };
    assert_eq!(code, ffi::SQLITE_OK, "a VFS can be registered");
}

unsafe fn watched<'a>(vfs: *mut ffi::sqlite3_vfs) -> &'a Watched {
    // SAFETY: `wrap` has put it there, and it is leaked.
    unsafe { &*(*vfs).pAppData.cast::<Watched>() }
}

unsafe fn path_from<'a>(name: *const c_char) -> &'a Path {
    // SAFETY: SQLite gives names with their NUL, which live at least as long as the call.
    Path::new(OsStr::from_bytes(
        unsafe { CStr::from_ptr(name) }.to_bytes(),
    ))
}

unsafe extern "C" fn open(
    vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    // SAFETY: SQLite's own arguments are handed on; the file's methods are those of "unix" then.
    unsafe {
        let Watched { unix, around } = watched(vfs);
        let mut open = || (**unix).xOpen.expect("it opens")(*unix, name, file, flags, out);
        if name.is_null() {
            return open();
        }
        let path = path_from(name).to_owned();
        let is_new = !path.exists();
        let code = match is_new {
            true => around(&Change::Create(&path), &mut open),
            false => around(&Change::Open(&path), &mut open),
        };
        if code != ffi::SQLITE_OK {
            (*file).pMethods = std::ptr::null();
            return code;
        }
        let unix = &*(*file).pMethods;
        (*file).pMethods = methods_over(unix);
        let opened = Opened {
            path,
            around: *around,
            unix,
            has_index: false,
        };
        locked(&OPEN).insert(file as usize, opened);
        code
    }
}

unsafe extern "C" fn delete(vfs: *mut ffi::sqlite3_vfs, name: *const c_char, sync: c_int) -> c_int {
    // SAFETY: as in `open`.
    unsafe {
        let Watched { unix, around } = watched(vfs);
        let mut delete = || (**unix).xDelete.expect("it deletes")(*unix, name, sync);
        let path = path_from(name);
        match path.exists() {
            true => around(&Change::Remove(path), &mut delete),
            false => delete(),
        }
    }
}

/// Those methods with ours put over them; each is made once, and kept.
fn methods_over(unix: &'static ffi::sqlite3_io_methods) -> *const ffi::sqlite3_io_methods {
    static MADE: Mutex<BTreeMap<usize, &'static ffi::sqlite3_io_methods>> =
        Mutex::new(BTreeMap::new());
    let key = std::ptr::from_ref(unix) as usize;
    *locked(&MADE).entry(key).or_insert_with(|| {
        Box::leak(Box::new(ffi::sqlite3_io_methods {
            xClose: Some(close),
            xWrite: Some(write),
            xTruncate: Some(truncate),
            xSync: Some(sync),
            xShmMap: unix.xShmMap.map(|_| shm_map as _),
            xShmUnmap: unix.xShmUnmap.map(|_| shm_unmap as _),
            ..*unix
        }))
    })
}

fn opened(file: *mut ffi::sqlite3_file) -> Opened {
    locked(&OPEN)[&(file as usize)].clone()
}

fn note_index(file: *mut ffi::sqlite3_file, is_open: bool) {
    let mut open = locked(&OPEN);
    let known = open.get_mut(&(file as usize)).expect("it is open");
    known.has_index = is_open;
}

unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    let known = opened(file);
    locked(&OPEN).remove(&(file as usize));
    // SAFETY: hands on SQLite's own argument.
    let mut close = || unsafe { known.unix.xClose.expect("it closes")(file) };
    (known.around)(&Change::Close(&known.path), &mut close)
}

unsafe extern "C" fn write(
    file: *mut ffi::sqlite3_file,
    from: *const c_void,
    size: c_int,
    at: i64,
) -> c_int {
    let known = opened(file);
    // SAFETY: SQLite gives `size` bytes at `from`.
    let bytes = unsafe { std::slice::from_raw_parts(from.cast::<u8>(), size as usize) };
    // SAFETY: hands on SQLite's own arguments.
    let mut write = || unsafe { known.unix.xWrite.expect("it writes")(file, from, size, at) };
    (known.around)(&Change::Write(&known.path, at as u64, bytes), &mut write)
}

unsafe extern "C" fn truncate(file: *mut ffi::sqlite3_file, size: i64) -> c_int {
    let known = opened(file);
    // SAFETY: hands on SQLite's own arguments.
    let mut cut = || unsafe { known.unix.xTruncate.expect("it truncates")(file, size) };
    (known.around)(&Change::Cut(&known.path, size as u64), &mut cut)
}

unsafe extern "C" fn sync(file: *mut ffi::sqlite3_file, flags: c_int) -> c_int {
    let known = opened(file);
    // Nothing is really synced: a simulation has a disk of its own.
    let _ = flags;
    (known.around)(&Change::Sync(&known.path), &mut || ffi::SQLITE_OK)
}

unsafe extern "C" fn shm_map(
    file: *mut ffi::sqlite3_file,
    region: c_int,
    size: c_int,
    extend: c_int,
    out: *mut *mut c_void,
) -> c_int {
    let known = opened(file);
    // SAFETY: hands on SQLite's own arguments.
    let mut map =
        || unsafe { known.unix.xShmMap.expect("it maps")(file, region, size, extend, out) };
    if known.has_index {
        return map();
    }
    let code = (known.around)(&Change::OpenIndex(&known.path), &mut map);
    note_index(file, code == ffi::SQLITE_OK);
    code
}

unsafe extern "C" fn shm_unmap(file: *mut ffi::sqlite3_file, delete: c_int) -> c_int {
    let known = opened(file);
    // SAFETY: hands on SQLite's own arguments.
    let mut unmap = || unsafe { known.unix.xShmUnmap.expect("it unmaps")(file, delete) };
    if !known.has_index {
        return unmap();
    }
    note_index(file, false);
    (known.around)(&Change::CloseIndex(delete != 0), &mut unmap)
}
