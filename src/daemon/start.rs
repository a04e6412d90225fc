//! What a start makes of each watch path, and what it refuses.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::mount::MountFlags;
use tokio::sync::mpsc;

use super::Error;
use super::mounts::Mounts;
use crate::capture::reserve::SpoolRoom;
use crate::capture::spool::SpoolLimits;
use crate::capture::{self, Capture, Database, LogPassing, STATE_FOLDER};
use crate::config::{AccessLists, CaptureWay, Config, WatchPath};
use crate::mount::{BackingDirectory, MountOptions, Mounted, open_backing_directory};
use crate::replicate::{Replicator, Ship, Uplink};
use crate::tenant::places::Places;
use crate::tenant::roster::Roster;

/// Threads that serve file operations. One of them may wait for a disk.
const FUSE_THREADS: usize = 3;

/// A watch path before it is mounted.
pub(super) struct Readied {
    backing: Arc<BackingDirectory>,
    pub(super) capture: Arc<Capture>,
    /// Taken out once it is mounted.
    dirty: Option<mpsc::Receiver<Arc<Database>>>,
    pub(super) replicator: Arc<Replicator>,
    options: MountOptions,
}

/// Readies every watch path, and refuses a start whose databases would share a place in a store.
pub(super) fn ready_all(
    config: &Config,
    restrictions: MountFlags,
    uplink: &Arc<Uplink>,
    roster: &Arc<Roster>,
) -> Result<Vec<Readied>, Error> {
    let mut readied = Vec::new();
    for watch_path in &config.watch_paths {
        readied.push(ready(config, watch_path, restrictions, uplink, roster)?);
    }
    refuse_shared_places(config, &readied)?;
    for one in &readied {
        tell_room(one.capture.seen_at(), &one.capture);
    }
    Ok(readied)
}

fn ready(
    config: &Config,
    watch_path: &WatchPath,
    restrictions: MountFlags,
    uplink: &Arc<Uplink>,
    roster: &Arc<Roster>,
) -> Result<Readied, Error> {
    let backing = Arc::new(open_backing_directory(&watch_path.path)?);
    let (capture, dirty) = start_capture(config, watch_path, &backing.inside, roster)?;
    Ok(Readied {
        replicator: Arc::new(Replicator::new(capture.clone(), uplink.clone())),
        backing,
        capture,
        dirty: Some(dirty),
        options: MountOptions {
            watch_path: watch_path.path.clone(),
            mountpoint: watch_path.mountpoint.clone(),
            prefix: watch_path.prefix.clone(),
            passthrough: config.passthrough,
            needs_passthrough: config.capture_way == CaptureWay::Passthrough,
            access_lists: config.access_lists == AccessLists::Always,
            threads: FUSE_THREADS,
            restrictions,
        },
    })
}

fn start_capture(
    config: &Config,
    watch_path: &WatchPath,
    backing: &Arc<OwnedFd>,
    roster: &Arc<Roster>,
) -> Result<(Arc<Capture>, mpsc::Receiver<Arc<Database>>), Error> {
    let settings = capture::Settings {
        gate_timeout: config.gate_timeout,
        log_passing: match config.capture_way {
            CaptureWay::Intercept => LogPassing::Never,
            CaptureWay::Auto if !config.passthrough => LogPassing::Never,
            CaptureWay::Auto => LogPassing::WherePossible,
            CaptureWay::Passthrough => LogPassing::Required,
        },
        spool: SpoolLimits {
            // Each watch path has its own spool; together they keep to the limit.
            bytes: config.limits.spool_bytes / config.watch_paths.len() as u64,
            reserve: config.limits.spool_reserve,
        },
    };
    // Through the descriptor, so that it is the directory underneath after the mount as well.
    let inside = PathBuf::from(format!("/proc/self/fd/{}", backing.as_raw_fd()));
    let directory = match &config.state_dir {
        Some(state_dir) => state_dir.join(folder_name(&watch_path.path)),
        None => inside.join(STATE_FOLDER),
    };
    // Those that are gone may wait for their last upload beside those that are there.
    let room = 2 * config.limits.max_tenants + 1024;
    let started = Capture::start(
        backing.clone(),
        &watch_path.mountpoint,
        &directory,
        settings,
        watch_path.rules.clone(),
        roster.clone(),
        room,
    );
    Ok(started.map_err(|error| error.of_directory(&inside, &watch_path.path))?)
}

