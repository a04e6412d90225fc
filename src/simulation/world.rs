//! One simulated machine: its disk, its process, its application, and what decides who goes on next.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use super::application::Application;
use super::chance::{Dice, Time, Trace};
use super::daemon::Daemon;
use super::disk::Disk;
use super::log::Log;
use super::mount::Process;
use super::oracle::{Broken, Oracle};
use super::store::SimulatedStore;
use crate::capture::recorder::{self, Change};
use crate::capture::{Heard, Kind};
use crate::fault::{self, Point};
use crate::random;

/// The folder of the state, beside that of the data.
pub const STATE: &str = "state";

/// Something that is done in a world.
type Act = Rc<dyn Fn(&World)>;

/// What a seed's world is like.
#[derive(Clone, Copy, Debug)]
pub struct Profile {
    pub memory_bytes: u64,
    pub spool_bytes: u64,
    pub sync_ms: u64,
    pub snapshot_ms: u64,
    /// The kernel passes reads and writes of `.db` and `-shm` through.
    pub passthrough: bool,
    /// And those of logs, whose writes are heard of afterwards, or not at all.
    pub passes_logs: bool,
    /// Of a thousand complete checkpoints so many are no gate, as with a SQLite that resets its log without one.
    pub missed_gates: u64,
    /// Of a thousand requests so many go wrong.
    pub store_faults: u64,
    /// The process, the application or both die.
    pub deaths: bool,
    /// With the power.
    pub power_losses: bool,
    /// Of a thousand gates so many reach their time limit.
    pub late_gates: u64,
    /// The database changes its journal mode now and then.
    pub journals: bool,
}

impl Profile {
    pub fn of(dice: &Dice, seed: u64) -> Self {
        let deaths = dice.chance(750);
        let memory_bytes = dice.pick(&[16 << 20, 16 << 20, 20_000, 1]);
        // What finds room neither in memory nor in the spool can't be stored at all.
        let is_spool_small = dice.chance(80) && memory_bytes == 16 << 20;
        // Not by the dice, so that seeds that were found stay what they are.
        let passes_logs = seed % 3 == 1;
        let misses_gates = seed % 9 == 4;
        Self {
            memory_bytes,
            spool_bytes: if is_spool_small { 30_000 } else { 1 << 30 },
            sync_ms: dice.pick(&[0, 0, 20, 1000]),
            snapshot_ms: dice.pick(&[300, 5_000, 3_600_000]),
            passthrough: dice.chance(700) || passes_logs,
            passes_logs,
            missed_gates: if misses_gates { 150 } else { 0 },
            store_faults: dice.pick(&[0, 50, 300]),
            deaths,
            power_losses: deaths && dice.chance(500),
            late_gates: if dice.chance(80) { 100 } else { 0 },
            journals: dice.chance(150),
        }
    }

    /// Every gate is waited for, and finds room.
    pub fn misses_nothing(&self) -> bool {
        self.missed_gates == 0 && self.late_gates == 0 && self.spool_bytes > 1 << 20
    }

    /// Nothing may be lost of the history, however briefly it was there, but where it is told that a gate was missed.
    pub fn keeps_every_state(&self) -> bool {
        !self.deaths
            && self.late_gates == 0
            && self.passthrough
            && self.sync_ms == 0
            && !self.journals
            && self.spool_bytes > 1 << 20
    }
}

