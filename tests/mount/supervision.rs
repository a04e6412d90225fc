//! What the service manager is told: when the mount can be used, that it still answers, and when it ends.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use super::support::daemon::{Daemon, Options, guid};
use super::support::process::succeeded;
use super::support::{mounts, sqlite};

const WATCHDOG: Duration = Duration::from_millis(300);
const LIMIT: Duration = Duration::from_secs(10);

/// The service manager's end of the socket.
struct Manager {
    socket: UnixDatagram,
    heard: Vec<String>,
}

impl Manager {
    /// A daemon that is started as systemd would, and whoever started it.
    fn start(environment: &[(&'static str, &str)]) -> (Daemon, Self) {
        let mut daemon = Daemon::prepare(Options::default());
        let path = daemon.path("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        let path = path.to_str().expect("text").to_owned();
        daemon.add_environment("NOTIFY_SOCKET", path);
        daemon.add_environment("WATCHDOG_USEC", WATCHDOG.as_micros().to_string());
        for (name, value) in environment {
            daemon.add_environment(name, (*value).to_owned());
        }
        daemon.restart();
        let heard = Vec::new();
        (daemon, Self { socket, heard })
    }

    /// The next message; none where the time is up.
    fn next(&mut self, limit: Duration) -> Option<String> {
        let limit = limit.max(Duration::from_millis(1));
        self.socket.set_read_timeout(Some(limit)).expect("a limit");
        let mut buffer = [0; 4096];
        let length = self.socket.recv(&mut buffer).ok()?;
        let text = String::from_utf8(buffer[..length].to_vec()).expect("text");
        self.heard.push(text.clone());
        Some(text)
    }

    fn wait_for(&mut self, line: &str) {
        let deadline = Instant::now() + LIMIT;
        while let Some(text) = self.next(deadline.saturating_duration_since(Instant::now())) {
            if text.lines().any(|one| one == line) {
                return;
            }
        }
        panic!("no {line:?} in {:?}", self.heard);
    }
}

/// The threads of a process that serve the mount, stopped until the drop, while all others go on.
struct StoppedThreads(Vec<i32>);

impl StoppedThreads {
    fn serving(pid: u32) -> Self {
        let mut stopped = Vec::new();
        for thread in fs::read_dir(format!("/proc/{pid}/task")).expect("its threads") {
            let thread = thread.expect("a thread").path();
            let name = fs::read_to_string(thread.join("comm")).expect("its name");
            if name.starts_with("fuser-") {
                let id = thread.file_name().and_then(|id| id.to_str());
                stopped.push(id.and_then(|id| id.parse().ok()).expect("its number"));
            }
        }
        assert!(!stopped.is_empty(), "the mount has threads");
        for thread in &stopped {
            stop(*thread);
        }
        Self(stopped)
    }
}

fn stop(thread: i32) {
    // SAFETY: neither request passes memory; the thread belongs to a child of this process.
    unsafe {
        assert_eq!(libc::ptrace(libc::PTRACE_SEIZE, thread, 0, 0), 0);
        assert_eq!(libc::ptrace(libc::PTRACE_INTERRUPT, thread, 0, 0), 0);
        assert_eq!(
            libc::waitpid(thread, std::ptr::null_mut(), libc::__WALL),
            thread
        );
    }
}

impl Drop for StoppedThreads {
    fn drop(&mut self) {
        for thread in &self.0 {
            // SAFETY: as above. It fails only for a thread that has ended.
            unsafe { libc::ptrace(libc::PTRACE_DETACH, *thread, 0, 0) };
        }
    }
}

#[test]
fn ready_alive_and_stopping() {
    let (mut daemon, mut manager) = Manager::start(&[]);
    let first = manager.next(LIMIT).expect("a message");
    assert!(first.starts_with("READY=1\nSTATUS=Serving"), "{first}");
    assert!(mounts::connection_at(&daemon.data()).is_some());
    for _ in 0..3 {
        manager.wait_for("WATCHDOG=1");
    }
    daemon.signal(libc::SIGHUP);
    manager.wait_for("RELOADING=1");
    let said = manager.heard.last().expect("just heard");
    assert!(said.contains("\nMONOTONIC_USEC="), "{said}");
    manager.wait_for("READY=1");
    assert!(daemon.terminate().success());
    manager.wait_for("STOPPING=1");
}

#[test]
fn a_mount_that_does_not_answer_is_not_alive() {
    let (mut daemon, mut manager) = Manager::start(&[]);
    manager.wait_for("WATCHDOG=1");
    let stopped = StoppedThreads::serving(daemon.pid());
    let mark = daemon.log.mark();
    let deadline = Instant::now() + LIMIT;
    let said = daemon
        .log
        .wait_from(mark, "The mount does not answer", deadline);
    assert_eq!(said["answer"], "Silent", "{said}");
    // What was sent before is out of the way; from now on there is silence, whatever the runtime does.
    while manager.next(Duration::ZERO).is_some() {}
    let silence = manager.next(WATCHDOG * 4);
    assert_eq!(silence, None);
    while daemon.get("/api/health").1["mounts"][0]["state"] != "silent" {
        assert!(Instant::now() < deadline + LIMIT, "health knows");
        std::thread::park_timeout(Duration::from_millis(50));
    }
    drop(stopped);
    manager.wait_for("WATCHDOG=1");
    assert!(daemon.terminate().success());
}

#[test]
fn a_watchdog_for_another_process_is_not_ours() {
    let (mut daemon, mut manager) = Manager::start(&[("WATCHDOG_PID", "1")]);
    manager.wait_for("READY=1");
    assert_eq!(manager.next(WATCHDOG * 2), None);
    assert!(daemon.terminate().success());
    manager.wait_for("STOPPING=1");
}

#[test]
fn a_socket_that_can_not_be_used_is_a_warning() {
    let (mut daemon, _) = Manager::start(&[("NOTIFY_SOCKET", "not-a-path")]);
    let deadline = Instant::now() + LIMIT;
    daemon
        .log
        .wait_from(0, "NOTIFY_SOCKET can't be used", deadline);
    assert!(daemon.terminate().success());
}

/// The capabilities that the unit leaves to the instance, as `setpriv` takes them.
fn capabilities_of_the_unit() -> String {
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("mount/litestream-multitenant.service");
    let unit = fs::read_to_string(unit).expect("the unit");
    let line = unit
        .lines()
        .find_map(|line| line.strip_prefix("CapabilityBoundingSet=CAP_"))
        .expect("it limits them");
    format!("-all,+{}", line.replace(" CAP_", ",+").to_lowercase())
}

#[test]
fn the_capabilities_of_the_unit_are_enough() {
    let capabilities = capabilities_of_the_unit();
    let wrapper = [
        "setpriv",
        "--no-new-privs",
        "--inh-caps",
        "-all",
        "--bounding-set",
    ];
    let mut wrapper = wrapper.map(str::to_owned).to_vec();
    wrapper.push(capabilities);
    let mut daemon = Daemon::start(Options {
        wrapper,
        ..Options::default()
    });
    let data = daemon.data();
    let scratch = data.parent().expect("a parent");
    for open in [scratch, &data] {
        fs::set_permissions(open, fs::Permissions::from_mode(0o777)).expect("for everybody");
    }
    let client = guid(1);
    let database = daemon.database(&client);
    let as_other = |words: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "4711", "--regid", "4712", "--clear-groups"]);
        succeeded(command.args(words).current_dir("/"))
    };
    let text = |path: &Path| path.to_str().expect("text").to_owned();
    as_other(&[
        "sqlite3",
        &text(&database),
        "PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES (1)",
    ]);
    let made = fs::metadata(&database).expect("there");
    assert_eq!((made.uid(), made.gid()), (4711, 4712));
    let program = text(&data.join("program"));
    let script = "install -m 700 /bin/true $0 && chown 4713:4714 $0 && chmod u+s $0
        mknod $0.pipe p && mknod $0.null c 1 3 && setcap cap_kill=ep $0";
    let script = format!("set -e; {script}");
    succeeded(Command::new("sh").args(["-c", script.as_str(), program.as_str()]));
    daemon.sync(&client);
    let restored = daemon.restore(&client, &[], "restored.db");
    sqlite::assert_same(&database, &restored);
    let log = daemon.log.text();
    assert!(!log.contains("refuses to pass files through"), "{log}");
    assert!(daemon.terminate().success());
}
