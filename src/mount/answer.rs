//! Whether a mount answers: asked by a child process, since where the daemon hangs, whoever asks hangs with it.

use std::ffi::CString;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, kill_process, pidfd_open, waitpid};

/// How long a mount has for an answer.
const LIMIT: Duration = Duration::from_secs(2);

/// What a mount does with a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    Living,
    /// Nobody serves it any more.
    Dead,
    Silent,
}

/// Children that were killed while they waited: they end as soon as the kernel lets go of them.
static HANGING: Mutex<Vec<(PathBuf, Pid)>> = Mutex::new(Vec::new());

/// Asks the mount at `path`. While an earlier question hangs there it is silent, and not asked again.
pub fn ask(path: &Path) -> io::Result<Answer> {
    if is_still_hanging(path) {
        return Ok(Answer::Silent);
    }
    let child = start_child(&CString::new(path.as_os_str().as_bytes())?)?;
    let ended = pidfd_open(child, PidfdFlags::empty())?;
    let mut poll = libc::pollfd {
        fd: ended.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one valid `pollfd`.
    let ready = unsafe { libc::poll(&raw mut poll, 1, LIMIT.as_millis() as i32) };
    if ready <= 0 {
        // It dies as soon as the request is answered or aborted; until then it must not be waited for.
        kill_process(child, Signal::KILL)?;
        hanging().push((path.to_owned(), child));
        return Ok(Answer::Silent);
    }
    let status = waitpid(Some(child), WaitOptions::empty())?;
    Ok(match status.and_then(|(_, status)| status.exit_status()) {
        Some(0) => Answer::Living,
        Some(_) => Answer::Dead,
        None => Answer::Silent,
    })
}

fn start_child(path: &CString) -> io::Result<Pid> {
    // SAFETY: the child calls nothing but close_range, statfs and _exit, all async-signal-safe; `path` was allocated before.
    let child = unsafe {
        match libc::fork() {
            0 => {
                // With `/dev/fuse` in its hands it would keep the mount waiting for a daemon that was killed meanwhile, and
                // every application with it. A kernel before 5.9 can't close them all: then it asks as it is.
                let _ = libc::close_range(0, libc::c_uint::MAX, 0);
                let mut answer = std::mem::zeroed();
                let result = libc::statfs(path.as_ptr(), &raw mut answer);
                let is_dead = result != 0 && *libc::__errno_location() == libc::ENOTCONN;
                libc::_exit(if is_dead { 1 } else { 0 });
            }
            child => child,
        }
    };
    Pid::from_raw(child)
        .filter(|_| child > 0)
        .ok_or_else(io::Error::last_os_error)
}

/// Lets go of the children that have ended.
fn is_still_hanging(path: &Path) -> bool {
    let mut hanging = hanging();
    hanging.retain(|(_, child)| matches!(waitpid(Some(*child), WaitOptions::NOHANG), Ok(None)));
    hanging.iter().any(|(asked, _)| asked == path)
}

fn hanging() -> std::sync::MutexGuard<'static, Vec<(PathBuf, Pid)>> {
    HANGING
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_fuse_mount_answers() {
        let answer = ask(Path::new("/")).expect("asked");
        assert_eq!(answer, Answer::Living);
    }
}
