//! The application: a real SQLite that writes one database, reads, checkpoints, closes, and dies.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, ffi};

use super::mount::VFS;
use super::world::World;
use crate::capture::backing::companion;
use crate::format::wal_index::INDEX_HEADERS_SIZE;

/// Where the log's salts stand in the wal-index.
const SALTS: std::ops::Range<usize> = 32..40;

/// Its connections, and how it uses them.
#[derive(Default)]
pub struct Application {
    writer: RefCell<Option<Connection>>,
    /// Keeps a read transaction open, so that checkpoints can't be complete.
    reader: RefCell<Option<Connection>>,
    in_call: Cell<bool>,
    is_exclusive: Cell<bool>,
    page_size: Cell<u32>,
    synchronous: Cell<&'static str>,
}

type Done = rusqlite::Result<()>;

/// The whole database as a connection reads it from its files: of unused pages its cache may have what was rolled back.
fn content_of(connection: &Connection) -> Option<Vec<u8>> {
    let mut size = 0;
    // SAFETY: the handle is open; what SQLite gives is copied, and freed by SQLite.
    unsafe {
        ffi::sqlite3_db_release_memory(connection.handle());
        let bytes = ffi::sqlite3_serialize(connection.handle(), c"main".as_ptr(), &mut size, 0);
        if bytes.is_null() {
            return (size == 0).then(Vec::new);
        }
        let content = std::slice::from_raw_parts(bytes, size as usize).to_vec();
        ffi::sqlite3_free(bytes.cast());
        Some(content)
    }
}

fn is_in_wal_mode(connection: &Connection) -> bool {
    let mode = connection.query_row("PRAGMA journal_mode", [], |row| row.get::<_, String>(0));
    mode.is_ok_and(|mode| mode == "wal")
}

/// What SQLite's recovery makes of the files of a database: none where it refuses them.
fn recovered(database: &Path, scratch: &Path) -> Option<Vec<u8>> {
    let copy = scratch.join("copy.db");
    for suffix in ["", "-wal", "-journal", "-shm"] {
        let (from, to) = (companion(database, suffix), companion(&copy, suffix));
        match (suffix != "-shm" && from.exists(), to.exists()) {
            (true, _) => drop(std::fs::copy(&from, &to).expect("copied")),
            (false, true) => std::fs::remove_file(&to).expect("removed"),
            (false, false) => {}
        }
    }
    if !copy.exists() {
        return Some(Vec::new());
    }
    let connection = Connection::open(&copy).expect("open the copy");
    let read = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()));
    read.ok().and_then(|()| content_of(&connection))
}

impl Application {
    /// Whether it keeps its wal-index to itself.
    pub fn is_exclusive(&self) -> bool {
        self.is_exclusive.get()
    }
}

impl World {
    fn app(&self) -> &Application {
        &self.application
    }

    pub fn is_application_open(&self) -> bool {
        self.app().writer.borrow().is_some()
    }

    /// Something that the application does, in the middle of whatever the process does.
    pub fn act_in_between(&self) {
        let is_idle = !self.app().in_call.get() && self.is_application_open();
        if is_idle && !self.is_dead.get() {
            match self.dice.below(6) {
                0 => self.call(|world, writer| world.checkpoint(writer)),
                _ => self.call(|world, writer| world.transaction(writer)),
            }
        }
    }

    /// One thing that the application does.
    pub fn act(&self) {
        if !self.is_application_open() {
            return self.open();
        }
        match self.dice.below(100) {
            0..60 => self.call(|world, writer| world.transaction(writer)),
            60..66 => self.call(|_, writer| writer.execute_batch("VACUUM")),
            66..70 => self.call(|_, writer| writer.execute_batch("PRAGMA incremental_vacuum(3)")),
            70..84 => self.call(|world, writer| world.checkpoint(writer)),
            84..88 => self.close(),
            88..92 => self.read_or_not(),
            92..95 => self.call(|world, writer| world.commit_unseen(writer)),
            95..97 if self.profile.journals => self.call(|world, writer| {
                let mode = world.dice.pick(&["WAL", "DELETE", "TRUNCATE", "PERSIST"]);
                world.trace.note(format_args!("journal mode {mode}"));
                writer.execute_batch(&format!("PRAGMA journal_mode = {mode}"))
            }),
            97 if self.profile.deaths => {
                let left = self.dice.spread(40);
                self.process.death_in.set(Some(left));
            }
            _ => self.call(|_, writer| writer.execute_batch("SELECT count(*) FROM t")),
        }
    }

