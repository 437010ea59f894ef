//! One repository: its worktree and its git directories.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gix::config::File;

use super::dot_git::common_dir;
use super::{Boundary, GitError, Host, RelPath, Result, config, ownership};

/// A repository with a worktree: the workspace's own, a populated submodule or an embedded one.
#[derive(Clone, Debug)]
pub struct Repository {
    /// The path of its worktree in the workspace; the root for the workspace's own repository.
    pub path: RelPath,
    /// The worktree, absolute and canonical.
    pub worktree: PathBuf,
    /// `$GIT_DIR`: `HEAD`, the index and in-progress state. For a linked worktree its private
    /// folder.
    pub git_dir: PathBuf,
    /// `$GIT_COMMON_DIR`: objects, refs and configuration; equals `git_dir` but in linked
    /// worktrees.
    pub common_dir: PathBuf,
    pub(crate) format: Format,
    pub(crate) host: Arc<Host>,
    pub(crate) boundary: Arc<Boundary>,
}

/// The storage format of a repository, by its `extensions.*` (git-config(1)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Format {
    pub(crate) object_hash: gix::hash::Kind,
    pub(crate) reftable: bool,
    pub(crate) worktree_config: bool,
}

impl Repository {
    /// Whether its objects are named by SHA-256 rather than SHA-1.
    pub fn is_sha256(&self) -> bool {
        self.format.object_hash == gix::hash::Kind::Sha256
    }

    /// The boundary within which its files are opened.
    pub fn boundary(&self) -> &Arc<Boundary> {
        &self.boundary
    }

    /// Opens the repository that [`super::dot_git::probe`] found at `folder`, whose place in the
    /// workspace is `path`.
    pub(crate) fn open(
        folder: &Path,
        git_dir: PathBuf,
        file: Option<&Path>,
        path: RelPath,
        host: Arc<Host>,
        boundary: Arc<Boundary>,
    ) -> Result<Self> {
        let common_dir = common_dir(&boundary, &git_dir)?;
        let paths = [Some(folder), file, Some(&git_dir), Some(&common_dir)];
        ownership::check(&host, folder, &paths.into_iter().flatten().collect::<Vec<_>>())?;
        let local = config::single(&boundary, &common_dir.join("config"))?;
        let format = Format::read(&local, &git_dir)?;
        check_worktree(&boundary, folder, &git_dir, &common_dir, &local, format)?;
        let worktree = folder.to_owned();
        Ok(Self { path, worktree, git_dir, common_dir, format, host, boundary })
    }
}

impl Format {
    /// Version 0 knows no extension that matters here; see gitrepository-layout(5) and
    /// Documentation/technical/repository-version.txt.
    fn read(config: &File, git_dir: &Path) -> Result<Self> {
        let unsupported = |reason: String| GitError::UnsupportedFormat { git_dir: git_dir.to_owned(), reason };
        let version = config.integer("core.repositoryFormatVersion").ok().flatten().unwrap_or(0);
        let mut format = Self {
            object_hash: gix::hash::Kind::Sha1,
            reftable: false,
            worktree_config: config::boolean(config, "extensions.worktreeConfig", false),
        };
        match version {
            ..=0 => return Ok(format),
            1 => {}
            _ => return Err(unsupported(format!("repository format version {version} is not known"))),
        }
        for section in config.sections_by_name("extensions").into_iter().flatten() {
            for name in section.value_names() {
                let value = section.value(&name).unwrap_or_default().to_string();
                match (name.to_ascii_lowercase().as_str(), value.to_ascii_lowercase().as_str()) {
                    ("objectformat", "sha1") => format.object_hash = gix::hash::Kind::Sha1,
                    ("objectformat", "sha256") => format.object_hash = gix::hash::Kind::Sha256,
                    ("refstorage", "files") => format.reftable = false,
                    ("refstorage", "reftable") => format.reftable = true,
                    (
                        "noop" | "noop-v1" | "preciousobjects" | "partialclone" | "worktreeconfig"
                        | "compatobjectformat" | "relativeworktrees",
                        _,
                    ) => {}
                    _ => return Err(unsupported(format!("extension `{name} = {value}` is not known"))),
                }
            }
        }
        Ok(format)
    }
}

/// Makes sure that `folder`, in which `.git` is, is the worktree. `core.worktree` may say the same
/// in other words, as it does in submodules. A linked worktree does not heed the shared
/// configuration.
fn check_worktree(
    boundary: &Boundary,
    folder: &Path,
    git_dir: &Path,
    common_dir: &Path,
    local: &File,
    format: Format,
) -> Result<()> {
    let private = match format.worktree_config {
        true => config::single(boundary, &git_dir.join("config.worktree"))?,
        false => File::default(),
    };
    let shared = (common_dir == git_dir).then_some(local);
    let sources = || [Some(&private), shared].into_iter().flatten();
    if let Some(worktree) = sources().find_map(|config| config.string("core.worktree")) {
        let worktree = git_dir.join(OsStr::from_bytes(&worktree));
        let worktree = fs::canonicalize(&worktree).unwrap_or(worktree);
        if worktree != folder {
            return Err(GitError::WorktreeElsewhere { git_dir: git_dir.to_owned(), worktree });
        }
        return Ok(());
    }
    match sources().find_map(|config| config.boolean("core.bare").ok().flatten()) {
        Some(true) => Err(GitError::Bare { git_dir: git_dir.to_owned() }),
        _ => Ok(()),
    }
}
