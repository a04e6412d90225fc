//! What is agreed with the kernel when a mount begins.

use std::io;
use std::os::fd::OwnedFd;

use fuser::{InitFlags, KernelConfig};
use rustix::io::Errno;

/// The largest request for bytes; the kernel's own limit is 256 pages where it was not raised.
const MAX_WRITE: u32 = 1 << 20;

/// What INIT is asked for, each where the kernel has it.
const CAPABILITIES: [InitFlags; 9] = [
    InitFlags::FUSE_ASYNC_DIO,
    InitFlags::FUSE_CACHE_SYMLINKS,
    InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
    InitFlags::FUSE_DO_READDIRPLUS,
    // The caller's umask is applied where a directory's default ACL does not replace it.
    InitFlags::FUSE_DONT_MASK,
    // Or every write asks for security.capability first.
    InitFlags::FUSE_HANDLE_KILLPRIV_V2,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_READDIRPLUS_AUTO,
    InitFlags::FUSE_MAX_PAGES,
];

/// How this mount is negotiated.
#[derive(Clone, Copy, Debug)]
pub struct Negotiation {
    /// Whether to pass reads and writes through where the kernel can.
    pub passthrough: bool,
    /// How many file systems may lie upon one another, this one's backing directory included.
    pub stack_depth: u32,
    /// Whether the backing file system has access control lists, which the kernel is then to apply.
    pub access_lists: bool,
}

impl Negotiation {
    /// What can be had over `backing`, where passthrough is wanted or not.
    pub fn over(backing: &OwnedFd, passthrough: bool, access_lists: bool) -> Result<Self, Errno> {
        // File systems that lie on others themselves. Where it is not needed, the lower depth leaves room for an overlay
        // on top of the mount.
        const STACKED: [i64; 3] = [
            libc::OVERLAYFS_SUPER_MAGIC,
            libc::ECRYPTFS_SUPER_MAGIC,
            libc::FUSE_SUPER_MAGIC,
        ];
        let is_stacked = STACKED.contains(&rustix::fs::fstatfs(backing)?.f_type);
        Ok(Self {
            passthrough,
            stack_depth: if is_stacked { 2 } else { 1 },
            access_lists,
        })
    }

    /// Asks for it; whether the kernel passes files through.
    ///
    /// Not asked for: POSIX_LOCKS and FLOCK_LOCKS (locks stay in the kernel), WRITEBACK_CACHE (a write to `-wal` must
    /// arrive at once and in order), ATOMIC_O_TRUNC (a truncation must come as SETATTR).
    pub fn agree(&self, config: &mut KernelConfig) -> io::Result<bool> {
        let offered = config.capabilities();
        let mut wanted = CAPABILITIES
            .into_iter()
            .fold(InitFlags::empty(), |all, one| all | one);
        if self.access_lists {
            wanted |= InitFlags::FUSE_POSIX_ACL;
        }
        let passthrough = self.passthrough && offered.contains(InitFlags::FUSE_PASSTHROUGH);
        if passthrough {
            wanted |= InitFlags::FUSE_PASSTHROUGH;
        }
        let refused = |what: &str| io::Error::other(format!("the kernel refuses {what}"));
        config
            .add_capabilities(wanted & offered)
            .map_err(|_| refused("its own capabilities"))?;
        config
            .set_max_write(MAX_WRITE)
            .map_err(|_| refused("the size of a write"))?;
        config
            .set_max_stack_depth(self.stack_depth)
            .map_err(|_| refused("the stack depth"))?;
        Ok(passthrough)
    }
}
