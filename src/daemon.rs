//! The wiring of all parts into one running instance, and its ordered end.

mod exec;
mod looks;
mod mounts;
mod reload;
mod signals;
mod start;
mod supervisor;
mod uplink;

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::mount::MountFlags;
use rustix::process::Signal;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::api::{self, Api, ApiError, Changes, Listen};
use crate::capture::{Database, StartError};
use crate::config::{Config, ConfigError};
use crate::mount::{MountError, UnmountError};
use crate::replicate::{Fleet, Ship, Uplink, drills, patrol};
use crate::store::StoreError;
use crate::tenant::roster::Roster;

use exec::{Exec, ExecError};
use mounts::Mounts;
use signals::Signals;
use supervisor::Supervisor;

/// How long the end waits for what is committed to reach the store.
const LAST_SYNC: Duration = Duration::from_secs(30);
/// How long what was written between that and the unmount may take.
const AFTER_UNMOUNT: Duration = Duration::from_secs(5);

/// Why an instance could not start, or ended other than asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("store {0}")]
    Store(#[from] StoreError),
    #[error(transparent)]
    Mount(#[from] MountError),
    #[error(transparent)]
    Capture(#[from] StartError),
    #[error("{first} and {second} would share {place} in the store; {lines}")]
    SharedPlace {
        first: String,
        second: String,
        place: String,
        lines: String,
    },
    #[error("API: {0}")]
    Api(#[from] ApiError),
    #[error("wait for signals: {0}")]
    Signals(std::io::Error),
    #[error("{0}; end those, then unmount")]
    Unmount(#[from] UnmountError),
    #[error(transparent)]
    Exec(#[from] ExecError),
}

impl Error {
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Mount(error) if error.is_usage() => 2,
            Error::Capture(error) if error.is_usage() => 2,
            Error::SharedPlace { .. } => 2,
            _ => 1,
        }
    }
}

/// What an instance does besides what its configuration says.
pub struct Beside {
    /// A command to run, or nothing.
    pub exec: Vec<OsString>,
    /// What the mounts forbid beyond what the directories underneath do.
    pub restrictions: MountFlags,
    /// Called once, when every mount answers.
    pub ready: Option<Box<dyn FnOnce() + Send>>,
}

impl Default for Beside {
    fn default() -> Self {
        Self {
            exec: Vec::new(),
            restrictions: MountFlags::empty(),
            ready: None,
        }
    }
}

/// Reads the configuration again, as it was read for the start.
pub type Reload = Box<dyn Fn() -> Result<Config, ConfigError> + Send + Sync>;

/// Mounts, replicates and serves the API until SIGINT, SIGTERM or an unmount from outside, or the end of the command
/// beside it. SIGHUP has the configuration read again. The exit code: that command's, or 0.
pub async fn run(config: Config, reload: Reload, beside: Beside) -> Result<u8, Error> {
    let mut signals = Signals::new().map_err(Error::Signals)?;
    let uplink = uplink::open(&config).await?;
    let roster = Arc::new(Roster::new(config.limits.max_tenants));
    let readied = start::ready_all(&config, beside.restrictions, &uplink, &roster)?;
    let mounts = Mounts::default();
    let ships = readied.iter().map(|one| one.ship(&mounts)).collect();
    let fleet = Arc::new(Fleet::new(uplink.clone(), ships));
    let (end, ended) = watch::channel(false);
    let is_ready = Arc::new(AtomicBool::new(false));
    let api = start_api(&config, (&roster, &fleet, &mounts), &is_ready, ended).await?;
    for one in &readied {
        match tokio::task::block_in_place(|| one.mount()) {
            Ok(mounted) => mounts.add(mounted),
            Err(error) => {
                if let Err(left) = tokio::task::block_in_place(|| mounts.unmount()) {
                    tracing::error!(error = %left, "A mount of the start that failed stays");
                }
                return Err(error);
            }
        }
    }
    let instance = Instance {
        uplink,
        roster,
        fleet,
        mounts,
        is_ready,
        end,
        leaving: watch::channel(false).0,
    };
    let dirty = readied.into_iter().map(start::Readied::keep).collect();
    instance
        .serve(config, reload, dirty, api, &mut signals, beside)
        .await
}

/// What runs between start and end.
struct Instance {
    uplink: Arc<Uplink>,
    roster: Arc<Roster>,
    fleet: Arc<Fleet>,
    mounts: Mounts,
    /// Read by the API.
    is_ready: Arc<AtomicBool>,
    /// Tells the API to finish.
    end: watch::Sender<bool>,
    /// Tells the drills to finish, which nobody waits for.
    leaving: watch::Sender<bool>,
}

/// The API while it is served, with the address that it has got.
struct Served {
    address: Option<Listen>,
    task: Option<JoinHandle<()>>,
}

impl Instance {
    async fn serve(
        self,
        config: Config,
        reload: Reload,
        dirty: Vec<mpsc::Receiver<Arc<Database>>>,
        api: Served,
        signals: &mut Signals,
        beside: Beside,
    ) -> Result<u8, Error> {
        let mut tasks = self.replicate(&config, dirty)?;
        tasks.extend(api.task);
        let beside_it = self.look_around(&config);
        let listen = api
            .address
            .as_ref()
            .map_or_else(|| "none".to_owned(), |address| address.to_string());
        self.is_ready.store(true, Ordering::Release);
        tracing::info!(listen = %listen, "Ready");
        let supervisor = Supervisor::from_environment();
        supervisor.ready(&format!("Serving; API: {listen}"));
        if let Some(ready) = beside.ready {
            ready();
        }

        let work = async {
            let code = self
                .attend(config, reload, &beside.exec, signals, &supervisor)
                .await;
            supervisor.stopping();
            self.leaving.send_replace(true);
            (code, self.finish().await)
        };
        let (code, unmounted) = tokio::select! {
            ended = work => ended,
            () = supervisor.keep_alive(|| self.mounts.mountpoints()) => unreachable!("BUG: it never ends"),
        };
        for ship in self.fleet.ships() {
            ship.replicator.stop();
        }
        self.end.send_replace(true);
        for task in beside_it {
            task.abort();
        }
        for task in tasks {
            if let Err(error) = task.await {
                tracing::error!(error = %error, "A task did not end in order");
            }
        }
        unmounted?;
        Ok(code?)
    }

    /// Starts the replication of all watch paths; the tasks end by themselves when they are told to.
    fn replicate(
        &self,
        config: &Config,
        dirty: Vec<mpsc::Receiver<Arc<Database>>>,
    ) -> Result<Vec<JoinHandle<()>>, StartError> {
        let ships = self.fleet.ships();
        let mut tasks = Vec::new();
        for (ship, dirty) in ships.iter().zip(dirty) {
            tasks.push(tokio::spawn(ship.replicator.clone().run(dirty)));
        }
        tokio::task::block_in_place(|| take_over(ships))?;
        for ship in ships {
            tasks.push(tokio::spawn(ship.replicator.clone().take_over()));
        }
        if let Some(interval) = config.store_listing {
            let (fleet, end) = (self.fleet.clone(), self.end.subscribe());
            tasks.push(tokio::spawn(patrol::run(interval, fleet, end)));
        }
        if let Some(wanted) = config.drills {
            tasks.push(tokio::spawn(drills::run(
                wanted,
                self.fleet.clone(),
                self.roster.clone(),
                std::env::temp_dir(),
                self.leaving.subscribe(),
            )));
        }
        Ok(tasks)
    }

    /// Starts what may be cut off at any time: it asks the store, and looks for what goes past the mounts.
    fn look_around(&self, config: &Config) -> [JoinHandle<()>; 4] {
        let prefixes = config.watch_paths.iter().map(|one| one.prefix.clone());
        let introducing =
            uplink::introduce(self.uplink.clone(), self.fleet.clone(), prefixes.collect());
        [
            tokio::spawn(introducing),
            tokio::spawn(uplink::keep_informed(self.uplink.clone())),
            tokio::spawn(looks::look_out(self.mounts.clone())),
            tokio::spawn(looks::look_again(self.fleet.clone())),
        ]
    }

    /// Runs the command, where there is one, until it or the instance is asked to end.
    async fn attend(
        &self,
        mut config: Config,
        reload: Reload,
        exec: &[OsString],
        signals: &mut Signals,
        supervisor: &Supervisor,
    ) -> Result<u8, ExecError> {
        let mut exec = match exec {
            [] => None,
            words => Some(Exec::start(words)?),
        };
        let tell = |mountpoint: &Path| self.fleet.set_unmounted(mountpoint);
        let gone = self.mounts.unmounted(&tell);
        tokio::pin!(gone);
        loop {
            let command = async {
                match &mut exec {
                    Some(exec) => exec.ended().await,
                    None => std::future::pending().await,
                }
            };
            let signal = tokio::select! {
                code = command => return Ok(code),
                () = &mut gone => {
                    tracing::info!("All mounts are gone");
                    Signal::TERM
                }
                signal = signals.next() => {
                    tracing::info!(signal = signals::name(signal), "Asked by a signal");
                    signal
                }
            };
            if let Some(exec) = &exec {
                exec.forward(signal);
            }
            if signal != Signal::HUP {
                return Ok(match &mut exec {
                    Some(exec) => exec.stop().await,
                    None => 0,
                });
            }
            supervisor.reloading();
            config = self.reload(config, &reload).await;
            supervisor.reloaded();
        }
    }

    /// Stores what is committed, unmounts, and stores what was written meanwhile.
    async fn finish(&self) -> Result<(), UnmountError> {
        let deadline = Instant::now() + LAST_SYNC;
        let left = self.fleet.sync_all(LAST_SYNC).await;
        let unmounted = tokio::task::block_in_place(|| self.mounts.unmount());
        let rest = deadline.saturating_duration_since(Instant::now());
        let left = if left.is_empty() {
            self.fleet.sync_all(rest.max(AFTER_UNMOUNT)).await
        } else {
            left
        };
        if !left.is_empty() {
            tracing::warn!(
                clients = left.len(),
                client = left.first(),
                spool_bytes = self.fleet.spool_bytes(),
                "Not everything was stored; it waits on local disk for the next start"
            );
        }
        unmounted
    }
}

/// Registers the databases of all watch paths: first those that have their history, wherever they are.
fn take_over(ships: &[Ship]) -> Result<(), StartError> {
    let known = ships.iter().map(|ship| ship.capture.take_over_known());
    let others = known.collect::<Result<Vec<_>, _>>()?;
    for (ship, others) in ships.iter().zip(others) {
        ship.capture.take_over_others(others)?;
    }
    Ok(())
}

async fn start_api(
    config: &Config,
    (roster, fleet, mounts): (&Arc<Roster>, &Arc<Fleet>, &Mounts),
    is_ready: &Arc<AtomicBool>,
    mut ended: watch::Receiver<bool>,
) -> Result<Served, Error> {
    let Some(listen) = config.listen.clone() else {
        return Ok(Served {
            address: None,
            task: None,
        });
    };
    let shown = mounts.clone();
    let api = Api {
        roster: roster.clone(),
        fleet: fleet.clone(),
        mounts: Box::new(move || {
            shown.want_look();
            shown.status()
        }),
        changes: changes(fleet),
        scratch: std::env::temp_dir(),
        token: config.api_token.clone(),
        max_lag: config.limits.max_lag,
        started: Instant::now(),
        is_ready: is_ready.clone(),
    };
    let shutdown = async move {
        // The sender lives as long as the instance; without it there is nothing to serve.
        drop(ended.wait_for(|ended| *ended).await);
    };
    let (address, serve) = api::bind(listen, api, shutdown).await?;
    Ok(Served {
        address: Some(address),
        task: Some(tokio::spawn(serve)),
    })
}

/// The changes that the API may ask for. Each is a few short statements of the state database.
fn changes(fleet: &Arc<Fleet>) -> Changes {
    let (register, pause, unregister) = (fleet.clone(), fleet.clone(), fleet.clone());
    Changes {
        register: Box::new(move |request| {
            let fleet = register.clone();
            Box::pin(async move { tokio::task::block_in_place(|| fleet.register(&request)) })
        }),
        set_paused: Box::new(move |client, paused| {
            let fleet = pause.clone();
            Box::pin(
                async move { tokio::task::block_in_place(|| fleet.set_paused(&client, paused)) },
            )
        }),
        unregister: Box::new(move |client| {
            let fleet = unregister.clone();
            Box::pin(async move { tokio::task::block_in_place(|| fleet.unregister(&client)) })
        }),
    }
}
