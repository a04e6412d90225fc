//! Databases that are copied into place, or written over, by something that is not SQLite: nothing of them is stored before they are
//! whole, whoever writes them, in whatever order and with whatever pauses.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::support::daemon::{Daemon, Options, Served, guid};
use super::support::process::succeeded;
use super::support::sqlite::{self, Session, companion};

/// For so long at least a writer pauses: longer than a file has to be left alone to count as finished.
const PAUSE: Duration = Duration::from_millis(700);
/// And for so long that what stands there is judged, though it was written a moment ago.
const LONG_PAUSE: Duration = Duration::from_secs(4);

/// Rows of 1,000 bytes, so that the database has several hundred pages and more than one level of b-tree.
fn filled(database: &Path, mode: &str, rows: u32) {
    sqlite::query(
        database,
        &format!(
            "PRAGMA journal_mode={mode}; CREATE TABLE t(id INTEGER PRIMARY KEY, x TEXT);
             CREATE INDEX i ON t(x);
             WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < {rows})
             INSERT INTO t SELECT i, hex(randomblob(500)) FROM n"
        ),
    );
}

/// A hot pair: a database whose newest rows are in its log alone, and more in that than any checkpoint has brought over.
struct Pair {
    database: PathBuf,
    writer: Session,
}

impl Pair {
    fn make(daemon: &Daemon, name: &str) -> Self {
        let database = daemon.path(name);
        filled(&database, "WAL", 300);
        let mut writer = Session::open(&database);
        writer.run("PRAGMA wal_autocheckpoint=0;");
        for _ in 0..20 {
            writer.run("INSERT INTO t(x) SELECT hex(randomblob(500)) FROM t LIMIT 20;");
            writer.run("UPDATE t SET x = hex(randomblob(500)) WHERE id % 7 = 1;");
        }
        Self { database, writer }
    }

    fn copied(&self, suffix: &str, to: &Path) {
        succeeded(
            Command::new("cp")
                .arg(companion(&self.database, suffix))
                .arg(companion(to, suffix)),
        );
    }
}

fn cp(from: &Path, to: &Path) {
    succeeded(Command::new("cp").arg(from).arg(to));
}

impl Daemon {
    /// What is stored is what SQLite shows of `source`, it is sound, and so is every moment before it.
    fn assert_replica_of(&self, client: &str, source: &Path, name: &str) {
        self.sync(client);
        self.wait_health(client, |health| health["status"] == "active");
        let restored = self.restore(client, &[], name);
        assert_eq!(sqlite::query(&restored, "PRAGMA integrity_check"), "ok");
        let rows = "SELECT count(*), sum(length(x)), max(x) FROM t";
        assert_eq!(sqlite::query(&restored, rows), sqlite::query(source, rows));
        self.assert_all_moments_are_sound(client);
        self.command(&["verify"], |_| {});
    }

    fn assert_all_moments_are_sound(&self, client: &str) {
        for txid in self.moments(client) {
            let name = format!("sound-{txid}.db");
            let restored = self.restore(client, &["--txid", &txid.to_string(), "--force"], &name);
            assert_eq!(
                sqlite::query(&restored, "PRAGMA integrity_check"),
                "ok",
                "transaction {txid}"
            );
        }
    }

    fn is_nothing_stored(&self, client: &str) -> bool {
        !self.path("store/databases").join(client).exists()
    }

    fn wait_error(&self, client: &str, status: &str, code: &str) {
        self.wait_health(client, |health| {
            let error = health["lastError"].as_str().unwrap_or_default();
            health["status"] == status && error.starts_with(code)
        });
    }
}

/// Opens a file as `cp`, `tar` and most programs do: to write it, and from its start.
fn written(path: &Path) -> File {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    options.open(path).expect("opened to write")
}

