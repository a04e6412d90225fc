//! One seed: what happens, and what has to be true in the end.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;

use super::daemon::GUID;
use super::oracle::Broken;
use super::world::{Installed, STATE, World};
use crate::capture::Kind;
use crate::clock::{UnixMs, now_ms};
use crate::format::keys::GenerationId;
use crate::replicate::{SyncError, Synced};
use crate::restore::{At, RestoreError, Target, restore_to_file, verify_replica};
use crate::store::ObjectStore;
use crate::tenant::roster::Status;

/// What a run was, for whoever compares or counts.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Outcome {
    pub trace: u64,
    pub commits: usize,
    pub stored: usize,
    pub generations: usize,
    pub starts: usize,
    pub power_losses: usize,
    pub syncs: usize,
}

impl Outcome {
    pub fn add(&mut self, other: &Self) {
        self.trace ^= other.trace;
        self.commits += other.commits;
        self.stored += other.stored;
        self.generations += other.generations;
        self.starts += other.starts;
        self.power_losses += other.power_losses;
        self.syncs += other.syncs;
    }
}

type Sync = JoinHandle<Result<Synced, SyncError>>;

/// A run under way.
struct Run {
    world: Rc<World>,
    _installed: Installed,
    outcome: Outcome,
    /// With how much was committed when each was asked for.
    syncs: Vec<(usize, Sync)>,
    starts: Vec<Start>,
}

/// A start of the process, and why generations may begin after it.
struct Start {
    at: UnixMs,
    /// Nothing was known of an earlier one: one may begin without a word.
    is_first: bool,
    /// Lines of the log before.
    said: usize,
}

/// Runs one seed to its end.
pub fn run(seed: u64) -> Result<Outcome, Broken> {
    let directory = directory();
    let root = directory.path();
    for folder in ["data", "scratch", "restored"] {
        std::fs::create_dir(root.join(folder)).expect("a folder");
    }
    super::mount::register();
    // SAFETY: only sets the state of SQLite's generator, from which salts come.
    unsafe {
        let none: *mut rusqlite::ffi::sqlite3 = std::ptr::null_mut();
        rusqlite::ffi::sqlite3_test_control(
            rusqlite::ffi::SQLITE_TESTCTRL_PRNG_SEED,
            (seed as i32) | 1,
            none,
        );
        rusqlite::ffi::sqlite3_randomness(0, std::ptr::null_mut());
    }
    let (world, installed) = World::install(root, seed);
    let _listening = world.log.listen();
    let mut run = Run {
        world,
        _installed: installed,
        outcome: Outcome::default(),
        syncs: Vec::new(),
        starts: Vec::new(),
    };
    run.world.set_nested(Some(Rc::new(World::act_in_between)));
    let done = run.live().and_then(|()| run.settle());
    run.world.set_nested(None);
    run.syncs.clear();
    if run.world.is_application_open() {
        run.world.kill();
    }
    run.world.clear();
    done?;
    run.outcome.trace = run.world.trace.hash();
    Ok(run.outcome)
}

/// In memory where that can be, since nothing has to last.
fn directory() -> tempfile::TempDir {
    let memory = std::path::Path::new("/dev/shm");
    let made = match memory.is_dir() {
        true => tempfile::tempdir_in(memory),
        false => tempfile::tempdir(),
    };
    made.expect("a directory")
}

impl Run {
    fn live(&mut self) -> Result<(), Broken> {
        let world = self.world.clone();
        world.store.set_faults(world.profile.store_faults);
        self.start();
        for _ in 0..40 + world.dice.spread(80) {
            match world.dice.below(100) {
                0..45 => world.act(),
                45..85 => (0..world.dice.spread(20)).for_each(|_| world.go_on()),
                85..90 => world.pass(world.dice.spread(60_000)),
                90..93 => self.ask_for_sync(),
                93..95 => self.daemon_do(|daemon| daemon.snapshot()),
                95 => self.restart(),
                96 if world.profile.store_faults > 0 => self.change_store(),
                97 if world.profile.deaths => world.die(format_args!("rest")),
                98 if world.profile.power_losses => self.lose_power(),
                _ => {}
            }
            self.after_step()?;
        }
        Ok(())
    }

