//! Points at which a test has the process die, by name. In release builds there are none.
//!
//! They stand where one thing is done and the next, that tells of it, is not: what a death there leaves has to be mended
//! by the next start.

/// A place in the work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Point {
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
    pub const ALL: [Point; 16] = [
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
