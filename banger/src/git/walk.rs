//! The parallel walk over one repository's worktree.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use gix::index::State;
use gix::index::entry::Mode;
use ignore::{DirEntry, ParallelVisitor, ParallelVisitorBuilder, WalkBuilder, WalkState};

use super::dot_git::{DotGit, probe};
use super::excludes::Excludes;
use super::list::{Entry, EntryKind, Warning, nanoseconds};
use super::{GitError, RelPath, Repository};

/// What a walk has found; paths are relative to the workspace root.
#[derive(Default)]
pub(crate) struct WalkResult {
    pub(crate) entries: Vec<Entry>,
    /// Folders that are worktrees of their own, with their git folder and `.git` file.
    pub(crate) nested: Vec<Nested>,
    pub(crate) submodule_folders: Vec<RelPath>,
    /// Directories that were walked, the worktree's own among them.
    pub(crate) directories: Vec<RelPath>,
    pub(crate) special_files: usize,
    /// What is ignored; empty unless it is asked for.
    pub(crate) ignored: Vec<IgnoredEntry>,
    /// Ignored files that a `.worktreeinclude` names that is not trusted.
    pub(crate) withheld: Vec<RelPath>,
    pub(crate) warnings: Vec<Warning>,
}

/// An entry that git ignores, or one of a directory that it ignores.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct IgnoredEntry {
    /// The path, relative to the repository.
    pub(crate) path: Vec<u8>,
    pub(crate) is_dir: bool,
}

/// A nested repository yet to be opened.
pub(crate) struct Nested {
    pub(crate) path: RelPath,
    pub(crate) git_dir: PathBuf,
    pub(crate) file: Option<PathBuf>,
}

/// What is tracked, and which of it the walk has met.
pub(crate) struct Tracked<'a> {
    state: &'a State,
    met: Vec<AtomicBool>,
}

/// What an entry of a worktree is to git.
pub(crate) enum Standing {
    /// The folder of a submodule: its position in the index.
    Submodule(usize),
    /// A tracked file or link: its position in the index.
    Tracked(usize),
    /// A folder that holds something tracked.
    Ancestor,
    /// A file, link or folder that nothing ignores.
    Untracked,
    /// Ignored, and not itself tracked. A folder may hold what is tracked.
    Ignored,
}

pub(crate) enum Status {
    File(usize),
    Submodule(usize),
    /// Not itself tracked, but (a folder) holds what is.
    Ancestor,
    Untracked,
}

impl<'a> Tracked<'a> {
    pub(crate) fn new(state: &'a State) -> Self {
        let met = state.entries().iter().map(|_| AtomicBool::new(false)).collect();
        Self { state, met }
    }

    /// For questions about single paths: nothing can be marked.
    pub(crate) fn lookup(state: &'a State) -> Self {
        Self { state, met: Vec::new() }
    }

    fn path(&self, position: usize) -> &'a [u8] {
        self.state.entry(position).path(self.state)
    }

    /// What the entry at `path` is to git, given that its parent is not ignored.
    ///
    /// # Errors
    /// As [`Excludes::is_excluded`].
    pub(crate) fn standing(&self, excludes: &mut Excludes, path: &[u8], is_dir: bool) -> super::Result<Standing> {
        Ok(match self.status(path, is_dir) {
            Status::Submodule(position) if is_dir => Standing::Submodule(position),
            Status::File(position) | Status::Submodule(position) => Standing::Tracked(position),
            _ if excludes.is_excluded(path, is_dir)? => Standing::Ignored,
            Status::Ancestor => Standing::Ancestor,
            Status::Untracked => Standing::Untracked,
        })
    }

    /// What the index says of a path.
    pub(crate) fn status(&self, path: &[u8], is_dir: bool) -> Status {
        let entries = self.state.entries();
        let first = entries.partition_point(|entry| entry.path(self.state) < path);
        if entries.get(first).is_some_and(|entry| entry.path(self.state) == path) {
            // A path in conflict has up to three entries, of which any may be the submodule.
            let stages = entries[first..].iter().take_while(|entry| entry.path(self.state) == path);
            return match stages.clone().any(|entry| entry.mode == Mode::COMMIT) {
                true => Status::Submodule(first),
                false if is_dir => self.ancestor(path),
                false => Status::File(first),
            };
        }
        if is_dir { self.ancestor(path) } else { Status::Untracked }
    }

    fn ancestor(&self, folder: &[u8]) -> Status {
        let prefix = [folder, b"/"].concat();
        let entries = self.state.entries();
        let first = entries.partition_point(|entry| entry.path(self.state)[..] < prefix[..]);
        match entries.get(first) {
            Some(entry) if entry.path(self.state).starts_with(&prefix) => Status::Ancestor,
            _ => Status::Untracked,
        }
    }

    fn mark(&self, position: usize) {
        self.met[position].store(true, Ordering::Relaxed);
    }

    /// One entry of each path that the walk has not met: absent, or inside an ignored folder.
    pub(crate) fn not_met(&self) -> impl Iterator<Item = (&'a [u8], Mode)> + '_ {
        (0..self.met.len()).filter_map(|position| {
            let path = self.path(position);
            // Of a path in conflict only the first entry is marked, and only it counts.
            let repeated = position > 0 && self.path(position - 1) == path;
            let met = repeated || self.met[position].load(Ordering::Relaxed);
            (!met).then(|| (path, self.state.entry(position).mode))
        })
    }
}

