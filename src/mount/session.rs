//! A mount's life: made over the watch path, served by its threads, and unmounted when nobody uses it any more.

use std::future::Future;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fuser::{BackingId, Config, Session, SessionACL};
use rustix::fs::{Access, CWD, FileType, Mode, OFlags, StatVfsMountFlags};
use rustix::io::Errno;
use rustix::mount::MountFlags;
use tokio::sync::watch;

use super::MountStatus;
use super::fuse::FuseAdapter;
use super::fusermount;
use super::holders::{Holder, holders_of_device};
use super::in_use::InUse;
use super::lookout::Lookout;
use super::mountinfo::{mounts_of, topmost};
use super::negotiation::Negotiation;
use super::passthrough::FileSystem;
use super::preconditions::{
    BackingDirectory, FILE_SYSTEM_TYPE, MountError, list, refuse_held_files,
};
use super::serving::Serving;
use super::standstill::{Connection, FUSE_CONTROL};
use crate::capture::Capture;
use crate::paths::{OwnMount, reach};

const FUSE_DEVICE: &str = "/dev/fuse";

/// How long an unmount waits for processes that are just ending to let go of their files.
const BUSY_LIMIT: Duration = Duration::from_millis(500);

/// How long the session's threads have to end once the mount is gone.
const END_LIMIT: Duration = Duration::from_secs(5);

/// How a watch path is mounted.
#[derive(Clone, Debug)]
pub struct MountOptions {
    pub watch_path: PathBuf,
    /// Normally the watch path itself.
    pub mountpoint: PathBuf,
    /// The watch path's prefix in the store; empty where it has none.
    pub prefix: String,
    /// Whether the kernel may pass reads and writes of `.db`, `-shm` and plain files through.
    pub passthrough: bool,
    /// Whether it is no mount without that.
    pub needs_passthrough: bool,
    /// Whether applications have access control lists also where there are none when it is mounted.
    pub access_lists: bool,
    /// Threads that serve requests.
    pub threads: usize,
    /// What is forbidden beyond what the backing mount forbids.
    pub restrictions: MountFlags,
}

/// Why a mount could not be taken away.
#[derive(Debug, thiserror::Error)]
pub enum UnmountError {
    #[error("{}: still in use: {}", path.display(), list(holders))]
    Busy { path: PathBuf, holders: Vec<Holder> },
    #[error("{}: could not unmount: {source}", path.display())]
    Failed { path: PathBuf, source: Errno },
    #[error("{}: {reason}: start the instance again", path.display())]
    Aborted { path: PathBuf, reason: String },
}

/// A mount that is being served.
pub struct Mounted {
    options: MountOptions,
    lookout: Lookout,
    files: Arc<FileSystem<BackingId>>,
    _backing: Arc<BackingDirectory>,
    session: Option<JoinHandle<()>>,
    /// Disconnected when the session's threads have ended.
    end: mpsc::Receiver<()>,
    state: watch::Receiver<SessionState>,
    /// Why its connection was aborted, if it was.
    aborted: Arc<OnceLock<String>>,
}

/// What became of the session.
#[derive(Clone, Debug)]
enum SessionState {
    Serving,
    Ended { error: Option<String> },
}

