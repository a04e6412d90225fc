//! Captured segments that wait on local disk: what a reset of the log would destroy, and what is too large for memory.
//!
//! One file a segment, written beside and renamed. Not synced: a gate holds an application up, and whole directories
//! with it. So a file survives the death of the process; whether it survived that of the machine is for its own
//! checksum to say, and is asked before it is used again. Bounded in bytes for all databases together, by a fair share
//! for each tenant, and by the free space that it leaves on its disk. Room is looked for before a file is begun.

use std::collections::HashSet;
use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;

use super::database::locked;
use super::disk::{self, DiskFile};
pub use super::reserve::SpoolLimits;
use super::reserve::SpoolRoom;
use super::shares::{Shares, most_of};
use crate::meter;
use crate::store::Body;
use crate::store::keys::GenerationId;

/// Bytes of a file beside its pages, where these are few.
const FRAMING: u64 = 512;
/// Room that a file in memory has from the beginning, at most.
const AT_ONCE: u64 = 64 << 10;
const SUFFIX: &str = ".ltx";
const TEMPORARY: &str = ".tmp";
/// What the name of a file ends with that was made before its segment is captured; there is one of a database.
const AHEAD: &str = "ahead";
/// What the name of a file begins with that is kept for a look by hand.
const DOUBTFUL: &str = "doubtful-";

/// Why a segment could not be kept on disk.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    #[error("the spool holds {used} bytes and may hold {limit}")]
    Full { used: u64, limit: u64 },
    #[error(
        "the tenant holds {held} bytes of the spool, and {asked} more leave too few of {left} for the others; one tenant gets no more than three times what is left"
    )]
    Share { held: u64, asked: u64, left: u64 },
    #[error("the spool's disk has {free} bytes left, of which {reserve} are reserved")]
    Reserve { free: u64, reserve: u64 },
    #[error("spool file {path}: {source}")]
    Io { path: PathBuf, source: io::Error },
}

/// The first and the last transaction of a segment.
pub type TxidRange = (u64, u64);

/// The number of the database that a file of the spool is of; 0, which none has, for what is no file of ours.
fn id_of(path: &Path) -> i64 {
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.map(|name| name.strip_prefix(DOUBTFUL).unwrap_or(name));
    let id = name.and_then(|name| name.split('-').next());
    id.and_then(|id| id.parse().ok()).unwrap_or(0)
}

/// The spool's directory.
#[derive(Debug)]
pub struct Spool {
    directory: PathBuf,
    limits: SpoolLimits,
    shares: Mutex<Shares>,
}

