//! Planted secrets: whatever goes wrong, and however much is logged, none of them is in anything that leaves the program.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Child;
use std::time::{Duration, Instant};

use super::support::daemon::{Daemon, Options, guid};
use super::support::moto::Moto;
use super::support::process::{Watchdog, binary, output};
use super::support::s3::S3Server;
use super::support::sqlite;

const TOKEN: &str = "planted-token-of-the-api";
const ACCESS: &str = "PLANTEDACCESSKEY";
const SECRET: &str = "planted/secret+key";
/// What the environment has.
const ENVIRONMENT: [(&str, &str); 3] = [
    ("PLANTED_TOKEN", TOKEN),
    ("PLANTED_TENANT_KEY", "PLANTEDTENANTKEY"),
    ("PLANTED_TENANT_SECRET", "planted-tenant-secret"),
];
const CREATE: &str = "PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES (1)";

/// Everything that was said so far, and by what.
struct Heard {
    planted: Vec<String>,
    said: Vec<(String, String)>,
}

impl Heard {
    fn new(access: &str, secret: &str) -> Self {
        let of_environment = ENVIRONMENT.iter().map(|(_, value)| (*value).to_owned());
        Self {
            planted: of_environment
                .chain([access.to_owned(), secret.to_owned()])
                .collect(),
            said: Vec::new(),
        }
    }

    fn add(&mut self, what: impl Into<String>, text: String) {
        self.said.push((what.into(), text));
    }

    fn assert_no_secret(&self) {
        for (what, text) in &self.said {
            for secret in &self.planted {
                assert!(
                    !text.contains(secret.as_str()),
                    "{secret} in {what}:\n{text}"
                );
            }
        }
    }
}

/// A daemon whose log is a file, in either format.
struct Running {
    // Before the child, so that it ends before the child's id can be reused.
    watchdog: Option<Watchdog>,
    child: Child,
    log: PathBuf,
    address: String,
}

impl Running {
    fn start(scene: &Daemon, format: &str) -> Self {
        let log = scene.path("log");
        let child = scene
            .mount_command()
            .args(["-log-format", format])
            .env("RUST_LOG", "trace")
            .stderr(File::create(&log).expect("a file"))
            .spawn()
            .expect("the binary starts");
        let mut running = Self {
            watchdog: Some(Watchdog::new(&child, Duration::from_secs(60))),
            child,
            log,
            address: String::new(),
        };
        let line = running.wait_for("Ready");
        let port = line.split("127.0.0.1:").nth(1).expect("an address");
        let digits: String = port.chars().take_while(char::is_ascii_digit).collect();
        running.address = format!("127.0.0.1:{digits}");
        running
    }

    fn text(&self) -> String {
        fs::read_to_string(&self.log).expect("the log")
    }

