//! Writers that die in the middle of a transaction with a rollback journal: it is told, what they committed before is stored,
//! and nobody but SQLite rolls anything back.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use super::support::daemon::{Daemon, Options, Served, guid};
use super::support::sqlite::{self, Session, companion};

const ROWS: &str = "SELECT count(*), sum(length(x)), max(x) FROM t";
/// SIGTERM waits for nobody who will not come.
const END: Duration = Duration::from_secs(10);

/// A database with a committed row of its own, and a writer that dies in the middle of changing all the others. Gives what is
/// committed.
fn killed_writer(database: &Path, mode: &str) -> String {
    let mut session = Session::open(database);
    session.run(&format!(
        "PRAGMA journal_mode={mode}; PRAGMA cache_size=4;
         CREATE TABLE IF NOT EXISTS t(x);
         INSERT INTO t VALUES ('zz committed');
         WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 500)
         INSERT INTO t SELECT hex(randomblob(500)) FROM n;"
    ));
    let committed = session.run(&format!("{ROWS};"));
    session.run("BEGIN; UPDATE t SET x = 'zzz' || x; INSERT INTO t SELECT x FROM t;");
    session.kill9();
    assert!(companion(database, "-journal").exists());
    committed
}

impl Daemon {
    fn assert_hot_journal_told(&self, client: &str, status: &str) {
        let health = self.wait_health(client, |health| health["lastError"].is_string());
        assert_eq!(health["status"], status, "{health}");
        let error = health["lastError"].as_str().expect("text");
        assert!(error.starts_with("hot_journal: "), "{error}");
    }

    fn assert_committed(&self, client: &str, committed: &str, name: &str) {
        self.sync(client);
        let restored = self.restore(client, &["--force"], name);
        assert_eq!(sqlite::query(&restored, "PRAGMA integrity_check"), "ok");
        assert_eq!(sqlite::query(&restored, ROWS), committed);
    }

    fn ends_at_once(&mut self) {
        let begun = Instant::now();
        assert!(self.terminate().success(), "{}", self.log.text());
        assert!(begun.elapsed() < END, "{:?}", begun.elapsed());
    }
}

#[test]
fn what_was_committed_before_a_hot_journal_is_stored_and_the_journal_told() {
    for served in [Served::LogsPassed, Served::ByDaemon] {
        for mode in ["DELETE", "TRUNCATE", "PERSIST"] {
            let mut daemon = Daemon::start(Options::served(served));
            let client = guid(1);
            let database = daemon.database(&client);
            let committed = killed_writer(&database, mode);
            let files = || {
                [database.clone(), companion(&database, "-journal")]
                    .map(|path| fs::read(path).expect("read"))
            };
            let before = files();
            daemon.assert_committed(&client, &committed, "running.db");
            daemon.assert_hot_journal_told(&client, "active");
            daemon.ends_at_once();
            daemon.restart();
            daemon.assert_hot_journal_told(&client, "active");
            daemon.assert_committed(&client, &committed, "restarted.db");
            daemon.ends_at_once();
            // And where there is no state.
            fs::remove_dir_all(daemon.data().join(".litestream-multitenant")).expect("removed");
            daemon.restart();
            daemon.assert_committed(&client, &committed, "anew.db");
            daemon.assert_hot_journal_told(&client, "active");
            assert!(before == files(), "nobody has written them");
            // SQLite rolls back.
            sqlite::query(&database, "INSERT INTO t VALUES ('zz recovered')");
            let recovered = sqlite::query(&database, ROWS);
            daemon.assert_committed(&client, &recovered, "recovered.db");
            daemon.wait_health(&client, |health| health["lastError"].is_null());
        }
    }
}

