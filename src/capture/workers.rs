//! The capture's threads: gates before everything else, then looks at logs; images on threads of their own.
//!
//! Channels hold positions and closures, never data, and are bounded. A gate that finds its channel full, or waits
//! longer than `mount.gateTimeout`, is passed all the same: the application is never held up, the client is `gapped`.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, never, select_biased};

use super::answers::Answers;
use super::commits::HeldCommit;
use super::database::Database;
use super::drain::{self, Drained};
use super::error::CaptureError;
use super::files::SEEN_FROM;
use super::gate::{Gate, Passing};
use super::notes::{self, Note};
use super::once::Once;
use super::parked::{Held, PARKED, Parked, yield_to_others};
use super::turns::{HeldWrite, Write};
use super::watch::HeardLog;
use super::{Proceed, Shared, commits, image, merging};
use crate::clock::{UnixMs, now_ms};
use crate::fault::{Defect, Point, panic_text};
use crate::meter;
use crate::room;
use crate::tenant::roster::Status;

/// Gates that may wait at once; each is a system call of an application that is held up.
const GATES: usize = 16_384;
/// Looks beside those of pipelines: upkeep, and what the start asks.
const SPARE: usize = 64;
/// With so many that wait, one that is asked for now comes late.
const FEW: usize = SPARE / 4;
const LOOKERS: usize = 2;
const IMAGERS: usize = 2;
/// A writer updates the wal-index within nanoseconds, unless it is not running.
const INDEX_PAUSE: Duration = Duration::from_millis(1);
/// How exactly `mount.gateTimeout` is kept.
const GATE_CHECK: Duration = Duration::from_millis(20);

/// Something a worker does with one database; it tells the asker by itself.
pub(super) type Look = Box<dyn FnOnce(&Shared, &mut Answers) + Send>;

/// What an application waits for.
enum Waiting {
    Operation(Held),
    Commit(HeldCommit),
    /// A write to a rollback journal, which a comparison is to come before.
    Write(Arc<Database>, HeldWrite),
}

impl Waiting {
    fn deadline(&self) -> Instant {
        match self {
            Waiting::Operation(held) => held.deadline,
            Waiting::Commit(held) => held.deadline,
            Waiting::Write(_, held) => held.deadline,
        }
    }

    fn is_over(&self) -> bool {
        match self {
            Waiting::Operation(held) => held.proceed.is_taken(),
            Waiting::Commit(held) => held.is_decided(),
            Waiting::Write(_, held) => held.is_over(),
        }
    }

    fn give_up(&self) {
        match self {
            Waiting::Operation(held) => {
                pass_unguarded(held, "mount.gateTimeout was reached", false)
            }
            Waiting::Commit(held) => held.give_up("durabilityTimeout was reached"),
            Waiting::Write(db, held) => {
                db.turn().was_in_vain(Instant::now());
                held.go();
            }
        }
    }
}

/// What a thread does next.
enum Next {
    Urgent(Urgent),
    Look(Look),
}

/// What has to be captured while an application waits.
enum Urgent {
    Gate(Held, Gate),
    Commit(HeldCommit),
}

/// The running threads. They end when this is dropped, after what was asked before.
pub(super) struct Workers {
    gates: Sender<Urgent>,
    watch: Sender<Waiting>,
    looks: Sender<Look>,
    images: Sender<Look>,
    /// None in simulations.
    notes: Option<Sender<Box<Note>>>,
    gate_timeout: Duration,
    threads: Vec<JoinHandle<()>>,
}

/// What was asked of them.
struct Queues {
    gates: Receiver<Urgent>,
    watch: Receiver<Waiting>,
    looks: Receiver<Look>,
    images: Receiver<Look>,
}

impl std::fmt::Debug for Workers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Workers")
            .field("threads", &self.threads)
            .finish_non_exhaustive()
    }
}

