//! An instance in the background: its process goes on when the one that started it has seen it ready, or failed.

use std::fs::File;
use std::io::{self, PipeReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use rustix::process::Pid;

use super::{Failure, NAME, block_on_instance, logging};
use crate::config::Config;
use crate::daemon::{Beside, Reload};
use crate::room;

/// What the new process says first when its mounts answer; else it is the exit code of its failure, and the reason.
const READY: u8 = 0;

/// Starts an instance in a process and a session of its own, and returns when its mounts answer; its id.
pub(super) fn start(config: Config, reload: Reload, mut beside: Beside) -> Result<i32, Failure> {
    let log = logging::Detached::choose(is_journal(io::stderr()));
    let log_is_lost = matches!(log, logging::Detached::Nowhere);
    let (reader, mut writer) = io::pipe().map_err(failed("make a pipe"))?;
    // SAFETY: this process has no threads yet but the allocator's, which makes itself whole in the child; so that can go
    // on like any process.
    match unsafe { libc::fork() } {
        0 => {
            room::make_whole_after_fork();
            drop(reader);
            let mut first = writer.try_clone().map_err(failed("copy a pipe"))?;
            beside.ready = Some(Box::new(move || {
                // Where nobody waits any more the mount is there all the same.
                let _ = first.write_all(&[READY]);
            }));
            let mut lines = None;
            let outcome = leave(&log).and_then(|()| {
                lines = logging::start_detached(config.log_format, log);
                block_on_instance(async { Ok(crate::daemon::run(config, reload, beside).await?) })
            });
            let code = outcome.map_or_else(
                |failure| {
                    let text = failure.to_string();
                    tracing::error!("{text}");
                    // As above; after the start it is too late for that.
                    let _ = writer.write_all(&[&[failure.exit_code()], text.as_bytes()].concat());
                    failure.exit_code()
                },
                |_| 0,
            );
            // The end of a process by name waits for nothing.
            drop(lines);
            std::process::exit(code.into())
        }
        child => {
            drop(writer);
            let pid = Pid::from_raw(child)
                .filter(|_| child > 0)
                .ok_or_else(io::Error::last_os_error)
                .map_err(failed("start a process"))?;
            wait(reader)?;
            if log_is_lost {
                eprintln!(
                    "{NAME}: neither a journal nor /dev/log takes the instance's log: it is lost"
                );
            }
            Ok(pid.as_raw_nonzero().get())
        }
    }
}

/// Leaves session, directory and terminal of the process that started it.
fn leave(log: &logging::Detached) -> Result<(), Failure> {
    rustix::process::setsid().map_err(|error| failed("begin a session")(error.into()))?;
    // So that it keeps no other file system busy.
    std::env::set_current_dir("/").map_err(failed("leave the directory"))?;
    let nothing = File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map_err(failed("open /dev/null"))?;
    let away = || -> rustix::io::Result<()> {
        rustix::stdio::dup2_stdin(&nothing)?;
        rustix::stdio::dup2_stdout(&nothing)?;
        if !log.uses_stderr() {
            rustix::stdio::dup2_stderr(&nothing)?;
        }
        Ok(())
    };
    away().map_err(|error| failed("let go of the terminal")(error.into()))
}

/// Whether what it writes to standard error goes to systemd's journal, which says so by the file's numbers.
fn is_journal(stderr: impl AsFd) -> bool {
    let stream = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    let of_stderr = stderr.as_fd().try_clone_to_owned().map(File::from);
    of_stderr
        .and_then(|file| file.metadata())
        .is_ok_and(|found| stream == format!("{}:{}", found.dev(), found.ino()))
}

fn wait(mut reader: PipeReader) -> Result<(), Failure> {
    let mut first = [0];
    let told = reader
        .read(&mut first)
        .map_err(failed("wait for the start"))?;
    if told == 0 {
        return Err(Failure::Other(
            "the instance ended while it started; its log says why".to_owned(),
        ));
    }
    if first == [READY] {
        return Ok(());
    }
    let mut text = String::new();
    reader
        .read_to_string(&mut text)
        .map_err(failed("wait for the start"))?;
    Err(match first {
        [2] => Failure::Usage(text),
        _ => Failure::Other(text),
    })
}

fn failed(action: &'static str) -> impl FnOnce(io::Error) -> Failure {
    move |error| Failure::Other(format!("start in the background: {action}: {error}"))
}