#[test]
fn a_hot_copy_is_whole_in_whichever_order_its_files_come() {
    for served in Served::ALL {
        let daemon = Daemon::start(Options::served(served));
        let mut pair = Pair::make(&daemon, "source.db");
        for (number, order) in [["-wal", ""], ["", "-wal"]].iter().enumerate() {
            for pause in [Duration::ZERO, PAUSE] {
                let client = guid(10 * number as u32 + u32::from(pause.is_zero()));
                let database = daemon.database(&client);
                pair.copied(order[0], &database);
                std::thread::sleep(pause);
                pair.copied(order[1], &database);
                let name = format!("{client}.restored");
                daemon.assert_replica_of(&client, &pair.database, &name);
                // And it goes on as a live database.
                sqlite::query(&database, "INSERT INTO t(x) VALUES ('live')");
                daemon.sync(&client);
                daemon.assert_all_moments_are_sound(&client);
            }
        }
        pair.writer.run("SELECT 1;");
    }
}

/// The database comes in pieces beside a log that is whole: what the log lacks is not there yet.
#[test]
fn a_database_that_comes_slowly_behind_its_log_is_stored_when_it_is_closed() {
    let daemon = Daemon::start(Options::default());
    let pair = Pair::make(&daemon, "source.db");
    let client = guid(1);
    let database = daemon.database(&client);
    pair.copied("-wal", &database);
    let bytes = fs::read(&pair.database).expect("the source");
    let mut file = written(&database);
    let (begun, rest) = bytes.split_at(bytes.len() / 3 * 2);
    for piece in begun.chunks(begun.len() / 2 + 1) {
        file.write_all(piece).expect("written");
        daemon.wait_error(&client, "waiting", "arriving");
        std::thread::sleep(PAUSE);
        assert!(daemon.is_nothing_stored(&client));
    }
    file.write_all(rest).expect("written");
    drop(file);
    daemon.assert_replica_of(&client, &pair.database, "restored.db");
}

/// A closed database in each mode, by a writer who pauses, who opens it anew for each piece, who makes room before, or
/// who writes its beginning last.
#[test]
fn parts_of_a_file_are_no_moments() {
    for mode in ["WAL", "DELETE"] {
        let daemon = Daemon::start(Options::default());
        let source = daemon.path("source.db");
        filled(&source, mode, 2_000);
        let bytes = fs::read(&source).expect("the source");
        let third = (bytes.len() / 3) & !4095;

        let pauses = guid(1);
        let mut file = written(&daemon.database(&pauses));
        for piece in bytes.chunks(third) {
            file.write_all(piece).expect("written");
            std::thread::sleep(PAUSE);
        }
        drop(file);

        let in_pieces = guid(2);
        for piece in bytes.chunks(third) {
            let mut file = OpenOptions::new()
                .append(true)
                .create(true)
                .open(daemon.database(&in_pieces))
                .expect("opened");
            file.write_all(piece).expect("written");
            drop(file);
            std::thread::sleep(PAUSE);
        }

        let with_room = guid(3);
        let file = written(&daemon.database(&with_room));
        file.set_len(bytes.len() as u64).expect("room");
        for (index, piece) in bytes.chunks(third).enumerate().rev() {
            file.write_all_at(piece, (index * third) as u64)
                .expect("written");
            std::thread::sleep(PAUSE);
        }
        drop(file);

        for client in [&pauses, &in_pieces, &with_room] {
            daemon.assert_replica_of(client, &source, &format!("{client}.restored"));
            assert_eq!(daemon.moments(client).len(), 1, "{mode} {client}");
            let health = daemon.health(client);
            assert_eq!(health["lastError"], serde_json::Value::Null, "{mode}");
        }
    }
}

/// Its writer never closes it: it is whole when its own header and structure say so.
#[test]
fn a_file_that_is_never_closed_is_stored_when_it_is_whole() {
    let daemon = Daemon::start(Options::default());
    let source = daemon.path("source.db");
    filled(&source, "DELETE", 500);
    let bytes = fs::read(&source).expect("the source");
    let client = guid(1);
    let mut file = written(&daemon.database(&client));
    file.write_all(&bytes[..bytes.len() / 2]).expect("written");
    daemon.wait_error(&client, "waiting", "arriving");
    std::thread::sleep(PAUSE);
    assert!(daemon.is_nothing_stored(&client));
    file.write_all(&bytes[bytes.len() / 2..]).expect("written");
    daemon.assert_replica_of(&client, &source, "restored.db");
    drop(file);
}