impl Workers {
    /// `room`: databases that may be worked on at once, each of which has one look that waits; and a few more.
    pub fn start(
        shared: &Arc<Shared>,
        gate_timeout: Duration,
        room: usize,
    ) -> std::io::Result<Self> {
        let (mut workers, queues) = Self::without_threads(gate_timeout, room);
        let mut threads = Vec::new();
        let mut spawn = |name: &str, run: Box<dyn FnOnce() + Send>| {
            let thread = std::thread::Builder::new().name(name.to_owned()).spawn(run);
            thread.map(|thread| threads.push(thread))
        };
        let Queues {
            gates,
            watch,
            looks,
            images,
        } = queues;
        spawn("gate-limit", Box::new(move || watch_gates(&watch)))?;
        let (s, gate_only) = (shared.clone(), gates.clone());
        let merges = workers.images.clone();
        let parked = Arc::new(Parked::default());
        let p = parked.clone();
        spawn(
            "gate",
            Box::new(move || work(&s, (&gate_only, &p), &never(), &merges)),
        )?;
        for _ in 0..LOOKERS {
            let (s, gates, looks) = (shared.clone(), gates.clone(), looks.clone());
            let (merges, parked) = (workers.images.clone(), parked.clone());
            spawn(
                "capture",
                Box::new(move || work(&s, (&gates, &parked), &looks, &merges)),
            )?;
        }
        for _ in 0..IMAGERS {
            let (s, queue) = (shared.clone(), images.clone());
            spawn("image", Box::new(move || work_on_images(&s, &queue)))?;
        }
        let (notes, queue) = bounded::<Box<Note>>(room + SPARE);
        let (s, looks) = (shared.clone(), workers.looks.clone());
        spawn("notes", Box::new(move || notes::work(&s, &queue, &looks)))?;
        workers.notes = Some(notes);
        workers.threads = threads;
        Ok(workers)
    }

    /// What is asked waits in the queues until somebody takes it out.
    fn without_threads(gate_timeout: Duration, room: usize) -> (Self, Queues) {
        let (gates, gate_queue) = bounded(GATES);
        let (watch, watch_queue) = bounded(GATES);
        let (looks, look_queue) = bounded(room + SPARE);
        let (images, image_queue) = bounded(room + SPARE);
        let workers = Self {
            gates,
            watch,
            looks,
            images,
            notes: None,
            gate_timeout,
            threads: Vec::new(),
        };
        let queues = Queues {
            gates: gate_queue,
            watch: watch_queue,
            looks: look_queue,
            images: image_queue,
        };
        (workers, queues)
    }

    /// Queues a gate; a full queue lets the operation pass at once.
    pub fn gate(&self, db: &Arc<Database>, gate: Gate, proceed: Proceed) {
        let held = Held {
            db: db.clone(),
            proceed: Once::new((proceed, Passing::begin(db, gate))),
            deadline: Instant::now() + self.gate_timeout,
        };
        let watched = self.watch.try_send(Waiting::Operation(held.clone()));
        let queued = || self.gates.try_send(Urgent::Gate(held.clone(), gate));
        if watched.is_err() || queued().is_err() {
            pass_unguarded(&held, "too many gates wait", false);
        }
    }

    /// Queues a commit that waits for the store, and watches its time; where there is no room it waits no longer.
    pub fn commit(&self, held: HeldCommit) {
        match self.watch.try_send(Waiting::Commit(held.clone())) {
            Ok(()) => self.look_at_commit(held),
            Err(_) => held.give_up("too many operations wait"),
        }
    }

    /// Queues a commit whose time is watched already.
    pub fn look_at_commit(&self, held: HeldCommit) {
        if self.gates.try_send(Urgent::Commit(held.clone())).is_err() {
            held.give_up("too many operations wait");
        }
    }

    /// Keeps a write back while a comparison has its turn.
    pub fn hold(&self, db: &Arc<Database>, write: Write) {
        let now = Instant::now();
        let held = HeldWrite::new(write, now + self.gate_timeout);
        if !db.turn().hold(&held, now) {
            held.go();
        } else if self
            .watch
            .try_send(Waiting::Write(db.clone(), held))
            .is_ok()
        {
            db.ask_for_look();
        } else if let Some(held) = db.turn().end() {
            held.go();
        }
    }

    pub fn look(&self, look: Look) {
        // A look that is not taken drops its sender, which the asker sees as `Stopped`.
        drop(self.looks.try_send(look));
    }

