//! Reading the index into one flat, sorted list of files.

use std::path::PathBuf;

use gix::index::entry::{Flags, Mode};
use gix::index::{File, State};
use gix::objs::{FindExt, TreeRefIter};

use super::error::words;
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
        let own = named.filter(|path| {
            path.parent().is_some_and(|parent| parent.canonicalize().is_ok_and(|it| it == self.git_dir))
        });
        own.unwrap_or_else(|| self.git_dir.join("index"))
    }

    /// Loads the index; `None` where nothing was ever staged.
    pub(crate) fn index(&self) -> Result<Option<Index>> {
        let path = self.index_file();
        if !path.exists() {
            return Ok(None);
        }
        let malformed = |error: gix::Error| GitError::malformed("the index", &path, words(&error));
        let skip_hash = true; // git replaces the file atomically; the checksum costs more than all else
        let file = File::at(&path, self.format.object_hash, skip_hash, Default::default()).map_err(malformed)?;
        let mtime = file.timestamp();
        let mtime_ns = super::list::nanoseconds(mtime.unix_seconds(), i64::from(mtime.nanoseconds()));
        let (state, _) = file.into_parts();
        let state = if state.is_sparse() || state.entries().iter().any(|entry| entry.mode == Mode::DIR) {
            self.expand(&state)?
        } else {
            state
        };
        Ok(Some(Index { state, mtime_ns }))
    }

    /// The object database, for the few objects that a listing may need.
    pub(crate) fn objects(&self) -> Result<gix::odb::Handle> {
        let path = self.common_dir.join("objects");
        gix::odb::at(&path, self.format.object_hash).map_err(|error| GitError::io("open", path, error))
    }

    /// Replaces the folders of a sparse index by the files that their trees name.
    fn expand(&self, sparse: &State) -> Result<State> {
        let objects = self.objects()?;
        let mut full = State::new(self.format.object_hash);
        for entry in sparse.entries() {
            let path = entry.path(sparse);
            if entry.mode == Mode::DIR {
                self.expand_tree(&objects, &mut full, entry.id, path)?;
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
