//! Proves a replica: every object of its newest generation, and SQLite's own check of what they make.

use std::path::Path;
use std::sync::Arc;

use rusqlite::Connection;

use super::RestoreError;
use super::rebuild::Role;
use super::replica::Replica;
use super::run::{Step, run};
use crate::format::keys::{GenerationId, ObjectKey};
use crate::store::ObjectStore;

/// A replica that was found sound.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Verified {
    pub generation: GenerationId,
    /// The newest transaction in it.
    pub txid: u64,
    pub integrity: Integrity,
}

/// What SQLite says of the restored database.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Integrity {
    /// `PRAGMA integrity_check` found nothing.
    Ok,
    /// Its first page is not SQLite's, as in an encrypted database: only the checksums were compared.
    NotReadable,
}

const SQLITE_MAGIC: &[u8] = b"SQLite format 3\0";

/// Reads every object of the newest generation from its first snapshot on, restores its newest state below
/// `scratch` (a directory; nothing is left in it) and has SQLite check that.
///
/// # Errors
/// `is_damage()` says that the replica is damaged; every other error, that it could not be told.
pub async fn verify_replica(
    store: &Arc<dyn ObjectStore>,
    replica_prefix: &str,
    scratch: &Path,
) -> Result<Verified, RestoreError> {
    let replica = Replica::load(store, replica_prefix).await?;
    let generation = replica
        .index
        .newest()
        .expect("BUG: a replica has a generation");
    let steps = steps(&replica, generation)?;

    let directory = tempfile::tempdir_in(scratch)
        .map_err(RestoreError::local("make a directory in it", scratch))?;
    let path = directory.path().join("restored.db");
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .map_err(RestoreError::local("create it", &path))?;
    let reached = run(&replica, &steps, file, &path, &|_| {}).await?;

    let prefix = replica_prefix.to_owned();
    let integrity = super::run::blocking(move || check_integrity(&prefix, &path)).await?;
    Ok(Verified {
        generation,
        txid: reached.txid,
        integrity,
    })
}

/// All segments from the first snapshot on, each later snapshot after the segment that it is the end of.
fn steps(replica: &Replica, id: GenerationId) -> Result<Vec<Step>, RestoreError> {
    let generation = replica.generation(id)?;
    let newest = generation
        .newest()
        .expect("BUG: a generation in the index has objects");
    let mut snapshots = generation.snapshots(id).peekable();
    // Without any snapshot the plan names the one that is missing.
    let Some(first) = snapshots.next() else {
        return Err(replica
            .plan(id, newest)
            .expect_err("BUG: a plan without a snapshot"));
    };
    let mut steps = vec![Step {
        role: Role::Base,
        object: first,
    }];
    let ObjectKey::Snapshot(_, base) = first.key else {
        unreachable!("BUG: a snapshot has a snapshot's key");
    };
    for object in replica.unbroken(id, base, newest)? {
        steps.push(Step {
            role: Role::Segment,
            object,
        });
        let ObjectKey::Segment(_, seq) = object.key else {
            continue;
        };
        if let Some(object) = snapshots.next_if(|next| next.key == ObjectKey::Snapshot(id, seq)) {
            let role = Role::Compare;
            steps.push(Step { role, object });
        }
    }
    Ok(steps)
}

fn check_integrity(prefix: &str, path: &Path) -> Result<Integrity, RestoreError> {
    let start = read_start(path).map_err(RestoreError::local("read it", path))?;
    // An empty file is an empty database.
    if !start.is_empty() && start != SQLITE_MAGIC {
        return Ok(Integrity::NotReadable);
    }
    let checked = Connection::open(path).and_then(|connection| {
        connection.query_row("PRAGMA integrity_check(1)", [], |row| {
            row.get::<_, String>(0)
        })
    });
    match checked {
        Ok(finding) if finding == "ok" => Ok(Integrity::Ok),
        Ok(finding) => Err(RestoreError::Inconsistent {
            prefix: prefix.to_owned(),
            finding,
        }),
        Err(error) if is_corruption(&error) => Err(RestoreError::Inconsistent {
            prefix: prefix.to_owned(),
            finding: error.to_string(),
        }),
        Err(source) => Err(RestoreError::Unchecked {
            prefix: prefix.to_owned(),
            source,
        }),
    }
}

fn read_start(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read;
    let mut start = Vec::new();
    let file = std::fs::File::open(path)?;
    file.take(SQLITE_MAGIC.len() as u64)
        .read_to_end(&mut start)?;
    Ok(start)
}

fn is_corruption(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    matches!(
        error.sqlite_error_code(),
        Some(DatabaseCorrupt | NotADatabase)
    )
}
