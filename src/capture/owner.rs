//! Whose a database's file and the directories above it are, to be given back when it is restored.

use std::io;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::answers::Answers;
use super::backing::Backing;
use super::error::CaptureError;
use super::{Capture, Shared};
use crate::format::description::Attributes;

/// Of a file, and of each directory of its path, the first one first; none of either where one of them is not there.
pub type Owners = (Option<Attributes>, Vec<Attributes>);

impl Capture {
    /// Owners and permissions of the file at `path` below the watch path, and of the directories above it.
    ///
    /// # Errors
    /// Those of the directory underneath.
    pub async fn owners(&self, path: Arc<Path>) -> Result<Owners, CaptureError> {
        let (done, answer) = oneshot::channel();
        let look =
            move |shared: &Shared, _: &mut Answers| drop(done.send(owners(&shared.backing, &path)));
        self.workers.look(Box::new(look));
        let owners = answer.await.map_err(|_| CaptureError::Stopped)?;
        owners.map_err(CaptureError::io("look at its owner"))
    }

    /// The user who owns what stands at `path` below the watch path, or else the nearest folder above it; none where that
    /// can't be looked at.
    pub fn owner_of_place(&self, path: &Path) -> Option<u32> {
        let mut places = path.ancestors().map(|place| match place.as_os_str() {
            name if name.is_empty() => Path::new("."),
            _ => place,
        });
        places.find_map(|place| self.owner_of(place))
    }

    /// The user who owns the file at `path` below the watch path; none where it is not there or can't be looked at.
    pub fn owner_of(&self, path: &Path) -> Option<u32> {
        match self.shared.backing.attributes(path) {
            Ok(found) => found.map(|attributes| attributes.uid),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "The owner of a file can't be told");
                None
            }
        }
    }
}

fn owners(backing: &Backing, path: &Path) -> io::Result<Owners> {
    let above: Vec<_> = path.ancestors().skip(1).collect();
    // The last is the watch path itself.
    let named = above.into_iter().rev().skip(1);
    let directories: io::Result<Option<Vec<_>>> =
        named.map(|path| backing.attributes(path)).collect();
    Ok((backing.attributes(path)?, directories?.unwrap_or_default()))
}
