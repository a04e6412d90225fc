//! Litestream over a scratch directory: started, and always ended.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::support::daemon::S3;
use crate::support::process::{Watchdog, signal, succeeded, wait_until};

const VERSION: &str = "0.5.17";
const TIME_LIMIT: Duration = Duration::from_secs(3_600);
const START_TIME: Duration = Duration::from_secs(10);
/// It has read the directory: where a file goes away meanwhile, it ends.
const STARTED: &str = "found databases in directory";
const STOP_TIME: Duration = Duration::from_secs(60);

pub struct Litestream {
    s3: S3,
    scratch: TempDir,
    child: Child,
    _watchdog: Watchdog,
}

impl Litestream {
    /// Replicates what there is and will be in an empty directory. `interval` is that of all its looks and uploads; its
    /// own defaults (a second) without one.
    pub fn start(s3: &S3, interval: Option<&str>) -> Self {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let data = scratch.path().join("data");
        fs::create_dir(&data).expect("a directory");
        let place = format!(
            "dir: {}\n    pattern: '*.db'\n    watch: true",
            data.display()
        );
        let path = scratch.path().join("litestream.yml");
        let text = configuration(s3, &place, "databases", interval);
        fs::write(&path, text).expect("the configuration");
        let log = File::create(scratch.path().join("log")).expect("its log");
        let errors = log.try_clone().expect("a descriptor");
        let child = command(&path, "replicate")
            .stdout(log)
            .stderr(errors)
            .spawn()
            .expect("the program starts");
        let litestream = Self {
            s3: s3.clone(),
            scratch,
            _watchdog: Watchdog::new(&child, TIME_LIMIT),
            child,
        };
        let end = Instant::now() + START_TIME;
        while !litestream.log().contains(STARTED) {
            assert!(Instant::now() < end, "not started: {}", litestream.log());
            thread::sleep(Duration::from_millis(10));
        }
        litestream
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn data(&self) -> PathBuf {
        self.scratch.path().join("data")
    }

    /// Writes the newest state of a database, as the store has it, into a new file.
    pub fn restore(&self, database: &Path, output: &Path) {
        // It does not restore what it knows only by its directory.
        let name = database.file_name().expect("a file");
        let below = format!("databases/{}", name.display());
        let place = format!("path: {}", database.display());
        let path = self.scratch.path().join("restore.yml");
        let text = configuration(&self.s3, &place, &below, None);
        fs::write(&path, text).expect("the configuration");
        let mut command = command(&path, "restore");
        succeeded(command.arg("-o").arg(output).arg(database));
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.scratch.path().join("log")).expect("its log")
    }
}

impl Drop for Litestream {
    fn drop(&mut self) {
        signal(&self.child, libc::SIGTERM);
        if wait_until(&mut self.child, Instant::now() + STOP_TIME).is_none() {
            // It had its time; what is left is removed with the scratch directory.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// `place`: which databases; `below`: where in the bucket.
fn configuration(s3: &S3, place: &str, below: &str, interval: Option<&str>) -> String {
    let every = |key: &str, indent: &str| {
        let line = |interval| format!("{indent}{key}: {interval}\n");
        interval.map(line).unwrap_or_default()
    };
    format!(
        "dbs:
  - {place}
{}    replica:
      type: s3
      bucket: {}
      path: {below}
      endpoint: {}
      region: us-east-1
      force-path-style: true
      access-key-id: {}
      secret-access-key: {}
{}",
        every("monitor-interval", "    "),
        s3.bucket,
        s3.endpoint,
        s3.access_key,
        s3.secret_key,
        every("sync-interval", "      "),
    )
}

fn command(configuration: &Path, word: &str) -> Command {
    let mut command = Command::new(program());
    // It refuses to start with both this and an endpoint, whose requests need no certificate.
    command.env_remove("AWS_CA_BUNDLE");
    command.args([word, "-config"]).arg(configuration);
    command
}

/// As `benches/side_by_side/run` installs it.
fn program() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program = root.join("target/litestream/bin/litestream");
    assert!(
        program.exists(),
        "{} is missing: run benches/side_by_side/run",
        program.display()
    );
    program
}

/// Fails unless it is the version that is compared with.
pub fn check_version() {
    let version = succeeded(Command::new(program()).arg("version"));
    assert_eq!(version.trim(), VERSION, "another version of Litestream");
}
