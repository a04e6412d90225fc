//! One active client: look, capture, store, and wait for the interval; the task ends when nothing is left.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::Replicator;
use super::upload::{Found, Uploaded};
use crate::capture::{CaptureError, Database, Drained, Looked, Next, Segment, Stamps};
use crate::fault::{Defect, Point};
use crate::store::keys::ObjectKey;
use crate::store::retry::Backoff;
use crate::tenant::cpu::Pace;
use crate::tenant::policy::Durability;
use crate::tenant::roster::{Client, Status};

/// A commit that is written and not published yet, or that nothing is heard of, is looked for again after so long.
const FIRST_LOOK: Duration = Duration::from_millis(1);
const LAST_LOOK: Duration = Duration::from_secs(5);
const FIRST_RETRY: Duration = Duration::from_millis(20);
const LAST_RETRY: Duration = Duration::from_secs(30);
/// A file that is written past its log is read again soon: it is never quiet for long.
const LAST_DISTURBANCE: Duration = Duration::from_secs(1);

/// From such an interval on a few hundredths of a second more or less are nothing to a note or a round.
const LONG_INTERVAL: Duration = Duration::from_millis(500);
/// Rounds of long intervals come in such a beat, several at a time: each thread that takes part is waked once for them.
const BEAT: Duration = Duration::from_millis(50);
/// Where so many work, a pipeline of a long interval begins with a beat as well. Else one whose commits are as far apart as
/// its rounds would begin anew with each of them, between the beats.
const MANY: usize = 64;

/// What a round left.
enum Round {
    /// All is stored; `captured` says whether there was anything.
    Done { captured: bool },
    /// Look again, though nothing may be heard of it.
    LookAgain { captured: bool },
    /// The file was written past its log while it was read.
    Disturbed,
    /// The capture failed and may succeed later.
    Failed,
    /// Nothing can be done before the file changes.
    Over,
}

/// Works on one database until nothing is left to do, beside `others` of which the same is done.
pub(super) async fn run(replicator: Arc<Replicator>, db: Arc<Database>, others: usize) {
    let client = db
        .client()
        .filter(|client| client.progress().status != Status::Refused);
    let Some(client) = client else {
        db.begin_round();
        db.take_dirty();
        return;
    };
    let _heard = db.calls();
    let interval = client.policy().sync_interval.max(FIRST_LOOK);
    let mut looks = Backoff::new(FIRST_LOOK, LAST_LOOK);
    let mut empty_looks = Backoff::new(FIRST_LOOK, interval);
    let mut disturbances = Backoff::new(FIRST_RETRY, LAST_DISTURBANCE);
    let mut retries = Backoff::new(FIRST_RETRY, LAST_RETRY);
    let mut pace = Pace::begin(db.cpu.spent());
    if let Some(beat) = first_round(Instant::now(), interval, others) {
        wait(&db, beat).await;
    }
    let stay = replicator.capture.stay_of(&client);
    if !stay.is_zero() {
        wait(&db, Instant::now() + stay).await;
    }
    loop {
        if client.is_paused() && !db.is_removed() {
            // What was written stays dirty, and is looked at when it goes on.
            db.look_soon();
            return;
        }
        let begun = Instant::now();
        let ticket = db.begin_round();
        let done = {
            // Where it stands it stays: it is large, and there may be a thousand of them.
            let round = pin!(round(&replicator, &db, &client, ticket));
            paced(&db, &client, &mut pace, round).await
        };
        match done {
            Round::Over => return,
            Round::Done { captured } => {
                looks.reset();
                disturbances.reset();
                retries.reset();
                if captured {
                    empty_looks.reset();
                    wait(&db, next_round(begun, client.policy().sync_interval)).await;
                } else {
                    // A transaction is being written: not a look for each of its pages.
                    wait(&db, Instant::now() + empty_looks.pause()).await;
                }
                if !db.is_dirty() && db.newest_ticket() == ticket {
                    return;
                }
            }
            Round::LookAgain { captured } => {
                tokio::select! {
                    biased;
                    () = wait(&db, Instant::now() + looks.pause()) => {}
                    () = db.stirred() => {
                        looks.reset();
                        let due = match captured {
                            true => next_round(begun, interval),
                            // Nothing was stored in this interval: the first commit of a new database does not wait for it.
                            false => Instant::now() + empty_looks.pause(),
                        };
                        wait(&db, due).await;
                    }
                }
            }
            // Whoever disturbed it may be waiting for us now.
            Round::Disturbed => wait(&db, Instant::now() + disturbances.pause()).await,
            Round::Failed => sleep(retries.pause()).await,
        }
    }
}

