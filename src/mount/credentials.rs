//! Acting on the backing directory for a caller: its owner ids, its umask, and without the right to keep set-id bits.
//!
//! Each of these belongs to the thread that serves the request, never to the process: two requests of different
//! callers can be in progress at once.

use std::cell::Cell;
use std::sync::OnceLock;

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::process::umask;
use rustix::thread::{
    CapabilitySet, CapabilitySets, UnshareFlags, capabilities, set_capabilities, unshare_unsafe,
};

/// Who made a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Caller {
    pub uid: u32,
    pub gid: u32,
    /// As this process sees it; 0 where it does not.
    pub pid: u32,
}

impl Caller {
    /// Runs `create` so that what it makes belongs to the caller, under its umask: the backing file system then
    /// applies set-group-id directories and default ACLs by itself, and a crash leaves nothing owned by root.
    pub fn create<T>(
        self,
        mask: u32,
        create: impl FnOnce() -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        set_thread_umask(mask)?;
        let _identity = Identity::assume(self)?;
        create()
    }
}

/// Runs `change` without CAP_FSETID, so that the backing file system takes set-id bits away where an unprivileged
/// writer's change must.
pub fn without_set_id<T>(change: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
    struct Restore(CapabilitySets);
    impl Drop for Restore {
        fn drop(&mut self) {
            set_capabilities(None, self.0)
                .expect("BUG: a thread may always raise what it is permitted");
        }
    }
    let all = own_capabilities()?;
    set_capabilities(
        None,
        CapabilitySets {
            effective: all.effective - CapabilitySet::FSETID,
            ..all
        },
    )?;
    let _restore = Restore(all);
    change()
}

/// The same as a member of `group`, so that the set-group-id bit of a file that its group may not execute stays.
pub fn in_group_without_set_id<T>(
    group: u32,
    change: impl FnOnce() -> Result<T, Errno>,
) -> Result<T, Errno> {
    struct Restore;
    impl Drop for Restore {
        fn drop(&mut self) {
            // SAFETY: it takes and returns a number, and concerns the calling thread alone.
            unsafe { libc::setfsgid(rustix::process::getegid().as_raw()) };
        }
    }
    // SAFETY: as above.
    unsafe { libc::setfsgid(group) };
    let _restore = Restore;
    without_set_id(change)
}

/// The ids that new files get, while it lives.
struct Identity {
    assumed: bool,
}

impl Identity {
    fn assume(caller: Caller) -> Result<Self, Errno> {
        let own_uid = rustix::process::geteuid().as_raw();
        let own_gid = rustix::process::getegid().as_raw();
        if (caller.uid, caller.gid) == (own_uid, own_gid) {
            return Ok(Self { assumed: false });
        }
        let all = own_capabilities()?;
        let identity = Self { assumed: true };
        set_fs_ids(caller.uid, caller.gid)?;
        // The kernel has already checked the caller's permissions; an id other than root's takes from this thread the
        // rights that it needs to reach the file.
        set_capabilities(None, all)?;
        Ok(identity)
    }
}

impl Drop for Identity {
    fn drop(&mut self) {
        if self.assumed {
            let uid = rustix::process::geteuid().as_raw();
            let gid = rustix::process::getegid().as_raw();
            set_fs_ids(uid, gid).expect("BUG: a thread may always go back to its own ids");
        }
    }
}

fn set_fs_ids(uid: u32, gid: u32) -> Result<(), Errno> {
    // SAFETY: both calls take and return plain numbers, and concern the calling thread alone.
    let now = unsafe {
        libc::setfsgid(gid);
        libc::setfsuid(uid);
        // They report no error; an id that is out of range changes nothing and shows what holds.
        (libc::setfsuid(u32::MAX), libc::setfsgid(u32::MAX))
    };
    if now == (uid as i32, gid as i32) {
        Ok(())
    } else {
        Err(Errno::PERM)
    }
}

fn own_capabilities() -> Result<CapabilitySets, Errno> {
    static OWN: OnceLock<CapabilitySets> = OnceLock::new();
    match OWN.get() {
        Some(own) => Ok(*own),
        None => {
            let own = capabilities(None)?;
            Ok(*OWN.get_or_init(|| own))
        }
    }
}

/// Gives this thread a umask of its own (a umask is otherwise the whole process's), and sets it.
fn set_thread_umask(mask: u32) -> Result<(), Errno> {
    thread_local! {
        static MASK: Cell<Option<u32>> = const { Cell::new(None) };
    }
    let mask = mask & 0o777;
    MASK.with(|current| {
        if current.get().is_none() {
            // SAFETY: file descriptors stay shared; only umask and working directory become the thread's own, and the
            // mount uses no path that is relative to the working directory.
            unsafe { unshare_unsafe(UnshareFlags::FS)? };
        }
        if current.get() != Some(mask) {
            umask(Mode::from_raw_mode(mask));
            current.set(Some(mask));
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    #[test]
    fn what_is_created_belongs_to_the_caller_under_its_umask() {
        let dir = tempfile::tempdir().expect("a scratch directory");
        let made = |name: &str, uid, gid, mask| {
            let path = dir.path().join(name);
            Caller { uid, gid, pid: 0 }
                .create(mask, || {
                    rustix::fs::open(
                        &path,
                        rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY,
                        Mode::from_raw_mode(0o666),
                    )
                })
                .expect("created");
            let made = std::fs::metadata(&path).expect("there");
            (made.uid(), made.gid(), made.mode() & 0o7777)
        };
        assert_eq!(made("a", 65534, 12345, 0o027), (65534, 12345, 0o640));
        assert_eq!(made("b", 0, 0, 0o022), (0, 0, 0o644));
        assert_eq!(made("c", 4000, 0, 0), (4000, 0, 0o666));
    }

    #[test]
    fn an_unprivileged_change_takes_set_id_bits_away() {
        let file = tempfile::NamedTempFile::new().expect("a scratch file");
        let mode = || std::fs::metadata(file.path()).expect("there").mode() & 0o7777;
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o6755))
            .expect("set-id bits");
        rustix::io::pwrite(file.as_file(), b"x", 0).expect("written");
        assert_eq!(mode(), 0o6755, "root keeps them");
        without_set_id(|| rustix::io::pwrite(file.as_file(), b"x", 0)).expect("written");
        assert_eq!(mode(), 0o755);
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o4755))
            .expect("set-id bits");
        rustix::io::pwrite(file.as_file(), b"x", 0).expect("written");
        assert_eq!(mode(), 0o4755, "the right is back");
    }
}
