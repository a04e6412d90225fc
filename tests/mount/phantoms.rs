//! Commits that a log shows and that no connection has seen, and wal-indexes that say less than the log. Real writers
//! die, or fail, at the exact point; what live connections saw is what every moment of the replica shows.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::support::daemon::{Daemon, Options, Served, guid};
use super::support::fault::{self, AFTER_COMMIT, AFTER_COMMIT_HEADER};
use super::support::moments::Moments;
use super::support::sqlite::{self, Session, companion};
use super::support::workload::{Workload, acknowledged, assert_has_all};

const PHANTOM: &str = "INSERT INTO t VALUES ('never seen')";
/// More frames than what comes after it.
const LONG_PHANTOM: &str = "UPDATE t SET a = 'never seen'; INSERT INTO t VALUES (zeroblob(30000))";

fn start(served: Served) -> Daemon {
    Daemon::start(Options {
        // Each transaction is a moment.
        sync_interval: "0s",
        ..Options::served(served)
    })
}

/// A database with two rows, and the connection that keeps its log and its wal-index open.
fn live_database(daemon: &Daemon) -> (String, PathBuf, Session) {
    let client = guid(1);
    let database = daemon.database(&client);
    let mut session = Session::open(&database);
    session.run("PRAGMA journal_mode = WAL; CREATE TABLE t (a); INSERT INTO t VALUES ('one');");
    daemon.sync(&client);
    session.run("PRAGMA wal_checkpoint(TRUNCATE); INSERT INTO t VALUES ('two');");
    (client, database, session)
}

/// The same, in a replica whose moments from now on are known.
fn watched(daemon: &Daemon) -> (String, PathBuf, Session, Moments<'_>) {
    let (client, database, mut session) = live_database(daemon);
    let mut moments = Moments::of(daemon, &client);
    moments.see(&mut session);
    (client, database, session, moments)
}

fn assert_replica_equals(daemon: &Daemon, client: &str, database: &Path, name: &str) {
    daemon.sync(client);
    let restored = daemon.restore(client, &[], name);
    sqlite::assert_same(database, &restored);
}

impl Daemon {
    /// The moments that were stored before a test began to look.
    fn moments_before(&self, client: &str, first: u64) -> Vec<u64> {
        let generations = self.generations(client);
        assert_eq!(generations.len(), 1, "{generations:?}");
        let moments = generations[0]["moments"].as_array().expect("a list");
        let txids = moments.iter().filter_map(|moment| moment["txid"].as_u64());
        txids.filter(|txid| *txid < first).collect()
    }

    fn set_status(&self, client: &str, status: &str) {
        let path = format!("/api/databases/{client}/{client}/status");
        let body = format!("{{\"status\":\"{status}\"}}");
        let (code, answer) = self.send("PUT", &path, &body);
        assert_eq!(code, 200, "{answer}");
    }

    fn doubtful_files(&self) -> usize {
        let spool = self.data().join(".litestream-multitenant/spool");
        let names = std::fs::read_dir(spool).expect("the spool");
        let names = names.map(|entry| entry.expect("an entry").file_name());
        names
            .filter(|name| name.to_string_lossy().starts_with("doubtful-"))
            .count()
    }
}

#[test]
fn sqlite_01_a_commit_is_a_whole_chain_and_no_mark() {
    for served in Served::ALL {
        let daemon = start(served);
        let (client, database, mut session, mut moments) = watched(&daemon);
        let first = moments.see(&mut session);
        // The header that has the mark is in the log, and its page is not.
        for text in ["three", "four"] {
            fault::dies(&database, AFTER_COMMIT_HEADER, PHANTOM);
            assert_eq!(moments.see(&mut session), daemon.sync(&client));
            session.run(&format!("INSERT INTO t VALUES ('{text}');"));
            moments.see(&mut session);
        }
        assert_eq!(daemon.sync(&client), first + 2);
        moments.assert_restored(&daemon.moments_before(&client, first));
    }
}

#[test]
fn sqlite_04_a_commit_whose_writer_died_before_it_was_published_is_not_stored() {
    for served in Served::PASSED {
        let daemon = start(served);
        let (client, database, mut session, mut moments) = watched(&daemon);
        let first = moments.see(&mut session);
        for (round, phantom) in [PHANTOM, LONG_PHANTOM, PHANTOM].into_iter().enumerate() {
            fault::dies(&database, AFTER_COMMIT, phantom);
            let txid = moments.see(&mut session);
            assert_eq!(txid, first + round as u64, "it was taken for a commit");
            // The next writer overwrites it.
            session.run(&format!("INSERT INTO t VALUES ({round});"));
            assert_eq!(moments.see(&mut session), txid + 1);
        }
        moments.assert_restored(&daemon.moments_before(&client, first));
        drop(session);
        assert_replica_equals(&daemon, &client, &database, "restored.db");
    }
}

