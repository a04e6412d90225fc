//! `restore --all`: every client that is not removed, each below one directory as it lay below its watch path.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use futures_util::{StreamExt, stream};

use super::args::RestoreArgs;
use super::progress::Bar;
use super::replicas::{Chosen, left_out};
use super::restore::{placing_of, summary, target_of};
use super::{Failure, NAME, one_line, print};
use crate::format::description::Attributes;
use crate::restore::{ListedClient, Placing, Target, place_of, plan_restore, restore_as};

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
        placing: placing_of(args),
        taken: Mutex::default(),
    };
    let bar = Bar::of_clients(present.len());
    let mut outcomes = stream::iter(&present)
        .map(|(listed, chosen)| async { (&chosen.name, work.restore(listed, chosen).await) })
        .buffer_unordered(AT_ONCE);
    let (mut restored, mut skipped, mut failed) = (0, 0, 0);
    while let Some((name, outcome)) = outcomes.next().await {
        bar.one_more();
        match outcome {
            Ok(done) => {
                let (count, line) = match done {
                    Done::Restored(line) => (&mut restored, line),
                    Done::Skipped(line) => (&mut skipped, line),
                };
                *count += 1;
                bar.suspend(|| print(&format!("{}\n", one_line(&line))))?;
            }
            Err(failure) => {
                failed += 1;
                let text = one_line(&failure.to_string());
                bar.suspend(|| eprintln!("{NAME}: {name}: {text}"));
            }
        }
    }
    drop(bar);
    let verb = if args.dry_run {
        "to be restored"
    } else {
        "restored"
    };
    print(&format!(
        "databases: {restored} {verb}, {skipped} skipped, {failed} failed\n"
    ))?;
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

/// What came of one client, and what is to be said of it.
enum Done {
    Restored(String),
    /// Its file is there already.
    Skipped(String),
}

/// What the restores of one run share.
struct Work<'a> {
    args: &'a RestoreArgs,
    dir: &'a Path,
    target: Target,
    placing: Placing,
    /// Paths that a client of this run has.
    taken: Mutex<HashSet<PathBuf>>,
}

impl Work<'_> {
    async fn restore(&self, listed: &ListedClient, chosen: &Chosen) -> Result<Done, Failure> {
        let (store, s3_prefix) = (&chosen.store, &chosen.s3_prefix);
        let generation = plan_restore(store, s3_prefix, &self.target)
            .await?
            .plan
            .generation;
        let place = place_of(store, listed, generation).await?;
        let top = self.dir.join(&listed.prefix);
        let output = top.join(&place.path);
        let shown = output.display().to_string();
        if !self.take(&output) {
            return Err(Failure::Other(format!(
                "{shown}: another client lay there too; restore this one by its name with -o"
            )));
        }
        if self.args.if_missing && output.symlink_metadata().is_ok() {
            return Ok(Done::Skipped(format!("{shown} exists; nothing to do")));
        }
        if self.args.dry_run {
            let line = format!("{} would be restored to {shown}", chosen.name);
            return Ok(Done::Restored(line));
        }
        self.make_directories(&top, &place.path, &place.directories)?;
        let target = Target {
            generation: Some(generation),
            ..self.target
        };
        let restored = restore_as(store, s3_prefix, &target, &output, self.placing, &|_| {}).await;
        Ok(Done::Restored(summary(&chosen.name, &shown, &restored?)))
    }

    /// Makes the directories above `path`, which is below `top`, and `top` itself, where they are not there yet.
    fn make_directories(
        &self,
        top: &Path,
        path: &Path,
        described: &[Attributes],
    ) -> Result<(), Failure> {
        let parent = path.parent().unwrap_or(Path::new(""));
        let mut described = described.iter().copied().map(Some);
        if described.len() != parent.components().count() {
            described = [].iter().copied().map(Some);
        }
        let above: Vec<_> = top.ancestors().collect();
        let above = above.into_iter().rev().map(|path| (path.to_owned(), None));
        let mut last = top.to_owned();
        let below = parent.components().map(|name| {
            last.push(name);
            (last.clone(), described.next().flatten())
        });
        for (directory, described) in above.chain(below) {
            if directory.as_os_str().is_empty() || directory.is_dir() {
                continue;
            }
            match self.placing.asked.make_directory(&directory, described) {
                // Of another client.
                Err(error)
                    if error.kind() == io::ErrorKind::AlreadyExists && directory.is_dir() => {}
                Err(error) => {
                    let place = directory.display();
                    return Err(Failure::Other(format!("{place}: make it: {error}")));
                }
                Ok(()) => {}
            }
        }
        Ok(())
    }

    /// False where another client of this run has the path.
    fn take(&self, path: &Path) -> bool {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.insert(path.to_owned())
    }
}
