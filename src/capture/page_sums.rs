//! The page checksums of one database as its newest durable segment left it: a file of 8 bytes a page.
//!
//! They give the database's rolling checksum without reading the database, and are what a resync compares with.
//! Layout: a header of 64 bytes (magic, generation, TXID, checksum, size in pages, page size; little-endian), then the
//! sum of page 1, page 2, … The header is written after the sums that it stands for, so sums of a segment after the
//! header's TXID may be in place in part: whoever loads the table puts the sums of those segments in again.
//!
//! A transaction often changes the pages that the one before has changed. So a few sums that the state has noted are written
//! with later ones, once for many transactions: until then they are in memory, and the state notes them with each segment.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::backing::read_up_to;
use super::disk::{self, DiskFile};
use super::mark::PageSum;
use crate::fault::Point;
use crate::format::ltx::DatabaseChecksum;
use crate::store::keys::GenerationId;

const MAGIC: &[u8; 8] = b"LMTSUMS1";
const HEADER_SIZE: u64 = 64;
/// Sums read or written in one go.
const BATCH: usize = 8192;
/// Sums that were written last and stay in memory, at most.
const MOST_RECENT: usize = 64;
/// Sums that may wait to be written: each idle database keeps its own, in memory and in the state.
const MOST_LACKING: usize = 8;

/// Which state of which generation the sums are those of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SumsHeader {
    pub generation: GenerationId,
    pub txid: u64,
    pub checksum: u64,
    /// Pages.
    pub commit: u32,
    pub page_size: u32,
}

impl SumsHeader {
    fn encode(&self) -> [u8; HEADER_SIZE as usize] {
        let mut bytes = [0; HEADER_SIZE as usize];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..16].copy_from_slice(&self.generation.0.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.txid.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.checksum.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.commit.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.page_size.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; HEADER_SIZE as usize]) -> Option<Self> {
        let le64 = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
        let le32 = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
        (&bytes[..8] == MAGIC).then(|| Self {
            generation: GenerationId(le64(8)),
            txid: le64(16),
            checksum: le64(24),
            commit: le32(32),
            page_size: le32(36),
        })
    }
}

/// The sums on disk, and over them those of segments that are in memory only.
#[derive(Debug)]
pub struct PageSums {
    directory: Arc<Path>,
    /// Of the database, in the state.
    id: i64,
    /// Sum and sequence number of the newest segment in memory that has the page.
    overlay: HashMap<u32, (u64, u32)>,
    /// Pages for which the table has room; none where that is not known.
    room: Option<u32>,
    recent: Recent,
}

/// Some of the sums, ascending, over those on disk.
#[derive(Clone, Debug, Default)]
pub struct Recent {
    pub sums: Arc<[PageSum]>,
    /// The table has others: these are written to it with later ones, and the state has them until then. Else they are what
    /// was written last.
    pub is_lacking: bool,
}

impl Recent {
    /// Those that the table lacks.
    pub fn lacking(&self) -> &[PageSum] {
        if self.is_lacking { &self.sums } else { &[] }
    }

    fn sum(&self, pgno: u32) -> Option<u64> {
        let place = self.sums.binary_search_by_key(&pgno, |&(pgno, _)| pgno);
        place.ok().map(|place| self.sums[place].1)
    }
}

impl PageSums {
    /// Those of the database that the state knows under that number, in the state's directory.
    pub fn new(directory: Arc<Path>, id: i64) -> Self {
        Self::with(directory, id, None, Recent::default())
    }

    /// The same, if that is known to have room for so many pages, and no more. `recent` is what one of them said before.
    pub fn with(directory: Arc<Path>, id: i64, room: Option<u32>, recent: Recent) -> Self {
        Self {
            directory,
            id,
            overlay: HashMap::new(),
            room,
            recent,
        }
    }

    /// For how many pages they have room, if that is all there is of them: nothing in memory lies over them.
    pub fn only_on_disk(&self) -> Option<Option<u32>> {
        self.overlay.is_empty().then_some(self.room)
    }

    pub fn recent(&self) -> &Recent {
        &self.recent
    }

