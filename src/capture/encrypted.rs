//! Databases of which not even the first page is plain, as SQLCipher makes them: their logs say what their headers don't.
//!
//! A file without a header is a database only where one was captured from a log that was as little readable. That is
//! remembered, since such a file has no log once its last connection has closed it.

use rusqlite::Connection;

use super::Shared;
use super::backing::Stamp;
use super::error::CaptureError;
use super::history::History;
use super::segment::read_page;
use super::state::{StateDb, StateError};
use super::wal_reader::WalReader;
use crate::format::scanner::PageRef;
use crate::format::sqlite::DatabaseHeader;

pub(super) const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS encrypted (
        database INTEGER PRIMARY KEY REFERENCES database(id) ON DELETE CASCADE
    ) STRICT;
";

impl History {
    /// Notes what the captured state has as its first page.
    pub(super) fn note_first_page(
        &mut self,
        shared: &Shared,
        page: &[u8],
    ) -> Result<(), CaptureError> {
        let is_encrypted = DatabaseHeader::decode(page).is_none();
        if self.is_encrypted != is_encrypted {
            shared.state.save_encrypted(self.id, is_encrypted)?;
            self.is_encrypted = is_encrypted;
        }
        Ok(())
    }

    /// The same, where `first` of the pages of a log that were captured is that one.
    pub(super) fn note_first_of(
        &mut self,
        shared: &Shared,
        log: &WalReader,
        first: Option<PageRef>,
    ) -> Result<(), CaptureError> {
        if let Some(page) = first.filter(|page| page.pgno == 1) {
            let mut buffer = vec![0; log.header.page_size as usize];
            read_page(log, page, &mut buffer)?;
            self.note_first_page(shared, &buffer)?;
        }
        Ok(())
    }

    /// The page size of a file that has neither header nor log; none where it is no database.
    pub(super) fn page_size_unread(&self, stamp: Stamp) -> Option<u32> {
        let known = self.mark.filter(|_| self.is_encrypted)?.page_size;
        let is_whole = stamp.size > 0 && stamp.size.is_multiple_of(u64::from(known));
        is_whole.then_some(known)
    }

    /// Whether the file is as its last log has left it, so that it does not matter that it can't be read.
    pub(super) fn rests_unread(&self, stamp: Stamp) -> bool {
        self.is_encrypted && self.at_rest == Some(stamp)
    }
}

impl StateDb {
    pub(super) fn is_encrypted(&self, id: i64) -> Result<bool, StateError> {
        Ok(self
            .lock()
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM encrypted WHERE database = ?1)")?
            .query_row([id], |row| row.get(0))?)
    }

    fn save_encrypted(&self, id: i64, is_encrypted: bool) -> Result<(), StateError> {
        let connection: &Connection = &self.lock();
        let sql = match is_encrypted {
            true => "INSERT OR IGNORE INTO encrypted VALUES (?1)",
            false => "DELETE FROM encrypted WHERE database = ?1",
        };
        connection.execute(sql, [id])?;
        Ok(())
    }
}
