//! The daemon as a child process of the demo: started, asked over HTTP, killed, and never left behind.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{ChildStderr, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::Failure;
use super::ask::ask;
use super::demo::failed;
use crate::api::Listen;

const START_TIME: Duration = Duration::from_secs(10);
const STOP_TIME: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(10);
/// Log lines that wait to be looked at while the daemon starts.
const KEPT_LINES: usize = 20;

/// A daemon over one directory, with the directory store.
pub(super) struct Child {
    watch_path: PathBuf,
    store: PathBuf,
    running: Option<Running>,
}

struct Running {
    process: std::process::Child,
    api: Listen,
}

impl Child {
    pub(super) fn new(watch_path: PathBuf, store: PathBuf) -> Self {
        Self {
            watch_path,
            store,
            running: None,
        }
    }

    /// Starts this program's `mount`, and waits until it is ready.
    pub(super) fn start(&mut self) -> Result<(), Failure> {
        let program = std::env::current_exe().map_err(failed("find this program"))?;
        let mut process = Command::new(program)
            .arg("mount")
            .arg("-bucket")
            .arg(format!("file://{}", self.store.display()))
            .arg("-watch-path")
            .arg(&self.watch_path)
            .args(["-listen", "127.0.0.1:0"])
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed("start the daemon"))?;
        let stderr = process.stderr.take().expect("BUG: it is piped");
        let running = self.running.insert(Running {
            process,
            api: Listen::Tcp(SocketAddr::from(([127, 0, 0, 1], 0))),
        });
        running.api = wait_until_ready(&follow(stderr)?)?;
        Ok(())
    }

    fn running(&self) -> Result<&Running, Failure> {
        self.running
            .as_ref()
            .ok_or_else(|| Failure::Other("demo: the daemon does not run".to_owned()))
    }

    /// One request to its API; an answer other than 200 is an error.
    pub(super) fn ask(&self, method: &str, path: &str, time: Duration) -> Result<Value, Failure> {
        let api = self.running()?.api.clone();
        // A little more than the API itself may wait.
        let time = time + Duration::from_secs(5);
        let answer = ask(&api, method, path, None, time).map_err(failed("ask the API"))?;
        if answer.status != 200 {
            return Err(Failure::Other(format!(
                "demo: {method} {path}: {}",
                answer.body
            )));
        }
        serde_json::from_str(&answer.body).map_err(failed("read the API's answer"))
    }

    /// Kills it without warning. The mount stays, dead.
    pub(super) fn kill(&mut self) -> Result<(), Failure> {
        let Some(mut running) = self.running.take() else {
            return Ok(());
        };
        running.process.kill().map_err(failed("kill the daemon"))?;
        running.process.wait().map_err(failed("kill the daemon"))?;
        Ok(())
    }

    /// Asks it to stop; it must do so in time and without an error.
    pub(super) fn terminate(&mut self) -> Result<(), Failure> {
        let Some(mut running) = self.running.take() else {
            return Ok(());
        };
        match running.terminate() {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(Failure::Other(format!(
                "demo: the daemon ended with {status}"
            ))),
            None => {
                self.running = Some(running);
                Err(Failure::Other("demo: the daemon does not stop".to_owned()))
            }
        }
    }

    /// Ends whatever still runs and clears the mount, however the demo went.
    pub(super) fn stop(&mut self) {
        if let Some(mut running) = self.running.take()
            && running.terminate().is_none()
        {
            // It is past being asked; the mount goes below.
            let _ = running.process.kill();
            let _ = running.process.wait();
        }
        // An error says that nothing is mounted there, which is how it should be.
        let _ = unmount(&self.watch_path, UnmountFlags::DETACH);
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Running {
    /// Asks it to stop; none where it does not in time.
    fn terminate(&mut self) -> Option<ExitStatus> {
        let pid = Pid::from_child(&self.process);
        // It fails only for a process that has ended already, which the wait below finds.
        let _ = kill_process(pid, Signal::TERM);
        let deadline = Instant::now() + STOP_TIME;
        while Instant::now() < deadline {
            if let Ok(Some(status)) = self.process.try_wait() {
                return Some(status);
            }
            std::thread::sleep(POLL);
        }
        None
    }
}

/// Reads the daemon's log to its end, so that it never waits for us; as long as somebody listens, lines are handed over.
fn follow(stderr: ChildStderr) -> Result<Receiver<String>, Failure> {
    let (sender, lines) = sync_channel(KEPT_LINES);
    std::thread::Builder::new()
        .name("demo-log".to_owned())
        .spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                // Without a receiver the start is over, and nobody asks any more.
                let _ = sender.send(line);
            }
        })
        .map_err(failed("start a thread"))?;
    Ok(lines)
}

/// The API's address, from the log line that says that all mounts answer.
fn wait_until_ready(lines: &Receiver<String>) -> Result<Listen, Failure> {
    let deadline = Instant::now() + START_TIME;
    let mut said = String::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let line = match lines.recv_timeout(left) {
            Ok(line) => line,
            Err(reason) => {
                let said = said.trim_start_matches("litestream-multitenant: ");
                let what = match reason {
                    RecvTimeoutError::Timeout => "is not ready in time",
                    RecvTimeoutError::Disconnected => "did not start",
                };
                return Err(Failure::Other(format!("demo: the daemon {what}: {said}")));
            }
        };
        let event: Value = serde_json::from_str(&line).unwrap_or_default();
        if event["message"] == "Ready" {
            let listen = event["listen"].as_str().unwrap_or_default();
            return listen.parse().map_err(failed("read the API's address"));
        }
        said = line;
    }
}