    fn daemon_do(&self, work: impl FnOnce(&super::daemon::Daemon)) {
        if let Some(daemon) = self.world.daemon() {
            work(&daemon);
        }
    }

    fn after_step(&mut self) -> Result<(), Broken> {
        if self.world.is_dead.get() {
            let power = self.world.profile.power_losses && self.world.dice.chance(300);
            match power {
                true => self.lose_power(),
                false => self.mend(),
            }
        }
        self.world.look_at_store(false);
        self.hear_of_syncs();
        self.assert_nothing_odd_is_told();
        self.world.result()
    }

    /// Only a disk that forgot can explain some things.
    fn assert_nothing_odd_is_told(&self) {
        for text in ["panicked", "do not add up", "Two instances"] {
            if self.world.log.count(text) > 0 {
                self.world.broke(format!("it is said that {text}"));
            }
        }
        if self.world.profile.missed_gates == 0 && self.missed_gates() > 0 {
            self.world.broke("a gate was missed".to_owned());
        }
        // After a death nobody may be left who has counted.
        let profile = &self.world.profile;
        let may_be = profile.missed_gates > 0 || profile.deaths;
        let may_be = may_be || self.world.process.is_cut_refused.get();
        if !may_be && self.world.log.count("log_unknown") > 0 {
            let what = "a log is taken for one that does not follow, and no gate was missed";
            self.world.broke(what.to_owned());
        }
        let is_suspected = self.world.log.count("foreign_change") > 0;
        if is_suspected && self.world.profile.misses_nothing() && self.outcome.starts == 1 {
            let what = "the file is suspected, and nobody has changed it";
            self.world.broke(what.to_owned());
        }
        let not_whole = self.world.log.count("is not whole, as after a power cut");
        // A death may come while another one begins, for a reason that was told.
        if not_whole > 0 && self.said() == not_whole && self.outcome.power_losses == 0 {
            let what = "local state is not whole, and the power did not fail";
            self.world.broke(what.to_owned());
        }
    }

    /// Starts the process over what is there.
    fn start(&mut self) {
        self.outcome.starts += 1;
        self.starts.push(Start {
            at: now_ms(),
            is_first: !has_stored_mark(&self.world.root),
            said: self.said(),
        });
        self.world.note_recovered();
        self.world.start();
    }

    /// The process is dead: its mount is, and so is what used that; it is started again, at once or later.
    fn mend(&mut self) {
        let world = self.world.clone();
        world.kill();
        self.syncs.clear();
        world.clear();
        self.run_without();
        self.start();
    }

    /// Without the process the application may go on all the same.
    fn run_without(&self) {
        let world = &self.world;
        if world.dice.chance(300) {
            for _ in 0..world.dice.spread(12) {
                world.act();
            }
            match world.dice.chance(500) {
                true => world.close(),
                false => world.kill(),
            }
        }
        world.pass(world.dice.spread(300_000));
    }

    fn lose_power(&mut self) {
        let world = self.world.clone();
        world.die(format_args!("a power loss"));
        world.kill();
        self.syncs.clear();
        world.clear();
        world.lose_power();
        self.outcome.power_losses += 1;
        world.note_recovered();
        self.run_without();
        self.start();
    }

    /// In order: what is committed is stored before, as far as the time for that allows.
    fn restart(&mut self) {
        let world = self.world.clone();
        if world.dice.chance(500) {
            world.close();
        } else {
            world.kill();
        }
        for _ in 0..world.dice.spread(200) {
            world.go_on();
        }
        if !world.is_dead.get() {
            self.syncs.clear();
            world.death_in.set(None);
            self.daemon_do(|daemon| daemon.stop());
            world.clear();
            self.run_without();
            self.start();
        }
    }