impl Spool {
    /// Opens the spool in a directory that is there, and clears what was not complete when the process ended.
    pub fn open(directory: PathBuf, limits: SpoolLimits) -> Result<Self, SpoolError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| SpoolError::Io { path, source }
        };
        let mut shares = Shares::default();
        for entry in fs::read_dir(&directory).map_err(at(&directory))? {
            let entry = entry.map_err(at(&directory))?;
            let path = entry.path();
            if path.to_string_lossy().ends_with(TEMPORARY) {
                disk::remove(&path).map_err(at(&path))?;
            } else {
                let len = entry.metadata().map_err(at(&path))?.len();
                shares.add(id_of(&path), len);
            }
        }
        meter::SPOOL_BYTES.add(shares.total());
        Ok(Self {
            directory,
            limits,
            shares: Mutex::new(shares),
        })
    }

    /// Bytes that wait in it.
    pub fn used(&self) -> u64 {
        self.shares().total()
    }

    /// Says whose a database is, by its number.
    pub fn belongs_to(&self, id: i64, tenant: &Arc<str>) {
        self.shares().belongs_to(id, tenant);
    }

    fn shares(&self) -> MutexGuard<'_, Shares> {
        locked(&self.shares)
    }

    /// Where the segment with these transactions of a database lies, by the database's number.
    pub fn path_of(&self, id: i64, generation: GenerationId, (first, last): TxidRange) -> PathBuf {
        self.directory
            .join(format!("{id}-{generation}-{first:x}-{last:x}{SUFFIX}"))
    }

    /// Where a further snapshot of a generation lies until it is stored.
    pub fn snapshot_path(&self, id: i64, generation: GenerationId, seq: u32) -> PathBuf {
        self.directory
            .join(format!("{id}-{generation}-{seq:08x}.snapshot"))
    }

    /// Where the frames of an unpublished commit are kept, by the log's salts and the offset that they stood at.
    pub fn doubtful_path(&self, id: i64, salt: (u32, u32), offset: u64) -> PathBuf {
        let (a, b) = salt;
        self.directory
            .join(format!("{DOUBTFUL}{id}-{a:08x}{b:08x}-{offset}.wal-frames"))
    }

    /// Keeps a segment that is in memory.
    pub fn keep(&self, path: &Path, bytes: &Bytes) -> Result<(), SpoolError> {
        let mut writer = self.write(path, bytes.len() as u64)?;
        let written = writer.write_all(bytes);
        written.map_err(|source| self.io(path, source))?;
        writer.keep().map(|_| ())
    }

    /// Starts a segment that is too large for memory, and will have so many bytes at most.
    pub fn write(&self, path: &Path, most: u64) -> Result<SpoolWriter<'_>, SpoolError> {
        let counted = self.admit(id_of(path), most)?;
        self.begin(path, counted)
    }

    /// Starts one that is to be set aside: nobody knows yet whether it will be captured.
    pub fn write_ahead(&self, id: i64, most: u64) -> Result<SpoolWriter<'_>, SpoolError> {
        self.write(&self.directory.join(format!("{id}-{AHEAD}")), most)
    }

    /// Starts one that takes the place of others, which have so many bytes: only their disk has to have room for both.
    pub fn write_in_place_of(
        &self,
        path: &Path,
        bytes: u64,
    ) -> Result<SpoolWriter<'_>, SpoolError> {
        let (free, reserve) = self.free_and_reserve()?;
        if free < reserve.saturating_add(bytes) {
            return Err(SpoolError::Reserve { free, reserve });
        }
        self.begin(path, u64::MAX)
    }

    fn begin(&self, path: &Path, counted: u64) -> Result<SpoolWriter<'_>, SpoolError> {
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(TEMPORARY);
        let temporary = PathBuf::from(temporary);
        let file = disk::create(&temporary).map_err(|source| self.io(&temporary, source))?;
        Ok(SpoolWriter {
            spool: self,
            file: BufWriter::with_capacity(256 * 1024, file),
            temporary: Temporary(temporary),
            path: path.to_owned(),
            written: 0,
            counted,
        })
    }

    /// Removes a segment that is stored or given up; it is no error where it is gone.
    pub fn remove(&self, path: &Path) -> Result<(), SpoolError> {
        let len = match fs::metadata(path) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(source) => return Err(self.io(path, source)),
        };
        disk::remove(path).map_err(|source| self.io(path, source))?;
        self.shares().subtract(id_of(path), len);
        meter::SPOOL_BYTES.subtract(len);
        Ok(())
    }

    /// Removes every file of the database `id` but those in `wanted`.
    pub fn remove_others(&self, id: i64, wanted: &HashSet<PathBuf>) -> Result<(), SpoolError> {
        let prefix = format!("{id}-");
        let entries =
            fs::read_dir(&self.directory).map_err(|source| self.io(&self.directory, source))?;
        for entry in entries {
            let path = entry
                .map_err(|source| self.io(&self.directory, source))?
                .path();
            let ours = path
                .file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with(&prefix));
            // What is not whole belongs to whoever writes it.
            let is_whole = !path.to_string_lossy().ends_with(TEMPORARY);
            if ours && is_whole && !wanted.contains(&path) {
                self.remove(&path)?;
            }
        }
        Ok(())
    }

    /// Removes all that there is of a database that is gone.
    pub fn forget(&self, id: i64) -> Result<(), SpoolError> {
        self.remove_others(id, &HashSet::new())?;
        self.shares().forget(id);
        Ok(())
    }

    /// Whether the tenant of a database holds half as much as it may: time to see what of that is superseded.
    pub fn is_scarce(&self, id: i64) -> Result<bool, SpoolError> {
        let left = self.left()?;
        Ok(!self.shares().may_take(id, 0, left / 2))
    }

    /// Whether the database with this number may have more in it.
    pub fn check_room(&self, id: i64) -> Result<(), SpoolError> {
        self.admit(id, 0).map(drop)
    }

    /// How many bytes of a new file count, which has so many at most. One that would not fit into an empty spool is a
    /// whole database, whose tenant would have no replica: it may be there, one for a tenant that holds nothing else, and
    /// costs the others no more than one that fits.
    fn admit(&self, id: i64, most: u64) -> Result<u64, SpoolError> {
        let left = self.left()?;
        let held = {
            let shares = self.shares();
            if shares.may_take(id, most, left) {
                return Ok(u64::MAX);
            }
            shares.held_with(id)
        };
        let (free, reserve) = self.free_and_reserve()?;
        let is_outsize = most > most_of(self.limits.bytes);
        if is_outsize && held == 0 && free > reserve.saturating_add(most) {
            return Ok(most_of(left));
        }
        Err(SpoolError::Share {
            held,
            asked: most,
            left,
        })
    }

    /// Bytes that there is room for, of all together; never none.
    fn left(&self) -> Result<u64, SpoolError> {
        let (used, limit) = (self.used(), self.limits.bytes);
        if used >= limit {
            return Err(SpoolError::Full { used, limit });
        }
        let (free, reserve) = self.free_and_reserve()?;
        if free <= reserve {
            return Err(SpoolError::Reserve { free, reserve });
        }
        Ok((limit - used).min(free - reserve))
    }

    /// Bytes of the disk: what is free, and how much of that is never taken.
    fn free_and_reserve(&self) -> Result<(u64, u64), SpoolError> {
        let stat = rustix::fs::statvfs(&self.directory)
            .map_err(|errno| self.io(&self.directory, errno.into()))?;
        let free = stat.f_bavail * stat.f_frsize;
        let room = free.saturating_add(self.used());
        let disk = stat.f_blocks * stat.f_frsize;
        Ok((free, self.limits.reserve.of_disk(disk, room)))
    }

    /// What there is room for now.
    ///
    /// # Errors
    /// `Io` where the disk can't be asked.
    pub fn room(&self) -> Result<SpoolRoom, SpoolError> {
        let (free, reserve) = self.free_and_reserve()?;
        let limit = self.limits.bytes;
        let left = limit.saturating_sub(self.used());
        Ok(SpoolRoom {
            free,
            reserve,
            left: left.min(free.saturating_sub(reserve)),
            limit,
        })
    }

    fn io(&self, path: &Path, source: io::Error) -> SpoolError {
        SpoolError::Io {
            path: path.to_owned(),
            source,
        }
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        meter::SPOOL_BYTES.subtract(self.used());
    }
}

