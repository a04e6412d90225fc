//! `status`: what the running instance says of its clients, found by its configuration or its address.

use std::net::TcpListener;
use std::process::Output;

use serde_json::Value;

use super::support::daemon::{Daemon, Options, guid};
use super::support::process::{binary, output};
use super::support::sqlite;

fn status(words: &[&str]) -> Output {
    output(binary().arg("status").args(words))
}

fn said(output: &Output) -> String {
    let text = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    String::from_utf8(text).expect("text")
}

#[test]
fn the_instance_is_asked_for_its_clients() {
    let daemon = Daemon::start(Options::default());
    for n in [1, 2] {
        sqlite::query(&daemon.database(&guid(n)), "CREATE TABLE t(x)");
        daemon.sync(&guid(n));
    }
    let api = daemon.api().to_string();
    let table = status(&["-listen", &api]);
    assert!(table.status.success(), "{}", said(&table));
    let lines = said(&table);
    let lines: Vec<_> = lines.lines().collect();
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(
        lines[0].starts_with("CLIENT ") && lines[0].contains(" LAG "),
        "{lines:?}"
    );
    assert!(
        lines[1].starts_with(&guid(1)) && lines[1].contains(" active "),
        "{lines:?}"
    );

    let json = status(&["-json", "-listen", &api]);
    let json: Value = serde_json::from_slice(&json.stdout).expect("JSON");
    let (_, answer) = daemon.get("/api/health/clients");
    assert_eq!(json, answer);
    let one = status(&[&guid(2), "-json", "-listen", &api]);
    let one: Value = serde_json::from_slice(&one.stdout).expect("JSON");
    assert_eq!(one["clients"][0]["clientId"], guid(2));
    assert_eq!(one["clients"].as_array().map(Vec::len), Some(1));
    let unknown = status(&[&guid(3), "-listen", &api]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(
        said(&unknown).contains("no such client"),
        "{}",
        said(&unknown)
    );
}

#[test]
fn address_and_token_come_from_the_configuration() {
    let port = {
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
        free.local_addr().expect("bound").port()
    };
    let mut daemon = Daemon::prepare(Options::default());
    let config = daemon.config();
    let text = format!(
        "bucket: file://{}\nserver: {{port: {port}, apiToken: hush}}\nautoDiscovery: {{watchPaths: ['{}']}}\n",
        daemon.path("store").display(),
        daemon.data().display()
    );
    std::fs::write(&config, text).expect("written");
    let config = config.to_str().expect("text").to_owned();
    let nobody = status(&["-config", &config]);
    assert_eq!(nobody.status.code(), Some(1));
    assert!(said(&nobody).contains("does it run"), "{}", said(&nobody));

    daemon.restart();
    let asked = status(&["-config", &config, "-json"]);
    assert!(asked.status.success(), "{}", said(&asked));
    let refused = status(&["-listen", &daemon.api().to_string()]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(said(&refused).contains("answers 401"), "{}", said(&refused));
    assert!(!said(&refused).contains("hush"));
}
