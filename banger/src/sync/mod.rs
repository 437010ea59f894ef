//! Bringing the guest's workspace to the host's state: the host's side of
//! [`banger_agent::protocol::sync`].
//!
//! The host lists what travels ([`crate::git::list`]), compares it with the `manifest` of the last
//! sync, and sends the difference as a plan. The guest compares the plan with what it has; it alone
//! knows what changed there. See `docs/architecture.md` for the three states and what becomes of
//! them.

mod engine;
mod error;
mod filters;
mod history;
mod incremental;
mod initial;
mod link;
mod manifest;
mod plan;
mod repository;
mod seed;
mod source;

use std::cell::Cell;
use std::fs::{DirBuilder, File, TryLockError};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use banger_agent::protocol::sync::{Applied, Counts, Policy};
use banger_agent::protocol::{WireBytes, now_ns};
use banger_vmm::Vm;

use self::engine::Engine;
pub use self::error::{ChangeCount, SyncError};
use self::source::Source;
use crate::git::{self, Boundary, History, INCLUDE_FILE, Listing, RelPath, Workspace};
use crate::host::file::create_private;
use crate::output::units::count;
use crate::vm::checkout::GuestCheckout;

/// How often a sync starts again because files changed under it.
const ATTEMPTS: usize = 4;
/// How long one waits for another command's sync of the workspace before it says so,
const LOCK_NOTICE: Duration = Duration::from_secs(2);
/// and before it gives up.
const LOCK_LIMIT: Duration = Duration::from_secs(1800);
/// How often it looks.
const LOCK_PACE: Duration = Duration::from_millis(20);

/// What a sync did.
#[derive(Clone, Debug, Default)]
pub struct SyncReport {
    /// What the guest says it did.
    pub applied: Applied,
    /// Bytes of content that were sent.
    pub bytes: u64,
    /// What changed in the guest alone, if that is known.
    pub guest_only: Option<Counts>,
    /// What the user should know about git in the guest.
    pub notes: Vec<String>,
    /// How long the listing took, when this sync made one.
    pub listing: Duration,
    /// How long all of it took.
    pub total: Duration,
}

/// A listing of the workspace, and when it began.
pub struct Listed {
    listing: Listing,
    listed_ns: i64,
    took: Duration,
    apart: Vec<PathBuf>,
    boundary: Arc<Boundary>,
}

impl Listed {
    /// Lists the workspace, without what is in one of the folders `apart`.
    ///
    /// # Errors
    /// If the repository cannot be read.
    pub fn new(workspace: &Workspace, apart: &[PathBuf]) -> Result<Listed, SyncError> {
        let start = Instant::now();
        let (listed_ns, mut listing) = (now_ns(), git::list(workspace)?);
        if !within(&workspace.root, apart).is_empty() {
            listing.entries.retain(|entry| !is_apart(&entry.path, &workspace.root, apart));
            listing.withheld.retain(|path| !is_apart(path, &workspace.root, apart));
        }
        let boundary = workspace.repository.boundary().clone();
        Ok(Listed { listed_ns, listing, took: start.elapsed(), apart: apart.to_vec(), boundary })
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

/// How to sync, and whom to tell how it goes.
pub struct SyncOptions<'a> {
    /// Who wins where both sides changed something.
    pub policy: Policy,
    /// How much of git's history a new guest gets; none: by its size.
    pub history: Option<History>,
    /// Called once if another command's sync of the workspace takes longer than two seconds.
    pub on_wait: &'a dyn Fn(),
    /// Called during a large transfer with the bytes that are sent, and the bytes that there are.
    pub on_progress: &'a dyn Fn(u64, u64),
}

/// Syncs the workspace into the VM, to `checkout`. `listed` may be a listing made a moment ago.
///
/// # Errors
/// See [`SyncError`]. After one, nothing was changed in the guest.
pub fn sync(
    vm: &Vm,
    workspace: &Workspace,
    checkout: &GuestCheckout,
    mut listed: Listed,
    options: &SyncOptions<'_>,
) -> Result<SyncReport, SyncError> {
    let start = Instant::now();
    let folder = checkout.syncs();
    // Not the VM's folder with it: one that was deleted meanwhile would come back empty.
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(SyncError::State(error)),
        _ => {}
    }
    let lock = create_private(&folder.join("lock")).map_err(SyncError::State)?;
    lock_within(&lock, LOCK_NOTICE, LOCK_LIMIT, options.on_wait)?;
    for attempt in 1.. {
        let index_clock_ns = Cell::new(0);
        let engine = Engine { vm, workspace, checkout, listed: &listed, options, index_clock_ns };
        match engine.run() {
            Ok(mut report) => {
                report.listing += listed.took;
                report.total = start.elapsed();
                return Ok(report);
            }
            Err(SyncError::Changed(_) | SyncError::GuestChanged(_)) if attempt < ATTEMPTS => {
                listed = Listed::new(workspace, &listed.apart)?
            }
            Err(error) => return Err(error),
        }
    }
    unreachable!("the loop returns")
}

/// Takes a lock, which others hold no longer than `limit`. After `notice`, `waits` is called.
fn lock_within(lock: &File, notice: Duration, limit: Duration, waits: &dyn Fn()) -> Result<(), SyncError> {
    let start = Instant::now();
    let mut waits = Some(waits);
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::Error(error)) => return Err(SyncError::State(error)),
            Err(TryLockError::WouldBlock) if start.elapsed() >= limit => return Err(SyncError::Busy),
            Err(TryLockError::WouldBlock) => {}
        }
        if start.elapsed() >= notice
            && let Some(waits) = waits.take()
        {
            waits();
        }
        thread::sleep(LOCK_PACE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_for_another_sync_is_reported_once_and_times_out() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (ours, theirs) = (file.reopen().unwrap(), file.reopen().unwrap());
        let said = Cell::new(0);
        let wait = |limit| {
            let waits = || said.set(said.get() + 1);
            lock_within(&ours, Duration::from_millis(30), limit, &waits)
        };
        theirs.lock().unwrap();
        assert!(matches!(wait(Duration::from_millis(200)), Err(SyncError::Busy)));
        assert_eq!(said.get(), 1);
        theirs.unlock().unwrap();
        wait(Duration::ZERO).unwrap();
        assert_eq!(said.get(), 1);
    }
}
