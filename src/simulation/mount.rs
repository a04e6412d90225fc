//! What the mount does around each operation of the application's SQLite on its files: gates, and what is told.

use std::cell::{Cell, RefCell};
use std::ffi::{CStr, c_int};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use rusqlite::ffi::{SQLITE_IOERR, SQLITE_OK};

use super::chance::lock;
use super::daemon::{Daemon, GUID};
use super::world::{World, current};
use crate::capture::backing::companion;
use crate::capture::recorder::{self, Change};
use crate::capture::{Database, FileKind, Gate, Kind, OpenedAs, Passing};

/// The VFS through which the application reaches its files.
pub const VFS: &CStr = c"simulated-mount";

/// The application's process, as the kernel knows it.
#[derive(Default)]
pub struct Process {
    /// Killed: nothing that it does reaches a file any more.
    pub is_dead: Cell<bool>,
    /// So many operations on files until it is.
    pub death_in: Cell<Option<u64>>,
    /// A log was not cut though its wal-index has told of the next one, since nobody could wait for that.
    pub is_cut_refused: Cell<bool>,
    /// Connections that have the wal-index open; the process has it once.
    index_users: Cell<u32>,
    /// Its open logs and wal-indexes, through which the capture may read.
    lent: RefCell<Vec<Lent>>,
}

/// A file that is open, and the database that knows of it.
struct Lent {
    path: PathBuf,
    db: Arc<Database>,
    file: Arc<File>,
}

/// Registers the VFS, once in a process.
pub fn register() {
    static REGISTERED: std::sync::Once = std::sync::Once::new();
    REGISTERED.call_once(|| recorder::register(VFS, around));
}

fn around(change: &Change<'_>, act: &mut dyn FnMut() -> c_int) -> c_int {
    current().file_operation(change, act)
}

fn kind_of(path: &Path) -> FileKind {
    let name = path.to_string_lossy();
    [
        ("-wal", FileKind::Wal),
        ("-shm", FileKind::Shm),
        ("-journal", FileKind::Journal),
    ]
    .into_iter()
    .find(|(suffix, _)| name.ends_with(suffix))
    .map_or(FileKind::Database, |(_, kind)| kind)
}

impl World {
    pub fn database_path(&self) -> PathBuf {
        self.root.join("data").join(format!("{GUID}.db"))
    }

    fn open_as(&self) -> OpenedAs {
        OpenedAs {
            writable: true,
            passthrough: self.profile.passthrough,
            external: false,
        }
    }

    /// Whether a gate is not passed at all: only connections that share a log may overlook one another.
    fn is_missed(&self, gate: Gate) -> bool {
        self.profile.missed_gates > 0
            && gate == Gate::DatabaseTruncate
            && !self.application.is_exclusive()
            && self.dice.chance(self.profile.missed_gates)
    }

    /// The process behind the mount, where it is alive, and the database as it knows it.
    fn mounted(&self) -> Option<(Rc<Daemon>, Option<Arc<Database>>)> {
        let daemon = self.daemon().filter(|_| !self.is_dead.get())?;
        let db = daemon.capture.at_path(Path::new(&format!("{GUID}.db")));
        Some((daemon, db))
    }

    fn file_operation(&self, change: &Change<'_>, act: &mut dyn FnMut() -> c_int) -> c_int {
        match change {
            Change::Close(path) => return self.closes(path, act),
            Change::CloseIndex(removes) => return self.closes_index(*removes, act),
            _ => {}
        }
        let process = &self.process;
        match process.death_in.get() {
            Some(0) => {
                self.trace
                    .note(format_args!("the application dies at {}", named(change)));
                process.death_in.set(None);
                process.is_dead.set(true);
            }
            Some(left) => process.death_in.set(Some(left - 1)),
            None => {}
        }
        self.trace.note(format_args!("  {}", named(change)));
        if self.daemon().is_some() {
            while !self.is_dead.get() && self.dice.chance(250) {
                self.go_on();
            }
            // Its mount does not answer any more.
            if self.is_dead.get() {
                process.is_dead.set(true);
            }
        }
        if process.is_dead.get() {
            return SQLITE_IOERR;
        }
        match self.mounted() {
            Some((daemon, db)) => self.through_mount(&daemon, db, change, act),
            None => self.carry_out(change, act),
        }
    }

