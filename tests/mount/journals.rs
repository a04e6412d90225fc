//! Databases that are not in WAL mode: each state that is stored is one that was committed, whoever dies or rolls back.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use super::support::daemon::{Daemon, Options, Served, guid};
use super::support::fault;
use super::support::process::wait_until;
use super::support::sqlite::{self, Session, companion};

/// Changes a database in one journal mode; after each change the replica equals it.
fn replica_follows(mode: &str) {
    let mut daemon = Daemon::start(Options::default());
    let client = guid(1);
    let database = daemon.database(&client);
    let changes = [
        "CREATE TABLE t(x); INSERT INTO t VALUES (zeroblob(100000))",
        "INSERT INTO t VALUES ('more')",
        "DELETE FROM t WHERE x = 'more'; UPDATE t SET x = 'short'",
        "VACUUM",
    ];
    for (number, change) in changes.iter().enumerate() {
        sqlite::query(&database, &format!("PRAGMA journal_mode={mode}; {change}"));
        daemon.assert_equal(&client, &format!("{number}.db"));
    }
    assert_eq!(daemon.generations(&client).len(), 1, "one history");
    // Into WAL mode and back.
    for (mode, number) in [("wal", 10), (mode, 11)] {
        sqlite::query(
            &database,
            &format!("PRAGMA journal_mode={mode}; INSERT INTO t VALUES ('{number}')"),
        );
        daemon.assert_equal(&client, &format!("{number}.db"));
    }
    assert_eq!(daemon.health(&client)["status"], "active");
    assert_eq!(daemon.generations(&client).len(), 1, "one history");
    daemon.command(&["verify"], |_| {});
    assert!(daemon.terminate().success());
}

impl Daemon {
    fn assert_equal(&self, client: &str, name: &str) {
        self.sync(client);
        let restored = self.restore(client, &["--force"], name);
        sqlite::assert_same(&self.database(client), &restored);
    }

    /// What is there is not stored within a short time, and nothing is said of it.
    fn assert_not_stored(&self, client: &str) {
        let sync = format!("/api/databases/{client}/{client}/sync?timeout=300ms");
        let (status, answer) = self.post(&sync);
        assert_eq!(status, 504, "{answer}");
    }

    /// The numbers of a client's stored moments.
    pub(super) fn moments(&self, client: &str) -> Vec<u64> {
        let generations = self.generations(client);
        let moments = generations
            .iter()
            .flat_map(|generation| generation["moments"].as_array().expect("a list"));
        moments
            .filter_map(|moment| moment["txid"].as_u64())
            .collect()
    }

    /// In each moment all rows of `t` have the same number, which never goes back.
    fn assert_each_moment_is_whole(&self, client: &str) {
        let mut newest = 0;
        for txid in self.moments(client) {
            let flags = ["--force", "--txid", &txid.to_string()];
            let restored = self.restore(client, &flags, "moment.db");
            assert_eq!(sqlite::query(&restored, "PRAGMA integrity_check"), "ok");
            if sqlite::query(&restored, "SELECT count(*) FROM sqlite_schema") == "0" {
                continue;
            }
            let numbers = sqlite::query(&restored, "SELECT DISTINCT v FROM t");
            let number: u64 = numbers.parse().unwrap_or_else(|_| {
                panic!("transaction {txid} is half of one:\n{numbers}");
            });
            assert!(number >= newest, "{txid}");
            newest = number;
        }
    }
}

#[test]
fn sqlite_20_a_journal_that_is_deleted() {
    replica_follows("delete");
}

#[test]
fn sqlite_20_a_journal_that_is_truncated() {
    replica_follows("truncate");
}

#[test]
fn sqlite_20_a_journal_that_persists() {
    replica_follows("persist");
}

#[test]
fn sqlite_23_a_journal_in_memory() {
    replica_follows("memory");
}

#[test]
fn sqlite_23_no_journal() {
    replica_follows("off");
}

/// Without a journal nothing is heard of what a handle writes that the kernel passes through.
#[test]
fn sqlite_23_a_connection_without_a_journal_is_followed_while_it_stays_open() {
    let daemon = Daemon::start(Options::default());
    let client = guid(1);
    let database = daemon.database(&client);
    let mut session = Session::open(&database);
    session.run("PRAGMA journal_mode = MEMORY; CREATE TABLE t(x);");
    for row in 1..=3 {
        let before = daemon.health(&client)["replicatedTxid"].as_u64();
        session.run(&format!("INSERT INTO t VALUES ({row});"));
        daemon.wait_health(&client, |health| health["replicatedTxid"].as_u64() > before);
        let restored = daemon.restore(&client, &[], &format!("{row}.db"));
        sqlite::assert_same(&database, &restored);
    }
}

