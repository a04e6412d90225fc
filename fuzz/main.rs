//! libFuzzer over one of the targets: the one that the environment's FUZZ_TARGET names.

#![no_main]

mod targets;

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

static TARGET: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
    let target = targets::ALL.iter().find(|(known, _)| *known == name);
    let (_, target) = target.unwrap_or_else(|| panic!("FUZZ_TARGET={name:?} is no target"));
    *target
});

fuzz_target!(|data: &[u8]| TARGET(data));
