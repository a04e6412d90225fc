//! What a seed decides, and a record of all that came of it.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::clock::{self, UnixMs};

/// When every simulation begins.
const BEGIN: UnixMs = 1_800_000_000_000;

/// One stream of numbers, from which everything is decided.
pub struct Dice(Mutex<u64>);

impl Dice {
    pub fn new(seed: u64) -> Arc<Self> {
        let state = seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let dice = Self(Mutex::new(state));
        // The first numbers of similar seeds are similar.
        for _ in 0..8 {
            dice.number();
        }
        Arc::new(dice)
    }

    pub fn number(&self) -> u64 {
        let mut state = lock(&self.0);
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 8
    }

    pub fn below(&self, bound: u64) -> u64 {
        self.number() % bound
    }

    /// Of a thousand.
    pub fn chance(&self, permille: u64) -> bool {
        self.below(1000) < permille
    }

    pub fn pick<T: Copy>(&self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// As often below ten as between ten and a hundred, and so on.
    pub fn spread(&self, most: u64) -> u64 {
        let digits = self.below(u64::from(most.ilog2()) + 1);
        self.below(most.min(2 << digits)) + 1
    }

    pub fn bytes(&self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            bytes.extend_from_slice(&self.number().to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }
}

/// All that happens, as lines: their hash tells one run from another.
pub struct Trace {
    hash: Mutex<u64>,
    /// Differs from run to run, and is left out.
    root: String,
    is_printed: bool,
}

impl Trace {
    pub fn new(root: &Path) -> Arc<Self> {
        Arc::new(Self {
            root: root.display().to_string(),
            hash: Mutex::new(0),
            is_printed: std::env::var_os("SIMULATION_TRACE").is_some(),
        })
    }

    pub fn note(&self, what: std::fmt::Arguments<'_>) {
        let line = format!("{} {what}", clock::now_ms() - BEGIN).replace(&self.root, "");
        if self.is_printed {
            eprintln!("{line}");
        }
        let mut hash = lock(&self.hash);
        *hash = hash_of(&(*hash, line));
    }

    pub fn hash(&self) -> u64 {
        *lock(&self.hash)
    }
}

/// The same in each process.
pub fn hash_of(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// Virtual time: that of the clock, which goes on where the simulation says so.
pub struct Time(AtomicI64);

impl Time {
    pub fn begin() -> Arc<Self> {
        clock::simulated::set(Some(BEGIN));
        Arc::new(Self(AtomicI64::new(0)))
    }

    pub fn pass(&self, ms: u64) {
        clock::simulated::set(Some(clock::now_ms() + ms as i64));
    }

    /// A time that no file was written at before.
    pub fn next_ns(&self) -> i64 {
        let count = self.0.fetch_add(1, Ordering::Relaxed);
        clock::now_ms() * 1_000_000 + count % 1_000_000
    }
}

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
