//! The real daemon over a scratch directory: started, asked, killed, started again, and always cleared away.

use std::cell::Cell;
use std::fs;
use std::io::{BufRead, BufReader, Lines};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use super::log::Log;
use super::mounts;
use super::process::{Watchdog, binary, signal, succeeded, wait_until};

/// How a daemon is started.
pub struct Options {
    /// `tenantDefaults.syncInterval`.
    pub sync_interval: &'static str,
    /// Further keys of `tenantDefaults`, each after a comma.
    pub tenant_defaults: &'static str,
    /// Further keys of `autoDiscovery`, each after a comma.
    pub discovery: &'static str,
    /// Further watch paths, folders of the scratch directory; each folder's name is its prefix.
    pub watch_paths: &'static [&'static str],
    /// Where replicas go; the directory `store` of the scratch directory by default.
    pub store: Option<S3>,
    /// Further keys of `s3`, each after a comma.
    pub s3: &'static str,
    /// Further lines of the configuration, at its top level.
    pub config: String,
    /// Further flags of `mount`.
    pub flags: Vec<String>,
    /// What starts it in its stead, and ends as it (`setpriv …`).
    pub wrapper: Vec<String>,
    /// Further variables of its environment.
    pub environment: Vec<(&'static str, String)>,
    /// After this the daemon is killed, so that a test that hangs ends.
    pub time_limit: Duration,
}

/// A bucket, and the server that has it.
#[derive(Clone)]
pub struct S3 {
    pub endpoint: String,
    pub bucket: String,
    pub access_key: String,
    pub secret_key: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            sync_interval: "50ms",
            tenant_defaults: "",
            discovery: "",
            watch_paths: &[],
            store: None,
            s3: "",
            config: String::new(),
            flags: Vec::new(),
            wrapper: Vec::new(),
            environment: Vec::new(),
            time_limit: Duration::from_secs(120),
        }
    }
}

impl Options {
    pub fn served(served: Served) -> Self {
        let (flags, config) = match served {
            Served::LogsPassed => (Vec::new(), "mount: {capture: passthrough}\n"),
            Served::LogsIntercepted => (Vec::new(), "mount: {capture: intercept}\n"),
            Served::ByDaemon => (vec!["-no-passthrough".to_owned()], ""),
        };
        Self {
            flags,
            config: config.to_owned(),
            ..Self::default()
        }
    }
}

/// Which files the kernel passes through.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Served {
    /// All but rollback journals.
    LogsPassed,
    /// Logs go through the daemon as well.
    LogsIntercepted,
    /// None.
    ByDaemon,
}

impl Served {
    /// The wal-index is seen.
    pub const PASSED: [Self; 2] = [Self::LogsPassed, Self::LogsIntercepted];
    pub const ALL: [Self; 3] = [Self::LogsPassed, Self::LogsIntercepted, Self::ByDaemon];
}

/// Names the mount that a daemon asks itself, where a test wants that.
pub const OWN_MOUNT: &str = "LITESTREAM_MULTITENANT_OWN_MOUNT";

const START_TIME: Duration = Duration::from_secs(15);
/// A shutdown may sync for 30 seconds.
const STOP_TIME: Duration = Duration::from_secs(45);

pub struct Daemon {
    scratch: Option<TempDir>,
    options: Options,
    running: Option<Running>,
    may_miss_gates: Cell<bool>,
    pub log: Log,
}

struct Running {
    // Before the child, so that it ends before the child's id can be reused.
    watchdog: Watchdog,
    child: Child,
    /// None where it listens on a socket with a name.
    api: Option<SocketAddr>,
}

impl Daemon {
    /// Starts a daemon over an empty directory, and waits until it is ready.
    pub fn start(options: Options) -> Self {
        let mut daemon = Self::prepare(options);
        daemon.restart();
        daemon
    }

    /// The scratch directory and the configuration, without a daemon; `restart` starts one.
    pub fn prepare(options: Options) -> Self {
        mounts::require_fuse();
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let daemon = Self {
            scratch: Some(scratch),
            options,
            running: None,
            may_miss_gates: Cell::new(false),
            log: Log::default(),
        };
        for watch_path in daemon.watch_paths() {
            fs::create_dir(watch_path).expect("a watch path");
        }
        fs::write(daemon.config(), daemon.configuration()).expect("the configuration");
        daemon
    }