#[test]
fn sqlite_04_a_commit_whose_sync_failed_is_not_stored() {
    for served in Served::PASSED {
        let daemon = start(served);
        let (client, database, mut session, mut moments) = watched(&daemon);
        let first = moments.see(&mut session);
        let mut failing = fault::session(&database, "fail sync -wal 1");
        failing.run("PRAGMA synchronous = FULL;");
        failing.run(&format!("{LONG_PHANTOM};"));
        assert_eq!(moments.see(&mut session), first);
        assert_eq!(moments.see(&mut failing), first, "it was rolled back");
        // Both go on.
        for (round, writer) in [&mut session, &mut failing].into_iter().enumerate() {
            writer.run(&format!("INSERT INTO t VALUES ({round});"));
            assert_eq!(moments.see(writer), first + 1 + round as u64);
        }
        moments.assert_restored(&daemon.moments_before(&client, first));
        drop(failing);
        drop(session);
        assert_replica_equals(&daemon, &client, &database, "restored.db");
    }
}

#[test]
fn sqlite_04_at_a_reset_an_unpublished_commit_is_kept_aside_and_not_stored() {
    let mut daemon = start(Served::LogsIntercepted);
    let (client, database, mut session, mut moments) = watched(&daemon);
    let first = moments.see(&mut session);
    fault::dies(&database, AFTER_COMMIT, PHANTOM);
    // All that was published is in the database then: the next writer begins the log anew.
    session.run("PRAGMA wal_checkpoint(PASSIVE);");
    session.run("INSERT INTO t VALUES (3);");
    assert_eq!(moments.see(&mut session), first + 1);
    moments.assert_restored(&daemon.moments_before(&client, first));
    daemon.log.wait_from(
        0,
        "A commit that no connection has seen was overwritten; its frames are kept",
        Instant::now() + Duration::from_secs(5),
    );
    drop(session);
    assert_replica_equals(&daemon, &client, &database, "restored.db");
    assert!(daemon.terminate().success());
    assert_eq!(daemon.doubtful_files(), 1);
}

/// What the last close destroys with its log was never committed, whatever was believed of it before.
#[test]
fn sqlite_04_at_the_last_close_an_unpublished_commit_is_not_part_of_the_database() {
    for served in Served::ALL {
        let daemon = start(served);
        let (client, database, session) = live_database(&daemon);
        let before = daemon.sync(&client);
        fault::dies(&database, AFTER_COMMIT, PHANTOM);
        let seen = daemon.sync(&client);
        assert_eq!(seen, before + u64::from(served == Served::ByDaemon));
        drop(session);
        assert!(!companion(&database, "-wal").exists());
        assert_replica_equals(&daemon, &client, &database, "restored.db");
        assert_eq!(daemon.generations(&client).len(), 1);
    }
}

/// Each kind of reset by a writer that dies just before, or just after, the operation that destroys the log: the
/// wal-index speaks of the next log by then, or is gone. Nothing was looked at before: the gate alone captures.
#[test]
fn sqlite_04a_the_header_lies_at_the_gates() {
    for served in Served::PASSED {
        const RESTART: &str = "INSERT INTO t VALUES ('begins the next log')";
        const TRUNCATE: &str = "PRAGMA wal_checkpoint(TRUNCATE)";
        let daemon = start(served);
        let (client, database, mut session, mut moments) = watched(&daemon);
        let first = moments.see(&mut session);
        let mut txid = first;
        for (event, how, lets_in) in [
            ("write-at-start", RESTART, ""),
            ("truncate", TRUNCATE, ""),
            ("write-at-start", RESTART, PHANTOM),
            ("truncate", TRUNCATE, PHANTOM),
        ] {
            for action in ["die", "die-after"] {
                daemon.set_status(&client, "paused");
                for text in ["committed", "too"] {
                    session.run(&format!("INSERT INTO t VALUES ('{text} {txid}');"));
                    txid += 1;
                    moments.note(txid, &mut session);
                }
                if !lets_in.is_empty() {
                    fault::dies(&database, AFTER_COMMIT, lets_in);
                }
                session.run("PRAGMA wal_checkpoint(PASSIVE);");
                fault::dies(&database, &format!("{action} {event} -wal 1"), how);
                moments.note(txid, &mut session);
                session.run(&format!("INSERT INTO t VALUES ('after {event}');"));
                txid += 1;
                moments.note(txid, &mut session);
                daemon.set_status(&client, "active");
                assert_eq!(moments.see(&mut session), txid, "{action} {event}");
            }
        }
        moments.assert_restored(&daemon.moments_before(&client, first));
        drop(session);
        assert_replica_equals(&daemon, &client, &database, "restored.db");
        let log = daemon.log.text();
        assert!(!log.contains("A gate was passed before"), "{log}");
    }
}