/// Over a database that is stored already, cut or in place, by a writer who pauses: only what it is at the end is stored.
#[test]
fn what_is_written_over_a_stored_database_is_stored_when_it_is_closed() {
    for (mode, in_place) in [
        ("WAL", false),
        ("WAL", true),
        ("DELETE", false),
        ("DELETE", true),
    ] {
        let daemon = Daemon::start(Options::default());
        let (before, after) = (daemon.path("before.db"), daemon.path("after.db"));
        filled(&before, mode, 800);
        filled(&after, mode, 900);
        let client = guid(1);
        let database = daemon.database(&client);
        cp(&before, &database);
        daemon.assert_replica_of(&client, &before, "first.db");
        let bytes = fs::read(&after).expect("the source");
        let mut file = match in_place {
            true => OpenOptions::new()
                .write(true)
                .open(&database)
                .expect("opened"),
            false => written(&database),
        };
        for piece in bytes.chunks(bytes.len() / 4 + 1) {
            file.write_all(piece).expect("written");
            std::thread::sleep(PAUSE);
        }
        drop(file);
        daemon.assert_replica_of(&client, &after, "second.db");
        assert_eq!(
            daemon.moments(&client),
            [1, 2],
            "{mode}, in place: {in_place}"
        );
    }
}

/// What is copied beside a database that is stored, and that nobody has open, is the log of a hot copy.
#[test]
fn a_log_that_is_copied_later_is_laid_over_as_a_whole() {
    for served in Served::ALL {
        let daemon = Daemon::start(Options::served(served));
        let pair = Pair::make(&daemon, "source.db");
        let client = guid(1);
        let database = daemon.database(&client);
        pair.copied("", &database);
        daemon.sync(&client);
        let log = fs::read(companion(&pair.database, "-wal")).expect("the log");
        let mut file = written(&companion(&database, "-wal"));
        for piece in log.chunks(log.len() / 3 + 1) {
            file.write_all(piece).expect("written");
            std::thread::sleep(PAUSE);
        }
        drop(file);
        daemon.assert_replica_of(&client, &pair.database, "restored.db");
        assert_eq!(daemon.moments(&client), [1, 2]);
    }
}

/// A copy that stops in the middle is told, and stored once it is whole.
#[test]
fn a_copy_that_is_broken_off_is_told_and_not_stored() {
    let daemon = Daemon::start(Options::default());
    let source = daemon.path("source.db");
    filled(&source, "DELETE", 500);
    let bytes = fs::read(&source).expect("the source");
    let client = guid(1);
    let database = daemon.database(&client);
    fs::write(&database, &bytes[..bytes.len() / 2]).expect("written");
    daemon.wait_error(&client, "failing", "incomplete");
    assert!(daemon.is_nothing_stored(&client));
    cp(&source, &database);
    daemon.assert_replica_of(&client, &source, "restored.db");
    assert_eq!(daemon.moments(&client), [1]);
}

/// The same where the file was there before the start: half a database is none.
#[test]
fn half_a_database_that_is_there_at_the_start_is_told_and_not_stored() {
    let mut daemon = Daemon::prepare(Options::default());
    let source = daemon.path("source.db");
    filled(&source, "WAL", 500);
    let bytes = fs::read(&source).expect("the source");
    let client = guid(1);
    fs::write(daemon.database(&client), &bytes[..bytes.len() / 2]).expect("written");
    daemon.restart();
    daemon.wait_error(&client, "failing", "incomplete");
    assert!(daemon.is_nothing_stored(&client));
}

/// Pages of zeros in the place of some that are in use; of each sixteen a few are b-tree pages.
fn with_a_hole(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let page = bytes.len() / 4096 / 2;
    bytes[page * 4096..][..16 * 4096].fill(0);
    bytes
}

