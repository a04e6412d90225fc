//! Whose a restored file is, and who may read it: as the user asks, else as the source's file was, else as the process
//! makes files.
//!
//! What the store says of an owner is a claim. It decides about a file that holds nothing but what the store says anyway,
//! and gives no bit that lets a file be run or run as somebody.

use std::ffi::OsStr;
use std::fs::{File, Permissions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, fchown};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::Mode;

use super::describe::describe;
use super::destination::open_directory;
use super::error::RestoreError;
use super::replica::Replica;
use crate::format::description::Attributes;
use crate::format::keys::GenerationId;
use crate::store::{ObjectStore, StoreError};

/// What of a stored mode a file may have.
const FILE_BITS: u32 = 0o666;
const DIRECTORY_BITS: u32 = 0o777;

/// Owner and mode that the user asks for; none where the source's are given back.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Asked {
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    /// Permission bits, of files alone.
    pub mode: Option<u32>,
}

impl Asked {
    /// What a file gets that is described so; none where nothing is said of it.
    pub(super) fn of_file(self, described: Option<Attributes>) -> Wanted {
        Wanted {
            uid: self.uid,
            gid: self.gid,
            mode: self.mode,
            described: described.map(|described| Attributes {
                mode: described.mode & FILE_BITS,
                ..described
            }),
        }
    }

    /// Makes a directory that is described so below another, and opens it.
    ///
    /// # Errors
    /// Where it is there already, too.
    pub(super) fn make_directory(
        self,
        parent: impl AsFd,
        name: &OsStr,
        described: Option<Attributes>,
    ) -> io::Result<File> {
        rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(DIRECTORY_BITS))?;
        let others = if is_root() { 0 } else { 0o700 };
        let wanted = Wanted {
            uid: self.uid,
            gid: self.gid,
            mode: None,
            described: described.map(|described| Attributes {
                // Who is not root has to get at what comes into it.
                mode: described.mode & DIRECTORY_BITS | others,
                ..described
            }),
        };
        let made = open_directory(parent, name)?;
        wanted.give(&made)?;
        Ok(made)
    }
}

/// What one file or directory is to get.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    uid: Option<u32>,
    gid: Option<u32>,
    mode: Option<u32>,
    described: Option<Attributes>,
}

impl Wanted {
    /// Whether nobody but its owner may read the file before it has got its mode.
    pub fn is_said(&self) -> bool {
        self.mode.is_some() || self.described.is_some()
    }

    /// The same in the place of a file that is there: it keeps its own where the user asks for nothing else.
    pub fn instead_of(self, replaced: Attributes) -> Self {
        Self {
            uid: self.uid.or(Some(replaced.uid)),
            gid: self.gid.or(Some(replaced.gid)),
            mode: self.mode.or(Some(replaced.mode)),
            described: None,
        }
    }

    /// Gives it what the user asks for, and of what is described as much as the process may: only root gives files away,
    /// and where the group can't be given, it may do no more than all others.
    ///
    /// # Errors
    /// Where what the user asks for is not permitted.
    pub fn give(&self, file: &File) -> io::Result<()> {
        let described = self.described;
        let uid = self
            .uid
            .or(described.filter(|_| is_root()).map(|one| one.uid));
        if uid.is_some() || self.gid.is_some() {
            fchown(file, uid, self.gid)?;
        }
        let mut has_group = true;
        if let (None, Some(described)) = (self.gid, described) {
            has_group = match fchown(file, None, Some(described.gid)) {
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => false,
                given => given.map(|()| true)?,
            };
        }
        let mode = match (self.mode, described) {
            (Some(mode), _) => mode,
            (None, Some(described)) if has_group => described.mode,
            (None, Some(described)) => {
                let of_others = (described.mode & 0o007) << 3;
                described.mode & (0o707 | of_others)
            }
            (None, None) => return Ok(()),
        };
        file.set_permissions(Permissions::from_mode(mode))
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// What the source's file was like, as the newest generation says it, else the one that is restored.
///
/// # Errors
/// Those of the store.
pub(super) async fn described(
    replica: &Replica,
    restored: GenerationId,
) -> Result<Option<Attributes>, StoreError> {
    let store: &Arc<dyn ObjectStore> = &replica.store;
    let newest = replica.index.newest().into_iter();
    for generation in newest.chain((replica.index.newest() != Some(restored)).then_some(restored)) {
        let description = describe(store, &replica.prefix, generation).await?;
        if let Some(file) = description.and_then(|description| description.file) {
            return Ok(Some(file));
        }
    }
    Ok(None)
}

/// The owner and mode that a file has.
pub(super) fn attributes_of(found: &rustix::fs::Stat) -> Attributes {
    Attributes {
        uid: found.st_uid,
        gid: found.st_gid,
        mode: found.st_mode & 0o7777,
    }
}

/// An error of giving a file its owner and mode.
pub(super) fn not_given(path: &Path) -> impl FnOnce(io::Error) -> RestoreError + '_ {
    RestoreError::local("give it its owner and mode", path)
}