    /// The line of the log that has this in it, once there is one.
    fn wait_for(&self, part: &str) -> String {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let text = self.text();
            if let Some(line) = text.lines().find(|line| line.contains(part)) {
                return line.to_owned();
            }
            assert!(Instant::now() < deadline, "no {part:?} in the log:\n{text}");
            std::thread::park_timeout(Duration::from_millis(10));
        }
    }

    /// The status, the headers and the body of an answer.
    fn ask(&self, method: &str, path: &str, token: Option<&str>) -> (u16, String) {
        let mut request = ureq::http::Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.address));
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(20)))
            .build()
            .into();
        let answer = agent.run(request.body(()).expect("a request"));
        let mut answer = answer.expect("an answer");
        let head = format!("{:?}", answer.headers());
        let body = answer.body_mut().read_to_vec().expect("a body");
        let text = String::from_utf8_lossy(&body).into_owned();
        (answer.status().as_u16(), format!("{head}\n{text}"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.watchdog = None;
        // Neither fails for a child that was not waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A store, with keys to it, and what the log says of it.
struct Case {
    endpoint: String,
    access: String,
    secret: String,
    format: &'static str,
    expected: &'static str,
}

fn configured(case: &Case) -> Daemon {
    let environment = ENVIRONMENT.map(|(name, value)| (name, value.to_owned()));
    let scene = Daemon::prepare(Options {
        environment: environment.to_vec(),
        ..Options::default()
    });
    let text = format!(
        "bucket: replicas\ns3: {{endpoint: '{}', region: us-east-1, accessKey: '{}', secretKey: '{}'}}\n\
         server: {{port: 0, apiToken: '${{PLANTED_TOKEN}}'}}\n\
         autoDiscovery: {{watchPaths: ['{}']}}\n\
         tenants: [{{tenantId: {}, s3Config: {{bucket: replicas, prefix: own, accessKey: '${{PLANTED_TENANT_KEY}}', secretKey: '${{PLANTED_TENANT_SECRET}}'}}}}]\n",
        case.endpoint,
        case.access,
        case.secret,
        scene.data().display(),
        guid(2),
    );
    fs::write(scene.config(), text).expect("the configuration");
    scene
}

/// Every command on data, and those on the configuration, all at once.
fn commands(scene: &Daemon, heard: &mut Heard) {
    let (client, own) = (guid(1), guid(2));
    let file = scene.path("restored.db");
    let all = scene.path("all");
    let file = file.to_str().expect("text");
    let all = all.to_str().expect("text");
    let config = scene.config();
    let config = config.to_str().expect("text");
    let lines: [&[&str]; 9] = [
        &["list", "-config", config],
        &["list", &client, "-config", config],
        &["list", &own, "-config", config],
        &["restore", &client, "-o", file, "-config", config],
        &["restore", "-all", all, "-config", config],
        &["verify", "-config", config],
        &["retain", "-config", config],
        &["status", "-config", config],
        &["check-config", config],
    ];
    std::thread::scope(|scope| {
        let running = lines.map(|words| {
            scope.spawn(move || {
                let mut command = binary();
                command
                    .args(words)
                    .envs(ENVIRONMENT)
                    .env("RUST_LOG", "trace");
                let output = output(&mut command);
                let out = String::from_utf8_lossy(&output.stdout).into_owned();
                (
                    words.join(" "),
                    out + &String::from_utf8_lossy(&output.stderr),
                )
            })
        });
        for done in running {
            let (what, text) = done.join().expect("it ends");
            heard.add(what, text);
        }
    });
}

fn hears_no_secret(case: &Case) {
    let mut heard = Heard::new(&case.access, &case.secret);
    let scene = configured(case);
    let running = Running::start(&scene, case.format);
    for client in [guid(1), guid(2)] {
        sqlite::query(&scene.database(&client), CREATE);
    }
    running.wait_for(case.expected);
    let client = guid(1);
    let of_client = format!("/api/databases/{client}/{client}");
    for (method, path) in [
        ("GET", "/"),
        ("GET", "/metrics"),
        ("GET", "/api/openapi.json"),
        ("GET", "/api/health"),
        ("GET", "/api/health/clients"),
        ("GET", &format!("/api/health/clients/{client}")),
        ("GET", "/api/databases"),
        ("GET", &format!("{of_client}/moments")),
        ("GET", &format!("{of_client}/download")),
        ("POST", &format!("{of_client}/sync?timeout=100ms")),
        ("POST", &format!("{of_client}/snapshot?timeout=100ms")),
        ("GET", "/api/nothing"),
    ] {
        let (status, answer) = running.ask(method, path, Some(TOKEN));
        assert_ne!(status, 401, "{method} {path}: {answer}");
        heard.add(format!("{method} {path}"), answer);
    }
    for token in [None, Some("planted-token-of-the-apx")] {
        let (status, answer) = running.ask("GET", "/api/databases", token);
        assert_eq!(status, 401, "{answer}");
        heard.add("a refusal", answer);
    }
    commands(&scene, &mut heard);
    heard.add("the log", running.text());
    drop(running);
    heard.assert_no_secret();
    // What was looked through is what it should be.
    let all: String = heard.said.iter().map(|(_, text)| text.as_str()).collect();
    assert!(all.contains("***") && all.contains(&client), "{all}");
}

#[test]
fn keys_that_the_server_does_not_know() {
    let moto = Moto::start();
    hears_no_secret(&Case {
        endpoint: moto.endpoint.clone(),
        access: ACCESS.to_owned(),
        secret: SECRET.to_owned(),
        format: "json",
        expected: "the store refused access",
    });
}

#[test]
fn a_secret_that_does_not_fit_its_key() {
    let server = S3Server::start();
    hears_no_secret(&Case {
        endpoint: server.endpoint.clone(),
        access: server.access_key.clone(),
        secret: SECRET.to_owned(),
        format: "text",
        expected: "the store refused access",
    });
}

#[test]
fn a_server_that_is_not_there() {
    // Its port is free again as soon as it is known.
    let address = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    hears_no_secret(&Case {
        endpoint: format!("http://{}", address.expect("a port")),
        access: ACCESS.to_owned(),
        secret: SECRET.to_owned(),
        format: "text",
        expected: "the store does not answer",
    });
}

#[test]
fn a_store_that_works() {
    let server = S3Server::start();
    hears_no_secret(&Case {
        endpoint: server.endpoint.clone(),
        access: server.access_key.clone(),
        secret: server.secret_key.clone(),
        format: "json",
        expected: "Snapshot stored",
    });
}

#[test]
fn a_configuration_that_can_not_be_used() {
    let scene = Daemon::prepare(Options::default());
    let mut heard = Heard::new(ACCESS, SECRET);
    let complete = format!(
        "bucket: replicas\nautoDiscovery: {{watchPaths: ['{}']}}\n",
        scene.data().display()
    );
    for wrong in [
        format!("s3: '{SECRET}'"),
        format!("s3: {{accessKey: ['{ACCESS}'], secretKey: '{SECRET}'}}"),
        format!("s3: {{accessKey: '{ACCESS}', secretKey: {{is: '{SECRET}'}}}}"),
        format!("s3: {{secretKey: '{SECRET}', secretKey: '{SECRET}'}}"),
        format!("s3: {{secretKey: '{SECRET}', region: }}"),
        format!("s3: {{secretKey: '{SECRET}"),
        format!("s3: {{endpoint: 'http://{ACCESS}:{SECRET}@127.0.0.1'}}"),
        format!("server: {{apiToken: '{TOKEN} {TOKEN}'}}"),
        "server: {apiToken: '${PLANTED_TOKEN} '}".to_owned(),
        "server: {port: '${PLANTED_TOKEN}'}".to_owned(),
        "limits: {maxLag: '${PLANTED_TENANT_SECRET}'}".to_owned(),
        "tenants: [{tenantId: x, s3Config: {accessKey: '${PLANTED_TENANT_KEY}'}}]".to_owned(),
        "tenants: ['${PLANTED_TENANT_KEY}']".to_owned(),
        "tenants: [{tenantId: x, s3Config: '${PLANTED_TENANT_SECRET}'}]".to_owned(),
        "tenants: [{tenantId: x, s3Config: {endpoint: '${PLANTED_TENANT_SECRET}'}}]".to_owned(),
    ] {
        fs::write(scene.config(), format!("{complete}{wrong}\n")).expect("a configuration");
        let mut check = binary();
        check.arg("check-config").arg(scene.config());
        let mut list = binary();
        list.args(["list", "-config"]).arg(scene.config());
        for mut command in [scene.mount_command(), check, list] {
            let output = output(command.envs(ENVIRONMENT).env("RUST_LOG", "trace"));
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(2), "{wrong}: {text}");
            assert_eq!(text.lines().count(), 1, "{wrong}: {text}");
            heard.add(wrong.clone(), text);
        }
    }
    heard.assert_no_secret();
}