    fn call(&self, work: impl FnOnce(&World, &Connection) -> Done) {
        self.app().in_call.set(true);
        let done = match &*self.app().writer.borrow() {
            Some(writer) => {
                let done = work(self, writer);
                if done.is_err() && !writer.is_autocommit() && !self.is_cut_off() {
                    // Where SQLite has rolled back already there is nothing left to do.
                    drop(writer.execute_batch("ROLLBACK"));
                }
                done
            }
            None => Ok(()),
        };
        self.app().in_call.set(false);
        if let Err(error) = done {
            self.trace.note(format_args!("the application: {error}"));
        }
        self.see();
    }

    /// Nothing that it does reaches a file any more.
    fn is_cut_off(&self) -> bool {
        self.process.is_dead.get() || self.is_dead.get()
    }

    /// Notes what is committed.
    fn see(&self) {
        if self.is_cut_off() {
            return self.kill();
        }
        self.app().in_call.set(true);
        let writer = self.app().writer.borrow();
        // With a rollback journal SQLite keeps some unused pages to itself: there the file counts.
        let writer_in_wal = writer.as_ref().filter(|writer| is_in_wal_mode(writer));
        let seen = writer_in_wal.and_then(content_of);
        drop(writer);
        self.app().in_call.set(false);
        match seen {
            Some(content) => self.commit(&content, true),
            None => self.note_recovered(),
        }
        self.look_at_store(true);
    }

    /// Notes what SQLite would show after its recovery.
    pub fn note_recovered(&self) {
        match recovered(&self.database_path(), &self.root.join("scratch")) {
            Some(content) => self.commit(&content, false),
            None => self.broke("SQLite refuses the files".to_owned()),
        }
    }

    fn commit(&self, content: &[u8], is_seen: bool) {
        let how = if is_seen { "seen" } else { "recovered" };
        if let Some(number) = self.oracle.borrow_mut().commit(content, is_seen) {
            self.trace.note(format_args!(
                "state {number} is {how}, {} bytes",
                content.len()
            ));
        }
    }

    fn open(&self) {
        let app = self.app();
        self.process.is_dead.set(false);
        let first = app.page_size.get() == 0;
        if first {
            app.page_size.set(self.dice.pick(&[512, 512, 1024, 4096]));
            app.synchronous.set(match self.profile.power_losses {
                true => self.dice.pick(&["NORMAL", "NORMAL", "FULL"]),
                false => self.dice.pick(&["OFF", "NORMAL", "FULL"]),
            });
        }
        self.trace.note(format_args!("the application opens"));
        app.in_call.set(true);
        let opened = self.connect();
        if let Ok(writer) = opened {
            let is_exclusive = self.dice.chance(100);
            app.is_exclusive.set(is_exclusive);
            *app.writer.borrow_mut() = Some(writer);
            app.in_call.set(false);
            for sql in self.preparation(is_exclusive) {
                self.trace.note(format_args!("{sql}"));
                self.call(|_, writer| writer.execute_batch(&sql));
            }
        }
        app.in_call.set(false);
        if self.is_cut_off() {
            self.kill();
        }
    }

    fn connect(&self) -> rusqlite::Result<Connection> {
        let path = self.database_path();
        let connection = Connection::open_with_flags_and_vfs(path, OpenFlags::default(), VFS)?;
        // Nobody else would end its lock meanwhile.
        connection.busy_timeout(Duration::ZERO)?;
        Ok(connection)
    }

    fn preparation(&self, is_exclusive: bool) -> Vec<String> {
        let locking = if is_exclusive { "EXCLUSIVE" } else { "NORMAL" };
        let autocheckpoint = self.dice.pick(&[0, 8, 40]);
        let limit = self.dice.pick(&[-1, 0, 20_000]);
        let page_size = self.app().page_size.get();
        let auto_vacuum = self.dice.below(3);
        let mut all = vec![
            format!("PRAGMA page_size = {page_size}; PRAGMA auto_vacuum = {auto_vacuum}"),
            format!("PRAGMA locking_mode = {locking}"),
            "PRAGMA journal_mode = WAL".to_owned(),
            format!("PRAGMA synchronous = {}", self.app().synchronous.get()),
            format!("PRAGMA wal_autocheckpoint = {autocheckpoint}"),
            format!("PRAGMA journal_size_limit = {limit}; PRAGMA cache_size = 10"),
        ];
        all.push("CREATE TABLE IF NOT EXISTS t (a INTEGER PRIMARY KEY, b BLOB)".to_owned());
        all
    }

