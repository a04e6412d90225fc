//! Operations that wait for a disk: kept off the threads that serve all tenants' requests.
//!
//! The threads that take requests from the kernel, and those of the capture, may each have one such operation among
//! them: so an operation that finds the disk idle needs no other thread. All others run on threads of their own, and
//! wait in a queue for each tenant. Tenants take turns, and each has at most `SHARE` operations running.
//!
//! Each operation that waits is a system call of an application, so there are never more than these.

use std::collections::{HashMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::inodes::NodeId;
use crate::fault::panic_text;

/// Operations that run at once on threads of their own, at most.
const THREADS: usize = 32;
/// Of these and those in place, how many may be one tenant's.
const SHARE: usize = 8;
/// Operations that run at once on each kind of the threads that other work needs.
const IN_PLACE: usize = 1;
/// A thread that has had nothing to do for so long ends.
const IDLE: Duration = Duration::from_secs(10);
/// How long the end of a mount waits for what is running.
const END_LIMIT: Duration = Duration::from_secs(5);

/// A write that took so long has waited for the disk.
const SLOW_WRITE: Duration = Duration::from_millis(4);
/// As long as that after it others are taken to wait as well.
const SLOW_FOR: Duration = Duration::from_secs(1);

type Job = Box<dyn FnOnce() + Send>;

/// On whose account an operation runs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Tenant {
    /// A database and its companions, by an address that is its own.
    Database(usize),
    /// Other files of a directory.
    Directory(NodeId),
}

/// A kind of threads that must not all wait for a disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Asking {
    /// Those that take requests from the kernel.
    Requests,
    /// Those that capture what an operation would destroy.
    Capture,
}

/// The threads of one mount. What still waits when this is dropped is not carried out: nobody can be answered then.
pub(super) struct DiskThreads(Arc<Inner>);

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Those that have anything running or waiting.
    tenants: HashMap<Tenant, Share>,
    /// Those that wait and have not their share running, each once.
    turns: VecDeque<Tenant>,
    in_place: [usize; 2],
    threads: usize,
    idle: usize,
    /// In place or on a thread.
    running: usize,
    has_ended: bool,
}

#[derive(Default)]
struct Share {
    running: usize,
    waiting: VecDeque<Job>,
    has_turn: bool,
}

impl State {
    fn enqueue(&mut self, tenant: Tenant, job: Job) {
        let share = self.tenants.entry(tenant).or_default();
        share.waiting.push_back(job);
        self.give_turn(tenant);
    }

    fn give_turn(&mut self, tenant: Tenant) {
        if let Some(share) = self.tenants.get_mut(&tenant)
            && !share.has_turn
            && !share.waiting.is_empty()
            && share.running < SHARE
        {
            share.has_turn = true;
            self.turns.push_back(tenant);
        }
    }

    fn begin(&mut self, tenant: Tenant) {
        self.running += 1;
        self.tenants.entry(tenant).or_default().running += 1;
    }

    fn take_next(&mut self) -> Option<(Tenant, Job)> {
        let tenant = self.turns.pop_front()?;
        let share = self.tenants.get_mut(&tenant)?;
        share.has_turn = false;
        let job = share.waiting.pop_front()?;
        self.begin(tenant);
        self.give_turn(tenant);
        Some((tenant, job))
    }

    fn end(&mut self, tenant: Tenant) {
        self.running -= 1;
        if let Some(share) = self.tenants.get_mut(&tenant) {
            share.running -= 1;
            if share.running == 0 && share.waiting.is_empty() {
                self.tenants.remove(&tenant);
            }
        }
        self.give_turn(tenant);
    }

    /// Whether the calling thread may carry it out itself.
    fn has_place(&self, asking: Asking, tenant: Tenant) -> bool {
        let share = self.tenants.get(&tenant);
        self.in_place[asking as usize] < IN_PLACE
            && share.is_none_or(|share| share.waiting.is_empty() && share.running < SHARE)
    }
}

impl DiskThreads {
    pub fn new() -> Self {
        Self(Arc::default())
    }

