//! `restore`: one database as it was, into a new file.

use super::args::RestoreArgs;
use super::progress::Bar;
use super::replicas::Chosen;
use super::{Failure, client, one_line, print, restore_all};
use crate::clock::rfc3339;
use crate::restore::{Asked, At, Basis, Placing, Restored, Target, plan_restore, restore_as};

pub(super) async fn run(args: RestoreArgs) -> Result<(), Failure> {
    if let Some(dir) = &args.all {
        return restore_all::run(&args, dir).await;
    }
    if let Some(output) = &args.output
        && args.if_missing
        && output.symlink_metadata().is_ok()
    {
        return print(&format!("{} exists; nothing to do\n", output.display()));
    }
    match restore_one(&args).await {
        Err(Failure::NoReplica(reason)) if args.if_replica_exists => {
            print(&format!("{}; nothing to do\n", one_line(&reason)))
        }
        other => other,
    }
}

async fn restore_one(args: &RestoreArgs) -> Result<(), Failure> {
    let replicas = args.store.open().await?;
    let text = args.client.as_deref().expect("BUG: clap requires CLIENT");
    let Chosen {
        store,
        s3_prefix: prefix,
        name,
    } = client::resolve(&replicas, text).await?;
    let target = target_of(args);
    if args.dry_run {
        let plan = plan_restore(&store, &prefix, &target).await?;
        return print(&format!("{}\n", plan.to_string().trim_end()));
    }
    let output = args.output.as_ref().expect("BUG: clap requires -o");
    let bar = Bar::of_bytes();
    let progress = |progress| bar.update(progress);
    let placing = placing_of(args);
    let restored = restore_as(&store, &prefix, &target, output, placing, &progress).await;
    drop(bar);
    print(&summary(&name, &output.display().to_string(), &restored?))
}

/// How the files are put to their places.
pub(super) fn placing_of(args: &RestoreArgs) -> Placing {
    Placing {
        force: args.force,
        asked: Asked {
            uid: args.owner.map(|owner| owner.uid),
            gid: args.owner.and_then(|owner| owner.gid),
            mode: args.mode,
        },
    }
}

/// Which moment is asked for.
pub(super) fn target_of(args: &RestoreArgs) -> Target {
    Target {
        generation: args.generation,
        at: match (args.timestamp, args.txid) {
            (Some(time), _) => At::Time(time),
            (None, Some(txid)) => At::Txid(txid),
            (None, None) => At::Newest,
        },
    }
}

pub(super) fn summary(client: &str, output: &str, restored: &Restored) -> String {
    let basis = restored.basis.map(said_of).unwrap_or_default();
    format!(
        "restored {client} to {output}: transaction {} of generation {}, as of {}; {} pages of {} bytes, checksum {:016x}, from {} objects with {} bytes{basis}\n",
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

/// What the newest state relies on.
fn said_of(basis: Basis) -> String {
    let mut said = format!(
        "; the newest of the {} objects that the store lists, and none comes next",
        basis.listed
    );
    if let Some(later) = basis.begun_later {
        said.push_str(&format!(
            "; generation {later} was begun later and holds nothing yet"
        ));
    }
    said
}