    fn transaction(&self, writer: &Connection) -> Done {
        self.trace.note(format_args!("transaction"));
        writer.execute_batch("BEGIN")?;
        self.write(writer)?;
        if self.dice.chance(200) {
            writer.execute_batch("SAVEPOINT s")?;
            self.write(writer)?;
            writer.execute_batch(match self.dice.chance(500) {
                true => "ROLLBACK TO s; RELEASE s",
                false => "RELEASE s",
            })?;
        }
        writer.execute_batch(match self.dice.chance(120) {
            true => "ROLLBACK",
            false => "COMMIT",
        })
    }

    fn write(&self, writer: &Connection) -> Done {
        for _ in 0..self.dice.spread(6) {
            let len = self.dice.spread(2 * u64::from(self.app().page_size.get())) as usize;
            let row = (self.dice.below(25) as i64, self.dice.bytes(len));
            let mut insert = writer.prepare_cached("INSERT OR REPLACE INTO t VALUES (?1, ?2)")?;
            insert.execute(row)?;
        }
        if self.dice.chance(200) {
            let from = self.dice.below(25) as i64;
            writer.execute("DELETE FROM t WHERE a BETWEEN ?1 AND ?1 + 8", [from])?;
        }
        Ok(())
    }

    fn checkpoint(&self, writer: &Connection) -> Done {
        let kind = self.dice.pick(&["PASSIVE", "FULL", "RESTART", "TRUNCATE"]);
        self.trace.note(format_args!("checkpoint {kind}"));
        writer.query_row(&format!("PRAGMA wal_checkpoint({kind})"), [], |_| Ok(()))
    }

    /// A commit whose writer dies before it has told the others of it: its frames stay in the log, for whoever recovers.
    fn commit_unseen(&self, writer: &Connection) -> Done {
        let index = companion(&self.database_path(), "-shm");
        let locking: String = writer.query_row("PRAGMA locking_mode", [], |row| row.get(0))?;
        if !is_in_wal_mode(writer) || locking != "normal" || !index.exists() {
            return Ok(());
        }
        self.trace.note(format_args!("an unseen commit"));
        writer.execute_batch("PRAGMA wal_autocheckpoint = 0")?;
        let index = File::options().read(true).write(true).open(index);
        let index = index.expect("the wal-index");
        let mut before = [0; INDEX_HEADERS_SIZE];
        index.read_exact_at(&mut before, 0).expect("its header");
        let done = self.transaction(writer);
        let mut after = [0; INDEX_HEADERS_SIZE];
        index.read_exact_at(&mut after, 0).expect("its header");
        // Whoever begins a log anew has told that before its first frame.
        if !self.is_cut_off() && before[SALTS] == after[SALTS] {
            index.write_all_at(&before, 0).expect("its header");
        }
        if !self.profile.passthrough {
            // Whoever can't see the index can't tell it from a commit.
            self.note_recovered();
        }
        done
    }

    fn read_or_not(&self) {
        let app = self.app();
        app.in_call.set(true);
        let before = app.reader.borrow_mut().take();
        if before.is_none()
            && let Ok(reader) = self.connect()
            && reader
                .execute_batch("BEGIN; SELECT count(*) FROM t")
                .is_ok()
        {
            *app.reader.borrow_mut() = Some(reader);
        }
        drop(before);
        app.in_call.set(false);
        self.see();
    }

    /// Closes everything in order.
    pub fn close(&self) {
        if !self.is_application_open() {
            return;
        }
        self.trace.note(format_args!("the application closes"));
        let app = self.app();
        app.in_call.set(true);
        drop(app.reader.borrow_mut().take());
        let writer = app.writer.borrow_mut().take();
        drop(writer);
        app.in_call.set(false);
        self.note_recovered();
        if self.is_cut_off() {
            self.kill();
        }
    }

    /// The application is dead: what it has left on its disk is what counts.
    pub fn kill(&self) {
        let app = self.app();
        if self.process.is_dead.replace(true) || self.is_application_open() {
            self.trace.note(format_args!("the application is dead"));
        }
        self.note_recovered();
        app.in_call.set(true);
        drop(app.reader.borrow_mut().take());
        let writer = app.writer.borrow_mut().take();
        drop(writer);
        app.in_call.set(false);
        self.process.death_in.set(None);
    }
}
