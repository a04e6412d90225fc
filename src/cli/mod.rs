//! The commands: arguments in, one of four exit codes out.

mod accounts;
mod args;
mod ask;
mod background;
mod check_config;
mod child;
mod client;
mod demo;
mod help;
mod helper;
mod hold;
mod list;
mod log_thread;
mod logging;
mod mount;
mod progress;
mod replicas;
mod restore;
mod restore_all;
mod retain;
mod status;
mod syslog;
mod verify;

use std::future::Future;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use args::{Command, Parsed};
use tokio::runtime::Builder;

use crate::config::ConfigError;
use crate::restore::{CHECK_COMMAND, RestoreError, check_with_own_program, run_check};
use crate::room::{self, Allocator};
use crate::store::StoreError;

const NAME: &str = "litestream-multitenant";
/// What threads still do when a command has its result ends with the process after so long: nobody waits for that.
const LAST_WORK: Duration = Duration::from_secs(2);

/// Why a command failed; the text is one line. The exit code is decided here and nowhere else.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// A flag, the configuration, a directory: exit code 2.
    #[error("{0}")]
    Usage(String),
    /// `verify` found damage: exit code 3.
    #[error("{0}")]
    Damage(String),
    #[error(transparent)]
    Daemon(#[from] crate::daemon::Error),
    /// The store has nothing of a client: exit code 1, where that is no part of the plan.
    #[error("{0}")]
    NoReplica(String),
    /// Everything else: exit code 1.
    #[error("{0}")]
    Other(String),
}

impl Failure {
    fn exit_code(&self) -> u8 {
        match self {
            Failure::Usage(_) => 2,
            Failure::Damage(_) => 3,
            Failure::Daemon(error) => error.exit_code(),
            Failure::NoReplica(_) | Failure::Other(_) => 1,
        }
    }

    /// What standard error says of it, with its end.
    fn line(&self) -> String {
        format!("{NAME}: {}\n", one_line(&self.to_string()))
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Failure::Usage(error.to_string())
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Failure::Other(error.to_string())
    }
}

impl From<RestoreError> for Failure {
    fn from(error: RestoreError) -> Self {
        match error {
            RestoreError::UnknownReplica { .. } => Failure::NoReplica(error.to_string()),
            _ => Failure::Other(error.to_string()),
        }
    }
}

/// Runs the command that the process was started with. `allocator`: what the binary has in its place.
pub fn main(allocator: Allocator) -> ExitCode {
    let mut words = std::env::args_os().skip(1);
    if words.next().is_some_and(|word| word == CHECK_COMMAND) {
        let seconds = words.next().and_then(|word| word.to_str()?.parse().ok());
        return ExitCode::from(run_check(seconds));
    }
    room::set_allocator(allocator);
    check_with_own_program();
    let outcome = match args::parse(std::env::args_os()) {
        Ok(Parsed::Run(command)) => run(*command),
        Ok(Parsed::Helper(args)) => helper::run(args),
        Ok(Parsed::Print(text)) => print(&text).map(|()| ExitCode::SUCCESS),
        Err(failure) => Err(failure),
    };
    match outcome {
        Ok(code) => code,
        Err(failure) => {
            eprint!("{}", failure.line());
            ExitCode::from(failure.exit_code())
        }
    }
}

fn run(command: Command) -> Result<ExitCode, Failure> {
    let done = match command {
        Command::Mount(args) => return mount::run(args),
        Command::Restore(args) => block_on(restore::run(args)),
        Command::List(args) => block_on(list::run(args)),
        Command::Verify(args) => block_on(verify::run(args)),
        Command::Retain(args) => block_on(retain::run(args)),
        Command::CheckConfig(args) => check_config::run(args),
        Command::Status(args) => status::run(args),
        Command::Purge(args) => block_on(hold::purge(args)),
        Command::Hold(args) => block_on(hold::hold(args)),
        Command::Demo => demo::run(),
        Command::Completions { shell } => help::completions(shell),
        Command::Man => help::manual(),
        Command::Other(words) => Err(args::unknown_command(&words)),
    };
    done.map(|()| ExitCode::SUCCESS)
}

fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    block_on_with(&mut Builder::new_multi_thread(), work)
}

/// The same of an instance, whose applications want processors too. With a thread for each of two, these would wake each other
/// for every few tasks.
fn block_on_instance<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let mut builder = Builder::new_multi_thread();
    block_on_with(builder.worker_threads((processors / 2).max(1)), work)
}

fn block_on_with<T>(
    runtime: &mut Builder,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let runtime = runtime
        .enable_all()
        .on_thread_start(room::keep_freed)
        .build()
        .map_err(|error| Failure::Other(format!("start the runtime's threads: {error}")))?;
    let outcome = runtime.block_on(work);
    runtime.shutdown_timeout(LAST_WORK);
    outcome
}

/// Writes a result to standard output; unlike `println!` it survives a reader that went away.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|error| Failure::Other(format!("write to standard output: {error}")))
}

fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string(value).expect("BUG: a result that is no JSON");
    print(&format!("{text}\n"))
}

/// The text on one line, and without what a terminal would obey.
fn one_line(text: &str) -> String {
    let words: Vec<_> = text.split_whitespace().collect();
    let escaped = |c: char| match c.is_control() {
        true => c.escape_default().to_string(),
        false => c.to_string(),
    };
    words.join(" ").chars().map(escaped).collect()
}

/// Aligns rows of cells under their titles, two blanks between columns.
fn table(titles: &[&str], rows: &[Vec<String>]) -> String {
    let titles: Vec<String> = titles.iter().map(|title| (*title).to_owned()).collect();
    let lines = || std::iter::once(&titles).chain(rows);
    let widths: Vec<usize> = (0..titles.len())
        .map(|column| {
            lines()
                .map(|row| row[column].chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for row in lines() {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:<width$}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_aligned() {
        let rows = vec![
            vec!["a".to_owned(), "1".to_owned()],
            vec!["long name".to_owned(), String::new()],
        ];
        assert_eq!(
            table(&["CLIENT", "TXID"], &rows),
            "CLIENT     TXID\na          1\nlong name\n"
        );
    }

    #[test]
    fn exit_codes() {
        assert_eq!(Failure::Usage(String::new()).exit_code(), 2);
        assert_eq!(Failure::Damage(String::new()).exit_code(), 3);
        assert_eq!(Failure::Other(String::new()).exit_code(), 1);
        assert_eq!(Failure::from(ConfigError::NoStore).exit_code(), 2);
    }
}
