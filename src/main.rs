//! The binary: everything is in the library, but for the allocator.

use std::ffi::CStr;
use std::process::ExitCode;
use std::ptr;

use litestream_multitenant::room::Allocator;

/// What is left of many databases that were worked on at once lies among what was freed. This one keeps sizes apart, and
/// gives back the pages that nobody uses. What is written in C keeps the system's: in the place of that, this one would be
/// called in the middle of its own start by whatever is loaded before it (libfaketime waits for ever then).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Two heaps for all threads, in the place of four a processor; a page goes back a second after it was freed. Only threads
/// that ask for it keep what they freed for themselves, and little of it, since most of them are idle most of the time: 64
/// pieces of each size, up to 1 KiB.
#[unsafe(export_name = "_rjem_malloc_conf")]
pub static ALLOCATOR_OPTIONS: &[u8] =
    b"narenas:2,dirty_decay_ms:1000,muzzy_decay_ms:0,tcache:false,tcache_max:1024,tcache_nslots_small_max:64\0";

fn main() -> ExitCode {
    litestream_multitenant::cli::main(Allocator {
        after_fork: || switch_on(c"background_thread"),
        keep_freed: || switch_on(c"thread.tcache.enabled"),
        give_back_freed,
    })
}

fn switch_on(name: &CStr) {
    let is_on = true;
    let value = ptr::from_ref(&is_on).cast_mut().cast();
    // SAFETY: the name ends with a zero, and the value has the type and the size that the two names above stand for.
    let failed = unsafe {
        let none = ptr::null_mut();
        tikv_jemalloc_sys::mallctl(name.as_ptr(), none, none.cast(), value, size_of::<bool>())
    };
    // Without it there is the same memory, given back when there is work, or taken with a lock.
    debug_assert_eq!(failed, 0, "{name:?}");
}

fn give_back_freed() {
    let (name, none) = (c"thread.tcache.flush".as_ptr(), ptr::null_mut());
    // SAFETY: the name ends with a zero, and has no value.
    let _keeps_nothing = unsafe { tikv_jemalloc_sys::mallctl(name, none, none.cast(), none, 0) };
}
