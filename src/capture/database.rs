//! One database as the mount's threads touch it: flags and counters, and no lock that is held during I/O.

use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use super::FileKind;
use super::arrival::Refused;
use super::authority::Records;
use super::backing::Stamp;
use super::calls::Bell;
use super::commits::Commits;
use super::handles::{Handles, OpenedAs, is_unseen};
use super::kept::Kept;
use super::links::BackingInode;
use super::prepared::SyncedTo;
use super::queue::Queue;
use super::read_ahead::FollowedTo;
use super::rest::{Chronicle, Open};
use super::state::Stamps;
use super::turns::Turn;
use super::writes::Writes;
use crate::clock::{UnixMs, now_ms};
use crate::format::wal::HEADER_SIZE;
use crate::tenant::cpu::CpuTime;
use crate::tenant::policy::Policy;
use crate::tenant::position::Position;
use crate::tenant::roster::Client;

/// A database below the watch path, registered or not yet.
#[derive(Debug)]
pub struct Database {
    /// Relative to the watch path.
    pub path: Arc<Path>,
    client: Mutex<Option<Arc<Client>>>,
    /// Its number in the state; 0 before its registration.
    id: AtomicI64,
    queue: Arc<Queue>,
    /// Of its file, while it is registered.
    inode: Mutex<Option<BackingInode>>,

    wal_writes: AtomicU64,
    /// Up to which byte the present log has been captured; a write below it needs a gate.
    captured_end: AtomicU64,
    pub(super) followed: FollowedTo,
    pub(super) synced_to: SyncedTo,
    handles: Mutex<Handles>,
    /// Its directory has another name now: what is told of these handles is of that database.
    moved: OnceLock<Arc<Database>>,
    /// Of comparisons of the file, see there.
    pub(super) writes: Kept<Writes>,
    pub(super) turn: Kept<Turn>,
    /// Changes of the file that its log does not show: rollback journals, another file in its place.
    changes: AtomicU64,
    /// A handle that may have written was closed, or a write was seen, outside any log or journal.
    touched: AtomicBool,
    /// At the last look, its changes went through a log.
    in_wal_mode: AtomicBool,
    /// The kernel passes the writes to its log through: its resets are not seen, and each complete checkpoint is a gate.
    pub(super) is_log_passed: AtomicBool,
    /// The inode of its log where a watch of that stays; 0 where none does.
    pub(super) watched: AtomicU64,
    /// Operations that destroy frames and are not carried out yet.
    pub(super) passing: AtomicI32,
    /// A gate was passed before its capture had ended.
    gate_missed: AtomicBool,
    /// The file was cut to nothing.
    cut: AtomicBool,
    /// The next state is of another database, and begins a generation.
    begins_anew: AtomicBool,
    removed: AtomicBool,
    pub(super) refused: Refused,
    /// What waits of it in the spool is being merged.
    merging: AtomicBool,
    /// The files were at the start as when all was stored.
    is_as_stored: AtomicBool,
    /// The file's stamp then, where it had no log that could change it.
    at_rest: OnceLock<Box<Stamp>>,
    pub(super) records: Kept<Records>,

    dirty: AtomicBool,
    /// When the oldest write was seen that has not been looked at; 0 where none.
    dirty_since: AtomicI64,
    queued: AtomicBool,
    tickets: AtomicU64,
    /// The newest ticket that a round has begun with.
    attempted: AtomicU64,
    settled: Position,
    pub(super) calls: Bell,

    /// Those that wait for the store.
    pub(super) commits: Commits,
    history: Chronicle,
    /// Spent for it, as far as that is limited.
    pub cpu: CpuTime,
}

