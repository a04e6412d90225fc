//! What SQLite does to its log: it spills, takes back, begins anew, cuts, pads, and leaves it; each commit is a moment.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use litestream_multitenant::format::wal::WalHeader;

use super::support::daemon::{Daemon, Options, Served, guid};
use super::support::moments::Moments;
use super::support::process::succeeded;
use super::support::sqlite::{self, Session, companion};
use super::support::wal::rewritten;

/// A daemon to which each transaction is a moment, and the database of its one client.
fn scene(served: Served) -> (Daemon, String, PathBuf) {
    let daemon = Daemon::start(Options {
        sync_interval: "0s",
        ..Options::served(served)
    });
    let client = guid(1);
    let database = daemon.database(&client);
    (daemon, client, database)
}

/// A connection in WAL mode to a new database; all that it did is stored.
fn begun(daemon: &Daemon, client: &str, pragmas: &str) -> (Session, u64) {
    let mut session = Session::open(&daemon.database(client));
    session.run(&format!("{pragmas} PRAGMA journal_mode = WAL;"));
    session.run("CREATE TABLE t (a); INSERT INTO t VALUES ('first');");
    let txid = daemon.sync(client);
    (session, txid)
}

fn assert_replica_equals(daemon: &Daemon, client: &str, database: &Path, name: &str) {
    daemon.sync(client);
    let restored = daemon.restore(client, &[], name);
    sqlite::assert_same(database, &restored);
}

fn length(file: &Path) -> u64 {
    fs::metadata(file).expect("a file").len()
}

const SPILLING: &str = "PRAGMA cache_size = 5; PRAGMA wal_autocheckpoint = 0;";
const MANY_ROWS: &str = "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 300) \
    INSERT INTO t SELECT randomblob(400) FROM n;";

/// Frames of an open transaction are in the log, and are written again and again, before it ends.
#[test]
fn sqlite_02_a_transaction_that_spilled_is_captured_when_it_ends() {
    for served in Served::ALL {
        let (daemon, client, database) = scene(served);
        let (mut session, first) = begun(&daemon, &client, SPILLING);
        let log = || fs::read(companion(&database, "-wal")).expect("a log");
        for round in 1..=3 {
            let mut frames = log();
            session.run(&format!("BEGIN; {MANY_ROWS}"));
            for _ in 0..3 {
                session.run("UPDATE t SET a = randomblob(400);");
                let now = log();
                assert!(now != frames, "nothing is spilled");
                frames = now;
                assert_eq!(daemon.sync(&client), first + round - 1);
            }
            session.run("COMMIT;");
            assert_eq!(daemon.sync(&client), first + round);
        }
        assert_replica_equals(&daemon, &client, &database, "restored.db");
    }
}

/// What was taken back stays in the log, valid and without an end, until the next transaction goes over it.
#[test]
fn sqlite_03_what_was_rolled_back_is_never_stored() {
    for served in Served::ALL {
        let (daemon, client, _) = scene(served);
        let (mut session, first) = begun(&daemon, &client, SPILLING);
        let mut moments = Moments::of(&daemon, &client);
        let before: Vec<u64> = (1..first).collect();
        moments.see(&mut session);
        for round in 0..3 {
            session.run(&format!("BEGIN; {MANY_ROWS}"));
            assert_eq!(daemon.sync(&client), first + 2 * round);
            session.run("ROLLBACK;");
            assert_eq!(moments.see(&mut session), first + 2 * round);
            session.run(&format!("INSERT INTO t VALUES ('short {round}');"));
            moments.see(&mut session);
            session.run(&format!("BEGIN; INSERT INTO t VALUES ({round});"));
            session.run(&format!(
                "SAVEPOINT s; {MANY_ROWS} ROLLBACK TO s; RELEASE s; COMMIT;"
            ));
            assert_eq!(moments.see(&mut session), first + 2 * round + 2);
        }
        moments.assert_restored(&before);
    }
}

