//! From the first commit of a new database until its first object is in the store.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::application::Database;
use crate::results::{Results, percentiles};
use crate::stage::{PASSTHROUGH, Stage};
use crate::{Setting, Side};

pub fn detect(setting: &Setting, results: &mut Results) {
    let (before, new) = setting.either((100, 20), (10, 3));
    let sides = [
        (Side::Litestream, None),
        (PASSTHROUGH, None),
        (Side::Litestream, Some("10ms")),
        (PASSTHROUGH, Some("10ms")),
    ];
    for (round, (side, interval)) in setting.in_turns(&sides, |one| one.0) {
        let stage = Stage::set(side, interval);
        drop(stage.create(before, "NORMAL"));
        stage.wait_for_first_objects(before);
        let detect = |number: u32| -> Duration {
            // At no fixed place in the second in which somebody may look.
            std::thread::sleep(Duration::from_millis(u64::from(number) * 37 % 200));
            let database = Database::create(&stage.database(number), "NORMAL");
            let created = Instant::now();
            let arrived = stage.wait_for_first_object(number);
            drop(database);
            arrived.saturating_duration_since(created)
        };
        let times: Vec<_> = (before..before + new).map(detect).collect();
        results.add(&json!({
            "round": round, "side": side.name(), "interval": interval.unwrap_or("1s"),
            "databases_before": before, "new": new,
            "stored_after": percentiles(&times),
        }));
    }
}