/// When the first round is due; none for at once.
fn first_round(begun: Instant, interval: Duration, others: usize) -> Option<Instant> {
    let comes_in_beat = interval >= LONG_INTERVAL && others >= MANY;
    comes_in_beat.then(|| last_beat(begun + BEAT))
}

/// When the round is due that follows one that has `begun`.
fn next_round(begun: Instant, interval: Duration) -> Instant {
    let due = begun + interval;
    match interval < LONG_INTERVAL {
        true => due,
        false => last_beat(due),
    }
}

/// The last beat until then.
fn last_beat(until: Instant) -> Instant {
    static FIRST: LazyLock<Instant> = LazyLock::new(Instant::now);
    let into_beat = until.duration_since(*FIRST).as_nanos() % BEAT.as_nanos();
    until - Duration::from_nanos(into_beat as u64)
}

/// A round, and then as long a pause as makes it keep to the tenant's share of the processor.
async fn paced(
    db: &Database,
    client: &Client,
    pace: &mut Pace,
    round: impl Future<Output = Round>,
) -> Round {
    let Some(percent) = client.policy().limits.cpu_percent else {
        return round.await;
    };
    let begun = Instant::now();
    let done = db.cpu.of_future(round).await;
    sleep_until(begun + pace.least_duration(db.cpu.spent(), percent)).await;
    done
}

/// Until `deadline`, or until somebody asks for a look now.
async fn wait(db: &Database, deadline: Instant) {
    tokio::select! {
        biased;
        () = sleep_until(deadline) => {}
        () = db.nudged() => {}
    }
}

async fn round(replicator: &Replicator, db: &Arc<Database>, client: &Client, ticket: u64) -> Round {
    Defect::Pipeline.meet(|| client.label.to_string());
    let removed = db.is_removed();
    let looked = match replicator.come_after_rival(db, client).await {
        Ok(()) => look(replicator, db, client).await,
        Err(error) => return failed(db, client, &error),
    };
    // What gates capture from now on is of the next round: under load there is always more of it. Of what is gone
    // there is no next round.
    let last = if removed {
        u64::MAX
    } else {
        client.progress().txid
    };
    let (front, stamps) = match &looked {
        Ok((drained, front)) => (front.clone(), drained.stamps),
        Err(_) => (None, None),
    };
    let stored = store_until(replicator, db, client, (front, last), stamps).await;
    let (captured, is_settled) = match stored {
        Ok(Stored::All { any, is_settled }) => (any, is_settled),
        Ok(Stored::GivenUp) => return Round::Disturbed,
        Err(error) => return failed(db, client, &error),
    };
    let drained = match looked {
        Ok((drained, _)) => drained,
        Err(error) => return failed(db, client, &error),
    };
    if removed {
        if let Err(error) = replicator.capture.forget(db).await {
            tracing::warn!(client = %db.label(), error = %error, "Left-overs could not be removed");
        }
        replicator.capture.settle(db, ticket);
        return Round::Over;
    }
    if db.is_removed() {
        // In the meantime: the flag that said so may have been taken by this round's look.
        db.look_soon();
    }
    match drained.next {
        Next::Image => Round::Disturbed,
        Next::LookAgain => {
            recovered(db, client);
            replicator.capture.settle(db, ticket);
            Round::LookAgain { captured }
        }
        Next::Unknown => Round::LookAgain { captured },
        Next::Nothing => {
            if !is_settled && let Err(error) = replicator.capture.settled(db, drained.stamps).await
            {
                return failed(db, client, &error);
            }
            recovered(db, client);
            replicator.capture.settle(db, ticket);
            Round::Done { captured }
        }
    }
}

/// The history goes on from an object that is in the store, or a new generation begins.
async fn adopt_or_abandon(
    replicator: &Replicator,
    db: &Arc<Database>,
    client: &Client,
    found: Found,
    key: &str,
) -> Result<(), CaptureError> {
    let capture = &replicator.capture;
    if let Found::Segment(object) = found
        && capture.adopt(db, *object).await?
    {
        return Ok(());
    }
    tracing::warn!(
        client = %client.label,
        key,
        "The store has another object there; a new generation begins"
    );
    capture.abandon(db, None).await
}

