//! Numbers that nobody can foresee. The only reader of the kernel's randomness; a simulation gives its own.

use crate::clock::now_ms;

/// A number that no other process has.
pub fn number() -> u64 {
    #[cfg(test)]
    if let Some(number) = simulated::next() {
        return number;
    }
    // Without the kernel's randomness the clock has to do: the numbers need be different, not secret.
    getrandom::u64().unwrap_or_else(|_| now_ms() as u64)
}

#[cfg(test)]
pub(crate) mod simulated {
    use std::cell::Cell;

    thread_local! {
        static STATE: Cell<u64> = const { Cell::new(0) };
    }

    /// From now on this thread has the numbers that follow from `seed`; the kernel's again where it is 0.
    pub fn seed(seed: u64) {
        STATE.set(seed);
    }

    pub fn next() -> Option<u64> {
        let mut state = STATE.get();
        if state == 0 {
            return None;
        }
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        STATE.set(state);
        Some(state)
    }
}
