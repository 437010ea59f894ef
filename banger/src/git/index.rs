//! Reading the index into one flat, sorted list of files.

use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use gix::index::entry::{Flags, Mode};
use gix::index::{File, State, decode};
use gix::objs::{FindExt, TreeRefIter};
use gix::validate::path::component;

use super::boundary::Content;
use super::error::describe;
use super::index_caches::without_caches;
use super::{GitError, Repository, Result};

/// The index of a repository, whole: a split one is joined, a sparse one expanded.
pub(crate) struct Index {
    pub(crate) state: State,
    /// Modification time of the file, nanoseconds since 1970.
    pub(crate) mtime_ns: i64,
}

impl Repository {
    /// Where the index is.
    pub(crate) fn index_file(&self) -> PathBuf {
        // git takes a relative one from the root of the worktree.
        let named = self.host.index_file.as_ref().map(|path| self.worktree.join(path));
        let own = named.and_then(|path| {
            let is_here = path.parent().is_some_and(|parent| parent.canonicalize().is_ok_and(|it| it == self.git_dir));
            Some(self.git_dir.join(path.file_name().filter(|_| is_here)?))
        });
        own.unwrap_or_else(|| self.git_dir.join("index"))
    }

    /// Loads the index; `None` where nothing was ever staged. Its paths are checked: see
    /// [`check_paths`].
    pub(crate) fn index(&self) -> Result<Option<Index>> {
        let path = self.index_file();
        let Some(path) = self.boundary.real(&path)? else { return Ok(None) };
        let Some(Content { bytes, metadata }) = self.boundary.read(&path, LIMIT)? else { return Ok(None) };
        let mtime_ns = super::list::nanoseconds(metadata.mtime(), metadata.mtime_nsec());
        let state = self.decode(&path, &bytes, metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH))?;
        let state = if state.is_sparse() || state.entries().iter().any(|entry| entry.mode == Mode::DIR) {
            self.expand(&state)?
        } else {
            state
        };
        check_paths(&state, &path)?;
        Ok(Some(Index { state, mtime_ns }))
    }

    /// The index in `bytes`, which were read at `path`.
    fn decode(&self, path: &Path, bytes: &[u8], mtime: SystemTime) -> Result<State> {
        let malformed = |error: gix::Error| GitError::malformed("the index", path, describe(&error));
        let hash = self.format.object_hash;
        // With more threads the offsets for them are used, which a damaged file may have wrong.
        let options = decode::Options { thread_limit: Some(1), ..Default::default() };
        let whole = without_caches(bytes, hash.len_in_bytes())
            .ok_or_else(|| GitError::malformed("the index", path, "it is not whole"))?;
        let (state, _) =
            unless_it_panics(path, || State::from_bytes(&whole, mtime.into(), hash, options))?.map_err(malformed)?;
        let Some(link) = state.link() else { return Ok(state) };
        // The other half is beside it, and gix joins them only as files: so they are such of ours,
        // with what was read here.
        let name = format!("sharedindex.{}", link.shared_index_checksum);
        let shared = path.with_file_name(&name);
        let missing = || GitError::malformed("the index", path, format!("`{}` is missing", shared.display()));
        let Content { bytes: half, .. } = self.boundary.read(&shared, LIMIT)?.ok_or_else(missing)?;
        let half = without_caches(&half, hash.len_in_bytes())
            .ok_or_else(|| GitError::malformed("the index", &shared, "it is not whole"))?;
        let folder = tempfile::tempdir().map_err(|error| GitError::io("make", std::env::temp_dir(), error))?;
        let copy = |name: &str, bytes: &[u8]| -> Result<PathBuf> {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).map_err(|error| GitError::io("write", path.clone(), error))?;
            Ok(path)
        };
        copy(&name, &half)?;
        let joined = copy("index", &whole)?;
        let skip_hash = true; // git replaces the file atomically; the checksum costs more than all else
        let file = unless_it_panics(path, || File::at(&joined, hash, skip_hash, options))?.map_err(malformed)?;
        Ok(file.into_parts().0)
    }

    /// Replaces the folders of a sparse index by the files that their trees name.
    fn expand(&self, sparse: &State) -> Result<State> {
        let objects = self.objects()?;
        let mut full = State::new(self.format.object_hash);
        let mut budget = EXPANDED;
        for entry in sparse.entries() {
            let path = entry.path(sparse);
            if entry.mode == Mode::DIR {
                self.expand_tree(&objects, &mut full, &mut budget, entry.id, path)?;
            } else {
                full.dangerously_push_entry(entry.stat, entry.id, entry.flags, entry.mode, path);
            }
        }
        full.sort_entries();
        Ok(full)
    }

    fn expand_tree(
        &self,
        objects: &gix::odb::Handle,
        full: &mut State,
        budget: &mut usize,
        tree: gix::ObjectId,
        folder: &[u8],
    ) -> Result<()> {
        let malformed =
            |error: &dyn std::fmt::Display| GitError::malformed("a tree of the sparse index", &self.git_dir, error);
        let mut pending = vec![(tree, folder.to_vec())];
        let mut buffer = Vec::new();
        while let Some((tree, prefix)) = pending.pop() {
            let tree: TreeRefIter<'_> =
                objects.find_tree_iter(&tree, &mut buffer).map_err(|error| malformed(&error))?;
            for item in tree {
                let item = item.map_err(|error| malformed(&error))?;
                // Trees that name each other many times are small, and what they stand for is not.
                let length = prefix.len() + item.filename.len();
                *budget =
                    budget.checked_sub(ENTRY + length).ok_or_else(|| malformed(&"it stands for too many files"))?;
                let mut path = prefix.clone();
                path.extend_from_slice(item.filename);
                let mode = Mode::from(item.mode.kind());
                if mode == Mode::DIR {
                    path.push(b'/');
                    pending.push((item.oid.to_owned(), path));
                } else {
                    let flags = Flags::SKIP_WORKTREE | Flags::EXTENDED;
                    let path = gix::bstr::BStr::new(&path);
                    full.dangerously_push_entry(Default::default(), item.oid.to_owned(), flags, mode, path);
                }
            }
        }
        Ok(())
    }
}

