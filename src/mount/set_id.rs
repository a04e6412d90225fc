//! Set-id bits of a file that is changed: kept or taken away as the caller's own file system call would.
//!
//! The kernel takes the set-user-id bit, and the set-group-id bit of a file that its group may execute, from a file that
//! somebody without CAP_FSETID changes. A set-group-id bit without that stays for whoever is in the file's group. Of the
//! caller's rights a FUSE request says little; for the few files with such bits `/proc` says the rest.

use std::fs;
use std::os::fd::AsFd;

use rustix::fs::{FileType, Stat};
use rustix::io::Errno;

use super::credentials::{Caller, in_group_without_set_id, without_set_id};

/// The capability's number.
const CAP_FSETID: u32 = 4;

/// Whether a regular file has bits that a change may take away.
pub(super) fn has_set_id_bits(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode).is_file()
        && stat.st_mode & (libc::S_ISUID | libc::S_ISGID) != 0
}

/// What is known of who changes a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Changer {
    /// The kernel says that it has CAP_FSETID.
    Privileged,
    /// The kernel says that it has not.
    Unprivileged(Caller),
    /// The kernel does not say.
    Unknown(Caller),
}

impl Changer {
    /// Runs `change` of `file`, which takes set-id bits away as it would for the caller.
    pub fn change<T>(
        self,
        file: impl AsFd,
        change: impl FnOnce() -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let caller = match self {
            Self::Privileged => return change(),
            Self::Unprivileged(caller) | Self::Unknown(caller) => caller,
        };
        let stat = rustix::fs::fstat(file)?;
        if !has_set_id_bits(&stat) {
            return change();
        }
        let rights = Rights::of(caller);
        if matches!(self, Self::Unknown(_)) && rights.keeps_set_id {
            return change();
        }
        match rights.is_member(caller, stat.st_gid) {
            true => in_group_without_set_id(stat.st_gid, change),
            false => without_set_id(change),
        }
    }

    /// The same for a change of owner or group, which takes them away even from root, but for the set-group-id bit that
    /// stays for members of the group.
    pub fn change_owner<T>(
        caller: Caller,
        file: impl AsFd,
        change: impl FnOnce() -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let stat = rustix::fs::fstat(file)?;
        if !has_set_id_bits(&stat) {
            return change();
        }
        let rights = Rights::of(caller);
        let is_member = rights.keeps_set_id || rights.is_member(caller, stat.st_gid);
        match is_member {
            true => change(),
            false => without_set_id(change),
        }
    }
}

/// Rights of a caller.
#[derive(PartialEq, Eq, Debug)]
struct Rights {
    /// CAP_FSETID, in the user namespace of this process.
    keeps_set_id: bool,
    /// Its supplementary groups.
    groups: Vec<u32>,
}

impl Rights {
    /// As `/proc` has them. Of a caller that is not seen from here only its ids are known.
    fn of(caller: Caller) -> Self {
        let status = match caller.pid {
            0 => None,
            pid => fs::read_to_string(format!("/proc/{pid}/status")).ok(),
        };
        match status {
            None => Self {
                keeps_set_id: caller.uid == 0,
                groups: Vec::new(),
            },
            Some(status) => Self::read(&status, is_in_own_namespace(caller.pid)),
        }
    }

    fn is_member(&self, caller: Caller, group: u32) -> bool {
        caller.gid == group || self.groups.contains(&group)
    }

    fn read(status: &str, is_in_own_namespace: bool) -> Self {
        let field = |name| status.lines().find_map(|line| line.strip_prefix(name));
        let groups = field("Groups:").unwrap_or_default().split_whitespace();
        let effective = field("CapEff:").and_then(|text| u64::from_str_radix(text.trim(), 16).ok());
        Self {
            keeps_set_id: is_in_own_namespace
                && effective.is_some_and(|effective| effective & (1 << CAP_FSETID) != 0),
            groups: groups.filter_map(|group| group.parse().ok()).collect(),
        }
    }
}

/// Whether a process is in this one's user namespace: in another its capabilities count for nothing here.
fn is_in_own_namespace(pid: u32) -> bool {
    let namespace = |of: &str| fs::read_link(format!("/proc/{of}/ns/user")).ok();
    namespace(&pid.to_string()).is_some_and(|other| Some(other) == namespace("self"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_are_read_as_the_kernel_writes_them() {
        let status = "Name:\tpython3\nGroups:\t4 1000 \nCapEff:\t0000000000000010\n";
        let rights = |own| Rights::read(status, own);
        assert_eq!(rights(true).groups, [4, 1000]);
        assert!(rights(true).keeps_set_id && !rights(false).keeps_set_id);
        let none = Rights::read("Groups:\t\nCapEff:\t0000000000000000\n", true);
        assert_eq!((none.groups, none.keeps_set_id), (Vec::new(), false));
    }

    #[test]
    fn a_caller_that_is_not_seen_has_its_ids_alone() {
        let caller = |uid| Caller {
            uid,
            gid: 7,
            pid: 0,
        };
        assert!(Rights::of(caller(0)).keeps_set_id);
        assert!(!Rights::of(caller(7)).keeps_set_id);
    }
}
