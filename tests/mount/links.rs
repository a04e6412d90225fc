//! One file under several names: whatever is written to it, by whichever of them, is stored under the name that is registered.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::support::daemon::{Daemon, Options, Served, guid};
use super::support::process::succeeded;
use super::support::sqlite::{self, Session};

const MODES: [&str; 6] = ["WAL", "DELETE", "TRUNCATE", "PERSIST", "MEMORY", "OFF"];
const SERVED: [Served; 2] = [Served::LogsPassed, Served::ByDaemon];

fn create(database: &Path, mode: &str) {
    sqlite::query(
        database,
        &format!("PRAGMA journal_mode={mode}; CREATE TABLE t(x); INSERT INTO t VALUES ('first')"),
    );
}

/// A connection in that mode, which stays open.
fn opened(database: &Path, mode: &str) -> Session {
    let mut session = Session::open(database);
    session.run(&format!("PRAGMA journal_mode={mode}; SELECT * FROM t;"));
    session
}

fn three_rows(session: &mut Session, text: &str) {
    for n in 1..=3 {
        session.run(&format!("INSERT INTO t VALUES ('{text} {n}');"));
    }
}

/// A second name of a live database, and the client's.
struct Linked {
    mode: &'static str,
    client: String,
    live: PathBuf,
    other: PathBuf,
}

impl Linked {
    /// One for each mode and each kind of second name, made by `cp -al` of the whole folder or by `ln` to a plain name.
    fn all(daemon: &Daemon) -> Vec<Self> {
        let folder = |name: &str| daemon.data().join(name);
        fs::create_dir(folder("live")).expect("a folder");
        let mut all = Vec::new();
        for (n, mode) in MODES.into_iter().enumerate() {
            for is_plain in [false, true] {
                let client = guid(2 * n as u32 + u32::from(is_plain));
                let name = format!("{client}.db");
                let live = folder("live").join(&name);
                create(&live, mode);
                let other = match is_plain {
                    true => folder("live").join(format!("plain-{n}")),
                    false => folder("backup").join(&name),
                };
                all.push(Self {
                    mode,
                    client,
                    live,
                    other,
                });
            }
        }
        all
    }

    fn link(all: &[Self], daemon: &Daemon) {
        for linked in all.iter().filter(|linked| linked.is_plain()) {
            fs::hard_link(&linked.live, &linked.other).expect("linked");
        }
        succeeded(
            Command::new("cp")
                .arg("-al")
                .arg(daemon.data().join("live"))
                .arg(daemon.data().join("backup")),
        );
    }

    fn is_plain(&self) -> bool {
        !self.other.ends_with(format!("{}.db", self.client))
    }

    fn assert_stored(&self, daemon: &Daemon, text: &str) {
        daemon.sync(&self.client);
        let name = format!("{}.restored", self.client);
        let restored = daemon.restore(&self.client, &["--force"], &name);
        let rows = |database: &Path| sqlite::query(database, "SELECT x FROM t");
        assert_eq!(
            rows(&restored),
            rows(&self.live),
            "{} {} {text}",
            self.mode,
            self.other.display()
        );
    }
}

/// Made before the start or while it runs, and looked up before the name that is registered.
#[test]
fn what_is_written_by_a_second_name_is_stored() {
    std::thread::scope(|scope| {
        for served in SERVED {
            for is_before in [true, false] {
                scope.spawn(move || written_by_a_second_name(served, is_before));
            }
        }
    });
}

fn written_by_a_second_name(served: Served, is_before: bool) {
    let mut daemon = Daemon::start(Options::served(served));
    let all = Linked::all(&daemon);
    all.iter().for_each(|linked| {
        daemon.sync(&linked.client);
    });
    if is_before {
        assert!(daemon.terminate().success());
        Linked::link(&all, &daemon);
        daemon.restart();
    } else {
        Linked::link(&all, &daemon);
    }
    all.iter().for_each(|linked| {
        fs::metadata(&linked.other).expect("looked up first");
    });
    for linked in &all {
        let case = format!("{served:?}, before the start: {is_before}");
        // By the name that is registered.
        let mut session = opened(&linked.live, linked.mode);
        three_rows(&mut session, "live");
        linked.assert_stored(&daemon, &format!("{case}, by its own name"));
        drop(session);
        // By the other one.
        let mut session = opened(&linked.other, linked.mode);
        three_rows(&mut session, "other");
        if linked.mode != "WAL" {
            linked.assert_stored(&daemon, &format!("{case}, by the other name"));
        }
        drop(session);
        linked.assert_stored(&daemon, &format!("{case}, closed"));
        // Past SQLite: cut by the path, and put back by a handle of the other name.
        let bytes = fs::read(&linked.live).expect("read");
        let file = OpenOptions::new().write(true).open(&linked.other);
        let file = file.expect("opened");
        sqlite::query(&linked.live, "INSERT INTO t VALUES ('to be undone')");
        daemon.sync(&linked.client);
        file.write_all_at(&bytes, 0).expect("written");
        file.set_len(bytes.len() as u64).expect("cut");
        drop(file);
        linked.assert_stored(&daemon, &format!("{case}, written over"));
    }
}