    fn watch_paths(&self) -> Vec<PathBuf> {
        let others = self.options.watch_paths.iter().map(|name| self.path(name));
        std::iter::once(self.data()).chain(others).collect()
    }

    /// Writes a configuration with these further lines at its top level, in the place of those before.
    pub fn configure(&mut self, config: String) {
        self.options.config = config;
        fs::write(self.config(), self.configuration()).expect("the configuration");
    }

    fn configuration(&self) -> String {
        let store = match &self.options.store {
            None => format!("bucket: file://{}\n", self.path("store").display()),
            Some(s3) => format!(
                "bucket: {}\ns3: {{endpoint: '{}', region: us-east-1, accessKey: '{}', secretKey: '{}'{}}}\n",
                s3.bucket, s3.endpoint, s3.access_key, s3.secret_key, self.options.s3
            ),
        };
        let others = self.options.watch_paths.iter();
        let others = others.map(|name| {
            format!(
                ", {{path: '{}', prefix: {name}}}",
                self.path(name).display()
            )
        });
        format!(
            "{store}server: {{port: 0}}\nautoDiscovery: {{watchPaths: ['{}'{}]{}}}\ntenantDefaults: {{syncInterval: {}{}}}\n{}",
            self.data().display(),
            others.collect::<String>(),
            self.options.discovery,
            self.options.sync_interval,
            self.options.tenant_defaults,
            self.options.config,
        )
    }

    /// A further flag of the next start.
    pub fn add_flag(&mut self, flag: &str, value: &Path) {
        let value = value.to_str().expect("text").to_owned();
        self.options.flags.extend([flag.to_owned(), value]);
    }

    /// A path in the scratch directory, outside the mount.
    pub fn path(&self, name: &str) -> PathBuf {
        let scratch = self.scratch.as_ref().expect("kept until the drop");
        scratch.path().join(name)
    }

    /// The watch path, which the mount covers.
    pub fn data(&self) -> PathBuf {
        self.path("data")
    }

    /// A client's database, as applications see it.
    pub fn database(&self, guid: &str) -> PathBuf {
        self.data().join(format!("{guid}.db"))
    }

    pub fn config(&self) -> PathBuf {
        self.path("config.yml")
    }

    /// Its bounds are reached, or its logs are destroyed past it: else a test fails whose daemon misses a gate.
    pub fn may_miss_gates(&self) {
        self.may_miss_gates.set(true);
    }

    /// What starts it in its stead from now on, and ends as it.
    pub fn set_wrapper(&mut self, wrapper: Vec<String>) {
        self.options.wrapper = wrapper;
    }

    pub fn add_environment(&mut self, name: &'static str, value: String) {
        self.options.environment.push((name, value));
    }

    /// Further flags of its next start.
    pub fn add_flags(&mut self, flags: impl IntoIterator<Item = String>) {
        self.options.flags.extend(flags);
    }

    /// Starts it again over the same directories, and waits until it is ready.
    pub fn restart(&mut self) {
        let is_ready = self.restart_or_die();
        assert!(is_ready, "it is not ready:\n{}", self.log.text());
    }

    /// The same where it may die before it has said that it is ready. False then.
    fn restart_or_die(&mut self) -> bool {
        assert!(self.running.is_none(), "it runs already");
        let mark = self.log.mark();
        let mut child = self
            .mount_command()
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        self.log.collect(child.stderr.take().expect("it is piped"));
        // Kept from now on, so that a failure below does not leave it behind.
        let running = self.running.insert(Running {
            watchdog: Watchdog::new(&child, self.options.time_limit),
            child,
            api: None,
        });
        let deadline = Instant::now() + START_TIME;
        let Some(ready) = self.log.find_from(mark, "Ready", deadline) else {
            return false;
        };
        let listen = ready["listen"]
            .as_str()
            .unwrap_or_else(|| panic!("no address in {ready}"));
        running.api = listen.parse().ok();
        assert!(
            running.api.is_some() || listen.starts_with("unix:"),
            "{ready}"
        );
        true
    }

    /// The same with one more variable in its environment, for this run.
    pub fn restart_or_die_with(&mut self, name: &'static str, value: &str) -> bool {
        self.add_environment(name, value.to_owned());
        let is_ready = self.restart_or_die();
        self.options.environment.pop();
        is_ready
    }

