//! The state of a repository that is neither objects, index nor configuration.

use std::collections::BTreeMap;

use super::{Repository, Result};

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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateFile {
    /// Relative to the guest's `.git`, separated by `/`.
    pub path: Vec<u8>,
    /// Its content.
    pub bytes: Vec<u8>,
    /// Permission bits, `0o777` at most.
    pub mode: u32,
}

impl Repository {
    /// Reads what a twin in the guest needs besides objects, index and configuration. Locks and hooks
    /// are not part of it. Not atomic: compare [`Repository::fingerprint`] before and after.
    ///
    /// # Errors
    /// Unreadable or oversized files, malformed refs; `git` missing for a reftable repository.
    pub fn state(&self) -> Result<RepositoryState> {
        todo!()
    }
}
