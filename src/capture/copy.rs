//! A private copy of a database's pages, with the sum of each: in memory where they are few, else in a scratch file.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::Shared;
use super::backing::read_up_to;
use super::error::CaptureError;
use crate::fault::Point;
use crate::format::ltx::{DatabaseChecksum, lock_page, page_checksum};

/// Bytes that are read from the file at once.
pub(super) const CHUNK: usize = 1 << 20;

/// Fills the bytes from an offset on; gives how many there were.
pub(super) type Read<'a> = &'a mut dyn FnMut(&mut [u8], u64) -> io::Result<usize>;

/// The pages of a database, in memory where they are few.
#[derive(Debug)]
pub(super) struct Image {
    pub page_size: u32,
    pages: Pages,
    /// Of page 1, 2, …; 0 for the lock page and for pages that nobody wrote.
    pub sums: Vec<u64>,
    /// Pages that a log has.
    laid_over: HashSet<u32>,
}

#[derive(Debug)]
enum Pages {
    Memory(Vec<u8>),
    File(File),
}

impl Pages {
    fn new(size: u64, memory_bytes: u64, shared: &Shared) -> Result<Self, CaptureError> {
        if size <= memory_bytes {
            return Ok(Self::Memory(Vec::with_capacity(size as usize)));
        }
        let file = tempfile::tempfile_in(&shared.directory);
        Ok(Self::File(
            file.map_err(CaptureError::io("make a scratch file"))?,
        ))
    }
}

/// The largest page: those of a hole take no room in a scratch file either.
static ZEROS: [u8; 65536] = [0; 65536];

impl Image {
    /// Reads all pages in pieces of `chunk` bytes, for as long as the image `is_wanted`. `size` is the file's, about.
    pub fn read(
        read: Read<'_>,
        shared: &Shared,
        memory_bytes: u64,
        page_size: u32,
        size: u64,
        chunk: usize,
        is_wanted: &dyn Fn() -> bool,
    ) -> Result<Self, CaptureError> {
        let mut image = Self {
            page_size,
            pages: Pages::new(size, memory_bytes, shared)?,
            // As large as it gets, so that it is not copied while it grows.
            sums: Vec::with_capacity((size / u64::from(page_size)) as usize + 1),
            laid_over: HashSet::new(),
        };
        let mut bytes = vec![0; chunk.max(page_size as usize)];
        let mut at = 0;
        loop {
            Point::ImageRead.reach();
            let len = read(&mut bytes, at).map_err(CaptureError::io("read the database"))?;
            for page in bytes[..len].chunks_exact(page_size as usize) {
                let pgno = u32::try_from(at / u64::from(page_size) + 1)
                    .map_err(|_| CaptureError::NotADatabase)?;
                image
                    .put(pgno, page)
                    .map_err(CaptureError::io("write the image"))?;
                at += u64::from(page_size);
            }
            if len < bytes.len() {
                return Ok(image);
            }
            if !is_wanted() {
                return Err(CaptureError::Disturbed);
            }
        }
    }

    pub fn put(&mut self, pgno: u32, page: &[u8]) -> io::Result<()> {
        let at = u64::from(pgno - 1) * u64::from(self.page_size);
        let index = pgno as usize - 1;
        let is_hole = self.sums.len() <= index && page == &ZEROS[..page.len()];
        match &mut self.pages {
            Pages::Memory(bytes) => {
                let end = at as usize + page.len();
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                bytes[at as usize..end].copy_from_slice(page);
            }
            Pages::File(_) if is_hole => {}
            Pages::File(file) => file.write_all_at(page, at)?,
        }
        if self.sums.len() <= index {
            self.sums.resize(index + 1, 0);
        }
        if pgno != lock_page(self.page_size) {
            self.sums[index] = page_checksum(pgno, page);
        }
        Ok(())
    }

    /// Puts in a page that a log has.
    pub fn lay_over(&mut self, pgno: u32, page: &[u8]) -> io::Result<()> {
        self.laid_over.insert(pgno);
        self.put(pgno, page)
    }

    /// Whether a log has this page, so that it does not matter how the file has it.
    pub fn has_laid_over(&self, pgno: u32) -> bool {
        self.laid_over.contains(&pgno)
    }

    /// Whether a log has any page.
    pub fn is_laid_over(&self) -> bool {
        !self.laid_over.is_empty()
    }

    /// A page that nobody wrote reads as zeros.
    pub fn get(&self, pgno: u32, page: &mut [u8]) -> Result<(), CaptureError> {
        let at = u64::from(pgno - 1) * u64::from(self.page_size);
        page.fill(0);
        match &self.pages {
            Pages::Memory(bytes) => {
                if let Some(found) = bytes.get(at as usize..at as usize + page.len()) {
                    page.copy_from_slice(found);
                }
            }
            Pages::File(file) => {
                read_up_to(file, page, at).map_err(CaptureError::io("read the image"))?;
            }
        }
        Ok(())
    }

    /// Cuts the image to `commit` pages, and fills in the sums of pages that nobody wrote.
    pub fn set_size(&mut self, commit: u32) -> Result<(), CaptureError> {
        self.sums.resize(commit as usize, 0);
        let lock = lock_page(self.page_size);
        let mut page = vec![0; self.page_size as usize];
        for pgno in (1..=commit).filter(|pgno| *pgno != lock) {
            if self.sums[pgno as usize - 1] == 0 {
                self.get(pgno, &mut page)?;
                self.sums[pgno as usize - 1] = page_checksum(pgno, &page);
            }
        }
        Ok(())
    }

    pub fn checksum(&self) -> DatabaseChecksum {
        let mut checksum = DatabaseChecksum::EMPTY;
        self.sums
            .iter()
            .filter(|sum| **sum != 0)
            .for_each(|sum| checksum.toggle(*sum));
        checksum
    }
}