    /// `mount` as this daemon is started; for starts that are expected to fail, too.
    pub fn mount_command(&self) -> Command {
        let mut command = wrapped(&self.options.wrapper, binary());
        command
            .args(["mount", "-config"])
            .arg(self.config())
            .args(&self.options.flags)
            .envs(self.options.environment.iter().cloned());
        command
    }

    fn running(&self) -> &Running {
        self.running.as_ref().expect("the daemon runs")
    }

    /// Where its API listens.
    pub fn api(&self) -> SocketAddr {
        self.running().api.expect("it listens on a port")
    }

    pub fn pid(&self) -> u32 {
        self.running().child.id()
    }

    /// Kills it without warning; the mount stays, dead.
    pub fn kill9(&mut self) {
        let mut running = self.running.take().expect("the daemon runs");
        drop(running.watchdog);
        signal(&running.child, libc::SIGKILL);
        running.child.wait().expect("a child of ours");
    }

    pub fn signal(&self, number: i32) {
        signal(&self.running().child, number);
    }

    /// Asks it to stop, and waits for that.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal(libc::SIGTERM);
        self.ended()
    }

    /// Waits for its end, which was asked for by other means.
    pub fn ended(&mut self) -> ExitStatus {
        let mut running = self.running.take().expect("the daemon runs");
        let status = wait_until(&mut running.child, Instant::now() + STOP_TIME);
        drop(running.watchdog);
        status.unwrap_or_else(|| {
            // Nothing else would end it any more; the panic says why.
            let _ = running.child.kill();
            let _ = running.child.wait();
            panic!("it does not stop:\n{}", self.log.text())
        })
    }

    /// Waits until all that was committed is in the store; its newest transaction.
    pub fn sync(&self, guid: &str) -> u64 {
        let (status, json) = self.post(&format!("/api/databases/{guid}/{guid}/sync?timeout=30s"));
        assert_eq!(status, 200, "{json}\n{}", self.log.text());
        json["txid"].as_u64().expect("a number")
    }

    /// What the API says of one client.
    pub fn health(&self, guid: &str) -> Value {
        let (status, json) = self.get(&format!("/api/health/clients/{guid}"));
        assert_eq!(status, 200, "{json}");
        json
    }

    /// Waits until what the API says of one client is as it should be.
    pub fn wait_health(&self, guid: &str, accepted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let (status, json) = self.get(&format!("/api/health/clients/{guid}"));
            if status == 200 && accepted(&json) {
                return json;
            }
            assert!(
                Instant::now() < deadline,
                "{status} {json}\n{}",
                self.log.text()
            );
            std::thread::park_timeout(Duration::from_millis(10));
        }
    }

    /// Waits until it is `done`; fails with `what`, and with the log, after `limit`.
    pub fn wait_for(&self, limit: Duration, what: &str, mut done: impl FnMut() -> bool) {
        let deadline = Instant::now() + limit;
        while !done() {
            assert!(Instant::now() < deadline, "{what}\n{}", self.log.text());
            std::thread::park_timeout(Duration::from_millis(10));
        }
    }

    pub fn get(&self, path: &str) -> (u16, Value) {
        answer(agent().get(self.url(path)).call())
    }

    pub fn post(&self, path: &str) -> (u16, Value) {
        answer(agent().post(self.url(path)).send_empty())
    }

    /// The bytes of an answer that has to be a good one.
    pub fn download(&self, path: &str) -> Vec<u8> {
        let mut answer = agent().get(self.url(path)).call().expect("an answer");
        let bytes = answer.body_mut().read_to_vec().expect("all of it");
        assert_eq!(
            answer.status().as_u16(),
            200,
            "{}",
            String::from_utf8_lossy(&bytes)
        );
        bytes
    }

    /// A request with a JSON body.
    pub fn send(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let request = ureq::http::Request::builder()
            .method(method)
            .uri(self.url(path))
            .body(body.to_owned())
            .expect("a request");
        answer(agent().run(request))
    }

    /// Follows the events until it is dropped.
    pub fn events(&self) -> Events {
        let answer = agent()
            .get(self.url("/api/events"))
            .call()
            .expect("an answer");
        let lines = BufReader::new(answer.into_body().into_reader()).lines();
        let mut events = Events { lines };
        // What happens from now on is heard.
        events.line_with("retry: ");
        events
    }

    pub fn metrics(&self) -> String {
        let mut answer = agent().get(self.url("/metrics")).call().expect("an answer");
        answer.body_mut().read_to_string().expect("text")
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.api())
    }

    /// Restores a client with further flags into a new file, and gives its path.
    pub fn restore(&self, guid: &str, flags: &[&str], name: &str) -> PathBuf {
        let output = self.path(name);
        self.command(&["restore", guid, "-o"], |command| {
            command.arg(&output).args(flags);
        });
        output
    }

    /// The generations of a client as `list` shows them, each with its moments.
    pub fn generations(&self, guid: &str) -> Vec<Value> {
        let listed = self.command(&["list", guid, "-json"], |_| {});
        let listed: Value = serde_json::from_str(&listed).expect("JSON");
        listed["generations"].as_array().expect("a list").clone()
    }

    /// Runs a data command with this daemon's configuration; it must succeed.
    pub fn command(&self, words: &[&str], more: impl FnOnce(&mut Command)) -> String {
        let mut command = binary();
        command.args(words);
        more(&mut command);
        succeeded(command.arg("-config").arg(self.config()))
    }
}