/// Its size is right, and still it is none: what was never written into it reads as zeros.
#[test]
fn a_copy_with_a_hole_is_told_and_not_stored() {
    for mode in ["WAL", "DELETE"] {
        let daemon = Daemon::start(Options::default());
        let source = daemon.path("source.db");
        filled(&source, mode, 500);
        let bytes = fs::read(&source).expect("the source");
        let client = guid(1);
        let database = daemon.database(&client);
        fs::write(&database, with_a_hole(&bytes)).expect("written");
        daemon.wait_error(&client, "failing", "malformed");
        assert!(daemon.is_nothing_stored(&client), "{mode}");
        fs::write(&database, &bytes).expect("written");
        daemon.assert_replica_of(&client, &source, "restored.db");
        assert_eq!(daemon.moments(&client), [1]);
        // Over what is stored already it is no moment either.
        fs::write(&database, with_a_hole(&bytes)).expect("written");
        daemon.wait_error(&client, "failing", "malformed");
        assert_eq!(daemon.moments(&client), [1], "{mode}");
        fs::write(&database, &bytes).expect("written");
        daemon.wait_health(&client, |health| health["status"] == "active");
        daemon.sync(&client);
        daemon.assert_all_moments_are_sound(&client);
    }
}

/// A malformed database that was there before is the customer's all the same: its commits are stored, and what is wrong
/// with it is shown as a failure.
#[test]
fn a_malformed_database_that_was_there_before_is_stored_and_told() {
    let mut daemon = Daemon::prepare(Options::default());
    let source = daemon.path("source.db");
    filled(&source, "WAL", 500);
    let bytes = with_a_hole(&fs::read(&source).expect("the source"));
    let client = guid(1);
    let database = daemon.database(&client);
    fs::write(&database, &bytes).expect("written");
    daemon.restart();
    daemon.wait_error(&client, "failing", "malformed");
    daemon.sync(&client);
    sqlite::query(
        &database,
        "BEGIN; CREATE TABLE u(y); INSERT INTO u VALUES ('later'); COMMIT",
    );
    daemon.sync(&client);
    daemon.wait_error(&client, "failing", "malformed");
    assert_eq!(daemon.moments(&client).len(), 2);
}

/// SQLite sees an empty database, and removes the log: nothing of what was in it is a state of the new one.
#[test]
fn an_empty_file_beside_an_old_log_is_an_empty_database() {
    let daemon = Daemon::start(Options::default());
    let client = guid(1);
    let database = daemon.database(&client);
    sqlite::query(&database, "PRAGMA journal_mode=WAL; CREATE TABLE t(x)");
    sqlite::with_unflushed_log(&database, "INSERT INTO t VALUES ('deleted')");
    daemon.sync(&client);
    let generations = daemon.generations(&client).len();
    fs::remove_file(&database).expect("removed");
    assert!(companion(&database, "-wal").exists(), "the log is left");
    File::create(&database).expect("made anew");
    daemon.sync(&client);
    assert_eq!(daemon.generations(&client).len(), generations);
    sqlite::query(&database, "CREATE TABLE u(y); INSERT INTO u VALUES ('new')");
    daemon.sync(&client);
    let restored = daemon.restore(&client, &[], "restored.db");
    assert_eq!(sqlite::query(&restored, ".tables"), "u");
}

/// A file that gets its name while it is still being written is written by something else than SQLite as well.
#[test]
fn a_file_that_is_renamed_or_linked_while_it_is_written_is_stored_when_it_is_closed() {
    let daemon = Daemon::start(Options::default());
    let source = daemon.path("source.db");
    filled(&source, "WAL", 500);
    let bytes = fs::read(&source).expect("the source");
    let (renamed, linked) = (guid(1), guid(2));
    for (client, is_renamed) in [(&renamed, true), (&linked, false)] {
        let before = daemon.data().join("upload");
        let mut file = written(&before);
        file.write_all(&bytes[..bytes.len() / 2]).expect("written");
        match is_renamed {
            true => fs::rename(&before, daemon.database(client)).expect("renamed"),
            false => fs::hard_link(&before, daemon.database(client)).expect("linked"),
        }
        daemon.wait_error(client, "waiting", "arriving");
        std::thread::sleep(LONG_PAUSE);
        daemon.wait_error(client, "waiting", "arriving");
        assert!(daemon.is_nothing_stored(client));
        file.write_all(&bytes[bytes.len() / 2..]).expect("written");
        drop(file);
        daemon.assert_replica_of(client, &source, &format!("{client}.restored"));
        assert_eq!(daemon.moments(client), [1]);
    }
}

