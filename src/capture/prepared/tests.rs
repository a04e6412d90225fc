//! What is made ahead of a commit: captured where that is published as it was read, and else not at all.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::*;
use crate::capture::drain::Next;
use crate::capture::mark::Segment;
use crate::capture::model::{Model, bytes_of, pages_of};
use crate::capture::workers;
use crate::format::ltx::Decoder;
use crate::format::wal;
use crate::tenant::policy::Policy;

const LARGE: &str =
    "WITH RECURSIVE n(i) AS (SELECT 2000 UNION ALL SELECT i + 1 FROM n WHERE i < 2020)
    INSERT INTO t SELECT i, randomblob(3000) FROM n";

struct Scene {
    model: Model,
    db: Arc<Database>,
    shared: Arc<Shared>,
    /// Of the first snapshot.
    base: Vec<u8>,
}

impl Scene {
    fn new(seed: u64) -> Self {
        let mut model = Model::new(seed, 16 << 20);
        let (db, shared) = (model.db.clone(), model.capture.shared.clone());
        model.pass_log();
        model.run("INSERT INTO t VALUES (1, 'before')");
        workers::make_image(&db, &shared).expect("a first image");
        let base = pages_of(&db.history().front().expect("a snapshot").body);
        Self {
            model,
            db,
            shared,
            base,
        }
    }

    /// Whether something is prepared after what a sync of the log brings about.
    fn prepare(&self) -> bool {
        let before = self.db.history().mark;
        let mut history = self.db.history();
        history.prepare(&self.db, &self.shared).expect("prepared");
        assert_eq!(history.mark, before, "nothing is captured");
        history.prepared.is_some()
    }

    /// How many transactions a look captures.
    fn look(&self) -> u64 {
        let txid = || self.db.history().mark.expect("a mark").txid;
        let before = txid();
        let drained = workers::drain(&self.db, &self.shared).expect("looked");
        assert!(matches!(drained.next, Next::Nothing | Next::LookAgain));
        txid() - before
    }

    fn waiting(&self) -> Vec<Segment> {
        self.db.history().pending.iter().skip(1).cloned().collect()
    }

    /// What waits leads from the first snapshot to what SQLite shows, each segment at its time.
    fn assert_leads_to_what_is_shown(&self) {
        let mut pages = self.base.clone();
        for segment in self.waiting() {
            let bytes = bytes_of(&segment.body);
            assert_eq!(bytes.len() as u64, segment.size);
            let mut decoder = Decoder::new(bytes.as_slice()).expect("a header");
            let header = *decoder.header();
            assert_eq!(header.timestamp_ms, segment.end.time_ms);
            let size = header.page_size as usize;
            pages.resize(header.commit as usize * size, 0);
            let mut page = vec![0; size];
            while let Some(pgno) = decoder.next_page(&mut page).expect("a page") {
                let at = (pgno as usize - 1) * size;
                pages[at..at + size].copy_from_slice(&page);
            }
            let trailer = decoder.finish().expect("a whole file");
            assert_eq!(trailer.file_checksum, segment.file_checksum);
            assert_eq!(trailer.post_apply_checksum, segment.end.checksum.value());
        }
        assert!(pages == self.model.shown());
    }

    fn log(&self) -> File {
        let path = self.model.dir.path().join("data");
        let path = path.join(&self.db.path).with_extension("db-wal");
        let log = File::options().read(true).write(true).open(path);
        log.expect("the log")
    }
}