    fn change_store(&self) {
        let faults = [0, self.world.profile.store_faults, 1000];
        let faults = self.world.dice.pick(&faults);
        self.world.trace.note(format_args!("{faults} faults"));
        self.world.store.set_faults(faults);
    }

    fn ask_for_sync(&mut self) {
        let Some(daemon) = self.world.daemon() else {
            return;
        };
        if let Some(sync) = daemon.sync(Duration::from_secs(600)) {
            self.syncs.push((self.world.oracle.borrow().len(), sync));
        }
    }

    /// What was acknowledged as stored has to be in the store.
    fn hear_of_syncs(&mut self) {
        let Some(daemon) = self.world.daemon() else {
            return;
        };
        let (done, waiting) = std::mem::take(&mut self.syncs)
            .into_iter()
            .partition(|(_, sync)| sync.is_finished());
        self.syncs = waiting;
        let done: Vec<(usize, Sync)> = done;
        for (committed, sync) in done {
            let Ok(synced) = daemon.answer(sync) else {
                continue;
            };
            self.outcome.syncs += 1;
            self.world.look_at_store(true);
            let stored = self.world.oracle.borrow().newest_stored();
            // An empty database has nothing to store.
            if stored < committed && synced.txid > 0 {
                self.world.broke(format!(
                    "a sync said that {committed} states are stored, and {stored} are"
                ));
            }
        }
    }

    /// Faults have ceased: everything has to become stored, and to be what it was.
    fn settle(&mut self) -> Result<(), Broken> {
        let world = self.world.clone();
        world.calm_down();
        world.close();
        self.after_step()?;
        if !world.is_application_open() {
            // Whatever is to be recovered is, by whoever opens it.
            world.act();
        }
        self.syncs.clear();
        self.ask_for_sync();
        for _ in 0..4_000 {
            if self.syncs.is_empty() && !world.store.has_late() {
                break;
            }
            let Some(daemon) = world.daemon() else {
                return Err("the process is gone".to_owned());
            };
            world.run_tasks(&daemon, 20);
            while daemon.waits(Kind::Look) || daemon.waits(Kind::Image) || daemon.waits(Kind::Gate)
            {
                world.work(&daemon, None);
            }
            world.pass(500);
            self.hear_of_syncs();
        }
        world.look_at_store(true);
        world.result()?;
        self.assert_settled()
    }

    fn assert_settled(&mut self) -> Result<(), Broken> {
        let world = self.world.clone();
        let daemon = world.daemon().expect("it runs");
        let progress = daemon.client().map(|client| client.progress());
        let Some(progress) = progress else {
            return Err("the client is not registered".to_owned());
        };
        let oracle = world.oracle.borrow();
        let told = format!("{:?} {:?}", progress.status, progress.last_error);
        if !self.syncs.is_empty() {
            return Err(format!("not everything becomes stored: {told}"));
        }
        // That is told until the process ends.
        let is_told = |code: &str| {
            let told = progress.last_error.as_ref();
            told.is_some_and(|error| error.starts_with(code))
        };
        let may_be_told = (is_told("behind_replica") && self.outcome.starts > 1)
            || (is_told("foreign_change") && world.profile.missed_gates > 0);
        if progress.status != Status::Active || (progress.last_error.is_some() && !may_be_told) {
            return Err(format!("health does not recover: {told}"));
        }
        if !oracle.is_all_stored() {
            return Err(format!(
                "the newest state is not the newest stored one: {:?}",
                oracle.newest()
            ));
        }
        if world.profile.keeps_every_state()
            && self.outcome.starts == 1
            && !world.process.is_cut_refused.get()
            && let Some(missing) = oracle.first_missing()
            && (world.profile.missed_gates == 0 || self.missed_gates() == 0)
        {
            return Err(format!("state {missing} was lost of the history"));
        }
        self.assert_generations_are_told(oracle.generations())?;
        let generations = oracle.generations().count();
        if !oracle.left_over().is_empty() && generations == 1 {
            return Err(format!("nothing leads to {:?}", oracle.left_over()));
        }
        self.outcome.commits = oracle.len();
        self.outcome.generations = generations;
        self.outcome.stored = oracle.states().count();
        drop(oracle);
        self.assert_restorable()
    }

