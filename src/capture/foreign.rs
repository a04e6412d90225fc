//! A database's file that is not what its captured history and its log make of it: somebody wrote it past SQLite, or
//! SQLite itself lost frames of its log before they were in the file.
//!
//! Nobody tells of that, and no idle database is read to look for it. It is suspected where the file is looked at
//! anyway: a stamp that changed while there was no log, a page of the last transaction that is not in the file when the
//! log ends, a page that a further snapshot can't prove, a file that is cut to nothing beside its log. Then an image
//! decides: what differs and is in no log is told, and becomes a segment. The states before it stay what they are.

use super::backing::Stamp;
use super::copy::Image;
use super::database::Database;
use super::gate::Gate;
use super::history::History;
use super::mark::Mark;
use super::segment::Draft;
use crate::clock::now_ms;
use crate::meter;

/// Why an image is made: the file is suspected.
pub(super) const FOREIGN_CHANGE: &str = "foreign_change";
/// The file was cut to nothing beside its log: it is being written over.
pub(super) const CUT: &str = "cut";
/// So many pages are named.
const NAMED_PAGES: usize = 20;

impl History {
    /// The next look compares the file with the captured state, and tells what differs.
    pub(super) fn suspect_file(&mut self, db: &Database) {
        if self.resync.is_none() {
            self.compare_because(db, FOREIGN_CHANGE);
        }
    }

    pub(super) fn suspects_file(&self) -> bool {
        matches!(self.resync, Some(FOREIGN_CHANGE | CUT))
    }

    /// Whether the file was changed though there was no log since its last one had ended in order.
    pub(super) fn is_rest_broken(&self, stamp: Stamp) -> bool {
        self.at_rest.is_some_and(|known| known != stamp)
    }

    /// The file was cut to nothing. Beside a log that is no way to put another database in its place: SQLite would
    /// apply the log to that.
    pub(super) fn file_was_cut(&mut self, db: &Database) {
        let has_log = self.mark.is_some_and(|mark| mark.wal.is_some()) && !self.log_ended;
        if has_log {
            self.compare_because(db, CUT);
        }
    }

    /// All of the log is in the file, which `stamp` is of; it is about to be destroyed by `gate`.
    pub(super) fn rest_after(&mut self, gate: Option<Gate>, stamp: Stamp) {
        if matches!(gate, Some(Gate::WalUnlink | Gate::WalTruncate { kept: 0 })) {
            self.at_rest = Some(stamp);
        }
    }
}

/// Tells what an image of a suspected file has shown that differs from the captured state, and that no log explains.
pub(super) fn tell_difference(db: &Database, image: &Image, draft: &Draft) {
    let (before, commit) = (&draft.before, draft.end.commit);
    let is_cut = commit < before.commit && !image.is_laid_over();
    let gone = commit + 1..=if is_cut { before.commit } else { commit };
    let changed = draft.sums.iter().map(|(pgno, _)| *pgno);
    let changed = changed.filter(|pgno| !image.has_laid_over(*pgno));
    let pages: Vec<u32> = changed.chain(gone).collect();
    if !pages.is_empty() {
        tell(db, before, &pages);
    }
}

fn tell(db: &Database, before: &Mark, pages: &[u32]) {
    meter::FOREIGN_CHANGES.add(1);
    let named = named(pages);
    let Mark {
        generation, txid, ..
    } = before;
    tracing::warn!(
        client = %db.label(),
        prefix = db.client().as_deref().and_then(|client| client.prefix()),
        pages = %named,
        count = pages.len(),
        txid,
        %generation,
        "The database's file differs from its captured history; the difference is stored, and what was captured before stays restorable"
    );
    if let Some(client) = db.client() {
        let text = format!(
            "{FOREIGN_CHANGE}: {} pages ({named}) were written past SQLite, or lost by it; the state before is transaction {txid} of generation {generation}",
            pages.len()
        );
        client.update(|progress| {
            let found = progress.found_mut();
            (found.notice, found.noticed_at) = (Some(text), now_ms());
        });
    }
}

/// The first of the pages, as people write a list.
fn named(pages: &[u32]) -> String {
    let first: Vec<String> = pages.iter().take(NAMED_PAGES).map(u32::to_string).collect();
    let more = if pages.len() > NAMED_PAGES {
        ", …"
    } else {
        ""
    };
    format!("{}{more}", first.join(", "))
}
