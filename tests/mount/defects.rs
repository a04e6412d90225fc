//! Defects in the work for one client: the others go on, its application is answered in time, health says why it fails,
//! and it recovers by itself once the defect is gone.

use std::fs::{self, File};
use std::time::{Duration, Instant};

use litestream_multitenant::fault::Defect;

use serde_json::Value;

use super::support::daemon::{Daemon, Options, guid};
use super::support::sqlite;
use super::support::workload::{Workload, acknowledged, assert_has_all};

const WRITING: &str = "--seconds 100 --autocheckpoint 20 --pause-ms 10";
const COMMITS: usize = 60;
/// A quarantine of ten seconds, or the longest pause of 30 s between attempts, and then some.
const PATIENCE: Duration = Duration::from_secs(45);

struct Scene {
    daemon: Daemon,
    sick: String,
    sound: String,
}

impl Scene {
    fn new() -> Self {
        let mut daemon = Daemon::prepare(Options {
            tenant_defaults: ", snapshotInterval: 300ms",
            time_limit: Duration::from_secs(170),
            ..Options::default()
        });
        let folder = daemon.path("defects");
        fs::create_dir(&folder).expect("a folder");
        let folder = folder.to_str().expect("text").to_owned();
        daemon.add_environment("LITESTREAM_MULTITENANT_DEFECTS", folder);
        daemon.restart();
        daemon.may_miss_gates();
        Self {
            daemon,
            sick: guid(1),
            sound: guid(2),
        }
    }

    fn write(&self, client: &str) -> Workload {
        let database = self.daemon.database(client);
        Workload::start(&database, &self.daemon.path(client), WRITING)
    }

    /// How long the next commits of a client take.
    fn wait_for_commits(&self, client: &str, writer: &Workload) -> Duration {
        let begun = Instant::now();
        writer.wait_for_acks(acknowledged(&self.daemon.path(client)).len() + COMMITS);
        begun.elapsed()
    }

    fn set(&self, defect: Defect) {
        let name = defect.file_name(&self.sick);
        File::create(self.daemon.path("defects").join(name)).expect("a file");
    }

    fn mend(&self, defect: Defect) {
        let name = defect.file_name(&self.sick);
        fs::remove_file(self.daemon.path("defects").join(name)).expect("removed");
    }

    fn assert_told(&self, defect: Defect) {
        let what = format!("a defect in {defect:?}");
        if defect == Defect::Upkeep {
            // The replica is as good as before; what is tried again is the snapshot.
            let is_told = |line: &str| line.contains("Upkeep has failed") && line.contains(&what);
            self.daemon.wait_for(PATIENCE, "it is not told", || {
                self.daemon.log.text().lines().any(is_told)
            });
            return;
        }
        // It is tried again all the while, and may be mended between two questions.
        let instance = || self.daemon.get("/api/health").1["status"].clone();
        self.daemon.wait_health(&self.sick, |health| {
            let error = health["lastError"].as_str().unwrap_or_default();
            let status = health["status"].as_str().unwrap_or_default();
            let is_told = ["failing", "gapped"].contains(&status) && error.contains(&what);
            is_told && instance() == "degraded"
        });
    }

    /// All that was acknowledged is in the store.
    fn assert_stored(&self, client: &str, name: &str) {
        let acknowledged = acknowledged(&self.daemon.path(client));
        self.daemon.sync(client);
        let restored = self.daemon.restore(client, &[], name);
        assert_has_all(&restored, &acknowledged);
    }
}

#[test]
fn a_defect_in_the_work_for_one_client_is_told_and_costs_nobody_else() {
    let scene = Scene::new();
    let (sick, sound) = (&scene.sick, &scene.sound);
    let writers = [scene.write(sick), scene.write(sound)];
    for (client, writer) in [sick, sound].into_iter().zip(&writers) {
        writer.wait_for_acks(20);
        scene.daemon.sync(client);
    }
    for defect in Defect::ALL {
        let healthy = scene.wait_for_commits(sick, &writers[0]);
        scene.set(defect);
        if defect == Defect::Image {
            // Only what lost its way, or begins, is read as a whole.
            scene.set(Defect::Gate);
            scene.wait_for_commits(sick, &writers[0]);
            scene.mend(Defect::Gate);
        }
        scene.assert_told(defect);
        let during = scene.wait_for_commits(sick, &writers[0]);
        assert!(
            during < healthy * 10 + Duration::from_secs(2),
            "{defect:?}: {during:?}, without it {healthy:?}"
        );
        scene.assert_stored(sound, &format!("{defect:?}-sound.db"));
        let health = scene.daemon.health(sound);
        assert_eq!(health["status"], "active", "{defect:?}: {health}");
        scene.mend(defect);
        scene.daemon.wait_for(PATIENCE, "it does not recover", || {
            let health = scene.daemon.health(sick);
            health["status"] == "active" && health["lastError"].is_null()
        });
        scene.assert_stored(sick, &format!("{defect:?}-sick.db"));
    }
    writers.into_iter().for_each(Workload::kill9);
    for client in [sick, sound] {
        scene.assert_stored(client, &format!("{client}.db"));
        let restored = scene.daemon.path(&format!("{client}.db"));
        sqlite::assert_same(&scene.daemon.database(client), &restored);
    }
    scene.daemon.command(&["verify"], |_| {});
    assert_panics_are_logged(&scene.daemon.log.text());
}

/// Each is a line like any other, written by the thread that writes all of them.
fn assert_panics_are_logged(log: &str) {
    let event = |line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no event: {line}"));
    let events: Vec<Value> = log.lines().map(event).collect();
    for defect in Defect::ALL {
        let what = format!("a defect in {defect:?}");
        let is_told = |event: &&Value| {
            let text = event["panic"].as_str().unwrap_or_default();
            event["message"] == "A thread panicked" && text.contains(&what)
        };
        let told = events.iter().find(is_told);
        let told = told.unwrap_or_else(|| panic!("{what} is not logged:\n{log}"));
        assert!(
            told["thread"].is_string() && told["place"].is_string(),
            "{told}"
        );
    }
}
