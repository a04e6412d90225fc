//! A restore of the newest state by each side's own command: its time, its requests, its bytes.

use std::time::Duration;

use serde_json::json;

use crate::application::{Database, open_loop};
use crate::results::{Results, milliseconds};
use crate::stage::{PASSTHROUGH, Stage};
use crate::{Setting, Side};

const PER_SECOND: f64 = 20.0;

pub fn restore(setting: &Setting, results: &mut Results) {
    let rows = setting.either(100_000, 1_000);
    // Litestream compacts each 30 s; the end lies between two of these.
    let time = Duration::from_secs(setting.either(105, 4));
    let stages = [Side::Litestream, PASSTHROUGH].map(|side| {
        let stage = Stage::set(side, None);
        let databases = stage.create(1, "NORMAL");
        databases[0].add(rows);
        stage.wait_for_first_objects(1);
        open_loop(&databases, PER_SECOND, time, |_| {});
        stage.wait_until_stored(0, databases[0].position());
        // In the order in which they end.
        (side, databases, stage)
    });
    let sides: Vec<_> = stages.iter().collect();
    for (round, (side, databases, stage)) in setting.in_turns(&sides, |one| one.0) {
        let before = stage.read();
        let (path, took) = stage.restore(0, &format!("restored-{round}.db"));
        let requests = &stage.since(&before)["operations"];
        let size = path.metadata().expect("restored").len();
        let restored = Database::open(&path, "NORMAL");
        assert_eq!(restored.rows(), databases[0].rows(), "all of it came back");
        results.add(&json!({
            "round": round, "side": side.name(), "bytes": size,
            "ms": milliseconds(took),
            "operations": requests,
        }));
    }
}
