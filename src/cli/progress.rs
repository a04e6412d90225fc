//! Progress bars on standard error; nothing where that is no terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::restore::Progress;

const REDRAW: Duration = Duration::from_millis(200);

/// A bar, which goes when it is dropped.
pub(super) struct Bar(ProgressBar);

impl Bar {
    /// Of one restore.
    pub(super) fn of_bytes() -> Self {
        Self::new(0, "{bar:30} {bytes} of {total_bytes}, {msg}, {eta} left")
    }

    /// Of work on several clients.
    pub(super) fn of_clients(clients: usize) -> Self {
        Self::new(
            clients as u64,
            "{bar:30} {pos} of {len} clients, {eta} left",
        )
    }

    fn new(length: u64, template: &str) -> Self {
        let style = ProgressStyle::with_template(template).expect("BUG: a valid template");
        let bar = ProgressBar::new(length).with_style(style);
        bar.enable_steady_tick(REDRAW);
        Self(bar)
    }

    pub(super) fn update(&self, progress: Progress) {
        let Progress {
            objects_done,
            objects,
            bytes_done,
            bytes,
        } = progress;
        self.0.set_length(bytes);
        self.0.set_position(bytes_done);
        self.0
            .set_message(format!("{objects_done} of {objects} objects"));
    }

    pub(super) fn one_more(&self) {
        self.0.inc(1);
    }

    /// Takes the bar away while something else is printed.
    pub(super) fn suspend<T>(&self, print: impl FnOnce() -> T) -> T {
        self.0.suspend(print)
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
