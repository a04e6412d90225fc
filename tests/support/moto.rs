//! An S3 server that enforces permissions, as `tests/python/moto_server.py` serves it, and the policies of docs/security.md.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use litestream_multitenant::store::ObjectStore;
use litestream_multitenant::store::spec::{S3Options, Secret, StoreSpec};
use serde_json::{Value, json};

use super::daemon::S3;
use super::process::Watchdog;
use super::python;

/// Longer than all tests of a process that share one.
const TIME_LIMIT: Duration = Duration::from_secs(900);

/// Serves until it is dropped.
pub struct Moto {
    pub endpoint: String,
    pub bucket: String,
    pipes: Mutex<(ChildStdin, BufReader<ChildStdout>)>,
    // Before the child, so that it ends before the child's id can be reused.
    watchdog: Option<Watchdog>,
    child: Child,
}

/// A user's keys.
#[derive(Clone)]
pub struct Keys {
    pub access: String,
    pub secret: String,
}

impl Moto {
    pub fn start() -> Self {
        let mut child = python::script("moto_server.py")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the server starts");
        let watchdog = Watchdog::new(&child, TIME_LIMIT);
        let stdin = child.stdin.take().expect("it is piped");
        let mut stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let ready = answer(&mut stdout);
        let text = |key: &str| ready[key].as_str().expect("text").to_owned();
        Self {
            endpoint: text("endpoint"),
            bucket: text("bucket"),
            pipes: Mutex::new((stdin, stdout)),
            watchdog: Some(watchdog),
            child,
        }
    }

    fn order(&self, order: &Value) -> Value {
        let mut pipes = self.pipes.lock().expect("not poisoned");
        writeln!(pipes.0, "{order}").expect("it reads");
        answer(&mut pipes.1)
    }

    /// Makes a user with these rights, or gives one these in the place of others.
    pub fn user(&self, name: &str, policy: &Value) -> Keys {
        let keys = self.order(&json!({"user": name, "policy": policy}));
        let text = |key: &str| keys[key].as_str().expect("text").to_owned();
        Keys {
            access: text("access"),
            secret: text("secret"),
        }
    }

    /// Makes a user without any right, or takes all from one.
    pub fn user_without_rights(&self, name: &str) -> Keys {
        self.user(name, &Value::Null)
    }

    /// Every key in the bucket.
    pub fn keys(&self) -> Vec<String> {
        let keys = self.order(&json!({"keys": true}));
        serde_json::from_value(keys).expect("a list")
    }

    /// What the server says of an object.
    pub fn head(&self, key: &str) -> Value {
        self.order(&json!({"head": key}))
    }

    /// As a daemon reaches it.
    pub fn as_store(&self, keys: &Keys) -> S3 {
        S3 {
            endpoint: self.endpoint.clone(),
            bucket: self.bucket.clone(),
            access_key: keys.access.clone(),
            secret_key: keys.secret.clone(),
        }
    }

    /// As this process reaches it.
    pub async fn open(&self, keys: &Keys) -> Arc<dyn ObjectStore> {
        let options = S3Options {
            endpoint: Some(self.endpoint.clone()),
            access_key: Some(Secret(keys.access.clone())),
            secret_key: Some(Secret(keys.secret.clone())),
            ..S3Options::default()
        };
        let spec = StoreSpec::parse(&self.bucket).expect("a STORE");
        spec.open(&options).await.expect("a store")
    }
}

fn answer(stdout: &mut BufReader<ChildStdout>) -> Value {
    let mut line = String::new();
    stdout.read_line(&mut line).expect("it answers");
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
}

impl Drop for Moto {
    fn drop(&mut self) {
        self.watchdog = None;
        // Neither fails for a child that was not waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The policy that stands below this heading of docs/security.md, as it stands there.
pub fn documented_policy(heading: &str) -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/security.md");
    let text = std::fs::read_to_string(path).expect("the documentation");
    let (_, section) = text
        .split_once(&format!("\n### {heading}\n"))
        .unwrap_or_else(|| panic!("{path} has no heading {heading:?}"));
    let section = section.split("\n#").next().unwrap_or_default();
    let (_, json) = section.split_once("```json\n").expect("a policy");
    let (json, _) = json.split_once("\n```").expect("its end");
    serde_json::from_str(json).expect("JSON")
}
