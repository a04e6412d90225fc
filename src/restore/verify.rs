//! Proves a replica: every object of its newest generation, and SQLite's own check of what they make.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use super::RestoreError;
use super::check::{Checked, check};
use super::checker::{DATABASE, Told};
use super::rebuild::Role;
use super::replica::Replica;
use super::run::{Step, run};
use crate::format::keys::{GenerationId, ObjectKey};
use crate::format::sqlite::{HEADER_SIZE, MAGIC, READ_VERSION, WAL2};
use crate::format::structure::{Check, Flaw, Structure, is_noise};
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
    /// It is encrypted, as SQLCipher does it: only the checksums were compared.
    Encrypted,
}

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
    let replica = Replica::load(store, replica_prefix, None).await?;
    let generation = replica
        .index
        .newest()
        .expect("BUG: a replica has a generation");
    let steps = steps(&replica, generation)?;

    let directory = tempfile::tempdir_in(scratch)
        .map_err(RestoreError::local("make a directory in it", scratch))?;
    let path = directory.path().join(DATABASE);
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .map_err(RestoreError::local("create it", &path))?;
    let reached = run(&replica, &steps, file, &path, directory.path(), &|_| {}).await?;

    // Whoever gives this up ends the check with it.
    let (cancelled, _cancel) = io::pipe().map_err(RestoreError::local(
        "make a pipe for the check of it",
        &path,
    ))?;
    let prefix = replica_prefix.to_owned();
    let page_size = reached.page_size;
    let integrity = super::run::blocking(move || {
        let checked = check(directory.path(), cancelled);
        let checked = checked.map_err(RestoreError::local("have it checked", &path))?;
        judge(&prefix, checked, &path, page_size)
    });
    let integrity = integrity.await?;
    Ok(Verified {
        generation,
        txid: reached.txid,
        integrity,
    })
}

/// All segments from the first snapshot on, each later snapshot after the segment that it is the end of.
fn steps(replica: &Replica, id: GenerationId) -> Result<Vec<Step>, RestoreError> {
    let generation = replica.generation(id)?;
    let newest = generation.newest().unwrap_or(0);
    // Whether anything shows that there was more.
    replica.plan_newest(id)?;
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

/// What neither SQLite can read nor is encrypted is damaged.
fn judge(
    prefix: &str,
    checked: Checked,
    path: &Path,
    page_size: u32,
) -> Result<Integrity, RestoreError> {
    let (finding, failed) = match checked {
        Checked::Told(Told::Sound) => return Ok(Integrity::Ok),
        Checked::Told(Told::Finding(finding)) => (finding, None),
        Checked::Told(Told::Corrupt(error)) if !is_wal2(path) => (error, None),
        Checked::Told(Told::Corrupt(error) | Told::Failed(error)) => (error.clone(), Some(error)),
        Checked::Nothing(reason) => {
            return Err(RestoreError::Unchecked {
                prefix: prefix.to_owned(),
                reason,
            });
        }
    };
    let pages = read_pages(path, page_size).map_err(RestoreError::local("read it", path))?;
    let damaged = |finding| {
        Err(RestoreError::Inconsistent {
            prefix: prefix.to_owned(),
            finding,
        })
    };
    match (pages.structure, failed) {
        (Ok(Structure::Encrypted), _) if pages.first_is_noise => Ok(Integrity::Encrypted),
        (Ok(Structure::Sound), Some(reason)) => Err(RestoreError::Unchecked {
            prefix: prefix.to_owned(),
            reason,
        }),
        (Ok(_), _) => damaged(finding),
        (Err(flaw), _) => damaged(format!("{finding}; {flaw}")),
    }
}

/// What the pages of a file say without SQLite.
struct Pages {
    structure: Result<Structure, Flaw>,
    /// Whether the first page, but for the header that it may have, looks as a cipher leaves it.
    first_is_noise: bool,
}

fn read_pages(path: &Path, page_size: u32) -> io::Result<Pages> {
    let mut file = File::open(path)?;
    let pages = file.metadata()?.len() / u64::from(page_size);
    let pages = u32::try_from(pages).expect("BUG: a database has more pages than numbers");
    let mut check = Check::new(page_size, pages);
    let mut first_is_noise = false;
    let mut page = vec![0; page_size as usize];
    for number in 1..=pages {
        file.read_exact(&mut page)?;
        if number == 1 {
            first_is_noise = is_noise(&page[HEADER_SIZE..]);
        }
        check.page(number, &page);
    }
    Ok(Pages {
        structure: check.finish(),
        first_is_noise,
    })
}

/// Whether the file says that its log is of a format which only a branch of SQLite reads; one that can't be read is none.
fn is_wal2(path: &Path) -> bool {
    let mut header = [0; HEADER_SIZE];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut header));
    read.is_ok() && header.starts_with(MAGIC) && header[READ_VERSION] == WAL2
}