/// Says how much of an outage there is room for: where there is none, nobody should learn it from the outage.
fn tell_room(mountpoint: &Path, capture: &Capture) {
    let watch_path = mountpoint.display();
    match capture.spool_room() {
        Ok(SpoolRoom {
            free,
            reserve,
            left,
            limit,
        }) if left < limit => tracing::warn!(
            %watch_path, free, reserve, room = left, limit,
            "The disk of the state directory has less room for what waits for the store than limits.spoolBytes: what is more fails with spool_full while the store is away; make room, or set limits.spoolReserve, or -state-dir elsewhere"
        ),
        Ok(SpoolRoom {
            free,
            reserve,
            left,
            limit,
        }) => tracing::info!(
            %watch_path, free, reserve, room = left, limit,
            "What waits for the store has room on the disk of the state directory"
        ),
        Err(error) => tracing::warn!(
            %watch_path, error = %error,
            "What room there is for what waits for the store can't be told"
        ),
    }
}

/// The name of a watch path's folder in `-state-dir`: its path with `%2F` for each slash, a `%` being `%25`.
fn folder_name(path: &Path) -> String {
    let path = path.to_string_lossy().replace('%', "%25");
    path.trim_start_matches('/').replace('/', "%2F")
}

/// A first start of several watch paths whose databases would share places tells of a configuration that lacks prefixes:
/// nothing is stored yet, and the order of the watch paths would decide. Later, and within one watch path, one of the files is
/// refused by name: whoever may make files below a watch path keeps nobody from a start.
fn refuse_shared_places(config: &Config, readied: &[Readied]) -> Result<(), Error> {
    if readied.len() < 2 {
        return Ok(());
    }
    for one in readied {
        if !one.capture.is_new()? {
            return Ok(());
        }
    }
    let mut places = Places::default();
    for (nth, one) in readied.iter().enumerate() {
        for (path, identity) in one.capture.survey()? {
            let Some(location) = &identity.location else {
                continue;
            };
            let shown = path.display().to_string();
            match places.take(location, (nth, shown.clone())) {
                Err((other_path, other)) if other_path != nth => {
                    return Err(Error::SharedPlace {
                        first: other,
                        second: shown,
                        place: identity.s3_prefix,
                        lines: lines_to_add(config),
                    });
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// What would keep the watch paths' databases apart.
fn lines_to_add(config: &Config) -> String {
    let paths = config.watch_paths.iter().map(|watch_path| {
        let path = watch_path.path.display();
        let name = watch_path.path.file_name().unwrap_or_default();
        let prefix = match watch_path.prefix.as_str() {
            "" => name.to_string_lossy().into_owned(),
            prefix => prefix.to_owned(),
        };
        format!("{{path: {path}, prefix: {prefix}}}")
    });
    let paths: Vec<_> = paths.collect();
    format!(
        "give the watch paths prefixes: `autoDiscovery: {{watchPaths: [{}]}}`",
        paths.join(", ")
    )
}

impl Readied {
    pub(super) fn ship(&self, mounts: &Mounts) -> Ship {
        let (mounts, mountpoint) = (mounts.clone(), self.options.mountpoint.clone());
        Ship {
            capture: self.capture.clone(),
            replicator: self.replicator.clone(),
            is_open: Box::new(move |path| mounts.is_open(&mountpoint, path)),
        }
    }

    /// The start has succeeded: its state stays. Gives what comes to be replicated.
    pub(super) fn keep(mut self) -> mpsc::Receiver<Arc<Database>> {
        self.dirty.take().expect("BUG: kept twice")
    }

    /// Mounts it; that waits for the kernel.
    pub(super) fn mount(&self) -> Result<Mounted, Error> {
        let (backing, capture) = (self.backing.clone(), self.capture.clone());
        Ok(Mounted::start(self.options.clone(), backing, capture)?)
    }
}

impl Drop for Readied {
    /// A start that was refused leaves nothing behind.
    fn drop(&mut self) {
        if self.dirty.is_some()
            && let Err(error) = self.capture.withdraw()
        {
            tracing::warn!(error = %error, "The state of a start that was refused stays");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_watch_paths_are_names_and_differ() {
        assert_eq!(folder_name(Path::new("/data/tenants")), "data%2Ftenants");
        assert_eq!(
            folder_name(Path::new("/data%2Ftenants")),
            "data%252Ftenants"
        );
    }
}
