//! Which untracked paths git ignores: the files with rules, and which of them counts where.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gix::bstr::{BString, ByteSlice};
use gix::index::entry::Flags;
use gix::objs::FindExt;

use super::config::{self, Named};
use super::pattern::{Patterns, Rule};
use super::{Boundary, GitError, Repository, Result, index::Index};
use banger_agent::rooted_dir::split;

/// git itself reads no pattern file beyond this many bytes.
const LIMIT: u64 = 100 << 20;

/// The rules of one repository; cheap to clone, one clone per thread.
///
/// It answers for paths whose parent folders are not themselves ignored, which is what a walk that
/// does not enter ignored folders asks.
#[derive(Clone)]
pub(crate) struct Excludes {
    shared: Arc<Shared>,
    /// Patterns of the folders from the root to [`Self::folder`], outermost first.
    levels: Vec<Level>,
    folder: Vec<u8>,
}

struct Shared {
    worktree: PathBuf,
    boundary: Arc<Boundary>,
    ignore_case: bool,
    /// `core.excludesFile`, then `info/exclude`: weakest first.
    globals: Vec<PatternFile>,
    /// `.gitignore` files that a sparse checkout keeps out of the worktree; they count all the
    /// same.
    staged: HashMap<BString, Vec<u8>>,
}

#[derive(Clone)]
struct Level {
    /// Length of the folder's path.
    length: usize,
    patterns: Option<Arc<PatternFile>>,
}

/// The rules of one file, and where it is.
struct PatternFile {
    patterns: Patterns,
    path: PathBuf,
    /// Whether it was read from the index, since a sparse checkout keeps it out of the worktree.
    is_staged: bool,
}

/// The line of a file with rules that decides whether git ignores a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IgnoreRule {
    /// The file, an absolute path.
    pub file: PathBuf,
    /// Whether the file is in the index only, since a sparse checkout keeps it out of the worktree.
    pub is_staged: bool,
    /// The number of the line, from 1.
    pub line: usize,
    /// The rule as it is written.
    pub pattern: Vec<u8>,
    /// Whether what the rule matches is ignored; false: it makes an exception (`!`).
    pub ignores: bool,
}

