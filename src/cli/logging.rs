//! Log lines on standard error: one JSON object each, or one readable line each.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt::{self, Write};
use std::panic::PanicHookInfo;

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::Value;
use tracing::Level;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use super::log_thread::{self, LogThread};
use super::syslog::{self, Messages, Syslog};
use crate::clock;
use crate::config::LogFormat;

/// What a line may have, so that those that wait are bounded: 64 MiB where all are so long.
const MAX_LINE: usize = 8 * 1024;

/// How long a thread that panics waits until that is written.
const PANIC_LIMIT: std::time::Duration = std::time::Duration::from_millis(200);

/// Stands where a text was cut.
const CUT: &str = "…";

/// Starts logging for the process. `RUST_LOG` may hold a level for this program's own events; of others, such as
/// the S3 client's, only warnings are shown.
pub(super) fn start(format: LogFormat) -> LogThread {
    let log = LogThread::start(std::io::stderr(), log_thread::TOGETHER, move |lines| {
        Line::of_dropped(lines).rendered(format).into_bytes()
    });
    let lines = log.lines();
    start_with(format, move || lines.clone(), log.lines());
    log
}

/// The log of a process that has left its terminal.
pub(super) enum Detached {
    /// Standard error is systemd's journal.
    Journal,
    Syslog(Syslog),
    /// There is neither.
    Nowhere,
}

impl Detached {
    pub(super) fn choose(stderr_is_journal: bool) -> Self {
        match (stderr_is_journal, Syslog::connect()) {
            (true, _) => Self::Journal,
            (false, Ok(syslog)) => Self::Syslog(syslog),
            (false, Err(_)) => Self::Nowhere,
        }
    }

    pub(super) fn uses_stderr(&self) -> bool {
        matches!(self, Self::Journal)
    }
}

pub(super) fn start_detached(format: LogFormat, log: Detached) -> Option<LogThread> {
    match log {
        Detached::Journal => Some(start(format)),
        Detached::Syslog(syslog) => {
            // A message each.
            let log = LogThread::start(syslog, 0, move |lines| {
                let line = Line::of_dropped(lines).rendered(format);
                syslog::message(Level::WARN, line.as_bytes())
            });
            start_with(format, Messages(log.lines()), log.lines());
            Some(log)
        }
        Detached::Nowhere => None,
    }
}

fn start_with<W>(format: LogFormat, writer: W, out: log_thread::Lines)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let level = std::env::var("RUST_LOG")
        .ok()
        .and_then(|level| level.parse().ok())
        .unwrap_or(LevelFilter::INFO);
    let targets = Targets::new()
        .with_default(LevelFilter::WARN)
        .with_target(env!("CARGO_CRATE_NAME"), level);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(writer)
        .event_format(Lines { format });
    tracing_subscriber::registry()
        .with(lines)
        .with(targets)
        .init();
    std::panic::set_hook(Box::new(move |panic| {
        log_panic(panic);
        // The process may end behind this.
        out.wait(PANIC_LIMIT);
    }));
}

/// Logs a panic like anything else: the hook that there is by default waits for whoever reads standard error.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let backtrace = Backtrace::capture();
    let backtrace =
        (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
    tracing::error!(
        thread = thread.name(),
        place = panic.location().map(ToString::to_string),
        panic = panic.payload_as_str(),
        backtrace,
        "A thread panicked"
    );
}

/// Writes an event as one line.
struct Lines {
    format: LogFormat,
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        writer.write_str(&Line::new(event).rendered(self.format))
    }
}

/// One event: when, how grave, what, and its fields in the order of the source.
struct Line {
    timestamp: String,
    level: String,
    fields: Fields,
}

impl Line {
    fn new(event: &Event<'_>) -> Self {
        let mut fields = Fields::default();
        event.record(&mut fields);
        Self {
            timestamp: clock::rfc3339(clock::now_ms()),
            level: event.metadata().level().as_str().to_lowercase(),
            fields,
        }
    }

    /// What is told where lines are missing.
    fn of_dropped(lines: u64) -> Self {
        Self {
            timestamp: clock::rfc3339(clock::now_ms()),
            level: Level::WARN.as_str().to_lowercase(),
            fields: Fields {
                message: "Log lines were dropped: they were not read as fast as they came"
                    .to_owned(),
                rest: vec![("lines", lines.into())],
            },
        }
    }

    /// The line with its end, where need be with its longest texts cut.
    fn rendered(mut self, format: LogFormat) -> String {
        let mut longest = MAX_LINE;
        loop {
            let mut text = match format {
                LogFormat::Json => {
                    serde_json::to_string(&self).expect("BUG: an event that is no JSON")
                }
                LogFormat::Text => self.to_string(),
            };
            if text.len() < MAX_LINE || longest == 0 {
                text.push('\n');
                return text;
            }
            longest /= 2;
            self.fields.cut(longest);
        }
    }
}

impl Serialize for Line {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("timestamp", &self.timestamp)?;
        map.serialize_entry("level", &self.level)?;
        map.serialize_entry("message", &self.fields.message)?;
        for (name, value) in &self.fields.rest {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let message = self.fields.message.replace('\n', " ");
        write!(f, "{} {:<5} {message}", self.timestamp, self.level)?;
        for (name, value) in &self.fields.rest {
            match value {
                Value::String(text) if is_plain(text) => write!(f, " {name}={text}")?,
                value => write!(f, " {name}={value}")?,
            }
        }
        Ok(())
    }
}

