//! A database's life: taken over, written while nothing runs, removed, made anew, renamed.

use std::fs;
use std::time::{Duration, Instant};

use super::support::daemon::{Daemon, Options, Served, guid};
use super::support::sqlite;
use super::support::tree::tree;

const EVENT_TIME: Duration = Duration::from_secs(10);

fn create(values: &str) -> String {
    format!("PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES {values}")
}

impl Daemon {
    /// All is stored, no gate was missed on the way, and a restore equals the file.
    fn assert_replicated(&self, client: &str, name: &str) {
        self.sync(client);
        let log = self.log.text();
        assert!(!log.contains("A gate was passed"), "{log}");
        let restored = self.restore(client, &[], name);
        sqlite::assert_same(&self.database(client), &restored);
    }

    fn wait_message(&self, mark: usize, message: &str) {
        self.log
            .wait_from(mark, message, Instant::now() + EVENT_TIME);
    }
}

#[test]
fn databases_that_were_there_before_are_taken_over() {
    let mut daemon = Daemon::prepare(Options::default());
    let (flushed, unflushed, empty) = (guid(1), guid(2), guid(3));
    sqlite::query(&daemon.database(&flushed), &create("(1), (2)"));
    sqlite::query(&daemon.database(&unflushed), &create("(1), (2)"));
    sqlite::with_unflushed_log(
        &daemon.database(&unflushed),
        "INSERT INTO t VALUES (3); CREATE TABLE u(y); INSERT INTO u VALUES ('in the log alone')",
    );
    fs::write(daemon.database(&empty), "").expect("an empty file is an empty database");
    daemon.restart();
    for client in [&flushed, &unflushed] {
        assert_eq!(daemon.sync(client), 1, "a first snapshot is transaction 1");
        let restored = daemon.restore(client, &[], &format!("{client}.db"));
        sqlite::assert_same(&daemon.database(client), &restored);
    }
    let count = sqlite::query(&daemon.path(&format!("{unflushed}.db")), "SELECT * FROM u");
    assert_eq!(count, "in the log alone");
    assert_eq!(daemon.health(&empty)["status"], "active");
    daemon.command(&["verify"], |_| {});
    assert!(daemon.terminate().success());
}

#[test]
fn what_is_written_while_nothing_runs_goes_up_as_one_segment() {
    let mut daemon = Daemon::start(Options::default());
    let client = guid(1);
    let database = daemon.database(&client);
    sqlite::query(&database, &create("(1)"));
    daemon.sync(&client);
    sqlite::query(&database, "INSERT INTO t VALUES (2)");
    daemon.sync(&client);
    assert!(daemon.terminate().success());
    let before = daemon.generations(&client);
    assert_eq!(before.len(), 1);

    // Past the mount, which is not there: three commits, flushed and unflushed.
    sqlite::query(
        &database,
        "INSERT INTO t VALUES (3); INSERT INTO t VALUES (4)",
    );
    sqlite::with_unflushed_log(&database, "CREATE TABLE u(y); INSERT INTO u VALUES (5)");
    daemon.restart();
    daemon.assert_replicated(&client, "restored.db");
    let after = daemon.generations(&client);
    assert_eq!(after.len(), 1, "the same generation");
    assert_eq!(after[0]["id"], before[0]["id"]);
    let moments = |generations: &[serde_json::Value]| {
        generations[0]["moments"].as_array().map_or(0, Vec::len)
    };
    assert_eq!(
        moments(&after),
        moments(&before) + 1,
        "one segment: {after:?}"
    );
    assert!(daemon.terminate().success());
}

#[test]
fn sqlite_35_a_database_that_is_made_anew_under_its_name_gets_a_new_generation() {
    let mut daemon = Daemon::start(Options::default());
    let client = guid(1);
    let database = daemon.database(&client);
    sqlite::query(&database, &create("('old')"));
    daemon.sync(&client);
    let old = daemon.restore(&client, &[], "old.db");
    let objects = daemon.path("store/databases").join(&client);
    let stored = tree(&objects);

    let mark = daemon.log.mark();
    fs::remove_file(&database).expect("removed");
    daemon.wait_message(mark, &format!("Client unregistered: {client}"));
    assert!(!daemon.metrics().contains(&client), "its series are gone");
    assert_eq!(daemon.get(&format!("/api/health/clients/{client}")).0, 404);
    assert!(tree(&objects) == stored, "its objects are kept");

    let mark = daemon.log.mark();
    sqlite::query(&database, &create("('new')"));
    daemon.wait_message(mark, &format!("New client registered: {client}"));
    daemon.assert_replicated(&client, "new.db");
    let generations = daemon.generations(&client);
    assert_eq!(generations.len(), 2, "{generations:?}");
    assert_numbers_go_on(&generations);
    let first = generations
        .iter()
        .filter_map(|generation| generation["id"].as_str())
        .min()
        .expect("two");
    let again = daemon.restore(&client, &["--generation", first], "again.db");
    sqlite::assert_same(&old, &again);
    daemon.command(&["verify"], |_| {});
    assert!(daemon.terminate().success());
}