/// A segment on its way to the spool; gone again where it is dropped before `keep`.
#[derive(Debug)]
pub struct SpoolWriter<'a> {
    spool: &'a Spool,
    file: BufWriter<DiskFile>,
    temporary: Temporary,
    path: PathBuf,
    written: u64,
    /// So many bytes of it count, at most.
    counted: u64,
}

impl SpoolWriter<'_> {
    /// Gives it its name. Returns its size in bytes.
    pub fn keep(mut self) -> Result<u64, SpoolError> {
        // An attempt before may have come as far as this.
        self.spool.remove(&self.path)?;
        let kept = self.finish();
        kept.map_err(|source| self.spool.io(&self.path, source))?;
        let counted = self.written.min(self.counted);
        self.spool.shares().add(id_of(&self.path), counted);
        meter::SPOOL_BYTES.add(self.written);
        Ok(self.written)
    }

    fn finish(&mut self) -> io::Result<()> {
        self.file.flush()?;
        disk::rename(&self.temporary.0, &self.path)
    }

    /// Ends it without a name.
    pub fn set_aside(self, spool: &Arc<Spool>) -> Result<SetAside, SpoolError> {
        let ended = self.file.into_inner().map_err(|error| error.into_error());
        let file = ended.map_err(|source| spool.io(&self.temporary.0, source))?;
        let (id, counted) = (id_of(&self.path), self.written.min(self.counted));
        spool.shares().add(id, counted);
        meter::SPOOL_BYTES.add(self.written);
        Ok(SetAside {
            spool: spool.clone(),
            file,
            temporary: self.temporary,
            id,
            size: self.written,
            counted,
        })
    }
}

