//! Which of git's own directories to watch for changes, and the locks that say it is not done yet.

use std::path::PathBuf;

use nix::dir::Type;

use super::{Repository, Result};

/// Directories that are watched in one repository: references may be in any number of them.
const MAX_DIRECTORIES: usize = 20_000;

impl Repository {
    /// The directories in which a change may be one of `HEAD`, references, the index or what else
    /// [`Repository::fingerprint`] covers, objects apart: no object is of use before one of these
    /// changes.
    ///
    /// # Errors
    /// If one cannot be listed.
    pub fn own_directories(&self) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        let mut pending = vec![self.git_dir.clone(), self.common_dir.clone()];
        for folder in [&self.git_dir, &self.common_dir] {
            pending.extend(["info", "refs", "reftable"].map(|name| folder.join(name)));
        }
        pending.extend(["rebase-apply", "rebase-merge", "sequencer"].map(|name| self.git_dir.join(name)));
        pending.sort_unstable();
        pending.dedup();
        while let Some(folder) = pending.pop() {
            if found.len() == MAX_DIRECTORIES {
                break;
            }
            if folder != self.git_dir && folder != self.common_dir {
                let children = self.boundary().children(&folder)?.into_iter();
                pending.extend(children.filter(|child| child.kind == Some(Type::Directory)).map(|child| child.path));
            }
            found.push(folder);
        }
        Ok(found)
    }

    /// The files that git has while it writes the index or `HEAD`: api-lockfile of git.
    pub fn locks(&self) -> [PathBuf; 2] {
        ["index.lock", "HEAD.lock"].map(|name| self.git_dir.join(name))
    }
}
