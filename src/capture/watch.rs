//! Hears of writes to logs that the kernel passes through to the backing files: one inotify watch for each such log, and
//! one thread that sleeps while nothing is written.
//!
//! A watch ends with what it has told, so that a writer pays for no more than the first write after each look; the next
//! look begins with watching again. Where many logs are written, and none of them fast, a watch stays: that costs a writer
//! less than its end, and nobody has to watch again. It ends with the third of three readings in a row that tell of its log.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;

use super::backing::{Backing, Opened};
use super::database::{Database, locked};
use super::error::CaptureError;
use super::gate::Gate;
use super::{Capture, LogPassing};
use crate::room;
use crate::tenant::policy::Durability;

/// Between two readings: what is written meanwhile is heard of at once, and the writers have the processor.
const BREATH: Duration = Duration::from_millis(1);
/// The same where many logs are written, and none of them fast: they are looked at several at a time.
const LONG_BREATH: Duration = Duration::from_millis(10);
/// So many logs that were heard of in one breath are many.
const MANY: usize = 4;
const BUFFER_SIZE: usize = 64 << 10;

/// What was heard.
#[derive(Debug)]
pub(crate) enum Heard {
    /// The log of this database was written, or is gone.
    Log(Arc<Database>),
    /// A breath has passed since, and nothing more is heard of it.
    Since(Arc<Database>),
    /// Too much at once: any log may have been written.
    Anything,
}

/// The watched logs of one watch path.
#[derive(Debug)]
struct Watch {
    events: OwnedFd,
    /// Readable once nobody is to listen any more.
    end: OwnedFd,
    /// By the number of their watch.
    logs: Mutex<HashMap<i32, Watched>>,
    /// Many logs are written, and none of them fast.
    is_calm: AtomicBool,
}

/// A log that is watched.
#[derive(Debug)]
struct Watched {
    db: Weak<Database>,
    /// The log's inode where its watch stays; none where the first event is its end.
    stays: Option<u64>,
}

/// A log whose writes are heard of.
#[derive(Debug)]
pub(super) struct HeardLog {
    pub inode: u64,
    pub file: Arc<File>,
}

impl HeardLog {
    /// Where one with another `inode` has the name, its writes may not be heard of: then the next look listens to that.
    pub fn refuse_other(&self, db: &Database, inode: u64) -> Result<(), CaptureError> {
        if inode == 0 || inode == self.inode {
            return Ok(());
        }
        db.unset_watched(self.inode);
        Err(CaptureError::Disturbed)
    }
}

/// The number of its watch, and whose log was written, or is gone.
type Written = (i32, Arc<Database>);

impl Watch {
    fn new() -> io::Result<Self> {
        Ok(Self {
            events: inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?,
            end: rustix::event::eventfd(0, EventfdFlags::CLOEXEC)?,
            logs: Mutex::default(),
            is_calm: AtomicBool::new(false),
        })
    }

    /// Watches a log with that inode until it is next written, or for longer; one that is watched already stays so.
    ///
    /// # Errors
    /// The system's limit of watches, above all.
    fn add(&self, db: &Arc<Database>, log: BorrowedFd<'_>, inode: u64) -> io::Result<()> {
        // By its descriptor, so that it is the file underneath, whatever its name is by now.
        let path = format!("/proc/self/fd/{}", log.as_raw_fd());
        let stays = self.is_calm.load(Ordering::SeqCst).then_some(inode);
        let end = match stays {
            Some(_) => WatchFlags::empty(),
            None => WatchFlags::ONESHOT,
        };
        let mut logs = self.lock();
        let number = inotify::add_watch(&self.events, path, WatchFlags::MODIFY | end)?;
        let watched = Watched {
            db: Arc::downgrade(db),
            stays,
        };
        logs.insert(number, watched);
        db.set_watched(stays);
        Ok(())
    }

