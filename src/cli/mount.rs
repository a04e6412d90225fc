//! `mount`: flags over the file, then the daemon in the foreground.

use std::process::ExitCode;

use super::args::MountArgs;
use super::{Failure, block_on_instance, logging};
use crate::config::{ConfigError, Written};
use crate::daemon::{Beside, Reload};

pub(super) fn run(args: MountArgs) -> Result<ExitCode, Failure> {
    let beside = Beside {
        exec: args.exec.clone(),
        ..Beside::default()
    };
    let config = written(&args)?.resolve()?;
    let log = logging::start(config.log_format);
    let reload: Reload = Box::new(move || written(&args)?.resolve());
    let outcome =
        block_on_instance(async { Ok(crate::daemon::run(config, reload, beside).await?) });
    let code = outcome.unwrap_or_else(|failure| {
        // Not written here: whoever reads standard error may have stopped.
        log.write(failure.line().as_bytes());
        failure.exit_code()
    });
    Ok(ExitCode::from(code))
}

/// The file with the flags written over it.
pub(super) fn written(args: &MountArgs) -> Result<Written, ConfigError> {
    let mut written = args.store.load()?;
    if !args.watch_path.is_empty() {
        written.watch_paths = args.watch_path.clone();
    }
    written.mountpoint = args.mountpoint.clone();
    written.guid_pattern = args.guid_pattern.clone().or(written.guid_pattern);
    written.listen = args.listen.as_ref().map(|listen| listen.0.clone());
    written.state_dir = args.state_dir.clone();
    written.log_format = args.log_format;
    written.no_passthrough = args.no_passthrough;
    Ok(written)
}
