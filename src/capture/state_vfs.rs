//! A SQLite VFS that takes paths as they are given.
//!
//! The state directory lies below the backing directory, which is reached through `/proc/self/fd/N`. SQLite's own
//! "unix" VFS resolves that link to a name, and after the mount that name leads into our own file system: the daemon
//! would wait for itself. This one is "unix" but for that one function.

use std::ffi::{CStr, c_char, c_int};
use std::sync::OnceLock;

use rusqlite::ffi;

const NAME: &CStr = c"unix-verbatim";

/// Registers the VFS once; gives its name, or SQLite's result code.
pub(super) fn register() -> Result<&'static CStr, c_int> {
    static REGISTERED: OnceLock<c_int> = OnceLock::new();
    let code = *REGISTERED.get_or_init(|| {
        // SAFETY: the default VFS lives as long as the process and may be copied (SQLite registers its own variants of
        // "unix" the same way); the copy is leaked, so that it lives as long.
        unsafe {
            let unix = ffi::sqlite3_vfs_find(std::ptr::null());
            if unix.is_null() {
                return ffi::SQLITE_ERROR;
            }
            let mut verbatim = *unix;
            verbatim.zName = NAME.as_ptr();
            verbatim.pNext = std::ptr::null_mut();
            verbatim.xFullPathname = Some(take_verbatim);
            #[cfg(test)]
            super::recorder::wrap(&mut verbatim, super::recorder::tell);
            ffi::sqlite3_vfs_register(Box::leak(Box::new(verbatim)), 0)
        }
    });
    if code == ffi::SQLITE_OK {
        Ok(NAME)
    } else {
        Err(code)
    }
}

/// Copies the name, with its NUL, where it fits.
unsafe extern "C" fn take_verbatim(
    _vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    size: c_int,
    out: *mut c_char,
) -> c_int {
    // SAFETY: SQLite gives a NUL-terminated name and `size` bytes to write to.
    unsafe {
        let len = CStr::from_ptr(name).to_bytes_with_nul().len();
        if len > size.max(0) as usize {
            return ffi::SQLITE_CANTOPEN;
        }
        std::ptr::copy_nonoverlapping(name, out, len);
    }
    ffi::SQLITE_OK
}
