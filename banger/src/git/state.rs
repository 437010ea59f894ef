//! The state of a repository that is neither objects, index nor configuration.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::dir::Type;

use super::adopt::FETCHED;
use super::boundary::{self, Content};
use super::refs::RefStore;
use super::walk::is_absence;
use super::{Boundary, GitError, Repository, Result};

/// `HEAD`, refs and in-progress state, as files of an ordinary `.git` folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RepositoryState {
    /// The content of `HEAD`: `ref: refs/heads/<branch>` or an object id, with its newline.
    pub head: Vec<u8>,
    /// Every ref by full name. Values are object ids in hexadecimal, or `ref: <name>`; no newline.
    pub refs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Other files of the git folder, sorted by path.
    pub files: Vec<StateFile>,
}

/// A file of the git folder that travels as it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StateFile {
    /// Relative to the guest's `.git`, separated by `/`.
    pub path: Vec<u8>,
    /// Its content.
    pub bytes: Vec<u8>,
    /// Permission bits, `0o777` at most.
    pub mode: u32,
}

/// Largest file that is carried; what git keeps here is mostly a line or two, at worst a mailbox.
const LIMIT: u64 = 16 << 20;

/// Most files below one of the [`FOLDERS`]; a rebase of thousands of patches has one each.
const MAX_FILES: usize = 20_000;

/// In-progress state of the worktree itself.
const PRIVATE: [&str; 21] = [
    "AUTO_MERGE",
    "BISECT_ANCESTORS_OK",
    "BISECT_EXPECTED_REV",
    "BISECT_FIRST_PARENT",
    "BISECT_HEAD",
    "BISECT_LOG",
    "BISECT_NAMES",
    "BISECT_RUN",
    "BISECT_START",
    "BISECT_TERMS",
    "CHERRY_PICK_HEAD",
    "MERGE_AUTOSTASH",
    "MERGE_HEAD",
    "MERGE_MODE",
    "MERGE_MSG",
    "MERGE_RR",
    "ORIG_HEAD",
    "REBASE_HEAD",
    "REVERT_HEAD",
    "SQUASH_MSG",
    "info/sparse-checkout",
];

/// State that all worktrees of a repository share.
const COMMON: [&str; 5] = ["info/attributes", "info/exclude", "info/grafts", STASHES, "shallow"];

/// The reflog that is the list of stashes.
const STASHES: &str = "logs/refs/stash";

/// In-progress state in folders, all of whose files travel.
const FOLDERS: [&str; 3] = ["rebase-apply", "rebase-merge", "sequencer"];

impl Repository {
    /// Reads what a twin in the guest needs besides objects, index and configuration. Locks and
    /// hooks are not part of it. Not atomic: compare [`Repository::fingerprint`] before and after.
    ///
    /// # Errors
    /// Unreadable or oversized files, malformed refs; `git` missing for a reftable repository.
    pub fn state(&self) -> Result<RepositoryState> {
        let RefStore { head, mut refs, pseudo, stashes } = self.ref_store()?;
        // What was fetched from one VM is not for another.
        refs.retain(|name, _| !name.starts_with(FETCHED));
        let mut files: Vec<_> = pseudo
            .into_iter()
            .map(|(path, mut bytes)| {
                bytes.push(b'\n');
                StateFile { path, bytes, mode: 0o644 }
            })
            .collect();
        files.extend(stashes.map(|bytes| StateFile { path: STASHES.into(), bytes, mode: 0o644 }));
        for (path, name) in self.state_paths()? {
            if let Some(Content { bytes, metadata }) = self.boundary.read(&path, LIMIT)? {
                files.push(StateFile { path: name, bytes, mode: metadata.mode() & 0o777 });
            }
        }
        files.sort_unstable();
        files.dedup_by(|a, b| a.path == b.path);
        Ok(RepositoryState { head, refs, files })
    }

    /// Every place where a state file is, or could be.
    pub(crate) fn state_paths(&self) -> Result<Vec<(PathBuf, Vec<u8>)>> {
        let private = PRIVATE.iter().map(|name| (self.git_dir.join(name), name.as_bytes().to_vec()));
        let common = COMMON.iter().map(|name| (self.common_dir.join(name), name.as_bytes().to_vec()));
        let mut paths: Vec<_> = private.chain(common).collect();
        for folder in FOLDERS {
            add_folder(&self.boundary, &self.git_dir.join(folder), folder, &mut paths)?;
        }
        Ok(paths)
    }
}

/// Links and special files below are none of git's making, and left out.
fn add_folder(boundary: &Boundary, folder: &Path, name: &str, paths: &mut Vec<(PathBuf, Vec<u8>)>) -> Result<()> {
    let mut pending = vec![(folder.to_owned(), name.as_bytes().to_vec())];
    let limit = paths.len() + MAX_FILES;
    while let Some((folder, prefix)) = pending.pop() {
        for child in boundary.children(&folder)? {
            let name = [&prefix, &b"/"[..], &child.name].concat();
            match child.kind {
                Some(Type::Directory) => pending.push((child.path, name)),
                Some(Type::File) if !name.ends_with(b".lock") => paths.push((child.path, name)),
                _ => {}
            }
            if paths.len() + pending.len() > limit {
                return Err(GitError::malformed("the state", folder, "it has too many files"));
            }
        }
    }
    Ok(())
}

/// Reads a file of the user's own, regular and of at most `limit` bytes; `None` if there is none.
pub(crate) fn read_capped(path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
    let failed = |error| GitError::io("read", path, error);
    let nonblocking = nix::fcntl::OFlag::O_NONBLOCK.bits();
    let file = match fs::OpenOptions::new().read(true).custom_flags(nonblocking).open(path) {
        Ok(file) => file,
        Err(error) if is_absence(&error) => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    Ok(boundary::read(path, file, limit)?.map(|content| content.bytes))
}
