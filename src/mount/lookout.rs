//! Looks for what goes past a mount while it is served: processes that hold files of the directory underneath, those
//! that only stand in it, and mount namespaces that see it without the mount. And whether the mount answers.
//!
//! The kernel's notifications do not help: a file that it passes through is opened underneath in the name of the
//! application, so they tell the right way from the wrong one as little as an open file does that is gone again.

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::answer::{Answer, ask};
use super::holders::{Holder, holders, place_of_descriptor, processes};
use super::mountinfo::{MountPoint, Place, mounts_of, place_of_path};
use super::preconditions::list;
use super::session::MountOptions;
use crate::capture::Capture;

/// One mount, to be looked at from any thread.
#[derive(Clone)]
pub struct Lookout {
    watch_path: PathBuf,
    mountpoint: PathBuf,
    /// Of the mount.
    pub(super) device: (u32, u32),
    /// Where it stands.
    backing: Arc<OwnedFd>,
    capture: Arc<Capture>,
    seen: Arc<Mutex<Seen>>,
}

/// What the last look found.
#[derive(Clone, Default, Debug)]
struct Seen {
    is_silent: bool,
    /// Processes that hold files past the mount.
    bypassing: Vec<Holder>,
    /// What could become a bypass: a sentence each.
    bystanders: Vec<String>,
}

impl Seen {
    /// The state and the reason that health shows of a mount that is served.
    fn verdict(&self) -> (&'static str, Option<String>) {
        if self.is_silent {
            let reason = "it does not answer; see `Clearing a hung mount` in docs/operations.md";
            ("silent", Some(reason.to_owned()))
        } else if !self.bypassing.is_empty() {
            let reason = format!("files are open past the mount: {}", list(&self.bypassing));
            ("bypassed", Some(reason))
        } else {
            let reason = self.bystanders.join("; ");
            ("mounted", Some(reason).filter(|reason| !reason.is_empty()))
        }
    }
}

impl Lookout {
    pub(super) fn new(
        options: &MountOptions,
        device: (u32, u32),
        backing: Arc<OwnedFd>,
        capture: Arc<Capture>,
    ) -> Self {
        capture.set_mount_device(device);
        Self {
            watch_path: options.watch_path.clone(),
            mountpoint: options.mountpoint.clone(),
            device,
            backing,
            capture,
            seen: Arc::default(),
        }
    }

    /// What the last look found, as health shows it of a mount that is served.
    pub(super) fn verdict(&self) -> (&'static str, Option<String>) {
        self.lock().verdict()
    }

    /// Looks once. Takes some milliseconds, more on a machine with many processes and open files.
    pub fn look(&self) {
        let mut now = Seen {
            is_silent: matches!(ask(&self.mountpoint), Ok(Answer::Silent)),
            ..Seen::default()
        };
        match holders(&self.backing) {
            Ok(found) => {
                let (held, standing): (Vec<_>, Vec<_>) =
                    found.into_iter().partition(Holder::holds_file);
                now.bypassing = held;
                now.bystanders = standing.iter().map(Holder::to_string).collect();
            }
            Err(error) => {
                tracing::warn!(path = %self.watch_path.display(), %error, "Could not look for open files past the mount");
            }
        }
        now.bystanders.extend(self.exposures());
        let before = std::mem::replace(&mut *self.lock(), now.clone());
        self.say(&before, &now);
        self.look_at_written(&before, &now);
    }

    /// The mount namespaces that see the directory without the mount, each by one of its processes.
    fn exposures(&self) -> Vec<String> {
        let Ok(region) = place_of_descriptor(&self.backing) else {
            return Vec::new();
        };
        let mut namespaces = HashSet::new();
        let mut found = Vec::new();
        for pid in processes() {
            // A process that ends while it is looked at sees nothing any more.
            let Ok(namespace) = std::fs::read_link(format!("/proc/{pid}/ns/mnt")) else {
                continue;
            };
            if !namespaces.insert(namespace) {
                continue;
            }
            let mounts = mounts_of(&pid.to_string()).unwrap_or_default();
            for path in exposed(&mounts, &region, self.device, &self.watch_path) {
                let command = std::fs::read_to_string(format!("/proc/{pid}/comm"));
                found.push(format!(
                    "the mount namespace of {} (pid {pid}) sees the directory at {} without the mount",
                    command.unwrap_or_default().trim_end(),
                    path.display()
                ));
            }
        }
        found
    }

