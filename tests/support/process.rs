//! Child processes: found beside the test, signalled by their id, and never waited for without a deadline.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The binary under test.
pub fn binary() -> Command {
    Command::new(env!("CARGO_BIN_EXE_litestream-multitenant"))
}

/// A program of `examples/`, which `cargo test` builds beside the tests.
pub fn example(name: &str) -> Command {
    Command::new(built_example(name))
}

/// A library of `examples/`, to be preloaded.
pub fn example_library(name: &str) -> PathBuf {
    built_example(&format!("lib{name}.so"))
}

fn built_example(file: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the test's own path");
    let target = test.ancestors().nth(2).expect("target/PROFILE/deps/test");
    let path = target.join("examples").join(file);
    assert!(
        path.exists(),
        "{} is missing: run `cargo build --examples`",
        path.display()
    );
    path
}

/// Runs a command that ends by itself.
pub fn output(command: &mut Command) -> Output {
    command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// What it printed, where it succeeded.
pub fn succeeded(command: &mut Command) -> String {
    let output = output(command);
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("text")
}

pub fn signal(child: &Child, signal: i32) {
    let pid = i32::try_from(child.id()).expect("a process id");
    // SAFETY: kill has no memory effects; the child is not reaped yet, so the id is its own.
    let outcome = unsafe { libc::kill(pid, signal) };
    assert_eq!(outcome, 0, "{}", std::io::Error::last_os_error());
}

/// Waits for the end of a child; none where the time is up.
pub fn wait_until(child: &mut Child, deadline: Instant) -> Option<ExitStatus> {
    loop {
        if let Some(status) = child.try_wait().expect("a child of ours") {
            return Some(status);
        }
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// A process that does nothing but hold something, until it is dropped.
pub struct Bystander(Child);

impl Bystander {
    pub fn with_open(file: &Path) -> Self {
        let file = OpenOptions::new().read(true).write(true).open(file);
        Self::start(Command::new("sleep").stdin(file.expect("it opens")))
    }

    pub fn in_directory(dir: &Path) -> Self {
        Self::start(Command::new("sleep").current_dir(dir))
    }

    /// A command that ends in such a process.
    pub fn reading(command: &mut Command) -> Self {
        Self(
            command
                .spawn()
                .unwrap_or_else(|error| panic!("{command:?}: {error}")),
        )
    }

    fn start(command: &mut Command) -> Self {
        Self::reading(command.arg("300"))
    }

    /// Waits until it has the file open; it may have to open it by itself.
    pub fn wait_until_open(&self, file: &Path) {
        let deadline = Instant::now() + Duration::from_secs(10);
        let has_it = || {
            std::fs::read_link(format!("/proc/{}/fd/0", self.pid())).is_ok_and(|open| open == file)
        };
        while !has_it() {
            assert!(
                Instant::now() < deadline,
                "it does not open {}",
                file.display()
            );
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }

    pub fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        // Neither fails for a child that was not waited for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Kills a process when a test takes too long, so that whoever waits for it goes on and fails.
pub struct Watchdog {
    over: Arc<(Mutex<bool>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    pub fn new(child: &Child, limit: Duration) -> Self {
        let over = Arc::new((Mutex::new(false), Condvar::new()));
        let watched = over.clone();
        let pid = i32::try_from(child.id()).expect("a process id");
        let thread = std::thread::spawn(move || {
            let (lock, changed) = &*watched;
            let over = lock.lock().expect("not poisoned");
            let (over, _) = changed
                .wait_timeout_while(over, limit, |over| !*over)
                .expect("not poisoned");
            if !*over {
                eprintln!("process {pid} is killed after {limit:?}");
                // SAFETY: as in `signal`; the watchdog ends with the child, before its id can come round again.
                unsafe { libc::kill(pid, libc::SIGKILL) };
            }
        });
        Self {
            over,
            thread: Some(thread),
        }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        *self.over.0.lock().expect("not poisoned") = true;
        self.over.1.notify_all();
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the watchdog does not panic");
        }
    }
}
