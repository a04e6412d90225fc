//! The binary as mount(8) calls it: `mount -t litestream-multitenant`, lines of /etc/fstab, and `umount`.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use super::support::daemon::{Daemon, Options, guid};
use super::support::process::{binary, output, succeeded};
use super::support::{mounts, sqlite};

const LINK: &str = "/sbin/mount.litestream-multitenant";
/// An instance that was unmounted may sync for 30 seconds.
const END_TIME: Duration = Duration::from_secs(45);
const SOON: Duration = Duration::from_secs(10);

/// The name under which mount(8) finds the binary, while it lives. One test of the machine at a time has it.
struct Installed {
    _alone: File,
}

impl Installed {
    fn new() -> Self {
        let alone = File::open("/sbin").expect("a directory");
        alone.lock().expect("locked");
        // A test that was killed may have left it.
        if let Ok(left) = fs::read_link(LINK) {
            let text = left.to_string_lossy();
            assert!(
                text.contains("/target/"),
                "{LINK} leads to {text}: remove it"
            );
            fs::remove_file(LINK).expect("removed");
        }
        symlink(binary().get_program(), LINK).expect("a link");
        Self { _alone: alone }
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        fs::remove_file(LINK).expect("it is ours");
    }
}

/// A directory with databases, a mount point, and what is mounted there by mount(8).
struct Scene {
    daemon: Daemon,
    _installed: Installed,
}

impl Scene {
    fn new(options: Options) -> Self {
        // The instance leaves its parents, and becomes a child of ours.
        // SAFETY: this passes no memory.
        let adopted = unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
        assert_eq!(adopted, 0);
        let scene = Self {
            daemon: Daemon::prepare(options),
            _installed: Installed::new(),
        };
        fs::create_dir(scene.target()).expect("a mount point");
        scene
    }

    fn source(&self) -> PathBuf {
        self.daemon.data()
    }

    fn target(&self) -> PathBuf {
        self.daemon.path("target")
    }

    fn database(&self) -> PathBuf {
        self.target().join(format!("{}.db", guid(1)))
    }

    fn options(&self, more: &str) -> String {
        format!(
            "config={},listen=127.0.0.1:0{more}",
            self.daemon.config().display()
        )
    }

    fn mount(&self, options: &str) -> Output {
        let mut command = Command::new("mount");
        command.args(["-v", "-t", "litestream-multitenant", "-o", options]);
        output(command.arg(self.source()).arg(self.target()))
    }

    /// Mounts, and gives the instance's process.
    fn mounted(&self, options: &str) -> Orphan {
        let mounted = self.mount(options);
        let said = String::from_utf8_lossy(&mounted.stderr);
        assert!(mounted.status.success(), "{said}");
        assert!(mounts::connection_at(&self.target()).is_some());
        let said = String::from_utf8_lossy(&mounted.stdout);
        let pid = said
            .lines()
            .find_map(|line| line.rsplit_once(" by process ")?.1.parse().ok());
        Orphan(pid.unwrap_or_else(|| panic!("no process in {said:?}")))
    }

    fn umount(&self) {
        succeeded(Command::new("umount").arg(self.target()));
        assert_eq!(mounts::connection_at(&self.target()), None);
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        mounts::clear(&self.target());
    }
}

/// An instance in the background.
struct Orphan(i32);

impl Orphan {
    /// Waits for its end; its exit code, none where it died of a signal or did not end in time.
    fn ended(&mut self) -> Option<i32> {
        let deadline = Instant::now() + END_TIME;
        loop {
            let mut status = 0;
            // SAFETY: `status` outlives the call; the process is a child of ours.
            let found = unsafe { libc::waitpid(self.0, &raw mut status, libc::WNOHANG) };
            if found == self.0 {
                self.0 = 0;
                return libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status));
            }
            assert_eq!(found, 0, "{}", std::io::Error::last_os_error());
            if Instant::now() > deadline {
                return None;
            }
            std::thread::park_timeout(Duration::from_millis(10));
        }
    }
}

/// The names of a process's threads, a line each.
fn threads_of(pid: i32) -> String {
    fs::read_dir(format!("/proc/{pid}/task"))
        .expect("it runs")
        .filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("comm")).ok())
        .collect()
}

impl Drop for Orphan {
    fn drop(&mut self) {
        if self.0 != 0 {
            // SAFETY: this passes no memory; the process is a child of ours that was not waited for.
            unsafe { libc::kill(self.0, libc::SIGKILL) };
            self.ended();
        }
    }
}

