//! What is left of many databases that were worked on at once lies among what was freed meanwhile, so that pages stay for a
//! piece or two. Made anew in the room that there is between others, it fills few pages, and the rest is given back.

use std::fmt;
use std::sync::{Arc, OnceLock};

use super::Capture;
use super::database::Database;

/// What is moved beside that: the mount's part.
#[derive(Clone, Default)]
pub(super) struct Others(Arc<OnceLock<Box<dyn Fn() + Send + Sync>>>);

impl fmt::Debug for Others {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Others").finish_non_exhaustive()
    }
}

impl Capture {
    /// What is to be done beside, each time that what is kept is moved together. The first holds.
    pub fn moves_too(&self, other: impl Fn() + Send + Sync + 'static) {
        let Others(others) = &self.others;
        others.get_or_init(|| Box::new(other));
    }

    /// Most of those that were worked on at once are idle by now: has a worker move together what is kept of all that are.
    /// Returns at once.
    pub fn move_together(&self) {
        let (all, Others(others)) = (self.all(), self.others.clone());
        self.workers.image(Box::new(move |_, _| {
            move_together(&all);
            if let Some(others) = others.get() {
                others();
            }
        }));
    }
}

/// One by one: each takes the first room that there is, which the ones before it have left. The thread must keep nothing
/// of what it frees, or it would take that again.
fn move_together(databases: &[Arc<Database>]) {
    for db in databases {
        drop(db.make_anew());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::model::Model;
    use crate::capture::workers;

    #[test]
    fn what_is_moved_is_what_it_was() {
        let model = Model::new(1, 16 << 20);
        let (db, shared) = (model.db.clone(), model.capture.shared.clone());
        workers::make_image(&db, &shared).expect("a first image");
        while db.history().front().is_some() {
            db.history().stored(&db, &shared, None).expect("stored");
        }
        let told = || format!("{:?}", *db.history());
        let before = told();
        move_together(std::slice::from_ref(&db));
        assert_eq!(told(), before, "a whole one stays where it is");
        db.history().rest();
        let held = db.history();
        assert!(db.make_anew().0.is_none(), "somebody has it");
        held.rest();
        assert!(db.make_anew().0.is_some());
        assert!(db.rests());
        assert_eq!(told(), before);
    }
}