/// A writer that pauses in the middle of its pages, for longer than a file has to be left alone, holds a lock on it.
#[test]
fn sqlite_23_a_transaction_without_a_journal_is_not_stored_before_it_ends() {
    for (mode, served) in [("MEMORY", Served::LogsPassed), ("OFF", Served::ByDaemon)] {
        let daemon = Daemon::start(Options::served(served));
        let client = guid(1);
        let database = scene(&daemon, &client, "DELETE");
        assert_eq!(daemon.health(&client)["lastError"], serde_json::Value::Null);
        let before = daemon.moments(&client);
        let bytes = || std::fs::read(&database).expect("readable");
        let whole = bytes();
        let mut session = Session::open(&database);
        session.run(&format!(
            "PRAGMA journal_mode = {mode}; PRAGMA cache_size = 5;"
        ));
        session.run(&format!("BEGIN; {ADD};"));
        assert!(bytes() != whole, "{mode}: no page is in the file yet");
        let sync = format!("/api/databases/{client}/{client}/sync?timeout=1s");
        assert_eq!(daemon.post(&sync).0, 504, "{mode}");
        assert_eq!(daemon.moments(&client), before, "{mode}");
        session.run("COMMIT;");
        daemon.assert_equal(&client, "restored.db");
        daemon.assert_each_moment_is_whole(&client);
        let health = daemon.health(&client);
        assert_eq!(health["status"], "active", "{health}");
        let error = health["lastError"].as_str().unwrap_or_default();
        assert!(error.starts_with("no_commit_boundary: "), "{health}");
        // Until there are boundaries again.
        session.run(&format!("PRAGMA journal_mode = PERSIST; {ADD};"));
        daemon.assert_equal(&client, "restored.db");
        assert_eq!(daemon.health(&client)["lastError"], serde_json::Value::Null);
    }
}

/// Whoever has the database for itself keeps the journal, and ends each transaction by zeroing its header.
#[test]
fn sqlite_20_an_exclusive_writer_is_followed_while_it_stays_open() {
    for mode in ["DELETE", "TRUNCATE", "PERSIST"] {
        let daemon = Daemon::start(Options::default());
        let client = guid(1);
        let mut session = Session::open(&daemon.database(&client));
        session.run(&format!(
            "PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = {mode}; CREATE TABLE t(x);"
        ));
        for row in 1..=5 {
            session.run(&format!("INSERT INTO t VALUES ({row});"));
            daemon.sync(&client);
            let restored = daemon.restore(&client, &["--force"], "restored.db");
            let count = sqlite::query(&restored, "SELECT count(*) FROM t");
            assert_eq!(count, row.to_string(), "{mode}");
        }
    }
}

/// A process that runs many transactions, each of which changes every row, and writes pages long before it ends.
fn counting_up(database: &Path, transactions: u32, between: &str) -> Child {
    let mut child = Command::new("sqlite3")
        .args(["-batch", "-bail", "-cmd", ".timeout 10000"])
        .arg(database)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("sqlite3 starts");
    let mut script = "PRAGMA cache_size = 5;\n".to_owned();
    for _ in 0..transactions {
        script += &format!("{between}\nUPDATE t SET v = v + 1;\n");
    }
    let mut input = child.stdin.take().expect("it is piped");
    // Whoever is killed reads no more of it.
    std::thread::spawn(move || std::io::Write::write_all(&mut input, script.as_bytes()));
    child
}

const ROWS: &str = "BEGIN; CREATE TABLE t (v, filler);
    WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 400)
    INSERT INTO t SELECT 0, randomblob(300) FROM n; COMMIT;";

fn ended(mut child: Child, limit: std::time::Duration) {
    let status = wait_until(&mut child, Instant::now() + limit);
    assert!(status.is_some_and(|status| status.success()), "{status:?}");
}

const LOAD_TIME: std::time::Duration = std::time::Duration::from_secs(60);

