//! The files that travel: exactly what git lists, recursively.

use super::{GitError, RelPath, Repository, Result, Workspace};

/// What a workspace consists of.
#[derive(Debug, Default)]
pub struct Listing {
    /// Files and symbolic links, sorted by the bytes of their paths, each once.
    pub entries: Vec<Entry>,
    /// Nested repositories (populated submodules and embedded ones, at any depth), sorted by path; an
    /// outer one comes before those inside it. The workspace's own is not among them.
    pub repositories: Vec<Repository>,
    /// Folders of unpopulated submodules. They exist on the host, and must in the guest: git calls a
    /// submodule whose folder is missing deleted.
    pub submodule_folders: Vec<RelPath>,
    /// How many fifos, sockets and devices were left out.
    pub special_files: usize,
    /// What could not be read, and is therefore missing from the lists above.
    pub warnings: Vec<Warning>,
}

/// A file or symbolic link, with the stat it had when listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Relative to the workspace root.
    pub path: RelPath,
    /// File or symbolic link.
    pub kind: EntryKind,
    /// Permission bits, `0o777` at most.
    pub mode: u32,
    /// Bytes of content; for a link the length of its target.
    pub size: u64,
    /// Last modification, nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Last change of content or metadata, nanoseconds since 1970.
    pub ctime_ns: i64,
    /// Inode number.
    pub inode: u64,
}

/// What an [`Entry`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A symbolic link, wherever it points.
    Symlink,
}

/// A part of the workspace that could not be listed.
#[derive(Debug)]
pub struct Warning {
    /// Where, relative to the workspace root.
    pub path: RelPath,
    /// Why.
    pub error: GitError,
}

/// Lists `git ls-files --cached --others --exclude-standard` without what does not exist, for the
/// workspace and recursively for every nested repository. Never anything ignored, never `.git`.
///
/// # Errors
/// When the workspace's own index or configuration cannot be read. What goes wrong further down is
/// a [`Warning`].
pub fn list(workspace: &Workspace) -> Result<Listing> {
    todo!()
}
