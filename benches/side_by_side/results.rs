//! Raw results: a line of JSON for each measurement, from which `benches/report.py` makes tables and plots.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

pub struct Results {
    file: File,
}

impl Results {
    /// Begins the results of one bench anew. The first line says on what machine they were taken.
    pub fn begin(dir: &Path, bench: &str) -> Self {
        fs::create_dir_all(dir).expect("a directory for results");
        let file = File::create(dir.join(format!("{bench}.jsonl"))).expect("a file for results");
        let mut results = Self { file };
        results.add(&machine());
        results
    }

    pub fn add(&mut self, measured: &Value) {
        println!("{measured}");
        writeln!(self.file, "{measured}").expect("written");
    }
}

fn machine() -> Value {
    let load = fs::read_to_string("/proc/loadavg").expect("the load");
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("the release");
    let processors = std::thread::available_parallelism().expect("a number");
    json!({
        "processors": processors.get(),
        "kernel": release.trim(),
        "load_before": load.split(' ').next(),
    })
}

/// The milliseconds that so many percent of them stay below or are.
pub fn percentile(times: &[Duration], percent: usize) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let index = (sorted.len() * percent).div_ceil(100).max(1) - 1;
    milliseconds(sorted[index])
}

/// To the microsecond.
pub fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

/// The middle, the last hundredth, and the worst of some times.
pub fn percentiles(times: &[Duration]) -> Value {
    json!({
        "p50_ms": percentile(times, 50),
        "p99_ms": percentile(times, 99),
        "most_ms": percentile(times, 100),
    })
}