/// Stored while it is written without a pause: each moment is a committed state, and there are several.
#[test]
fn sqlite_20_what_is_stored_under_load_is_never_half_a_transaction() {
    for (mode, served) in [
        ("DELETE", Served::LogsPassed),
        ("TRUNCATE", Served::ByDaemon),
    ] {
        let daemon = Daemon::start(Options::served(served));
        let client = guid(1);
        let database = daemon.database(&client);
        sqlite::query(&database, &format!("PRAGMA journal_mode = {mode}; {ROWS}"));
        daemon.sync(&client);
        let begin = format!("PRAGMA journal_mode = {mode};");
        ended(counting_up(&database, 40, &begin), LOAD_TIME);
        daemon.assert_equal(&client, "restored.db");
        daemon.assert_each_moment_is_whole(&client);
    }
}

/// Between two transactions there is hardly a moment: each comparison gets its turn all the same.
#[test]
fn sqlite_20_what_is_written_without_a_pause_is_stored_meanwhile() {
    for (mode, served) in [
        ("DELETE", Served::LogsPassed),
        ("PERSIST", Served::ByDaemon),
    ] {
        let daemon = Daemon::start(Options::served(served));
        let client = guid(1);
        let database = scene(&daemon, &client, mode);
        let txid = || {
            daemon.health(&client)["replicatedTxid"]
                .as_u64()
                .expect("a number")
        };
        let before = txid();
        let begin = format!("PRAGMA journal_mode = {mode};");
        let mut writers = [0, 1].map(|_| counting_up(&database, 300, &begin));
        let is_running = |writer: &mut Child| writer.try_wait().expect("a child of ours").is_none();
        // Several states while both go on, each of them within the time that health would still call good.
        daemon.wait_for(LOAD_TIME, "it is not stored while it is written", || {
            let is_written = writers.iter_mut().all(is_running);
            assert!(
                is_written || txid() >= before + 4,
                "the writers came to their end before"
            );
            txid() >= before + 4
        });
        for mut writer in writers {
            writer.kill().expect("a child of ours");
            writer.wait().expect("a child of ours");
        }
        // Whoever was killed in the middle is rolled back now.
        sqlite::query(&database, "SELECT count(*) FROM t");
        daemon.assert_equal(&client, "restored.db");
        daemon.assert_each_moment_is_whole(&client);
    }
}

/// Bytes that the daemon has read and written.
fn bytes_moved(daemon: &Daemon) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/io", daemon.pid())).expect("its counters");
    let moved = text
        .lines()
        .filter(|line| line.starts_with("rchar") || line.starts_with("wchar"))
        .map(|line| line.split(' ').next_back()?.parse::<u64>().ok());
    moved.sum::<Option<u64>>().expect("numbers")
}

/// Where a large database was opened in such a mode its writes are seen, and only the pages are compared that were
/// written; a further snapshot proves that none was missed.
#[test]
fn sqlite_20_a_commit_in_a_large_database_costs_what_it_writes() {
    const LARGE: &str = "CREATE TABLE large (a INTEGER PRIMARY KEY, b);
        WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 1500)
        INSERT INTO large SELECT i, randomblob(3900) FROM n";
    for (mode, served) in [
        ("DELETE", Served::LogsPassed),
        ("PERSIST", Served::ByDaemon),
    ] {
        let mut daemon = Daemon::start(Options::served(served));
        let client = guid(1);
        let database = daemon.database(&client);
        sqlite::query(&database, &format!("PRAGMA journal_mode = {mode}; {LARGE}"));
        daemon.sync(&client);
        let mut session = Session::open(&database);
        session.run(&format!("PRAGMA journal_mode = {mode};"));
        let change = |a: u32| format!("UPDATE large SET b = randomblob(3900) WHERE a = {a};");
        session.run(&change(1));
        daemon.sync(&client);
        for a in 2..10 {
            let (before, txid) = (bytes_moved(&daemon), daemon.sync(&client));
            session.run(&change(a * 100));
            assert_eq!(daemon.sync(&client), txid + 1, "{mode}");
            let moved = bytes_moved(&daemon) - before;
            assert!(moved < 1 << 20, "{mode}: {moved} bytes");
        }
        for statements in [
            "DELETE FROM large WHERE a > 1300; VACUUM;",
            "INSERT INTO large SELECT a + 5000, randomblob(3900) FROM large WHERE a < 200;",
            "BEGIN; DELETE FROM large WHERE a < 1000; ROLLBACK; INSERT INTO large VALUES (9000, zeroblob(900000));",
            "PRAGMA journal_mode = WAL; DELETE FROM large WHERE a = 10; PRAGMA journal_mode = DELETE;",
            "DELETE FROM large WHERE a = 11;",
            "PRAGMA journal_mode = MEMORY; DELETE FROM large WHERE a = 12;",
        ] {
            session.run(statements);
            daemon.assert_equal(&client, "restored.db");
        }
        let path = format!("/api/databases/{client}/{client}/snapshot?timeout=30s");
        let (status, answer) = daemon.post(&path);
        assert_eq!(status, 200, "{answer}");
        let log = daemon.log.text();
        assert!(!log.contains("differs from its captured"), "{log}");
        assert_eq!(daemon.generations(&client).len(), 1, "one history");
        daemon.command(&["verify"], |_| {});
        drop(session);
        assert!(daemon.terminate().success());
    }
}

