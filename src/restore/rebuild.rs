//! Puts a database together from its objects, and believes none that does not follow exactly on the one before.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use super::RestoreError;
use super::fetch::Fetched;
use crate::clock::UnixMs;
use crate::format::ltx::{DatabaseChecksum, Decoder, Header, LtxError, lock_page, page_checksum};

/// What an object is to the database that is being put together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Role {
    /// The snapshot that everything begins with.
    Base,
    /// The next segment.
    Segment,
    /// A later snapshot, which has to be exactly what the segments up to it have made.
    Compare,
}

/// The state that has been reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Reached {
    pub txid: u64,
    pub time_ms: UnixMs,
    pub page_size: u32,
    /// Pages of the database.
    pub commit: u32,
    /// Of the whole database, with the flag.
    pub checksum: u64,
}

/// A database file that grows object by object. Blocks: it belongs on a thread that may.
pub(super) struct Rebuild {
    file: File,
    path: PathBuf,
    reached: Option<Reached>,
    /// Checksum of each page from 1 on; 0 for the lock page. It grows only by pages that have come.
    sums: Vec<u64>,
    sum: DatabaseChecksum,
    page: Vec<u8>,
}

/// Why an object was refused, before its key is put to it.
enum Refusal {
    Format(LtxError),
    OutOfPlace(String),
    Local(io::Error),
}

impl From<LtxError> for Refusal {
    fn from(error: LtxError) -> Self {
        match error {
            LtxError::Io(error) => Self::Local(error),
            other => Self::Format(other),
        }
    }
}

impl Rebuild {
    /// Into `file`, which is empty and lies at `path`.
    pub fn new(file: File, path: PathBuf) -> Self {
        Self {
            file,
            path,
            reached: None,
            sums: Vec::new(),
            sum: DatabaseChecksum::EMPTY,
            page: Vec::new(),
        }
    }

    /// Checks an object to its last byte and brings the file to the state at its end.
    ///
    /// # Errors
    /// `Damaged` or `OutOfPlace` with `key`; `Local` for the file.
    pub fn apply(&mut self, role: Role, key: String, object: Fetched) -> Result<(), RestoreError> {
        self.apply_object(role, object)
            .map_err(|refusal| match refusal {
                Refusal::Format(source) => RestoreError::Damaged { key, source },
                Refusal::OutOfPlace(reason) => RestoreError::OutOfPlace { key, reason },
                Refusal::Local(source) => RestoreError::local("write it", &self.path)(source),
            })
    }

    /// Reads every page back from the file, proves that they are the state that was reached, and makes them
    /// durable. None before the first object.
    ///
    /// # Errors
    /// `Local` where the file does not hold what was written.
    pub fn finish(mut self) -> Result<Option<Reached>, RestoreError> {
        let Some(reached) = self.reached else {
            return Ok(None);
        };
        let proven = self.prove(reached);
        proven.map_err(RestoreError::local(
            "read back what was written",
            &self.path,
        ))?;
        let synced = self.file.sync_all();
        synced.map_err(RestoreError::local("make it durable", &self.path))?;
        Ok(Some(reached))
    }

    fn apply_object(&mut self, role: Role, object: Fetched) -> Result<(), Refusal> {
        let mut decoder = Decoder::new(object.reader())?;
        let header = *decoder.header();
        self.check_place(role, &header)?;
        self.page.resize(header.page_size as usize, 0);
        while let Some(pgno) = decoder.next_page(&mut self.page)? {
            match role {
                Role::Compare => self.compare_page(pgno)?,
                Role::Base | Role::Segment => self.write_page(header.page_size, pgno)?,
            }
        }
        let trailer = decoder.finish()?;
        self.shrink(header.commit);
        self.check_whole(&header)?;
        let len = u64::from(header.commit) * u64::from(header.page_size);
        self.file.set_len(len).map_err(Refusal::Local)?;
        if trailer.post_apply_checksum != self.sum.value() {
            return Err(Refusal::Format(LtxError::DatabaseChecksum {
                computed: self.sum.value(),
                stored: trailer.post_apply_checksum,
            }));
        }
        self.reached = Some(Reached {
            txid: header.max_txid,
            time_ms: header.timestamp_ms,
            page_size: header.page_size,
            commit: header.commit,
            checksum: self.sum.value(),
        });
        Ok(())
    }

