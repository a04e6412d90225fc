//! Files that share an identity: one of them is the client, and when it goes the next one is.

use std::path::{Path, PathBuf};

use super::Capture;
use crate::tenant::ids::ClientId;
use crate::tenant::roster::WaitingFile;

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
        let file = WaitingFile {
            path: self.seen_at.join(path),
            id,
            holder,
        };
        let (path, holder) = (file.path.clone(), file.holder.clone());
        if self.roster.waiting().add(file) {
            let advice = match holder.starts_with(&self.seen_at) {
                true => "",
                false => "; to have both, give each watch path its own `prefix`",
            };
            tracing::warn!(
                path = %path.display(),
                error = %format!("{} has this identity already; it is looked at again when that goes{advice}", holder.display()),
                "A database is refused"
            );
        }
    }

    /// An identity has become free: the first file that had to do without it is looked at again.
    pub(super) fn take_up_waiting(&self, id: &ClientId) {
        for seen_path in self.roster.waiting().of(id, &self.seen_at) {
            if self.roster.get(id).is_some() {
                return;
            }
            self.roster.waiting().remove(&seen_path);
            if let Ok(path) = seen_path.strip_prefix(&self.seen_at) {
                self.appeared(path, false);
            }
        }
    }
}
