//! What the program has said, as far as the simulation has to know it.

use std::fmt::Write;
use std::sync::{Arc, Mutex};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use super::chance::{Trace, lock};

/// The lines of a run, and what they were about.
#[derive(Clone)]
pub struct Log {
    lines: Arc<Mutex<Vec<String>>>,
    trace: Arc<Trace>,
}

impl Log {
    pub fn new(trace: Arc<Trace>) -> Self {
        let lines = Arc::default();
        Self { lines, trace }
    }

    /// Hears what this thread says, until the guard goes.
    pub fn listen(&self) -> tracing::subscriber::DefaultGuard {
        tracing::subscriber::set_default(tracing_subscriber::registry().with(self.clone()))
    }

    /// How many lines have this in them.
    pub fn count(&self, text: &str) -> usize {
        let lines = lock(&self.lines);
        lines.iter().filter(|line| line.contains(text)).count()
    }
}

impl<S: Subscriber> Layer<S> for Log {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let level = *event.metadata().level();
        if level > Level::INFO || !event.metadata().target().starts_with("litestream") {
            return;
        }
        let mut line = Line(level.to_string());
        event.record(&mut line);
        self.trace.note(format_args!("{}", line.0));
        lock(&self.lines).push(line.0);
    }
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        // Paths are the run's own, and durations those of the machine.
        if !matches!(field.name(), "file" | "duration") {
            write!(self.0, " {}={value:?}", field.name()).expect("a string takes all");
        }
    }
}
