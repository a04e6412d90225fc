//! The metrics: of each client from the roster at each scrape, so that a client that goes takes its series with it, and
//! of the process from its meter.

use std::sync::Arc;

use prometheus::proto::{LabelPair, MetricFamily};

use super::exposition::{self, alone, counters, gauges, histogram, label};
use crate::clock::UnixMs;
use crate::meter::{self, FileOperation, Request, RequestResult};
use crate::tenant::roster::{Client, Progress, Status};

/// All series.
pub fn render(clients: &[Arc<Client>], now: UnixMs) -> String {
    let known: Vec<Known> = clients
        .iter()
        .map(|client| (labels(client), client.progress()))
        .collect();
    let mut families = of_clients(&known, now);
    families.extend(of_the_process());
    exposition::text(families)
}

/// A client's labels and how far it has come.
type Known = (Vec<LabelPair>, Progress);

fn labels(client: &Client) -> Vec<LabelPair> {
    let mut labels = vec![label("client", client.label.to_string())];
    if let Some(prefix) = client.prefix() {
        labels.push(label("prefix", prefix.to_owned()));
    }
    labels
}

fn of_clients(known: &[Known], now: UnixMs) -> Vec<MetricFamily> {
    let each = |value: fn(&Progress, UnixMs) -> u64| {
        known
            .iter()
            .map(move |(labels, progress)| (labels.clone(), value(progress, now) as f64))
    };
    let by_status = Status::ALL.map(|status| {
        let has = |(_, progress): &&Known| progress.status == status;
        let count = known.iter().filter(has).count();
        (vec![label("status", status.as_str())], count as f64)
    });
    let lags = known.iter().map(|(_, progress)| progress.lag_ms(now));
    let max_lag = lags.max().unwrap_or(0);
    vec![
        gauges(
            "litestream_databases_active",
            "1 while the client is active, else 0.",
            each(|progress, _| u64::from(progress.status == Status::Active)),
        ),
        gauges(
            "litestream_replication_lag",
            "Age in milliseconds of the oldest committed transaction that is not in the store; 0 when all are.",
            each(Progress::lag_ms),
        ),
        counters(
            "litestream_s3_sync_errors",
            "Failed attempts to store something of the client since the start.",
            each(|progress, _| progress.sync_errors),
        ),
        gauges("litestream_clients", "Clients with this status.", by_status),
        gauges(
            "litestream_lag_max_milliseconds",
            "The largest lag of all clients, in milliseconds.",
            alone(max_lag as f64),
        ),
    ]
}

fn of_the_process() -> Vec<MetricFamily> {
    let requests = Request::ALL.iter().flat_map(|request| {
        RequestResult::ALL.iter().map(|result| {
            let labels = vec![
                label("operation", request.name()),
                label("result", result.name()),
            ];
            (labels, request.counted(*result) as f64)
        })
    });
    let bytes = [
        ("received", &meter::BYTES_RECEIVED),
        ("sent", &meter::BYTES_SENT),
    ]
    .map(|(direction, counter)| (vec![label("direction", direction)], counter.get() as f64));
    let operations = FileOperation::ALL.iter().map(|operation| {
        let labels = vec![label("operation", operation.name())];
        (labels, operation.counted() as f64)
    });
    vec![
        counters(
            "litestream_store_requests_total",
            "Requests that the store has answered, or failed to.",
            requests,
        ),
        counters(
            "litestream_store_bytes_total",
            "Bytes of objects that went to the store and came from it.",
            bytes,
        ),
        histogram(
            "litestream_sync_duration_seconds",
            "From the first attempt to store a segment or a snapshot to its acknowledgement.",
            &meter::SYNC_DURATION.read(),
        ),
        counters(
            "litestream_transactions_captured_total",
            "Transactions that were captured.",
            alone(meter::TRANSACTIONS_CAPTURED.get() as f64),
        ),
        gauges(
            "litestream_spool_bytes",
            "Captured bytes that wait on local disk.",
            alone(meter::SPOOL_BYTES.get() as f64),
        ),
        gauges(
            "litestream_uploads_in_flight",
            "Requests of uploads that the store has not answered yet.",
            alone(meter::UPLOADS_IN_FLIGHT.get() as f64),
        ),
        counters(
            "litestream_own_requests_total",
            "Requests that the instance made of its own mounts, which is a defect.",
            alone(meter::OWN_REQUESTS.get() as f64),
        ),
        counters(
            "litestream_gates_missed_total",
            "File operations that passed before their capture had ended; each left a gap.",
            alone(meter::GATES_MISSED.get() as f64),
        ),
        counters(
            "litestream_durability_timeouts_total",
            "Commits that were to wait for the store, which did not take them in time.",
            alone(meter::DURABILITY_TIMEOUTS.get() as f64),
        ),
        counters(
            "litestream_foreign_changes_total",
            "Database files that differed from their captured history: written past SQLite, or frames lost by it.",
            alone(meter::FOREIGN_CHANGES.get() as f64),
        ),
        counters(
            "litestream_log_lines_dropped_total",
            "Log lines that were dropped, since whoever reads the log does not take them.",
            alone(meter::LOG_LINES_DROPPED.get() as f64),
        ),
        counters(
            "litestream_fuse_operations_total",
            "File operations that the mounts have answered; what the kernel passes through is not among them.",
            operations,
        ),
        histogram(
            "litestream_fuse_operation_seconds",
            "From the arrival of a file operation to its answer, gates included.",
            &meter::FILE_OPERATION_DURATION.read(),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tenant::ids::Identity;
    use crate::tenant::roster::{Registration, Roster};
    use std::path::Path;

    fn has_line(text: &str, line: &str) {
        assert!(text.lines().any(|one| one == line), "{line}\n{text}");
    }

    fn register(roster: &Roster, identity: Identity) -> Registration {
        roster.register(
            identity,
            Path::new("abc.db").into(),
            &Path::new("/data").into(),
        )
    }

    #[test]
    fn the_series_of_every_client() {
        let roster = Roster::new(10);
        for prefix in ["", "staging"] {
            let Registration::New(client) = register(&roster, Identity::plain(prefix, "abc"))
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
            "litestream_clients{status=\"active\"} 2",
            "litestream_clients{status=\"failing\"} 0",
            "litestream_lag_max_milliseconds 45",
        ] {
            has_line(&text, line);
        }
        roster.unregister(&Identity::plain("staging", "abc").id, Path::new("abc.db"));
        assert!(!render(&roster.all(), 0).contains("staging"));
    }

    #[test]
    fn labels_are_escaped() {
        let roster = Roster::new(10);
        register(&roster, Identity::plain("", "a\\b\"c\nd"));
        let text = render(&roster.all(), 0);
        has_line(
            &text,
            "litestream_databases_active{client=\"a\\\\b\\\"c\\nd\"} 1",
        );
    }

    #[test]
    fn the_process_has_its_series_without_any_client() {
        let text = render(&[], 0);
        assert!(!text.contains("client="), "{text}");
        for line in [
            "# TYPE litestream_store_requests_total counter",
            "litestream_store_requests_total{operation=\"list_folders\",result=\"throttled\"} 0",
            "# TYPE litestream_fuse_operation_seconds histogram",
            "litestream_lag_max_milliseconds 0",
        ] {
            has_line(&text, line);
        }
    }
}
