//! git's safe.directory rule: a repository of another user is not read unless the user said so.
//! See `safe.directory` in git-config(1).

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::{GitError, Host, Result, config};

/// Checks that everything in `paths` (the worktree, the `.git` file if any, the git folder) belongs
/// to this user, or that the user's own configuration trusts `worktree`.
pub(crate) fn check(host: &Host, worktree: &Path, paths: &[&Path]) -> Result<()> {
    for &path in paths {
        let owner = std::fs::symlink_metadata(path).map_err(|error| GitError::io("look at", path, error))?.uid();
        if !is_ours(host, owner) && !is_declared_safe(host, worktree)? {
            return Err(GitError::DubiousOwnership { path: path.to_owned(), worktree: worktree.to_owned(), owner });
        }
    }
    Ok(())
}

/// root also acts for the user who called sudo, as in git.
fn is_ours(host: &Host, owner: u32) -> bool {
    let user = nix::unistd::geteuid();
    owner == user.as_raw() || (user.is_root() && host.sudo_uid == Some(owner))
}

/// The values apply in order; an empty one forgets those before it.
fn is_declared_safe(host: &Host, worktree: &Path) -> Result<bool> {
    let mut safe = false;
    for value in config::protected(host)?.strings("safe.directory").unwrap_or_default() {
        safe = match &value[..] {
            b"" => false,
            b"*" => true,
            value => safe || names(host, value, worktree),
        };
    }
    Ok(safe)
}

fn names(host: &Host, value: &[u8], worktree: &Path) -> bool {
    let Some(named) = config::interpolate(host, value) else { return false };
    if let Some(parent) = named.as_os_str().as_bytes().strip_suffix(b"/*") {
        let parent = Path::new(std::ffi::OsStr::from_bytes(parent));
        return worktree != parent && worktree.starts_with(parent);
    }
    named == worktree || std::fs::canonicalize(&named).is_ok_and(|real| real == worktree)
}