    /// Carries `job` out, in place or on another thread; it answers by itself. Those of a tenant begin in the order in
    /// which they come.
    pub fn run(&self, asking: Asking, tenant: Tenant, job: impl FnOnce() + Send + 'static) {
        let mut state = self.0.lock();
        if state.has_ended {
            return;
        }
        if state.has_place(asking, tenant) {
            state.begin(tenant);
            state.in_place[asking as usize] += 1;
            drop(state);
            survived(job);
            let mut state = self.0.lock();
            state.in_place[asking as usize] -= 1;
            state.end(tenant);
            self.0.call_threads(&mut state);
        } else {
            state.enqueue(tenant, Box::new(job));
            self.0.call_threads(&mut state);
        }
    }

    /// Drops what waits, and waits for what runs: the mount has ended.
    pub fn end(&self) {
        let mut state = self.0.lock();
        state.has_ended = true;
        state.turns.clear();
        let waiting: Vec<_> = state.tenants.values_mut().map(take_waiting).collect();
        drop(state);
        self.0.changed.notify_all();
        drop(waiting);
        let state = self.0.lock();
        let waited = self
            .0
            .changed
            .wait_timeout_while(state, END_LIMIT, |state| state.running > 0);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if state.running > 0 {
            tracing::warn!(
                operations = state.running,
                "The mount has ended, and a disk has not answered yet"
            );
        }
    }
}

impl Drop for DiskThreads {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.has_ended = true;
        drop(state);
        self.0.changed.notify_all();
    }
}

fn take_waiting(share: &mut Share) -> VecDeque<Job> {
    std::mem::take(&mut share.waiting)
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has a thread for what waits, as far as there may be one.
    fn call_threads(self: &Arc<Self>, state: &mut State) {
        if state.turns.is_empty() {
            return;
        }
        if state.idle > 0 {
            self.changed.notify_one();
        }
        if state.turns.len() > state.idle && state.threads < THREADS {
            let threads = self.clone();
            let started = std::thread::Builder::new()
                .name("disk".to_owned())
                .spawn(move || threads.work());
            match started {
                Ok(_) => state.threads += 1,
                // Those that are there go on; with none, what waits is carried out when the next one can be started.
                Err(error) => tracing::warn!(%error, "A thread for the disk could not be started"),
            }
        }
    }

    fn work(self: Arc<Self>) {
        let mut state = self.lock();
        loop {
            if let Some((tenant, job)) = state.take_next() {
                self.call_threads(&mut state);
                drop(state);
                survived(job);
                state = self.lock();
                state.end(tenant);
                if state.has_ended {
                    self.changed.notify_all();
                }
                continue;
            }
            if state.has_ended {
                break;
            }
            state.idle += 1;
            let waited = self.changed.wait_timeout(state, IDLE);
            let (woken, outcome) = waited.unwrap_or_else(PoisonError::into_inner);
            state = woken;
            state.idle -= 1;
            if outcome.timed_out() && state.turns.is_empty() {
                break;
            }
        }
        state.threads -= 1;
    }
}

/// Whether writes that the mount carries out itself wait for the disk: a write that is only cached takes microseconds,
/// until there is more to be written back than may be.
#[derive(Default, Debug)]
pub(super) struct Writes(Mutex<Option<Instant>>);

impl Writes {
    /// Whether one took `SLOW_WRITE` within the last `SLOW_FOR`.
    pub fn are_slow(&self) -> bool {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.is_some_and(|last| last.elapsed() < SLOW_FOR)
    }

    /// Carries a write out.
    pub fn timed<T>(&self, write: impl FnOnce() -> T) -> T {
        let begun = Instant::now();
        let written = write();
        if begun.elapsed() >= SLOW_WRITE {
            let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            *last = Some(Instant::now());
        }
        written
    }
}