    /// On the disk itself.
    fn carry_out(&self, change: &Change<'_>, act: &mut dyn FnMut() -> c_int) -> c_int {
        let code = act();
        if code == SQLITE_OK {
            if let Change::OpenIndex(_) = change {
                let users = &self.process.index_users;
                users.set(users.get() + 1);
            }
            self.disk.borrow_mut().record(change);
            if let Change::Create(path) | Change::Write(path, ..) | Change::Cut(path, _) = change {
                super::set_modified(path, self.time.next_ns());
            }
        }
        code
    }

    fn through_mount(
        &self,
        daemon: &Rc<Daemon>,
        db: Option<Arc<Database>>,
        change: &Change<'_>,
        act: &mut dyn FnMut() -> c_int,
    ) -> c_int {
        let Some(path) = path_of(change) else {
            return self.carry_out(change, act);
        };
        let kind = match change {
            Change::OpenIndex(_) => FileKind::Shm,
            _ => kind_of(path),
        };
        let gate = db
            .as_ref()
            .and_then(|db| self.gate_of(db, kind, change))
            .filter(|gate| !self.is_missed(*gate));
        // Kept until the operation is carried out and told of.
        let _passing = match (gate, &db) {
            (Some(gate), Some(db)) => match self.pass_gate(daemon, db, gate) {
                Some(passing) => Some(passing),
                None => return SQLITE_IOERR,
            },
            _ => None,
        };
        let changes_journal = kind == FileKind::Journal
            && matches!(
                change,
                Change::Create(_) | Change::Write(..) | Change::Cut(..) | Change::Remove(_)
            );
        let journal_changed = || {
            if let Some(db) = db.as_ref().filter(|_| changes_journal) {
                db.journal_changed();
            }
        };
        journal_changed();
        if let (Change::Sync(path), FileKind::Wal, Some(db)) = (change, kind, &db) {
            self.begin_sync(daemon, db, path);
        }
        let is_first = self.process.index_users.get() == 0;
        let code = self.carry_out(change, act);
        if let Change::Create(path) = change
            && code == SQLITE_OK
        {
            let path = path.strip_prefix(self.root.join("data"));
            daemon.capture.appeared(path.expect("below it"), false);
        }
        journal_changed();
        let db = daemon.capture.at_path(Path::new(&format!("{GUID}.db")));
        if let Some(db) = db.filter(|_| code == SQLITE_OK) {
            self.tell(&db, kind, change, is_first);
        }
        code
    }

    /// A sync of the log takes its time, in which the process may go on.
    fn begin_sync(&self, daemon: &Daemon, db: &Arc<Database>, log: &Path) {
        let log = File::open(log).expect("the log is there");
        daemon.capture.sync_of_log_begins(db, &log);
        while !self.is_dead.get() && self.dice.chance(500) {
            self.work(daemon, None);
        }
    }

    fn tell(&self, db: &Arc<Database>, kind: FileKind, change: &Change<'_>, is_first: bool) {
        match (change, kind) {
            (Change::Create(_) | Change::Open(_), FileKind::Database) => {
                db.opened(kind, self.open_as());
            }
            (Change::OpenIndex(_), _) if is_first => {
                db.opened(kind, self.open_as());
                self.lend(db, &self.index_path());
                db.resized(kind, 3);
            }
            (Change::Create(path) | Change::Open(path), FileKind::Wal) => {
                if self.profile.passes_logs {
                    db.opened(kind, self.open_as());
                }
                self.lend(db, path);
            }
            (Change::Write(..), FileKind::Wal) if self.profile.passes_logs => {
                self.unheard.set(self.unheard.get() + 1);
            }
            // With passthrough the kernel says nothing of those to the database's file.
            (Change::Write(_, at, bytes), _)
                if kind != FileKind::Database || !self.profile.passthrough =>
            {
                db.written_at(kind, *at..at + bytes.len() as u64);
            }
            (Change::Cut(_, size), _) => db.resized(kind, *size),
            (Change::Sync(_), _) => db.synced(kind),
            _ => {}
        }
    }

    fn index_path(&self) -> PathBuf {
        companion(&self.database_path(), "-shm")
    }

    fn lend(&self, db: &Arc<Database>, path: &Path) {
        let file = Arc::new(File::open(path).expect("the process has it open"));
        db.lend(&file).expect("it is a file");
        self.process.lent.borrow_mut().push(Lent {
            path: path.to_owned(),
            db: db.clone(),
            file,
        });
    }

    fn take_back(&self, path: &Path) {
        let mut lent = self.process.lent.borrow_mut();
        // What was opened while no daemon ran is lent to none.
        if let Some(place) = lent.iter().position(|lent| lent.path == path) {
            let Lent { db, file, .. } = lent.swap_remove(place);
            db.take_back(&file);
        }
    }

