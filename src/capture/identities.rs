//! Files that share an identity: one of them is the client, and when it goes the next one is.

use std::path::{Path, PathBuf};

use super::Capture;
use super::database::Database;
use crate::tenant::ids::ClientId;
use crate::tenant::roster::{Awaits, WaitingFile};

impl Capture {
    /// A file stands at `to` now, and no longer at `from`. It keeps its identity where both names give the same.
    pub fn renamed(&self, from: &Path, to: &Path, replaced: bool) {
        let freed = self.vanish(from);
        freed.iter().for_each(|id| self.note_vacated(id));
        self.appeared(to, replaced);
        self.tell_free(freed);
    }

    pub(super) fn tell_free(&self, freed: impl IntoIterator<Item = ClientId>) {
        for id in freed {
            self.roster.waiting().tell_free(&id);
        }
    }

    /// Another file has its identity: it is refused until that one goes.
    pub(super) fn wait_for_identity(&self, path: &Path, id: ClientId, holder: PathBuf) {
        self.wait(WaitingFile {
            path: self.seen_at.join(path),
            awaits: Awaits::Identity(id),
            holder,
        });
    }

    /// The file is registered under another name: this one is refused until that goes.
    pub(super) fn wait_for_file(&self, path: &Path, holder: &Database) {
        let Some(client) = holder.client() else {
            return;
        };
        self.wait(WaitingFile {
            path: self.seen_at.join(path),
            awaits: Awaits::File(client.id.clone()),
            holder: client.seen_path(),
        });
    }

    fn wait(&self, file: WaitingFile) {
        let (path, reason) = (file.path.clone(), file.reason());
        let advice = match file.holder.starts_with(&self.seen_at) {
            true => "",
            false => "; to have both, give each watch path its own `prefix`",
        };
        if self.roster.waiting().add(file) {
            tracing::warn!(path = %path.display(), error = %format!("{reason}{advice}"), "A database is refused");
        }
    }

    /// A client has gone: the first file that had to do without its identity is looked at again, and so is each other name
    /// of its file.
    pub(super) fn take_up_waiting(&self, id: &ClientId) {
        for file in self.roster.waiting().of(id, &self.seen_at) {
            if matches!(file.awaits, Awaits::Identity(_)) && self.roster.get(id).is_some() {
                continue;
            }
            self.roster.waiting().remove(&file.path);
            if let Ok(path) = file.path.strip_prefix(&self.seen_at) {
                self.appeared(path, false);
            }
        }
    }
}