/// An operation that panics has its request answered with an error, as its answer is dropped.
fn survived(job: impl FnOnce()) {
    if let Err(payload) = std::panic::catch_unwind(AssertUnwindSafe(job)) {
        tracing::error!(error = %panic_text(&*payload), "An operation panicked; please report it");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);
    const BUSY: Tenant = Tenant::Directory(1);
    const OTHER: Tenant = Tenant::Directory(2);

    /// Takes the place of requests, until the sender is dropped.
    fn occupied(threads: &Arc<DiskThreads>) -> mpsc::Sender<()> {
        let (free, freed) = mpsc::channel::<()>();
        let (begun, has_begun) = mpsc::channel();
        let threads = threads.clone();
        std::thread::spawn(move || {
            threads.run(Asking::Requests, Tenant::Database(0), move || {
                begun.send(()).expect("heard");
                while freed.recv().is_ok() {}
            });
        });
        has_begun.recv_timeout(LIMIT).expect("begun");
        free
    }

    #[test]
    fn a_tenant_has_its_share_and_others_go_on() {
        let threads = Arc::new(DiskThreads::new());
        let _place = occupied(&threads);
        let (free, freed) = mpsc::channel::<()>();
        let freed = Arc::new(Mutex::new(freed));
        let (begun, has_begun) = mpsc::channel();
        for number in 0..SHARE + 3 {
            let (begun, freed) = (begun.clone(), freed.clone());
            threads.run(Asking::Requests, BUSY, move || {
                begun.send(number).expect("heard");
                let _ended = freed.lock().map(|freed| freed.recv());
            });
        }
        let mut first: Vec<_> = (0..SHARE)
            .map(|_| has_begun.recv_timeout(LIMIT).expect("begun"))
            .collect();
        first.sort_unstable();
        assert_eq!(first, Vec::from_iter(0..SHARE));
        let (done, is_done) = mpsc::channel();
        threads.run(Asking::Requests, OTHER, move || {
            done.send(()).expect("heard")
        });
        is_done
            .recv_timeout(LIMIT)
            .expect("another tenant's is carried out");
        assert!(has_begun.try_recv().is_err(), "the rest waits");
        free.send(()).expect("one ends");
        assert_eq!(
            has_begun.recv_timeout(LIMIT),
            Ok(SHARE),
            "in the order in which they came"
        );
        drop(free);
        for number in SHARE + 1..SHARE + 3 {
            assert_eq!(has_begun.recv_timeout(LIMIT), Ok(number));
        }
    }

    #[test]
    fn one_that_panics_leaves_its_place_to_the_next() {
        let threads = Arc::new(DiskThreads::new());
        threads.run(Asking::Requests, BUSY, || panic!("on purpose"));
        let _place = occupied(&threads);
        let (done, is_done) = mpsc::channel();
        for number in 0..2 * SHARE {
            let done = done.clone();
            threads.run(Asking::Requests, BUSY, move || {
                done.send(number).expect("heard");
                panic!("on purpose");
            });
        }
        for _ in 0..2 * SHARE {
            is_done.recv_timeout(LIMIT).expect("carried out");
        }
    }

    #[test]
    fn what_waits_at_the_end_is_dropped_and_what_runs_is_waited_for() {
        let threads = Arc::new(DiskThreads::new());
        let place = occupied(&threads);
        let (free, freed) = mpsc::channel::<()>();
        let freed = Arc::new(Mutex::new(freed));
        let (done, is_done) = mpsc::channel();
        for _ in 0..SHARE + 1 {
            let (done, freed) = (done.clone(), freed.clone());
            threads.run(Asking::Requests, BUSY, move || {
                let _ended = freed.lock().map(|freed| freed.recv());
                done.send(()).expect("heard");
            });
        }
        drop(done);
        while threads.0.lock().tenants[&BUSY].running < SHARE {
            std::thread::yield_now();
        }
        let ending = std::thread::spawn({
            let threads = threads.clone();
            move || threads.end()
        });
        while !threads.0.lock().has_ended {
            std::thread::yield_now();
        }
        drop((place, free));
        ending.join().expect("ended");
        assert_eq!(is_done.iter().count(), SHARE);
    }
}
