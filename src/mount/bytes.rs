//! Bytes of open files: read, written and synchronized, each as little as it can on a thread that others need.

use std::cell::RefCell;
use std::io::IoSliceMut;
use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::io::{Errno, ReadWriteFlags};

use super::disk_threads::Asking;
use super::error::{OperationError, OperationResult};
use super::files::{change_bytes, wal_write_gates};
use super::handles::Handle;
use super::passthrough::FileSystem;
use super::set_id::Changer;
use crate::capture::{self, Database, FileKind, Verdict, WalWrite};
use crate::fault::{DiskWait, wait_for_disk};

impl<B: Send + Sync + 'static> FileSystem<B> {
    /// Hands the bytes at `offset` to `answer`: fewer than `size` only at the end of the file.
    pub fn read(
        &self,
        handle: u64,
        offset: u64,
        size: usize,
        answer: impl FnOnce(OperationResult<&[u8]>) + Send + 'static,
    ) {
        thread_local! {
            static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
        }
        let Some(handle) = self.handles.get(handle) else {
            return answer(Err(OperationError::UnknownHandle));
        };
        BUFFER.with_borrow_mut(|buffer| {
            if buffer.len() < size {
                buffer.resize(size, 0);
            }
            let buffer = &mut buffer[..size];
            if let Some(length) = read_cached(&handle.file, buffer, offset) {
                return answer(Ok(&buffer[..length]));
            }
            let tenant = self.tenant(handle.node, &handle.tracked());
            self.disk.run(Asking::Requests, tenant, move || {
                let mut buffer = vec![0; size];
                let read = read_at(&handle.file, &mut buffer, offset);
                answer(read.map(|length| &buffer[..length]).map_err(Into::into));
            });
        });
    }

    /// Writes `data` at `offset`; answers how much was written.
    pub fn write(
        &self,
        handle: u64,
        offset: u64,
        data: &[u8],
        changer: Changer,
        answer: impl FnOnce(OperationResult<usize>) + Send + 'static,
    ) {
        let Some(handle) = self.handles.get(handle) else {
            return answer(Err(OperationError::UnknownHandle));
        };
        if let Some(database) = compared_first(&handle, data, offset) {
            let data = data.to_vec();
            let write = move || answer(write_at(&handle, &data, offset, changer));
            return self.capture.transaction_begins(&database, Box::new(write));
        }
        let gates = wal_write_gates(&handle.tracked(), offset);
        let commits_to = commits_to(&handle, data, offset);
        if gates.is_empty() && commits_to.is_none() {
            return self.write_now(handle, data, offset, changer, answer);
        }
        let data: Arc<[u8]> = data.into();
        let carry_out = {
            let data = data.clone();
            move |verdict| {
                answer(match verdict {
                    Verdict::Write => write_at(&handle, &data, offset, changer),
                    Verdict::Fail => Err(Errno::IO.into()),
                });
            }
        };
        let capture = self.capture.clone();
        self.pass_gates(gates, move || match commits_to {
            None => carry_out(Verdict::Write),
            Some(database) => {
                let write = WalWrite { offset, data };
                capture.commit(&database, write, Box::new(carry_out));
            }
        });
    }

    /// Writes in place while the disk takes writes at once, as it does where they are only cached; else as what waits for
    /// the disk.
    fn write_now(
        &self,
        handle: Arc<Handle>,
        data: &[u8],
        offset: u64,
        changer: Changer,
        answer: impl FnOnce(OperationResult<usize>) + Send + 'static,
    ) {
        if !handle.is_synchronous && !self.writes.are_slow() {
            let written = self
                .writes
                .timed(|| write_at(&handle, data, offset, changer));
            return answer(written);
        }
        let (data, writes) = (data.to_vec(), self.writes.clone());
        let tenant = self.tenant(handle.node, &handle.tracked());
        self.disk.run(Asking::Requests, tenant, move || {
            answer(writes.timed(|| write_at(&handle, &data, offset, changer)));
        });
    }

    /// Has a file's bytes on disk, and then answers.
    pub fn synchronize(
        &self,
        handle: u64,
        data_only: bool,
        answer: impl FnOnce(OperationResult<()>) + Send + 'static,
    ) {
        let Some(handle) = self.handles.get(handle) else {
            return answer(Err(OperationError::UnknownHandle));
        };
        let tracked = handle.tracked();
        let tenant = self.tenant(handle.node, &tracked);
        let capture = self.capture.clone();
        self.disk.run(Asking::Requests, tenant, move || {
            if let Some((database, FileKind::Wal)) = &tracked {
                capture.sync_of_log_begins(database, handle.file.as_fd());
            }
            let synchronized = synchronize(&handle.file, data_only);
            if let (Ok(()), Some((database, kind))) = (&synchronized, &handle.tracked()) {
                database.synced(*kind);
            }
            answer(synchronized.map_err(Into::into));
        });
    }
}

