//! One repository: its worktree and the folders git keeps about it.

use std::path::PathBuf;
use std::sync::Arc;

use super::{Host, RelPath};

/// A repository with a worktree: the workspace's own, a populated submodule or an embedded one.
#[derive(Clone, Debug)]
pub struct Repository {
    /// Where its worktree is in the workspace; the root for the workspace's own.
    pub path: RelPath,
    /// The worktree, absolute and canonical.
    pub worktree: PathBuf,
    /// `$GIT_DIR`: `HEAD`, the index and in-progress state. For a linked worktree its private folder.
    pub git_dir: PathBuf,
    /// `$GIT_COMMON_DIR`: objects, refs and configuration; equals `git_dir` but in linked worktrees.
    pub common_dir: PathBuf,
    pub(crate) format: Format,
    pub(crate) host: Arc<Host>,
}

/// What `extensions.*` say about how the repository is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Format {
    pub(crate) object_hash: gix::hash::Kind,
    pub(crate) reftable: bool,
    pub(crate) worktree_config: bool,
}