impl Write for SpoolWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.written += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// A file that was ended without a name, and counts as long as it is there; gone again where it is dropped before `keep`.
#[derive(Debug)]
pub struct SetAside {
    spool: Arc<Spool>,
    file: DiskFile,
    temporary: Temporary,
    id: i64,
    size: u64,
    counted: u64,
}

impl SetAside {
    /// Bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Where it is to be kept, if it has the name that its database and its transactions give it.
    pub fn path_of(&self, generation: GenerationId, txids: TxidRange) -> PathBuf {
        self.spool.path_of(self.id, generation, txids)
    }

    /// Gives it its name, with another beginning and end of the same sizes.
    pub fn keep(mut self, path: &Path, begin: &[u8], end: &[u8]) -> Result<(), SpoolError> {
        self.spool.remove(path)?;
        let write = || {
            self.file.write_all_at(begin, 0)?;
            self.file.write_all_at(end, self.size - end.len() as u64)?;
            disk::rename(&self.temporary.0, path)
        };
        write().map_err(|source| self.spool.io(path, source))?;
        // From now on it counts as long as the named file is there.
        (self.size, self.counted) = (0, 0);
        Ok(())
    }
}

impl Drop for SetAside {
    fn drop(&mut self) {
        self.spool.shares().subtract(self.id, self.counted);
        meter::SPOOL_BYTES.subtract(self.size);
    }
}

/// The name of a file that is not whole, or not to be kept yet.
#[derive(Debug)]
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // After `keep` it is gone; what is left for another reason is cleared at the next start.
        if let Err(error) = disk::remove(&self.0)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(error = %error, "an unfinished spool file could not be removed");
        }
    }
}

/// Where an LTX file is written to: memory where it is known to be small, else the spool.
#[derive(Debug)]
pub enum Sink<'a> {
    Memory(Vec<u8>),
    Spool(SpoolWriter<'a>),
}

impl Sink<'_> {
    /// For pages of so many bytes.
    pub fn in_memory(pages: u64) -> Self {
        let most = (pages + FRAMING).min(AT_ONCE);
        Self::Memory(Vec::with_capacity(most as usize))
    }

    /// Ends the file. Returns it and its size.
    pub fn finish(self) -> Result<(Body, u64), SpoolError> {
        match self {
            Sink::Memory(mut bytes) => {
                bytes.shrink_to_fit();
                let size = bytes.len() as u64;
                Ok((Body::Bytes(bytes.into()), size))
            }
            Sink::Spool(writer) => {
                let path = writer.path.clone();
                Ok((Body::File(path), writer.keep()?))
            }
        }
    }
}