/// The log is begun anew every few commits, and its old frames stay behind the new ones.
#[test]
fn sqlite_05_each_commit_is_captured_once_however_often_the_log_begins_anew() {
    for served in Served::ALL {
        let (daemon, client, database) = scene(served);
        let (mut session, first) = begun(&daemon, &client, "PRAGMA synchronous = OFF;");
        session.run("PRAGMA wal_autocheckpoint = 3;");
        for row in 1..=100 {
            session.run(&format!("INSERT INTO t VALUES ({row});"));
        }
        session.run("PRAGMA wal_checkpoint(RESTART); INSERT INTO t VALUES ('after a restart');");
        assert_eq!(daemon.sync(&client), first + 101, "{}", daemon.log.text());
        // Without another look in between, every one is a moment.
        for row in [17, 50, 99] {
            let txid = (first + row).to_string();
            let restored = daemon.restore(&client, &["--txid", &txid], &format!("{row}.db"));
            let last = sqlite::query(&restored, "SELECT max(rowid) - 1 FROM t");
            assert_eq!(last, row.to_string());
        }
        assert_replica_equals(&daemon, &client, &database, "restored.db");
        assert_eq!(daemon.generations(&client).len(), 1);
        let metrics = daemon.metrics();
        assert!(
            metrics.contains("litestream_gates_missed_total 0"),
            "{metrics}"
        );
    }
}

/// Nobody looks while a client is paused: what destroys its log has to wait for the capture of what is in it.
#[test]
fn sqlite_05_whatever_else_destroys_a_log_is_a_gate() {
    for words in [
        &["rm", "LOG"][..],
        &["mv", "LOG", "ASIDE"],
        &["mv", "OTHER", "LOG"],
        &["truncate", "-s", "0", "LOG"],
        &["cp", "OTHER", "LOG"],
        &["fallocate", "-p", "-o", "32", "-l", "8192", "LOG"],
        &["fallocate", "-z", "-o", "0", "-l", "4096", "LOG"],
    ] {
        let (daemon, client, database) = scene(Served::LogsPassed);
        // Where all writers are dead, the end of the log can't be told from what nobody has seen.
        daemon.may_miss_gates();
        let (mut session, first) = begun(&daemon, &client, "");
        let status = format!("/api/databases/{client}/{client}/status");
        let paused = daemon.send("PUT", &status, "{\"status\":\"paused\"}");
        assert_eq!(paused.0, 200, "{paused:?}");
        for row in 1..=3 {
            session.run(&format!("INSERT INTO t VALUES ({row});"));
        }
        session.kill9();
        let (log, aside) = (companion(&database, "-wal"), daemon.data().join("aside"));
        let other = daemon.data().join("other");
        fs::write(&other, "no log").expect("a file");
        succeeded(
            Command::new(words[0]).args(words[1..].iter().map(|word| match *word {
                "LOG" => log.as_os_str(),
                "ASIDE" => aside.as_os_str(),
                "OTHER" => other.as_os_str(),
                word => word.as_ref(),
            })),
        );
        let active = daemon.send("PUT", &status, "{\"status\":\"active\"}");
        assert_eq!(active.0, 200, "{active:?}");
        daemon.sync(&client);
        for row in 1..=3 {
            let txid = (first + row).to_string();
            let restored = daemon.restore(&client, &["--txid", &txid], &format!("{row}.db"));
            let last = sqlite::query(&restored, "SELECT a FROM t ORDER BY rowid DESC LIMIT 1");
            assert_eq!(last, row.to_string(), "{words:?}");
        }
    }
}

/// `journal_size_limit` cuts the log in the first commit after a reset, behind the new frames.
#[test]
fn sqlite_06_a_log_that_is_cut_behind_its_commits_goes_on() {
    for served in Served::ALL {
        let (mut daemon, client, database) = scene(served);
        let mut session = Session::open(&database);
        session.run("PRAGMA journal_mode = WAL; PRAGMA journal_size_limit = 20000;");
        session.run("CREATE TABLE t (a); INSERT INTO t VALUES (zeroblob(200000));");
        let mut txid = daemon.sync(&client);
        for round in 0..3 {
            session.run("UPDATE t SET a = randomblob(200000);");
            session.run("PRAGMA wal_checkpoint(PASSIVE);");
            let log = companion(&database, "-wal");
            let long = length(&log);
            session.run("INSERT INTO t VALUES ('small');");
            let cut = length(&log);
            assert!(long > 200_000 && cut <= 20_000, "{long} bytes, then {cut}");
            let now = daemon.sync(&client);
            assert_eq!(now, txid + 2, "round {round}");
            txid = now;
        }
        assert_replica_equals(&daemon, &client, &database, "restored.db");
        assert_eq!(daemon.generations(&client).len(), 1);
        drop(session);
        assert!(daemon.terminate().success());
        let log = daemon.log.text();
        assert!(
            !log.contains("A commit that no connection has seen"),
            "{log}"
        );
    }
}