    /// What the state has to note with a segment that has these sums, ascending: they, and what the table lacks of those before
    /// it.
    pub fn noted(&self, sums: &[PageSum]) -> Vec<PageSum> {
        let lacking = self.recent.lacking().iter();
        let is_older = |(pgno, _): &&PageSum| sums.binary_search_by_key(pgno, |sum| sum.0).is_err();
        let mut all: Vec<_> = lacking.filter(is_older).chain(sums).copied().collect();
        all.sort_unstable_by_key(|&(pgno, _)| pgno);
        all
    }

    fn path(&self) -> PathBuf {
        path_in(&self.directory, self.id)
    }

    /// Replaces the table with the sums of a whole database, page 1 first; 0 for the lock page.
    pub fn rewrite(&mut self, header: &SumsHeader, sums: &[u64]) -> io::Result<()> {
        self.room = None;
        let path = self.path();
        let temporary = path.with_extension("tmp");
        let file = disk::create(&temporary)?;
        for (index, batch) in sums.chunks(BATCH).enumerate() {
            write_sums(&file, 1 + (index * BATCH) as u32, batch)?;
        }
        file.write_all_at(&header.encode(), 0)?;
        disk::rename(&temporary, &path)?;
        Point::TableRewritten.reach();
        self.recent = Recent::default();
        self.overlay.clear();
        Ok(())
    }

    /// Lays the sums of a segment that is in memory only over the table. Those of a later segment stay above them.
    pub fn lay_over(&mut self, seq: u32, sums: &[(u32, u64)]) {
        for &(pgno, sum) in sums {
            let newest = self.overlay.entry(pgno).or_insert((sum, seq));
            if newest.1 <= seq {
                *newest = (sum, seq);
            }
        }
    }

    /// Segments after `last` have numbers that are less by `fewer`.
    pub fn renumber(&mut self, last: u32, fewer: u32) {
        let later = self.overlay.values_mut().filter(|(_, seq)| *seq > last);
        later.for_each(|(_, seq)| *seq -= fewer);
    }

    /// Forgets what segments in memory said: they will never become durable.
    pub fn drop_overlay(&mut self) {
        self.overlay.clear();
    }

    /// A segment has become durable, and the state has `noted` its sums: they go into the table with later ones where there are
    /// few of them.
    pub fn follow(&mut self, header: &SumsHeader, seq: u32, sums: &[PageSum]) -> io::Result<()> {
        let noted = self.noted(sums);
        if self.room != Some(header.commit) || noted.len() > MOST_LACKING {
            return self.make_durable(header, seq, sums);
        }
        self.recent = Recent {
            sums: noted.into(),
            is_lacking: true,
        };
        self.uncover(seq, sums);
        Ok(())
    }

    /// A segment has become durable: its sums go into the table, which then is that of `header`. With them goes what it lacks
    /// of those before.
    pub fn make_durable(
        &mut self,
        header: &SumsHeader,
        seq: u32,
        sums: &[PageSum],
    ) -> io::Result<()> {
        let noted = self.noted(sums);
        let room = self.room.take();
        let file = disk::open(&self.path())?;
        for run in noted.chunk_by(|a, b| a.0 + 1 == b.0) {
            let values: Vec<u64> = run.iter().map(|&(_, sum)| sum).collect();
            write_sums(&file, run[0].0, &values)?;
        }
        if room != Some(header.commit) {
            file.set_len(HEADER_SIZE + 8 * u64::from(header.commit))?;
        }
        Point::SumsWritten.reach();
        file.write_all_at(&header.encode(), 0)?;
        self.room = Some(header.commit);
        let is_there = |(pgno, _): &&PageSum| *pgno <= header.commit;
        let written = noted.iter().filter(is_there).copied();
        self.recent = match noted.len() <= MOST_RECENT {
            true => Recent {
                sums: written.collect(),
                is_lacking: false,
            },
            false => Recent::default(),
        };
        self.uncover(seq, sums);
        Ok(())
    }

    /// What a segment said is not in memory only any more.
    fn uncover(&mut self, seq: u32, sums: &[PageSum]) {
        for (pgno, _) in sums {
            let newest = self.overlay.get(pgno);
            if newest.is_some_and(|&(_, newest)| newest <= seq) {
                self.overlay.remove(pgno);
            }
        }
    }