/// What writes it goes on with the name that it has then.
#[test]
fn a_rename_takes_open_connections_along() {
    for served in SERVED {
        let daemon = Daemon::start(Options::served(served));
        for (n, mode) in MODES.into_iter().enumerate() {
            for (m, from) in ["GUID", "plain", "back"].into_iter().enumerate() {
                let number = 10 * n as u32 + 3 * m as u32;
                let (first, client) = (guid(100 + number), guid(101 + number));
                let before = match from {
                    "plain" => daemon.data().join(format!("plain-{number}")),
                    _ => daemon.database(&first),
                };
                create(&before, mode);
                let mut session = opened(&before, mode);
                three_rows(&mut session, "before");
                if mode == "WAL" {
                    session.run("PRAGMA wal_checkpoint(TRUNCATE);");
                }
                let after = match from {
                    "back" => {
                        let aside = daemon.data().join("aside");
                        fs::rename(&before, &aside).expect("renamed");
                        three_rows(&mut session, "aside");
                        fs::rename(&aside, &before).expect("renamed");
                        before.clone()
                    }
                    _ => daemon.database(&client),
                };
                let client = match from {
                    "back" => first,
                    _ => client,
                };
                if before != after {
                    fs::rename(&before, &after).expect("renamed");
                }
                let linked = Linked {
                    mode,
                    client,
                    live: after,
                    other: before,
                };
                let case = format!("{served:?} {from}");
                linked.assert_stored(&daemon, &format!("{case}, renamed"));
                three_rows(&mut session, "after");
                if mode != "WAL" || from == "back" {
                    linked.assert_stored(&daemon, &format!("{case}, open"));
                }
                drop(session);
                linked.assert_stored(&daemon, &format!("{case}, closed"));
            }
        }
    }
}

/// The first name keeps the history, the second one is refused, by name and with the reason, and has the file when the first goes.
#[test]
fn of_two_identities_of_one_file_the_first_keeps_it() {
    for served in SERVED {
        let mut daemon = Daemon::start(Options::served(served));
        for (n, mode) in MODES.into_iter().enumerate() {
            // The name that comes second is the first in the order of names.
            let (second, first) = (guid(200 + 2 * n as u32), guid(201 + 2 * n as u32));
            let (a, b) = (daemon.database(&first), daemon.database(&second));
            create(&a, mode);
            daemon.sync(&first);
            let mut session = opened(&a, mode);
            fs::hard_link(&a, &b).expect("linked");
            let linked = Linked {
                mode,
                client: first.clone(),
                live: a.clone(),
                other: b.clone(),
            };
            let is_refused = |daemon: &Daemon| {
                let refused = daemon.get("/api/health/clients?status=refused").1;
                let clients = refused["clients"].as_array().expect("a list");
                let mut clients = clients.iter();
                let found = clients.find(|client| client["dbPath"] == b.to_str().expect("text"));
                let found = found.unwrap_or_else(|| panic!("{refused}"));
                let error = found["lastError"].as_str().expect("a reason");
                assert!(error.contains(a.to_str().expect("text")), "{error}");
            };
            is_refused(&daemon);
            three_rows(&mut session, "live");
            linked.assert_stored(&daemon, "linked");
            let mut other = opened(&b, mode);
            if mode != "WAL" {
                three_rows(&mut other, "other");
                three_rows(&mut session, "live again");
                linked.assert_stored(&daemon, "both");
            }
            drop(other);
            drop(session);
            linked.assert_stored(&daemon, "closed");
            let begun = Instant::now();
            assert!(daemon.terminate().success());
            assert!(
                begun.elapsed() < Duration::from_secs(10),
                "nobody waits for what is refused"
            );
            daemon.restart();
            fs::metadata(&b).expect("looked up first");
            is_refused(&daemon);
            let mut session = opened(&b, mode);
            three_rows(&mut session, "restarted");
            drop(session);
            linked.assert_stored(&daemon, "restarted");
            // With a connection open, which goes on by the name that is left.
            let mut session = opened(&b, mode);
            fs::remove_file(&a).expect("removed");
            let linked = Linked {
                mode,
                client: second,
                live: b.clone(),
                other: a,
            };
            three_rows(&mut session, "left");
            linked.assert_stored(&daemon, "left");
            drop(session);
            linked.assert_stored(&daemon, "left, closed");
            fs::remove_file(&b).expect("removed");
        }
    }
}