impl Write for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Sink::Memory(buffer) => buffer.write(bytes),
            Sink::Spool(writer) => writer.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Sink::Memory(_) => Ok(()),
            Sink::Spool(writer) => writer.flush(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::reserve::SpoolReserve;
    use super::*;

    const UNLIMITED: SpoolLimits = SpoolLimits {
        bytes: 1 << 40,
        reserve: SpoolReserve::Bytes(0),
    };

    #[test]
    fn only_whole_segments_have_a_name() {
        let dir = tempfile::tempdir().expect("a directory");
        let spool = Spool::open(dir.path().to_owned(), UNLIMITED).expect("open");
        let path = spool.path_of(1, GenerationId(2), (3, 4));
        {
            let mut writer = spool.write(&path, 10).expect("writer");
            writer.write_all(b"half").expect("write");
        }
        assert_eq!(fs::read_dir(dir.path()).expect("list").count(), 0);
        for _ in 0..2 {
            // An attempt whose note failed is made again.
            spool
                .keep(&path, &Bytes::from_static(b"whole"))
                .expect("keep");
            assert_eq!(spool.used(), 5);
        }
        let again = Spool::open(dir.path().to_owned(), UNLIMITED).expect("open again");
        assert_eq!(again.used(), 5);
        again
            .remove_others(1, &HashSet::from([path.clone()]))
            .expect("kept");
        assert!(path.exists());
        again
            .remove_others(10, &HashSet::new())
            .expect("another database");
        assert!(path.exists());
        again.remove_others(1, &HashSet::new()).expect("removed");
        assert_eq!(again.used(), 0);
    }

    #[test]
    fn what_is_set_aside_counts_until_it_is_gone_and_has_its_name_when_it_is_kept() {
        let dir = tempfile::tempdir().expect("a directory");
        let spool = Spool::open(dir.path().to_owned(), UNLIMITED).expect("open");
        let spool = Arc::new(spool);
        let path = spool.path_of(7, GenerationId(2), (3, 4));
        for is_kept in [false, true] {
            let mut writer = spool.write_ahead(7, 10).expect("writer");
            writer.write_all(b"0123456789").expect("write");
            let aside = writer.set_aside(&spool).expect("set aside");
            assert_eq!((aside.size(), spool.used()), (10, 10));
            // It is none of the segments.
            spool.remove_others(7, &HashSet::new()).expect("removed");
            if is_kept {
                assert_eq!(aside.path_of(GenerationId(2), (3, 4)), path);
                aside.keep(&path, b"ab", b"yz").expect("kept");
            } else {
                drop(aside);
            }
            let left = fs::read_dir(dir.path()).expect("list").count();
            assert_eq!(left, usize::from(is_kept));
        }
        assert_eq!(fs::read(&path).expect("read"), b"ab234567yz");
        assert_eq!(spool.used(), 10);
        spool.remove(&path).expect("removed");
        assert_eq!(spool.used(), 0);
    }

    #[test]
    fn a_full_spool_says_so_and_keeps_room_for_others() {
        let dir = tempfile::tempdir().expect("a directory");
        let limits = SpoolLimits {
            bytes: 100,
            ..UNLIMITED
        };
        let spool = Spool::open(dir.path().to_owned(), limits).expect("open");
        let keep = |id: i64, last: u64, bytes: usize| {
            let path = spool.path_of(id, GenerationId(2), (1, last));
            spool.keep(&path, &Bytes::from(vec![7; bytes]))
        };
        keep(1, 1, 60).expect("there is room");
        assert!(matches!(keep(1, 2, 60), Err(SpoolError::Share { .. })));
        keep(2, 1, 30).expect("there is room for another");
        keep(3, 1, 7).expect("and for another");
        assert_eq!(spool.used(), 97);
        assert!(spool.is_scarce(1).expect("looked"));
        let limits = SpoolLimits {
            bytes: 97,
            ..UNLIMITED
        };
        let spool = Spool::open(dir.path().to_owned(), limits).expect("open");
        let path = spool.path_of(4, GenerationId(2), (1, 1));
        let refused = spool.write(&path, 1);
        assert!(matches!(refused, Err(SpoolError::Full { .. })));
        let limits = SpoolLimits {
            reserve: SpoolReserve::Bytes(u64::MAX),
            ..UNLIMITED
        };
        let spool = Spool::open(dir.path().to_owned(), limits).expect("open");
        let refused = spool.write(&path, 1);
        assert!(matches!(refused, Err(SpoolError::Reserve { .. })));
    }

    #[test]
    fn a_database_that_is_larger_than_the_spool_is_kept_and_costs_no_more_than_its_share() {
        let dir = tempfile::tempdir().expect("a directory");
        let limits = SpoolLimits {
            bytes: 100,
            ..UNLIMITED
        };
        let spool = Spool::open(dir.path().to_owned(), limits).expect("open");
        let path_of = |id: i64| spool.path_of(id, GenerationId(2), (1, 1));
        let large = Bytes::from(vec![7; 1000]);
        spool.keep(&path_of(1), &large).expect("its only file");
        assert_eq!(spool.used(), 75);
        let other = spool.path_of(1, GenerationId(2), (2, 2));
        let refused = spool.keep(&other, &large);
        assert!(matches!(refused, Err(SpoolError::Share { .. })));
        spool
            .keep(&path_of(2), &Bytes::from_static(b"quiet"))
            .expect("room for others");
        spool.remove(&path_of(1)).expect("removed");
        assert_eq!(spool.used(), 5);
    }
}
