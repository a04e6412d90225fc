//! What could not be written into the state when it happened, since its disk was full or failed: registrations and
//! removals. They are tried again until they are written; databases are served all the while.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::Notify;

use super::database::locked;
use super::wishes::RemovedClient;
use super::{Capture, StateError};
use crate::clock::UnixMs;
use crate::tenant::roster::Client;

/// A removal that the state does not know of.
#[derive(Debug)]
struct Removed {
    path: PathBuf,
    removal: Option<(Arc<Client>, UnixMs)>,
    id: Option<i64>,
}

/// What waits to be written, and whoever has to hear of it.
#[derive(Debug, Default)]
pub(super) struct Late {
    registrations: Mutex<HashSet<PathBuf>>,
    removals: Mutex<Vec<Removed>>,
    changed: Notify,
}

impl Late {
    fn registrations(&self) -> MutexGuard<'_, HashSet<PathBuf>> {
        locked(&self.registrations)
    }

    fn removals(&self) -> MutexGuard<'_, Vec<Removed>> {
        locked(&self.removals)
    }
}

impl Capture {
    /// The database at `path` has no number yet.
    pub(super) fn register_late(&self, path: &Path) {
        self.late.registrations().insert(path.to_owned());
        self.late.changed.notify_one();
    }

    /// A removal is to be noted later.
    pub(super) fn note_removed_late(
        &self,
        removed: &RemovedClient<'_>,
        client: Option<&Arc<Client>>,
    ) {
        let at = removed.removal.map(|(_, at)| at);
        self.late.removals().push(Removed {
            path: removed.path.to_owned(),
            removal: client.cloned().zip(at),
            id: removed.id,
        });
        self.late.changed.notify_one();
    }

    /// Notes those removals from `path` that the state does not know of; of all paths where none is given.
    pub(super) fn note_late_removals(&self, path: Option<&Path>) -> Result<(), StateError> {
        // In their order, and while no other thread registers what came after them.
        let mut removals = self.late.removals();
        let is_meant = |removed: &Removed| path.is_none_or(|path| removed.path == path);
        while let Some(index) = removals.iter().position(is_meant) {
            let removed = &removals[index];
            let removal = removed.removal.as_ref();
            self.shared.state.remove_client(&RemovedClient {
                path: &removed.path,
                wish: None,
                removal: removal.map(|(client, at)| (&**client, *at)),
                id: removed.id,
            })?;
            removals.remove(index);
            self.removed.notify_one();
        }
        Ok(())
    }

    /// Waits until something has to be written later.
    pub async fn has_late(&self) {
        self.late.changed.notified().await;
    }

    /// Writes what could not be written before. False where something is left.
    pub fn write_late(&self) -> bool {
        let removed = self.note_late_removals(None).is_ok();
        let waiting: Vec<PathBuf> = self.late.registrations().drain().collect();
        for path in waiting {
            let Some(db) = self.at_path(&path).filter(|db| db.client().is_none()) else {
                continue;
            };
            // What was written meanwhile went past its capture, which is noted already.
            self.register(&path, &db);
            db.mark_dirty();
        }
        removed && self.late.registrations().is_empty()
    }
}

#[cfg(test)]
mod tests {
    use crate::capture::Gate;
    use crate::capture::model::Model;
    use crate::clock::now_ms;
    use crate::tenant::roster::Status;

    /// As long as the state can't be written, nothing is lost but moments; then all of it is noted.
    #[test]
    fn registrations_and_removals_are_noted_when_the_state_can_be_written() {
        let mut model = Model::new(1, 16 << 20);
        let (capture, path) = (model.capture.clone(), model.db.path.clone());
        let state = &capture.shared.state;
        let before = state.id_of(&path).expect("a number");
        let query_only = |on: &str| {
            let pragma = format!("PRAGMA query_only = {on}");
            state.lock().execute_batch(&pragma).expect("set");
        };

        query_only("ON");
        capture.vanished(&path);
        capture.appeared(&path, false);
        let db = capture.at_path(&path).expect("seen");
        let known = capture.roster.all();
        assert_eq!(known.len(), 1);
        assert_eq!(known[0].progress().status, Status::Failing);
        assert!(db.client().is_none());
        model.run("INSERT INTO t VALUES (1000, 'past all gates')");
        drop(model.gate(Gate::WalOverwrite));
        assert!(!capture.write_late(), "not yet");

        // It comes and goes meanwhile. Of removals that the store was not told of the last one counts.
        let begun = now_ms();
        while now_ms() == begun {
            std::hint::spin_loop();
        }
        capture.vanished(&path);
        assert!(capture.roster.is_empty());
        capture.appeared(&path, false);

        query_only("OFF");
        assert!(capture.write_late());
        let db = capture.at_path(&path).expect("seen");
        let client = db.client().expect("registered");
        assert_eq!(client.progress().status, Status::Active);
        assert_ne!(db.id(), Some(before), "another database has its name now");
        assert_eq!(state.removals().expect("read").len(), 1);
        assert!(db.is_dirty());
    }
}