/// Captures what is committed, reading the whole file where that is needed. Gives the next segment to be stored, too,
/// where that was seen.
async fn look(
    replicator: &Replicator,
    db: &Arc<Database>,
    client: &Client,
) -> Result<(Drained, Option<Segment>), CaptureError> {
    if db.is_removed() {
        db.take_dirty();
        return Ok((Drained::nothing(), None));
    }
    let capture = &replicator.capture;
    let (drained, front) = loop {
        match capture.look(db).await? {
            Looked::Drained {
                drained,
                front,
                are_several,
            } => {
                let interval = client.policy().sync_interval;
                if are_several && !interval.is_zero() {
                    // Where the threads for that are busy it is stored as it is.
                    let merged = timeout(interval, capture.merge(db)).await;
                    merged.unwrap_or(Ok(()))?;
                }
                break (drained, front.map(|front| *front));
            }
            Looked::Unnoted(key) => Box::pin(find_unnoted(replicator, db, client, key)).await?,
        }
    };
    match drained.next {
        Next::Image => Ok((image(replicator, db).await?, None)),
        _ => Ok((drained, front)),
    }
}

/// Reads the whole file, and captures what was committed while the image was made.
async fn image(replicator: &Replicator, db: &Arc<Database>) -> Result<Drained, CaptureError> {
    replicator.capture.image(db).await?;
    replicator.capture.drain(db).await
}

/// Goes on from what an earlier run stored and did not note, before anything is captured that it holds already.
async fn find_unnoted(
    replicator: &Replicator,
    db: &Arc<Database>,
    client: &Client,
    key: ObjectKey,
) -> Result<(), CaptureError> {
    let key = key.below(client.s3_prefix());
    match replicator.look_for_segment(client, &key).await {
        // Without an answer the first upload will tell: it finds its number taken.
        None | Some(Found::Nothing) => Ok(()),
        Some(found) => adopt_or_abandon(replicator, db, client, found, &key).await,
    }
}

/// What came of what was captured.
enum Stored {
    All {
        any: bool,
        /// That all is stored is noted.
        is_settled: bool,
    },
    /// The store has other objects there: it has to be captured anew.
    GivenUp,
}

/// Stores what is captured from the segment `front`, where that was seen already, up to the transaction `last`, in order.
/// `stamps`: the files' where all there was is captured.
async fn store_until(
    replicator: &Replicator,
    db: &Arc<Database>,
    client: &Client,
    (front, last): (Option<Segment>, u64),
    stamps: Option<Stamps>,
) -> Result<Stored, CaptureError> {
    let capture = &replicator.capture;
    let (mut any, mut is_settled) = (false, false);
    let mut reached = 0;
    let mut front = match front {
        Some(front) => Some(front),
        None => capture.front(db).await?,
    };
    while let Some(segment) = front {
        let is_paused = client.is_paused() && !db.is_removed();
        if is_paused || reached >= last.max(1) {
            db.look_soon();
            break;
        }
        any = true;
        // One that was merged may lead further than was asked for.
        reached = segment.end.txid;
        match upload(replicator, db, client, &segment).await {
            Uploaded::Done => {
                Point::Stored.reach();
                let may_wait = reached >= last && may_wait(client);
                let noted = note_stored(replicator, db, &segment, stamps, may_wait).await?;
                (front, is_settled) = noted;
            }
            Uploaded::Conflict(found) => {
                let key = segment.key().below(client.s3_prefix());
                replicator.note_taken_key(client, segment.end.generation);
                Box::pin(adopt_or_abandon(replicator, db, client, found, &key)).await?;
                return Ok(Stored::GivenUp);
            }
            Uploaded::Outdated(earlier) => {
                capture.abandon(db, Some(earlier)).await?;
                return Ok(Stored::GivenUp);
            }
        }
    }
    if any && !db.is_removed() {
        Box::pin(replicator.look_after_upload(db, client)).await;
    }
    Ok(Stored::All { any, is_settled })
}

/// Whether the note of the last segment may wait a little for those of others: nobody waits for that note, and the next
/// segment is far away.
fn may_wait(client: &Client) -> bool {
    let policy = client.policy();
    let is_slow = policy.sync_interval >= LONG_INTERVAL;
    is_slow && policy.durability != Durability::Store && policy.limits.cpu_percent.is_none()
}

/// Uploads a segment, however long the store takes. Where the capture loses its way meanwhile, it is led back: each
/// reset of the log would cost moments until then.
async fn upload(
    replicator: &Replicator,
    db: &Arc<Database>,
    client: &Client,
    segment: &Segment,
) -> Uploaded {
    tokio::select! {
        // Both may ask a capture worker: in this order, so that a simulation can be replayed.
        biased;
        uploaded = replicator.upload(client, segment) => uploaded,
        never = keep_the_way(replicator, db) => match never {},
    }
}

/// Looks each time that the log can't be followed any more, until the file was compared.
async fn keep_the_way(replicator: &Replicator, db: &Arc<Database>) -> Infallible {
    loop {
        db.lost_way().await;
        let mut pauses = Backoff::new(FIRST_RETRY, LAST_RETRY);
        // An error that lasts is told by the round that comes after the upload.
        while find_the_way(replicator, db).await.is_err() {
            sleep(pauses.pause()).await;
        }
    }
}