    /// Waits at a gate, while others go on. None where the process dies meanwhile, or where nobody could open it now.
    fn pass_gate(&self, daemon: &Rc<Daemon>, db: &Arc<Database>, gate: Gate) -> Option<Passing> {
        let ends_unseen = self.profile.passes_logs && gate == Gate::DatabaseTruncate;
        if (gate.destroys_frames() || ends_unseen) && self.in_work.get() == Some(true) {
            let is_cut = matches!(gate, Gate::WalTruncate { .. });
            self.process
                .is_cut_refused
                .set(is_cut || self.process.is_cut_refused.get());
            return None;
        }
        let given = Arc::new(Mutex::new(None));
        let gives = given.clone();
        let proceed = Box::new(move |passing| *lock(&gives) = Some(passing));
        self.trace.note(format_args!("  gate {gate:?}"));
        daemon.capture.gate(db, gate, proceed);
        let is_late = self.dice.chance(self.profile.late_gates);
        while lock(&given).is_none() && !self.is_dead.get() {
            if self.dice.chance(300) {
                self.go_on();
                continue;
            }
            let kind = if is_late { Kind::GateLimit } else { Kind::Gate };
            // With the spool full it is tried again by a thread that merges.
            if !self.work(daemon, Some(kind)) && !self.work(daemon, Some(Kind::Image)) {
                return None;
            }
        }
        let passing = lock(&given).take();
        passing.filter(|_| !self.is_dead.get())
    }

    fn gate_of(&self, db: &Database, kind: FileKind, change: &Change<'_>) -> Option<Gate> {
        match (kind, change) {
            (FileKind::Wal, Change::Write(_, at, _)) => {
                let is_seen = !self.profile.passes_logs && db.wal_write_needs_gate(*at);
                is_seen.then_some(Gate::WalOverwrite)
            }
            (FileKind::Wal, Change::Cut(_, kept)) => Some(Gate::WalTruncate { kept: *kept }),
            (FileKind::Wal, Change::Remove(_)) => Some(Gate::WalUnlink),
            (FileKind::Database, Change::Cut(..)) => Some(Gate::DatabaseTruncate),
            _ => None,
        }
    }

    fn closes(&self, path: &Path, act: &mut dyn FnMut() -> c_int) -> c_int {
        let code = act();
        if kind_of(path) == FileKind::Wal {
            self.take_back(path);
        }
        if let Some((_, Some(db))) = self.mounted()
            && kind_of(path) == FileKind::Database
        {
            db.released(FileKind::Database, self.open_as());
        }
        code
    }

    fn closes_index(&self, removes: bool, act: &mut dyn FnMut() -> c_int) -> c_int {
        let users = self.process.index_users.get() - 1;
        self.process.index_users.set(users);
        let mounted = self.mounted();
        let is_last = users == 0;
        let waits = is_last && removes && !self.process.is_dead.get();
        // The last close can't be held up by an error; the index goes in any case.
        let _passing = match &mounted {
            Some((daemon, Some(db))) if waits => self.pass_gate(daemon, db, Gate::ShmUnlink),
            _ => None,
        };
        let code = act();
        if is_last {
            self.take_back(&self.index_path());
        }
        if let Some((_, Some(db))) = mounted
            && is_last
        {
            db.released(FileKind::Shm, self.open_as());
        }
        code
    }
}

fn path_of<'a>(change: &Change<'a>) -> Option<&'a Path> {
    match *change {
        Change::Create(path)
        | Change::Write(path, ..)
        | Change::Cut(path, _)
        | Change::Sync(path)
        | Change::Remove(path)
        | Change::Open(path)
        | Change::OpenIndex(path) => Some(path),
        Change::Rename(..) | Change::Close(_) | Change::CloseIndex(..) => None,
    }
}

fn named(change: &Change<'_>) -> String {
    let name = path_of(change).and_then(Path::file_name);
    let name = name.map(|name| name.to_string_lossy().replace(GUID, ""));
    let name = name.unwrap_or_default();
    match change {
        Change::Write(_, at, bytes) => format!("write {name} {at} {}", bytes.len()),
        Change::Cut(_, size) => format!("cut {name} {size}"),
        Change::Create(_) => format!("create {name}"),
        Change::Sync(_) => format!("sync {name}"),
        Change::Remove(_) => format!("remove {name}"),
        _ => format!("open {name}"),
    }
}