#[test]
fn sqlite_06_every_kind_of_checkpoint_at_every_level_of_synchronous_loses_nothing() {
    for served in Served::ALL {
        let (daemon, client, database) = scene(served);
        let (mut session, mut txid) = begun(&daemon, &client, "PRAGMA wal_autocheckpoint = 0;");
        for level in ["OFF", "NORMAL", "FULL", "EXTRA"] {
            session.run(&format!("PRAGMA synchronous = {level};"));
            for kind in ["PASSIVE", "FULL", "RESTART", "TRUNCATE"] {
                for _ in 0..2 {
                    session.run("INSERT INTO t VALUES (randomblob(3000));");
                }
                session.run(&format!("PRAGMA wal_checkpoint({kind});"));
                session.run("DELETE FROM t WHERE rowid % 3 = 1;");
                txid += 3;
                assert_eq!(daemon.sync(&client), txid, "{level} {kind}");
            }
        }
        assert_replica_equals(&daemon, &client, &database, "restored.db");
        assert_eq!(daemon.generations(&client).len(), 1);
    }
}

/// As applications do that open the database for each request: the log is removed each time, and the next one has other
/// salts.
#[test]
fn sqlite_07_a_log_that_goes_with_each_close_is_captured_before() {
    for served in Served::ALL {
        let (daemon, client, database) = scene(served);
        let (session, first) = begun(&daemon, &client, "");
        drop(session);
        for row in 1..=40 {
            sqlite::query(&database, &format!("INSERT INTO t VALUES ({row})"));
            assert!(!companion(&database, "-wal").exists());
        }
        assert_eq!(daemon.sync(&client), first + 40);
        for row in [1, 20, 39] {
            let txid = (first + row).to_string();
            let restored = daemon.restore(&client, &["--txid", &txid], &format!("{row}.db"));
            let last = sqlite::query(&restored, "SELECT a FROM t ORDER BY rowid DESC LIMIT 1");
            assert_eq!(last, row.to_string());
        }
        assert_replica_equals(&daemon, &client, &database, "restored.db");
        assert_eq!(daemon.generations(&client).len(), 1);
    }
}

/// VACUUM and auto_vacuum make the database shorter, and later it grows over the same pages.
/// Logs and wal-indexes are read through the handles of applications: the daemon has a file open for as long as they have.
#[test]
fn of_a_database_that_is_closed_no_descriptor_is_left() {
    for served in Served::ALL {
        let (daemon, client, database) = scene(served);
        let listed = PathBuf::from(format!("/proc/{}/fd", daemon.pid()));
        let is_of_it = |fd: &Path| {
            let target = fs::read_link(fd);
            target.is_ok_and(|target| target.to_string_lossy().contains(&client))
        };
        let wait_until_open = |expected: usize| {
            daemon.wait_for(Duration::from_secs(20), "other descriptors", || {
                let open = fs::read_dir(&listed).expect("it runs");
                open.filter(|fd| is_of_it(&fd.as_ref().expect("an entry").path()))
                    .count()
                    == expected
            });
        };
        let (mut session, first) = begun(&daemon, &client, "");
        let mut other = Session::open(&database);
        for (row, session) in [(1, &mut session), (2, &mut other)] {
            session.run(&format!("INSERT INTO t VALUES ({row});"));
            assert_eq!(daemon.sync(&client), first + row);
        }
        wait_until_open(6);
        // The one that was opened last is closed first.
        drop(other);
        wait_until_open(3);
        session.run("INSERT INTO t VALUES (3);");
        assert_eq!(daemon.sync(&client), first + 3);
        drop(session);
        wait_until_open(0);
        assert_replica_equals(&daemon, &client, &database, "restored.db");
    }
}