impl Mounted {
    /// Mounts over the mount point and serves it, `backing` being the directory underneath. Returns once the kernel has
    /// been answered, so that applications can use the mount.
    pub fn start(
        options: MountOptions,
        backing: Arc<BackingDirectory>,
        capture: Arc<Capture>,
    ) -> Result<Self, MountError> {
        let path = options.mountpoint.clone();
        refuse_held_files(&options.watch_path, &backing.in_place)?;
        mount_fuse_control();
        let inside = &backing.inside;
        let in_use = in_use(inside, &options);
        let negotiation = Negotiation::over(inside, options.passthrough, in_use.access_lists)
            .map_err(|error| MountError::failed(&path, "look at the directory")(error.into()))?;
        let flags = mount_flags(inside)
            .map_err(|error| MountError::failed(&path, "read its mount options")(error.into()))?
            | options.restrictions;
        let files = FileSystem::new(inside.clone(), capture.clone()).map_err(|error| {
            MountError::failed(&path, "look at the directory")(error.errno().into())
        })?;
        let files = Arc::new(files.with_only(in_use));
        // Before it is mounted over: no thread resolves the path of a mount of ours.
        let place = reach(&path)
            .map_err(|way_in| MountError::failed(&path, "resolve the path")(way_in.into()))?
            .settled();
        let moved = Arc::downgrade(&files);
        capture.moves_too(move || {
            if let Some(files) = moved.upgrade() {
                files.move_together();
            }
        });
        let refuse = |reason| {
            let path = path.clone();
            Err(MountError::NoPassthrough { path, reason })
        };
        if options.needs_passthrough && fusermount::is_needed() {
            return refuse("it needs root, or CAP_SYS_ADMIN");
        }

        let device = if fusermount::is_needed() {
            fusermount::mount(&options.watch_path, &path, flags)?
        } else {
            let device = open_fuse_device(&options)?;
            mount(&options, &device, flags)?;
            device
        };
        let serving = Arc::new(Serving::new());
        let serve = || {
            let adapter = FuseAdapter::new(files.clone(), negotiation, serving.clone());
            Session::from_fd(adapter, device, SessionACL::All, config(options.threads))
        };
        let started = serve()
            .map_err(MountError::failed(&path, "agree with the kernel"))
            .and_then(|session| {
                let device = device_at(&place)?;
                let lookout = Lookout::new(&options, device, backing.in_place.clone(), capture);
                Self::serve(
                    options.clone(),
                    files.clone(),
                    session,
                    serving,
                    backing,
                    lookout,
                )
            })
            .and_then(
                |mounted| match options.needs_passthrough && !files.is_passthrough() {
                    true => refuse("it needs Linux 6.9"),
                    false => Ok(mounted),
                },
            );
        if started.is_err()
            && let Err(error) = fusermount::unmount(&path, true)
        {
            tracing::warn!(path = %path.display(), %error, "Could not take back a mount that failed");
        }
        started
    }

    fn serve(
        options: MountOptions,
        files: Arc<FileSystem<BackingId>>,
        session: Session<FuseAdapter>,
        serving: Arc<Serving>,
        backing: Arc<BackingDirectory>,
        lookout: Lookout,
    ) -> Result<Self, MountError> {
        let path = &options.mountpoint.clone();
        let failed = MountError::failed(path, "start its threads");
        let own = OwnMount::new(lookout.device);
        let aborted: Arc<OnceLock<String>> = Arc::default();
        let connection = Connection::new(
            path,
            &options.watch_path,
            lookout.device.1,
            is_fuse(&backing.inside)
                .map_err(|error| MountError::failed(path, "look at the directory")(error.into()))?,
            aborted.clone(),
        );
        let standstill = connection
            .watch(serving.clone(), options.threads)
            .map_err(&failed)?;
        let reason = aborted.clone();
        let (alive, end) = mpsc::channel();
        let (state, watched) = watch::channel(SessionState::Serving);
        let session = std::thread::Builder::new()
            .name("fuse-session".to_owned())
            .spawn(move || {
                let error = session.run().err().map(|error| error.to_string());
                let error = error.or_else(|| reason.get().cloned());
                if let Some(error) = &error {
                    tracing::error!(%error, "The mount's session ended with an error");
                }
                drop(own);
                serving.end();
                if standstill.join().is_err() {
                    tracing::error!("The watch over the mount's threads panicked");
                }
                state.send_replace(SessionState::Ended { error });
                drop(alive);
            })
            .map_err(&failed)?;
        Ok(Self {
            options,
            lookout,
            files,
            _backing: backing,
            session: Some(session),
            end,
            state: watched,
            aborted,
        })
    }

    pub fn mountpoint(&self) -> &Path {
        &self.options.mountpoint
    }

    /// Whether an application has the file at `path`, relative to the watch path, or one that goes with it, open.
    pub fn is_open(&self, path: &Path) -> bool {
        self.files.is_open(path)
    }

