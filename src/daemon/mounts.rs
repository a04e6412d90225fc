//! The mounts of all watch paths: made one after the other, shown by the API, and taken away together.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::join_all;
use tokio::sync::Notify;

use crate::mount::{Lookout, MountStatus, Mounted, UnmountError};

/// The mounts, as far as they are made; shared with the API and with the fleet.
#[derive(Clone, Default)]
pub(super) struct Mounts {
    mounts: Arc<Mutex<Vec<Mounted>>>,
    look_wanted: Arc<Notify>,
}

impl Mounts {
    fn with<T>(&self, ask: impl FnOnce(&mut Vec<Mounted>) -> T) -> T {
        ask(&mut self.mounts.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn add(&self, mounted: Mounted) {
        self.with(|mounts| mounts.push(mounted));
    }

    pub(super) fn status(&self) -> Vec<MountStatus> {
        self.with(|mounts| mounts.iter().map(Mounted::status).collect())
    }

    /// Those that look for ways past the mounts.
    pub(super) fn lookouts(&self) -> Vec<Lookout> {
        self.with(|mounts| {
            let served = mounts.iter().filter(|mounted| mounted.is_served());
            served.map(Mounted::lookout).collect()
        })
    }

    /// Somebody wants to know how the mounts are.
    pub(super) fn want_look(&self) {
        self.look_wanted.notify_one();
    }

    /// Resolves when somebody does, or did since the last time.
    pub(super) async fn look_wanted(&self) {
        self.look_wanted.notified().await;
    }

    /// Of those that should answer.
    pub(super) fn mountpoints(&self) -> Vec<PathBuf> {
        let serving = self
            .status()
            .into_iter()
            .filter(|mount| mount.state != "unmounted");
        serving.map(|mount| mount.mountpoint).collect()
    }

    /// Whether an application has the file at `path`, below the watch path that is mounted at `mountpoint`, open.
    pub(super) fn is_open(&self, mountpoint: &Path, path: &Path) -> bool {
        self.with(|mounts| {
            mounts
                .iter()
                .filter(|mounted| mounted.mountpoint() == mountpoint)
                .any(|mounted| mounted.is_open(path))
        })
    }

    /// Resolves when all of them have gone, whoever unmounted them; each is logged, and told.
    pub(super) fn unmounted<'a, T: Fn(&Path)>(
        &self,
        tell: &'a T,
    ) -> impl Future<Output = ()> + use<'a, T> {
        let gone = self.with(|mounts| {
            let each = mounts.iter().map(|mounted| {
                let (path, gone) = (mounted.mountpoint().to_owned(), mounted.unmounted());
                async move {
                    gone.await;
                    log_gone(&path);
                    tell(&path);
                }
            });
            each.collect::<Vec<_>>()
        });
        async {
            join_all(gone).await;
        }
    }

    /// Unmounts all; those in use stay, and the first of them is the error.
    pub(super) fn unmount(&self) -> Result<(), UnmountError> {
        self.with(|mounts| {
            let mut outcome = Ok(());
            for mounted in mounts {
                if let Err(error) = mounted.unmount() {
                    if outcome.is_err() {
                        tracing::error!(error = %error, "A mount stays");
                    } else {
                        outcome = Err(error);
                    }
                }
            }
            outcome
        })
    }
}

fn log_gone(mountpoint: &Path) {
    tracing::info!(path = %mountpoint.display(), "The mount is gone");
}
