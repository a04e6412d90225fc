//! Garage, where the environment names its program; `tests/python/garage_server.py` starts it.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdin, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::daemon::S3;
use super::process::Watchdog;
use super::python;

/// Names the program. Where it is not set, tests of all servers leave Garage out.
const PROGRAM: &str = "LITESTREAM_MULTITENANT_GARAGE";

/// Longer than all tests of a process, which share one.
const TIME_LIMIT: Duration = Duration::from_secs(900);

/// Serves until it is dropped.
pub struct Garage {
    pub store: S3,
    /// The script ends with its input, and the server with the script.
    input: Option<ChildStdin>,
    // Before the child, so that it ends before the child's id can be reused.
    watchdog: Option<Watchdog>,
    child: Child,
}

impl Garage {
    /// None where it is not asked for; one that is asked for and does not start fails the test.
    pub fn start_if_named() -> Option<Self> {
        let program = std::env::var_os(PROGRAM)?;
        let mut child = python::script("garage_server.py")
            .arg(program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the script starts");
        let watchdog = Watchdog::new(&child, TIME_LIMIT);
        let mut line = String::new();
        let stdout = child.stdout.take().expect("it is piped");
        BufReader::new(stdout).read_line(&mut line).expect("text");
        let ready: Value = serde_json::from_str(&line)
            .unwrap_or_else(|error| panic!("Garage does not start: {error}: {line:?}"));
        let text = |key: &str| ready[key].as_str().expect("text").to_owned();
        Some(Self {
            store: S3 {
                endpoint: text("endpoint"),
                bucket: text("bucket"),
                access_key: text("access"),
                secret_key: text("secret"),
            },
            input: child.stdin.take(),
            watchdog: Some(watchdog),
            child,
        })
    }
}

impl Drop for Garage {
    fn drop(&mut self) {
        self.input = None;
        // Its outcome is nobody's business any more; the watchdog ends a script that hangs.
        let _ = self.child.wait();
        self.watchdog = None;
    }
}