/// The first transaction of a new database: there is nothing yet that is committed.
#[test]
fn a_database_whose_first_transaction_is_broken_off_is_empty() {
    let mut daemon = Daemon::start(Options::default());
    let client = guid(1);
    let database = daemon.database(&client);
    let mut events = daemon.events();
    let mut session = Session::open(&database);
    session.run("PRAGMA cache_size=4; BEGIN; CREATE TABLE t(x); INSERT INTO t VALUES (zeroblob(200000)); SELECT count(*) FROM t;");
    session
        .run("INSERT INTO t SELECT randomblob(3000) FROM t; UPDATE t SET x = randomblob(100000);");
    session.kill9();
    assert!(fs::metadata(&database).expect("there").len() > 0);
    assert_eq!(events.next_of(&client).0, "registered");
    assert_eq!(events.next_of(&client).0, "failed");
    drop(events);
    daemon.assert_hot_journal_told(&client, "active");
    daemon.sync(&client);
    daemon.ends_at_once();
    daemon.restart();
    sqlite::query(&database, "CREATE TABLE t(x); INSERT INTO t VALUES ('new')");
    let rows = sqlite::query(&database, ROWS);
    daemon.assert_committed(&client, &rows, "new.db");
    daemon.wait_health(&client, |health| health["lastError"].is_null());
}

/// What a journal ends with that has a super-journal of this name.
fn end_of_journal(name: &Path) -> Vec<u8> {
    let name = name.as_os_str().as_bytes();
    let sum: u32 = name.iter().map(|byte| u32::from(*byte)).sum();
    let lock_page = (1_u32 << 30) / 4096 + 1;
    let mut end = lock_page.to_be_bytes().to_vec();
    end.extend(name);
    end.extend((name.len() as u32).to_be_bytes());
    end.extend(sum.to_be_bytes());
    end.extend([0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7]);
    end
}

fn name_super_journal(database: &Path, name: &Path) {
    let mut journal = OpenOptions::new()
        .append(true)
        .open(companion(database, "-journal"))
        .expect("opened");
    journal.write_all(&end_of_journal(name)).expect("written");
}

/// A transaction of several databases counts once its super-journal is gone.
#[test]
fn a_super_journal_decides_and_where_it_can_not_be_seen_that_is_told() {
    let mut daemon = Daemon::start(Options::default());
    let (there, gone, outside) = (guid(1), guid(2), guid(3));
    let committed = killed_writer(&daemon.database(&there), "DELETE");
    let name = daemon.data().join("main.db-mj0123AB9CD");
    fs::write(&name, "children").expect("written");
    name_super_journal(&daemon.database(&there), &name);
    daemon.assert_committed(&there, &committed, "there.db");
    daemon.assert_hot_journal_told(&there, "active");

    // One whose transaction is whole in the file, and whose journal is still there.
    let database = daemon.database(&gone);
    let mut session = Session::open(&database);
    session
        .run("PRAGMA cache_size=4; CREATE TABLE t(x); INSERT INTO t SELECT hex(zeroblob(45000));");
    session.run("BEGIN; UPDATE t SET x = hex(randomblob(40000));");
    let mut journal = fs::read(companion(&database, "-journal")).expect("the journal");
    session.run("INSERT INTO t VALUES ('zz committed'); COMMIT;");
    journal.extend(end_of_journal(&daemon.data().join("main.db-mj0123AB9EF")));
    let committed = session.run(&format!("{ROWS};"));
    drop(session);
    fs::write(companion(&database, "-journal"), &journal).expect("written");
    daemon.assert_committed(&gone, &committed, "gone.db");
    assert!(daemon.health(&gone)["lastError"].is_null());
    assert_eq!(sqlite::query(&database, ROWS), committed);

    killed_writer(&daemon.database(&outside), "DELETE");
    name_super_journal(
        &daemon.database(&outside),
        Path::new("/elsewhere/main.db-mj0123AB9CD"),
    );
    daemon.wait_health(&outside, |health| {
        let error = health["lastError"].as_str().unwrap_or_default();
        health["status"] == "failing" && error.contains("/elsewhere/main.db-mj0123AB9CD")
    });
    daemon.ends_at_once();
    daemon.restart();
    sqlite::query(
        &daemon.database(&outside),
        "INSERT INTO t VALUES ('zzzzz later')",
    );
    let rows = sqlite::query(&daemon.database(&outside), ROWS);
    daemon.assert_committed(&outside, &rows, "outside.db");
}
