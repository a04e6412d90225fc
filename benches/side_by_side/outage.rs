//! A store that refuses everything for a while: what is tried meanwhile, and how long it takes to catch up.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::application::open_loop;
use crate::results::{Results, milliseconds};
use crate::stage::{PASSTHROUGH, Stage};
use crate::{Setting, Side};

pub fn outage(setting: &Setting, results: &mut Results) {
    let tenants = setting.either(20, 5);
    let per_second = f64::from(tenants) * 5.0;
    let time = Duration::from_secs(setting.either(60, 5));
    for (round, side) in setting.in_turns(&[Side::Litestream, PASSTHROUGH], |side| *side) {
        let stage = Stage::set(side, None);
        let databases = stage.create(tenants, "NORMAL");
        stage.wait_for_first_objects(tenants);
        open_loop(&databases, per_second, Duration::from_secs(3), |_| {});
        let (before, first) = (stage.read(), stage.bucket.arrived());
        stage.bucket.set_down(true);
        let work = open_loop(&databases, per_second, time, |_| {});
        let down = stage.since(&before);
        let log_bytes: u64 = databases.iter().map(|database| database.log_size()).sum();
        let before = stage.read();
        stage.bucket.set_down(false);
        let up = Instant::now();
        let caught_up = databases
            .iter()
            .map(|database| stage.wait_until_stored(first, database.position()))
            .max();
        let caught_up = caught_up.expect("there are databases");
        let after = stage.since(&before);
        results.add(&json!({
            "round": round, "side": side.name(), "tenants": tenants, "commits": work.commits,
            "down": down,
            "log_bytes": log_bytes,
            "caught_up_after_ms": milliseconds(caught_up.saturating_duration_since(up)),
            "catching_up": after,
        }));
    }
}