pub struct World {
    pub root: PathBuf,
    pub dice: Arc<Dice>,
    pub trace: Arc<Trace>,
    pub time: Arc<Time>,
    pub profile: Profile,
    pub disk: RefCell<Disk>,
    pub oracle: RefCell<Oracle>,
    pub store: SimulatedStore,
    pub log: Log,
    pub process: Process,
    pub application: Application,
    /// What was written to logs since somebody heard of it.
    pub unheard: Cell<u64>,
    daemon: RefCell<Option<Rc<Daemon>>>,
    /// The process has died, and that is not cleared away yet.
    pub is_dead: Cell<bool>,
    /// So many steps of the process until it dies.
    pub death_in: Cell<Option<u64>>,
    /// A piece of a worker's work is being done; whether it holds the database's lock.
    pub in_work: Cell<Option<bool>>,
    in_tasks: Cell<bool>,
    /// Faults have ceased.
    is_calm: Cell<bool>,
    broken: RefCell<Option<Broken>>,
    /// Objects that the oracle has been told of.
    told: Cell<usize>,
    nested: RefCell<Option<Act>>,
}

thread_local! {
    static CURRENT: RefCell<Option<Rc<World>>> = const { RefCell::new(None) };
}

/// The world of this thread.
pub fn current() -> Rc<World> {
    CURRENT.with_borrow(|world| world.clone().expect("a simulation runs"))
}

/// Takes the thread's world away again.
pub struct Installed;

impl Drop for Installed {
    fn drop(&mut self) {
        recorder::set(None);
        fault::watched::set(None);
        crate::clock::simulated::set(None);
        random::simulated::seed(0);
        CURRENT.set(None);
    }
}

impl World {
    pub fn install(root: &Path, seed: u64) -> (Rc<Self>, Installed) {
        let dice = Dice::new(seed);
        let time = Time::begin();
        let trace = Trace::new(root);
        random::simulated::seed(dice.number() | 1);
        let profile = Profile::of(&dice, seed);
        trace.note(format_args!("{profile:?}"));
        let world = Rc::new(Self {
            root: root.to_owned(),
            store: SimulatedStore::new(dice.clone(), trace.clone()),
            log: Log::new(trace.clone()),
            dice,
            trace,
            time,
            profile,
            disk: RefCell::default(),
            oracle: RefCell::default(),
            process: Process::default(),
            application: Application::default(),
            unheard: Cell::new(0),
            daemon: RefCell::default(),
            is_dead: Cell::new(false),
            death_in: Cell::new(None),
            in_work: Cell::new(None),
            in_tasks: Cell::new(false),
            is_calm: Cell::new(false),
            broken: RefCell::default(),
            told: Cell::new(0),
            nested: RefCell::default(),
        });
        CURRENT.set(Some(world.clone()));
        recorder::set(Some(Rc::new(|change| current().process_changes(change))));
        fault::watched::set(Some(Rc::new(|point| current().reached(point))));
        (world, Installed)
    }

    /// What is done where an application may act in the middle of the process's work.
    pub fn set_nested(&self, nested: Option<Act>) {
        *self.nested.borrow_mut() = nested;
    }

    /// From now on nothing goes wrong any more.
    pub fn calm_down(&self) {
        self.trace.note(format_args!("faults have ceased"));
        self.store.set_faults(0);
        self.is_calm.set(true);
        self.death_in.set(None);
        self.process.death_in.set(None);
        self.set_nested(None);
    }

    pub fn broke(&self, what: Broken) {
        self.trace.note(format_args!("BROKEN {what}"));
        self.broken.borrow_mut().get_or_insert(what);
    }

    pub fn result(&self) -> Result<(), Broken> {
        self.broken.borrow().clone().map_or(Ok(()), Err)
    }

    /// The process, where it runs and the mount answers.
    pub fn daemon(&self) -> Option<Rc<Daemon>> {
        self.daemon.borrow().clone()
    }

    pub fn start(&self) {
        let store = self.store.of_next_process();
        self.is_dead.set(false);
        self.trace.note(format_args!("start"));
        if self.profile.deaths && !self.is_calm.get() && self.dice.chance(800) {
            self.death_in.set(Some(self.dice.spread(4_000)));
        }
        match Daemon::start(&self.root, &self.profile, store) {
            Ok(daemon) => *self.daemon.borrow_mut() = Some(Rc::new(daemon)),
            Err(_) if self.is_dead.get() => {}
            Err(error) => self.broke(format!("it does not start: {error}")),
        }
    }

