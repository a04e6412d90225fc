//! `status`: asks the running instance how its clients are.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use serde_json::{Value, json};

use super::args::StatusArgs;
use super::ask::ask;
use super::{Failure, print, print_json, table};
use crate::api::Listen;
use crate::config;

const TIME: Duration = Duration::from_secs(10);
const PATH: &str = "/api/health/clients";

pub(super) fn run(args: StatusArgs) -> Result<(), Failure> {
    let written = config::load(args.config.as_deref())?;
    let listen = match args.listen {
        Some(listen) => listen.0,
        None => written.listen()?,
    };
    let token = written.api_token.map(|token| token.0);
    let api = listen.map(reachable).ok_or_else(|| {
        Failure::Usage("-listen none: an instance without an API can't be asked".to_owned())
    })?;
    if matches!(api, Listen::Tcp(address) if address.port() == 0) {
        return Err(Failure::Usage(format!(
            "{api}: no port is configured; give -listen ADDR as the instance's log has it"
        )));
    }
    let answer = ask(&api, "GET", PATH, token.as_deref(), TIME).map_err(|error| {
        Failure::Other(format!(
            "ask the instance at {api}: {error}; does it run, and is this its address (-config, -listen)?"
        ))
    })?;
    let clients = clients(&answer.body).filter(|_| answer.status == 200);
    let mut clients = clients.ok_or_else(|| refused(&api, answer.status, &answer.body))?;
    if let Some(wanted) = &args.client {
        clients.retain(|client| name(client) == *wanted || text(client, "clientId") == *wanted);
        if clients.is_empty() {
            return Err(Failure::Other(format!(
                "{wanted}: the instance at {api} has no such client; `status` shows those it has"
            )));
        }
    }
    if args.json {
        return print_json(&json!({ "clients": clients }));
    }
    print(&shown(&clients))
}

/// Where an address that stands for all can be reached from here.
fn reachable(api: Listen) -> Listen {
    match api {
        Listen::Tcp(mut address) if address.ip().is_unspecified() => {
            address.set_ip(match address {
                SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
            });
            Listen::Tcp(address)
        }
        other => other,
    }
}

fn clients(body: &str) -> Option<Vec<Value>> {
    let mut answer: Value = serde_json::from_str(body).ok()?;
    match answer["clients"].take() {
        Value::Array(clients) => Some(clients),
        _ => None,
    }
}

fn refused(api: &Listen, status: u16, body: &str) -> Failure {
    let answer: Value = serde_json::from_str(body).unwrap_or_default();
    let reason = answer["error"]["message"]
        .as_str()
        .unwrap_or("no list of clients");
    let help = match status {
        401 | 403 => "; give the -config FILE that has its `server.apiToken`",
        _ => "",
    };
    Failure::Other(format!(
        "the instance at {api} answers {status}: {reason}{help}"
    ))
}

fn shown(clients: &[Value]) -> String {
    let rows: Vec<_> = clients
        .iter()
        .map(|client| {
            vec![
                name(client),
                text(client, "status"),
                duration(client["replicationLagMs"].as_u64().unwrap_or(0)),
                text(client, "txid"),
                text(client, "replicatedTxid"),
                text(client, "pendingBytes"),
                text(client, "generation"),
                text(client, "lastSyncAt"),
                text(client, "lastError"),
            ]
        })
        .collect();
    let titles = [
        "CLIENT",
        "STATUS",
        "LAG",
        "TXID",
        "STORED",
        "PENDING",
        "GENERATION",
        "LAST SYNC",
        "LAST ERROR",
    ];
    table(&titles, &rows)
}

/// `PREFIX/` before the client where there is a prefix.
fn name(client: &Value) -> String {
    match client["prefix"].as_str() {
        None => text(client, "clientId"),
        Some(prefix) => format!("{prefix}/{}", text(client, "clientId")),
    }
}

/// A field as people read it; nothing where it is null.
fn text(client: &Value, key: &str) -> String {
    match &client[key] {
        Value::Null => String::new(),
        Value::String(text) => super::one_line(text),
        other => other.to_string(),
    }
}

fn duration(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms}ms"),
        1_000..60_000 => format!("{}.{}s", ms / 1_000, ms % 1_000 / 100),
        _ => format!("{}m{:02}s", ms / 60_000, ms / 1_000 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_a_table() {
        let clients = [
            json!({"clientId": "abc", "prefix": null, "status": "active", "replicationLagMs": 0, "txid": 9,
                "replicatedTxid": 9, "pendingBytes": 0, "generation": "01", "lastSyncAt": "then", "lastError": null}),
            json!({"clientId": "t/d", "prefix": "eu", "status": "failing", "replicationLagMs": 61_500, "txid": 12,
                "replicatedTxid": 3, "pendingBytes": 4096, "generation": null, "lastSyncAt": null, "lastError": "a\nb"}),
        ];
        let expected = "\
CLIENT  STATUS   LAG    TXID  STORED  PENDING  GENERATION  LAST SYNC  LAST ERROR
abc     active   0ms    9     9       0        01          then
eu/t/d  failing  1m01s  12    3       4096                            a b
";
        assert_eq!(shown(&clients), expected);
        assert_eq!(duration(1_250), "1.2s");
    }

    #[test]
    fn an_address_for_all_is_asked_here() {
        let asked = |text: &str| reachable(text.parse().expect("an address")).to_string();
        assert_eq!(asked("0.0.0.0:80"), "127.0.0.1:80");
        assert_eq!(asked("[::]:80"), "[::1]:80");
        assert_eq!(asked("10.0.0.1:80"), "10.0.0.1:80");
    }
}
