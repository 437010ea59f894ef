//! Firecracker's jailer, which runs it as a user without rights where root runs banger.

use std::path::{Path, PathBuf};

use banger_util::text::printable;
use nix::unistd::{Uid, User};

use super::api::Version;
use super::installation::{INSTALL, MAX_QUOTE, first_line, not_run};
use crate::error::Failure;
use crate::program::Programs;

/// The jailer's name among programs, and what it is called beside a Firecracker.
const NAME: &str = "jailer";

/// A jailer that fits a Firecracker, and whom it becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Jailer {
    pub(super) program: PathBuf,
    pub(super) user: u32,
    pub(super) group: u32,
}

impl Jailer {
    /// The jailer beside this Firecracker, else the first among the host's programs, for the user of
    /// this name.
    ///
    /// # Errors
    /// This process is not root's, or there is no such user, or no jailer of this version.
    pub(super) fn find(
        programs: &Programs,
        name: &str,
        firecracker: &Path,
        version: Version,
    ) -> Result<Jailer, Failure> {
        if !Uid::effective().is_root() {
            let failure = Failure::new(format!("only root can have Firecracker run as the user `{name}`"));
            return Err(failure.with_hint("run: banger config unset jailer_user"));
        }
        let (user, group) = ids(name)?;
        let beside = firecracker.canonicalize().ok().map(|real| real.with_file_name(NAME));
        let program = match beside.filter(|path| path.exists()) {
            Some(program) => program,
            None => programs.find(NAME, "firecracker").map_err(|_| missing(firecracker))?,
        };
        let line = first_line(&program).map_err(|error| not_run(&program, &error))?;
        let text = std::str::from_utf8(&line).ok().and_then(|line| line.strip_prefix("Jailer v"));
        match text.and_then(Version::parse) {
            Some(found) if found == version => Ok(Jailer { program, user, group }),
            Some(found) => {
                let failure =
                    Failure::new(format!("{} is of version {found}, and Firecracker of {version}", program.display()));
                Err(failure.with_hint("install both of one version, in one directory"))
            }
            None => {
                let quote = printable(&line[..line.len().min(MAX_QUOTE)]);
                let message = format!("{} is not Firecracker's jailer: `--version` says `{quote}`", program.display());
                Err(Failure::new(message).with_hint(INSTALL))
            }
        }
    }
}

fn missing(firecracker: &Path) -> Failure {
    let failure = Failure::new("`jailer` was not found on this machine, and the configuration has `jailer_user`");
    let directory = firecracker.parent().unwrap_or(firecracker).display();
    let hint = format!("put the jailer of Firecracker's release into {directory}, as `{NAME}`");
    failure.with_hint(hint)
}

/// The user and the group of this name.
fn ids(name: &str) -> Result<(u32, u32), Failure> {
    let found = User::from_name(name).map_err(|error| Failure::new(format!("cannot find the user `{name}`: {error}")));
    let Some(user) = found? else {
        let failure = Failure::new(format!("`jailer_user` is `{name}`, and this machine has no such user"));
        return Err(failure.with_hint(format!("run: useradd --system --no-create-home {name}")));
    };
    match (user.uid.as_raw(), user.gid.as_raw()) {
        (0, _) | (_, 0) => {
            let failure = Failure::new(format!("`jailer_user` is `{name}`, which has root's user or group id"));
            Err(failure.with_hint("use a user of its own, which nothing else runs as"))
        }
        ids => Ok(ids),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn find(name: &str, said: &str) -> Result<Jailer, Failure> {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join(NAME);
        if !said.is_empty() {
            fs::write(&program, format!("#!/bin/sh\necho '{said}'\n")).unwrap();
            fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let firecracker = directory.path().join("firecracker");
        fs::write(&firecracker, "").unwrap();
        let version = Version::parse("1.14.0").unwrap();
        loop {
            match Jailer::find(&Programs::new("/nonexistent"), name, &firecracker, version) {
                // Another thread of the tests may be forking with the file open for writing: ETXTBSY.
                Err(failure) if failure.message.contains("busy") => std::thread::yield_now(),
                found => return found,
            }
        }
    }

    #[test]
    fn jailer_of_the_same_version_is_found_beside_firecracker_by_root() {
        let found = find("nobody", "Jailer v1.14.0");
        if !Uid::effective().is_root() {
            let failure = found.unwrap_err();
            assert_eq!(failure.message, "only root can have Firecracker run as the user `nobody`");
            return;
        }
        assert_eq!(found.unwrap().user, 65534);
        for (name, said, reason) in [
            ("nobody", "Jailer v1.14.1", "is of version 1.14.1, and Firecracker of 1.14.0"),
            ("nobody", "Firecracker v1.14.0", "is not Firecracker's jailer: `--version` says `Firecracker v1.14.0`"),
            ("nobody", "", "`jailer` was not found on this machine"),
            ("root", "Jailer v1.14.0", "which has root's user or group id"),
            ("no such user", "Jailer v1.14.0", "this machine has no such user"),
        ] {
            let failure = find(name, said).unwrap_err();
            assert!(failure.message.contains(reason) && failure.hint.is_some(), "{failure:?}");
        }
    }
}