/// Walks the worktree of `repository` with all cores, by paths: what is found in a directory that
/// was replaced by a link meanwhile is listed, and not read. Only [`super::Boundary`] opens files.
/// With `keeps_ignored`, the result has what is ignored too.
pub(crate) fn walk(
    repository: &Repository,
    tracked: &Tracked<'_>,
    excludes: &Excludes,
    keeps_ignored: bool,
) -> WalkResult {
    let threads = std::thread::available_parallelism().map_or(1, |cores| cores.get().min(8));
    let found = Mutex::new(WalkResult::default());
    WalkBuilder::new(&repository.worktree)
        .standard_filters(false)
        .follow_links(false)
        .threads(threads)
        .build_parallel()
        .visit(&mut Visitors { repository, tracked, excludes, keeps_ignored, found: &found });
    found.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner())
}

struct Visitors<'a> {
    repository: &'a Repository,
    tracked: &'a Tracked<'a>,
    excludes: &'a Excludes,
    keeps_ignored: bool,
    found: &'a Mutex<WalkResult>,
}

impl<'a> ParallelVisitorBuilder<'a> for Visitors<'a> {
    fn build(&mut self) -> Box<dyn ParallelVisitor + 'a> {
        Box::new(Visitor {
            repository: self.repository,
            tracked: self.tracked,
            excludes: self.excludes.clone(),
            keeps_ignored: self.keeps_ignored,
            own: WalkResult::default(),
            all: self.found,
        })
    }
}

struct Visitor<'a> {
    repository: &'a Repository,
    tracked: &'a Tracked<'a>,
    excludes: Excludes,
    keeps_ignored: bool,
    own: WalkResult,
    all: &'a Mutex<WalkResult>,
}

impl Drop for Visitor<'_> {
    fn drop(&mut self) {
        let mut all = self.all.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        all.entries.append(&mut self.own.entries);
        all.nested.append(&mut self.own.nested);
        all.submodule_folders.append(&mut self.own.submodule_folders);
        all.directories.append(&mut self.own.directories);
        all.warnings.append(&mut self.own.warnings);
        all.special_files += self.own.special_files;
        all.ignored.append(&mut self.own.ignored);
    }
}

impl ParallelVisitor for Visitor<'_> {
    fn visit(&mut self, entry: Result<DirEntry, ignore::Error>) -> WalkState {
        match entry {
            Ok(entry) if entry.depth() == 0 => {
                self.own.directories.push(self.repository.path.clone());
                WalkState::Continue
            }
            Ok(entry) => self.visit_entry(&entry),
            Err(error) => {
                self.warn_of_walk(error);
                WalkState::Continue
            }
        }
    }
}

