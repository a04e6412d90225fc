//! Every change that the capture makes on local disk, but for those that SQLite makes to the state database.
//!
//! They are all here, so that a simulation can record them, and have the process end before any of them.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

#[cfg(test)]
use super::recorder::{self, Change};

/// A file that is written.
#[derive(Debug)]
pub(super) struct DiskFile {
    file: File,
    /// Where `Write` goes on.
    at: u64,
}

/// Makes an empty file that its owner alone may read, or empties the one that is there.
pub(super) fn create(path: &Path) -> io::Result<DiskFile> {
    #[cfg(test)]
    recorder::before(&Change::Create(path))?;
    let mut options = File::options();
    let options = options.write(true).create(true).truncate(true).mode(0o600);
    let file = options.custom_flags(libc::O_NOFOLLOW).open(path)?;
    Ok(DiskFile { file, at: 0 })
}

/// Opens a file to change it in place.
pub(super) fn open(path: &Path) -> io::Result<DiskFile> {
    let file = File::options().write(true).open(path)?;
    Ok(DiskFile { file, at: 0 })
}

pub(super) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    #[cfg(test)]
    recorder::before(&Change::Rename(from, to))?;
    std::fs::rename(from, to)
}

pub(super) fn remove(path: &Path) -> io::Result<()> {
    #[cfg(test)]
    recorder::before(&Change::Remove(path))?;
    std::fs::remove_file(path)
}

impl DiskFile {
    pub fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        #[cfg(test)]
        recorder::before(&Change::Write(
            &recorder::path_of(&self.file)?,
            offset,
            bytes,
        ))?;
        self.file.write_all_at(bytes, offset)
    }

    pub fn set_len(&self, size: u64) -> io::Result<()> {
        #[cfg(test)]
        recorder::before(&Change::Cut(&recorder::path_of(&self.file)?, size))?;
        self.file.set_len(size)
    }
}

impl Write for DiskFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all_at(bytes, self.at)?;
        self.at += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
