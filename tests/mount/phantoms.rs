//! Commits that a log shows and that no connection has seen, and wal-indexes that say less than the log.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use litestream_multitenant::format::wal::{FRAME_HEADER_SIZE, FrameHeader, WalHeader, checksum};

use super::support::daemon::{Daemon, Options, guid};
use super::support::sqlite::{self, Session, companion};
use super::support::workload::{Workload, acknowledged, assert_has_all};

fn wal_of(database: &Path) -> PathBuf {
    companion(database, "-wal")
}

/// Appends a valid commit frame to the log, as a writer leaves it that dies before it updates the wal-index: page 2
/// once more, with another content.
fn forge_commit(database: &Path) -> u64 {
    let wal = OpenOptions::new()
        .read(true)
        .write(true)
        .open(wal_of(database))
        .expect("the log");
    let mut head = [0; 32];
    wal.read_exact_at(&mut head, 0).expect("its header");
    let header = WalHeader::decode(&head).expect("a valid header");
    let (end, commit, seed) = last_commit(&wal, &header);
    let mut page = vec![0; header.page_size as usize];
    wal.read_exact_at(&mut page, end - u64::from(header.page_size))
        .expect("a page");
    // The end of the first row's text, so that whoever takes it for a commit shows other data.
    *page.last_mut().expect("a page is not empty") ^= 1;
    let mut frame = Vec::new();
    let pgno = last_page_number(&wal, &header, end);
    frame.extend_from_slice(&pgno.to_be_bytes());
    frame.extend_from_slice(&commit.to_be_bytes());
    let sum = checksum(header.big_endian, seed, &frame);
    let sum = checksum(header.big_endian, sum, &page);
    for word in [header.salt.0, header.salt.1, sum.0, sum.1] {
        frame.extend_from_slice(&word.to_be_bytes());
    }
    frame.extend_from_slice(&page);
    wal.write_all_at(&frame, end).expect("append");
    end
}

/// Behind the last frame of the log's present life: offset, size in pages, checksum.
fn last_commit(wal: &File, header: &WalHeader) -> (u64, u32, (u32, u32)) {
    let mut found = None;
    let mut at = 32;
    let mut bytes = [0; FRAME_HEADER_SIZE as usize];
    while wal.read_exact_at(&mut bytes, at).is_ok() {
        let frame = FrameHeader::decode(&bytes);
        if frame.salt != header.salt {
            break;
        }
        at += header.frame_size();
        found = Some((at, frame.commit, frame.checksum));
    }
    found.expect("the log has a commit")
}

fn last_page_number(wal: &File, header: &WalHeader, end: u64) -> u32 {
    let mut bytes = [0; FRAME_HEADER_SIZE as usize];
    wal.read_exact_at(&mut bytes, end - header.frame_size())
        .expect("a frame");
    FrameHeader::decode(&bytes).pgno
}

/// A database with two rows, and the connection that keeps its log and its wal-index open.
fn live_database(daemon: &Daemon) -> (String, PathBuf, Session) {
    let client = guid(1);
    let database = daemon.database(&client);
    let mut session = Session::open(&database);
    session.run("PRAGMA journal_mode = WAL; CREATE TABLE t (a); INSERT INTO t VALUES ('one');");
    session.run("INSERT INTO t VALUES ('two');");
    daemon.sync(&client);
    (client, database, session)
}

fn assert_replica_equals(daemon: &Daemon, client: &str, database: &Path, name: &str) {
    daemon.sync(client);
    let restored = daemon.restore(client, &[], name);
    sqlite::assert_same(database, &restored);
}

fn generations(daemon: &Daemon, client: &str) -> usize {
    let listed = daemon.command(&["list", client, "-json"], |_| {});
    let listed: serde_json::Value = serde_json::from_str(&listed).expect("JSON");
    listed["generations"].as_array().map_or(0, Vec::len)
}

#[test]
fn a_commit_that_was_never_published_is_not_stored() {
    let daemon = Daemon::start(Options::served(true));
    let (client, database, mut session) = live_database(&daemon);
    let before = daemon.sync(&client);
    forge_commit(&database);
    assert_eq!(daemon.sync(&client), before, "it was taken for a commit");
    // The next writer overwrites it.
    session.run("INSERT INTO t VALUES (3);");
    assert_eq!(daemon.sync(&client), before + 1);
    assert_replica_equals(&daemon, &client, &database, "restored.db");
    assert_eq!(generations(&daemon, &client), 1);
}

