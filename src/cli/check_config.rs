//! `check-config`: what a configuration means, with every default and without its secrets; or what is wrong with it.

use super::args::CheckConfigArgs;
use super::{Failure, mount, print};

pub(super) fn run(mut args: CheckConfigArgs) -> Result<(), Failure> {
    args.mount.store.config = Some(args.file);
    let (config, notes) = mount::written(&args.mount)?.look_at()?;
    for note in notes {
        eprintln!("{}: warning: {note}", super::NAME);
    }
    print(&config.show())
}