impl Database {
    pub(super) fn new(path: Arc<Path>, queue: Arc<Queue>) -> Self {
        Self {
            path,
            client: Mutex::default(),
            id: AtomicI64::new(0),
            queue,
            inode: Mutex::default(),
            wal_writes: AtomicU64::new(0),
            captured_end: AtomicU64::new(0),
            followed: FollowedTo::default(),
            synced_to: SyncedTo::default(),
            handles: Mutex::default(),
            moved: OnceLock::new(),
            writes: Kept::default(),
            turn: Kept::default(),
            changes: AtomicU64::new(0),
            touched: AtomicBool::new(true),
            in_wal_mode: AtomicBool::new(false),
            is_log_passed: AtomicBool::new(false),
            watched: AtomicU64::new(0),
            passing: AtomicI32::new(0),
            gate_missed: AtomicBool::new(false),
            cut: AtomicBool::new(false),
            begins_anew: AtomicBool::new(false),
            removed: AtomicBool::new(false),
            refused: Refused::default(),
            merging: AtomicBool::new(false),
            is_as_stored: AtomicBool::new(false),
            at_rest: OnceLock::new(),
            records: Kept::default(),
            dirty: AtomicBool::new(false),
            dirty_since: AtomicI64::new(0),
            queued: AtomicBool::new(false),
            tickets: AtomicU64::new(0),
            attempted: AtomicU64::new(0),
            settled: Position::default(),
            calls: Bell::default(),
            commits: Commits::default(),
            history: Chronicle::default(),
            cpu: CpuTime::default(),
        }
    }

    // ---- what the mount tells ----

    /// A handle of one of its files was opened.
    pub fn opened(self: &Arc<Self>, kind: FileKind, how: OpenedAs) {
        self.with_handles(|handles| handles.opened(kind, how));
        if kind == FileKind::Wal && how.writable {
            let db = self.newest();
            // What is written through it need not be seen.
            db.wal_writes.fetch_add(1, Ordering::SeqCst);
            if how.passthrough && !db.is_log_passed.swap(true, Ordering::SeqCst) {
                // It may have been open under another name before, and then nobody listens yet.
                db.look_soon();
            }
        }
        if is_unseen(kind, how) {
            self.newest().lose_writes();
        }
        if kind == FileKind::Database && how.writable && !self.in_wal_mode.load(Ordering::SeqCst) {
            self.newest().look_soon();
        }
    }

    /// A handle was closed for the last time; `how` is as it was opened.
    pub fn released(self: &Arc<Self>, kind: FileKind, how: OpenedAs) {
        self.with_handles(|handles| handles.released(kind, how));
        if how.external && kind == FileKind::Wal {
            self.newest().look_soon();
        }
        if kind == FileKind::Database && how.writable {
            // Nothing need have been written, so it is no commit that waits.
            let newest = self.newest();
            newest.touched.store(true, Ordering::SeqCst);
            newest.look_soon();
        }
    }

    /// The handles are counted where they belong, also while that changes.
    pub(super) fn with_handles<T>(&self, work: impl FnOnce(&mut Handles) -> T) -> T {
        let mut handles = self.lock_handles();
        match self.moved.get() {
            None => work(&mut handles),
            Some(moved) => {
                drop(handles);
                moved.with_handles(work)
            }
        }
    }