impl Daemon {
    /// Whether the test wants it to, which else must not happen.
    fn asks_own_mount(&self) -> bool {
        let mut environment = self.options.environment.iter();
        environment.any(|(name, _)| *name == OWN_MOUNT)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(mut running) = self.running.take() {
            signal(&running.child, libc::SIGTERM);
            let deadline = Instant::now() + STOP_TIME;
            let stopped = wait_until(&mut running.child, deadline);
            drop(running.watchdog);
            if stopped.is_none() {
                // What is left of it is cleared below.
                let _ = running.child.kill();
                let _ = running.child.wait();
            }
        }
        let scratch = self.scratch.take().expect("taken only here");
        // What was mounted elsewhere, by this daemon or by one that had to be refused, as well.
        let folders = names_below(scratch.path());
        folders.iter().for_each(|folder| mounts::clear(folder));
        if folders
            .iter()
            .any(|folder| mounts::connection_at(folder).is_some())
        {
            // Removing it would remove the databases through the mount.
            eprintln!("left behind: {}", scratch.keep().display());
        }
        let log = self.log.text();
        let has_missed = log.contains("the history is gapped");
        if !std::thread::panicking() && !self.may_miss_gates.get() {
            assert!(!has_missed, "a gate was missed:\n{log}");
        }
        if !std::thread::panicking() && !self.asks_own_mount() {
            assert!(
                !log.contains("asked its own mount"),
                "it asked its own mount:\n{log}"
            );
        }
    }
}

fn wrapped(wrapper: &[String], inner: Command) -> Command {
    let [program, arguments @ ..] = wrapper else {
        return inner;
    };
    let mut command = Command::new(program);
    command.args(arguments).arg(inner.get_program());
    command
}

/// What the API tells as it happens.
pub struct Events {
    lines: Lines<BufReader<ureq::BodyReader<'static>>>,
}

impl Events {
    /// The next event of this client, and its data.
    pub fn next_of(&mut self, guid: &str) -> (String, Value) {
        loop {
            let kind = self.line_with("event: ");
            let data: Value = serde_json::from_str(&self.line_with("data: ")).expect("JSON");
            if data["clientId"] == guid {
                return (kind, data);
            }
        }
    }

    /// The rest of the next line that begins so; the agent's time limit ends the wait.
    fn line_with(&mut self, start: &str) -> String {
        loop {
            let line = self.lines.next().expect("the stream goes on");
            let line = line.expect("a line in time");
            if let Some(rest) = line.strip_prefix(start) {
                return rest.to_owned();
            }
        }
    }
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_secs(40)))
        .build()
        .into()
}

fn answer(outcome: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> (u16, Value) {
    let mut answer = outcome.expect("the API answers");
    let text = answer.body_mut().read_to_string().expect("text");
    if text.is_empty() {
        return (answer.status().as_u16(), Value::Null);
    }
    let json = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    (answer.status().as_u16(), json)
}

/// A GUID that ends in `n`.
pub fn guid(n: u32) -> String {
    format!("12345678-1234-5678-9abc-{n:012}")
}

/// The paths of what a directory lists, where a dead mount is one of them, too.
fn names_below(dir: &Path) -> Vec<PathBuf> {
    names(dir).into_iter().map(|name| dir.join(name)).collect()
}

/// What a directory lists, sorted.
pub fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .expect("a directory")
        .map(|entry| {
            let name = entry.expect("an entry").file_name();
            name.to_string_lossy().into_owned()
        })
        .collect();
    names.sort();
    names
}
