//! What a guest may write to the host.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;

use banger_agent::copy::{EntryKind, Rules};
use banger_agent::rooted_dir::{c, split};
use nix::fcntl::AtFlags;
use nix::sys::stat::fstatat;

use super::free_space::FreeSpace;
use crate::git::{is_git_dir_name, names_git_dir};

/// The permission bits that are kept: no write permission for group and others, no setuid and
/// setgid.
pub(super) const MODE: u32 = 0o755;

/// The rules of the host for what a guest sends: no repository that was not asked for, no more
/// permissions than the umask leaves, and some of the disk stays free.
///
/// git runs programs that a repository's configuration names, and goes by the repository that it
/// finds in or above a directory. So a guest that could bring one would have its programs run here,
/// by the next `git status`.
pub(super) struct HostRules {
    mode: u32,
    /// Whether the path that was asked for names a git directory, or something in one.
    wants_repository: bool,
    free_space: FreeSpace,
}

impl HostRules {
    /// The rules for a copy of `asked`, a path as the user gave it.
    pub(super) fn new(asked: &OsStr) -> Self {
        let is_repository = |name: &[u8]| is_git_dir_name(name) || name.to_ascii_lowercase().ends_with(b".git");
        let wants_repository = asked.as_bytes().split(|byte| *byte == b'/').any(is_repository);
        HostRules { mode: MODE & !umask(), wants_repository, free_space: FreeSpace::default() }
    }
}

impl Rules for HostRules {
    fn mode(&self, mode: u32) -> u32 {
        mode & self.mode
    }

    fn admit(&mut self, folder: BorrowedFd<'_>, path: &[u8], kind: &EntryKind) -> Result<(), &'static str> {
        // The agent sends none: it sends the file again.
        if matches!(kind, EntryKind::HardLink { .. }) {
            return Err("it is a hard link, which no guest sends");
        }
        if self.wants_repository {
            return Ok(());
        }
        if names_git_dir(path) {
            return Err("git would take it for a repository, whose configuration can run programs");
        }
        if let EntryKind::Link { target } = kind
            && names_git_dir(target)
        {
            return Err("it is a link into a git repository");
        }
        // The copied thing itself has a name that the user gave.
        if !path.is_empty() && completes_repository(folder, split(path).1) {
            return Err("git would take its directory for a repository, whose configuration can run programs");
        }
        Ok(())
    }

    fn make_room(&mut self, folder: BorrowedFd<'_>, bytes: u64) -> io::Result<()> {
        self.free_space.take(folder, bytes)
    }
}

/// Whether a directory is a repository for git once it has an entry of this name: a bare one, by
/// `is_git_directory` of git's setup.c.
fn completes_repository(folder: BorrowedFd<'_>, name: &[u8]) -> bool {
    let is = |part: &str| name.eq_ignore_ascii_case(part.as_bytes());
    if !["HEAD", "objects", "refs", "commondir"].into_iter().any(is) {
        return false;
    }
    let has = |part: &str| {
        let name = c(part.as_bytes());
        is(part) || fstatat(folder, name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW).is_ok()
    };
    has("HEAD") && (has("commondir") || has("objects") && has("refs"))
}

/// The process's umask, by proc_pid_status(5): umask(2) would have to change it, for all threads.
/// If it is unknown, group and others get no permissions.
fn umask() -> u32 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let umask = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    umask.and_then(|umask| u32::from_str_radix(umask.trim(), 8).ok()).unwrap_or(0o077)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::path::Path;

    use super::*;

    fn admits(rules: &mut HostRules, folder: &Path, path: &str, kind: &EntryKind) -> bool {
        let folder = fs::File::open(folder).unwrap();
        rules.admit(folder.as_fd(), path.as_bytes(), kind).is_ok()
    }

    #[test]
    fn git_directory_is_copied_only_if_requested() {
        let folder = tempfile::tempdir().unwrap();
        let (directory, file) = (EntryKind::Folder { mode: 0 }, EntryKind::File { mode: 0, size: 0 });
        let link = |target: &str| EntryKind::Link { target: target.into() };
        let cases = [
            (".git", directory.clone()),
            (".git", file.clone()),
            (".git", link("x")),
            ("a/.GIT/config", file.clone()),
            ("a/git~1", directory.clone()),
            ("a/.git::$INDEX_ALLOCATION/config", file.clone()),
            ("a\\.git\\config", file.clone()),
            ("l", link("../.git/hooks")),
            ("", link(".git")),
        ];
        for asked in ["target/app", "/", "", ".", "/srv/gitolite/x", "x.git.d/.gitignore"] {
            let mut rules = HostRules::new(OsStr::new(asked));
            for (path, kind) in &cases {
                assert!(!admits(&mut rules, folder.path(), path, kind), "{asked}: {path} {kind:?}");
            }
            for (path, kind) in [
                ("", &directory),
                (".gitignore", &file),
                (".github/workflows", &directory),
                ("l", &link("/etc/passwd")),
                ("l", &link("../../x")),
                ("HEAD", &file),
            ] {
                assert!(admits(&mut rules, folder.path(), path, kind), "{asked}: {path} {kind:?}");
            }
        }
        for asked in ["repo/.git", ".git/", "/repo/.git/hooks", "/repo/.GIT/.", "/srv/x.git"] {
            let mut rules = HostRules::new(OsStr::new(asked));
            for (path, kind) in &cases {
                assert!(admits(&mut rules, folder.path(), path, kind), "{asked}: {path} {kind:?}");
            }
            let hard_link = EntryKind::HardLink { target: b"x".to_vec() };
            assert!(!admits(&mut rules, folder.path(), "h", &hard_link), "{asked}");
        }
    }

    #[test]
    fn copy_cannot_turn_a_directory_into_a_bare_repository() {
        let file = EntryKind::File { mode: 0, size: 0 };
        for (there, name, is_repository) in [
            (&[][..], "HEAD", false),
            (&["HEAD"], "objects", false),
            (&["HEAD", "objects"], "refs", true),
            (&["HEAD", "refs"], "Objects", true),
            (&["refs", "objects"], "head", true),
            (&["HEAD"], "commondir", true),
            (&["commondir"], "HEAD", true),
            (&["commondir"], "refs", false),
            (&["HEAD", "objects"], "ref", false),
            (&["refs", "objects"], "config", false),
        ] {
            let folder = tempfile::tempdir().unwrap();
            for name in there {
                // Of whatever kind it is, and wherever it leads.
                std::os::unix::fs::symlink("nowhere", folder.path().join(name)).unwrap();
            }
            let mut rules = HostRules::new(OsStr::new("out"));
            let admits = admits(&mut rules, folder.path(), &format!("sub/{name}"), &file);
            assert_eq!(admits, !is_repository, "{there:?} {name}");
        }
    }

    #[test]
    fn umask_applies_and_others_get_no_write_permission() {
        let mut rules = HostRules::new(OsStr::new("out"));
        for (umask, mode, is) in
            [(0, 0o7777, 0o755), (0o022, 0o777, 0o755), (0o027, 0o666, 0o640), (0o077, 0o755, 0o700)]
        {
            rules.mode = MODE & !umask;
            assert_eq!(rules.mode(mode), is, "{umask:o} {mode:o}");
        }
        // What umask(1) says of this process.
        let said = std::process::Command::new("sh").args(["-c", "umask"]).output().unwrap().stdout;
        let said = u32::from_str_radix(str::from_utf8(&said).unwrap().trim(), 8).unwrap();
        assert_eq!(umask(), said);
    }
}
