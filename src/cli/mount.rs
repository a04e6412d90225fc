//! `mount`: flags over the file, then the daemon in the foreground.

use std::process::ExitCode;

use super::args::MountArgs;
use super::{Failure, block_on, logging};
use crate::config::{Config, Written};
use crate::daemon::Beside;

pub(super) fn run(args: MountArgs) -> Result<ExitCode, Failure> {
    let beside = Beside {
        exec: args.exec.clone(),
        ..Beside::default()
    };
    let config = configured(args)?;
    logging::start(config.log_format);
    let code = block_on(async { Ok(crate::daemon::run(config, beside).await?) })?;
    Ok(ExitCode::from(code))
}

fn configured(args: MountArgs) -> Result<Config, Failure> {
    let written = args.store.load()?;
    Ok(over(written, args)?.resolve()?)
}

/// Writes the flags over the file.
fn over(mut written: Written, args: MountArgs) -> Result<Written, Failure> {
    let mut watch_paths = args.watch_path.into_iter();
    written.watch_path = watch_paths.next().or(written.watch_path);
    if watch_paths.next().is_some() {
        return Err(Failure::Usage(
            "more than one `-watch-path` is not supported yet by this version".to_owned(),
        ));
    }
    if let Some(mountpoint) = args.mountpoint {
        written.watch_path.get_or_insert_default().mountpoint = Some(mountpoint);
    }
    written.guid_pattern = args.guid_pattern.or(written.guid_pattern);
    written.listen = args.listen.map(|listen| listen.0);
    written.state_dir = args.state_dir;
    written.log_format = args.log_format;
    written.no_passthrough = args.no_passthrough;
    Ok(written)
}
