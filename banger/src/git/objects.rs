//! The files that hold a repository's objects.

use std::path::PathBuf;

use super::{Repository, Result};

/// One file below `objects/`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectFile {
    /// Relative to `objects/`: `pack/pack-<hash>.pack`, `ab/cdef…`.
    pub name: String,
    /// Where it is now; a concurrent `git gc` may remove it.
    pub path: PathBuf,
    /// Bytes.
    pub size: u64,
}

impl Repository {
    /// Lists packs (`.pack` before its `.idx`), then loose objects; alternates are flattened.
    /// Should a file be gone when it is read, list again: its objects are then in a new pack.
    ///
    /// # Errors
    /// An object folder that cannot be read.
    pub fn object_files(&self) -> Result<Vec<ObjectFile>> {
        todo!()
    }
}
