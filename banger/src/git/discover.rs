//! From a folder to the workspace it is in, as `git rev-parse --show-toplevel` finds it.

use std::path::{Path, PathBuf};

use super::{Host, Repository, Result};

/// The worktree one stands in: the primary object of banger.
#[derive(Clone, Debug)]
pub struct Workspace {
    /// Its root, absolute and canonical.
    pub root: PathBuf,
    /// The repository whose worktree it is.
    pub repository: Repository,
    /// What it is recognised by later.
    pub identity: Identity,
}

/// How a workspace is recognised: by its canonical path, else (it was moved) by its git folder's inode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The canonical root.
    pub root: PathBuf,
    /// Device of the git folder ([`Repository::git_dir`]).
    pub device: u64,
    /// Inode of the git folder.
    pub inode: u64,
    /// Birth time of the git folder in nanoseconds since 1970, where the file system records it.
    pub birth_ns: Option<i64>,
}

impl Workspace {
    /// Finds the workspace that `dir` is in.
    ///
    /// # Errors
    /// Not in a repository, in a bare one, inside `.git`, one owned by somebody else and not in the
    /// user's `safe.directory`, a `.git` file that leads nowhere, an unknown repository format.
    pub fn discover(dir: &Path, host: Host) -> Result<Self> {
        todo!()
    }
}
