//! The metrics of a real daemon, read by Prometheus' own parser; and what the alert rules and the dashboard name.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

use super::support::daemon::{Daemon, Options, guid};
use super::support::{python, sqlite};

const CREATE: &str = "PRAGMA journal_mode=WAL; CREATE TABLE t(x)";

fn parsed(daemon: &Daemon) -> Value {
    let parsed = python::piped(&mut python::script("metrics.py"), &daemon.metrics());
    serde_json::from_str(&parsed).expect("JSON")
}

/// The value of the series with these labels; 0 where there is none.
fn value(families: &Value, name: &str, labels: &[(&str, &str)]) -> f64 {
    let samples = families
        .as_object()
        .expect("families")
        .values()
        .flat_map(|family| family["samples"].as_array().expect("samples"));
    let found = samples.into_iter().find(|sample| {
        let has = sample[1].as_object().expect("labels");
        sample[0] == name
            && labels
                .iter()
                .all(|(label, value)| has.get(*label) == Some(&(*value).into()))
    });
    found.map_or(0.0, |sample| sample[2].as_f64().expect("a number"))
}

#[test]
fn every_series_is_there_and_counts() {
    let daemon = Daemon::start(Options::default());
    let client = guid(1);
    let database = daemon.database(&client);
    sqlite::query(&database, CREATE);
    for n in 0..5 {
        sqlite::query(&database, &format!("INSERT INTO t VALUES ({n})"));
    }
    let txid = daemon.sync(&client);
    let families = parsed(&daemon);
    let of_client = [("client", client.as_str())];
    assert_eq!(
        value(&families, "litestream_databases_active", &of_client),
        1.0
    );
    assert_eq!(
        value(&families, "litestream_replication_lag", &of_client),
        0.0
    );
    for (name, labels) in [
        (
            "litestream_store_requests_total",
            vec![("operation", "put"), ("result", "ok")],
        ),
        ("litestream_store_bytes_total", vec![("direction", "sent")]),
        ("litestream_sync_duration_seconds_count", vec![]),
        ("litestream_sync_duration_seconds_sum", vec![]),
        (
            "litestream_fuse_operations_total",
            vec![("operation", "create")],
        ),
        (
            "litestream_fuse_operations_total",
            vec![("operation", "write")],
        ),
        ("litestream_fuse_operation_seconds_count", vec![]),
        ("litestream_clients", vec![("status", "active")]),
    ] {
        assert!(
            value(&families, name, &labels) > 0.0,
            "{name}: {families:#}"
        );
    }
    let captured = value(&families, "litestream_transactions_captured_total", &[]);
    assert_eq!(captured, txid as f64);
    assert_eq!(value(&families, "litestream_uploads_in_flight", &[]), 0.0);
    assert_eq!(value(&families, "litestream_gates_missed_total", &[]), 0.0);
    assert_eq!(value(&families, "litestream_spool_bytes", &[]), 0.0);
    let lines_dropped = value(&families, "litestream_log_lines_dropped_total", &[]);
    assert_eq!(lines_dropped, 0.0);

    fs::remove_file(&database).expect("the database goes");
    let gone = parsed(&daemon);
    assert!(!gone.to_string().contains(&client), "{gone:#}");
    shown_names_exist(&families);
}

/// What the alert rules and the dashboard show is there, and all that is there is shown.
fn shown_names_exist(families: &Value) {
    let known: BTreeSet<String> = families
        .as_object()
        .expect("families")
        .values()
        .flat_map(|family| family["samples"].as_array().expect("samples"))
        .map(|sample| sample[0].as_str().expect("a name").to_owned())
        .collect();
    let word = regex::Regex::new(r"\blitestream_\w+").expect("a regex");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let named = |file: &str| -> BTreeSet<String> {
        let text = fs::read_to_string(root.join(file)).expect("text");
        let words = word.find_iter(&text);
        words.map(|word| word.as_str().to_owned()).collect()
    };
    let rules = named("alerts.yml");
    let dashboard = named("grafana-dashboard.json");
    assert!(rules.len() >= 7, "{rules:?}");
    for name in rules.iter().chain(&dashboard) {
        assert!(known.contains(name), "there is no {name}: {known:?}");
    }
    for name in families.as_object().expect("families").keys() {
        let shown = dashboard.iter().any(|one| one.starts_with(name.as_str()));
        assert!(shown, "the dashboard does not show {name}");
    }
    let rules: Value =
        serde_yaml::from_str(&fs::read_to_string(root.join("alerts.yml")).expect("text"))
            .expect("YAML");
    for rule in rules["groups"][0]["rules"].as_array().expect("rules") {
        for key in ["alert", "expr"] {
            assert!(rule[key].is_string(), "{rule}");
        }
        assert!(rule["annotations"]["summary"].is_string(), "{rule}");
    }
    let dashboard = fs::read_to_string(root.join("grafana-dashboard.json")).expect("text");
    let dashboard: Value = serde_json::from_str(&dashboard).expect("JSON");
    assert!(dashboard["panels"].as_array().expect("panels").len() > 10);
}