/// The longest index, in bytes: some ten million files.
const LIMIT: u64 = 2 << 30;
/// What the folders of a sparse index may take when they are expanded, in bytes: some two million
/// files.
const EXPANDED: usize = 512 << 20;
/// What a file or folder takes there besides its path, in bytes.
const ENTRY: usize = 128;

/// Makes sure that `state` holds what git itself would have put there: `verify_path` and
/// `check_ce_order` in git's `read-cache.c`. No path can name anything outside of the work tree, or
/// git's own files.
///
/// # Errors
/// [`GitError::InvalidPath`].
fn check_paths(state: &State, index: &Path) -> Result<()> {
    let protect = component::Options { protect_windows: false, protect_hfs: true, protect_ntfs: true };
    let mut last: Option<(&[u8], u32)> = None;
    for entry in state.entries() {
        let path: &[u8] = entry.path(state);
        let refused = |reason: String| GitError::InvalidPath { index: index.to_owned(), path: path.to_vec(), reason };
        if path.contains(&0) {
            return Err(refused("it has a NUL".into()));
        }
        let last_slash = path.iter().rposition(|byte| *byte == b'/');
        let mut start = 0;
        for part in path.split(|byte| *byte == b'/') {
            let is_leaf = last_slash.is_none_or(|slash| start > slash);
            let mode = (is_leaf && entry.mode == Mode::SYMLINK).then_some(component::Mode::Symlink);
            gix::validate::path::component(part.into(), mode, protect).map_err(|error| refused(error.to_string()))?;
            start += part.len() + 1;
        }
        let this = (path, entry.stage_raw());
        if last.is_some_and(|last| last >= this) {
            return Err(refused("it is out of order, or there twice".into()));
        }
        last = Some(this);
    }
    Ok(())
}

/// What `decode` says of the index at `path`: gix checks most of what it reads, and not all.
pub(super) fn unless_it_panics<T>(path: &Path, decode: impl FnOnce() -> T) -> Result<T> {
    catch_unwind(AssertUnwindSafe(decode)).map_err(|_| GitError::malformed("the index", path, "it is damaged"))
}
