//! From a commit's return until it is in the store: one active database, ten commits a second.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::application::{Position, open_loop};
use crate::results::{Results, percentiles};
use crate::stage::{INTERCEPT, PASSTHROUGH, Stage, reaches};
use crate::{Setting, Side};

const PER_SECOND: f64 = 10.0;

pub fn lag(setting: &Setting, results: &mut Results) {
    let time = Duration::from_secs(setting.either(30, 3));
    let often = Some("10ms");
    let sides = [
        (Side::Litestream, often),
        (PASSTHROUGH, often),
        (INTERCEPT, often),
        (Side::Litestream, None),
        (PASSTHROUGH, None),
    ];
    for (round, (side, interval)) in setting.in_turns(&sides, |one| one.0) {
        let stage = Stage::set(side, interval);
        let databases = stage.create(1, "NORMAL");
        stage.wait_for_first_objects(1);
        // The first ones are stored with the database itself.
        open_loop(&databases, PER_SECOND, Duration::from_secs(2), |_| {});
        stage.wait_until_stored(0, databases[0].position());
        let first = stage.bucket.arrived();
        let (before, mut committed) = (stage.read(), Vec::new());
        open_loop(&databases, PER_SECOND, time, |database| {
            let now = Instant::now();
            committed.push((now, database.position()));
        });
        let (_, last) = committed.last().expect("there were commits");
        stage.wait_until_stored(first, *last);
        let took = stage.since(&before);
        results.add(&json!({
            "round": round, "side": side.name(), "interval": interval.unwrap_or("1s"),
            "commits": committed.len(),
            "lag": percentiles(&lags(&stage, first, &committed)),
            "took": took,
        }));
    }
}

/// How long each commit took until the first object that holds it was there.
fn lags(stage: &Stage, first: usize, committed: &[(Instant, Position)]) -> Vec<Duration> {
    let arrivals = stage.bucket.arrivals_from(first);
    let lag = |(at, position): &(Instant, Position)| {
        let arrival = arrivals.iter().find(|arrival| reaches(arrival, *position));
        let arrival = arrival.expect("the last one is stored, so this one is");
        arrival.at.saturating_duration_since(*at)
    };
    committed.iter().map(lag).collect()
}
