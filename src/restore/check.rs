//! SQLite's own check of a restored database, in a process of its own.
//!
//! `PRAGMA integrity_check` evaluates what a tenant wrote into the schema: CHECK constraints, generated columns and index
//! expressions. So it is run by a child that has nothing of this process: no environment, no descriptor but the ends of a
//! pipe, limits of memory, processor time, file size and descriptors, and a deadline. It ends with whoever waits for it.

use std::fs;
use std::io::{self, PipeReader, Read};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::checker::{COMMAND, DATABASE, Told};

/// Time that a check of the smallest database may take, of the clock and of a processor.
const LEAST_TIME: Duration = Duration::from_secs(30);
/// Each of so many bytes gives it a second more.
const BYTES_PER_SECOND: u64 = 4 << 20;
/// Bytes of what the child says.
const MOST_TOLD: u64 = 4096;

/// Whether this program is the one that has the command.
static IS_OWN: AtomicBool = AtomicBool::new(false);

/// The process is the program itself, which can check databases when it is started with `check_database` as its command.
pub fn check_with_own_program() {
    IS_OWN.store(true, Ordering::Relaxed);
}

/// What the check came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Checked {
    Told(Told),
    /// It went beyond a limit, or could not be run.
    Nothing(String),
}

/// Checks the database `DATABASE` in `directory`, which holds nothing else. Waits for the child, or until nobody holds the
/// other end of `cancelled` any more: then the child is ended.
pub(super) fn check(directory: &Path, cancelled: PipeReader) -> io::Result<Checked> {
    let size = fs::metadata(directory.join(DATABASE))?.len();
    let time = LEAST_TIME + Duration::from_secs(size / BYTES_PER_SECOND);
    if cfg!(test) {
        // The tests of the library have no program.
        return Ok(Checked::Told(super::checker::check(
            &directory.join(DATABASE),
        )));
    }
    let mut child = start(&program()?, directory, time)?;
    let out = child.stdout.take().expect("BUG: it is piped");
    let heard = listen(out, &cancelled, Instant::now() + time);
    if !matches!(heard, Ok(Heard::All(_))) {
        // It fails only for one that has ended.
        let _ = child.kill();
    }
    let status = child.wait()?;
    Ok(match heard? {
        Heard::All(said) => match Told::parse(&said).filter(|_| status.success()) {
            Some(told) => Checked::Told(told),
            None => Checked::Nothing(format!(
                "the check ended with {status}; what the database has to evaluate takes too much"
            )),
        },
        Heard::TooLate => Checked::Nothing(format!(
            "the check has not ended within {} s; what the database has to evaluate takes too long",
            time.as_secs()
        )),
        Heard::Cancelled => Checked::Nothing("the check was cut off".to_owned()),
    })
}

/// What is started: this program; or, in another one that uses the library, the one that lies beside it.
fn program() -> io::Result<PathBuf> {
    if IS_OWN.load(Ordering::Relaxed) {
        // Not by its name: that may be another version's by now.
        return Ok("/proc/self/exe".into());
    }
    let this = std::env::current_exe()?;
    let beside = this.ancestors().skip(1).take(2);
    let mut beside = beside.map(|directory| directory.join(env!("CARGO_PKG_NAME")));
    beside
        .find(|path| fs::metadata(path).is_ok())
        .ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::NotFound,
                "the program that checks databases does not lie beside this one",
            )
        })
}

fn start(program: &Path, directory: &Path, time: Duration) -> io::Result<Child> {
    let mut command = Command::new(program);
    command
        .arg(COMMAND)
        .arg(time.as_secs().to_string())
        .env_clear()
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let close_others = || {
        // SAFETY: no memory is involved. They are marked, and closed by the exec: the library's own tells of its failure.
        // A kernel before 5.11 can't mark them; then those are left that were not made to be closed.
        let _ = unsafe { libc::close_range(3, libc::c_uint::MAX, CLOSE_AT_EXEC) };
        Ok(())
    };
    // SAFETY: between fork and exec it makes one system call.
    unsafe { command.pre_exec(close_others) };
    command.spawn()
}

/// `CLOSE_RANGE_CLOEXEC`
const CLOSE_AT_EXEC: libc::c_int = 4;

enum Heard {
    /// Until its end.
    All(String),
    TooLate,
    Cancelled,
}

fn listen(mut out: ChildStdout, cancelled: &PipeReader, deadline: Instant) -> io::Result<Heard> {
    let mut said = Vec::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(Heard::TooLate);
        }
        let out_fd = out.as_fd().try_clone_to_owned()?;
        let mut fds = [
            PollFd::new(&out_fd, PollFlags::IN),
            PollFd::new(cancelled, PollFlags::IN),
        ];
        let left = Timespec {
            tv_sec: left.as_secs() as i64,
            tv_nsec: left.subsec_nanos().into(),
        };
        match poll(&mut fds, Some(&left)) {
            Err(rustix::io::Errno::INTR) => continue,
            ready => ready?,
        };
        if !fds[1].revents().is_empty() {
            return Ok(Heard::Cancelled);
        }
        if fds[0].revents().is_empty() {
            continue;
        }
        let mut piece = [0; 1024];
        let read = out.read(&mut piece)?;
        said.extend_from_slice(&piece[..read]);
        if read == 0 || said.len() as u64 > MOST_TOLD {
            return Ok(Heard::All(String::from_utf8_lossy(&said).into_owned()));
        }
    }
}
