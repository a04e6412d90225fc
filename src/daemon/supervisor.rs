//! What systemd is told where it started us with `Type=notify`: ready, alive, stopping. Elsewhere nothing happens.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::PathBuf;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::mount::{Answer, ask};

/// The variables by which systemd speaks to the process that it starts, and to none of its children.
pub(super) const VARIABLES: [&str; 3] = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"];

/// Who started this process and wants to know how it is.
pub(super) struct Supervisor {
    socket: Option<(UnixDatagram, SocketAddr)>,
    /// How often it wants a sign of life at the least.
    watchdog: Option<Duration>,
}

impl Supervisor {
    /// As the environment names it.
    pub fn from_environment() -> Self {
        let [socket, period, pid] = VARIABLES.map(std::env::var_os);
        let socket = socket.filter(|name| !name.is_empty()).and_then(|name| {
            connect(&name)
                .inspect_err(|error| {
                    tracing::warn!(%error, "NOTIFY_SOCKET can't be used: the service manager hears nothing of us");
                })
                .ok()
        });
        let number =
            |text: Option<std::ffi::OsString>| -> Option<u64> { text?.to_str()?.parse().ok() };
        let is_ours = pid.is_none() || number(pid) == Some(u64::from(std::process::id()));
        Self {
            socket,
            watchdog: number(period)
                .filter(|micros| *micros > 0 && is_ours)
                .map(Duration::from_micros),
        }
    }

    /// The mounts answer, and what is committed is captured.
    pub fn ready(&self, status: &str) {
        self.tell(&format!("READY=1\nSTATUS={status}"));
    }

    /// The configuration is being read again; `reloaded` follows.
    pub fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let micros = now.tv_sec * 1_000_000 + now.tv_nsec / 1_000;
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
    }

    pub fn reloaded(&self) {
        self.tell("READY=1");
    }

    pub fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=Storing what is committed, then unmounting");
    }

    /// Gives a sign of life as often as it is wanted, while the runtime gets to it and every mount answers.
    /// Never ends.
    pub async fn keep_alive(&self, mountpoints: impl Fn() -> Vec<PathBuf>) {
        let (Some(watchdog), Some(_)) = (self.watchdog, &self.socket) else {
            return std::future::pending().await;
        };
        loop {
            if all_answer(mountpoints()).await {
                self.tell("WATCHDOG=1");
            }
            // Often enough that one sign may come late.
            tokio::time::sleep(watchdog / 3).await;
        }
    }

    fn tell(&self, state: &str) {
        if let Some((socket, address)) = &self.socket
            && let Err(error) = socket.send_to_addr(state.as_bytes(), address)
        {
            tracing::warn!(%error, state, "The service manager could not be told");
        }
    }
}

fn connect(name: &OsStr) -> io::Result<(UnixDatagram, SocketAddr)> {
    let address = match name.as_bytes() {
        [b'@', abstract_name @ ..] => SocketAddr::from_abstract_name(abstract_name)?,
        [b'/', ..] => SocketAddr::from_pathname(name)?,
        _ => {
            return Err(io::Error::other(
                "it is neither a path nor an abstract name",
            ));
        }
    };
    let socket = UnixDatagram::unbound()?;
    // A manager that does not read must not hold us up.
    socket.set_nonblocking(true)?;
    Ok((socket, address))
}

async fn all_answer(mountpoints: Vec<PathBuf>) -> bool {
    let asked = tokio::task::spawn_blocking(move || {
        mountpoints.iter().all(|mountpoint| match ask(mountpoint) {
            Ok(Answer::Living) => true,
            Ok(answer) => {
                tracing::error!(path = %mountpoint.display(), ?answer, "The mount does not answer");
                false
            }
            Err(error) => {
                tracing::error!(path = %mountpoint.display(), %error, "The mount could not be asked");
                false
            }
        })
    });
    // A panic is no answer; it was logged where it happened.
    asked.await.unwrap_or(false)
}
