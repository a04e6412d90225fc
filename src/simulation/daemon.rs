//! The process under test: capture, pipeline and upkeep as the program wires them, with a runtime that runs when it is
//! told to, and the work of the capture's threads done by hand.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

use super::chance::Dice;
use super::store::SimulatedStore;
use super::world::{Profile, STATE};
use crate::capture::spool::SpoolLimits;
use crate::capture::{ByHand, Capture, Kind, LogPassing, Settings, StartError};
use crate::replicate::{Replicator, SyncError, Synced, Uplink};
use crate::store::ObjectStore;
use crate::store::stores::Stores;
use crate::tenant::discovery::{Rules, RulesWritten};
use crate::tenant::ids::ClientId;
use crate::tenant::roster::{Client, Roster};

pub const GUID: &str = "12345678-1234-5678-9abc-123456789012";

/// One run of the process.
pub struct Daemon {
    // The tasks go before what they use.
    runtime: Runtime,
    by_hand: ByHand,
    pub capture: Arc<Capture>,
    replicator: Arc<Replicator>,
    roster: Arc<Roster>,
    pub store: Arc<SimulatedStore>,
}

impl Daemon {
    /// As the program starts: capture, then the mount (the caller's), then what is there, then the pipelines.
    pub fn start(
        root: &Path,
        profile: &Profile,
        store: SimulatedStore,
    ) -> Result<Self, StartError> {
        let data = root.join("data");
        let backing = Arc::new(OwnedFd::from(File::open(&data).expect("a directory")));
        let settings = Settings {
            log_passing: LogPassing::Never,
            gate_timeout: Duration::from_millis(50),
            spool: SpoolLimits {
                bytes: profile.spool_bytes,
                reserve: crate::capture::reserve::SpoolReserve::Bytes(0),
            },
        };
        let mut rules = RulesWritten::default_for(&data);
        let mut terms = (*rules.terms).clone();
        let policy = Arc::make_mut(&mut terms.defaults);
        policy.limits.memory_bytes = profile.memory_bytes;
        policy.sync_interval = Duration::from_millis(profile.sync_ms);
        policy.snapshot_interval = Duration::from_millis(profile.snapshot_ms);
        policy.retention = Duration::from_secs(10 * 365 * 86_400);
        rules.terms = Arc::new(terms);
        let rules = Rules::new(rules).expect("rules");
        let roster = Arc::new(Roster::new(10));
        let (capture, dirty, by_hand) = Capture::start_by_hand(
            backing,
            &data,
            &root.join(STATE),
            settings,
            rules,
            roster.clone(),
        )?;
        let store = Arc::new(store);
        let shared: Arc<dyn ObjectStore> = store.clone();
        let uplink = Uplink::new(Stores::new(Some(shared)), 2);
        let replicator = Arc::new(Replicator::new(capture.clone(), uplink));
        let runtime = Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime");
        capture.take_over_others(capture.take_over_known()?)?;
        // Both end with the runtime.
        drop(runtime.spawn(replicator.clone().run(dirty)));
        drop(runtime.spawn(replicator.clone().take_over()));
        Ok(Self {
            runtime,
            by_hand,
            capture,
            replicator,
            roster,
            store,
        })
    }

    pub fn client(&self) -> Option<Arc<Client>> {
        self.roster.get(&ClientId::single("", GUID))
    }

    /// Lets the tasks go on for a while.
    pub fn run_tasks(&self, turns: u64) {
        self.runtime.block_on(async {
            for _ in 0..turns {
                tokio::task::yield_now().await;
            }
        });
    }

    /// The time of the tasks passes.
    pub fn pass(&self, ms: u64) {
        let pause = tokio::time::advance(Duration::from_millis(ms));
        self.runtime.block_on(pause);
    }

    pub fn waits(&self, kind: Kind) -> bool {
        self.by_hand.waits(kind)
    }

    pub fn work(&self, kind: Kind) -> bool {
        self.by_hand.step(kind)
    }

    /// Any of what waits.
    pub fn work_on_any(&self, dice: &Dice) -> bool {
        let first = dice.below(3) as usize;
        let kinds = [Kind::Gate, Kind::Look, Kind::Image];
        let mut kinds = kinds.iter().cycle().skip(first).take(3);
        kinds.any(|kind| self.waits(*kind) && self.work(*kind))
    }

    /// Asks for all that is committed now to be stored.
    pub fn sync(&self, timeout: Duration) -> Option<JoinHandle<Result<Synced, SyncError>>> {
        let (client, replicator) = (self.client()?, self.replicator.clone());
        Some(
            self.runtime
                .spawn(async move { replicator.sync(&client, timeout).await }),
        )
    }

    /// Asks for a further snapshot.
    pub fn snapshot(&self) {
        if let Some(client) = self.client() {
            let replicator = self.replicator.clone();
            // What comes of it is seen in the store.
            drop(self.runtime.spawn(async move {
                let asked = replicator.snapshot(&client, Duration::from_secs(60));
                drop(asked.await);
            }));
        }
    }

    /// The answer of a task that has ended.
    pub fn answer<T>(&self, task: JoinHandle<T>) -> T {
        self.runtime.block_on(task).expect("the task ends in order")
    }

    /// As the program ends, once all is stored or its time is over.
    pub fn stop(&self) {
        self.replicator.stop();
        self.run_tasks(20);
    }
}
