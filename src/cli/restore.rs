//! `restore`: one database as it was, into a new file.

use std::io::{IsTerminal, Write};

use super::args::{RestoreArgs, not_yet};
use super::{Failure, client, print};
use crate::clock::rfc3339;
use crate::restore::{At, Progress, Restored, Target, plan_restore, restore_to_file};

pub(super) async fn run(args: RestoreArgs) -> Result<(), Failure> {
    if args.all.is_some() {
        return Err(not_yet("restore --all"));
    }
    if let Some(output) = &args.output
        && args.if_missing
        && output.symlink_metadata().is_ok()
    {
        return print(&format!("{} exists; nothing to do\n", output.display()));
    }
    let store = args.store.open().await?;
    let text = args.client.expect("BUG: clap requires CLIENT");
    let client = client::resolve(&*store, &text).await?;
    let prefix = client.replica_prefix();
    let target = Target {
        generation: args.generation,
        at: match (args.timestamp, args.txid) {
            (Some(time), _) => At::Time(time),
            (None, Some(txid)) => At::Txid(txid),
            (None, None) => At::Newest,
        },
    };
    if args.dry_run {
        let plan = plan_restore(&store, &prefix, &target).await?;
        return print(&format!("{}\n", plan.to_string().trim_end()));
    }
    let output = args.output.expect("BUG: clap requires -o");
    let shown = ProgressLine::new();
    let progress = |progress| shown.update(progress);
    let restored = restore_to_file(&store, &prefix, &target, &output, args.force, &progress).await;
    shown.clear();
    print(&summary(
        &client.to_string(),
        &output.display().to_string(),
        &restored?,
    ))
}

fn summary(client: &str, output: &str, restored: &Restored) -> String {
    format!(
        "restored {client} to {output}: transaction {} of generation {}, as of {}; {} pages of {} bytes, checksum {:016x}, from {} objects with {} bytes\n",
        restored.txid,
        restored.generation,
        rfc3339(restored.time_ms),
        restored.pages,
        restored.page_size,
        restored.checksum,
        restored.objects,
        restored.bytes,
    )
}

/// One line on the terminal that is written over and over; nothing where standard error is no terminal.
struct ProgressLine {
    terminal: bool,
}

impl ProgressLine {
    fn new() -> Self {
        Self {
            terminal: std::io::stderr().is_terminal(),
        }
    }

    fn update(&self, progress: Progress) {
        if self.terminal {
            let Progress {
                objects_done,
                objects,
                bytes_done,
                bytes,
            } = progress;
            self.write(&format!(
                "\r{objects_done} of {objects} objects, {bytes_done} of {bytes} bytes\x1b[K"
            ));
        }
    }

    fn clear(&self) {
        if self.terminal {
            self.write("\r\x1b[K");
        }
    }

    fn write(&self, text: &str) {
        let mut err = std::io::stderr().lock();
        // A terminal that is gone takes the progress with it; the restore goes on.
        let _ = err.write_all(text.as_bytes()).and_then(|()| err.flush());
    }
}
