//! Lists the files that are sent to the guest: what git lists, recursively.

use std::collections::HashMap;

use gix::index::entry::Mode;

use super::excludes::Excludes;
use super::walk::{Nested, Tracked, WalkResult, full_path, walk};
use super::worktree_include::{IncludeFile, WorktreeInclude};
use super::{GitError, Outside, RelPath, Repository, Result, Workspace};

/// The contents of a workspace that are sent to the guest.
#[derive(Debug, Default)]
pub struct Listing {
    /// Files and symbolic links, sorted by the bytes of their paths, each once.
    pub entries: Vec<Entry>,
    /// Nested repositories (populated submodules and embedded ones, at any depth), sorted by path;
    /// an outer one comes before those inside it. The workspace's own is not among them.
    pub repositories: Vec<Repository>,
    /// Folders of unpopulated submodules. They exist on the host, and must in the guest: git calls
    /// a submodule whose folder is missing deleted.
    pub submodule_folders: Vec<RelPath>,
    /// Directories of the worktrees that files travel from, or would if there were any, sorted by
    /// path. Those that hold a tracked file and are ignored all the same are not among them.
    pub directories: Vec<RelPath>,
    /// How many FIFOs, sockets and devices were left out.
    pub special_files: usize,
    /// The workspace's `.worktreeinclude`, trusted or not; none: there is none that can be read.
    pub include: Option<IncludeFile>,
    /// Ignored files that are left out although `.worktreeinclude` names them, since the user does
    /// not trust it.
    pub withheld: Vec<RelPath>,
    /// Why `.worktreeinclude` counts for nothing: it cannot be read, is too long, or names too much
    /// and is not trusted; none: nothing is wrong with it.
    pub include_error: Option<GitError>,
    /// What could not be read, and is therefore missing from the lists above.
    pub warnings: Vec<Warning>,
}

impl Listing {
    /// The entry at `path`, relative to the workspace root.
    pub fn entry(&self, path: &[u8]) -> Option<&Entry> {
        self.entries.binary_search_by(|entry| entry.path.as_bytes().cmp(path)).ok().map(|index| &self.entries[index])
    }

    /// Whether files that are made in `directory` travel, unless a rule says otherwise.
    pub(crate) fn is_walked(&self, directory: &RelPath) -> bool {
        self.directories.binary_search(directory).is_ok()
    }

    /// Whether `path` is known to be a directory.
    pub(crate) fn is_directory(&self, path: &RelPath) -> bool {
        let prefix = [path.as_bytes(), b"/"].concat();
        let first = self.entries.partition_point(|entry| entry.path.as_bytes() < &prefix[..]);
        self.is_walked(path)
            || self.submodule_folders.contains(path)
            || self.entries.get(first).is_some_and(|entry| entry.path.as_bytes().starts_with(&prefix))
    }
}

/// A file or symbolic link, with the stat it had when listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The path, relative to the root of the workspace.
    pub path: RelPath,
    /// The type.
    pub kind: EntryKind,
    /// Permission bits, `0o777` at most.
    pub mode: u32,
    /// Length of the content in bytes; for a link, length of its target.
    pub size: u64,
    /// Time of the last change of content, in nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Time of the last change of content or metadata, in nanoseconds since 1970.
    pub ctime_ns: i64,
    /// Inode number.
    pub inode: u64,
}

/// The type of an [`Entry`].
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
    /// The path, relative to the root of the workspace.
    pub path: RelPath,
    /// The reason, as text.
    pub error: GitError,
}

/// Lists `git ls-files --cached --others --exclude-standard` without what does not exist, for the
/// workspace and recursively for every nested repository; and the ignored files that the
/// workspace's `.worktreeinclude` names. Nothing else that is ignored, and never `.git`.
///
/// # Errors
/// When the workspace's own index or configuration cannot be read, any repository leads to a place
/// outside that the user has not allowed, or a trusted `.worktreeinclude` names too much. What else
/// goes wrong further down is a [`Warning`].
pub fn list(workspace: &Workspace) -> Result<Listing> {
    let mut listing = Listing::default();
    let mut pending = list_repository(&workspace.repository, &mut listing)?;
    while let Some(Nested { path, git_dir, file }) = pending.pop() {
        let folder = path.under(&workspace.root);
        let host = workspace.repository.host.clone();
        let boundary = workspace.repository.boundary.clone();
        let outcome =
            Repository::open(&folder, git_dir, file.as_deref(), path.clone(), host, boundary).and_then(|repository| {
                let nested = list_repository(&repository, &mut listing)?;
                Ok((repository, nested))
            });
        match outcome {
            Ok((repository, nested)) => {
                listing.repositories.push(repository);
                pending.extend(nested);
            }
            Err(error) => listing.warnings.push(Warning { path, error }),
        }
    }
    let is_outside = |warning: &Warning| matches!(warning.error, GitError::Outside { .. });
    if let Some(position) = listing.warnings.iter().position(is_outside) {
        return Err(listing.warnings.swap_remove(position).error);
    }
    listing.entries.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    listing.repositories.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    listing.submodule_folders.sort_unstable();
    listing.withheld.sort_unstable();
    listing.directories.sort_unstable();
    Ok(listing)
}