/// A database of one journal mode with rows, all of it stored.
fn scene(daemon: &Daemon, client: &str, mode: &str) -> PathBuf {
    let database = daemon.database(client);
    sqlite::query(&database, &format!("PRAGMA journal_mode = {mode}; {ROWS}"));
    daemon.sync(client);
    database
}

const ADD: &str = "UPDATE t SET v = v + 1";

/// A writer dies when all its pages are in the file, just before the operation that commits them: the next one to open
/// the database takes them back.
#[test]
fn sqlite_21_what_a_hot_journal_takes_back_is_never_stored() {
    for (mode, fault) in [
        ("DELETE", "die unlink -journal 1"),
        ("TRUNCATE", "die truncate -journal 1"),
        // After the journal's header, and the number of its records.
        ("PERSIST", "die write-at-start -journal 3"),
    ] {
        let daemon = Daemon::start(Options::default());
        let client = guid(1);
        let database = scene(&daemon, &client, mode);
        let before = daemon.moments(&client);
        let begin = format!("PRAGMA journal_mode = {mode}; PRAGMA cache_size = 5; {ADD}");
        fault::dies(&database, fault, &begin);
        daemon.assert_not_stored(&client);
        assert_eq!(daemon.moments(&client), before, "{mode}");
        let seen = sqlite::query(&database, "SELECT DISTINCT v FROM t");
        assert_eq!(seen, "0", "{mode}: it is rolled back");
        daemon.assert_equal(&client, "restored.db");
        // A journal that persists has stale records behind its header by now.
        sqlite::query(&database, &format!("PRAGMA journal_mode = {mode}; {ADD}"));
        daemon.assert_equal(&client, "restored.db");
        daemon.assert_each_moment_is_whole(&client);
    }
}

/// Pages that come from the free list, and those that a growth skips, are in no journal.
#[test]
fn sqlite_22_pages_that_no_journal_names_are_stored() {
    for auto_vacuum in ["NONE", "FULL"] {
        let daemon = Daemon::start(Options::default());
        let client = guid(1);
        let database = daemon.database(&client);
        for (number, statement) in [
            "CREATE TABLE t(x); INSERT INTO t VALUES (randomblob(400000))",
            "DELETE FROM t",
            "INSERT INTO t VALUES (randomblob(100000))",
            "INSERT INTO t VALUES (zeroblob(900000))",
            "DELETE FROM t WHERE rowid = 1; INSERT INTO t VALUES (randomblob(50000))",
        ]
        .iter()
        .enumerate()
        {
            let pragma = format!("PRAGMA auto_vacuum = {auto_vacuum};");
            sqlite::query(&database, &format!("{pragma} {statement}"));
            daemon.assert_equal(&client, &format!("{number}.db"));
            let pages = sqlite::query(&database, "PRAGMA page_count");
            let restored = daemon.path(&format!("{number}.db"));
            let length = std::fs::metadata(&restored).expect("a file").len();
            assert_eq!(
                length.to_string(),
                format!("{}", 4096 * pages.parse::<u64>().expect("pages"))
            );
        }
        daemon.command(&["verify"], |_| {});
    }
}

/// Statements that change both databases in one transaction.
fn both(first: &Path, second: &Path) -> String {
    assert!(first.exists());
    format!(
        "ATTACH '{}' AS other; BEGIN; {ADD}; UPDATE other.t SET v = v + 1; COMMIT",
        second.display()
    )
}