/// A TXID means one moment, whichever generation it is in.
fn assert_numbers_go_on(generations: &[serde_json::Value]) {
    let moments = generations
        .iter()
        .flat_map(|generation| generation["moments"].as_array().expect("a list"));
    let txids: Vec<u64> = moments
        .map(|moment| moment["txid"].as_u64().expect("a number"))
        .collect();
    assert!(txids.is_sorted_by(|a, b| a < b), "{generations:?}");
}

/// The state may be deleted while nothing runs: what it told is read from the store and the databases.
#[test]
fn without_its_state_a_history_goes_on_in_a_new_generation() {
    let mut daemon = Daemon::start(Options::default());
    let client = guid(1);
    let database = daemon.database(&client);
    sqlite::query(&database, &create("('old')"));
    for row in 0..3 {
        sqlite::query(&database, &format!("INSERT INTO t VALUES ({row})"));
        daemon.sync(&client);
    }
    assert!(daemon.terminate().success());
    let state = daemon.data().join(".litestream-multitenant");
    fs::remove_dir_all(state).expect("removed");
    daemon.restart();
    sqlite::query(&database, "INSERT INTO t VALUES ('new')");
    daemon.assert_replicated(&client, "new.db");
    let generations = daemon.generations(&client);
    assert_eq!(generations.len(), 2, "{generations:?}");
    assert_numbers_go_on(&generations);
    daemon.command(&["verify"], |_| {});
    assert!(daemon.terminate().success());
}

/// Its connections keep their handles, and go on committing through these.
#[test]
fn a_directory_that_is_renamed_takes_its_live_databases_along() {
    for served in Served::ALL {
        let daemon = Daemon::start(Options::served(served));
        let client = guid(1);
        let (here, there) = (daemon.data().join("here"), daemon.data().join("there"));
        std::fs::create_dir(&here).expect("a folder");
        let name = format!("{client}.db");
        let mut session = sqlite::Session::open(&here.join(&name));
        session.run("PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 10;");
        session.run("CREATE TABLE t (a); INSERT INTO t VALUES (0);");
        daemon.sync(&client);
        std::fs::rename(&here, &there).expect("renamed");
        let moved = daemon.sync(&client);
        for row in 1..=40 {
            session.run(&format!("INSERT INTO t VALUES ({row});"));
            // Without being asked to look.
            daemon.wait_health(&client, |health| health["replicatedTxid"] == moved + row);
        }
        let restored = daemon.restore(&client, &[], "restored.db");
        sqlite::assert_same(&there.join(&name), &restored);
        drop(session);
        daemon.sync(&client);
        let restored = daemon.restore(&client, &[], "closed.db");
        sqlite::assert_same(&there.join(&name), &restored);
    }
}

#[test]
fn a_database_may_be_renamed_in_over_and_out() {
    let mut daemon = Daemon::start(Options::default());
    let client = guid(1);
    let database = daemon.database(&client);
    let (first, second) = (daemon.data().join("first"), daemon.data().join("second"));
    sqlite::query(&first, &create("('first')"));
    sqlite::query(&second, &create("('second'), ('longer')"));
    assert_eq!(daemon.get("/api/databases").1["total"], 0);

    fs::rename(&first, &database).expect("renamed in");
    daemon.wait_message(0, &format!("New client registered: {client}"));
    daemon.assert_replicated(&client, "first.db");
    sqlite::query(&database, "INSERT INTO t VALUES ('then')");
    daemon.assert_replicated(&client, "then.db");
    assert_eq!(daemon.generations(&client).len(), 1);

    let then = daemon.sync(&client).to_string();
    fs::rename(&second, &database).expect("renamed over");
    daemon.assert_replicated(&client, "second.db");
    let again = daemon.restore(&client, &["--txid", &then], "again.db");
    sqlite::assert_same(&daemon.path("then.db"), &again);

    assert_eq!(daemon.generations(&client).len(), 1);

    // With the log of the one before, SQLite takes the two for one database.
    sqlite::with_unflushed_log(&database, "INSERT INTO t VALUES ('in the log')");
    daemon.sync(&client);
    let third = daemon.data().join("third");
    sqlite::query(&third, &create("('third')"));
    let mark = daemon.log.mark();
    fs::rename(&third, &database).expect("renamed over");
    daemon.wait_message(mark, "Another file was put in the database's place");
    daemon.sync(&client);
    assert_eq!(daemon.generations(&client).len(), 2, "a new generation");
    daemon.command(&["verify"], |_| {});
    daemon.assert_replicated(&client, "third.db");

    let mark = daemon.log.mark();
    fs::rename(&database, daemon.data().join("away")).expect("renamed out");
    daemon.wait_message(mark, &format!("Client unregistered: {client}"));
    assert!(!daemon.metrics().contains(&client));
    // To another client's name: the data go with it.
    let other = guid(2);
    fs::rename(daemon.data().join("away"), daemon.database(&other)).expect("renamed in");
    daemon.assert_replicated(&other, "other.db");
    assert!(daemon.terminate().success());
}
