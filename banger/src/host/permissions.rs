//! Who else may write to the user's own files: whoever can says what banger runs, and what it hands
//! to VMs.
//!
//! The rules are those that OpenSSH has for its files (`StrictModes` of sshd_config(5)), with
//! Debian's exception: a group that only the user is in may write, since umask 002 makes
//! directories so.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::unistd::{Gid, Group, Uid, User};

use super::shell::shell_quoted;
use crate::error::{CommandError, ErrorKind};

/// Bits of a mode: write permission of the group and of all others, and the sticky bit, with which
/// only the owner of an entry may rename it (inode(7)).
const GROUP_WRITE: u32 = 0o020;
const OTHER_WRITE: u32 = 0o002;
const STICKY: u32 = 0o1000;

/// Checks a directory of banger's own, and whether others can put another one in its place. The
/// user's home directory, and what is above it, is taken as it is. A directory that is not there is
/// no error.
///
/// # Errors
/// [`ErrorKind::UnsafePermissions`].
pub fn check_directory(path: &Path, home: Option<&Path>) -> Result<(), CommandError> {
    let Ok(real) = path.canonicalize() else { return Ok(()) };
    let home = home.and_then(|home| home.canonicalize().ok());
    check_entry(path)?;
    for above in real.ancestors().skip(1).take_while(|above| home.as_deref() != Some(above)) {
        let mode = above.metadata().map_or(0, |metadata| metadata.mode());
        if mode & OTHER_WRITE != 0 && mode & STICKY == 0 {
            let problem = format!("every user may replace what is in it (mode {:04o})", mode & 0o7777);
            return Err(unsafe_to_use(above, &problem).hint(format!("run: chmod o-w {}", shell_quoted(above))));
        }
    }
    Ok(())
}

/// Checks one directory of banger's own, such as one in a directory that was checked; none there is
/// no error.
///
/// # Errors
/// [`ErrorKind::UnsafePermissions`].
pub(crate) fn check_entry(path: &Path) -> Result<(), CommandError> {
    path.metadata().map_or(Ok(()), |metadata| check(path, &metadata))
}

/// Checks a file or directory by its metadata: it is this user's or root's, and nobody else may
/// write to it.
///
/// # Errors
/// [`ErrorKind::UnsafePermissions`].
pub(crate) fn check(path: &Path, metadata: &Metadata) -> Result<(), CommandError> {
    let mode = metadata.mode() & 0o7777;
    let owner = Uid::from_raw(metadata.uid());
    if owner != Uid::effective() && !owner.is_root() {
        let name = User::from_uid(owner).ok().flatten().map_or_else(|| format!("uid {owner}"), |user| user.name);
        let error = unsafe_to_use(path, &format!("it belongs to another user ({name})"));
        return Err(error.hint("use what is yours: set HOME, or the XDG variable that names it, or change its owner"));
    }
    let who = if mode & OTHER_WRITE != 0 {
        "every user".to_owned()
    } else if mode & GROUP_WRITE != 0 && !is_of_user_alone(Gid::from_raw(metadata.gid())) {
        format!("the group {}", metadata.gid())
    } else {
        return Ok(());
    };
    let error = unsafe_to_use(path, &format!("{who} may write to it (mode {mode:04o})"));
    Err(error.hint(format!("look at what is there, then run: chmod go-w {}", shell_quoted(path))))
}

/// Whether only this user is in the group: it is the user's own by passwd(5), has the same name,
/// and no other member.
fn is_of_user_alone(gid: Gid) -> bool {
    let user = User::from_uid(Uid::effective()).ok().flatten();
    let group = Group::from_gid(gid).ok().flatten();
    user.zip(group).is_some_and(|(user, group)| {
        user.gid == gid && user.name == group.name && group.mem.iter().all(|member| *member == user.name)
    })
}

fn unsafe_to_use(path: &Path, problem: &str) -> CommandError {
    CommandError::new(format!("`{}` is not safe to use: {problem}", path.display())).kind(ErrorKind::UnsafePermissions)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use super::*;

    fn message(path: &Path) -> String {
        match check_directory(path, None) {
            Ok(()) => String::new(),
            Err(error) => {
                assert_eq!(error.kind, ErrorKind::UnsafePermissions);
                assert_eq!(error.hints.len(), 1);
                error.message
            }
        }
    }

    #[test]
    fn world_writable_directory_is_refused() {
        let scratch = tempfile::tempdir().unwrap();
        let data = scratch.path().join("above/data");
        assert_eq!(message(&data), "");
        fs::create_dir_all(&data).unwrap();
        let set = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        for (mode, problem) in [
            (0o700, ""),
            (0o755, ""),
            (0o777, "every user may write to it (mode 0777)"),
            (0o1777, "every user may write to it (mode 1777)"),
            (0o702, "every user may write to it (mode 0702)"),
        ] {
            set(&data, mode);
            let message = message(&data);
            assert!(message.ends_with(problem) && message.is_empty() == problem.is_empty(), "{mode:o}: {message}");
        }
        set(&data, 0o700);
        // A link is as safe as what it leads to.
        let link = scratch.path().join("link");
        symlink(&data, &link).unwrap();
        assert_eq!(message(&link), "");
        set(&data, 0o777);
        assert!(message(&link).contains("every user"));
        set(&data, 0o700);

        // Whoever may rename it can put another one there.
        let above = data.parent().unwrap();
        set(above, 0o777);
        assert!(message(&data).ends_with("every user may replace what is in it (mode 0777)"));
        assert!(check_directory(&data, Some(above)).is_ok());
        set(above, 0o1777);
        assert_eq!(message(&data), "");
    }

    #[test]
    #[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
    fn foreign_owned_or_group_writable_directory_is_refused() {
        if !Uid::effective().is_root() {
            eprintln!("SKIPPED: only root can give a file to another user");
            return;
        }
        let scratch = tempfile::tempdir().unwrap();
        let data = scratch.path().join("data");
        fs::create_dir(&data).unwrap();
        chown(&data, Some(65534), None).unwrap();
        assert!(message(&data).contains("belongs to another user"));
        chown(&data, Some(0), Some(65534)).unwrap();
        assert_eq!(message(&data), "");
        fs::set_permissions(&data, Permissions::from_mode(0o775)).unwrap();
        assert!(message(&data).ends_with("the group 65534 may write to it (mode 0775)"));
        // As umask 002 makes it, where each user has a group.
        chown(&data, None, Some(0)).unwrap();
        assert_eq!(message(&data), "");
    }
}