/// The last close takes the wal-index away first: whoever dies then leaves a log that no index speaks of.
#[test]
fn sqlite_04a_at_the_last_close_the_index_is_gone_before_its_log() {
    for served in Served::PASSED {
        let daemon = start(served);
        let (client, database, mut session, mut moments) = watched(&daemon);
        let first = moments.see(&mut session);
        drop(session);
        for action in ["die", "die-after"] {
            daemon.set_status(&client, "paused");
            let sql = format!("INSERT INTO t VALUES ('{action}')");
            fault::dies(&database, &format!("{action} unlink -wal 1"), &sql);
            assert!(!companion(&database, "-shm").exists());
            assert_eq!(companion(&database, "-wal").exists(), action == "die");
            daemon.set_status(&client, "active");
            let mut session = Session::open(&database);
            moments.see(&mut session);
        }
        assert_eq!(daemon.sync(&client), first + 2);
        moments.assert_restored(&daemon.moments_before(&client, first));
    }
}

/// What was believed because nothing but the chain could be seen is overwritten by something longer, so that the place
/// where it ended lies in the middle of another commit.
#[test]
fn sqlite_04b_what_was_stored_too_early_and_overwritten_is_retracted() {
    for next in [
        "INSERT INTO t VALUES (3);",
        "INSERT INTO t VALUES (zeroblob(50000));",
    ] {
        let daemon = start(Served::ByDaemon);
        daemon.may_miss_gates();
        let (client, database, mut session, mut moments) = watched(&daemon);
        let first = moments.see(&mut session);
        fault::dies(&database, AFTER_COMMIT, LONG_PHANTOM);
        assert_eq!(daemon.sync(&client), first + 1, "the chain decides");
        session.run(next);
        // In one step, or in two where a look came in between: back to what was there before, and on.
        let last = moments.see(&mut session);
        assert!((first + 2..=first + 3).contains(&last), "{next}: {last}");
        session.run("INSERT INTO t VALUES ('more');");
        moments.see(&mut session);
        let mut excused = daemon.moments_before(&client, first);
        excused.extend(first + 1..last);
        moments.assert_restored(&excused);
        drop(session);
        assert_replica_equals(&daemon, &client, &database, "restored.db");
    }
}

/// Whoever opens the database then recovers it: with a commit whose page came, without one whose page did not.
#[test]
fn sqlite_15_after_all_writers_died_the_chain_decides_as_recovery_does() {
    for served in Served::PASSED {
        for (fault, commits) in [(AFTER_COMMIT, 1), (AFTER_COMMIT_HEADER, 0)] {
            let daemon = start(served);
            let (client, database, session) = live_database(&daemon);
            let before = daemon.sync(&client);
            fault::dies(&database, fault, LONG_PHANTOM);
            assert_eq!(daemon.sync(&client), before);
            session.kill9();
            let then = daemon.sync(&client);
            assert_eq!(then, before + commits, "{fault}");
            // The torn tail stays in the file, and the next writer goes over it.
            let mut session = Session::open(&database);
            session.run("INSERT INTO t VALUES ('after');");
            assert_eq!(daemon.sync(&client), then + 1, "{fault}");
            drop(session);
            assert_replica_equals(&daemon, &client, &database, "restored.db");
            assert_eq!(daemon.generations(&client).len(), 1);
        }
    }
}

/// A writer that dies in the middle of an update leaves an index that cannot be read: what is committed then is not
/// known, and nothing is said of it.
#[test]
fn with_an_index_that_cannot_be_read_nothing_is_said_to_be_stored() {
    for served in Served::PASSED {
        let daemon = Daemon::start(Options::served(served));
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
}

/// The index that a crash leaves behind is valid, has the log's salts, and says less than the log.
#[test]
fn sqlite_14_an_index_that_a_crash_left_behind_says_nothing() {
    for served in Served::PASSED {
        let daemon = Daemon::start(Options::served(served));
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
        assert_eq!(daemon.generations(&client).len(), 1);
    }
}

/// Whoever has the database for itself dies with a commit in the log, beside an index that an earlier crash left.
#[test]
fn sqlite_14_what_an_exclusive_writer_leaves_counts_beside_a_stale_index() {
    for served in Served::PASSED {
        const EXCLUSIVE: &str = "PRAGMA locking_mode = EXCLUSIVE; INSERT INTO t VALUES ('alone')";
        for (fault, commits) in [(AFTER_COMMIT, 1), (AFTER_COMMIT_HEADER, 0)] {
            let daemon = start(served);
            let (client, database, session) = live_database(&daemon);
            let before = daemon.sync(&client);
            session.kill9();
            assert!(companion(&database, "-shm").exists(), "the stale index");
            fault::dies(&database, fault, EXCLUSIVE);
            assert_eq!(daemon.sync(&client), before + commits, "{fault}");
            assert_replica_equals(&daemon, &client, &database, "restored.db");
            assert_eq!(daemon.generations(&client).len(), 1);
        }
    }
}

#[test]
fn sqlite_14_commits_in_exclusive_mode_are_captured_while_it_lasts() {
    for served in Served::PASSED {
        let daemon = Daemon::start(Options::served(served));
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
}
