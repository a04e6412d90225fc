//! What replication costs an application that commits one row after another as fast as it can, and what becomes of its log.

use std::time::Duration;

use serde_json::json;

use crate::application::closed_loop;
use crate::results::{Results, percentiles};
use crate::stage::{INTERCEPT, PASSTHROUGH, Stage};
use crate::{Setting, Side};

pub fn commits(setting: &Setting, results: &mut Results) {
    let time = Duration::from_secs(setting.either(15, 2));
    let sides = [Side::Plain, Side::Litestream, PASSTHROUGH, INTERCEPT];
    let sides: Vec<_> = ["NORMAL", "FULL"]
        .into_iter()
        .flat_map(|synchronous| sides.map(|side| (synchronous, side)))
        .collect();
    for (round, (synchronous, side)) in setting.in_turns(&sides, |one| one.1) {
        let stage = Stage::set(side, None);
        let databases = stage.create(1, synchronous);
        if side != Side::Plain {
            stage.wait_for_first_objects(1);
        }
        let before = stage.read();
        let (work, most_log) = closed_loop(&databases[0], time);
        let took = stage.since(&before);
        results.add(&json!({
            "round": round, "side": side.name(), "synchronous": synchronous,
            "commits": work.commits,
            "us_per_commit": work.took.as_secs_f64() * 1e6 / work.commits as f64,
            "application_cpu_s": work.processor_time.as_secs_f64(),
            "commit": percentiles(&work.times),
            "log_bytes": most_log,
            "took": took,
        }));
    }
}