    /// Clears away what a process has left in memory.
    pub fn clear(&self) {
        let daemon = self.daemon.borrow_mut().take();
        if let Some(daemon) = &daemon
            && self.is_dead.get()
        {
            daemon.store.die();
        }
        if let Some(daemon) = daemon {
            assert_eq!(Rc::strong_count(&daemon), 1, "nobody works for it any more");
            // What it does while it is cleared away does not count.
            self.in_tasks.set(true);
            drop(daemon);
            self.in_tasks.set(false);
        }
        self.unheard.set(0);
        self.is_dead.set(false);
        self.death_in.set(None);
    }

    /// The process ends here, in the middle of whatever it does.
    pub fn die(&self, at: std::fmt::Arguments<'_>) {
        if !self.is_dead.replace(true) {
            self.trace.note(format_args!("the process dies at {at}"));
            if let Some(daemon) = self.daemon() {
                daemon.store.die();
            }
        }
    }

    /// One more step of the process: it may be its last.
    fn count_down(&self, at: std::fmt::Arguments<'_>) {
        match self.death_in.get() {
            Some(0) => {
                self.death_in.set(None);
                self.die(at);
            }
            Some(left) => self.death_in.set(Some(left - 1)),
            None => {}
        }
    }

    /// The process is about to change something on its disk.
    fn process_changes(&self, change: &Change<'_>) -> io::Result<()> {
        if !self.is_dead.get() {
            self.count_down(format_args!("a change of its disk"));
        }
        if self.is_dead.get() {
            return Err(io::Error::other("the process is dead"));
        }
        self.disk.borrow_mut().record(change);
        Ok(())
    }

    fn reached(&self, point: Point) {
        if self.is_dead.get() {
            return;
        }
        self.count_down(format_args!("{point:?}"));
        if self.is_dead.get() || self.in_tasks.get() {
            return;
        }
        self.trace.note(format_args!("  {point:?}"));
        let is_free = point == Point::ImageRead;
        let may_act = matches!(
            point,
            Point::LogOpened | Point::LimitRead | Point::ImageRead
        );
        let nested = self.nested.borrow().clone();
        if may_act
            && let Some(nested) = nested
            && self.in_work.get().is_some()
            && self.dice.chance(if is_free { 400 } else { 100 })
        {
            let before = self.in_work.replace(Some(!is_free));
            nested(self);
            while self.profile.passes_logs && self.dice.chance(500) {
                nested(self);
            }
            self.in_work.set(before);
        }
    }

    /// Something of the process goes on, or time passes.
    pub fn go_on(&self) {
        let Some(daemon) = self.daemon().filter(|_| !self.is_dead.get()) else {
            return self.pass(self.dice.spread(2_000));
        };
        self.hear(&daemon);
        match self.dice.below(10) {
            0..4 => self.run_tasks(&daemon, self.dice.spread(8)),
            4..8 => drop(self.work(&daemon, None)),
            _ => self.pass(self.dice.spread(60)),
        }
        self.look_at_store(false);
    }

    /// The process hears of what was written to logs: late, once for several writes, of too much at once, or not at all.
    fn hear(&self, daemon: &Daemon) {
        if self.unheard.get() == 0 || self.dice.chance(500) {
            return;
        }
        let writes = self.unheard.replace(0);
        self.trace.note(format_args!("  heard of {writes} writes"));
        match self.dice.below(10) {
            0 => {}
            1 => daemon.capture.hear(Heard::Anything),
            _ => {
                let database = format!("{}.db", super::daemon::GUID);
                if let Some(db) = daemon.capture.at_path(Path::new(&database)) {
                    daemon.capture.hear(Heard::Log(db.clone()));
                    if self.dice.chance(500) {
                        daemon.capture.hear(Heard::Since(db));
                    }
                }
            }
        }
    }

