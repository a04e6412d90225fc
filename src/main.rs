//! The binary: everything is in the library, but for the allocator.

use std::process::ExitCode;
use std::ptr;

/// What is left of many databases that were worked on at once lies among what was freed. This one keeps sizes apart, and
/// gives back the pages that nobody uses. What is written in C keeps the system's: in the place of that, this one would be
/// called in the middle of its own start by whatever is loaded before it (libfaketime waits for ever then).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Two heaps for all threads, in the place of four a processor; a page goes back a second after it was freed. A thread keeps
/// less of what it freed for itself, since most of them are idle most of the time: 64 pieces of each size, up to 1 KiB.
#[unsafe(export_name = "_rjem_malloc_conf")]
pub static ALLOCATOR_OPTIONS: &[u8] =
    b"narenas:2,dirty_decay_ms:1000,muzzy_decay_ms:0,tcache_max:1024,tcache_nslots_small_max:64\0";

fn main() -> ExitCode {
    litestream_multitenant::cli::main(begin_giving_back)
}

/// The allocator's thread that gives pages back does not come along into a process that is forked.
fn begin_giving_back() {
    let is_on = true;
    // SAFETY: the name ends with a zero, and the value has the type and the size that the name stands for.
    let failed = unsafe {
        tikv_jemalloc_sys::mallctl(
            c"background_thread".as_ptr(),
            ptr::null_mut(),
            ptr::null_mut(),
            ptr::from_ref(&is_on).cast_mut().cast(),
            size_of::<bool>(),
        )
    };
    // Without it there is the same memory, given back when there is work.
    debug_assert_eq!(failed, 0);
}