    fn say(&self, before: &Seen, now: &Seen) {
        let path = self.watch_path.display();
        for holder in now
            .bypassing
            .iter()
            .filter(|holder| !before.bypassing.contains(holder))
        {
            tracing::error!(%path, %holder, "A process has a file open past the mount: what it writes may be lost to the replica");
        }
        if now.bypassing.is_empty() && !before.bypassing.is_empty() {
            tracing::info!(%path, "No process has files open past the mount any more");
        }
        for bystander in now
            .bystanders
            .iter()
            .filter(|one| !before.bystanders.contains(one))
        {
            tracing::warn!(%path, holder = bystander, "Files that are opened past the mount are not captured");
        }
        if now.is_silent && !before.is_silent {
            tracing::error!(%path, "Health is failing: the mount does not answer");
        }
    }

    /// Of what was written past the mount nobody has told the capture. Not at every look: it reads the whole file.
    fn look_at_written(&self, before: &Seen, now: &Seen) {
        let changed = |some: &Seen, others: &Seen| -> Vec<Holder> {
            let mut some = some.bypassing.clone();
            some.retain(|holder| !others.bypassing.contains(holder));
            some
        };
        for holder in changed(before, now).iter().chain(&changed(now, before)) {
            self.capture.written_past(&holder.below);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where a namespace with these mounts shows the region, or a part of it, with nothing of ours over it. Where the
/// mount lies elsewhere and is seen, the watch path itself is no finding.
fn exposed(
    mounts: &[MountPoint],
    region: &Place,
    device: (u32, u32),
    watch_path: &Path,
) -> Vec<PathBuf> {
    let sees_mount = mounts.iter().any(|mount| mount.device == device);
    let mut found: Vec<PathBuf> = mounts
        .iter()
        .filter_map(|mount| mount.view_of(region))
        .filter(|path| !(sees_mount && path == watch_path))
        .filter(|path| {
            place_of_path(mounts, path)
                .is_some_and(|place| region.contains(&place) || place.contains(region))
        })
        .collect();
    found.sort();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: (u32, u32) = (0, 57);

    fn mount(device: (u32, u32), root: &str, path: &str) -> MountPoint {
        MountPoint {
            id: 1,
            device,
            root: root.into(),
            path: path.into(),
            kind: "ext4".to_owned(),
            source: PathBuf::new(),
        }
    }

    fn found(mounts: &[MountPoint]) -> Vec<PathBuf> {
        let region = Place {
            device: (8, 1),
            path: "/data".into(),
        };
        exposed(mounts, &region, OURS, Path::new("/data"))
    }

    #[test]
    fn a_directory_is_exposed_where_nothing_of_ours_lies_over_it() {
        let disk = mount((8, 1), "/", "/");
        let over = mount(OURS, "/", "/data");
        let beside = mount(OURS, "/", "/srv/data");
        let second = mount((8, 1), "/data/t", "/mnt");
        let hidden = mount((0, 9), "/", "/data");
        let other = mount((8, 1), "/home", "/home");
        assert!(found(&[disk.clone(), over.clone(), other]).is_empty());
        assert!(
            found(&[disk.clone(), beside.clone()]).is_empty(),
            "at the watch path"
        );
        assert!(found(&[disk.clone(), hidden]).is_empty());
        assert_eq!(found(std::slice::from_ref(&disk)), [Path::new("/data")]);
        assert_eq!(
            found(&[disk.clone(), over, second.clone()]),
            [Path::new("/mnt")]
        );
        assert_eq!(found(&[disk, beside, second]), [Path::new("/mnt")]);
    }

    #[test]
    fn what_is_worse_is_what_health_shows() {
        let mut seen = Seen::default();
        assert_eq!(seen.verdict(), ("mounted", None));
        seen.bystanders.push("somebody stands there".to_owned());
        assert_eq!(
            seen.verdict(),
            ("mounted", Some("somebody stands there".to_owned()))
        );
        seen.bypassing.push(Holder {
            pid: 7,
            command: "app".to_owned(),
            file: "/data/x.db".into(),
            below: "x.db".into(),
            kind: super::super::HolderKind::OpenFile,
        });
        let (state, reason) = seen.verdict();
        assert_eq!(state, "bypassed");
        assert!(reason.is_some_and(|text| text.contains("app (pid 7) has open /data/x.db")));
        seen.is_silent = true;
        assert_eq!(seen.verdict().0, "silent");
    }
}