#[test]
fn sqlite_08_a_commit_that_shortens_the_database_restores_to_its_size() {
    for auto_vacuum in ["NONE", "FULL", "INCREMENTAL"] {
        let (daemon, client, _) = scene(Served::LogsPassed);
        let pragmas = format!("PRAGMA auto_vacuum = {auto_vacuum};");
        let (mut session, first) = begun(&daemon, &client, &pragmas);
        let before: Vec<u64> = (1..first).collect();
        let mut moments = Moments::of(&daemon, &client);
        moments.see(&mut session);
        for statement in [
            MANY_ROWS,
            "DELETE FROM t WHERE rowid % 4 > 0;",
            "PRAGMA incremental_vacuum(7);",
            "VACUUM;",
            MANY_ROWS,
        ] {
            session.run(statement);
            let txid = moments.see(&mut session).to_string();
            let pages: u64 = session.run("PRAGMA page_count;").parse().expect("pages");
            let restored = daemon.restore(&client, &["--txid", &txid, "--force"], "sized.db");
            assert_eq!(length(&restored), pages * 4096, "{auto_vacuum} {statement}");
        }
        moments.assert_restored(&before);
    }
}

/// The page size can change only outside WAL mode, by VACUUM. No segment spans it.
#[test]
fn sqlite_09_another_page_size_begins_a_generation() {
    let (daemon, client, database) = scene(Served::LogsPassed);
    let mut session = Session::open(&database);
    session.run("PRAGMA page_size = 4096; PRAGMA journal_mode = WAL;");
    session.run("CREATE TABLE t (a); INSERT INTO t VALUES ('before');");
    let before = daemon.sync(&client);
    session.run("PRAGMA journal_mode = DELETE; PRAGMA page_size = 1024; VACUUM;");
    session.run("PRAGMA journal_mode = WAL; INSERT INTO t VALUES ('after');");
    assert_eq!(session.run("PRAGMA page_size;"), "1024");
    assert_replica_equals(&daemon, &client, &database, "after.db");
    assert_eq!(daemon.generations(&client).len(), 2);
    let first = daemon.generations(&client)[0]["id"].clone();
    let flags = ["-generation", first.as_str().expect("text")];
    let restored = daemon.restore(&client, &flags, "before.db");
    assert_eq!(
        sqlite::query(&restored, "SELECT a FROM t WHERE a = 'before'"),
        "before"
    );
    assert!(daemon.sync(&client) > before);
    daemon.command(&["verify"], |_| {});
}

/// SQLite goes on in the byte order that it finds a log in: one that a machine of the other order began.
#[test]
fn sqlite_10_a_log_in_the_other_byte_order_is_gone_on_with() {
    let mut daemon = Daemon::prepare(Options {
        sync_interval: "0s",
        ..Options::default()
    });
    let client = guid(1);
    let (database, log) = (daemon.database(&client), daemon.database(&client));
    let log = companion(&log, "-wal");
    sqlite::query(&database, "PRAGMA journal_mode = WAL; CREATE TABLE t (a)");
    sqlite::with_unflushed_log(&database, "INSERT INTO t VALUES ('from elsewhere')");
    let other = cfg!(target_endian = "little");
    let turned = rewritten(&fs::read(&log).expect("a log"), other, |_| {});
    fs::write(&log, turned).expect("written");
    fs::remove_file(companion(&database, "-shm")).expect("its index");
    daemon.restart();
    let first = daemon.sync(&client);

    let mut session = Session::open(&database);
    let mut moments = Moments::of(&daemon, &client);
    session.run("PRAGMA wal_autocheckpoint = 0;");
    moments.see(&mut session);
    for row in 1..=3 {
        session.run(&format!("INSERT INTO t VALUES ({row});"));
        assert_eq!(moments.see(&mut session), first + row);
    }
    let header = WalHeader::decode(&fs::read(&log).expect("a log")).expect("valid");
    assert_eq!(header.big_endian, other, "SQLite wrote this log");
    // The next log is in the order of this machine.
    session.run("PRAGMA wal_checkpoint(RESTART); INSERT INTO t VALUES ('then');");
    assert_eq!(moments.see(&mut session), first + 4);
    let header = WalHeader::decode(&fs::read(&log).expect("a log")).expect("valid");
    assert_eq!(header.big_endian, !other);
    moments.assert_restored(&[]);
}