    /// The rules that bind an object to what has been reached before it.
    fn check_place(&self, role: Role, header: &Header) -> Result<(), Refusal> {
        let misplaced = |reason: String| Err(Refusal::OutOfPlace(reason));
        if header.no_checksum {
            return misplaced("it has no database checksums".to_owned());
        }
        let Some(reached) = self.reached else {
            return match header.is_snapshot() {
                true => Ok(()),
                false => misplaced(format!(
                    "it begins with TXID {}, and is no snapshot",
                    header.min_txid
                )),
            };
        };
        if header.page_size != reached.page_size {
            let (own, before) = (header.page_size, reached.page_size);
            return misplaced(format!(
                "its pages have {own} bytes, and had {before} before"
            ));
        }
        if role == Role::Compare {
            let is_same = header.is_snapshot()
                && (header.max_txid, header.commit) == (reached.txid, reached.commit);
            return match is_same {
                true => Ok(()),
                false => misplaced(format!("it is no snapshot of TXID {}", reached.txid)),
            };
        }
        if header.min_txid - 1 != reached.txid {
            let (min, before) = (header.min_txid, reached.txid);
            return misplaced(format!(
                "it begins with TXID {min}, and the one before ends with {before}"
            ));
        }
        if header.pre_apply_checksum != reached.checksum {
            return misplaced("it was made for another state of the database".to_owned());
        }
        if header.timestamp_ms < reached.time_ms {
            return misplaced("its time is before its predecessor's".to_owned());
        }
        Ok(())
    }

    fn write_page(&mut self, page_size: u32, pgno: u32) -> Result<(), Refusal> {
        self.extend_to(page_size, pgno)?;
        let sum = page_checksum(pgno, &self.page);
        let known = &mut self.sums[pgno as usize - 1];
        if *known != 0 {
            self.sum.toggle(*known);
        }
        self.sum.toggle(sum);
        *known = sum;
        let offset = u64::from(pgno - 1) * u64::from(page_size);
        self.file
            .write_all_at(&self.page, offset)
            .map_err(Refusal::Local)
    }

    fn compare_page(&self, pgno: u32) -> Result<(), Refusal> {
        let known = self.sums.get(pgno as usize - 1).copied();
        match known == Some(page_checksum(pgno, &self.page)) {
            true => Ok(()),
            false => Err(Refusal::OutOfPlace(format!(
                "its page {pgno} is not the segments'"
            ))),
        }
    }

    /// Makes room for the checksum of `pgno`. A database that grows has every page that it grows by in the same
    /// object, so a number in a file alone takes no memory.
    fn extend_to(&mut self, page_size: u32, pgno: u32) -> Result<(), Refusal> {
        let lock = lock_page(page_size);
        let mut next = self.sums.len() as u32 + 1;
        if next == lock && pgno > lock {
            self.sums.push(0);
            next += 1;
        }
        match pgno.cmp(&next) {
            std::cmp::Ordering::Less => {}
            std::cmp::Ordering::Equal => self.sums.push(0),
            std::cmp::Ordering::Greater => return Err(lacks_page(next)),
        }
        Ok(())
    }

    /// Takes out the sums of the pages that the database has no more.
    fn shrink(&mut self, commit: u32) {
        let commit = commit as usize;
        if self.sums.len() > commit {
            for sum in self.sums.drain(commit..).filter(|&sum| sum != 0) {
                self.sum.toggle(sum);
            }
        }
    }

    /// Every page up to the end has come, at some time, but the lock page.
    fn check_whole(&mut self, header: &Header) -> Result<(), Refusal> {
        let next = self.sums.len() as u32 + 1;
        if self.sums.len() as u32 == header.commit {
            return Ok(());
        }
        if next == header.commit && next == lock_page(header.page_size) {
            self.sums.push(0);
            return Ok(());
        }
        Err(lacks_page(next))
    }

    fn prove(&mut self, reached: Reached) -> io::Result<()> {
        let mut sum = DatabaseChecksum::EMPTY;
        let lock = lock_page(reached.page_size);
        for pgno in (1..=reached.commit).filter(|&pgno| pgno != lock) {
            let offset = u64::from(pgno - 1) * u64::from(reached.page_size);
            self.file.read_exact_at(&mut self.page, offset)?;
            sum.toggle(page_checksum(pgno, &self.page));
        }
        let len = self.file.metadata()?.len();
        let expected = u64::from(reached.commit) * u64::from(reached.page_size);
        match sum.value() == reached.checksum && len == expected {
            true => Ok(()),
            false => Err(io::Error::other(
                "the file does not hold what was written to it",
            )),
        }
    }
}

fn lacks_page(pgno: u32) -> Refusal {
    Refusal::OutOfPlace(format!("the database grows, and page {pgno} has not come"))
}