    /// One that nobody waits for, and that is of use only if it comes soon. It takes no room from those of pipelines.
    pub fn look_unless_busy(&self, look: Look) {
        if self.looks.len() < FEW {
            self.look(look);
        }
    }

    /// A note that may wait for others.
    pub fn note(&self, note: Note) {
        match &self.notes {
            // As with a look.
            Some(notes) => drop(notes.try_send(Box::new(note))),
            None => self.look(note.into_look()),
        }
    }

    /// Something that reads a whole database.
    pub fn image(&self, look: Look) {
        drop(self.images.try_send(look));
    }
}

fn pass_unguarded(held: &Held, why: &str, follows: bool) {
    held.db.set_gate_missed();
    if held.go() {
        meter::GATES_MISSED.add(1);
        report_gap(&held.db, why, follows);
    }
}

/// History lost some resolution: said at once, and once; mended by the next look that can. `follows`: from a gap before,
/// whose reason tells more.
fn report_gap(db: &Database, why: &str, follows: bool) {
    let Some(client) = db.client() else {
        return;
    };
    let mut first = false;
    client.update(|progress| {
        first = progress.status != Status::Gapped;
        progress.status = Status::Gapped;
        if first || !follows {
            progress.last_error = Some(format!("gapped: {why}"));
        }
    });
    if first {
        tracing::warn!(
            client = %db.label(),
            error = why,
            "A gate was passed before its capture had ended; the history is gapped"
        );
    }
}

/// Lets operations pass whose time is over. Looks every `GATE_CHECK` while any waits, and not at all otherwise.
fn watch_gates(queue: &Receiver<Waiting>) {
    let mut waiting: Vec<Waiting> = Vec::new();
    while let Ok(held) = queue.recv() {
        waiting.push(held);
        while !waiting.is_empty() {
            std::thread::sleep(GATE_CHECK);
            waiting.extend(queue.try_iter());
            waiting.retain(|held| !held.is_over());
            let now = Instant::now();
            let (late, others) = waiting
                .into_iter()
                .partition::<Vec<_>, _>(|held| held.deadline() <= now);
            late.iter().for_each(|late| survived(|| late.give_up()));
            waiting = others;
        }
    }
}

fn work(
    shared: &Shared,
    (gates, parked): (&Receiver<Urgent>, &Parked),
    looks: &Receiver<Look>,
    merges: &Sender<Look>,
) {
    room::keep_freed();
    let mut answers = Answers::default();
    while let Some(next) = next((gates, parked), looks, &mut answers) {
        match next {
            Next::Urgent(Urgent::Gate(held, gate)) if held.db.newest().try_history().is_none() => {
                answers.tell();
                parked.park(held, gate);
            }
            Next::Urgent(urgent) => {
                answers.tell();
                attend_to(shared, urgent, merges);
            }
            Next::Look(look) => survived(|| look(shared, &mut answers)),
        }
    }
}

/// Gates before everything else. While there is none, and nothing else, the answers are told. None at the end.
fn next(
    (gates, parked): (&Receiver<Urgent>, &Parked),
    looks: &Receiver<Look>,
    answers: &mut Answers,
) -> Option<Next> {
    let mut waits = match answers.are_told() {
        true => room::IDLE,
        false => Duration::ZERO,
    };
    loop {
        if let Some((held, gate)) = parked.take_due(Instant::now()) {
            return Some(Next::Urgent(Urgent::Gate(held, gate)));
        }
        let has_parked = !parked.is_empty();
        let pause = if has_parked { waits.min(PARKED) } else { waits };
        select_biased! {
            recv(gates) -> gate => return gate.ok().map(Next::Urgent),
            recv(looks) -> look => return look.ok().map(Next::Look),
            default(pause) => {}
        }
        if has_parked && answers.are_told() {
            continue;
        }
        if answers.are_told() {
            room::give_back_freed();
            waits = Duration::MAX;
        } else {
            answers.tell();
            waits = room::IDLE;
        }
    }
}

fn attend_to(shared: &Shared, urgent: Urgent, merges: &Sender<Look>) {
    match urgent {
        Urgent::Gate(held, gate) => survived(|| {
            pass_gate(shared, &held, gate, Some(merges));
            let db = held.db.newest();
            if gate.destroys_frames() || db.ends_unseen(Some(gate)) {
                merging::soon(&db, merges);
            }
        }),
        Urgent::Commit(held) => survived(|| commits::capture_held(shared, held, now_ms())),
    }
}