impl Visitor<'_> {
    fn visit_entry(&mut self, entry: &DirEntry) -> WalkState {
        if entry.file_name() == ".git" {
            return WalkState::Skip;
        }
        let path = relative(entry.path(), &self.repository.worktree);
        let is_dir = entry.file_type().is_some_and(|kind| kind.is_dir());
        match self.standing(path, is_dir) {
            Standing::Submodule(position) => {
                self.tracked.mark(position);
                self.own.submodule(self.repository, path);
                return WalkState::Skip;
            }
            Standing::Tracked(position) => self.tracked.mark(position),
            Standing::Ancestor => {
                self.own.directories.push(self.repository.path.join(path));
                return WalkState::Continue;
            }
            Standing::Ignored => {
                if self.keeps_ignored {
                    self.own.ignored.push(IgnoredEntry { path: path.to_vec(), is_dir });
                }
                return WalkState::Skip;
            }
            Standing::Untracked if is_dir => {
                if !self.own.untracked_folder(self.repository, path) {
                    return WalkState::Skip;
                }
                self.own.directories.push(self.repository.path.join(path));
                return WalkState::Continue;
            }
            Standing::Untracked => {}
        }
        match fs::symlink_metadata(entry.path()) {
            Ok(metadata) => self.own.file(self.repository.path.join(path), &metadata),
            Err(error) => self.own.vanished_or_warn(self.repository.path.join(path), entry.path(), error),
        }
        WalkState::Continue
    }

    fn standing(&mut self, path: &[u8], is_dir: bool) -> Standing {
        self.tracked.standing(&mut self.excludes, path, is_dir).unwrap_or_else(|error| {
            let folder = path.rsplitn(2, |byte| *byte == b'/').nth(1).unwrap_or_default();
            self.own.warnings.push(Warning { path: self.repository.path.join(folder), error });
            // The unreadable file now counts as empty, so the second answer is final.
            self.tracked.standing(&mut self.excludes, path, is_dir).unwrap_or(Standing::Untracked)
        })
    }

    fn warn_of_walk(&mut self, error: ignore::Error) {
        let path = path_of(&error).unwrap_or(&self.repository.worktree).to_owned();
        let relative = self.repository.path.join(relative(&path, &self.repository.worktree));
        let source = error.into_io_error().unwrap_or_else(|| std::io::Error::other("unknown"));
        self.own.vanished_or_warn(relative, &path, source);
    }
}

impl WalkResult {
    /// Takes a file or link; whatever else it is stays behind.
    pub(crate) fn file(&mut self, path: RelPath, metadata: &fs::Metadata) {
        let kind = metadata.file_type();
        let kind = if kind.is_file() {
            EntryKind::File
        } else if kind.is_symlink() {
            EntryKind::Symlink
        } else {
            let special = kind.is_fifo() || kind.is_socket() || kind.is_block_device() || kind.is_char_device();
            self.special_files += usize::from(special);
            return;
        };
        self.entries.push(Entry {
            path,
            kind,
            mode: metadata.mode() & 0o777,
            size: metadata.len(),
            mtime_ns: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
            ctime_ns: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
            inode: metadata.ino(),
        });
    }

    /// A folder that the index says is a submodule.
    pub(crate) fn submodule(&mut self, repository: &Repository, path: &[u8]) {
        let full = repository.path.join(path);
        match probe(&repository.boundary, &full_path(repository, path)) {
            DotGit::Found { git_dir, file } => self.nested.push(Nested { path: full, git_dir, file }),
            DotGit::Absent => self.submodule_folders.push(full),
            DotGit::Broken(error) => {
                self.warnings.push(Warning { path: full.clone(), error });
                self.submodule_folders.push(full);
            }
        }
    }

    /// A folder of which nothing is tracked: true if it is an ordinary one, to be walked.
    fn untracked_folder(&mut self, repository: &Repository, path: &[u8]) -> bool {
        match probe(&repository.boundary, &full_path(repository, path)) {
            DotGit::Found { git_dir, file } => {
                self.nested.push(Nested { path: repository.path.join(path), git_dir, file });
                false
            }
            DotGit::Broken(error @ GitError::Outside { .. }) => {
                self.warnings.push(Warning { path: repository.path.join(path), error });
                false
            }
            DotGit::Absent | DotGit::Broken(_) => true,
        }
    }

    /// What has gone since it was listed is no news.
    pub(crate) fn vanished_or_warn(&mut self, relative: RelPath, path: &Path, error: std::io::Error) {
        if !is_absence(&error) {
            self.warnings.push(Warning { path: relative, error: GitError::io("read", path, error) });
        }
    }
}

pub(crate) fn is_absence(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory)
}

pub(crate) fn full_path(repository: &Repository, path: &[u8]) -> PathBuf {
    repository.worktree.join(std::ffi::OsStr::from_bytes(path))
}

fn relative<'a>(path: &'a Path, root: &Path) -> &'a [u8] {
    let rest = path.as_os_str().as_bytes().get(root.as_os_str().len()..).unwrap_or_default();
    rest.strip_prefix(b"/").unwrap_or(rest)
}

fn path_of(error: &ignore::Error) -> Option<&Path> {
    match error {
        ignore::Error::WithPath { path, .. } => Some(path),
        ignore::Error::WithDepth { err, .. } | ignore::Error::WithLineNumber { err, .. } => path_of(err),
        _ => None,
    }
}