#[test]
fn at_a_reset_an_unpublished_commit_is_kept_aside_and_not_stored() {
    let mut daemon = Daemon::start(Options::served(true));
    let (client, database, mut session) = live_database(&daemon);
    let before = daemon.sync(&client);
    session.run("PRAGMA wal_checkpoint(PASSIVE);");
    forge_commit(&database);
    // All of the log is in the database by now: the next writer begins it anew, and the frame is overwritten.
    session.run("INSERT INTO t VALUES (3);");
    assert_eq!(daemon.sync(&client), before + 1);
    assert_replica_equals(&daemon, &client, &database, "restored.db");
    assert_eq!(generations(&daemon, &client), 1);
    daemon.log.wait_from(
        0,
        "A commit that no connection has seen was overwritten; its frames are kept",
        Instant::now() + Duration::from_secs(5),
    );
    drop(session);
    assert!(daemon.terminate().success());
    let spool = daemon.data().join(".litestream-multitenant/spool");
    let kept = std::fs::read_dir(spool)
        .expect("the spool")
        .filter(|entry| {
            let name = entry.as_ref().expect("an entry").file_name();
            name.to_string_lossy().starts_with("doubtful-")
        })
        .count();
    assert_eq!(kept, 1);
}

/// What the last close destroys with its log was never committed, whatever was believed of it before.
#[test]
fn at_the_last_close_an_unpublished_commit_is_not_part_of_the_database() {
    for passthrough in [true, false] {
        let daemon = Daemon::start(Options::served(passthrough));
        let (client, database, session) = live_database(&daemon);
        let before = daemon.sync(&client);
        forge_commit(&database);
        let seen = daemon.sync(&client);
        assert_eq!(seen, before + u64::from(!passthrough));
        drop(session);
        assert!(!wal_of(&database).exists());
        assert_replica_equals(&daemon, &client, &database, "restored.db");
        assert_eq!(generations(&daemon, &client), 1);
    }
}

#[test]
fn without_sight_of_the_index_what_was_stored_too_early_is_retracted() {
    let daemon = Daemon::start(Options::served(false));
    let (client, database, mut session) = live_database(&daemon);
    let before = daemon.sync(&client);
    forge_commit(&database);
    assert_eq!(daemon.sync(&client), before + 1, "the chain decides");
    session.run("INSERT INTO t VALUES (3);");
    assert_replica_equals(&daemon, &client, &database, "restored.db");
    assert_eq!(generations(&daemon, &client), 1);
}

#[test]
fn after_all_writers_died_the_chain_decides_as_recovery_does() {
    let daemon = Daemon::start(Options::served(true));
    let (client, database, session) = live_database(&daemon);
    let before = daemon.sync(&client);
    session.kill9();
    forge_commit(&database);
    assert_eq!(daemon.sync(&client), before + 1);
    // Whoever opens the database now recovers it, and sees that commit.
    assert_replica_equals(&daemon, &client, &database, "restored.db");
    assert_eq!(generations(&daemon, &client), 1);
}

/// A writer that dies in the middle of an update leaves an index that cannot be read: what is committed then is not
/// known, and nothing is said of it.
#[test]
fn with_an_index_that_cannot_be_read_nothing_is_said_to_be_stored() {
    let daemon = Daemon::start(Options::served(true));
    let (client, database, _session) = live_database(&daemon);
    let index = companion(&database, "-shm");
    let index = OpenOptions::new().read(true).write(true).open(index);
    let index = index.expect("the wal-index");
    let mut first_salt = [0; 4];
    index.read_exact_at(&mut first_salt, 32).expect("read");
    index.write_all_at(&[0xff; 4], 32).expect("written");
    let sync = format!("/api/databases/{client}/{client}/sync?timeout=300ms");
    let (status, answer) = daemon.post(&sync);
    assert_eq!(status, 504, "{answer}");
    index.write_all_at(&first_salt, 32).expect("written");
    assert_replica_equals(&daemon, &client, &database, "restored.db");
}

/// The index that a crash leaves behind is valid, has the log's salts, and says less than the log.
#[test]
fn an_index_that_a_crash_left_behind_says_nothing() {
    let daemon = Daemon::start(Options::served(true));
    let (client, database, session) = live_database(&daemon);
    session.kill9();
    let acks = daemon.path("acks");
    Workload::start(
        &database,
        &acks,
        "--transactions 200 --locking-mode exclusive --autocheckpoint 20",
    )
    .finish();
    daemon.sync(&client);
    let restored = daemon.restore(&client, &[], "restored.db");
    assert_has_all(&restored, &acknowledged(&acks));
    sqlite::assert_same(&database, &restored);
    assert_eq!(generations(&daemon, &client), 1);
}

#[test]
fn commits_in_exclusive_mode_are_captured_while_it_lasts() {
    let daemon = Daemon::start(Options::served(true));
    let client = guid(1);
    let database = daemon.database(&client);
    let mut session = Session::open(&database);
    session.run("PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL;");
    session.run("CREATE TABLE t (a); PRAGMA wal_autocheckpoint = 5;");
    for row in 0..50 {
        session.run(&format!("INSERT INTO t VALUES ({row});"));
    }
    daemon.sync(&client);
    let restored = daemon.restore(&client, &[], "restored.db");
    assert_eq!(sqlite::query(&restored, "SELECT count(*) FROM t"), "50");
    session.run("INSERT INTO t VALUES (50);");
    drop(session);
    assert_replica_equals(&daemon, &client, &database, "again.db");
}