#[test]
fn mount_returns_when_it_answers_and_umount_stores_what_was_committed() {
    let scene = Scene::new(Options {
        // Long enough that the last commit waits when the unmount comes.
        sync_interval: "20s",
        ..Options::default()
    });
    let mut instance =
        scene.mounted(&scene.options(",nosuid,nofail,_netdev,x-systemd.before=a.service"));
    let table = fs::read_to_string("/proc/self/mountinfo").expect("the table of mounts");
    let target = scene.target();
    let line = table
        .lines()
        .find(|line| line.contains(target.to_str().expect("text")));
    let line = line.expect("it is mounted");
    assert!(line.contains("nosuid"), "{line}");
    assert!(
        line.contains(scene.source().to_str().expect("text")),
        "{line}"
    );

    let database = scene.database();
    sqlite::query(
        &database,
        "PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES (1)",
    );
    sqlite::query(&database, "INSERT INTO t VALUES (2)");
    scene.umount();
    // At once: the instance that ends may not have let go yet.
    let mut again = scene.mounted(&scene.options(""));
    assert_eq!(instance.ended(), Some(0));
    let restored = scene.daemon.restore(&guid(1), &[], "restored.db");
    assert_eq!(sqlite::query(&restored, "SELECT x FROM t"), "1\n2");
    sqlite::query(&scene.database(), "INSERT INTO t VALUES (3)");
    scene.umount();
    assert_eq!(again.ended(), Some(0));
    let restored = scene.daemon.restore(&guid(1), &[], "again.db");
    assert_eq!(sqlite::query(&restored, "SELECT x FROM t"), "1\n2\n3");
    assert_eq!(scene.daemon.generations(&guid(1)).len(), 1);
}

/// A process that comes of a fork has none of the threads of the one before it, and this one only once it asks for it.
#[test]
fn memory_is_given_back_in_the_background_as_well() {
    let scene = Scene::new(Options::default());
    let mut instance = scene.mounted(&scene.options(""));
    // It names itself, when it first runs.
    let deadline = Instant::now() + SOON;
    while !threads_of(instance.0).contains("jemalloc_bg_thd") {
        assert!(Instant::now() < deadline, "{}", threads_of(instance.0));
        std::thread::park_timeout(Duration::from_millis(5));
    }
    scene.umount();
    assert_eq!(instance.ended(), Some(0));
}

#[test]
fn lines_of_fstab_are_mounted_once() {
    let scene = Scene::new(Options::default());
    let fstab = scene.daemon.path("fstab");
    let (source, target) = (scene.source(), scene.target());
    let line = format!(
        "{} {} litestream-multitenant {},ro,nofail 0 0\n",
        source.display(),
        target.display(),
        scene.options("")
    );
    fs::write(&fstab, line).expect("written");
    let mount_all = || succeeded(Command::new("mount").args(["-v", "-a", "-T"]).arg(&fstab));
    let said = mount_all();
    let pid = said
        .lines()
        .find_map(|line| line.rsplit_once(" by process ")?.1.parse().ok());
    let mut instance = Orphan(pid.unwrap_or_else(|| panic!("no process in {said:?}")));
    let connection = mounts::connection_at(&target);
    assert!(connection.is_some());
    let refused = File::create(target.join("x")).expect_err("it is read-only");
    assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
    let said = mount_all();
    assert!(said.contains("already mounted"), "{said}");
    assert_eq!(mounts::connection_at(&target), connection, "the same mount");
    scene.umount();
    assert_eq!(instance.ended(), Some(0));
}

#[test]
fn what_hinders_a_mount_is_said_in_one_line() {
    let scene = Scene::new(Options::default());
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let taken = taken.local_addr().expect("bound").to_string();
    let config = scene.daemon.config();
    let config = config.to_str().expect("text");
    for (options, code, part) in [
        (format!("config={config},frobnicate"), 2, "frobnicate"),
        ("config=/nowhere.yml".to_owned(), 2, "/nowhere.yml"),
        (format!("config={config},listen={taken}"), 1, taken.as_str()),
    ] {
        let refused = scene.mount(&options);
        let said = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(code), "{options}: {said}");
        assert!(said.starts_with("litestream-multitenant: "), "{said}");
        assert!(said.lines().count() == 1 && said.contains(part), "{said}");
        assert_eq!(mounts::connection_at(&scene.target()), None);
    }
    let fake = Command::new("mount")
        .args([
            "-f",
            "-t",
            "litestream-multitenant",
            "-o",
            &scene.options(""),
        ])
        .arg(scene.source())
        .arg(scene.target())
        .status();
    assert!(fake.expect("mount runs").success());
    assert_eq!(mounts::connection_at(&scene.target()), None);
}
