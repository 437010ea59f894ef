//! Finds the workspace that a directory is in, as `git rev-parse --show-toplevel` does.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::dot_git::{DotGit, is_git_dir, probe};
use super::outside::OutsidePolicy;
use super::{Boundary, GitError, Host, RelPath, Repository, Result, config, list::nanoseconds};

/// A workspace: the git worktree that the current directory is in.
#[derive(Clone, Debug)]
pub struct Workspace {
    /// The root of the worktree, absolute and canonical.
    pub root: PathBuf,
    /// The repository whose worktree it is.
    pub repository: Repository,
    /// By what the workspace is recognised later.
    pub identity: Identity,
}

/// The identity of a workspace: its canonical root, and the inode of its git directory, by which a
/// workspace that was moved is recognised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The canonical root.
    pub root: PathBuf,
    /// Device number of the git directory ([`Repository::git_dir`]).
    pub device: u64,
    /// Inode number of the git directory.
    pub inode: u64,
    /// Birth time of the git directory in nanoseconds since 1970, if the file system records it.
    pub birth_ns: Option<i64>,
}

impl Workspace {
    /// Finds the workspace that the directory `dir` is in.
    ///
    /// # Errors
    /// [`GitError`] if `dir` is in no repository, in a bare one or inside `.git`; if the repository
    /// is owned by another user and not in `safe.directory`; if a `.git` file is broken, or the
    /// format of the repository unknown.
    pub fn discover(dir: &Path, host: Host) -> Result<Self> {
        let start = fs::canonicalize(dir).map_err(|error| GitError::io("find", dir, error))?;
        let device = device_of(&start)?;
        for folder in start.ancestors() {
            // git does not cross file systems on its way up either.
            if device_of(folder)? != device {
                break;
            }
            let boundary = Arc::new(Boundary::new(folder, &host));
            match probe(&boundary, folder) {
                DotGit::Found { git_dir, file } => {
                    let (path, host) = (RelPath::root(), Arc::new(host));
                    return Self::of(Repository::open(folder, git_dir, file.as_deref(), path, host, boundary)?);
                }
                DotGit::Broken(error) => return Err(error),
                DotGit::Absent if is_git_dir(&boundary, folder).unwrap_or(false) => {
                    return Err(without_worktree(&boundary, folder));
                }
                DotGit::Absent => {}
            }
        }
        Err(GitError::NotARepository { dir: start })
    }

    fn of(repository: Repository) -> Result<Self> {
        Ok(Self { identity: repository.identity()?, root: repository.worktree.clone(), repository })
    }
}

impl Repository {
    /// The identity of a workspace of which this is the repository.
    pub(crate) fn identity(&self) -> Result<Identity> {
        let metadata = fs::metadata(&self.git_dir).map_err(|error| GitError::io("look at", &self.git_dir, error))?;
        Ok(Identity::of(self.worktree.clone(), &metadata))
    }
}

impl Identity {
    /// The identity of the workspace whose root is `root`, if there is one. Nothing is opened but a
    /// `.git` file.
    pub fn at(root: &Path) -> Option<Identity> {
        // It is looked at, and nothing of it goes anywhere.
        let host = Host { outside: OutsidePolicy::Collect, ..Host::default() };
        match probe(&Boundary::new(root, &host), root) {
            DotGit::Found { git_dir, .. } => Some(Identity::of(root.to_owned(), &fs::metadata(git_dir).ok()?)),
            DotGit::Absent | DotGit::Broken(_) => None,
        }
    }

    fn of(root: PathBuf, git_dir: &fs::Metadata) -> Identity {
        let birth_ns = git_dir.created().ok().map(|time| match time.duration_since(std::time::UNIX_EPOCH) {
            Ok(since) => nanoseconds(since.as_secs() as i64, i64::from(since.subsec_nanos())),
            Err(_) => 0,
        });
        Identity { root, device: git_dir.dev(), inode: git_dir.ino(), birth_ns }
    }
}

fn without_worktree(boundary: &Boundary, git_dir: &Path) -> GitError {
    let git_dir = git_dir.to_owned();
    match config::single(boundary, &git_dir.join("config")) {
        Ok(config) if config::boolean(&config, "core.bare", false) => GitError::Bare { git_dir },
        _ => GitError::InsideGitDir { git_dir },
    }
}

fn device_of(path: &Path) -> Result<u64> {
    Ok(fs::metadata(path).map_err(|error| GitError::io("look at", path, error))?.dev())
}
