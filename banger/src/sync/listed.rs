//! The listing of a workspace, as a sync has it: made anew, or brought up to date.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use banger_agent::protocol::{WireBytes, now_ns};

use super::SyncError;
use super::manifest::HostStat;
use super::source::{self, Source};
use crate::git::{self, Boundary, Entry, INCLUDE_FILE, Listing, RelPath, Relisted, Repository, Workspace};
use crate::output::units::count;

/// A listing of the workspace, and when it began.
pub struct Listed {
    pub(super) listing: Listing,
    /// When it began, in nanoseconds since 1970.
    listed_ns: i64,
    /// When what is at these paths was read since then.
    relisted: HashMap<RelPath, i64>,
    /// Files that had only just been written when they were read: a later change need not show in
    /// what `stat` says of them.
    young: BTreeSet<RelPath>,
    pub(super) took: Duration,
    pub(super) apart: Vec<PathBuf>,
    pub(super) boundary: Arc<Boundary>,
}

/// With more paths than this, the workspace is listed anew.
const MAX_RELISTED: usize = 512;

impl Listed {
    /// Lists the workspace, without what is in one of the folders `apart`.
    ///
    /// # Errors
    /// If the repository cannot be read.
    pub fn new(workspace: &Workspace, apart: &[PathBuf]) -> Result<Listed, SyncError> {
        let start = Instant::now();
        let (listed_ns, mut listing) = (now_ns(), git::list(workspace)?);
        let within = within(&workspace.root, apart);
        if !within.is_empty() {
            listing.entries.retain(|entry| !is_apart(&entry.path, &workspace.root, apart));
            listing.withheld.retain(|path| !is_apart(path, &workspace.root, apart));
            listing.directories.retain(|path| !within.iter().any(|directory| path.as_path().starts_with(directory)));
        }
        let boundary = workspace.repository.boundary().clone();
        let is_young = |entry: &&Entry| HostStat::is_young(entry, listed_ns);
        let young = listing.entries.iter().filter(is_young).map(|entry| entry.path.clone()).collect();
        let (took, apart) = (start.elapsed(), apart.to_vec());
        Ok(Listed { listed_ns, listing, relisted: HashMap::new(), young, took, apart, boundary })
    }

    /// Brings the listing up to date, if nothing but what is at `paths` has changed: see
    /// [`git::relist`].
    ///
    /// # Errors
    /// If the repository cannot be read.
    pub(super) fn relist(
        &mut self,
        workspace: &Workspace,
        mut paths: BTreeSet<RelPath>,
    ) -> Result<Relisted, SyncError> {
        let (start, now) = (Instant::now(), now_ns());
        if paths.len() + self.young.len() > MAX_RELISTED {
            return Ok(Relisted::Unknown);
        }
        let outcome = git::relist(workspace, &mut self.listing, &paths)?;
        if outcome != Relisted::Updated {
            return Ok(outcome);
        }
        let young = std::mem::take(&mut self.young);
        if git::relist(workspace, &mut self.listing, &young)? == Relisted::Unknown {
            return Ok(Relisted::Unknown);
        }
        paths.extend(young);
        let is_young =
            |path: &&RelPath| self.listing.entry(path.as_bytes()).is_some_and(|entry| HostStat::is_young(entry, now));
        self.young = paths.iter().filter(is_young).cloned().collect();
        self.relisted.extend(paths.into_iter().map(|path| (path, now)));
        self.took = start.elapsed();
        Ok(Relisted::Updated)
    }

    /// When `entry` was read, in nanoseconds since 1970, or before.
    pub(super) fn read_ns(&self, entry: &Entry) -> i64 {
        // Mostly there are none.
        if self.relisted.is_empty() {
            return self.listed_ns;
        }
        self.relisted.get(&entry.path).copied().unwrap_or(self.listed_ns)
    }

    /// The nested repositories.
    pub(super) fn repositories(&self) -> impl Iterator<Item = &Repository> {
        self.listing.repositories.iter()
    }

    /// Every directory in which a change may be one of what travels, sorted by path.
    pub(super) fn directories(&self) -> Vec<RelPath> {
        let Listing { directories, submodule_folders, entries, .. } = &self.listing;
        let mut all: BTreeSet<RelPath> = directories.iter().chain(submodule_folders).cloned().collect();
        // What is tracked travels from ignored directories too.
        for entry in entries {
            let mut path = entry.path.as_bytes();
            while let Some(end) = path.iter().rposition(|byte| *byte == b'/') {
                path = &path[..end];
                if !RelPath::new(path).is_some_and(|path| all.insert(path)) {
                    break;
                }
            }
        }
        all.into_iter().collect()
    }

