//! What is fuzzed: functions that take any bytes and panic where something that must hold does not. The fuzzer runs them,
//! and so does an ordinary test, over the corpora.

mod formats;
mod texts;

/// A target and its name, which is that of its corpus, too.
pub type Target = (&'static str, fn(&[u8]));

pub const ALL: [Target; 10] = [
    ("wal", formats::wal),
    ("wal_index", formats::wal_index),
    ("sqlite", formats::sqlite),
    ("structure", formats::structure),
    ("ltx", formats::ltx),
    ("keys", texts::keys),
    ("registry", texts::registry),
    ("description", texts::description),
    ("configuration", texts::configuration),
    ("api", texts::api),
];