impl Excludes {
    pub(crate) fn new(repository: &Repository, index: Option<&Index>) -> Result<Self> {
        let config = repository.config()?;
        let ignore_case = config::boolean(&config, "core.ignoreCase", false);
        let mut globals = Vec::new();
        let user = repository.global_excludes_file(&config)?;
        let own = Named::ByRepository(repository.common_dir.join("info/exclude"));
        for file in user.into_iter().chain([own]) {
            match repository.read_named(&file, LIMIT) {
                Ok(Some(bytes)) => globals.push(PatternFile {
                    patterns: Patterns::parse(&bytes, b""),
                    path: file.path().to_owned(),
                    is_staged: false,
                }),
                Ok(None) | Err(GitError::TooLarge { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let staged = match index {
            Some(index) => staged_ignore_files(repository, index)?,
            None => HashMap::new(),
        };
        let (worktree, boundary) = (repository.worktree.clone(), repository.boundary.clone());
        Ok(Self {
            shared: Arc::new(Shared { worktree, boundary, ignore_case, globals, staged }),
            levels: Vec::new(),
            folder: Vec::new(),
        })
    }

    /// Whether `path` (relative to the worktree) is ignored, given that its parent is not.
    ///
    /// # Errors
    /// A `.gitignore` that cannot be read; it then counts as empty, and the next call works.
    pub(crate) fn is_excluded(&mut self, path: &[u8], is_dir: bool) -> Result<bool> {
        let entered = self.enter(split(path).0);
        let is_excluded = self.find(path, is_dir).is_some_and(|(_, rule)| rule.ignores());
        entered.map(|()| is_excluded)
    }

    /// The rule by which [`Excludes::is_excluded`] decides; none if no rule speaks of `path`.
    ///
    /// # Errors
    /// As [`Excludes::is_excluded`].
    pub(crate) fn rule(&mut self, path: &[u8], is_dir: bool) -> Result<Option<IgnoreRule>> {
        self.enter(split(path).0)?;
        Ok(self.find(path, is_dir).map(|(file, rule)| IgnoreRule {
            file: file.path.clone(),
            is_staged: file.is_staged,
            line: rule.line(),
            pattern: rule.written(),
            ignores: rule.ignores(),
        }))
    }

    /// The rule that decides about `path`, whose folder has been entered.
    fn find(&self, path: &[u8], is_dir: bool) -> Option<(&PatternFile, &Rule)> {
        let own = self.levels.iter().rev().filter_map(|level| level.patterns.as_deref());
        let mut files = own.chain(self.shared.globals.iter().rev());
        files.find_map(|file| Some((file, file.patterns.rule(path, is_dir, self.shared.ignore_case)?)))
    }

    /// Makes `folder` the one whose chain of `.gitignore` files is loaded.
    fn enter(&mut self, folder: &[u8]) -> Result<()> {
        if !self.levels.is_empty() && self.folder == folder {
            return Ok(());
        }
        let is_above = |level: &Level| {
            level.length == 0
                || (self.folder.get(..level.length) == folder.get(..level.length)
                    && matches!(folder.get(level.length), None | Some(b'/')))
        };
        let kept = self.levels.iter().take_while(|level| is_above(level)).count();
        self.levels.truncate(kept);
        self.folder = folder.to_vec();
        let loaded = self.levels.last().map(|level| level.length);
        let mut problem = Ok(());
        let ends = folder.find_iter("/").chain((!folder.is_empty()).then_some(folder.len()));
        for length in std::iter::once(0).chain(ends) {
            if loaded.is_some_and(|loaded| length <= loaded) {
                continue;
            }
            let patterns = self.shared.load(&folder[..length]).unwrap_or_else(|error| {
                problem = Err(error);
                None
            });
            self.levels.push(Level { length, patterns: patterns.map(Arc::new) });
        }
        problem
    }
}

impl Shared {
    fn load(&self, folder: &[u8]) -> Result<Option<PatternFile>> {
        let mut name = BString::from(folder);
        if !folder.is_empty() {
            name.push(b'/');
        }
        name.extend_from_slice(b".gitignore");
        let path = self.worktree.join(OsStr::from_bytes(&name));
        // git does not follow a symbolic link here, lest it read what is outside the repository.
        let (patterns, is_staged) = match read(&self.boundary, &path) {
            Ok(Some(bytes)) => (Patterns::parse(&bytes, folder), false),
            Ok(None) => match self.staged.get(&name) {
                Some(bytes) => (Patterns::parse(bytes, folder), true),
                None => return Ok(None),
            },
            Err(error) => return Err(GitError::io("read", path, error)),
        };
        Ok(Some(PatternFile { patterns, path, is_staged }))
    }
}

impl Repository {
    /// Where the user's own excludes are: `core.excludesFile`, else `git/ignore` in the XDG folder.
    pub(crate) fn global_excludes_file(&self, config: &gix::config::File) -> Result<Option<Named>> {
        self.named_file(config, "core.excludesFile", "ignore")
    }
}

/// Only for folders that exist: rules for others are never asked for. A blob that a partial clone
/// has not fetched counts as empty, for nothing is fetched here.
fn staged_ignore_files(repository: &Repository, index: &Index) -> Result<HashMap<BString, Vec<u8>>> {
    let state = &index.state;
    let skipped = state.entries().iter().filter(|entry| entry.flags.contains(Flags::SKIP_WORKTREE));
    let wanted: Vec<_> = skipped
        .map(|entry| (entry.path(state), entry.id))
        .filter(|(path, _)| {
            let (folder, name) = match path.rfind_byte(b'/') {
                Some(slash) => (&path[..slash], &path[slash + 1..]),
                None => (&path[..0], &path[..]),
            };
            name == b".gitignore"
                && repository
                    .boundary
                    .metadata(&repository.worktree.join(OsStr::from_bytes(folder)))
                    .is_ok_and(|folder| folder.is_dir())
        })
        .collect();
    if wanted.is_empty() {
        return Ok(HashMap::new());
    }
    let objects = repository.objects()?;
    let mut buffer = Vec::new();
    let read = wanted.into_iter().filter_map(|(path, id)| {
        let blob = objects.find_blob(&id, &mut buffer).ok()?;
        Some((path.to_owned(), blob.data.to_vec()))
    });
    Ok(read.collect())
}

/// The bytes of a `.gitignore`; `None` where git acts as if there were none.
fn read(boundary: &Boundary, path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = match boundary.open_file(path) {
        Ok(file) => file,
        Err(error) => {
            use nix::libc::{EINVAL, ELOOP, ENOENT, ENOTDIR, ENXIO};
            return match error.raw_os_error() {
                Some(EINVAL | ELOOP | ENOENT | ENOTDIR | ENXIO) => Ok(None),
                _ => Err(error),
            };
        }
    };
    let metadata = file.metadata()?;
    if metadata.len() > LIMIT {
        return Ok(None);
    }
    let mut bytes = Vec::with_capacity(metadata.len() as usize);
    file.take(LIMIT).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}
