//! A thousand tenants: what a transaction costs when each commits once a second, and what they cost when none does.

use std::time::Duration;

use serde_json::json;

use crate::application::open_loop;
use crate::results::{Results, milliseconds, percentiles};
use crate::stage::{INTERCEPT, PASSTHROUGH, Stage};
use crate::{Setting, Side};

pub fn cpu(setting: &Setting, results: &mut Results) {
    let tenants = setting.either(1_000, 100);
    // Litestream compacts each 30 s: a whole number of these.
    let (warm, time) = setting.either((10, 60), (2, 6));
    let sides = [Side::Plain, Side::Litestream, PASSTHROUGH, INTERCEPT];
    for (round, side) in setting.in_turns(&sides, |side| *side) {
        let stage = Stage::set(side, None);
        let databases = stage.create(tenants, "NORMAL");
        if side != Side::Plain {
            stage.wait_for_first_objects(tenants);
        }
        let per_second = f64::from(tenants);
        open_loop(&databases, per_second, Duration::from_secs(warm), |_| {});
        let (before, first) = (stage.read(), stage.bucket.arrived());
        let work = open_loop(&databases, per_second, Duration::from_secs(time), |_| {});
        let took = stage.since(&before);
        let ended = std::time::Instant::now();
        let mut behind = Duration::ZERO;
        if side != Side::Plain {
            for database in &databases {
                let stored = stage.wait_until_stored(first, database.position());
                behind = behind.max(stored.saturating_duration_since(ended));
            }
        }
        results.add(&json!({
            "round": round, "side": side.name(), "tenants": tenants,
            "transactions": work.commits,
            "application_cpu_s": work.processor_time.as_secs_f64(),
            "commit": percentiles(&work.times),
            "all_stored_after_ms": milliseconds(behind),
            "took": took,
        }));
    }
}

pub fn idle(setting: &Setting, results: &mut Results) {
    let tenants = setting.either(1_000, 100);
    let (settle, time) = setting.either((40, 60), (3, 5));
    for (round, side) in setting.in_turns(&[Side::Litestream, PASSTHROUGH], |side| *side) {
        let stage = Stage::set(side, None);
        let databases = stage.create(tenants, "NORMAL");
        stage.wait_for_first_objects(tenants);
        drop(databases);
        std::thread::sleep(Duration::from_secs(settle));
        let before = stage.read();
        std::thread::sleep(Duration::from_secs(time));
        let took = stage.since(&before);
        results.add(&json!({
            "round": round, "side": side.name(), "tenants": tenants, "took": took,
        }));
    }
}