/// Without powersafe overwrite the commit frame is repeated up to the end of the sector.
#[test]
fn sqlite_12_padding_to_the_sectors_end_is_no_transaction() {
    let (daemon, client, database) = scene(Served::LogsPassed);
    let uri = format!("file:{}?psow=0", database.display());
    let mut session = Session::open(Path::new(&uri));
    session.run("PRAGMA page_size = 512; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;");
    session.run("CREATE TABLE t (a); INSERT INTO t VALUES (0);");
    let before = daemon.sync(&client);
    let log = companion(&database, "-wal");
    let short = length(&log);
    for row in 1..=5 {
        session.run(&format!("INSERT INTO t VALUES ({row});"));
    }
    assert!(length(&log) > short + 5 * 2 * 536, "nothing is padded");
    assert_eq!(daemon.sync(&client), before + 5);
    assert_replica_equals(&daemon, &client, &database, "restored.db");
}

/// A connection of SQLCipher, which has its key.
fn sqlcipher(database: &Path) -> Session {
    let mut session = Session::of(Command::new("sqlcipher").arg("-batch").arg(database));
    session.run("PRAGMA key = 'a key that the instance does not have';");
    session
}

/// No page is plain, not even the first: page size and size come from the log, and checksums are of what is there.
#[test]
fn sqlite_13_an_encrypted_database_is_replicated_without_its_key() {
    for served in Served::ALL {
        let (mut daemon, client, database) = scene(served);
        let mut session = sqlcipher(&database);
        session.run("PRAGMA journal_mode = WAL; CREATE TABLE t (a);");
        session.run("INSERT INTO t VALUES ('kept from everybody');");
        let first = daemon.sync(&client);
        for row in 1..=30 {
            session.run(&format!("INSERT INTO t VALUES ({row});"));
        }
        session.run("PRAGMA wal_checkpoint(TRUNCATE); INSERT INTO t VALUES ('then');");
        assert_eq!(daemon.sync(&client), first + 31);
        let shown = session.run("SELECT * FROM t;");
        let bytes = fs::read(&database).expect("readable");
        assert!(!bytes.starts_with(b"SQLite format 3"), "it is encrypted");
        for (txid, count) in [(first + 10, "11"), (first + 31, "32")] {
            let name = format!("{txid}.db");
            let restored = daemon.restore(&client, &["--txid", &txid.to_string()], &name);
            let mut restored = sqlcipher(&restored);
            assert_eq!(restored.run("SELECT count(*) FROM t;"), count);
            assert_eq!(restored.run("PRAGMA integrity_check;"), "ok");
            if count == "32" {
                assert_eq!(restored.run("SELECT * FROM t;"), shown);
            }
        }
        drop(session);
        // Closed, and without a log that would say what it is: to this run and to the next, with what is written
        // meanwhile, and in the other journal mode.
        let mut rows = 32;
        for between in ["", "PRAGMA journal_mode = DELETE;"] {
            for nothing_runs in [false, true] {
                daemon.sync(&client);
                assert!(daemon.terminate().success());
                if nothing_runs {
                    sqlcipher(&database).run(&format!("{between} INSERT INTO t VALUES ('alone');"));
                }
                daemon.restart();
                if !nothing_runs {
                    sqlcipher(&database).run(&format!("{between} INSERT INTO t VALUES ('again');"));
                }
                daemon.sync(&client);
                rows += 1;
                let restored = daemon.restore(&client, &[], &format!("rows-{rows}.db"));
                let count = sqlcipher(&restored).run("SELECT count(*) FROM t;");
                assert_eq!(count, rows.to_string());
                assert_eq!(daemon.health(&client)["status"], "active");
            }
        }
        assert_eq!(daemon.generations(&client).len(), 1);
        daemon.command(&["verify"], |_| {});
        assert!(daemon.terminate().success());
    }
}