/// Has what was written to a file or a directory on disk.
pub(super) fn synchronize(file: impl AsFd, data_only: bool) -> Result<(), Errno> {
    wait_for_disk(DiskWait::Synchronize);
    match data_only {
        true => rustix::fs::fdatasync(file),
        false => rustix::fs::fsync(file),
    }
}

/// The database whose commit this write to its log may complete, where that has to wait for the store.
fn commits_to(handle: &Handle, data: &[u8], offset: u64) -> Option<Arc<Database>> {
    let Some((database, FileKind::Wal)) = &handle.tracked() else {
        return None;
    };
    let read = |buffer: &mut [u8], at| {
        read_at(&handle.file, buffer, at).is_ok_and(|read| read == buffer.len())
    };
    let may = database.may_complete_commit(offset, data, read);
    may.then(|| database.clone())
}

/// The database that a write is to change only after a comparison of it.
fn compared_first(handle: &Handle, data: &[u8], offset: u64) -> Option<Arc<Database>> {
    let Some((database, FileKind::Journal)) = &handle.tracked() else {
        return None;
    };
    let waits = database.wants_its_turn() && capture::makes_hot(&handle.file, offset, data);
    waits.then(|| database.clone())
}

fn write_at(handle: &Handle, data: &[u8], offset: u64, changer: Changer) -> OperationResult<usize> {
    let bytes = offset..offset.saturating_add(data.len() as u64);
    change_bytes(handle, bytes, changer, || {
        wait_for_disk(DiskWait::Write);
        let mut written = 0;
        while written < data.len() {
            match rustix::io::pwrite(&handle.file, &data[written..], offset + written as u64) {
                Ok(0) => break,
                Ok(length) => written += length,
                Err(Errno::INTR) => {}
                // What stands already is told; the next write meets the error again.
                Err(error) if written == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(written)
    })
}

/// Reads what is in the page cache, without waiting for a disk; none where that is not all of it.
fn read_cached(file: impl AsFd, buffer: &mut [u8], offset: u64) -> Option<usize> {
    let size = buffer.len();
    let mut buffers = [IoSliceMut::new(buffer)];
    match rustix::io::preadv2(file, &mut buffers, offset, ReadWriteFlags::NOWAIT) {
        Ok(read) if read == size => Some(read),
        // The end of the file, a page that is not cached, or a file system that can't tell.
        Ok(_) | Err(_) => None,
    }
}

fn read_at(file: impl AsFd, buffer: &mut [u8], offset: u64) -> Result<usize, Errno> {
    let mut read = 0;
    while read < buffer.len() {
        match rustix::io::pread(&file, &mut buffer[read..], offset + read as u64) {
            Ok(0) => break,
            Ok(length) => read += length,
            Err(Errno::INTR) => {}
            Err(error) if read == 0 => return Err(error),
            Err(_) => break,
        }
    }
    Ok(read)
}