/// `merges`: who merges what waits in the spool, where nothing more finds room there; then it is tried once more.
fn pass_gate(shared: &Shared, held: &Held, gate: Gate, merges: Option<&Sender<Look>>) {
    // Its directory may have been renamed while this waited.
    let db = &held.db.newest();
    let guarded = caught(db, || match gate.destroys_frames() {
        true => drain_at(db, shared, gate),
        false if db.ends_unseen(Some(gate)) => {
            record(shared, db, gate, held.deadline).and_then(|()| drain_at(db, shared, gate))
        }
        false => record(shared, db, gate, held.deadline),
    });
    match guarded {
        Ok(()) => {
            Point::GatePassed.reach();
            if db.ends_unseen(Some(gate)) {
                listen_again(db, shared);
            }
            held.go();
            db.look_soon();
        }
        Err(error) => {
            let merges = merges.filter(|_| error.is_for_want_of_room());
            if !merges.is_some_and(|merges| pass_after_merge(db, held, gate, merges)) {
                let follows = matches!(error, CaptureError::LostWay { .. });
                pass_unguarded(held, &error.to_string(), follows);
            }
        }
    }
}

/// Tries once more when what waits in the spool was merged. False where there is nothing to merge.
fn pass_after_merge(db: &Arc<Database>, held: &Held, gate: Gate, merges: &Sender<Look>) -> bool {
    let again = held.clone();
    let then: Look = Box::new(move |shared, _| pass_gate(shared, &again, gate, None));
    merging::before(db, merges, held.deadline, then)
}

/// Captures what the operation behind `gate` destroys.
fn drain_at(db: &Database, shared: &Shared, gate: Gate) -> Result<(), CaptureError> {
    Defect::Gate.meet(|| db.label());
    let since = db.dirty_since().unwrap_or_else(now_ms);
    let mut history = db.history();
    // What was written before this run's first look is not asked for by its moments.
    let had_lost_way = history.resync.filter(|_| history.unconfirmed.is_none());
    let drained = history.drain(db, shared, Some(gate), None, since)?;
    if drained.next == drain::Next::Unknown && !gate.destroys_frames() {
        return Err(CaptureError::Disturbed);
    }
    match had_lost_way {
        // Nor is it kept for an image that is being made.
        Some(reason) if drained.next == drain::Next::Image && history.image.is_none() => {
            Err(CaptureError::LostWay { reason })
        }
        _ => Ok(()),
    }
}

/// At a drain point: waits for the writer that is in the middle of the wal-index.
fn record(shared: &Shared, db: &Database, at: Gate, deadline: Instant) -> Result<(), CaptureError> {
    let failed = || CaptureError::io("read the wal-index");
    while !db.take_record(&shared.backing, at).map_err(failed())? {
        if Instant::now() >= deadline {
            return Err(CaptureError::Disturbed);
        }
        std::thread::sleep(INDEX_PAUSE);
    }
    Ok(())
}

/// Captures what was committed since the last look.
pub(super) fn drain(db: &Arc<Database>, shared: &Shared) -> Result<Drained, CaptureError> {
    let (seen, heard) = begin_look(db, shared);
    let since = seen.unwrap_or_else(now_ms);
    let drained = db.history().drain(db, shared, None, heard, since);
    let found = match &drained {
        Ok(drained) => matches!(drained.next, drain::Next::Nothing | drain::Next::LookAgain),
        Err(error) => matches!(error, CaptureError::Arriving(_)),
    };
    settle_time(db, seen, found);
    drained
}

/// What is written from here on asks for another look. Returns when the oldest write was seen since the last one, and the
/// log that is heard of.
fn begin_look(db: &Arc<Database>, shared: &Shared) -> (Option<UnixMs>, Option<HeardLog>) {
    let seen = db.take_dirty();
    (seen, listen_again(db, shared))
}

