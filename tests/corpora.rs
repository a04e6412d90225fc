//! What the fuzzer runs, run over its corpora, and over what a few thousand changes make of them.

#[path = "../fuzz/targets/mod.rs"]
mod targets;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestRunner};

/// Changed inputs of each target; all of them together take a few seconds.
const CHANGED: u32 = 2_000;

/// One change of an input.
#[derive(Clone, Debug)]
enum Change {
    Set(Index, u8),
    Flip(Index, u8),
    Cut(Index),
    /// The bytes from the first place on, as many as the last says, again at the second.
    Copy(Index, Index, u8),
}

impl Change {
    fn any() -> impl Strategy<Value = Self> {
        prop_oneof![
            any::<(Index, u8)>().prop_map(|(at, byte)| Self::Set(at, byte)),
            any::<(Index, u8)>().prop_map(|(at, bit)| Self::Flip(at, bit % 8)),
            any::<Index>().prop_map(Self::Cut),
            any::<(Index, Index, u8)>().prop_map(|(from, to, len)| Self::Copy(from, to, len)),
        ]
    }

    fn apply(&self, bytes: &mut Vec<u8>) {
        let len = bytes.len();
        if len == 0 {
            return;
        }
        match self {
            Self::Set(at, byte) => bytes[at.index(len)] = *byte,
            Self::Flip(at, bit) => bytes[at.index(len)] ^= 1 << bit,
            Self::Cut(at) => bytes.truncate(at.index(len)),
            Self::Copy(from, to, count) => {
                let from = from.index(len);
                let copied = bytes[from..len.min(from + usize::from(*count))].to_vec();
                let to = to.index(len);
                bytes.splice(to..to, copied);
            }
        }
    }
}

fn corpora() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus")
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).expect("a folder");
    let names = entries.map(|entry| entry.expect("readable").file_name());
    names
        .map(|name| name.into_string().expect("text"))
        .collect()
}

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = corpora().join(target);
    let read = |name: String| fs::read(folder.join(name)).expect("readable");
    names(&folder).into_iter().map(read).collect()
}

#[test]
fn every_target_has_a_corpus_and_every_corpus_a_target() {
    let targets = targets::ALL.iter().map(|(name, _)| (*name).to_owned());
    assert_eq!(targets.collect::<BTreeSet<_>>(), names(&corpora()));
    for (name, _) in targets::ALL {
        assert!(corpus(name).len() >= 2, "{name}");
    }
}

#[test]
fn every_target_takes_its_corpus() {
    for (name, target) in targets::ALL {
        for (number, input) in corpus(name).iter().enumerate() {
            println!("{name}, input {number}");
            target(input);
        }
    }
}

#[test]
fn every_target_takes_what_changes_make_of_its_corpus() {
    for (name, target) in targets::ALL {
        let changes = prop::collection::vec(Change::any(), 1..6);
        let inputs = (prop::sample::select(corpus(name)), changes);
        let config = Config {
            cases: CHANGED,
            failure_persistence: None,
            ..Config::default()
        };
        let outcome = TestRunner::new(config).run(&inputs, |(mut input, changes)| {
            changes.iter().for_each(|change| change.apply(&mut input));
            target(&input);
            Ok(())
        });
        if let Err(failure) = outcome {
            panic!("{name}: {failure}");
        }
    }
}
