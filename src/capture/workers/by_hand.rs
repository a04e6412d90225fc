//! For simulations: the work of the threads, one piece after the other, when somebody says so.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Sender;

use super::super::Shared;
use super::{Answers, Look, Queues, Workers, attend_to, survived};

/// Whose work is to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Gate,
    Look,
    Image,
    /// The time of the gate that has waited longest is over.
    GateLimit,
}

/// What waits to be done.
pub(crate) struct ByHand {
    queues: Queues,
    merges: Sender<Look>,
    shared: Arc<Shared>,
}

impl ByHand {
    pub(in crate::capture) fn new(
        shared: &Arc<Shared>,
        gate_timeout: Duration,
        room: usize,
    ) -> (Workers, Self) {
        let (workers, queues) = Workers::without_threads(gate_timeout, room);
        let by_hand = Self {
            queues,
            merges: workers.images.clone(),
            shared: shared.clone(),
        };
        (workers, by_hand)
    }

    pub fn waits(&self, kind: Kind) -> bool {
        match kind {
            Kind::Gate => !self.queues.gates.is_empty(),
            Kind::Look => !self.queues.looks.is_empty(),
            Kind::Image => !self.queues.images.is_empty(),
            Kind::GateLimit => !self.queues.watch.is_empty(),
        }
    }

    /// Does the next piece of work of that kind. False where there is none.
    pub fn step(&self, kind: Kind) -> bool {
        let queues = &self.queues;
        let look = match kind {
            Kind::Gate => {
                let next = queues.gates.try_recv();
                return next
                    .map(|urgent| attend_to(&self.shared, urgent, &self.merges))
                    .is_ok();
            }
            Kind::GateLimit => {
                let late = queues.watch.try_iter().find(|held| !held.is_over());
                late.iter().for_each(|late| survived(|| late.give_up()));
                return late.is_some();
            }
            Kind::Look => queues.looks.try_recv(),
            Kind::Image => queues.images.try_recv(),
        };
        look.map(|look| survived(|| look(&self.shared, &mut Answers::default())))
            .is_ok()
    }
}
