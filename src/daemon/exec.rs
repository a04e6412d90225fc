//! The command of `-exec`: started once the mounts answer, told of signals, and ended before the mounts are.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use super::{signals, supervisor};

/// How long the command has to end once it was asked to.
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// The command could not be started.
#[derive(Debug, thiserror::Error)]
#[error("-exec {command}: could not start it: {source}")]
pub struct ExecError {
    command: String,
    source: std::io::Error,
}

/// A command that runs as long as the instance does.
pub(super) struct Exec {
    child: Child,
}

impl Exec {
    /// Starts `words`. A single word with blanks in it is a line for the shell.
    pub fn start(words: &[OsString]) -> Result<Self, ExecError> {
        let mut command = command_of(words);
        for variable in supervisor::VARIABLES {
            command.env_remove(variable);
        }
        let child = command.spawn().map_err(|source| ExecError {
            command: words.join(" ".as_ref()).to_string_lossy().into_owned(),
            source,
        })?;
        tracing::info!(pid = child.id(), "The command of -exec runs");
        Ok(Self { child })
    }

    /// Waits for its end by itself. Can be dropped and called again.
    pub async fn ended(&mut self) -> u8 {
        match self.child.wait().await {
            Ok(status) => {
                tracing::info!(%status, "The command of -exec has ended");
                exit_code(status)
            }
            Err(error) => {
                tracing::error!(%error, "Could not wait for the command of -exec");
                1
            }
        }
    }

    /// Hands a signal on to it.
    pub fn forward(&self, signal: Signal) {
        let pid = self.child.id().and_then(|id| i32::try_from(id).ok());
        // Without an id it has ended, and was waited for.
        let Some(pid) = pid.and_then(Pid::from_raw) else {
            return;
        };
        if let Err(error) = kill_process(pid, signal) {
            tracing::warn!(%error, signal = signals::name(signal), "Could not hand a signal on to the command of -exec");
        }
    }

    /// Waits for the end that it was asked for; past the limit it is killed, which SQLite's databases survive.
    pub async fn stop(&mut self) -> u8 {
        if let Ok(code) = tokio::time::timeout(STOP_LIMIT, self.ended()).await {
            return code;
        }
        tracing::warn!(
            seconds = STOP_LIMIT.as_secs(),
            "The command of -exec does not end; it is killed"
        );
        self.forward(Signal::KILL);
        self.ended().await
    }
}

fn command_of(words: &[OsString]) -> Command {
    match words {
        [line] if line.as_bytes().contains(&b' ') => {
            let mut command = Command::new("/bin/sh");
            command.arg("-c").arg(line);
            command
        }
        [program, arguments @ ..] => {
            let mut command = Command::new(program);
            command.args(arguments);
            command
        }
        [] => unreachable!("BUG: -exec takes at least one word"),
    }
}

/// As a shell shows it: 128 and the signal's number where it died of one.
fn exit_code(status: ExitStatus) -> u8 {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    async fn code_of(command: &[&str]) -> u8 {
        let mut exec = Exec::start(&words(command)).expect("it starts");
        exec.ended().await
    }

    #[tokio::test]
    async fn its_exit_code_is_that_of_a_shell() {
        assert_eq!(code_of(&["true"]).await, 0);
        assert_eq!(code_of(&["sh", "-c", "exit 7"]).await, 7);
        assert_eq!(
            code_of(&["exit 9"]).await,
            9,
            "one word with blanks is a line"
        );
        assert_eq!(code_of(&["kill -TERM $$"]).await, 128 + 15);
    }

    #[tokio::test]
    async fn it_is_told_of_a_signal() {
        let mut exec = Exec::start(&words(&["sleep", "300"])).expect("it starts");
        exec.forward(Signal::TERM);
        assert_eq!(exec.stop().await, 128 + 15);
        exec.forward(Signal::TERM);
    }

    #[tokio::test]
    async fn what_is_no_program_is_named() {
        let error = Exec::start(&words(&["/nowhere/app", "-x"])).err();
        let error = error.expect("refused").to_string();
        assert!(error.starts_with("-exec /nowhere/app -x: "), "{error}");
    }
}