    pub fn run_tasks(&self, daemon: &Daemon, turns: u64) {
        if self.in_tasks.get() {
            return;
        }
        let before = daemon.store.instants();
        self.in_tasks.set(true);
        daemon.run_tasks(turns);
        self.in_tasks.set(false);
        for _ in before..daemon.store.instants() {
            self.count_down(format_args!("a request"));
        }
    }

    /// Does a piece of the workers' work: of one kind, or of any. False where there is none, or where it can't be begun now.
    pub fn work(&self, daemon: &Daemon, kind: Option<Kind>) -> bool {
        if self.in_tasks.get() || self.in_work.get() == Some(true) {
            return false;
        }
        let before = self.in_work.replace(Some(true));
        let done = match kind {
            Some(kind) => daemon.work(kind),
            None if before.is_none() => daemon.work_on_any(&self.dice),
            // An image is being made: no second one.
            None => daemon.work(self.dice.pick(&[Kind::Gate, Kind::Look])),
        };
        if done {
            self.trace.note(format_args!("  worked {kind:?}"));
        }
        self.in_work.set(before);
        done
    }

    pub fn pass(&self, ms: u64) {
        self.time.pass(ms);
        if let Some(daemon) = self.daemon()
            && !self.in_tasks.replace(true)
        {
            daemon.pass(ms);
            self.in_tasks.set(false);
        }
        self.store.arrive();
    }

    /// The oracle learns what came into the store.
    pub fn look_at_store(&self, all: bool) {
        let arrived = self.store.arrived_after(self.told.get());
        self.told.set(self.told.get() + arrived.len());
        let mut oracle = self.oracle.borrow_mut();
        for name in arrived {
            let prefix = format!("databases/{}", super::daemon::GUID);
            let key = crate::format::keys::ObjectKey::parse(&prefix, &name);
            match key {
                Some(key) => oracle.arrived(key, self.store.object(&name)),
                None if name.starts_with("registry/") => {}
                None => self.broke(format!("{name} is no object's key")),
            }
        }
        let checked = oracle.check(all);
        for found in oracle.take_found() {
            self.trace.note(format_args!("{found}"));
        }
        if let Err(broken) = checked {
            self.broke(broken);
        }
    }

    /// The power fails: what was not synced may be gone, of all files.
    pub fn lose_power(&self) {
        self.trace.note(format_args!("the power fails"));
        let left = self.disk.borrow_mut().lose_power(&self.dice);
        let state = self.root.join(STATE);
        std::fs::remove_dir_all(&state).expect("it was there");
        for path in super::files_below(&self.root.join("data")) {
            let is_index = path.as_os_str().as_encoded_bytes().ends_with(b"-shm");
            if is_index || !left.contains_key(&path) {
                std::fs::remove_file(&path).expect("it was there");
            }
        }
        self.put_back(&left);
    }

    fn put_back(&self, left: &BTreeMap<PathBuf, Vec<u8>>) {
        for (path, bytes) in left {
            let folder = path.parent().expect("below the root");
            std::fs::create_dir_all(folder).expect("a folder");
            let before = std::fs::read(path).ok();
            if before.as_ref() == Some(bytes) {
                continue;
            }
            // An inode may have its new time without its new content.
            let keeps_time =
                before.is_some_and(|before| before.len() == bytes.len()) && self.dice.chance(500);
            let time = keeps_time.then(|| super::modified(path));
            write_over(path, bytes).expect("written");
            super::set_modified(path, time.unwrap_or_else(|| self.time.next_ns()));
            self.trace.note(format_args!(
                "{} has {} bytes",
                path.strip_prefix(&self.root).expect("below it").display(),
                bytes.len()
            ));
        }
    }
}

/// Keeps the inode where there is one.
fn write_over(path: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::io::Write;
    let file = std::fs::File::options()
        .create(true)
        .write(true)
        .truncate(true)
        .open(path);
    file?.write_all(bytes)
}
