//! The process dies at each named point of its work: the next start mends what that leaves, nothing that was
//! acknowledged is missing, and the history goes on.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use litestream_multitenant::fault::Point;

use super::support::daemon::{Daemon, Options, guid};
use super::support::process::wait_until;
use super::support::sqlite;
use super::support::workload::{Workload, acknowledged, assert_has_all};

const FAULT: &str = "LITESTREAM_MULTITENANT_FAULT";
const CREATE: &str = "PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES (1)";
const EVENT_TIME: Duration = Duration::from_secs(15);
const SIGKILL: i32 = 9;

/// What is done to a daemon until it dies at its point.
struct Round {
    number: u32,
    point: Point,
    /// A client that is there all the time, one that begins in this round, and one that is removed in it.
    lasting: String,
    new: String,
    removed: String,
}

impl Round {
    fn new(number: u32, point: Point) -> Self {
        Self {
            number,
            point,
            lasting: guid(1),
            new: guid(1000 + number),
            removed: guid(2000 + number),
        }
    }

    fn acks(&self, daemon: &Daemon, client: &str) -> PathBuf {
        daemon.path(&format!("acks-{client}-{}", self.number))
    }

    fn write(&self, daemon: &Daemon, client: &str) -> Workload {
        let arguments = format!(
            "--seconds 60 --autocheckpoint 20 --seed {}",
            self.number + 1
        );
        let acks = self.acks(daemon, client);
        Workload::start(&daemon.database(client), &acks, &arguments)
    }

    /// Starts it, works on it, and waits for its death.
    fn die(&self, daemon: &mut Daemon) {
        if self.point == Point::TakenUp {
            return self.die_at_start(daemon);
        }
        if !daemon.restart_or_die_with(FAULT, &self.point.name()) {
            // What the lasting client had left was enough.
            return assert_killed(daemon.ended(), self.point);
        }
        let writers = [&self.lasting, &self.new].map(|client| self.write(daemon, client));
        if let Point::Vanished | Point::RemovalNoted | Point::RemovalTold | Point::Erased =
            self.point
        {
            // The daemon may die in the middle of it.
            let removed = fs::remove_file(daemon.database(&self.removed));
            assert!(removed.is_ok() || self.point != Point::Erased);
        }
        let status = daemon.ended();
        assert_killed(status, self.point);
        writers.into_iter().for_each(Workload::kill9);
    }

    fn die_at_start(&self, daemon: &mut Daemon) {
        sqlite::query(&daemon.database(&self.new), CREATE);
        let mut child = daemon
            .mount_command()
            .env(FAULT, self.point.name())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary starts");
        let status = wait_until(&mut child, Instant::now() + EVENT_TIME);
        assert_killed(status.expect("it dies"), self.point);
    }

    /// What each client has after the next start.
    fn assert_mended(&self, daemon: &Daemon) {
        let log = || format!("{:?}:\n{}", self.point, daemon.log.text());
        for client in [&self.lasting, &self.new] {
            if daemon.get(&format!("/api/health/clients/{client}")).0 == 404 {
                assert_eq!(client, &self.new, "{}", log());
                continue;
            }
            if client == &self.new {
                // Its journal may be hot: the image waits for whoever opens it next.
                sqlite::query(
                    &daemon.database(client),
                    "SELECT count(*) FROM sqlite_schema",
                );
            }
            let txid = daemon.sync(client);
            let acked = acknowledged(&self.acks(daemon, client));
            if txid == 0 {
                assert!(acked.is_empty(), "{}", log());
                continue;
            }
            let restored = daemon.restore(client, &[], &format!("{client}-{}.db", self.number));
            sqlite::assert_same(&daemon.database(client), &restored);
            if !acked.is_empty() {
                assert_has_all(&restored, &acked);
            }
            // A first snapshot that is stored and not noted is made again, as another generation's.
            let most = if client == &self.lasting { 1 } else { 2 };
            assert!(daemon.generations(client).len() <= most, "{}", log());
        }
        self.assert_removal_mended(daemon);
    }

    fn assert_removal_mended(&self, daemon: &Daemon) {
        let objects = daemon.path("store/databases").join(&self.removed);
        let status = daemon.get(&format!("/api/health/clients/{}", self.removed));
        match self.point {
            // Nobody knows any more who took the file away.
            Point::Vanished => {
                assert_eq!(status.1["status"], "missing");
                daemon.restore(&self.removed, &[], "removed.db");
            }
            Point::RemovalNoted | Point::RemovalTold | Point::Erased => {
                assert_eq!(status.0, 404, "{:?}: {}", self.point, status.1);
                let deadline = Instant::now() + EVENT_TIME;
                let registry = daemon.path("store/registry/removed");
                while objects.exists() || registry.exists() {
                    assert!(Instant::now() < deadline, "{:?}", self.point);
                    std::thread::park_timeout(Duration::from_millis(10));
                }
            }
            _ => {
                daemon.sync(&self.removed);
                assert!(objects.exists());
            }
        }
    }
}

fn assert_killed(status: std::process::ExitStatus, point: Point) {
    use std::os::unix::process::ExitStatusExt;
    assert_eq!(status.signal(), Some(SIGKILL), "{point:?}: {status}");
}

#[test]
fn a_death_at_each_point_is_mended() {
    let mut daemon = Daemon::start(Options {
        sync_interval: "20ms",
        tenant_defaults: ", snapshotInterval: 300ms, removedRetention: 200ms",
        time_limit: Duration::from_secs(170),
        ..Options::default()
    });
    let lasting = daemon.database(&guid(1));
    Workload::start(&lasting, &daemon.path("acks"), "--transactions 5").finish();
    daemon.sync(&guid(1));
    for (number, point) in (0..).zip(Point::ALL) {
        let round = Round::new(number, point);
        sqlite::query(&daemon.database(&round.removed), CREATE);
        daemon.sync(&round.removed);
        assert!(daemon.terminate().success());
        round.die(&mut daemon);
        daemon.restart();
        round.assert_mended(&daemon);
    }
    daemon.command(&["verify"], |_| {});
    assert!(daemon.terminate().success());
}