fn is_plain(text: &str) -> bool {
    !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c.is_control() || c == '"')
}

#[derive(Default)]
struct Fields {
    message: String,
    rest: Vec<(&'static str, Value)>,
}

impl Fields {
    fn add(&mut self, field: &Field, value: impl Into<Value>) {
        match (field.name(), value.into()) {
            ("message", Value::String(text)) => self.message = text,
            (name, value) => self.rest.push((name, value)),
        }
    }

    /// Leaves as many bytes of each text at most, and says where there were more.
    fn cut(&mut self, longest: usize) {
        let texts = self.rest.iter_mut().filter_map(|(_, value)| match value {
            Value::String(text) => Some(text),
            _ => None,
        });
        for text in texts.chain([&mut self.message]) {
            if text.len() > longest + CUT.len() {
                text.truncate(text.floor_char_boundary(longest));
                text.push_str(CUT);
            }
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut text = String::new();
        if write!(text, "{value:?}").is_ok() {
            self.add(field, text);
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value);
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("one thread").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, log: impl FnOnce()) -> String {
        let sink = Sink::default();
        let writer = sink.clone();
        let lines = tracing_subscriber::fmt::layer()
            .with_writer(move || writer.clone())
            .event_format(Lines { format });
        tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), log);
        let bytes = sink.0.lock().expect("one thread").clone();
        String::from_utf8(bytes).expect("text")
    }

    #[test]
    fn an_event_is_one_flat_object() {
        let text = logged(LogFormat::Json, || {
            tracing::info!(
                client = "abc",
                operation = "sync",
                duration = "150ms",
                s3_path = %"databases/abc/",
                txid = 7u64,
                "Segment \"stored\"\nand\u{1b} more"
            );
        });
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.starts_with("{\"timestamp\":\""), "{text}");
        let mut json: serde_json::Map<String, Value> = serde_json::from_str(&text).expect("JSON");
        let timestamp = json.remove("timestamp").expect("a time");
        assert!(clock::parse_rfc3339(timestamp.as_str().expect("text")).is_some());
        let expected = serde_json::json!({
            "level": "info", "message": "Segment \"stored\"\nand\u{1b} more", "client": "abc",
            "operation": "sync", "duration": "150ms", "s3_path": "databases/abc/", "txid": 7,
        });
        assert_eq!(Value::Object(json), expected);
    }

    #[test]
    fn text_is_one_line_whatever_the_fields_hold() {
        let text = logged(LogFormat::Text, || {
            tracing::warn!(client = "abc", error = "a \"b\"\nc", "Retrying\nsoon");
        });
        assert_eq!(text.lines().count(), 1, "{text}");
        let (_, rest) = text.split_once(' ').expect("a time");
        assert_eq!(
            rest,
            "warn  Retrying soon client=abc error=\"a \\\"b\\\"\\nc\"\n"
        );
    }

    #[test]
    fn a_line_is_cut_where_it_is_too_long() {
        let (short, long) = ("a".repeat(2_000), "€\u{1}".repeat(100_000));
        for format in [LogFormat::Json, LogFormat::Text] {
            let text = logged(format, || {
                tracing::warn!(client = "abc", short, long, longer = ?[&long, &long], txid = 7, "Retrying");
            });
            assert!(
                text.len() > MAX_LINE / 4 && text.len() <= MAX_LINE,
                "{text}"
            );
            assert_eq!(text.lines().count(), 1, "{text}");
            assert!(text.contains("abc") && text.contains("Retrying") && text.contains('7'));
            if format == LogFormat::Json {
                let json: Value = serde_json::from_str(&text).expect("JSON");
                let long = json["long"].as_str().expect("text");
                assert!(long.starts_with('€') && long.ends_with(CUT), "{long}");
            }
        }
    }

    /// A panic that nothing can catch; it runs in a process of its own.
    extern "C" fn abort() {
        panic!("as the test wants it");
    }

    #[test]
    fn a_panic_is_logged_also_where_the_process_aborts() {
        const CHILD: &str = "LITESTREAM_MULTITENANT_ABORTS";
        const NAME: &str = "cli::logging::tests::a_panic_is_logged_also_where_the_process_aborts";
        if std::env::var_os(CHILD).is_some() {
            let _log = start(LogFormat::Json);
            abort();
        }
        let this = std::env::current_exe().expect("the test's own path");
        let output = std::process::Command::new(this)
            .args(["--exact", NAME, "--nocapture"])
            .env(CHILD, "1")
            .output()
            .expect("it starts");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{text}");
        let told = text
            .lines()
            .find(|line| line.contains("as the test wants it"));
        let json: Value = serde_json::from_str(told.expect(&text)).expect("JSON");
        assert_eq!(json["message"], "A thread panicked");
        let place = json["place"].as_str().expect("text");
        assert!(place.contains("logging.rs"), "{json}");
    }

    #[test]
    fn what_was_dropped_is_told_in_either_format() {
        let json = Line::of_dropped(3).rendered(LogFormat::Json);
        let json: Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!(
            (&json["level"], &json["lines"]),
            (&"warn".into(), &3.into())
        );
        let text = Line::of_dropped(3).rendered(LogFormat::Text);
        assert!(
            text.contains("Log lines were dropped") && text.ends_with(" lines=3\n"),
            "{text}"
        );
    }
}
