//! Points at which a test has the process die, by name, and places where it has the work for one client panic. In
//! release builds there are none.
//!
//! The points stand where one thing is done and the next, that tells of it, is not: what a death there leaves has to be
//! mended by the next start. What a panic leaves has to be mended while the others go on.

use std::any::Any;

/// A place in the work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Point {
    /// A log is open, and nothing of it is read but its header.
    LogOpened,
    /// It is known how far a log counts, and its frames are not read.
    LimitRead,
    /// A piece of a whole database is about to be read.
    ImageRead,
    /// A segment is in memory.
    Captured,
    /// What an operation would destroy is captured, and the operation has not been carried out.
    GatePassed,
    /// A segment lies in the spool, and the state does not name it.
    Spooled,
    /// The state names a segment in the spool, whose sums are not in the table.
    SpooledNoted,
    /// A segment's sums are in the table, whose header does not say so.
    SumsWritten,
    /// The table of a new generation is in place, and its snapshot is not written.
    TableRewritten,
    /// A generation is described, and has no snapshot.
    Described,
    /// An object is stored, and the state does not say so.
    Stored,
    /// The state says that a segment is stored, whose sums are not in the table.
    StoredNoted,
    /// A stored segment still lies in the spool.
    StoredSpooled,
    /// A further snapshot is stored, and the state does not say so.
    SnapshotStored,
    /// A database's file is gone, and the state does not say so.
    Vanished,
    /// The removal is in the state, and nobody else knows of it.
    RemovalNoted,
    /// The store knows of a removal, and the state does not say so.
    RemovalTold,
    /// A removed database's replica is erased, and the removal is not forgotten.
    Erased,
    /// A database that was there before is registered, and nothing of it is captured.
    TakenUp,
}

impl Point {
    pub const ALL: [Point; 19] = [
        Point::LogOpened,
        Point::LimitRead,
        Point::ImageRead,
        Point::Captured,
        Point::GatePassed,
        Point::Spooled,
        Point::SpooledNoted,
        Point::SumsWritten,
        Point::TableRewritten,
        Point::Described,
        Point::Stored,
        Point::StoredNoted,
        Point::StoredSpooled,
        Point::SnapshotStored,
        Point::Vanished,
        Point::RemovalNoted,
        Point::RemovalTold,
        Point::Erased,
        Point::TakenUp,
    ];

    /// As the environment variable `LITESTREAM_MULTITENANT_FAULT` names it.
    pub fn name(self) -> String {
        format!("{self:?}")
    }

    /// The process dies here, as by `kill -9`, where the environment names this point.
    #[cfg(debug_assertions)]
    pub fn reach(self) {
        #[cfg(test)]
        watched::reached(self);
        use rustix::process::{Signal, getpid, kill_process};
        use std::sync::LazyLock;

        static ARMED: LazyLock<Option<String>> =
            LazyLock::new(|| std::env::var("LITESTREAM_MULTITENANT_FAULT").ok());
        if ARMED.as_deref().is_some_and(|armed| armed == self.name()) {
            kill_process(getpid(), Signal::KILL).expect("one may kill oneself");
            // The signal is on its way.
            loop {
                std::thread::park();
            }
        }
    }

    /// Nothing happens in a release.
    #[cfg(not(debug_assertions))]
    #[inline(always)]
    pub fn reach(self) {}
}

/// Where the work for one client panics.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Defect {
    /// A worker captures what an operation is about to destroy.
    Gate,
    /// A segment is made, the history stands at its end, and it does not wait for the store yet.
    Capture,
    /// A whole database was read, the history stands at what that showed, and nothing of it is written down.
    Image,
    /// A round of looking and storing begins.
    Pipeline,
    /// A further snapshot is about to be made.
    Upkeep,
}

impl Defect {
    pub const ALL: [Defect; 5] = [
        Defect::Gate,
        Defect::Capture,
        Defect::Image,
        Defect::Pipeline,
        Defect::Upkeep,
    ];

