//! This program beside Litestream, on the same load, in turns, against the same server: `benches/side_by_side/run WORD`.
//!
//! Both write into a bucket in this process, which counts what it is asked, and this process is the application. What
//! is told of a side's processor time and memory is that of the process that replicates; the application's own is told
//! beside it. With `--short` a bench takes some seconds, and its results go to `target/`, not to `benches/results/`;
//! so do those of `--only=SIDE`, which is for profiles. `--rounds=N` has so many rounds of each instead of the usual.

mod application;
mod bucket;
mod commits;
mod detect;
mod lag;
mod litestream;
mod meter;
mod outage;
mod restore;
mod results;
mod stage;
mod tenants;

#[path = "../../tests/support/mod.rs"]
#[allow(dead_code, reason = "most of it is the tests'")]
mod support;

use std::path::Path;

use results::Results;
use stage::Side;

/// How much of each is done.
pub struct Setting {
    pub is_short: bool,
    pub rounds: u32,
    /// The name of the only side that is wanted.
    only: Option<String>,
}

impl Setting {
    /// One number for the real run, and one for a look whether all works.
    pub fn either<T>(&self, long: T, short: T) -> T {
        if self.is_short { short } else { long }
    }

    /// What is measured in each round, of the sides that are wanted, in an order that is turned from round to round.
    pub fn in_turns<T: Copy>(&self, all: &[T], side: impl Fn(&T) -> Side) -> Vec<(u32, T)> {
        let is_wanted = |one: &T| {
            let only = self.only.as_deref();
            only.is_none_or(|only| only == side(one).name())
        };
        let wanted: Vec<T> = all.iter().copied().filter(is_wanted).collect();
        let round = |round: u32| {
            let mut order = wanted.clone();
            if round % 2 == 1 {
                order.reverse();
            }
            order.into_iter().map(move |side| (round, side))
        };
        (0..self.rounds).flat_map(round).collect()
    }
}

type Bench = fn(&Setting, &mut Results);

const BENCHES: [(&str, Bench, u32); 7] = [
    ("cpu", tenants::cpu, 5),
    ("idle", tenants::idle, 3),
    ("lag", lag::lag, 5),
    ("commits", commits::commits, 7),
    ("detect", detect::detect, 5),
    ("restore", restore::restore, 11),
    ("outage", outage::outage, 3),
];

/// What was asked for.
struct Arguments {
    names: Vec<String>,
    is_short: bool,
    only: Option<String>,
    rounds: Option<u32>,
}

impl Arguments {
    fn read(words: &[String]) -> Result<Self, String> {
        let option = |name: &str| words.iter().find_map(|word| word.strip_prefix(name));
        let rounds = option("--rounds=").map(str::parse).transpose();
        let names: Vec<_> = words
            .iter()
            .filter(|word| !word.starts_with("--"))
            .cloned()
            .collect();
        let known = BENCHES.map(|(name, ..)| name);
        match names.iter().find(|word| !known.contains(&word.as_str())) {
            Some(unknown) => Err(format!("{unknown} is none of: {}", known.join(" "))),
            None => Ok(Self {
                names,
                is_short: words.iter().any(|word| word == "--short"),
                only: option("--only=").map(str::to_owned),
                rounds: rounds.map_err(|error| format!("--rounds: {error}"))?,
            }),
        }
    }

    /// Whether what comes of it is no result to be kept.
    fn is_a_look(&self) -> bool {
        self.is_short || self.only.is_some()
    }

    fn wants(&self, name: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|wanted| wanted == name)
    }
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let arguments = Arguments::read(&words).unwrap_or_else(|error| {
        eprintln!("{error}");
        std::process::exit(2)
    });
    litestream::check_version();
    meter::raise_open_files();
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join(match arguments.is_a_look() {
        true => "target/side_by_side",
        false => "benches/results",
    });
    for (name, bench, rounds) in BENCHES {
        if arguments.wants(name) {
            println!("# {name}");
            let usual = if arguments.is_a_look() { 1 } else { rounds };
            let setting = Setting {
                is_short: arguments.is_short,
                rounds: arguments.rounds.unwrap_or(usual),
                only: arguments.only.clone(),
            };
            bench(&setting, &mut Results::begin(&dir, name));
        }
    }
}