/// Its client is the other one from then on, also for whoever writes the file.
#[test]
fn a_copy_whose_name_changes_meanwhile_is_stored_when_it_is_closed() {
    let daemon = Daemon::start(Options::default());
    let (before, source) = (daemon.path("before.db"), daemon.path("source.db"));
    filled(&before, "DELETE", 500);
    filled(&source, "DELETE", 500);
    let bytes = fs::read(&source).expect("the source");
    let (first, second) = (guid(1), guid(2));
    cp(&before, &daemon.database(&first));
    daemon.assert_replica_of(&first, &before, "first.db");
    let file = OpenOptions::new()
        .write(true)
        .open(daemon.database(&first))
        .expect("opened");
    // To another client's name, away from that before anything of it is captured, and back to it.
    daemon.may_miss_gates();
    fs::rename(daemon.database(&first), daemon.database(&second)).expect("renamed");
    let aside = daemon.data().join("aside");
    fs::rename(daemon.database(&second), &aside).expect("renamed");
    fs::rename(&aside, daemon.database(&second)).expect("renamed");
    // What stands there is whole, and left alone.
    daemon.assert_replica_of(&second, &before, "renamed.db");
    for (index, piece) in bytes.chunks(bytes.len() / 3 + 1).enumerate() {
        let at = index * (bytes.len() / 3 + 1);
        file.write_all_at(piece, at as u64).expect("written");
        std::thread::sleep(PAUSE);
    }
    file.set_len(bytes.len() as u64).expect("cut");
    drop(file);
    daemon.assert_replica_of(&second, &source, "second.db");
    assert_eq!(daemon.moments(&second), [1, 2]);
}

/// An application that has it open writes the file that stands there again.
#[test]
fn a_name_that_goes_and_comes_back_is_followed_for_whoever_has_it_open() {
    for (served, rows) in [(Served::LogsPassed, 4_000), (Served::ByDaemon, 300)] {
        let daemon = Daemon::start(Options::served(served));
        let client = guid(1);
        let database = daemon.database(&client);
        filled(&database, "DELETE", rows);
        daemon.sync(&client);
        let mut session = Session::open(&database);
        session.run("SELECT count(*) FROM t;");
        let aside = daemon.data().join("aside");
        fs::rename(&database, &aside).expect("renamed");
        fs::rename(&aside, &database).expect("renamed");
        daemon.assert_replica_of(&client, &database, "renamed.db");
        session.run("INSERT INTO t(x) SELECT 'a' || hex(randomblob(500)) FROM t LIMIT 50;");
        daemon.assert_replica_of(&client, &database, "open.db");
        session.run("INSERT INTO t(x) VALUES ('b');");
        drop(session);
        sqlite::query(&database, "INSERT INTO t(x) VALUES ('c')");
        daemon.assert_replica_of(&client, &database, "closed.db");
    }
}

/// Somebody else has the file open to write, and writes nothing: what connections commit is stored, as long as it tells
/// of itself by a journal or a log.
#[test]
fn commits_are_stored_whoever_else_has_the_file_open() {
    for mode in ["WAL", "DELETE", "TRUNCATE", "PERSIST"] {
        let daemon = Daemon::start(Options::default());
        let client = guid(1);
        let database = daemon.database(&client);
        filled(&database, mode, 50);
        daemon.sync(&client);
        let held = OpenOptions::new()
            .append(true)
            .open(&database)
            .expect("opened");
        for n in 0..4 {
            sqlite::query(&database, &format!("INSERT INTO t(x) VALUES ('each {n}')"));
            daemon.assert_replica_of(&client, &database, &format!("each-{n}.db"));
        }
        let mut session = Session::open(&database);
        for n in 0..4 {
            session.run(&format!("INSERT INTO t(x) VALUES ('one {n}');"));
            daemon.sync(&client);
        }
        daemon.assert_replica_of(&client, &database, "one.db");
        drop(session);
        drop(held);
    }
}