    /// Reads what else a sync reads of the repositories.
    ///
    /// # Errors
    /// As [`git::check`].
    pub fn check(&self, workspace: &Workspace) -> Result<(), SyncError> {
        Ok(git::check(workspace, &self.listing)?)
    }

    /// How many files and links travel.
    pub fn files(&self) -> usize {
        self.listing.entries.len()
    }

    /// How many of them are in a directory, whose path is relative to the workspace's root.
    pub fn files_in(&self, directory: &RelPath) -> usize {
        if directory.is_root() {
            return self.files();
        }
        let prefix = [directory.as_bytes(), b"/"].concat();
        // The paths are sorted by their bytes.
        let first = self.listing.entries.partition_point(|entry| entry.path.as_bytes() < &prefix[..]);
        self.listing.entries[first..].partition_point(|entry| entry.path.as_bytes().starts_with(&prefix))
    }

    /// How many repositories are in a directory, or at it: the workspace's own at the root.
    pub fn repositories_in(&self, directory: &RelPath) -> usize {
        let is_in = |path: &RelPath| path.as_path().starts_with(directory.as_path());
        let nested = self.listing.repositories.iter().filter(|repository| is_in(&repository.path)).count();
        nested + usize::from(directory.is_root())
    }

    /// Their paths, relative to the workspace's root.
    pub fn paths(&self) -> impl Iterator<Item = &[u8]> {
        self.listing.entries.iter().map(|entry| entry.path.as_bytes())
    }

    /// A digest of the names and contents of the files that are `wanted`, each by its path; none if
    /// none is.
    ///
    /// # Errors
    /// If one cannot be read any more.
    pub fn digest(&self, root: &Path, wanted: &mut dyn FnMut(&[u8]) -> bool) -> Result<Option<[u8; 32]>, SyncError> {
        let mut hasher = blake3::Hasher::new();
        let mut found = false;
        for entry in self.listing.entries.iter().filter(|entry| wanted(entry.path.as_bytes())) {
            let path = entry.path.as_bytes();
            hasher.update(&(path.len() as u64).to_le_bytes()).update(path);
            match source::digest(&Source::of(entry, root, &self.boundary)) {
                Ok(digest) => _ = hasher.update(&digest),
                // It does not travel.
                Err(SyncError::Unreadable(_) | SyncError::Changed(_)) => {}
                Err(error) => return Err(error),
            }
            found = true;
        }
        Ok(found.then(|| *hasher.finalize().as_bytes()))
    }

    /// What could not be read, or does not travel: for the user to know.
    pub fn warnings(&self) -> impl Iterator<Item = String> {
        let warnings = self.listing.warnings.iter();
        let unreadable = warnings.map(|warning| {
            format!("`{}` stays behind: {}", WireBytes(warning.path.as_bytes().to_vec()), warning.error)
        });
        let include_error = self.listing.include_error.as_ref();
        let include_error = include_error.map(|error| format!("`{INCLUDE_FILE}` is ignored: {error}"));
        unreadable.chain(include_error.or_else(|| withheld(&self.listing.withheld)))
    }
}

/// The warning about ignored files that a `.worktreeinclude` without trust names.
fn withheld(paths: &[RelPath]) -> Option<String> {
    let first = paths.first()?;
    let others = match paths.len() - 1 {
        0 => String::new(),
        others => format!(" and {}", count(others as u64, "other file", "other files")),
    };
    Some(format!(
        "`{INCLUDE_FILE}` is ignored, as it hands ignored files of yours to the VM: `{first}`{others}; \
         if you trust it: banger trust"
    ))
}

/// Whether `path` of the workspace at `root` is in one of the directories `apart`.
pub fn is_apart(path: &RelPath, root: &Path, apart: &[PathBuf]) -> bool {
    let in_directory = |directory: &&Path| path.as_path() != *directory && path.as_path().starts_with(directory);
    within(root, apart).iter().any(in_directory)
}

/// Those of the directories `apart` that are below `root`, relative to it.
fn within<'a>(root: &Path, apart: &'a [PathBuf]) -> Vec<&'a Path> {
    let below = apart.iter().filter_map(|directory| directory.strip_prefix(root).ok());
    below.filter(|directory| !directory.as_os_str().is_empty()).collect()
}