    /// Lines that say that a gate was missed.
    fn missed_gates(&self) -> usize {
        self.world.log.count("no gate was seen")
    }

    /// Lines that say why a generation begins.
    fn said(&self) -> usize {
        let reasons = [
            "new generation begins",
            "the history is gapped",
            "A database can't be captured",
        ];
        let count = |reason: &&str| self.world.log.count(reason);
        reasons.iter().map(count).sum()
    }

    fn assert_generations_are_told(
        &self,
        generations: impl Iterator<Item = GenerationId>,
    ) -> Result<(), Broken> {
        let mut begun = vec![Vec::new(); self.starts.len()];
        for generation in generations {
            let after = self
                .starts
                .partition_point(|start| start.at <= generation.started_ms());
            begun[after.max(1) - 1].push(generation);
        }
        for (index, begun) in begun.into_iter().enumerate() {
            let start = &self.starts[index];
            let next = self.starts.get(index + 1);
            let said = next.map_or_else(|| self.said(), |next| next.said) - start.said;
            if begun.len() > said + usize::from(start.is_first) {
                let generation = begun[begun.len() - 1];
                return Err(format!(
                    "generation {generation} begins after start {index}, and nobody says why"
                ));
            }
        }
        Ok(())
    }

    /// The program's own restore gives what the oracle says.
    fn assert_restorable(&self) -> Result<(), Broken> {
        let world = &self.world;
        let store: Arc<dyn ObjectStore> = Arc::new(world.store.of_next_process());
        let replica = format!("databases/{GUID}");
        let output = world.root.join("restored/restored.db");
        let states: Vec<_> = world.oracle.borrow().states().collect();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime");
        for _ in 0..3 {
            let (generation, state) = world.dice.pick(&states);
            let target = Target {
                generation: Some(generation),
                at: At::Txid(state.txid),
            };
            let restored = restore_to_file(&store, &replica, &target, &output, false, &|_| {});
            let restored = runtime
                .block_on(restored)
                .map_err(|error| error.to_string())?;
            let bytes = std::fs::read(&output).expect("restored");
            std::fs::remove_file(&output).expect("it is there");
            if super::chance::hash_of(&&bytes[..]) != state.content {
                return Err(format!("{restored:?} is another state"));
            }
        }
        let scratch = world.root.join("scratch");
        let verified = runtime.block_on(verify_replica(&store, &replica, &scratch));
        // With NORMAL a rollback journal that was removed can come back after a power cut, beside a file that was cut since.
        // SQLite recovers what never was, and that is what has to be stored, as it is.
        let may_be_torn = world.profile.power_losses && world.profile.journals;
        match verified {
            Err(RestoreError::Inconsistent { .. }) if may_be_torn => Ok(()),
            verified => verified.map(drop).map_err(|error| error.to_string()),
        }
    }
}

/// Whether an earlier run has noted that anything is stored: else a new generation has no one before it.
fn has_stored_mark(root: &std::path::Path) -> bool {
    let copy = root.join("scratch/state.db");
    for suffix in ["", "-wal"] {
        let name = format!("state.db{suffix}");
        let (from, to) = (
            root.join(STATE).join(&name),
            root.join("scratch").join(&name),
        );
        if to.exists() {
            std::fs::remove_file(&to).expect("removed");
        }
        if from.exists() {
            std::fs::copy(from, to).expect("copied");
        }
    }
    if !copy.exists() {
        return false;
    }
    let connection = rusqlite::Connection::open(&copy).expect("open the copy");
    let stored = "SELECT count(*) FROM database WHERE generation IS NOT NULL";
    let stored = connection.query_row(stored, [], |row| row.get::<_, i64>(0));
    stored.is_ok_and(|stored| stored > 0)
}