    pub fn status(&self) -> MountStatus {
        let (state, error) = match &*self.state.borrow() {
            SessionState::Serving => self.lookout.verdict(),
            SessionState::Ended { error } => ("unmounted", error.clone()),
        };
        let capture = &self.files.capture;
        let is_passthrough = self.files.is_passthrough();
        MountStatus {
            watch_path: self.options.watch_path.clone(),
            mountpoint: self.options.mountpoint.clone(),
            prefix: self.options.prefix.clone(),
            capture: match is_passthrough && capture.passes_logs() {
                true => "passthrough",
                false => "intercept",
            },
            file_passthrough: is_passthrough,
            state,
            error: error
                .or_else(|| capture.unwatched().filter(|_| is_passthrough))
                .or_else(|| self.files.descriptors.exhausted()),
            take_over: self.files.take_over_progress(),
        }
    }

    /// Whether it is still there.
    pub fn is_served(&self) -> bool {
        matches!(*self.state.borrow(), SessionState::Serving)
    }

    /// What looks for ways past it.
    pub fn lookout(&self) -> Lookout {
        self.lookout.clone()
    }

    /// Resolves when the mount has gone, whoever unmounted it.
    pub fn unmounted(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut state = self.state.clone();
        async move {
            // The sender goes only after it has said so: an error means the same.
            let _ = state
                .wait_for(|state| matches!(state, SessionState::Ended { .. }))
                .await;
        }
    }

    /// Unmounts, and waits for the threads. A mount in use stays as it is, and can be unmounted later.
    pub fn unmount(&mut self) -> Result<(), UnmountError> {
        let path = &self.options.mountpoint;
        let deadline = Instant::now() + BUSY_LIMIT;
        loop {
            if !self.is_served() {
                break;
            }
            match fusermount::unmount(path, false) {
                Ok(()) => break,
                Err(Errno::BUSY) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(Errno::BUSY) => {
                    return Err(UnmountError::Busy {
                        path: path.clone(),
                        holders: holders_of_device(self.lookout.device),
                    });
                }
                // Somebody else unmounted it in between.
                Err(Errno::INVAL) => break,
                Err(source) => {
                    return Err(UnmountError::Failed {
                        path: path.clone(),
                        source,
                    });
                }
            }
        }
        self.wait_for_end();
        match self.aborted.get() {
            None => Ok(()),
            Some(reason) => Err(UnmountError::Aborted {
                path: self.options.mountpoint.clone(),
                reason: reason.clone(),
            }),
        }
    }

    fn wait_for_end(&mut self) {
        let path = self.options.mountpoint.display();
        match self.end.recv_timeout(END_LIMIT) {
            Err(mpsc::RecvTimeoutError::Timeout) => {
                tracing::warn!(%path, "Unmounted, but another mount namespace still uses the mount");
            }
            Ok(()) | Err(mpsc::RecvTimeoutError::Disconnected) => {
                if self
                    .session
                    .take()
                    .is_some_and(|session| session.join().is_err())
                {
                    tracing::error!(%path, "The mount's session panicked");
                }
            }
        }
    }
}

/// The device of the mount that was just made there.
fn device_at(place: &Path) -> Result<(u32, u32), MountError> {
    let mounts =
        mounts_of("self").map_err(MountError::failed(place, "read the table of mounts"))?;
    topmost(&mounts, place)
        .filter(|mount| mount.kind == FILE_SYSTEM_TYPE)
        .map(|mount| mount.device)
        .ok_or_else(|| {
            let source = std::io::Error::other("it does not stand in the table of mounts");
            MountError::failed(place, "find the mount")(source)
        })
}

fn is_fuse(directory: &OwnedFd) -> Result<bool, Errno> {
    Ok(rustix::fs::fstatfs(directory)?.f_type == libc::FUSE_SUPER_MAGIC)
}

/// Two threads by default; each has a descriptor of its own, so that they do not wait for one another's requests, where
/// this user may open the device.
fn config(threads: usize) -> Config {
    let mut config = Config::default();
    config.acl = SessionACL::All;
    config.n_threads = Some(threads.max(1));
    let access = Access::READ_OK | Access::WRITE_OK;
    config.clone_fd = rustix::fs::access(FUSE_DEVICE, access).is_ok();
    config
}