/// What was opened is not what stands there now.
#[test]
fn a_handle_of_a_file_that_was_replaced_holds_nothing_up() {
    let daemon = Daemon::start(Options::default());
    let client = guid(1);
    let database = daemon.database(&client);
    filled(&database, "DELETE", 50);
    daemon.sync(&client);
    let held = OpenOptions::new()
        .write(true)
        .open(&database)
        .expect("opened");
    let new = daemon.data().join("new");
    filled(&new, "DELETE", 70);
    fs::rename(&new, &database).expect("renamed");
    daemon.assert_replica_of(&client, &database, "renamed.db");
    sqlite::query(
        &database,
        "PRAGMA journal_mode=MEMORY; INSERT INTO t(x) VALUES ('later')",
    );
    daemon.assert_replica_of(&client, &database, "later.db");
    drop(held);
}

/// An upload that stalls is not read again and again.
#[test]
fn a_copy_that_stalls_costs_nothing() {
    let daemon = Daemon::start(Options::default());
    let source = daemon.path("source.db");
    filled(&source, "DELETE", 2_000);
    let bytes = fs::read(&source).expect("the source");
    let client = guid(1);
    let file = written(&daemon.database(&client));
    file.set_len(bytes.len() as u64).expect("room");
    file.write_all_at(&bytes[..bytes.len() / 2], 0)
        .expect("written");
    let read = || {
        let io = fs::read_to_string(format!("/proc/{}/io", daemon.pid())).expect("counts");
        let line = io.lines().find_map(|line| line.strip_prefix("rchar: "));
        line.and_then(|count| count.parse::<u64>().ok())
            .expect("bytes")
    };
    daemon.wait_health(&client, |health| {
        let error = health["lastError"].as_str().unwrap_or_default();
        error.contains("page")
    });
    let before = read();
    std::thread::sleep(LONG_PAUSE);
    let after = read() - before;
    assert!(after < bytes.len() as u64 / 2, "{after} bytes");
    drop(file);
}

/// Archives and copies of many at once, by the programs that people use.
#[test]
fn archives_and_copies_of_many_are_whole() {
    let daemon = Daemon::start(Options::default());
    let folder = daemon.path("sources");
    fs::create_dir(&folder).expect("a folder");
    let mut writers = Vec::new();
    let clients: Vec<String> = (1..=6).map(guid).collect();
    for client in &clients {
        let pair = Pair::make(&daemon, &format!("sources/{client}.db"));
        writers.push(pair);
    }
    let begun = Instant::now();
    let archive = "tar -C \"$0\" -cf - . | tar -C \"$1\" -xf -";
    succeeded(
        Command::new("sh")
            .args(["-c", archive])
            .arg(&folder)
            .arg(daemon.data()),
    );
    for (client, pair) in clients.iter().zip(&writers) {
        daemon.assert_replica_of(client, &pair.database, &format!("{client}.restored"));
    }
    assert!(begun.elapsed() < Duration::from_secs(60));
}

/// Nobody waits for a copy at the end of the daemon.
#[test]
fn a_copy_under_way_does_not_hold_the_end_up() {
    let mut daemon = Daemon::start(Options::default());
    let source = daemon.path("source.db");
    filled(&source, "WAL", 500);
    let bytes = fs::read(&source).expect("the source");
    let client = guid(1);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(daemon.database(&client))
        .expect("opened");
    file.write_all(&bytes[..bytes.len() / 2]).expect("written");
    daemon.wait_error(&client, "waiting", "arriving");
    let begun = Instant::now();
    drop(file);
    assert!(daemon.terminate().success());
    assert!(
        begun.elapsed() < Duration::from_secs(15),
        "{:?}",
        begun.elapsed()
    );
}
