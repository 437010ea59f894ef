//! Errors about repositories of the host, and hints for them.

use std::io;
use std::path::PathBuf;

use super::Outside;
use crate::error::{CommandError, ErrorKind};
use crate::host::shell::shell_quoted;

/// An error about a git repository on the host.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GitError {
    /// No repository at or above the folder.
    #[error("`{}` is not in a git repository", dir.display())]
    NotARepository {
        /// Where the search began.
        dir: PathBuf,
    },
    /// A repository without a worktree.
    #[error("`{}` is a bare repository: there are no files to run on", git_dir.display())]
    Bare {
        /// The bare repository.
        git_dir: PathBuf,
    },
    /// The folder is inside a repository's own `.git`.
    #[error("`{}` is inside git's own folder", git_dir.display())]
    InsideGitDir {
        /// The git directory that the search began in.
        git_dir: PathBuf,
    },
    /// The repository is owned by another user, and not in `safe.directory` (git-config(1)).
    #[error("the repository at `{}` belongs to another user (uid {owner})", path.display())]
    DubiousOwnership {
        /// The worktree, `.git` file or git folder that is owned by somebody else.
        path: PathBuf,
        /// The worktree, which is what `safe.directory` must name.
        worktree: PathBuf,
        /// The user id of the owner.
        owner: u32,
    },
    /// A `.git` file, or the folder it points at, is not usable.
    #[error("`{}` does not lead to a git repository: {reason}", path.display())]
    BrokenGitFile {
        /// The `.git` file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The repository leads to a place that is not its own, and that the user has not allowed.
    #[error("{}", .outside.describe(root))]
    Outside {
        /// The place, and what leads there.
        outside: Outside,
        /// The workspace's root.
        root: PathBuf,
    },
    /// A path in the index that git itself would not have put there.
    #[error("the index `{}` has a path that git refuses: `{}` ({reason})", index.display(), path.escape_ascii())]
    InvalidPath {
        /// The index.
        index: PathBuf,
        /// The path.
        path: Vec<u8>,
        /// What is wrong with it.
        reason: String,
    },
    /// `core.worktree` names a folder other than the one `.git` is in. git would go there; but a
    /// downloaded repository could so name the user's home, which must not travel unasked.
    #[error("the repository at `{}` says that its files are in `{}`", git_dir.display(), worktree.display())]
    WorktreeElsewhere {
        /// The repository.
        git_dir: PathBuf,
        /// The value of its `core.worktree`.
        worktree: PathBuf,
    },
    /// The repository uses a format this version cannot read.
    #[error("the repository at `{}` cannot be read: {reason}", git_dir.display())]
    UnsupportedFormat {
        /// The repository.
        git_dir: PathBuf,
        /// The unknown format or extension.
        reason: String,
    },
    /// The operating system refused.
    #[error("cannot {action} `{}`: {source}", path.display())]
    Io {
        /// A verb: "read", "list".
        action: &'static str,
        /// The path that was operated on.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// A file of the repository cannot be parsed.
    #[error("cannot understand {what} of `{}`: {reason}", path.display())]
    Malformed {
        /// "the index", "the configuration".
        what: &'static str,
        /// The file or repository.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
    /// A file of the repository's state is beyond what is carried.
    #[error("`{}` has {size} bytes, more than the {limit} that are carried", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// `.worktreeinclude` is beyond a limit.
    #[error("`{}` {what}", path.display())]
    IncludeTooLarge {
        /// The `.worktreeinclude`.
        path: PathBuf,
        /// What exceeds which limit, such as "has more than 100 rules".
        what: String,
    },
    /// The `git` binary could not be run, or failed.
    #[error("`git {arguments}` failed in `{}`: {reason}", git_dir.display())]
    Command {
        /// The arguments, for people.
        arguments: String,
        /// The repository it ran on.
        git_dir: PathBuf,
        /// Its standard error, or why it did not start.
        reason: String,
    },
    /// git could not fetch from a VM, or refused what the VM sent.
    #[error("cannot fetch from `{url}`")]
    Fetch {
        /// The URL of the VM.
        url: String,
        /// git's standard error.
        reason: String,
    },
    /// A VM has more branches and tags than are taken over.
    #[error("`{url}` has {count} branches and tags, more than the {limit} that are fetched")]
    TooManyRefs {
        /// The URL of the VM.
        url: String,
        /// How many there are.
        count: usize,
        /// How many there may be.
        limit: usize,
    },
}

impl GitError {
    /// What the user can do about the error, if anything.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotARepository { .. } => Some("run it in a git repository, or make one here: git init".into()),
            Self::Bare { .. } => Some("run it in a worktree: git worktree add <path>".into()),
            Self::InsideGitDir { .. } => Some("run it in the worktree, outside `.git`".into()),
            Self::DubiousOwnership { worktree, .. } => {
                Some(format!("if you trust it: git config --global --add safe.directory {}", shell_quoted(worktree)))
            }
            Self::WorktreeElsewhere { .. } => Some("if it is not so: git config --unset core.worktree".into()),
            Self::BrokenGitFile { .. } => Some(
                "a moved worktree or submodule is mended by `git worktree repair` in the main \
                 repository, or by `git submodule update --init`"
                    .into(),
            ),
            Self::Outside { outside, root } => {
                let moved = "if the worktree was moved: git worktree repair; ";
                Some(format!(
                    "{}to see all such places, and allow banger to read them: banger trust, in {}",
                    if outside.is_git_file() { moved } else { "" },
                    shell_quoted(root)
                ))
            }
            Self::Malformed { what: "the index", path, .. } | Self::InvalidPath { index: path, .. } => Some(format!(
                "check the repository: git fsck; to write a new index, without what is staged: rm {} && git reset",
                shell_quoted(path)
            )),
            Self::TooManyRefs { .. } => Some("delete those in the VM that you do not need: git branch -D NAME".into()),
            Self::IncludeTooLarge { .. } => Some(
                "it is for single files, such as .env: name these; let the VM make build output and dependencies"
                    .into(),
            ),
            Self::Command { .. } => Some("the `git` command is needed here; is it installed?".into()),
            _ => None,
        }
    }

    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::Io { action, path: path.into(), source }
    }

    pub(crate) fn malformed(what: &'static str, path: impl Into<PathBuf>, reason: impl std::fmt::Display) -> Self {
        Self::Malformed { what, path: path.into(), reason: reason.to_string() }
    }
}

impl From<GitError> for CommandError {
    fn from(error: GitError) -> Self {
        let kind = match &error {
            GitError::NotARepository { .. } | GitError::Bare { .. } | GitError::InsideGitDir { .. } => {
                ErrorKind::NoWorkspace
            }
            GitError::DubiousOwnership { .. } | GitError::Outside { .. } => ErrorKind::UntrustedRepository,
            GitError::Io { source, .. } => source.into(),
            GitError::Fetch { .. } | GitError::TooManyRefs { .. } => ErrorKind::Guest,
            _ => ErrorKind::Repository,
        };
        let hints = error.hint().into_iter().collect();
        let details = match &error {
            GitError::Fetch { reason, .. } => reason.lines().map(|line| line.trim_end().to_owned()).collect(),
            _ => Vec::new(),
        };
        CommandError { kind, hints, details, ..CommandError::new(error.to_string()) }
    }
}

/// The text of an error of gix, with its causes.
pub(crate) fn describe(error: &gix::Error) -> String {
    let mut all: Vec<String> = error.iter_errors_with_locations().map(|error| format!("{error:#}")).collect();
    all.dedup();
    all.join(": ")
}
