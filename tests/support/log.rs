//! The daemon's log lines, collected while it runs.

use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use serde_json::Value;

#[derive(Clone, Default)]
pub struct Log(Arc<Shared>);

#[derive(Default)]
struct Shared {
    lines: Mutex<Lines>,
    changed: Condvar,
    reader: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Lines {
    lines: Vec<String>,
    ended: bool,
    reader: Reader,
}

/// What reads the lines.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Reader {
    #[default]
    Reads,
    /// It has the pipe open, and takes nothing.
    Stopped,
    /// It has closed the pipe.
    Gone,
}

impl Log {
    /// Collects lines until the process closes its standard error. An earlier process must have ended.
    pub fn collect(&self, stderr: impl Read + Send + 'static) {
        let mut reader = self.0.reader.lock().expect("not poisoned");
        if let Some(earlier) = reader.take() {
            earlier.join().expect("the reader does not panic");
        }
        self.0.lines.lock().expect("not poisoned").ended = false;
        let shared = self.0.clone();
        *reader = Some(std::thread::spawn(move || {
            let mut lines = BufReader::new(stderr).lines().map_while(Result::ok);
            while shared.may_read()
                && let Some(line) = lines.next()
            {
                shared.lines.lock().expect("not poisoned").lines.push(line);
                shared.changed.notify_all();
            }
            drop(lines);
            shared.lines.lock().expect("not poisoned").ended = true;
            shared.changed.notify_all();
        }));
    }

    /// Nothing more is read, so that the pipe gets full. `go_on` has it read again.
    pub fn stop_reading(&self) {
        self.set_reader(Reader::Stopped);
    }

    pub fn go_on(&self) {
        self.set_reader(Reader::Reads);
    }

    /// The pipe is closed once the reader has had one more line.
    pub fn close(&self) {
        self.set_reader(Reader::Gone);
    }

    fn set_reader(&self, reader: Reader) {
        self.0.lines.lock().expect("not poisoned").reader = reader;
        self.0.changed.notify_all();
    }

    /// How many lines there are; a later `wait_from` begins there.
    pub fn mark(&self) -> usize {
        self.0.lines.lock().expect("not poisoned").lines.len()
    }

    /// Every line as it was written.
    pub fn text(&self) -> String {
        self.text_from(0)
    }

    /// Every line from line `mark` on.
    pub fn text_from(&self, mark: usize) -> String {
        self.0.lines.lock().expect("not poisoned").lines[mark..].join("\n")
    }

    /// The first event from line `mark` on whose message begins so.
    pub fn wait_from(&self, mark: usize, message: &str, deadline: Instant) -> Value {
        self.find_from(mark, message, deadline)
            .unwrap_or_else(|| panic!("no event {message:?} in the log:\n{}", self.text()))
    }

    /// The same; none where the process ends before that, or the time.
    pub fn find_from(&self, mark: usize, message: &str, deadline: Instant) -> Option<Value> {
        let mut next = mark;
        let mut guard = self.0.lines.lock().expect("not poisoned");
        loop {
            while let Some(line) = guard.lines.get(next) {
                next += 1;
                if let Ok(event) = serde_json::from_str::<Value>(line)
                    && event["message"]
                        .as_str()
                        .is_some_and(|text| text.starts_with(message))
                {
                    return Some(event);
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if guard.ended || left.is_zero() {
                return None;
            }
            guard = self
                .0
                .changed
                .wait_timeout(guard, left)
                .expect("not poisoned")
                .0;
        }
    }
}

impl Shared {
    /// Waits while the reader is stopped; whether it is still there.
    fn may_read(&self) -> bool {
        let lines = self.lines.lock().expect("not poisoned");
        let is_stopped = |lines: &mut Lines| lines.reader == Reader::Stopped;
        let lines = self
            .changed
            .wait_while(lines, is_stopped)
            .expect("not poisoned");
        lines.reader != Reader::Gone
    }
}