/// The places outside of the workspace that its repositories lead to. `workspace` was found with
/// [`super::OutsidePolicy::Collect`], and `listing` is one of it.
///
/// # Errors
/// As [`check`].
pub fn outside(workspace: &Workspace, listing: &Listing) -> Result<Vec<Outside>> {
    check(workspace, listing)?;
    Ok(workspace.repository.boundary.admitted())
}

/// Reads what a sync reads of the repositories besides the files of `listing`, and keeps none of
/// it: what keeps a sync from being done is known before a VM is made for it.
///
/// # Errors
/// As [`Repository::state`], [`Repository::object_files`] and [`Repository::fingerprint`].
pub fn check(workspace: &Workspace, listing: &Listing) -> Result<()> {
    for repository in std::iter::once(&workspace.repository).chain(&listing.repositories) {
        repository.state()?;
        repository.object_files()?;
        repository.fingerprint()?;
    }
    Ok(())
}

/// Adds the files of one repository to `listing`; the repositories nested in it are returned.
fn list_repository(repository: &Repository, listing: &mut Listing) -> Result<Vec<Nested>> {
    let index = repository.index()?;
    let excludes = Excludes::new(repository, index.as_ref())?;
    let empty = gix::index::State::new(repository.format.object_hash);
    let tracked = Tracked::new(index.as_ref().map_or(&empty, |index| &index.state));
    let include = WorktreeInclude::of(repository).unwrap_or_else(|error| {
        listing.include_error = Some(error);
        None
    });
    let mut found = walk(repository, &tracked, &excludes, include.is_some());
    if let Some(include) = include {
        let ignored = std::mem::take(&mut found.ignored);
        match include.select(repository, &tracked, ignored, &mut found) {
            Err(error) if include.is_trusted => return Err(error),
            // Rules that nobody trusts stop no sync.
            Err(error) => listing.include_error = Some(error),
            Ok(()) => listing.withheld.append(&mut found.withheld),
        }
        listing.include = Some(include.into_file());
    }
    add_what_the_walk_missed(repository, &tracked, &mut found);
    listing.entries.append(&mut found.entries);
    listing.submodule_folders.append(&mut found.submodule_folders);
    listing.directories.append(&mut found.directories);
    listing.warnings.append(&mut found.warnings);
    listing.special_files += found.special_files;
    Ok(found.nested)
}

/// Tracked files inside ignored folders, which the walk does not enter.
fn add_what_the_walk_missed(repository: &Repository, tracked: &Tracked<'_>, found: &mut WalkResult) {
    let mut folders = RealFolders::default();
    for (path, mode) in tracked.not_met() {
        if !folders.contains_parent_of(repository, path) {
            continue;
        }
        let full = full_path(repository, path);
        match repository.boundary.metadata(&full) {
            Ok(metadata) if metadata.is_dir() && mode == Mode::COMMIT => found.submodule(repository, path),
            Ok(metadata) => found.file(repository.path.join(path), &metadata),
            Err(error) => found.vanished_or_warn(repository.path.join(path), &full, error),
        }
    }
}

/// Remembers which folders are reached without a symbolic link: what is beyond one does not exist,
/// as far as git is concerned.
#[derive(Default)]
struct RealFolders(HashMap<Vec<u8>, bool>);

impl RealFolders {
    fn contains_parent_of(&mut self, repository: &Repository, path: &[u8]) -> bool {
        let Some(slash) = path.iter().rposition(|byte| *byte == b'/') else { return true };
        let folder = &path[..slash];
        if let Some(&known) = self.0.get(folder) {
            return known;
        }
        let real = self.contains_parent_of(repository, folder)
            && repository.boundary.metadata(&full_path(repository, folder)).is_ok_and(|metadata| metadata.is_dir());
        self.0.insert(folder.to_vec(), real);
        real
    }
}

/// A point in time as nanoseconds since 1970; what does not fit is as near as possible.
pub(crate) fn nanoseconds(seconds: i64, nanoseconds: i64) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds)
}