    pub(super) fn lock_handles(&self) -> MutexGuard<'_, Handles> {
        locked(&self.handles)
    }

    /// Its directory was renamed, with all that is open in it: applications go on writing through their handles, and
    /// that is `to` from now on.
    pub(super) fn move_to(&self, to: &Arc<Database>) {
        {
            let mut handles = self.lock_handles();
            if self.moved.set(to.clone()).is_err() {
                return;
            }
            to.is_log_passed
                .fetch_or(self.is_log_passed(), Ordering::SeqCst);
            to.lock_handles().take_over(std::mem::take(&mut handles));
        }
        to.mark_dirty();
    }

    /// Itself, or what it has become.
    pub fn newest(self: &Arc<Self>) -> Arc<Self> {
        let mut newest = self;
        while let Some(moved) = newest.moved.get() {
            newest = moved;
        }
        newest.clone()
    }

    /// Whether a WRITE to `-wal` at `offset` has to pass `Gate::WalOverwrite` first.
    pub fn wal_write_needs_gate(&self, offset: u64) -> bool {
        match self.moved.get() {
            Some(moved) => moved.wal_write_needs_gate(offset),
            None => offset < HEADER_SIZE || offset < self.captured_end.load(Ordering::SeqCst),
        }
    }

    /// A file was synced: after that, before the reply. A commit is published only behind the sync of its log.
    pub fn synced(self: &Arc<Self>, kind: FileKind) {
        if kind == FileKind::Wal {
            self.newest().mark_dirty();
        }
    }

    /// Bytes were written to `-wal` (or to a `.db` or `-shm` that is not passed through): after that, before the reply.
    pub fn written(self: &Arc<Self>, kind: FileKind) {
        if let Some(moved) = self.moved.get() {
            return moved.written(kind);
        }
        match kind {
            FileKind::Wal => {
                self.wal_writes.fetch_add(1, Ordering::SeqCst);
                self.mark_dirty();
            }
            FileKind::Database => {
                self.touched.store(true, Ordering::SeqCst);
                self.look_soon();
            }
            FileKind::Shm | FileKind::Journal => {}
        }
    }

    /// The same of a file's bytes in that range.
    pub fn written_at(self: &Arc<Self>, kind: FileKind, bytes: Range<u64>) {
        if kind == FileKind::Database {
            self.newest().note_written(bytes);
        }
        self.written(kind);
    }

    /// The size of a file was set, in bytes: after that, before the reply.
    pub fn resized(self: &Arc<Self>, kind: FileKind, size: u64) {
        if let Some(moved) = self.moved.get() {
            return moved.resized(kind, size);
        }
        match kind {
            // The first connection cuts the wal-index, and then begins it anew.
            FileKind::Shm => self.with_handles(Handles::index_begins),
            // SQLite cuts no database to nothing that has a log: something else is to be written in its place.
            FileKind::Database if size == 0 => {
                self.note_arrival();
                self.cut.store(true, Ordering::SeqCst);
                self.replaced(false);
            }
            FileKind::Database => {
                // What comes behind it again later is zeros, and not what was there.
                self.note_written(size..u64::MAX);
                self.touched.store(true, Ordering::SeqCst);
                self.look_soon();
            }
            FileKind::Wal | FileKind::Journal => {}
        }
    }

    /// `-journal` was created, written, truncated, unlinked or renamed: called before and after the operation.
    pub fn journal_changed(self: &Arc<Self>) {
        if let Some(moved) = self.moved.get() {
            return moved.journal_changed();
        }
        self.note_journal();
        self.changes.fetch_add(1, Ordering::SeqCst);
        self.mark_dirty();
    }

    /// Another file stands in its place. `keeps_log`: with the log of the one before, which SQLite would apply to it.
    pub(super) fn replaced(self: &Arc<Self>, keeps_log: bool) {
        self.begins_anew.fetch_or(keeps_log, Ordering::SeqCst);
        self.lose_writes();
        self.changes.fetch_add(1, Ordering::SeqCst);
        self.mark_dirty();
    }

    // ---- registration ----

    /// The client that it is replicated as; none while it is not registered.
    pub fn client(&self) -> Option<Arc<Client>> {
        locked(&self.client).clone()
    }

    /// What holds for it; the defaults while it is not registered.
    pub fn policy(&self) -> Arc<Policy> {
        self.client()
            .map_or_else(Arc::default, |client| client.policy())
    }

    /// What logs call it.
    pub fn label(&self) -> String {
        self.client().map_or_else(
            || self.path.display().to_string(),
            |client| client.label.to_string(),
        )
    }

    pub(super) fn set_client(&self, client: Arc<Client>, id: i64) {
        self.id.store(id, Ordering::SeqCst);
        *locked(&self.client) = Some(client);
    }

    /// Sets its file's inode; gives the one before.
    pub(super) fn replace_inode(&self, inode: Option<BackingInode>) -> Option<BackingInode> {
        std::mem::replace(&mut *locked(&self.inode), inode)
    }

    /// The number under which the state knows it; none before its registration.
    pub(super) fn id(&self) -> Option<i64> {
        let id = self.id.load(Ordering::SeqCst);
        (id != 0).then_some(id)
    }

    /// Its file is gone for good: what is captured is still stored, nothing more is read.
    pub(super) fn set_removed(self: &Arc<Self>) {
        self.removed.store(true, Ordering::SeqCst);
        self.mark_dirty();
        // There is no interval to be waited for any more.
        self.ask_for_look();
    }

    pub(super) fn set_as_stored(&self, stamps: Stamps) {
        if stamps.wal.size == 0 {
            self.at_rest.get_or_init(|| Box::new(stamps.database));
        }
        self.is_as_stored.store(true, Ordering::SeqCst);
    }

    /// The file's stamp at the start, where it was as when all was stored, and had no log that could change it.
    pub(super) fn stamp_at_rest(&self) -> Option<Stamp> {
        self.at_rest.get().map(|stamp| **stamp)
    }

    pub(super) fn is_as_stored(&self) -> bool {
        self.is_as_stored.load(Ordering::SeqCst)
    }

    pub fn is_removed(&self) -> bool {
        self.removed.load(Ordering::SeqCst)
    }

    // ---- dirty, and who looks ----

    /// A commit may be there to capture: its age counts from now on, and the database is looked at.
    pub fn mark_dirty(self: &Arc<Self>) {
        if self.dirty_since.load(Ordering::SeqCst) == 0 {
            self.note_first_write();
        }
        self.look_soon();
    }

    pub(super) fn note_first_write(&self) {
        let now = now_ms();
        let first = self
            .dirty_since
            .compare_exchange(0, now, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok();
        if let Some(client) = self.client().filter(|_| first) {
            client.update(|progress| {
                progress.oldest_pending_at.get_or_insert(now);
            });
        }
    }

    /// Queues the database for a look, unless it is queued or being worked on.
    pub fn look_soon(self: &Arc<Self>) {
        if !self.dirty.swap(true, Ordering::SeqCst) && self.client().is_some() {
            self.note_stir();
            self.enqueue();
        }
    }

    /// Whether nobody works on it, whatever is written: its client is paused.
    fn is_held(&self) -> bool {
        self.client().is_some_and(|client| client.is_paused()) && !self.is_removed()
    }

    /// Its client goes on after a pause.
    pub fn resume(self: &Arc<Self>) {
        self.enqueue();
    }

    fn enqueue(self: &Arc<Self>) {
        if self.is_held() {
            return;
        }
        if !self.queued.swap(true, Ordering::SeqCst) && !self.queue.push(self.clone()) {
            self.queued.store(false, Ordering::SeqCst);
        }
    }

    /// Takes the flag; returns when the oldest write was seen since it was last taken.
    pub fn take_dirty(&self) -> Option<UnixMs> {
        self.dirty.store(false, Ordering::SeqCst);
        let since = self.dirty_since.swap(0, Ordering::SeqCst);
        (since != 0).then_some(since)
    }

    /// Puts back what `take_dirty` took: nothing came of it.
    pub(super) fn restore_dirty_since(&self, since: Option<UnixMs>) {
        if let Some(since) = since {
            self.dirty_since.store(since, Ordering::SeqCst);
        }
    }

    pub fn is_dirty(&self) -> bool {
        self.dirty.load(Ordering::SeqCst)
    }

    pub(super) fn dirty_since(&self) -> Option<UnixMs> {
        let since = self.dirty_since.load(Ordering::SeqCst);
        (since != 0).then_some(since)
    }

    /// The pipeline has nothing more to do with it. Queued again at once where something came in meanwhile.
    pub fn leave_queue(self: &Arc<Self>) {
        self.drop_calls();
        self.queued.store(false, Ordering::SeqCst);
        if self.is_dirty() || self.attempted.load(Ordering::SeqCst) < self.newest_ticket() {
            self.enqueue();
        }
    }

    /// Whether it waits for a look, or is being looked at or stored.
    pub fn is_busy(&self) -> bool {
        !self.is_held() && (self.is_dirty() || self.queued.load(Ordering::SeqCst))
    }

    // ---- waiting for the store ----

    /// Asks for a look at everything that is committed now. Returns a number to wait for with `settled`.
    pub fn request_settling(self: &Arc<Self>) -> u64 {
        let ticket = self.tickets.fetch_add(1, Ordering::SeqCst) + 1;
        self.enqueue();
        self.ask_for_look();
        ticket
    }

    /// The newest number that has been given.
    pub fn newest_ticket(&self) -> u64 {
        self.tickets.load(Ordering::SeqCst)
    }

    /// A round of looking and storing begins: what it captures covers the number that is given back.
    pub fn begin_round(&self) -> u64 {
        let ticket = self.newest_ticket();
        self.attempted.store(ticket, Ordering::SeqCst);
        ticket
    }

    pub(super) fn settle(&self, ticket: u64) {
        self.settled.raise(ticket);
    }

    /// Waits until everything is settled that was asked for with that number.
    pub async fn settled(&self, ticket: u64) {
        self.settled.reached(ticket).await;
    }

    // ---- what the capture needs ----

    /// Only capture workers take it: it is held during I/O on this database's files.
    pub(super) fn history(&self) -> Open<'_> {
        self.history.lock(&self.queue.directory)
    }

    /// None where somebody else has it now.
    pub(super) fn try_history(&self) -> Option<Open<'_>> {
        self.history.try_lock(&self.queue.directory)
    }

    /// Makes what is kept of it while it is idle anew, in other places; what it was goes with what is given back.
    pub(super) fn make_anew(&self) -> (Option<Box<[u8]>>, Option<Box<Records>>) {
        (self.history.make_anew(), self.records.make_anew())
    }

    #[cfg(test)]
    pub(super) fn rests(&self) -> bool {
        self.history.is_resting()
    }

    pub(super) fn wal_writes(&self) -> u64 {
        self.wal_writes.load(Ordering::SeqCst)
    }

    pub(super) fn set_captured_end(&self, offset: u64) {
        self.captured_end.store(offset, Ordering::SeqCst);
    }

    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Ordering::SeqCst)
    }

    pub(super) fn take_touched(&self) -> bool {
        self.touched.swap(false, Ordering::SeqCst)
    }

    pub(super) fn set_touched(&self) {
        self.touched.store(true, Ordering::SeqCst);
    }

    pub(super) fn set_in_wal_mode(&self, is_so: bool) {
        self.in_wal_mode.store(is_so, Ordering::SeqCst);
    }

    pub(super) fn has_writers(&self) -> bool {
        self.lock_handles().writers > 0
    }

    pub(super) fn set_gate_missed(self: &Arc<Self>) {
        self.note_gate_missed();
        self.mark_dirty();
    }

    pub(super) fn note_gate_missed(&self) {
        self.gate_missed.store(true, Ordering::SeqCst);
        self.lose_writes();
    }

    /// Whether a gate was passed unguarded, so that what was just read of the log may be torn.
    pub fn is_gate_missed(&self) -> bool {
        self.gate_missed.load(Ordering::SeqCst)
    }

    /// False where what waits of it is being merged already.
    pub(super) fn begin_merging(&self) -> bool {
        !self.merging.swap(true, Ordering::SeqCst)
    }

    pub(super) fn end_merging(&self) {
        self.merging.store(false, Ordering::SeqCst);
    }

    pub(super) fn take_begins_anew(&self) -> bool {
        self.begins_anew.swap(false, Ordering::SeqCst)
    }

    pub(super) fn take_cut(&self) -> bool {
        self.cut.swap(false, Ordering::SeqCst)
    }

    pub(super) fn take_gate_missed(&self) -> bool {
        self.gate_missed.swap(false, Ordering::SeqCst)
    }
}

pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_memory_is_one_piece_of_512_bytes() {
        // In an `Arc`, with its two counts.
        let bytes = size_of::<Database>() + 2 * size_of::<usize>();
        assert!(bytes <= 512, "{bytes} bytes");
    }
}