fn open_fuse_device(options: &MountOptions) -> Result<OwnedFd, MountError> {
    let path = &options.mountpoint;
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    match rustix::fs::openat(CWD, FUSE_DEVICE, flags, Mode::empty()) {
        Ok(device) => match rustix::fs::fstat(&device) {
            Ok(found) if FileType::from_raw_mode(found.st_mode) == FileType::CharacterDevice => {
                Ok(device)
            }
            _ => Err(MountError::NoFuseDevice),
        },
        Err(Errno::NOENT | Errno::NODEV | Errno::NXIO) => Err(MountError::NoFuseDevice),
        Err(source @ (Errno::PERM | Errno::ACCESS)) => Err(MountError::NoRights {
            path: path.clone(),
            source,
        }),
        Err(error) => Err(MountError::failed(path, "open /dev/fuse")(error.into())),
    }
}

fn mount(options: &MountOptions, device: &OwnedFd, flags: MountFlags) -> Result<(), MountError> {
    let path = &options.mountpoint;
    let data = format!(
        "fd={},rootmode=40000,user_id={},group_id={},allow_other,default_permissions",
        device.as_raw_fd(),
        rustix::process::getuid().as_raw(),
        rustix::process::getgid().as_raw(),
    );
    let data = std::ffi::CString::new(data).expect("BUG: numbers have no NUL");
    // The source is what mount(8) compares with /etc/fstab.
    let source = &options.watch_path;
    match rustix::mount::mount(source, path, FILE_SYSTEM_TYPE, flags, Some(data.as_c_str())) {
        Ok(()) => Ok(()),
        Err(source @ (Errno::PERM | Errno::ACCESS)) => Err(MountError::NoRights {
            path: path.clone(),
            source,
        }),
        Err(Errno::NODEV) => Err(MountError::NoFuseDevice),
        Err(Errno::NOENT) => Err(MountError::Missing { path: path.clone() }),
        Err(Errno::NOTDIR) => Err(MountError::NotADirectory { path: path.clone() }),
        Err(error) => Err(MountError::failed(path, "mount over it")(error.into())),
    }
}

/// The restrictions of the backing mount, which hold for ours as well.
fn mount_flags(backing: &OwnedFd) -> Result<MountFlags, Errno> {
    let of_backing = rustix::fs::fstatvfs(backing)?.f_flag;
    let same = [
        (StatVfsMountFlags::RDONLY, MountFlags::RDONLY),
        (StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
        (StatVfsMountFlags::NODEV, MountFlags::NODEV),
        (StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
        (StatVfsMountFlags::NOATIME, MountFlags::NOATIME),
        (StatVfsMountFlags::NODIRATIME, MountFlags::NODIRATIME),
    ];
    Ok(same
        .into_iter()
        .filter(|(backing, _)| of_backing.contains(*backing))
        .fold(MountFlags::empty(), |flags, (_, own)| flags | own))
}

/// What applications may have of extended attributes.
fn in_use(backing: &OwnedFd, options: &MountOptions) -> InUse {
    let list = rustix::fs::fgetxattr_query(backing, "system.posix_acl_access");
    let can_have_lists = matches!(list, Ok(_) | Err(Errno::NODATA));
    let in_use = InUse::below(backing);
    let has_lists = in_use.access_lists || options.access_lists;
    InUse {
        access_lists: can_have_lists && has_lists,
        ..in_use
    }
}

/// Without it a mount that hangs could not be aborted; a machine that forbids it is served all the same.
fn mount_fuse_control() {
    let has_control = |mounts: Vec<super::mountinfo::MountPoint>| {
        topmost(&mounts, FUSE_CONTROL.as_ref()).is_some()
    };
    if mounts_of("self").is_ok_and(has_control) {
        return;
    }
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    if let Err(error) = rustix::mount::mount("fusectl", FUSE_CONTROL, "fusectl", flags, None) {
        tracing::debug!(%error, "Could not mount fusectl");
    }
}