#[test]
fn what_was_prepared_is_captured_as_it_is_and_what_follows_after_it() {
    for seed in 1..6 {
        let mut scene = Scene::new(seed);
        assert!(!scene.prepare(), "nothing was written");
        scene.model.execute("INSERT INTO t VALUES (2, 'small')");
        scene.model.execute(LARGE);
        assert!(scene.prepare());
        let size = scene.shared.spool.used();
        assert!(size > 60_000, "it counts: {size}");
        let made_at = scene.db.history().next_time();
        scene.model.execute("DELETE FROM t WHERE a < 2005");
        // In the middle of the interval the store takes nothing.
        while scene.db.history().next_time() == made_at {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        assert_eq!(scene.look(), 3);
        let waiting = scene.waiting();
        assert_eq!(waiting.len(), 2);
        assert_eq!(waiting[0].size, size);
        assert!(waiting[0].durable && waiting[0].end.time_ms > made_at);
        scene.assert_leads_to_what_is_shown();
        // At the next gate as well, and with nothing behind it.
        scene.model.execute("UPDATE t SET b = randomblob(3001)");
        assert!(scene.prepare());
        scene.model.run("PRAGMA wal_checkpoint(RESTART)");
        assert_eq!(scene.waiting().len(), 3);
        scene.assert_leads_to_what_is_shown();
    }
}

/// Many small transactions, as before an automatic checkpoint.
#[test]
fn what_was_read_ahead_is_prepared_when_the_log_is_synced() {
    for seed in 1..8 {
        let mut scene = Scene::new(seed);
        for number in 10..40 {
            let insert = format!("INSERT INTO t VALUES ({number}, randomblob(3000))");
            scene.model.execute(&insert);
        }
        let read_to = |scene: &Scene| {
            scene
                .db
                .history()
                .followed
                .as_ref()
                .map(|known| known.offset())
        };
        let ahead = scene.db.history().read_ahead(&scene.db, &scene.shared);
        ahead.expect("read");
        let read_ahead = read_to(&scene).expect("something");
        // Not enough to be worth while by itself; and somebody is in the middle of the next one.
        scene.model.execute("UPDATE t SET b = 'last' WHERE a = 10");
        scene
            .model
            .commit_unpublished("UPDATE t SET b = 'later' WHERE a = 11");
        assert!(scene.prepare());
        assert_eq!(read_to(&scene), None, "it went on from there");
        assert_eq!(scene.look(), 31);
        assert!(read_to(&scene).is_none_or(|end| end > read_ahead));
        let waiting = scene.waiting();
        assert!(waiting.len() == 1 && waiting[0].durable);
        // In the place of what was not published.
        scene.model.execute("INSERT INTO t VALUES (52, 'other')");
        assert_eq!(scene.look(), 1);
        scene.assert_leads_to_what_is_shown();
    }
}

#[test]
fn what_is_not_published_is_not_captured_and_nothing_else_instead_of_it() {
    let mut scene = Scene::new(1);
    scene.model.commit_unpublished(LARGE);
    assert!(scene.prepare());
    assert_eq!(scene.look(), 0);
    let is_kept = scene.db.history().prepared.is_some();
    assert!(is_kept, "it may still be published");
    // Other frames stand there by now.
    scene.model.execute(&LARGE.replace("3000", "3100"));
    assert_eq!(scene.look(), 1);
    assert!(scene.db.history().prepared.is_none());
    assert!(scene.waiting()[0].is_in_memory());
    assert_eq!(scene.shared.spool.used(), 0, "it is thrown away");
    scene.assert_leads_to_what_is_shown();
}

/// Its frames are whole, and its writer has died in the middle of those of another transaction, which stand over its first
/// ones: no recovery finds it any more.
#[test]
fn what_no_recovery_finds_is_not_captured() {
    let mut scene = Scene::new(1);
    scene.model.commit_unpublished(LARGE);
    assert!(scene.prepare());
    let from = scene.db.history().mark.and_then(|mark| mark.wal);
    let from = from.map_or(HEADER_SIZE, |from| from.position.offset);
    let log = scene.log();
    let page_size = scene.db.history().mark.expect("a mark").page_size;
    log.write_all_at(&vec![7; page_size as usize], from + FRAME_HEADER_SIZE)
        .expect("written over");
    scene.model.close_index();
    scene.db.mark_dirty();
    assert_eq!(scene.look(), 0);
    assert!(scene.db.history().prepared.is_none());
    assert!(scene.waiting().is_empty());
}

#[test]
fn what_was_prepared_of_a_log_that_is_gone_takes_no_room() {
    let mut scene = Scene::new(1);
    scene.model.commit_unpublished(LARGE);
    assert!(scene.prepare());
    assert!(scene.shared.spool.used() > 0);
    scene.log().set_len(0).expect("cut");
    scene.db.mark_dirty();
    workers::drain(&scene.db, &scene.shared).expect("looked");
    assert_eq!(scene.shared.spool.used(), 0);
}

/// What stands there behind it is of a writer that has died, and takes no room from those that live.
#[test]
fn what_was_prepared_takes_no_room_once_something_else_follows() {
    let mut scene = Scene::new(1);
    scene.model.commit_unpublished(LARGE);
    assert!(scene.prepare());
    scene.model.execute("INSERT INTO t VALUES (2, 'small')");
    assert_eq!(scene.look(), 1);
    assert_eq!(scene.shared.spool.used(), 0);
    scene.assert_leads_to_what_is_shown();
}

/// A scene with so many small transactions each of which is to be a segment, and none of them captured.
fn each_one_a_segment(transactions: u32) -> Scene {
    let mut scene = Scene::new(1);
    let client = scene.db.client().expect("registered");
    client.set_policy(Arc::new(Policy {
        sync_interval: std::time::Duration::ZERO,
        ..(*client.policy()).clone()
    }));
    for number in 10..10 + transactions {
        let insert = format!("INSERT INTO t VALUES ({number}, randomblob(3000))");
        scene.model.execute(&insert);
    }
    scene
}

/// Up to where the log was read ahead.
fn read_to(scene: &Scene) -> Option<u64> {
    let history = scene.db.history();
    history.followed.as_ref().map(|known| known.offset())
}

#[test]
fn where_each_transaction_is_a_segment_what_was_read_ahead_stays() {
    let scene = each_one_a_segment(30);
    let ahead = scene.db.history().read_ahead(&scene.db, &scene.shared);
    ahead.expect("read");
    let read_ahead = read_to(&scene);
    assert!(read_ahead.is_some() && !scene.prepare());
    assert_eq!(read_to(&scene), read_ahead);
    assert_eq!(scene.look(), 30);
    assert_eq!(scene.waiting().len(), 30);
    scene.assert_leads_to_what_is_shown();
}

#[test]
fn where_each_transaction_is_a_segment_what_was_not_published_is_read_again() {
    let mut scene = each_one_a_segment(30);
    let unseen = "INSERT INTO t VALUES (99, randomblob(3000))";
    scene.model.commit_unpublished(unseen);
    assert!(!scene.prepare());
    assert_eq!(read_to(&scene), None);
    // It is written over, and so is what was read of it.
    scene.model.execute("INSERT INTO t VALUES (98, 'another')");
    assert_eq!(scene.look(), 31);
    scene.assert_leads_to_what_is_shown();
}

/// Somebody may still have it open.
#[test]
fn what_was_prepared_of_a_database_that_is_gone_takes_no_room() {
    let mut scene = Scene::new(1);
    scene.model.commit_unpublished(LARGE);
    assert!(scene.prepare());
    scene.db.set_removed();
    let forget = |history: &mut History| history.forget(&scene.db, &scene.shared);
    forget(&mut scene.db.history()).expect("forgotten");
    let spool = std::fs::read_dir(scene.shared.directory.join("spool"));
    assert_eq!(spool.expect("a folder").count(), 0);
    assert_eq!(scene.shared.spool.used(), 0);
}

/// Without a wal-index it would be thrown away, and made once more while the gate waits.
#[test]
fn nothing_is_prepared_where_the_chain_alone_says_what_is_committed() {
    let mut scene = Scene::new(1);
    scene.model.execute(LARGE);
    scene.model.close_index();
    assert!(!scene.prepare());
    assert_eq!(scene.look(), 1);
    scene.assert_leads_to_what_is_shown();
}

/// The log is asked before each commit, so that small ones must not add up to much.
#[test]
fn only_much_that_was_written_at_once_is_much() {
    let frames: Vec<_> = (1..200).map(|frame| (frame, frame, 7)).collect();
    let log = wal::tests::log(false, 512, &frames);
    let frame = 512 + FRAME_HEADER_SIZE as usize;
    let file = tempfile::tempfile().expect("a file");
    let synced_to = SyncedTo::default();
    let written = |frames: usize| {
        let bytes = &log[..HEADER_SIZE as usize + frames * frame];
        file.write_all_at(bytes, 0).expect("written");
        synced_to.has_grown_much(&file)
    };
    assert!(!synced_to.has_grown_much(&file), "there is no log yet");
    for frames in 0..100 {
        assert!(!written(frames), "{frames} frames one after the other");
    }
    let much = (MUCH / 512) as usize + 4;
    assert!(written(100 + much));
    assert!(!written(100 + much));
    // What is left of the log before has other salts.
    let mut other = log.clone();
    other[16..20].copy_from_slice(&99_u32.to_be_bytes());
    let sum = wal::checksum(false, (0, 0), &other[..24]);
    other[24..28].copy_from_slice(&sum.0.to_be_bytes());
    other[28..32].copy_from_slice(&sum.1.to_be_bytes());
    file.write_all_at(&other[..HEADER_SIZE as usize], 0)
        .expect("written");
    assert!(!synced_to.has_grown_much(&file));
}

/// Where every moment is wanted a segment is of one transaction.
#[test]
fn no_more_is_read_than_is_needed_to_see_that_it_is_in_vain() {
    let mut scene = Scene::new(1);
    for from in [2_000, 4_000, 6_000] {
        let large = LARGE.replace("2000", &from.to_string());
        let large = large.replace("2020", &(from + 500).to_string());
        scene.model.execute(&large);
    }
    let history = scene.db.history();
    let log = open_log(&scene.db, &scene.shared).expect("opened");
    let Log::Valid(mut log) = log else {
        panic!("a log")
    };
    let mark = history.mark.expect("a mark");
    let from = history.goes_on_from(&mark, &log).expect("it goes on");
    let end = log.len;
    for (most, least) in [(usize::MAX, 3), (1, 2)] {
        let mut followed = Followed::begin(&log, from);
        let sums = followed.go_on_summing(&mut log, end, most);
        let read = sums.expect("read").len() as u64 * log.header.frame_size();
        assert_eq!(followed.offset(), from.position.offset + read);
        assert!(followed.transactions.len() >= least);
        assert_eq!(followed.offset() == end, most > 1);
    }
}

/// In a thread that others wait for.
#[test]
fn the_end_of_a_long_log_is_found_in_few_reads() {
    for (begin, end) in [
        (32, 32),
        (32, 40),
        (32, 96),
        (7, 7 + 8 * 1000),
        (32, 1 << 40),
    ] {
        let reads = std::cell::Cell::new(0);
        let found = last_of(begin, 8, |at| {
            reads.set(reads.get() + 1);
            at <= end
        });
        assert_eq!(found, end);
        assert!(reads.get() <= 80, "{} reads", reads.get());
        assert!(end > begin || reads.get() == 1);
    }
}