/// What is written to its log from here on is heard of, or looked for. Returns the log that is heard of.
pub(super) fn listen_again(db: &Arc<Database>, shared: &Shared) -> Option<HeardLog> {
    let listening = shared.watching.listen_again(db, &shared.backing);
    listening.unwrap_or_else(|error| {
        shared.watching.tell_deaf(db, &error);
        db.look_soon();
        None
    })
}

/// The age of the oldest commit goes on counting where a look did not find it.
fn settle_time(db: &Database, seen: Option<UnixMs>, found: bool) {
    if !found {
        db.restore_dirty_since(seen);
    }
    db.history().report(db);
}

fn work_on_images(shared: &Shared, queue: &Receiver<Look>) {
    yield_to_others();
    while let Ok(look) = queue.recv() {
        survived(|| look(shared, &mut Answers::default()));
    }
}

/// Reads the whole database: a new generation, or what differs. `Disturbed` where that is being done: whoever had asked
/// for it may have gone away.
pub(super) fn make_image(db: &Arc<Database>, shared: &Shared) -> Result<(), CaptureError> {
    if std::mem::replace(&mut db.history().is_imaged, true) {
        return Err(CaptureError::Disturbed);
    }
    let (seen, _) = begin_look(db, shared);
    let mut made = caught(db, || {
        image::capture(db, shared, seen.unwrap_or_else(now_ms))
    });
    if made.is_err()
        && let Err(error) = db.history().give_up_image(db, shared)
    {
        made = Err(error);
    }
    db.history().is_imaged = false;
    settle_turn(db, &made);
    let found = matches!(made, Ok(()) | Err(CaptureError::Arriving(_)));
    settle_time(db, seen, found);
    made
}

/// What was disturbed asks for its turn; else whoever waits for the end goes on.
fn settle_turn(db: &Database, made: &Result<(), CaptureError>) {
    let over = match made {
        Ok(()) => db.turn.if_made().and_then(|mut turn| turn.compared()),
        Err(CaptureError::Disturbed) => {
            let takes_long = takes_long(db);
            db.turn().want(takes_long, Instant::now());
            None
        }
        Err(_) => db.turn.if_made().and_then(|mut turn| turn.end()),
    };
    if let Some(held) = over {
        held.go();
    }
}

/// Whether the next comparison reads so much that whoever waits for it would feel it.
fn takes_long(db: &Database) -> bool {
    let bytes = db
        .history()
        .mark
        .map_or(u64::MAX, |mark| mark.database_bytes());
    db.writes().known(0).is_none() && bytes >= SEEN_FROM
}

/// A panic ends the work on one database, and not the thread that others need. What it was about to change in the history
/// may be half done: that begins anew from what the state knows, as after a death.
pub(super) fn caught<T>(
    db: &Database,
    work: impl FnOnce() -> Result<T, CaptureError>,
) -> Result<T, CaptureError> {
    let done = without_panic(work);
    if let Err(CaptureError::Panicked(_)) = done {
        db.history().begin_anew();
    }
    done
}

/// The same, and what it spends of the processor is the database's where that is limited.
pub(super) fn counted<T>(
    db: &Database,
    work: impl FnOnce() -> Result<T, CaptureError>,
) -> Result<T, CaptureError> {
    match db.policy().limits.cpu_percent {
        None => caught(db, work),
        Some(_) => db.cpu.of(|| caught(db, work)),
    }
}

/// The same for whoever holds the history's lock, and has it begin anew by itself.
pub(super) fn without_panic<T>(
    work: impl FnOnce() -> Result<T, CaptureError>,
) -> Result<T, CaptureError> {
    let done = std::panic::catch_unwind(AssertUnwindSafe(work));
    done.unwrap_or_else(|payload| Err(CaptureError::Panicked(panic_text(&*payload))))
}

/// Work that is not of one database, or tells by itself what came of it: where it panics, the thread goes on.
pub(super) fn survived(work: impl FnOnce()) {
    if let Err(payload) = std::panic::catch_unwind(AssertUnwindSafe(work)) {
        tracing::error!(error = %panic_text(&*payload), "A capture worker panicked");
    }
}

#[cfg(test)]
pub(crate) use by_hand::{ByHand, Kind};
#[cfg(test)]
mod by_hand;

#[cfg(test)]
mod tests;
