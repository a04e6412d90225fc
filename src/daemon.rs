//! The wiring of all parts into one running instance, and its ordered end.

mod exec;
mod supervisor;

use std::ffi::OsString;
use std::future::Future;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::mount::MountFlags;
use rustix::process::Signal;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::api::{self, Api, ApiError};
use crate::capture::spool::SpoolLimits;
use crate::capture::{self, Capture, Database, STATE_FOLDER, StartError};
use crate::config::{Config, SpoolReserve};
use crate::format::keys::RegistryKey;
use crate::mount::{
    MountError, MountOptions, MountStatus, Mounted, UnmountError, open_backing_directory,
};
use crate::replicate::{self, Replicator};
use crate::store::{Body, ObjectStore, StoreError, probe_conditional_put};
use crate::tenant::roster::Roster;

use exec::{Exec, ExecError};
use supervisor::Supervisor;

/// Threads that serve file operations.
const FUSE_THREADS: usize = 2;
/// How long the end waits for what is committed to reach the store.
const LAST_SYNC: Duration = Duration::from_secs(30);
/// How long what was written between that and the unmount may take.
const AFTER_UNMOUNT: Duration = Duration::from_secs(5);
const PROBE_PAUSE: Duration = Duration::from_secs(5);

/// Why an instance could not start, or ended other than asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("store {0}")]
    Store(#[from] StoreError),
    #[error(transparent)]
    Mount(#[from] MountError),
    #[error(transparent)]
    Capture(#[from] StartError),
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

/// Mounts, replicates and serves the API until SIGINT, SIGTERM or an unmount from outside, or the end of the command
/// beside it. The exit code: that command's, or 0.
pub async fn run(config: Config, beside: Beside) -> Result<u8, Error> {
    let mut signals = Signals::new()?;
    let backing = open_backing_directory(&config.watch_path.path)?;
    let store = config.store.open(&config.s3).await?;
    let roster = Arc::new(Roster::new(config.limits.max_tenants));
    let (capture, dirty) = start_capture(&config, &backing, &roster)?;
    let replicator = Arc::new(Replicator::new(
        capture.clone(),
        store.clone(),
        replicate::Settings {
            sync_interval: config.sync_interval,
            max_concurrent_syncs: config.limits.max_concurrent_syncs,
            memory_bytes: config.limits.memory_bytes_per_tenant,
            snapshot_interval: config.snapshot_interval,
            retention: config.retention,
        },
    ));
    let (end, ended) = watch::channel(false);
    let mounts = Mounts::default();
    let api = start_api(&config, &roster, &replicator, store.clone(), &mounts, ended).await?;

    let options = MountOptions {
        watch_path: config.watch_path.path.clone(),
        mountpoint: config.watch_path.mountpoint.clone(),
        prefix: config.watch_path.prefix.clone(),
        passthrough: config.passthrough,
        threads: FUSE_THREADS,
        restrictions: beside.restrictions,
    };
    let mounted =
        tokio::task::block_in_place(|| Mounted::start(options, backing.clone(), capture.clone()))?;
    mounts.show(mounted);
    let instance = Instance {
        capture,
        replicator,
        mounts,
        end,
    };
    instance
        .serve(&config, store, dirty, api, &mut signals, beside)
        .await
}

/// What runs between start and end.
struct Instance {
    capture: Arc<Capture>,
    replicator: Arc<Replicator>,
    mounts: Mounts,
    /// Tells the API to finish.
    end: watch::Sender<bool>,
}

/// The API while it is served, with the address that it has got.
struct Served {
    address: Option<std::net::SocketAddr>,
    task: Option<JoinHandle<()>>,
}

impl Instance {
    async fn serve(
        self,
        config: &Config,
        store: Arc<dyn ObjectStore>,
        dirty: mpsc::Receiver<Arc<Database>>,
        api: Served,
        signals: &mut Signals,
        beside: Beside,
    ) -> Result<u8, Error> {
        let pipelines = tokio::spawn(self.replicator.clone().run(dirty));
        let probing = tokio::spawn(probe_store(store.clone(), self.replicator.clone()));
        let prefix = config.watch_path.prefix.clone();
        let noting = tokio::spawn(note_prefix(store, prefix));
        tokio::task::block_in_place(|| self.capture.take_over())?;
        let listen = api
            .address
            .map_or_else(|| "none".to_owned(), |address| address.to_string());
        tracing::info!(listen = %listen, "Ready");
        let supervisor = Supervisor::from_environment();
        supervisor.ready(&format!("Serving; API: {listen}"));
        if let Some(ready) = beside.ready {
            ready();
        }

        let work = async {
            let code = self.attend(&beside.exec, signals).await;
            supervisor.stopping();
            (code, self.finish().await)
        };
        let (code, unmounted) = tokio::select! {
            ended = work => ended,
            () = supervisor.keep_alive(|| self.mounts.mountpoints()) => unreachable!("BUG: it never ends"),
        };
        self.replicator.stop();
        self.end.send_replace(true);
        probing.abort();
        noting.abort();
        for task in [Some(pipelines), api.task].into_iter().flatten() {
            if let Err(error) = task.await {
                tracing::error!(error = %error, "A task did not end in order");
            }
        }
        unmounted?;
        Ok(code?)
    }

    /// Runs the command, where there is one, until it or the instance is asked to end.
    async fn attend(&self, exec: &[OsString], signals: &mut Signals) -> Result<u8, ExecError> {
        let mut exec = match exec {
            [] => None,
            words => Some(Exec::start(words)?),
        };
        let gone = self.mounts.unmounted();
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
                    tracing::info!("The mount was unmounted from outside");
                    Signal::TERM
                }
                signal = signals.next() => {
                    tracing::info!(?signal, "Asked by a signal");
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
        }
    }

    /// Stores what is committed, unmounts, and stores what was written meanwhile.
    async fn finish(&self) -> Result<(), UnmountError> {
        let deadline = Instant::now() + LAST_SYNC;
        let left = self.replicator.sync_all(LAST_SYNC).await;
        let unmounted = tokio::task::block_in_place(|| self.mounts.unmount());
        let rest = deadline.saturating_duration_since(Instant::now());
        let left = if left.is_empty() {
            self.replicator.sync_all(rest.max(AFTER_UNMOUNT)).await
        } else {
            left
        };
        if !left.is_empty() {
            tracing::warn!(
                clients = left.len(),
                client = left.first(),
                spool_bytes = self.capture.spool_bytes(),
                "Not everything was stored; it waits on local disk for the next start"
            );
        }
        unmounted
    }
}

fn start_capture(
    config: &Config,
    backing: &Arc<OwnedFd>,
    roster: &Arc<Roster>,
) -> Result<(Arc<Capture>, mpsc::Receiver<Arc<Database>>), Error> {
    let (reserve, reserve_percent) = match config.limits.spool_reserve {
        SpoolReserve::Percent(percent) => (SpoolReserve::FLOOR, percent),
        SpoolReserve::Bytes(bytes) => (bytes, 0),
    };
    let settings = capture::Settings {
        every_transaction: config.sync_interval.is_zero(),
        memory_bytes: config.limits.memory_bytes_per_tenant,
        gate_timeout: config.gate_timeout,
        spool: SpoolLimits {
            bytes: config.limits.spool_bytes,
            reserve,
            reserve_percent,
        },
    };
    // Through the descriptor, so that it is the directory underneath after the mount as well.
    let directory = config.state_dir.clone().unwrap_or_else(|| {
        PathBuf::from(format!("/proc/self/fd/{}", backing.as_raw_fd())).join(STATE_FOLDER)
    });
    // Those that are gone may wait for their last upload beside those that are there.
    let room = 2 * config.limits.max_tenants + 1024;
    Ok(Capture::start(
        backing.clone(),
        &directory,
        settings,
        config.rules.clone(),
        roster.clone(),
        room,
    )?)
}

async fn start_api(
    config: &Config,
    roster: &Arc<Roster>,
    replicator: &Arc<Replicator>,
    store: Arc<dyn ObjectStore>,
    mounts: &Mounts,
    mut ended: watch::Receiver<bool>,
) -> Result<Served, Error> {
    let Some(address) = config.listen else {
        return Ok(Served {
            address: None,
            task: None,
        });
    };
    let shown = mounts.clone();
    let api = Api {
        roster: roster.clone(),
        replicator: replicator.clone(),
        mounts: Box::new(move || shown.status()),
        changes: None,
        store_of: Box::new(move |_| store.clone()),
        scratch: std::env::temp_dir(),
        token: config.api_token.clone(),
        watch_path: config.watch_path.mountpoint.clone(),
        max_lag: config.limits.max_lag,
        started: Instant::now(),
    };
    let shutdown = async move {
        // The sender lives as long as the instance; without it there is nothing to serve.
        drop(ended.wait_for(|ended| *ended).await);
    };
    let (address, serve) = api::bind(address, api, shutdown).await?;
    Ok(Served {
        address: Some(address),
        task: Some(tokio::spawn(serve)),
    })
}

/// Finds out whether the store honours create-only PUTs, as soon as it answers.
async fn probe_store(store: Arc<dyn ObjectStore>, replicator: Arc<Replicator>) {
    loop {
        match probe_conditional_put(store.as_ref()).await {
            Ok(honoured) => {
                replicator.note_answer(None);
                replicator.set_conditional_put(honoured);
                if !honoured {
                    tracing::warn!(
                        "The store ignores If-None-Match: two instances with one bucket could overwrite each other"
                    );
                }
                return;
            }
            Err(error) => {
                tracing::warn!(error = %error, "The store can't be used; it is tried again");
                replicator.note_answer(Some(&error));
            }
        }
        tokio::time::sleep(PROBE_PAUSE).await;
    }
}

/// Names the watch path's prefix in the store, so that its clients are found from the store alone.
async fn note_prefix(store: Arc<dyn ObjectStore>, prefix: String) {
    if prefix.is_empty() {
        return;
    }
    let key = RegistryKey::WatchPath(prefix).to_string();
    let body = Body::Bytes(Bytes::from_static(b"{}\n"));
    while let Err(error) = store.put_new(&key, &body).await {
        tracing::warn!(error = %error, "The watch path's prefix could not be noted; it is tried again");
        tokio::time::sleep(PROBE_PAUSE).await;
    }
}

/// The mount, while there is one: shared with the API, which shows it.
#[derive(Clone, Default)]
struct Mounts(Arc<Mutex<Option<Mounted>>>);

impl Mounts {
    fn with<T>(&self, ask: impl FnOnce(&mut Option<Mounted>) -> T) -> T {
        ask(&mut self
            .0
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner()))
    }

    fn show(&self, mounted: Mounted) {
        self.with(|slot| *slot = Some(mounted));
    }

    fn status(&self) -> Vec<MountStatus> {
        self.with(|slot| slot.iter().map(Mounted::status).collect())
    }

    /// Of those that should answer.
    fn mountpoints(&self) -> Vec<PathBuf> {
        let serving = self
            .status()
            .into_iter()
            .filter(|mount| mount.state != "unmounted");
        serving.map(|mount| mount.mountpoint).collect()
    }

    fn unmounted(&self) -> impl Future<Output = ()> + use<> {
        let gone = self.with(|slot| slot.as_ref().map(Mounted::unmounted));
        async {
            if let Some(gone) = gone {
                gone.await;
            }
        }
    }

    fn unmount(&self) -> Result<(), UnmountError> {
        self.with(|slot| slot.as_mut().map_or(Ok(()), Mounted::unmount))
    }
}

/// What the process is asked by signals.
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> Result<Self, Error> {
        let listen = |kind| signal(kind).map_err(Error::Signals);
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.terminate.recv() => Signal::TERM,
            _ = self.interrupt.recv() => Signal::INT,
            _ = self.hangup.recv() => Signal::HUP,
        }
    }
}
