//! Examines `.git`: a git directory, or a file or link that leads to one, and whether it may lead
//! there.
//!
//! A git directory outside of the workspace is read without a question only if git itself has noted
//! there that it belongs to this work tree: `worktrees/<id>/gitdir` names the work tree's `.git`
//! (gitrepository-layout(5)), or `core.worktree` of a submodule names the work tree.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::boundary::{Boundary, read_back_link};
use super::{GitError, Result, config};

/// The longest file that has one line, in bytes.
const SMALL: u64 = 64 << 10;

/// What is at `<folder>/.git`.
pub(crate) enum DotGit {
    /// Nothing that makes the folder a worktree.
    Absent,
    /// A git folder, and the `.git` file that named it if there is one.
    Found { git_dir: PathBuf, file: Option<PathBuf> },
    /// A `.git` file that leads nowhere, or where it may not.
    Broken(GitError),
}

/// Looks at `<folder>/.git` as git does: a git folder, or a file that names one. `folder` is
/// canonical.
pub(crate) fn probe(boundary: &Boundary, folder: &Path) -> DotGit {
    match find(boundary, folder) {
        Ok(found) => found,
        Err(error) => DotGit::Broken(error),
    }
}

fn find(boundary: &Boundary, folder: &Path) -> Result<DotGit> {
    let dot_git = folder.join(".git");
    let Ok(mut metadata) = boundary.metadata(&dot_git) else { return Ok(DotGit::Absent) };
    let mut real = dot_git.clone();
    if metadata.is_symlink() {
        let Ok(target) = fs::canonicalize(&dot_git) else { return Ok(DotGit::Absent) };
        if !boundary.is_inside(&target) && target.is_dir() && !seems_git_dir(&target) {
            return Ok(DotGit::Absent);
        }
        admit_git_dir(boundary, folder, &dot_git, &target)?;
        metadata = boundary.metadata(&target).map_err(|error| GitError::io("look at", &target, error))?;
        real = target;
    }
    if metadata.is_dir() {
        return Ok(match is_git_dir(boundary, &real)? {
            true => DotGit::Found { git_dir: real, file: None },
            false => DotGit::Absent,
        });
    }
    match metadata.is_file() {
        true => Ok(DotGit::Found { git_dir: follow_git_file(boundary, folder, &real)?, file: Some(dot_git) }),
        false => Ok(DotGit::Absent),
    }
}

/// A folder with a valid `HEAD`, objects and refs.
pub(crate) fn is_git_dir(boundary: &Boundary, dir: &Path) -> Result<bool> {
    if !has_valid_head(boundary, dir)? {
        return Ok(false);
    }
    let common = match common_dir(boundary, dir) {
        Ok(common) => common,
        Err(error @ GitError::Outside { .. }) => return Err(error),
        Err(_) => return Ok(false),
    };
    Ok(boundary.is_dir(&common.join("objects"))? && boundary.is_dir(&common.join("refs"))?)
}

/// Whether `folder` may be a git directory, so that the user can be asked; nothing is read.
fn seems_git_dir(dir: &Path) -> bool {
    dir.join("HEAD").symlink_metadata().is_ok()
}

fn has_valid_head(boundary: &Boundary, dir: &Path) -> Result<bool> {
    let head = dir.join("HEAD");
    if let Ok(target) = boundary.read_link(&head) {
        return Ok(Path::new(OsStr::from_bytes(&target)).starts_with("refs"));
    }
    let Some(content) = boundary.read(&head, SMALL)? else { return Ok(false) };
    Ok(match content.bytes.strip_prefix(b"ref:") {
        Some(target) => target.trim_ascii().starts_with(b"refs/"),
        None => content.bytes.trim_ascii().len() >= 40 && content.bytes[..40].iter().all(u8::is_ascii_hexdigit),
    })
}

/// `file` is the `.git` of `folder`, or what that links to.
fn follow_git_file(boundary: &Boundary, folder: &Path, file: &Path) -> Result<PathBuf> {
    let broken = |reason: &str| GitError::BrokenGitFile { path: folder.join(".git"), reason: reason.to_owned() };
    let content = boundary.read(file, SMALL)?.ok_or_else(|| broken("it is gone"))?.bytes;
    let target = content.strip_prefix(b"gitdir: ").ok_or_else(|| broken("it has no `gitdir: ` line"))?;
    let target = folder.join(OsStr::from_bytes(target.trim_ascii_end()));
    let git_dir = fs::canonicalize(&target).map_err(|error| broken(&format!("`{}`: {error}", target.display())))?;
    let is_none = || broken(&format!("`{}` is not a git folder", git_dir.display()));
    if !seems_git_dir(&git_dir) {
        return Err(is_none());
    }
    admit_git_dir(boundary, folder, &folder.join(".git"), &git_dir)?;
    if is_git_dir(boundary, &git_dir)? { Ok(git_dir) } else { Err(is_none()) }
}

/// Where what all worktrees share is; `git_dir` is open.
pub(crate) fn common_dir(boundary: &Boundary, git_dir: &Path) -> Result<PathBuf> {
    let file = git_dir.join("commondir");
    let Some(content) = boundary.read(&file, SMALL)? else { return Ok(git_dir.to_owned()) };
    let common = git_dir.join(OsStr::from_bytes(content.bytes.trim_ascii_end()));
    let common = fs::canonicalize(&common).map_err(|error| GitError::io("find", common, error))?;
    if boundary.is_inside(&common) {
        return Ok(common);
    }
    // What git's back link proves is in the shared folder of its own repository.
    let is_proven = boundary.is_inside(git_dir) && !boundary.is_in_root(git_dir);
    if is_proven && git_dir.parent() == Some(&common.join("worktrees")) {
        boundary.prove(&common);
    } else {
        boundary.admit(boundary.name(&file), &common)?;
    }
    Ok(common)
}

/// Opens `git_dir`, to which `from` leads, for `folder`.
fn admit_git_dir(boundary: &Boundary, folder: &Path, from: &Path, git_dir: &Path) -> Result<()> {
    if boundary.is_inside(git_dir) {
        return Ok(());
    }
    if names_back(folder, git_dir) {
        boundary.prove(git_dir);
        return Ok(());
    }
    boundary.admit(boundary.name(from), git_dir)
}

/// Whether git noted in `git_dir` that `folder` is its work tree. Reads no more than these notes.
fn names_back(folder: &Path, git_dir: &Path) -> bool {
    if let Ok(Some(content)) = read_back_link(&git_dir.join("gitdir"), SMALL) {
        let named = git_dir.join(OsStr::from_bytes(content.bytes.trim_ascii_end()));
        if named.file_name() == Some(OsStr::new(".git")) {
            let parent = named.parent().and_then(|parent| fs::canonicalize(parent).ok());
            return parent.as_deref() == Some(folder);
        }
    }
    ["config.worktree", "config"].iter().any(|name| {
        let path = git_dir.join(name);
        let Ok(Some(content)) = read_back_link(&path, config::OWN_LIMIT) else { return false };
        if config::cost(&content.bytes) > config::OWN_LIMIT {
            return false;
        }
        let Ok(config) = config::parse(&content.bytes, &path) else { return false };
        let Some(worktree) = config.string("core.worktree") else { return false };
        fs::canonicalize(git_dir.join(OsStr::from_bytes(&worktree))).is_ok_and(|named| named == folder)
    })
}