/// The super-journal's unlink commits in all databases. Before it, all are rolled back; after it none.
#[test]
fn sqlite_20_a_transaction_of_several_tenants_is_whole_in_each() {
    for (fault, committed) in [("die unlink *-mj 1", "0"), ("die-after unlink *-mj 1", "1")] {
        let daemon = Daemon::start(Options::default());
        let clients = [guid(1), guid(2)];
        let [first, second] = [0, 1].map(|index| scene(&daemon, &clients[index], "DELETE"));
        let sql = both(&first, &second);
        fault::dies(&first, fault, &sql);
        for (client, database) in clients.iter().zip([&first, &second]) {
            assert!(companion(database, "-journal").exists(), "{fault}");
            let seen = sqlite::query(database, "SELECT DISTINCT v FROM t");
            assert_eq!(seen, committed, "{fault}");
            daemon.assert_equal(client, "restored.db");
        }
        for mode in ["PERSIST", "WAL"] {
            for database in [&first, &second] {
                sqlite::query(database, &format!("PRAGMA journal_mode = {mode}"));
            }
            for _ in 0..2 {
                sqlite::query(&first, &sql);
            }
            for client in &clients {
                daemon.assert_equal(client, "restored.db");
                daemon.assert_each_moment_is_whole(client);
            }
        }
    }
}

/// A super-journal has the database's name and a tail; it is a file like any other, whatever the patterns say.
#[test]
fn sqlite_24_a_super_journal_is_no_database() {
    let daemon = Daemon::start(Options {
        discovery: ", patterns: ['*'], guidValidation: false",
        ..Options::default()
    });
    let [first, second] = ["first", "second"].map(|name| daemon.data().join(name));
    for database in [&first, &second] {
        sqlite::query(database, ROWS);
    }
    for (fault, left) in [("die unlink *-mj 1", 1), ("die-after unlink *-mj 1", 0)] {
        fault::dies(&first, fault, &both(&first, &second));
        let names = std::fs::read_dir(daemon.data()).expect("the directory");
        let names = names.map(|entry| entry.expect("an entry").file_name());
        let is_super = |name: &std::ffi::OsString| name.to_string_lossy().contains("-mj");
        assert_eq!(names.filter(is_super).count(), left, "{fault}");
        let registered = daemon.get("/api/databases").1;
        assert_eq!(registered["total"], 2, "{registered}");
    }
    let log = daemon.log.text();
    assert!(!log.contains("-mj"), "{log}");
}

/// The file was written by a transaction that never ended, before an instance began to look at it.
#[test]
fn sqlite_37_a_hot_journal_at_the_take_over_is_waited_for() {
    let mut daemon = Daemon::prepare(Options::default());
    let client = guid(1);
    let database = daemon.database(&client);
    sqlite::query(&database, ROWS);
    fault::dies(&database, "die unlink -journal 1", ADD);
    daemon.restart();
    daemon.assert_not_stored(&client);
    assert!(!daemon.path("store/databases").join(&client).exists());
    assert_eq!(sqlite::query(&database, "SELECT DISTINCT v FROM t"), "0");
    daemon.assert_equal(&client, "restored.db");
    daemon.assert_each_moment_is_whole(&client);
}

/// In the middle of each snapshot and comparison, too: what is read is then of two states, and dropped.
#[test]
fn sqlite_37_switches_of_the_journal_mode_under_load_mix_no_states() {
    for served in Served::ALL {
        let daemon = Daemon::start(Options::served(served));
        let client = guid(1);
        let database = scene(&daemon, &client, "WAL");
        let switches =
            "PRAGMA journal_mode = DELETE;\nUPDATE t SET v = v + 1;\nPRAGMA journal_mode = WAL;";
        let mut child = counting_up(&database, 15, switches);
        while child.try_wait().expect("a child of ours").is_none() {
            let path = format!("/api/databases/{client}/{client}/snapshot?timeout=1s");
            let (status, answer) = daemon.post(&path);
            assert!(matches!(status, 200 | 504), "{answer}");
        }
        ended(child, LOAD_TIME);
        daemon.assert_equal(&client, "restored.db");
        daemon.assert_each_moment_is_whole(&client);
        assert_eq!(daemon.generations(&client).len(), 1, "one history");
        daemon.command(&["verify"], |_| {});
    }
}
