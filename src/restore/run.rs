//! Carries out a plan: fetches its objects and puts them together in a file.

use std::fs::File;
use std::path::Path;

use futures_util::StreamExt;
use tokio::sync::mpsc;

use super::RestoreError;
use super::rebuild::{Reached, Rebuild, Role};
use super::replica::Replica;
use crate::format::plan::{PlannedObject, RestorePlan, total};

/// An object to read, and what it is to the database.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Step {
    pub role: Role,
    pub object: PlannedObject,
}

/// How far a restore has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    pub objects_done: usize,
    pub objects: usize,
    pub bytes_done: u64,
    pub bytes: u64,
}

/// The steps of a plan.
pub(super) fn steps_of(plan: &RestorePlan) -> Vec<Step> {
    let base = Step {
        role: Role::Base,
        object: plan.snapshot,
    };
    let segments = plan.segments.iter().map(|&object| Step {
        role: Role::Segment,
        object,
    });
    std::iter::once(base).chain(segments).collect()
}

/// Brings `file`, which is empty and is shown as `path`, to the state at the end of `steps`, verified and durable.
/// The directory `scratch` takes scratch files.
pub(super) async fn run(
    replica: &Replica,
    steps: &[Step],
    file: File,
    path: &Path,
    scratch: &Path,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<Reached, RestoreError> {
    let objects: Vec<PlannedObject> = steps.iter().map(|step| step.object).collect();
    let (fetched, mut waiting) = mpsc::channel(1);
    let fetch = async move {
        let mut objects = std::pin::pin!(replica.fetch_all(&objects, scratch));
        while let Some(object) = objects.next().await {
            // Nobody waits any more only after an error, which ends this as well.
            if fetched.send(object?).await.is_err() {
                break;
            }
        }
        Ok(())
    };
    let apply = async {
        let mut rebuild = Rebuild::new(file, path.to_owned());
        let mut done = Progress {
            objects_done: 0,
            objects: steps.len(),
            bytes_done: 0,
            bytes: total(steps.iter().map(|step| step.object.size)),
        };
        for &Step { role, object } in steps {
            let Some((_, content)) = waiting.recv().await else {
                break;
            };
            let key = object.key.below(&replica.prefix);
            rebuild = blocking(move || {
                rebuild.apply(role, key, content)?;
                Ok(rebuild)
            })
            .await?;
            done.objects_done += 1;
            done.bytes_done += object.size;
            progress(done);
        }
        blocking(move || rebuild.finish()).await
    };
    // Polled together, so that objects arrive while others are applied; the first error ends both.
    let (reached, ()) = tokio::try_join!(apply, fetch)?;
    Ok(reached.expect("BUG: a plan begins with a snapshot"))
}

/// Runs `work` on a thread that may block.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RestoreError> + Send + 'static,
) -> Result<T, RestoreError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(gone) => match gone.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(cancelled) => panic!("BUG: the runtime ended under a restore: {cancelled}"),
        },
    }
}