    /// For a run of look-ups.
    pub fn reader(&self) -> SumsReader<'_> {
        SumsReader {
            table: self,
            file: OnceCell::new(),
        }
    }

    /// As far as it is in memory.
    fn known(&self, pgno: u32) -> Option<u64> {
        let newest = self.overlay.get(&pgno).map(|&(sum, _)| sum);
        newest.or_else(|| self.recent.sum(pgno))
    }

    /// The header, whatever the sums below it are; none where there is no table.
    pub fn header(&self) -> io::Result<Option<SumsHeader>> {
        Ok(self.open()?.map(|(header, _)| header))
    }

    fn open(&self) -> io::Result<Option<(SumsHeader, File)>> {
        let file = match File::open(self.path()) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut bytes = [0; HEADER_SIZE as usize];
        if read_up_to(&file, &mut bytes, 0)? < bytes.len() {
            return Ok(None);
        }
        Ok(SumsHeader::decode(&bytes).map(|header| (header, file)))
    }

    /// The header, and the checksum that the sums below it really have; none where there is no whole table.
    pub fn load(&self) -> io::Result<Option<(SumsHeader, DatabaseChecksum)>> {
        let Some((header, file)) = self.open()? else {
            return Ok(None);
        };
        let mut total = DatabaseChecksum::EMPTY;
        let mut whole = true;
        each_sum(&file, 1, header.commit, &mut |_, sum| match sum {
            Some(0) => {}
            Some(sum) => total.toggle(sum),
            None => whole = false,
        })?;
        Ok(whole.then_some((header, total)))
    }
}

/// Looks sums up: those in memory first. The file is opened for the first that is not there.
#[derive(Debug)]
pub struct SumsReader<'a> {
    table: &'a PageSums,
    file: OnceCell<File>,
}

impl SumsReader<'_> {
    /// The sum of one page; 0 where it has none.
    pub fn sum(&self, pgno: u32) -> io::Result<u64> {
        if let Some(sum) = self.table.known(pgno) {
            return Ok(sum);
        }
        let mut bytes = [0; 8];
        let read = read_up_to(self.file()?, &mut bytes, offset_of(pgno))?;
        Ok(if read == 8 {
            u64::from_le_bytes(bytes)
        } else {
            0
        })
    }

    /// The sums of the pages `first..=last` in order; 0 where a page has none.
    pub fn range(&self, first: u32, last: u32, each: &mut dyn FnMut(u32, u64)) -> io::Result<()> {
        let known = |pgno| self.table.known(pgno);
        if (first..=last).all(|pgno| known(pgno).is_some()) {
            (first..=last).for_each(|pgno| each(pgno, known(pgno).unwrap_or(0)));
            return Ok(());
        }
        each_sum(self.file()?, first, last, &mut |pgno, sum| {
            each(pgno, known(pgno).or(sum).unwrap_or(0));
        })
    }

    fn file(&self) -> io::Result<&File> {
        if let Some(file) = self.file.get() {
            return Ok(file);
        }
        let file = File::open(self.table.path())?;
        Ok(self.file.get_or_init(|| file))
    }
}

/// The file of the database that the state knows under that number.
pub fn path_in(directory: &Path, id: i64) -> PathBuf {
    directory.join(format!("{id}.sums"))
}

fn offset_of(pgno: u32) -> u64 {
    HEADER_SIZE + 8 * (u64::from(pgno) - 1)
}

fn write_sums(file: &DiskFile, first: u32, sums: &[u64]) -> io::Result<()> {
    let bytes: Vec<u8> = sums.iter().flat_map(|sum| sum.to_le_bytes()).collect();
    file.write_all_at(&bytes, offset_of(first))
}

