//! Hears of writes to logs that the kernel passes through to the backing files: one inotify watch for each directory
//! that has such a log, and one thread that sleeps while nothing is written.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;

use super::backing::Backing;
use super::database::{Database, locked};
use super::gate::Gate;
use super::{Capture, LogPassing};
use crate::tenant::policy::Durability;

/// Between two readings: what is written meanwhile is heard of at once, and the writers have the processor.
const BREATH: Duration = Duration::from_millis(1);
const BUFFER_SIZE: usize = 64 << 10;

/// What was heard.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Heard {
    /// The log of the database at this path (relative to the watch path) was written.
    Log(PathBuf),
    /// Too much at once: any log may have been written.
    Anything,
}

/// The watched directories of one watch path.
#[derive(Debug)]
pub(super) struct Watch {
    events: OwnedFd,
    /// Readable once nobody is to listen any more.
    end: OwnedFd,
    /// By the number of their watch; relative to the watch path.
    directories: Mutex<HashMap<i32, PathBuf>>,
}

impl Watch {
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            events: inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?,
            end: rustix::event::eventfd(0, EventfdFlags::CLOEXEC)?,
            directories: Mutex::default(),
        })
    }

    /// Watches a directory from now on; one that is watched already stays so.
    ///
    /// # Errors
    /// The system's limit of watches, above all.
    pub fn add(&self, backing: &Backing, directory: &Path) -> io::Result<()> {
        let opened = backing.directory(directory)?;
        // By its descriptor, so that it is the directory underneath, whatever is mounted over it.
        let path = format!("/proc/self/fd/{}", opened.as_raw_fd());
        let mut directories = self.lock();
        let number = inotify::add_watch(&self.events, path, WatchFlags::MODIFY)?;
        directories.insert(number, directory.to_owned());
        Ok(())
    }

    /// A directory with all below it has another name.
    pub fn moved(&self, from: &Path, to: &Path) {
        for path in self.lock().values_mut() {
            if let Ok(rest) = path.strip_prefix(from) {
                *path = if rest.as_os_str().is_empty() {
                    to.to_owned()
                } else {
                    to.join(rest)
                };
            }
        }
    }

    /// Tells what is heard, until `end`.
    pub fn listen(&self, mut tell: impl FnMut(Heard)) -> io::Result<()> {
        let mut buffer = vec![MaybeUninit::uninit(); BUFFER_SIZE];
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
            self.read(&mut buffer, &mut tell)?;
            std::thread::sleep(BREATH);
        }
    }

    /// Reads all that there is.
    fn read(&self, buffer: &mut [MaybeUninit<u8>], tell: &mut impl FnMut(Heard)) -> io::Result<()> {
        let mut reader = inotify::Reader::new(&self.events, buffer);
        let mut last = None;
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
            if event.events().contains(ReadFlags::IGNORED) {
                // The directory is gone.
                self.lock().remove(&event.wd());
                continue;
            }
            let Some(database) = event.file_name().and_then(|name| of_log(name.to_bytes())) else {
                continue;
            };
            let Some(directory) = self.lock().get(&event.wd()).cloned() else {
                continue;
            };
            let path = directory.join(database);
            if last.as_ref() != Some(&path) {
                tell(Heard::Log(path.clone()));
                last = Some(path);
            }
        }
    }

    /// Ends `listen`.
    pub fn end(&self) {
        if let Err(error) = rustix::io::write(self.end.as_fd(), &1_u64.to_ne_bytes()) {
            tracing::error!(%error, "The thread that hears of writes can't be ended");
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<i32, PathBuf>> {
        locked(&self.directories)
    }
}

/// A watch that is listened to as long as this lives; none where no log is passed through.
#[derive(Debug, Default)]
pub(super) struct Watching {
    watch: Option<Arc<Watch>>,
    /// Why some logs are not passed through, or none of them.
    unwatched: OnceLock<String>,
}

impl Watching {
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

    /// A directory with all below it has another name.
    pub fn moved(&self, from: &Path, to: &Path) {
        if let Some(watch) = &self.watch {
            watch.moved(from, to);
        }
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
        let Some(watch) = self.watching.watch.clone() else {
            return Ok(());
        };
        let capture = Arc::downgrade(self);
        let tell = move |heard| {
            let Some(capture) = capture.upgrade() else {
                return;
            };
            match heard {
                Heard::Log(path) => capture.at_path(&path).iter().for_each(Database::heard_of),
                Heard::Anything => {
                    let all = capture.all().into_iter();
                    all.filter(|db| db.is_log_passed())
                        .for_each(|db| db.heard_of());
                }
            }
        };
        let listen = move || {
            if let Err(error) = watch.listen(tell) {
                tracing::error!(%error, "Writes to logs are not heard of any more; they are captured at their checkpoints");
            }
        };
        let thread = std::thread::Builder::new().name("watch".to_owned());
        thread.spawn(listen).map(drop)
    }

    /// Whether the kernel may pass the writes to this database's log through: then they are heard of, which needs a watch
    /// of its directory, and its commits do not wait for the store.
    pub fn may_pass_log(&self, db: &Database) -> bool {
        let waits = || db.policy().durability == Durability::Store;
        let Some(watch) = self.watching.watch.as_ref().filter(|_| !waits()) else {
            return false;
        };
        let directory = db.path.parent().unwrap_or(Path::new(""));
        match watch.add(&self.shared.backing, directory) {
            Ok(()) => true,
            Err(error) => {
                let place = self.seen_at.join(directory).display().to_string();
                self.watching.tell_unwatched(&place, &error, "watches");
                false
            }
        }
    }

    /// Whether the kernel may pass writes to logs through.
    pub fn passes_logs(&self) -> bool {
        self.watching.watch.is_some()
    }

    /// Why it does not, or not for all directories.
    pub fn unwatched(&self) -> Option<String> {
        self.watching.unwatched.get().cloned()
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

/// The name of the database that a log of this name belongs to.
fn of_log(name: &[u8]) -> Option<&OsStr> {
    name.strip_suffix(b"-wal").map(OsStr::from_bytes)
}
