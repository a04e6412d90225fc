//! `restore --all`: every client that is not removed, each below one directory as it lay below its watch path.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use futures_util::{StreamExt, stream};

use super::args::RestoreArgs;
use super::progress::Bar;
use super::replicas::{Chosen, left_out};
use super::restore::{summary, target_of};
use super::{Failure, NAME, one_line, print};
use crate::restore::{ListedClient, Target, path_below_watch_path, plan_restore, restore_to_file};

/// Restores in flight. Each may hold an object of the largest size in a scratch file.
const AT_ONCE: usize = 8;

pub(super) async fn run(args: &RestoreArgs, dir: &Path) -> Result<(), Failure> {
    let replicas = args.store.open().await?;
    let listing = replicas.list().await?;
    let present = listing
        .clients
        .iter()
        .filter(|listed| listed.removed.is_none());
    let present: Vec<_> = present
        .filter_map(|listed| Some((listed, replicas.chosen(listed)?)))
        .collect();
    let work = Work {
        args,
        dir,
        target: target_of(args),
        taken: Mutex::default(),
    };
    let bar = Bar::of_clients(present.len());
    let mut outcomes = stream::iter(&present)
        .map(|(listed, chosen)| async { (&chosen.name, work.restore(listed, chosen).await) })
        .buffer_unordered(AT_ONCE);
    let mut failed = 0;
    while let Some((name, outcome)) = outcomes.next().await {
        bar.one_more();
        match outcome {
            Ok(line) => bar.suspend(|| print(&line))?,
            Err(failure) => {
                failed += 1;
                let text = one_line(&failure.to_string());
                bar.suspend(|| eprintln!("{NAME}: {name}: {text}"));
            }
        }
    }
    drop(bar);
    let left = left_out(&listing);
    if failed > 0 {
        if let Err(left) = left {
            eprintln!("{NAME}: {}", one_line(&left.to_string()));
        }
        return Err(Failure::Other(format!(
            "{failed} of {} clients were not restored; see the line of each",
            present.len()
        )));
    }
    left
}

/// What the restores of one run share.
struct Work<'a> {
    args: &'a RestoreArgs,
    dir: &'a Path,
    target: Target,
    /// Paths that a client of this run has.
    taken: Mutex<HashSet<PathBuf>>,
}

impl Work<'_> {
    /// What is to be said of it.
    async fn restore(&self, listed: &ListedClient, chosen: &Chosen) -> Result<String, Failure> {
        let (store, s3_prefix) = (&chosen.store, &chosen.s3_prefix);
        let generation = plan_restore(store, s3_prefix, &self.target)
            .await?
            .plan
            .generation;
        let path = path_below_watch_path(store, listed, generation).await?;
        let output = self.dir.join(&listed.prefix).join(path);
        let shown = output.display().to_string();
        if !self.take(&output) {
            return Err(Failure::Other(format!(
                "{shown}: another client lay there too; restore this one by its name with -o"
            )));
        }
        if self.args.if_missing && output.symlink_metadata().is_ok() {
            return Ok(format!("{} exists; nothing to do\n", output.display()));
        }
        if self.args.dry_run {
            return Ok(format!("{} would be restored to {shown}\n", chosen.name));
        }
        let parent = output.parent().unwrap_or(self.dir);
        std::fs::create_dir_all(parent)
            .map_err(|error| Failure::Other(format!("{}: make it: {error}", parent.display())))?;
        let target = Target {
            generation: Some(generation),
            ..self.target
        };
        let force = self.args.force;
        let restored = restore_to_file(store, s3_prefix, &target, &output, force, &|_| {}).await;
        Ok(summary(&chosen.name, &shown, &restored?))
    }

    /// False where another client of this run has the path.
    fn take(&self, path: &Path) -> bool {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.insert(path.to_owned())
    }
}
