//! What was asked of a thread is answered several at a time: each answer wakes whoever waits for it, and where much is asked
//! at once that would be done, and slept again, for each.

use std::time::{Duration, Instant};

/// So many answers wait for others at most.
const MOST: usize = 64;
/// And so long, beside what is done next.
const PAUSE: Duration = Duration::from_millis(1);

/// Answers that are known and not told yet. Dropped, they are told.
#[derive(Default)]
pub(super) struct Answers {
    known: Vec<Box<dyn FnOnce() + Send>>,
    since: Option<Instant>,
}

impl Answers {
    /// Tells it now or soon.
    pub fn add(&mut self, tell: impl FnOnce() + Send + 'static) {
        let now = Instant::now();
        self.known.push(Box::new(tell));
        let since = *self.since.get_or_insert(now);
        if self.known.len() >= MOST || now - since >= PAUSE {
            self.tell();
        }
    }

    pub fn are_told(&self) -> bool {
        self.known.is_empty()
    }

    pub fn tell(&mut self) {
        self.since = None;
        self.known.drain(..).for_each(|tell| tell());
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        self.tell();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn answers_are_told_together_and_each_before_long() {
        let (tell, told) = mpsc::channel();
        let mut answers = Answers::default();
        let add = |answers: &mut Answers, number: usize| {
            let tell = tell.clone();
            answers.add(move || tell.send(number).expect("somebody waits"));
        };
        let told = || told.try_iter().collect::<Vec<_>>();
        (1..=MOST).for_each(|number| {
            // The clock may have it told before; it is told in any case when there are so many.
            add(&mut answers, number);
        });
        assert!(answers.are_told());
        assert_eq!(told(), (1..=MOST).collect::<Vec<_>>());

        add(&mut answers, 1);
        std::thread::park_timeout(2 * PAUSE);
        let begun = Instant::now();
        while begun.elapsed() < PAUSE {
            std::thread::yield_now();
        }
        add(&mut answers, 2);
        assert!(answers.are_told());
        assert_eq!(told(), [1, 2]);

        add(&mut answers, 3);
        drop(answers);
        assert_eq!(told(), [3]);
    }
}
