//! Hears of writes to logs that the kernel passes through to the backing files: one inotify watch for each such log, and
//! one thread that sleeps while nothing is written.
//!
//! A watch ends with what it has told, so that a writer pays for no more than the first write after each look; the next
//! look begins with watching again.

use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;

use super::backing::{Backing, Opened, companion};
use super::database::{Database, locked};
use super::gate::Gate;
use super::{Capture, LogPassing};
use crate::tenant::policy::Durability;

/// Between two readings: what is written meanwhile is heard of at once, and the writers have the processor.
const BREATH: Duration = Duration::from_millis(1);
/// The same where many logs are written, and none of them fast: they are looked at several at a time.
const LONG_BREATH: Duration = Duration::from_millis(10);
const BUFFER_SIZE: usize = 64 << 10;

/// What was heard.
#[derive(Debug)]
pub(crate) enum Heard {
    /// The log of this database was written, or is gone.
    Log(Arc<Database>),
    /// A breath has passed since.
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
    logs: Mutex<HashMap<i32, Weak<Database>>>,
}

impl Watch {
    fn new() -> io::Result<Self> {
        Ok(Self {
            events: inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?,
            end: rustix::event::eventfd(0, EventfdFlags::CLOEXEC)?,
            logs: Mutex::default(),
        })
    }

    /// Watches a log until it is next written; one that is watched already stays so.
    ///
    /// # Errors
    /// The system's limit of watches, above all.
    fn add(&self, db: &Arc<Database>, log: BorrowedFd<'_>) -> io::Result<()> {
        // By its descriptor, so that it is the file underneath, whatever its name is by now.
        let path = format!("/proc/self/fd/{}", log.as_raw_fd());
        let mut logs = self.lock();
        let flags = WatchFlags::MODIFY | WatchFlags::ONESHOT;
        let number = inotify::add_watch(&self.events, path, flags)?;
        logs.insert(number, Arc::downgrade(db));
        Ok(())
    }

    /// Tells what is heard, until `end`.
    fn listen(&self, mut tell: impl FnMut(Heard)) -> io::Result<()> {
        let mut buffer = vec![MaybeUninit::uninit(); BUFFER_SIZE];
        let (mut breath, mut before) = (BREATH, Vec::new());
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
            let mut logs = Vec::new();
            self.read(&mut buffer, &mut |heard| {
                if let Heard::Log(db) = &heard {
                    logs.push(db.clone());
                }
                tell(heard);
            })?;
            // Where they lie names them well enough.
            let heard: Vec<_> = logs.iter().map(Arc::as_ptr).collect();
            breath = next_breath(breath, &before, &heard);
            before = heard;
            std::thread::sleep(breath);
            logs.into_iter().for_each(|db| tell(Heard::Since(db)));
        }
    }

    /// Reads all that there is.
    fn read(&self, buffer: &mut [MaybeUninit<u8>], tell: &mut impl FnMut(Heard)) -> io::Result<()> {
        let mut reader = inotify::Reader::new(&self.events, buffer);
        loop {
            let event = match reader.next() {
                Ok(event) => event,
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            if event.events().contains(ReadFlags::QUEUE_OVERFLOW) {
                tell(Heard::Anything);
                continue;
            }
            // Written, or gone: either is the end of its watch.
            let log = self.lock().remove(&event.wd());
            if let Some(db) = log.and_then(|db| db.upgrade()) {
                tell(Heard::Log(db));
            }
        }
    }

    /// Ends `listen`.
    fn end(&self) {
        if let Err(error) = rustix::io::write(self.end.as_fd(), &1_u64.to_ne_bytes()) {
            tracing::error!(%error, "The thread that hears of writes can't be ended");
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<i32, Weak<Database>>> {
        locked(&self.logs)
    }
}

/// How long the next breath is, where these logs were heard of. One that was heard of just before is written fast, and may
/// have to be read ahead of its gate.
fn next_breath<T: PartialEq>(breath: Duration, before: &[T], logs: &[T]) -> Duration {
    match logs.iter().any(|log| before.contains(log)) {
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
    ) -> io::Result<Option<Opened>> {
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
        let opened = backing.open_stamped(&companion(&db.path, "-wal"))?;
        if let Some(log) = &opened {
            watch.add(db, log.file.as_fd())?;
        }
        Ok(opened)
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
        match watch.add(db, log) {
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
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn breaths_become_long_unless_one_log_is_heard_of_again_and_again() {
        let mut breath = BREATH;
        for round in 0..10 {
            breath = next_breath(breath, &[2 * round, 2 * round + 1], &[2 * round + 2]);
        }
        assert_eq!(breath, LONG_BREATH);
        assert_eq!(next_breath(breath, &[1, 2], &[3, 2]), BREATH);
    }

    /// As many events as the kernel keeps for one instance, and more, before anybody reads them.
    #[test]
    fn where_events_overflow_every_log_is_looked_at() {
        let kept = std::fs::read_to_string("/proc/sys/fs/inotify/max_queued_events");
        let kept: usize = kept.expect("a limit").trim().parse().expect("a number");
        let watch = Watch::new().expect("an instance");
        let mut files = [(); 2].map(|()| tempfile::NamedTempFile::new().expect("a file"));
        for file in &files {
            inotify::add_watch(&watch.events, file.path(), WatchFlags::MODIFY).expect("watched");
        }
        // Events of the same file are told as one.
        for _ in 0..kept {
            for file in &mut files {
                file.write_all(b"x").expect("written");
            }
        }
        let mut overflows = 0;
        let mut tell = |heard| overflows += usize::from(matches!(heard, Heard::Anything));
        let mut buffer = vec![MaybeUninit::uninit(); BUFFER_SIZE];
        watch.read(&mut buffer, &mut tell).expect("read");
        assert_eq!(overflows, 1);
    }
}
