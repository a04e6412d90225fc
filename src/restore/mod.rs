//! Restores: a plan carried out into a new file, verified page by page; and what can be restored.

mod check;
mod checker;
mod describe;
mod destination;
mod error;
mod fetch;
mod holds;
mod list;
mod locate;
mod output;
mod owner;
mod rebuild;
mod replica;
mod run;
mod verify;

use std::fmt;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

pub use check::check_with_own_program;
pub use checker::{COMMAND as CHECK_COMMAND, run as run_check};
pub use describe::{Place, describe, is_of, parse as parse_description, place_of};
pub use destination::{Destination, Top};
pub use error::RestoreError;
pub use holds::is_held;
pub use list::{
    Expected, ListedClient, ListedGeneration, Listing, Removed, begun_since, list_clients,
    list_moments, newest_moment_before, placed_clients,
};
pub use locate::{At, Target};
pub use owner::Asked;
pub use replica::Moment;
pub use run::Progress;
pub use verify::{Integrity, Verified, verify_replica};

use self::output::Output;
use self::owner::described;
use self::rebuild::Reached;
use self::replica::Replica;
use self::run::{blocking, run, steps_of};
use crate::clock::UnixMs;
use crate::format::keys::GenerationId;
use crate::format::plan::RestorePlan;
use crate::store::ObjectStore;

/// A database that was restored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Restored {
    pub generation: GenerationId,
    /// The newest transaction in it.
    pub txid: u64,
    pub time_ms: UnixMs,
    pub pages: u32,
    /// Bytes of a page.
    pub page_size: u32,
    /// Of the whole database, as its last object has it.
    pub checksum: u64,
    /// How many objects were read, and their bytes.
    pub objects: usize,
    pub bytes: u64,
    /// What says that it is the newest; none where another moment was asked for.
    pub basis: Option<Basis>,
}

/// What a restore of the newest state relied on, beside the objects that it read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Basis {
    /// How many objects were listed. Nothing that would come after them was there.
    pub listed: usize,
    /// A generation that was begun later, and has no history.
    pub begun_later: Option<GenerationId>,
}

/// What a restore would read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Planned {
    pub replica_prefix: String,
    pub plan: RestorePlan,
}

impl fmt::Display for Planned {
    /// A line for each object, its size in bytes and its whole key, then one for the sum.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for object in self.plan.objects() {
            writeln!(
                f,
                "{:>12} {}",
                object.size,
                object.key.below(&self.replica_prefix)
            )?;
        }
        let objects = self.plan.segments.len() + 1;
        write!(f, "{:>12} bytes in {objects} objects", self.plan.bytes())
    }
}

/// How a database is put to its place.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Placing {
    /// Replace an existing file.
    pub force: bool,
    pub asked: Asked,
}

/// Restores the state that `target` means to `output`, with owner and mode of the source's file as far as the process
/// may give them; see `restore_as`.
///
/// # Errors
/// Those of `restore_as`.
pub async fn restore_to_file(
    store: &Arc<dyn ObjectStore>,
    replica_prefix: &str,
    target: &Target,
    output: &Path,
    force: bool,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<Restored, RestoreError> {
    let placing = Placing {
        force,
        asked: Asked::default(),
    };
    restore_as(store, replica_prefix, target, output, placing, progress).await
}

/// Restores the state that `target` means to `output`, which exists afterwards as a whole or not at all.
///
/// With `force` an existing file is replaced and what SQLite kept beside it removed, unless somebody has it open.
/// `progress` is called after each object.
///
/// # Errors
/// `OutputExists` and `OutputOpen` before anything is fetched; `is_unknown()` where there is no such state;
/// `is_damage()`, with the object's key, where the replica does not lead to it.
pub async fn restore_as(
    store: &Arc<dyn ObjectStore>,
    replica_prefix: &str,
    target: &Target,
    output: &Path,
    placing: Placing,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<Restored, RestoreError> {
    let path = output.to_owned();
    let destination = blocking(move || Destination::at(&path)).await?;
    restore_into(
        store,
        replica_prefix,
        target,
        destination,
        placing,
        progress,
    )
    .await
}

/// The same into a directory that is held open.
///
/// # Errors
/// Those of `restore_as`.
pub async fn restore_into(
    store: &Arc<dyn ObjectStore>,
    replica_prefix: &str,
    target: &Target,
    destination: Destination,
    placing: Placing,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<Restored, RestoreError> {
    let Placing { force, asked } = placing;
    let destination = blocking(move || {
        Output::check(&destination, force)?;
        Ok(destination)
    })
    .await?;
    let replica = Replica::load(store, replica_prefix, target.generation).await?;
    let plan = replica.locate(target).await?;
    let steps = steps_of(&plan);
    let wanted = asked.of_file(described(&replica, plan.generation).await?);

    let (output, file) = Output::create(destination, force, wanted)?;
    let (shown, scratch) = (output.temporary(), output.scratch());
    let reached = run(&replica, &steps, file, &shown, &scratch, progress).await?;
    blocking(move || output.publish()).await?;
    Ok(restored(&replica, target, &plan, reached))
}

/// Restores the state that `target` means to a file without a name, on the file system of the directory `scratch`.
/// It is gone once it is closed, whatever becomes of the process.
///
/// # Errors
/// As `restore_to_file`, for what is in the store.
pub async fn restore_unnamed(
    store: &Arc<dyn ObjectStore>,
    replica_prefix: &str,
    target: &Target,
    scratch: &Path,
) -> Result<(Restored, File), RestoreError> {
    let replica = Replica::load(store, replica_prefix, target.generation).await?;
    let plan = replica.locate(target).await?;
    let (file, unnamed) = tempfile::tempfile_in(scratch)
        .and_then(|file| Ok((file.try_clone()?, file)))
        .map_err(RestoreError::local("make a file in it", scratch))?;
    // A name for errors.
    let path = scratch.join("restored");
    let steps = steps_of(&plan);
    let reached = run(&replica, &steps, file, &path, scratch, &|_| {}).await?;
    Ok((restored(&replica, target, &plan, reached), unnamed))
}

fn restored(replica: &Replica, target: &Target, plan: &RestorePlan, reached: Reached) -> Restored {
    let basis = (target.at == At::Newest).then(|| Basis {
        listed: replica.index.objects(),
        begun_later: replica.index.begun_later(),
    });
    Restored {
        generation: plan.generation,
        txid: reached.txid,
        time_ms: reached.time_ms,
        pages: reached.commit,
        page_size: reached.page_size,
        checksum: reached.checksum,
        objects: plan.segments.len() + 1,
        bytes: plan.bytes(),
        basis,
    }
}

/// What `restore_to_file` would read for this target.
///
/// # Errors
/// Those of a restore that show before its objects are read.
pub async fn plan_restore(
    store: &Arc<dyn ObjectStore>,
    replica_prefix: &str,
    target: &Target,
) -> Result<Planned, RestoreError> {
    let replica = Replica::load(store, replica_prefix, target.generation).await?;
    Ok(Planned {
        replica_prefix: replica_prefix.to_owned(),
        plan: replica.locate(target).await?,
    })
}
