//! `restore --all`: every client that is not removed, each below one directory as it lay below its watch path.

use std::path::Path;

use futures_util::{StreamExt, stream};
use tokio::sync::OnceCell;

use super::args::RestoreArgs;
use super::progress::Bar;
use super::replicas::{Chosen, Replicas, left_out};
use super::restore::{placing_of, summary, target_of};
use super::{Failure, NAME, one_line, print};
use crate::format::keys::GenerationId;
use crate::restore::{
    Destination, ListedClient, Listing, Place, Placing, Target, Top, place_of, plan_restore,
    restore_into,
};
use crate::tenant::claims::{Claimant, Neighbours, decide};

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
        top: OnceCell::new(),
    };
    let wanted: Vec<_> = stream::iter(&present)
        .map(|(listed, chosen)| work.look(listed, chosen))
        .buffered(AT_ONCE)
        .collect()
        .await;
    let wanted = keep_rightful(&replicas, &listing, &present, wanted);
    let bar = Bar::of_clients(present.len());
    let mut outcomes = stream::iter(present.iter().zip(wanted))
        .map(|((listed, chosen), wanted)| async {
            let outcome = match wanted {
                Ok(wanted) => work.restore(listed, chosen, wanted).await,
                Err(failure) => Err(failure),
            };
            (&chosen.name, outcome)
        })
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

/// What of a client is to be restored, and where the store says that it belongs.
struct Wanted {
    generation: GenerationId,
    place: Place,
}

/// Keeps of what was found only those clients to which the rules give their places.
fn keep_rightful(
    replicas: &Replicas,
    listing: &Listing,
    present: &[(&ListedClient, Chosen)],
    wanted: Vec<Result<Wanted, Failure>>,
) -> Vec<Result<Wanted, Failure>> {
    let found = present.iter().zip(&wanted);
    let claimants: Vec<Claimant> = found
        .filter_map(|((listed, _), wanted)| {
            Some(Claimant {
                prefix: listed.prefix.clone(),
                label: listed.client.clone(),
                path: wanted.as_ref().ok()?.place.path.clone(),
                is_at_home: replicas.is_at_home(listed),
            })
        })
        .collect();
    let listed = listing.clients.iter();
    let elsewhere = listing.elsewhere.iter().flat_map(|name| name.split('/'));
    let neighbours = Neighbours {
        tenants: listed
            .clone()
            .map(ListedClient::tenant)
            .chain(elsewhere)
            .collect(),
        prefixes: listed
            .map(|client| client.prefix.as_str())
            .chain(replicas.configured_prefixes())
            .collect(),
    };
    let decided = decide(&claimants, &neighbours, |prefix| replicas.judges(prefix));
    let mut decided = decided.into_iter();
    wanted
        .into_iter()
        .map(|wanted| {
            let wanted = wanted?;
            let decided = decided.next().expect("BUG: a claim without a decision");
            decided.map_err(|baseless| {
                Failure::Other(format!(
                    "{}: {baseless}; restore this one by its name with -o",
                    wanted.place.path.display()
                ))
            })?;
            Ok(wanted)
        })
        .collect()
}

/// What the restores of one run share.
struct Work<'a> {
    args: &'a RestoreArgs,
    dir: &'a Path,
    target: Target,
    placing: Placing,
    /// The directory, once something is to be written below it.
    top: OnceCell<Top>,
}

impl Work<'_> {
    /// Which generation is meant, and where it says that the database belongs.
    async fn look(&self, listed: &ListedClient, chosen: &Chosen) -> Result<Wanted, Failure> {
        let planned = plan_restore(&chosen.store, &chosen.s3_prefix, &self.target).await?;
        let generation = planned.plan.generation;
        let place = place_of(&chosen.store, listed, generation).await?;
        Ok(Wanted { generation, place })
    }

    async fn restore(
        &self,
        listed: &ListedClient,
        chosen: &Chosen,
        wanted: Wanted,
    ) -> Result<Done, Failure> {
        let Wanted { generation, place } = wanted;
        let below = Path::new(&listed.prefix).join(&place.path);
        let output = self.dir.join(&below);
        let shown = output.display().to_string();
        if self.args.if_missing && self.is_there(&below)? {
            return Ok(Done::Skipped(format!("{shown} exists; nothing to do")));
        }
        if self.args.dry_run {
            let line = format!("{} would be restored to {shown}", chosen.name);
            return Ok(Done::Restored(line));
        }
        let destination = self.destination(listed, &below, &place).await?;
        let target = Target {
            generation: Some(generation),
            ..self.target
        };
        let (store, s3_prefix, placing) = (&chosen.store, &chosen.s3_prefix, self.placing);
        let restored = restore_into(store, s3_prefix, &target, destination, placing, &|_| {});
        Ok(Done::Restored(summary(
            &chosen.name,
            &shown,
            &restored.await?,
        )))
    }

    fn is_there(&self, below: &Path) -> Result<bool, Failure> {
        match self.dir.exists() {
            true => Ok(Top::open(self.dir)?.has(below)?),
            false => Ok(false),
        }
    }

    /// The place of a client, with the directories above it made where they are not there yet.
    async fn destination(
        &self,
        listed: &ListedClient,
        below: &Path,
        place: &Place,
    ) -> Result<Destination, Failure> {
        let asked = self.placing.asked;
        let top = self
            .top
            .get_or_try_init(async || Top::make(self.dir, asked));
        let top = top.await?;
        let above = place.path.components().count() - 1;
        let mut described = vec![None; Path::new(&listed.prefix).components().count()];
        if place.directories.len() == above {
            described.extend(place.directories.iter().copied().map(Some));
        }
        Ok(Destination::below(top, below, &described, asked)?)
    }
}
