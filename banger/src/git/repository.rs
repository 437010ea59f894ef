//! One repository: its worktree and the folders git keeps about it.

use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gix::config::File;

use super::{GitError, Host, RelPath, Result, config, ownership};

/// A repository with a worktree: the workspace's own, a populated submodule or an embedded one.
#[derive(Clone, Debug)]
pub struct Repository {
    /// Where its worktree is in the workspace; the root for the workspace's own.
    pub path: RelPath,
    /// The worktree, absolute and canonical.
    pub worktree: PathBuf,
    /// `$GIT_DIR`: `HEAD`, the index and in-progress state. For a linked worktree its private folder.
    pub git_dir: PathBuf,
    /// `$GIT_COMMON_DIR`: objects, refs and configuration; equals `git_dir` but in linked worktrees.
    pub common_dir: PathBuf,
    pub(crate) format: Format,
    pub(crate) host: Arc<Host>,
}

/// What `extensions.*` say about how the repository is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Format {
    pub(crate) object_hash: gix::hash::Kind,
    pub(crate) reftable: bool,
    pub(crate) worktree_config: bool,
}

/// What is found at `<folder>/.git`.
pub(crate) enum DotGit {
    /// Nothing that makes the folder a worktree.
    Absent,
    /// A git folder, and the `.git` file that named it if there is one.
    Found { git_dir: PathBuf, file: Option<PathBuf> },
    /// A `.git` file that leads nowhere.
    Broken(GitError),
}

impl Repository {
    /// Whether its objects are named by SHA-256 rather than SHA-1.
    pub fn is_sha256(&self) -> bool {
        self.format.object_hash == gix::hash::Kind::Sha256
    }

    /// Opens the repository that [`probe`] found at `folder`, whose place in the workspace is `path`.
    pub(crate) fn open(
        folder: &Path,
        git_dir: PathBuf,
        file: Option<&Path>,
        path: RelPath,
        host: Arc<Host>,
    ) -> Result<Self> {
        ownership::check(
            &host,
            folder,
            &[Some(folder), file, Some(&git_dir)].into_iter().flatten().collect::<Vec<_>>(),
        )?;
        let common_dir = common_dir(&git_dir)?;
        let local = config::single(&common_dir.join("config"))?;
        let format = Format::read(&local, &git_dir)?;
        check_worktree(folder, &git_dir, &common_dir, &local, format)?;
        let worktree = folder.to_owned();
        Ok(Self { path, worktree, git_dir, common_dir, format, host })
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

/// Looks at `<folder>/.git` as git does: a git folder, or a file that names one.
pub(crate) fn probe(folder: &Path) -> DotGit {
    let dot_git = folder.join(".git");
    match fs::metadata(&dot_git) {
        Ok(metadata) if metadata.is_dir() => {
            if is_git_dir(&dot_git) {
                let git_dir = fs::canonicalize(&dot_git).unwrap_or(dot_git);
                return DotGit::Found { git_dir, file: None };
            }
            DotGit::Absent
        }
        Ok(metadata) if metadata.is_file() => match follow_git_file(&dot_git) {
            Ok(git_dir) => DotGit::Found { git_dir, file: Some(dot_git) },
            Err(error) => DotGit::Broken(error),
        },
        _ => DotGit::Absent,
    }
}

/// A folder with a valid `HEAD`, objects and refs.
pub(crate) fn is_git_dir(dir: &Path) -> bool {
    let Ok(common) = common_dir(dir) else { return false };
    has_valid_head(dir) && common.join("objects").is_dir() && common.join("refs").is_dir()
}

fn has_valid_head(dir: &Path) -> bool {
    let head = dir.join("HEAD");
    if let Ok(target) = fs::read_link(&head) {
        return target.starts_with("refs");
    }
    let Ok(content) = read_small(&head) else { return false };
    match content.strip_prefix(b"ref:") {
        Some(target) => target.trim_ascii().starts_with(b"refs/"),
        None => content.trim_ascii().len() >= 40 && content[..40].iter().all(u8::is_ascii_hexdigit),
    }
}

fn follow_git_file(file: &Path) -> Result<PathBuf> {
    let broken = |reason: &str| GitError::BrokenGitFile { path: file.to_owned(), reason: reason.to_owned() };
    let content = read_small(file).map_err(|error| GitError::io("read", file, error))?;
    let target = content.strip_prefix(b"gitdir: ").ok_or_else(|| broken("it has no `gitdir: ` line"))?;
    let target = Path::new(OsStr::from_bytes(target.trim_ascii_end()));
    let git_dir = file.parent().unwrap_or(Path::new("/")).join(target);
    let git_dir = fs::canonicalize(&git_dir).map_err(|error| broken(&format!("`{}`: {error}", git_dir.display())))?;
    if is_git_dir(&git_dir) {
        Ok(git_dir)
    } else {
        Err(broken(&format!("`{}` is not a git folder", git_dir.display())))
    }
}

fn common_dir(git_dir: &Path) -> Result<PathBuf> {
    let file = git_dir.join("commondir");
    match read_small(&file) {
        Ok(content) => {
            let common = git_dir.join(OsStr::from_bytes(content.trim_ascii_end()));
            fs::canonicalize(&common).map_err(|error| GitError::io("find", common, error))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(git_dir.to_owned()),
        Err(error) => Err(GitError::io("read", file, error)),
    }
}

/// Makes sure that `folder`, in which `.git` is, is the worktree. `core.worktree` may say the same in
/// other words, as it does in submodules. A linked worktree does not heed the shared configuration.
fn check_worktree(folder: &Path, git_dir: &Path, common_dir: &Path, local: &File, format: Format) -> Result<()> {
    let private =
        if format.worktree_config { config::single(&git_dir.join("config.worktree"))? } else { File::default() };
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

/// Reads a file that git keeps short.
fn read_small(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(64 << 10).read_to_end(&mut bytes)?;
    Ok(bytes)
}
