//! The Prometheus text, made from the roster at each scrape: a client that goes takes its series with it.

use std::sync::Arc;

use prometheus::TextEncoder;
use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};

use crate::clock::UnixMs;
use crate::tenant::ids::ClientId;
use crate::tenant::roster::{Client, Progress, Status};

/// The exposition format's media type.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

struct Series {
    name: &'static str,
    kind: Kind,
    help: &'static str,
    value: fn(&Progress, UnixMs) -> u64,
}

#[derive(Clone, Copy)]
enum Kind {
    Gauge,
    Counter,
}

const PER_CLIENT: [Series; 3] = [
    Series {
        name: "litestream_databases_active",
        kind: Kind::Gauge,
        help: "1 while the client is active, else 0.",
        value: |progress, _| u64::from(progress.status == Status::Active),
    },
    Series {
        name: "litestream_replication_lag",
        kind: Kind::Gauge,
        help: "Age in milliseconds of the oldest committed transaction that is not in the store; 0 when all are.",
        value: |progress, now| progress.lag_ms(now),
    },
    Series {
        name: "litestream_s3_sync_errors",
        kind: Kind::Counter,
        help: "Failed attempts to store something of the client since the start.",
        value: |progress, _| progress.sync_errors,
    },
];

/// All series; none of them where there is no client.
pub fn render(clients: &[Arc<Client>], now: UnixMs) -> String {
    // The format has no family without a series.
    if clients.is_empty() {
        return String::new();
    }
    let known: Vec<_> = clients
        .iter()
        .map(|client| (labels(&client.id), client.progress()))
        .collect();
    let families: Vec<_> = PER_CLIENT
        .iter()
        .map(|series| family(series, &known, now))
        .collect();
    TextEncoder::new()
        .encode_to_string(&families)
        .expect("BUG: a family has no name or no series")
}

fn family(series: &Series, known: &[(Vec<LabelPair>, Progress)], now: UnixMs) -> MetricFamily {
    let metrics = known.iter().map(|(labels, progress)| {
        let value = (series.value)(progress, now) as f64;
        let mut metric = Metric::from_label(labels.clone());
        match series.kind {
            Kind::Gauge => {
                let mut gauge = Gauge::default();
                gauge.set_value(value);
                metric.set_gauge(gauge);
            }
            Kind::Counter => {
                let mut counter = Counter::default();
                counter.set_value(value);
                metric.set_counter(counter);
            }
        }
        metric
    });
    let mut family = MetricFamily::default();
    family.set_name(series.name.to_owned());
    family.set_help(series.help.to_owned());
    family.set_field_type(match series.kind {
        Kind::Gauge => MetricType::GAUGE,
        Kind::Counter => MetricType::COUNTER,
    });
    family.set_metric(metrics.collect());
    family
}

fn labels(id: &ClientId) -> Vec<LabelPair> {
    let mut labels = vec![label("client", id.label())];
    if !id.prefix.is_empty() {
        labels.push(label("prefix", id.prefix.clone()));
    }
    labels
}

fn label(name: &str, value: String) -> LabelPair {
    let mut label = LabelPair::default();
    label.set_name(name.to_owned());
    label.set_value(value);
    label
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tenant::roster::{Registration, Roster};
    use std::path::Path;

    #[test]
    fn the_series_of_every_client() {
        let roster = Roster::new(10);
        for prefix in ["", "staging"] {
            let Registration::New(client) =
                roster.register(ClientId::guid(prefix, "abc"), Path::new("abc.db"))
            else {
                panic!("a new client");
            };
            client.update(|progress| {
                progress.oldest_pending_at = Some(1_000);
                progress.sync_errors = 3;
            });
        }
        let text = render(&roster.all(), 1_045);
        for line in [
            "# TYPE litestream_databases_active gauge",
            "litestream_databases_active{client=\"abc\"} 1",
            "litestream_replication_lag{client=\"abc\",prefix=\"staging\"} 45",
            "# TYPE litestream_s3_sync_errors counter",
            "litestream_s3_sync_errors{client=\"abc\"} 3",
        ] {
            assert!(text.lines().any(|one| one == line), "{line}\n{text}");
        }
        roster.unregister(&ClientId::guid("staging", "abc"), Path::new("abc.db"));
        assert!(!render(&roster.all(), 0).contains("staging"));
    }

    #[test]
    fn every_family_has_its_help_and_type_before_its_series() {
        assert_eq!(render(&[], 0), "");
        let roster = Roster::new(10);
        roster.register(ClientId::guid("", "a\\b\"c\nd"), Path::new("abc.db"));
        let text = render(&roster.all(), 0);
        assert!(text.ends_with('\n'));
        for Series { name, .. } in &PER_CLIENT {
            let help = text.find(&format!("# HELP {name} "));
            let kind = text.find(&format!("# TYPE {name} "));
            let line = text.find(&format!("\n{name}{{client=\"a\\\\b\\\"c\\nd\"}} "));
            assert!(help.is_some() && help < kind && kind < line, "{text}");
        }
    }
}