    /// Tells what is heard, until `end`.
    fn listen(&self, mut tell: impl FnMut(Heard)) -> io::Result<()> {
        let mut buffer = vec![MaybeUninit::uninit(); BUFFER_SIZE];
        let (mut breath, mut before) = (BREATH, [const { Vec::new() }; 2]);
        loop {
            let mut ready = [
                PollFd::new(&self.events, PollFlags::IN),
                PollFd::new(&self.end, PollFlags::IN),
            ];
            match rustix::event::poll(&mut ready, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            if !ready[1].revents().is_empty() {
                return Ok(());
            }
            let (mut logs, mut is_anything) = (Vec::new(), false);
            self.read(&mut buffer, &mut |heard| match heard {
                Some(written) => logs.push(written),
                None => is_anything = true,
            })?;
            // A watch ends before that is told: the look that comes of it watches again.
            let is_fast = self.is_any_fast(&logs, &before);
            breath = next_breath(breath, is_fast);
            let is_calm = breath == LONG_BREATH && logs.len() >= MANY;
            self.is_calm.store(is_calm, Ordering::SeqCst);
            if is_anything {
                tell(Heard::Anything);
            }
            let heard = logs.iter().map(|(_, db)| Heard::Log(db.clone()));
            heard.for_each(&mut tell);
            // Where they lie names them well enough.
            before.rotate_right(1);
            before[0] = logs.iter().map(|(_, db)| Arc::as_ptr(db)).collect();
            std::thread::sleep(breath);
            let ended = logs.into_iter().filter(|(_, db)| db.watched().is_none());
            ended.for_each(|(_, db)| tell(Heard::Since(db)));
        }
    }

    /// Whether one of the logs that were heard of now is written fast, by those that were heard of in the readings
    /// before, newest first: it may have to be read ahead of its gate. Its watch does not stay.
    fn is_any_fast(&self, logs: &[Written], before: &[Vec<*const Database>; 2]) -> bool {
        let is_calm = self.is_calm.load(Ordering::SeqCst);
        let mut is_any_fast = false;
        for (number, db) in logs {
            let was_heard = |before: &Vec<_>| before.contains(&Arc::as_ptr(db));
            // A reading may come in the middle of a commit, and so tell of it twice.
            let is_fast = match db.watched() {
                Some(_) => before.iter().all(was_heard),
                None => was_heard(&before[0]),
            };
            is_any_fast |= is_fast;
            if is_fast || !is_calm {
                self.end_watch(*number);
            }
        }
        is_any_fast
    }

    /// Ends a watch that stays.
    fn end_watch(&self, number: i32) {
        let mut logs = self.lock();
        if logs.get(&number).is_none_or(|log| log.stays.is_none()) {
            return;
        }
        if let Some(log) = logs.remove(&number) {
            log.has_ended();
            room::give_back(&mut logs);
        }
        // Its log may be gone, which is the end as well.
        match inotify::remove_watch(&self.events, number) {
            Ok(()) | Err(Errno::INVAL) => {}
            Err(error) => tracing::warn!(%error, "A watch of a log can't be ended"),
        }
    }

    /// Reads all that there is; none stands for any log.
    fn read(
        &self,
        buffer: &mut [MaybeUninit<u8>],
        tell: &mut impl FnMut(Option<Written>),
    ) -> io::Result<()> {
        let mut reader = inotify::Reader::new(&self.events, buffer);
        loop {
            let event = match reader.next() {
                Ok(event) => event,
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            if event.events().contains(ReadFlags::QUEUE_OVERFLOW) {
                // That a watch has ended may be lost too.
                self.lock().values().for_each(Watched::has_ended);
                tell(None);
                continue;
            }
            let number = event.wd();
            let is_gone = event.events().contains(ReadFlags::IGNORED);
            if let Some(db) = self.hear(number, is_gone) {
                tell(Some((number, db)));
            }
        }
    }

    /// The log of a watch was written, or `is_gone`.
    fn hear(&self, number: i32, is_gone: bool) -> Option<Arc<Database>> {
        let mut logs = self.lock();
        let log = logs.get(&number)?;
        let db = log.db.upgrade();
        if is_gone || log.stays.is_none() {
            log.has_ended();
            logs.remove(&number);
            room::give_back(&mut logs);
        }
        drop(logs);
        if db.is_none() {
            self.end_watch(number);
        }
        db
    }

    /// Ends `listen`.
    fn end(&self) {
        if let Err(error) = rustix::io::write(self.end.as_fd(), &1_u64.to_ne_bytes()) {
            tracing::error!(%error, "The thread that hears of writes can't be ended");
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<i32, Watched>> {
        locked(&self.logs)
    }
}

impl Watched {
    /// The next look has to watch again.
    fn has_ended(&self) {
        if let (Some(inode), Some(db)) = (self.stays, self.db.upgrade()) {
            db.unset_watched(inode);
        }
    }
}

/// How long the next breath is, where a log `is_fast` that was heard of now.
fn next_breath(breath: Duration, is_fast: bool) -> Duration {
    match is_fast {
        true => BREATH,
        false => (2 * breath).min(LONG_BREATH),
    }
}

/// A watch that is listened to as long as this lives; none where no log is passed through.
#[derive(Debug, Default)]
pub(super) struct Watching {
    watch: Option<Arc<Watch>>,
    /// Why some logs are not passed through, or none of them.
    unwatched: OnceLock<String>,
    /// It was said that some logs are looked at again and again.
    is_deafness_told: AtomicBool,
    /// What is to be heard is told by a simulation.
    #[cfg(test)]
    pub is_simulated: bool,
}

impl Watching {
    /// Says so once.
    pub fn tell_deaf(&self, db: &Database, error: &io::Error) {
        if !self.is_deafness_told.swap(true, Ordering::SeqCst) {
            tracing::warn!(client = %db.label(), %error, "Writes to a log can't be heard of; it is looked at again and again");
        }
    }

    /// # Errors
    /// Where it is required, what keeps it from being had: the system's limit of instances, above all.
    pub fn begin(wanted: LogPassing) -> io::Result<Self> {
        let mut watching = Self::default();
        if wanted == LogPassing::Never {
            return Ok(watching);
        }
        match Watch::new() {
            Ok(watch) => watching.watch = Some(Arc::new(watch)),
            Err(error) if wanted == LogPassing::Required => return Err(error),
            Err(error) => watching.tell_unwatched("everywhere", &error, "instances"),
        }
        Ok(watching)
    }

    /// Says once why logs go through the daemon.
    fn tell_unwatched(&self, place: &str, error: &io::Error, limit: &str) {
        let text = format!(
            "{place}: writes to logs can't be watched ({error}), so they go through the daemon; raise fs.inotify.max_user_{limit}"
        );
        if self.unwatched.set(text.clone()).is_ok() {
            tracing::warn!("{text}");
        }
    }

    /// Before a look at a log that may be passed through: what is written from here on is heard of. Returns that log.
    ///
    /// # Errors
    /// It is not.
    pub fn listen_again(
        &self,
        db: &Arc<Database>,
        backing: &Backing,
    ) -> io::Result<Option<HeardLog>> {
        // Nobody writes a log who can't write its database.
        if !db.is_log_passed() || !db.has_writers() {
            return Ok(None);
        }
        #[cfg(test)]
        if self.is_simulated {
            return Ok(None);
        }
        // Without a watch none is to be passed through; but one that was open under another name is all the same.
        let Some(watch) = &self.watch else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        // It may have lost its name to another one, which is for whoever looks to find out.
        if let Some(log) = db.watched_log() {
            return Ok(Some(log));
        }
        let Some(Opened { file, stamp }) = db.open_companion(backing, "-wal")? else {
            return Ok(None);
        };
        let inode = stamp.inode;
        if db.watched() != Some(inode) {
            watch.add(db, file.as_fd(), inode)?;
        }
        Ok(Some(HeardLog { inode, file }))
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        if let Some(watch) = &self.watch {
            watch.end();
        }
    }
}

impl Capture {
    /// Starts the thread that hears of writes to logs.
    pub(super) fn listen(self: &Arc<Self>) -> io::Result<()> {
        let Some(watch) = self.shared.watching.watch.clone() else {
            return Ok(());
        };
        let capture = Arc::downgrade(self);
        let tell = move |heard| {
            let Some(capture) = capture.upgrade() else {
                return;
            };
            capture.hear(heard);
        };
        let listen = move || {
            if let Err(error) = watch.listen(tell) {
                tracing::error!(%error, "Writes to logs are not heard of any more; they are captured at their checkpoints");
            }
        };
        let thread = std::thread::Builder::new().name("watch".to_owned());
        thread.spawn(listen).map(drop)
    }

    /// Logs were written: they are looked at.
    pub(crate) fn hear(&self, heard: Heard) {
        match heard {
            Heard::Log(db) => db.heard_of(),
            Heard::Since(db) => self.read_ahead_soon(&db),
            Heard::Anything => {
                let all = self.all().into_iter();
                all.filter(|db| db.is_log_passed())
                    .for_each(|db| db.heard_of());
            }
        }
    }

    /// Whether the kernel may pass the writes to this database's log through: then they are heard of, which needs a watch
    /// of it, and its commits do not wait for the store.
    pub fn may_pass_log(&self, db: &Arc<Database>, log: BorrowedFd<'_>) -> bool {
        let waits = || db.policy().durability == Durability::Store;
        let watching = &self.shared.watching;
        let Some(watch) = watching.watch.as_ref().filter(|_| !waits()) else {
            return false;
        };
        let stat = rustix::fs::fstat(log).map_err(io::Error::from);
        match stat.and_then(|stat| watch.add(db, log, stat.st_ino)) {
            Ok(()) => true,
            Err(error) => {
                let place = self.seen_at.join(&db.path).display().to_string();
                watching.tell_unwatched(&place, &error, "watches");
                false
            }
        }
    }

    /// Whether the kernel may pass writes to logs through.
    pub fn passes_logs(&self) -> bool {
        self.shared.watching.watch.is_some()
    }

    /// Why it does not, or not for all directories.
    pub fn unwatched(&self) -> Option<String> {
        self.shared.watching.unwatched.get().cloned()
    }
}

impl Database {
    /// Its log was written, as is heard afterwards: the kernel passed it through.
    pub(super) fn heard_of(self: &Arc<Self>) {
        self.newest().mark_dirty();
    }

    /// The inode of its log, if a watch of that stays.
    fn watched(&self) -> Option<u64> {
        let inode = self.watched.load(Ordering::SeqCst);
        (inode != 0).then_some(inode)
    }

    /// The log that a watch stays of, while an application has it open.
    fn watched_log(&self) -> Option<HeardLog> {
        let inode = self.watched()?;
        let file = self.lent(inode)?;
        Some(HeardLog { inode, file })
    }

    fn set_watched(&self, inode: Option<u64>) {
        self.watched.store(inode.unwrap_or(0), Ordering::SeqCst);
    }

    /// That watch has ended; there may be one of another log by now.
    fn unset_watched(&self, inode: u64) {
        let order = Ordering::SeqCst;
        // It is another one's, or none any more.
        let _ = self.watched.compare_exchange(inode, 0, order, order);
    }

    /// Whether its log may be reset without a request to the mount.
    pub(super) fn is_log_passed(&self) -> bool {
        self.is_log_passed.load(Ordering::SeqCst)
    }

    /// Whether `gate` is the last that is heard before a reset of its log.
    pub(super) fn ends_unseen(&self, gate: Option<Gate>) -> bool {
        gate == Some(Gate::DatabaseTruncate) && self.is_log_passed()
    }
}

#[cfg(test)]
mod tests;