    /// The file whose presence has the work for a client panic here, in the folder that the environment variable
    /// `LITESTREAM_MULTITENANT_DEFECTS` names.
    pub fn file_name(self, client: &str) -> String {
        format!("{self:?}-{client}")
    }

    /// Panics where the file says so.
    #[cfg(debug_assertions)]
    pub fn meet(self, client: impl FnOnce() -> String) {
        use std::path::PathBuf;
        use std::sync::LazyLock;

        static FOLDER: LazyLock<Option<PathBuf>> =
            LazyLock::new(|| std::env::var_os("LITESTREAM_MULTITENANT_DEFECTS").map(PathBuf::from));
        if let Some(folder) = &*FOLDER {
            let is_wanted = folder.join(self.file_name(&client())).exists();
            assert!(!is_wanted, "a defect in {self:?}, as the test wants it");
        }
    }

    /// Nothing happens in a release.
    #[cfg(not(debug_assertions))]
    #[inline(always)]
    pub fn meet(self, _client: impl FnOnce() -> String) {}
}

/// The start of a name that has the daemon look one up in its own mount, where a test wants that.
pub const OWN_MOUNT_NAME: &str = "own-mount-";

/// Looks a name up in the mount that the environment variable `LITESTREAM_MULTITENANT_OWN_MOUNT` names: each look-up of a
/// name that begins with `OWN_MOUNT_NAME` makes another one.
#[cfg(debug_assertions)]
pub fn ask_own_mount(name: &std::ffi::OsStr) {
    use std::path::PathBuf;
    use std::sync::LazyLock;

    static MOUNT: LazyLock<Option<PathBuf>> =
        LazyLock::new(|| std::env::var_os("LITESTREAM_MULTITENANT_OWN_MOUNT").map(PathBuf::from));
    if let Some(mount) = &*MOUNT
        && let Some(name) = name.to_str()
        && name.starts_with(OWN_MOUNT_NAME)
    {
        // That it waits is what the test wants.
        drop(std::fs::symlink_metadata(mount.join(format!("{name}-"))));
    }
}

/// Nothing happens in a release.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn ask_own_mount(_name: &std::ffi::OsStr) {}

/// A place where a mount's operation may wait for a disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DiskWait {
    Synchronize,
    Truncate,
    Allocate,
    Copy,
    Close,
    Write,
}

/// Waits as long as the disk of a test takes: the environment variable `LITESTREAM_MULTITENANT_SLOW_DISK` names a
/// place and a number of milliseconds (`Synchronize=50`).
#[cfg(debug_assertions)]
pub fn wait_for_disk(place: DiskWait) {
    use std::sync::LazyLock;
    use std::time::Duration;

    static SLOW: LazyLock<Option<(String, Duration)>> = LazyLock::new(|| {
        let slow = std::env::var("LITESTREAM_MULTITENANT_SLOW_DISK").ok()?;
        let (place, millis) = slow.split_once('=')?;
        Some((
            place.to_owned(),
            Duration::from_millis(millis.parse().ok()?),
        ))
    });
    if let Some((slow, time)) = &*SLOW
        && *slow == format!("{place:?}")
    {
        std::thread::sleep(*time);
    }
}

/// Nothing happens in a release.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn wait_for_disk(_place: DiskWait) {}

/// What a panic said.
pub fn panic_text(payload: &(dyn Any + Send)) -> String {
    let text = payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "without a message".to_owned())
}

#[cfg(test)]
pub(crate) mod watched {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::Point;

    type Watcher = Rc<dyn Fn(Point)>;

    thread_local! {
        static WATCHER: RefCell<Option<Watcher>> = const { RefCell::new(None) };
    }

    /// From now on `watcher` hears of the points that this thread reaches.
    pub fn set(watcher: Option<Watcher>) {
        WATCHER.set(watcher);
    }

    pub fn reached(point: Point) {
        if let Some(watcher) = WATCHER.with_borrow(Clone::clone) {
            watcher(point);
        }
    }
}
