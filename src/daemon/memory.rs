//! What the allocator keeps of memory that nobody uses.

/// Two heaps for all threads, in the place of eight a processor: what stays of many clients, each of which was worked on by
/// whichever thread was free, is then in fewer pages among what was freed.
#[cfg(target_env = "gnu")]
pub(super) fn share_heaps() {
    const HEAPS: libc::c_int = 2;
    // SAFETY: it only sets a number that the allocator reads.
    let is_set = unsafe { libc::mallopt(libc::M_ARENA_MAX, HEAPS) };
    debug_assert_eq!(is_set, 1);
}

/// The allocator keeps what was freed between smaller pieces that stay: after a start or a take-over of many databases,
/// and after an answer that tells of them all, that is most of the process.
#[cfg(target_env = "gnu")]
pub(super) fn give_back() {
    // SAFETY: it only gives pages back that nobody has allocated.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(not(target_env = "gnu"))]
pub(super) fn share_heaps() {}

#[cfg(not(target_env = "gnu"))]
pub(super) fn give_back() {}
