//! The Prometheus text, made from the roster at each scrape: a client that goes takes its series with it.

use std::fmt::Write;
use std::sync::Arc;

use crate::clock::UnixMs;
use crate::tenant::ids::ClientId;
use crate::tenant::roster::{Client, Progress, Status};

/// The exposition format's media type.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

struct Series {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    value: fn(&Progress, UnixMs) -> u64,
}

const PER_CLIENT: [Series; 3] = [
    Series {
        name: "litestream_databases_active",
        kind: "gauge",
        help: "1 while the client is active, else 0.",
        value: |progress, _| u64::from(progress.status == Status::Active),
    },
    Series {
        name: "litestream_replication_lag",
        kind: "gauge",
        help: "Age in milliseconds of the oldest committed transaction that is not in the store; 0 when all are.",
        value: |progress, now| progress.lag_ms(now),
    },
    Series {
        name: "litestream_s3_sync_errors",
        kind: "counter",
        help: "Failed attempts to store something of the client since the start.",
        value: |progress, _| progress.sync_errors,
    },
];

/// All series, each with its help and type even where there is no client.
pub fn render(clients: &[Arc<Client>], now: UnixMs) -> String {
    let known: Vec<_> = clients
        .iter()
        .map(|client| (labels(&client.id), client.progress()))
        .collect();
    let mut text = String::new();
    for series in &PER_CLIENT {
        let name = series.name;
        append(&mut text, format_args!("# HELP {name} {}\n", series.help));
        append(&mut text, format_args!("# TYPE {name} {}\n", series.kind));
        for (labels, progress) in &known {
            let value = (series.value)(progress, now);
            append(&mut text, format_args!("{name}{{{labels}}} {value}\n"));
        }
    }
    text
}

fn append(text: &mut String, line: std::fmt::Arguments<'_>) {
    text.write_fmt(line)
        .expect("BUG: writing to a string failed");
}

fn labels(id: &ClientId) -> String {
    let client = escaped(&id.label());
    if id.prefix.is_empty() {
        format!("client=\"{client}\"")
    } else {
        format!("client=\"{client}\",prefix=\"{}\"", escaped(&id.prefix))
    }
}

fn escaped(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
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
    fn the_text_is_an_exposition() {
        let text = render(&[], 0);
        assert!(text.ends_with('\n'));
        for series in &PER_CLIENT {
            let help = text.find(&format!("# HELP {} ", series.name));
            let kind = text.find(&format!("# TYPE {} ", series.name));
            assert!(help < kind && help.is_some(), "{text}");
        }
    }

    #[test]
    fn labels_are_escaped() {
        assert_eq!(escaped("a\\b\"c\nd"), "a\\\\b\\\"c\\nd");
    }
}
