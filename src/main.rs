//! The binary: everything is in the library, but for the allocator.

use std::process::ExitCode;

/// What is left of many databases that were worked on at once lies among what was freed. This one keeps sizes apart, and
/// gives back the pages that nobody uses; SQLite allocates from it as well, where the platform lets it.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Two heaps for all threads, in the place of four a processor; a page goes back a second after it was freed.
#[cfg_attr(target_env = "gnu", unsafe(export_name = "malloc_conf"))]
#[cfg_attr(not(target_env = "gnu"), unsafe(export_name = "_rjem_malloc_conf"))]
pub static ALLOCATOR_OPTIONS: &[u8] = b"narenas:2,dirty_decay_ms:1000,muzzy_decay_ms:0\0";

fn main() -> ExitCode {
    litestream_multitenant::cli::main()
}
