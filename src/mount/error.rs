//! Why a file operation failed, and the errno that the application gets for it.

use rustix::io::Errno;

/// The failure of one file operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OperationError {
    #[error("the backing directory answered: {0}")]
    Backing(#[from] Errno),
    /// No name and no open file leads to the inode any more: something changed the backing directory past the mount.
    #[error("the file is no longer where the mount knows it")]
    Stale,
    #[error("the handle is not open")]
    UnknownHandle,
    /// The name of the state directory, which the mount does not show.
    #[error("the name is reserved for the mount's own state")]
    ReservedName,
    /// The user holds as many open files as are left for others.
    #[error("the user has its share of open files")]
    TooManyOpen,
    #[error("a flag of the request is not supported")]
    UnsupportedFlag,
}

pub type OperationResult<T> = Result<T, OperationError>;

impl OperationError {
    /// What the application's system call returns.
    pub fn errno(self) -> Errno {
        match self {
            Self::Backing(errno) => errno,
            Self::Stale => Errno::STALE,
            Self::UnknownHandle => Errno::BADF,
            Self::ReservedName => Errno::PERM,
            Self::TooManyOpen => Errno::NFILE,
            Self::UnsupportedFlag => Errno::INVAL,
        }
    }

    /// Whether it tells of a broken disk or a broken mount, rather than of a request that could not be met.
    pub fn is_fault(self) -> bool {
        match self {
            Self::Backing(errno) => matches!(errno, Errno::IO | Errno::MFILE | Errno::NFILE),
            Self::UnknownHandle => true,
            Self::Stale | Self::ReservedName | Self::TooManyOpen | Self::UnsupportedFlag => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_file_is_no_fault_and_a_broken_disk_is() {
        assert!(!OperationError::from(Errno::NOENT).is_fault());
        assert!(OperationError::from(Errno::IO).is_fault());
        assert_eq!(OperationError::ReservedName.errno(), Errno::PERM);
    }
}
