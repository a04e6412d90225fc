//! Whose a database's file and the directories above it are, to be given back when it is restored.

use std::io;
use std::path::Path;

use super::Capture;
use crate::format::description::Attributes;

impl Capture {
    /// Owner and permissions of the file at `path` below the watch path, and of each directory of the path, the first one
    /// first; none of either where one of them is not there.
    ///
    /// # Errors
    /// Those of the directory underneath.
    pub fn attributes(&self, path: &Path) -> io::Result<(Option<Attributes>, Vec<Attributes>)> {
        let backing = &self.shared.backing;
        let above: Vec<_> = path.ancestors().skip(1).collect();
        // The last is the watch path itself.
        let named = above.into_iter().rev().skip(1);
        let directories: io::Result<Option<Vec<_>>> =
            named.map(|path| backing.attributes(path)).collect();
        let file = backing.attributes(path)?;
        Ok((file, directories?.unwrap_or_default()))
    }
}