async fn find_the_way(replicator: &Replicator, db: &Arc<Database>) -> Result<(), CaptureError> {
    if db.is_removed() {
        db.take_dirty();
        return Ok(());
    }
    if replicator.capture.drain(db).await?.next == Next::Image {
        image(replicator, db).await?;
    }
    Ok(())
}

/// Goes on to the next segment; upkeep learns what has come after the newest snapshot. Says whether it is noted that all
/// is stored.
async fn note_stored(
    replicator: &Replicator,
    db: &Arc<Database>,
    segment: &Segment,
    stamps: Option<Stamps>,
    may_wait: bool,
) -> Result<(Option<Segment>, bool), CaptureError> {
    let stored = replicator
        .capture
        .stored(db, segment, stamps, may_wait)
        .await?;
    if segment.snapshot {
        replicator.note_snapshot(db).await?;
    } else if let Some(newest) = stored.snapshot {
        replicator.note_progress(db, &newest, segment.end.database_bytes());
    }
    Ok((stored.next, stored.is_settled))
}

fn failed(db: &Database, client: &Client, error: &CaptureError) -> Round {
    if matches!(error, CaptureError::Stopped) {
        return Round::Over;
    }
    if matches!(error, CaptureError::Disturbed) {
        return Round::Disturbed;
    }
    let text = format!("{}: {error}", error.code());
    if matches!(error, CaptureError::Arriving(_)) {
        wait_for_arrival(client, text);
        return Round::Disturbed;
    }
    let told = client.progress().last_error;
    if told.as_deref() != Some(&text) {
        tracing::warn!(client = %db.label(), error = %error, "A database can't be captured");
    }
    client.update(|progress| {
        progress.status = Status::Failing;
        progress.last_error = Some(text);
    });
    if error.waits_for_the_file() {
        Round::Over
    } else {
        Round::Failed
    }
}

/// What is being copied into place is no commit that waits.
fn wait_for_arrival(client: &Client, text: String) {
    let is_new = client.progress().status != Status::Waiting;
    client.update(|progress| {
        if !matches!(progress.status, Status::Refused | Status::Missing) {
            progress.status = Status::Waiting;
            progress.last_error = Some(text.clone());
        }
    });
    if is_new {
        tracing::info!(client = %client.label, prefix = client.prefix(), reason = text, "A file is stored once it has arrived");
    }
}

/// Everything that is committed is stored, and what was lost of the history is mended.
fn recovered(db: &Database, client: &Client) {
    if db.is_gate_missed() || client.is_overtaken() {
        // The next look mends it.
        return;
    }
    client.update(|progress| {
        if matches!(
            progress.status,
            Status::Failing | Status::Gapped | Status::Waiting
        ) {
            progress.status = Status::Active;
            progress.last_error = None;
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_active_client_has_is_small() {
        fn size_of_made<T>(_: impl FnOnce() -> T) -> usize {
            size_of::<T>()
        }
        let make = || -> (Arc<Replicator>, Arc<Database>) { unreachable!("it is not called") };
        let bytes = size_of_made(|| {
            let (replicator, db) = make();
            run(replicator, db, 0)
        });
        assert!(bytes <= 3 << 10, "{bytes} bytes");
    }

    #[test]
    fn rounds_of_long_intervals_come_several_at_a_time_and_hardly_before_their_time() {
        let first = Instant::now();
        let begun = (0..100).map(|n| first + n * BEAT / 100);
        let mut beats = Vec::new();
        for begun in begun {
            let (long, short) = (LONG_INTERVAL * 2, LONG_INTERVAL / 2);
            let due = next_round(begun, long);
            assert!(due <= begun + long && begun + long - due < BEAT);
            assert_eq!(next_round(begun, short), begun + short);
            beats.push(due);
        }
        beats.dedup();
        assert!(beats.len() <= 2, "{beats:?}");
    }

    /// One whose commits are a second apart is worked on in the beat, and not begun anew between the beats each time.
    #[tokio::test(start_paused = true)]
    async fn among_many_the_first_round_comes_in_the_beat_as_well_and_before_long() {
        let long = Duration::from_secs(1);
        let begun = Instant::now() + 7 * BEAT / 3;
        assert_eq!(first_round(begun, long, MANY - 1), None);
        assert_eq!(first_round(begun, LONG_INTERVAL / 2, MANY), None);
        let first = first_round(begun, long, MANY).expect("in the beat");
        assert!(first >= begun && first <= begun + BEAT);
        // A commit a second after the one that it begins with comes before the next one is due.
        assert_eq!(next_round(first, long), first + long);
    }
}