/// Reads the sums of `first..=last` in batches; none where the file ends before.
fn each_sum(
    file: &File,
    first: u32,
    last: u32,
    each: &mut dyn FnMut(u32, Option<u64>),
) -> io::Result<()> {
    let mut pgno = u64::from(first);
    let most = (u64::from(last) + 1).saturating_sub(pgno).min(BATCH as u64);
    let mut buffer = vec![0; 8 * most as usize];
    while pgno <= u64::from(last) {
        let want = (u64::from(last) - pgno + 1).min(BATCH as u64) as usize;
        let read = read_up_to(file, &mut buffer[..8 * want], offset_of(pgno as u32))?;
        for index in 0..want {
            let at = 8 * index;
            let sum = (at + 8 <= read)
                .then(|| u64::from_le_bytes(buffer[at..at + 8].try_into().expect("8 bytes")));
            each(pgno as u32 + index as u32, sum);
        }
        pgno += want as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(txid: u64, commit: u32, sums: &[u64]) -> SumsHeader {
        let mut checksum = DatabaseChecksum::EMPTY;
        sums.iter()
            .filter(|sum| **sum != 0)
            .for_each(|sum| checksum.toggle(*sum));
        SumsHeader {
            generation: GenerationId(7),
            txid,
            checksum: checksum.value(),
            commit,
            page_size: 4096,
        }
    }

    #[test]
    fn what_was_written_is_loaded_with_its_true_checksum() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut table = PageSums::new(dir.path().into(), 1);
        assert_eq!(table.load().expect("no table"), None);
        let sums = [1 << 63 | 5, 1 << 63 | 9, 1 << 63 | 12];
        table.rewrite(&header(1, 3, &sums), &sums).expect("rewrite");
        let (read, total) = table.load().expect("load").expect("a table");
        assert_eq!(read, header(1, 3, &sums));
        assert_eq!(total.value(), read.checksum);
    }

    #[test]
    fn memory_lies_over_the_table_until_it_is_durable() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut table = PageSums::new(dir.path().into(), 1);
        table
            .rewrite(&header(1, 3, &[1, 2, 3]), &[1, 2, 3])
            .expect("rewrite");
        table.lay_over(1, &[(2, 20)]);
        table.lay_over(2, &[(2, 21), (4, 40)]);
        // A segment that took longer to make is noted again behind its successor.
        table.lay_over(1, &[(2, 20)]);
        let reader = table.reader();
        assert_eq!(reader.sum(2).expect("sum"), 21);
        assert_eq!(reader.sum(3).expect("sum"), 3);
        assert_eq!(reader.sum(4).expect("sum"), 40);
        let mut seen = Vec::new();
        reader
            .range(1, 5, &mut |pgno, sum| seen.push((pgno, sum)))
            .expect("range");
        assert_eq!(seen, [(1, 1), (2, 21), (3, 3), (4, 40), (5, 0)]);
        drop(reader);

        table
            .make_durable(&header(2, 3, &[1, 20, 3]), 1, &[(2, 20)])
            .expect("durable");
        assert_eq!(
            table.reader().sum(2).expect("sum"),
            21,
            "the newer one stays over it"
        );
        table.drop_overlay();
        assert_eq!(table.reader().sum(2).expect("sum"), 20);
        // A shrink cuts the table.
        table
            .make_durable(&header(3, 1, &[1]), 2, &[(1, 1)])
            .expect("durable");
        assert_eq!(table.reader().sum(2).expect("sum"), 0);
    }

    #[test]
    fn what_comes_after_segments_that_were_numbered_anew_lies_over_them() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut table = PageSums::new(dir.path().into(), 1);
        table.rewrite(&header(1, 1, &[1]), &[1]).expect("rewrite");
        table.lay_over(9, &[(1, 10)]);
        table.renumber(8, 7);
        table.lay_over(3, &[(1, 11)]);
        assert_eq!(table.reader().sum(1).expect("sum"), 11);
    }

    #[test]
    fn what_is_known_to_be_in_the_table_is_not_read_from_it_until_it_is_written() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut table = PageSums::new(dir.path().into(), 1);
        let sums = [1, 2, 3, 4];
        table.rewrite(&header(1, 4, &sums), &sums).expect("rewrite");
        let recent = [(2, 12), (3, 13)];
        let recent = Recent {
            sums: recent.into(),
            is_lacking: false,
        };
        let mut table = PageSums::with(dir.path().into(), 1, Some(4), recent);
        let read = |table: &PageSums, pages: std::ops::RangeInclusive<u32>| {
            let mut seen = Vec::new();
            let (first, last) = pages.into_inner();
            let mut each = |_, sum| seen.push(sum);
            table.reader().range(first, last, &mut each).expect("range");
            seen
        };
        assert_eq!(read(&table, 2..=3), [12, 13], "the file has others here");
        assert_eq!(read(&table, 1..=4), [1, 12, 13, 4]);
        assert_eq!(table.reader().sum(3).expect("sum"), 13);
        table.lay_over(2, &[(3, 23)]);
        assert_eq!(read(&table, 2..=3), [12, 23]);
        table
            .make_durable(&header(2, 4, &[1, 2, 23, 4]), 2, &[(3, 23)])
            .expect("durable");
        assert_eq!(read(&table, 1..=4), [1, 2, 23, 4]);
        assert_eq!(table.recent().sums[..], [(3, 23)]);
        // Of a shrink, and of what is too much to be kept.
        table
            .make_durable(&header(3, 2, &[1, 32]), 3, &[(2, 32), (3, 33)])
            .expect("durable");
        assert_eq!(table.recent().sums[..], [(2, 32)]);
        let many: Vec<_> = (1..=100).map(|pgno| (pgno, u64::from(pgno))).collect();
        let sums: Vec<_> = many.iter().map(|(_, sum)| *sum).collect();
        table
            .make_durable(&header(4, 100, &sums), 4, &many)
            .expect("durable");
        assert!(table.recent().sums.is_empty());
    }

    #[test]
    fn a_few_sums_wait_for_later_ones_and_are_noted_until_they_are_written() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut table = PageSums::new(dir.path().into(), 1);
        let sums = [1, 2, 3, 4];
        table.rewrite(&header(1, 4, &sums), &sums).expect("rewrite");
        let in_file = |table: &PageSums| table.header().expect("read").map(|header| header.txid);
        // How much room there is has to be known.
        let follow = |table: &mut PageSums, txid: u64, commit, changed: &[PageSum]| {
            table.lay_over(txid as u32, changed);
            let header = header(txid, commit, &[]);
            table.follow(&header, txid as u32, changed).expect("noted");
        };
        follow(&mut table, 2, 4, &[(2, 12)]);
        assert_eq!(
            (in_file(&table), table.noted(&[(3, 23)])),
            (Some(2), vec![(3, 23)])
        );
        follow(&mut table, 3, 4, &[(3, 23)]);
        follow(&mut table, 4, 4, &[(1, 31), (3, 33)]);
        assert_eq!(in_file(&table), Some(2));
        assert_eq!(
            table.noted(&[(1, 41), (2, 42)]),
            [(1, 41), (2, 42), (3, 33)]
        );
        assert!(table.only_on_disk().is_some(), "nothing is only in memory");
        let read =
            |table: &PageSums| [1, 2, 3, 4].map(|pgno| table.reader().sum(pgno).expect("sum"));
        assert_eq!(read(&table), [31, 12, 33, 4]);
        // A database of another size has another table.
        follow(&mut table, 5, 5, &[(5, 55)]);
        assert_eq!((in_file(&table), table.noted(&[])), (Some(5), vec![]));
        let disk = PageSums::new(dir.path().into(), 1);
        assert_eq!(read(&disk), [31, 12, 33, 4]);
        // And what is much does not wait.
        let many: Vec<_> = (1..=9).map(|pgno| (pgno, 90 + u64::from(pgno))).collect();
        follow(&mut table, 6, 9, &many);
        follow(&mut table, 7, 9, &many);
        assert_eq!(in_file(&table), Some(7));
    }

    #[test]
    fn a_table_that_is_cut_is_none() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut table = PageSums::new(dir.path().into(), 1);
        table
            .rewrite(&header(1, 3, &[1, 2, 3]), &[1, 2, 3])
            .expect("rewrite");
        File::options()
            .write(true)
            .open(table.path())
            .and_then(|file| file.set_len(HEADER_SIZE + 20))
            .expect("cut");
        assert_eq!(table.load().expect("load"), None);
    }
}
