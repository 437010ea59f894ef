//! A workspace that belongs to a user of the guest: a sync writes as root, and the user could not
//! write into it.

use std::ffi::CStr;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::dir::Dir;
use nix::fcntl::{AtFlags, OFlag, open, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat, stat};
use nix::unistd::{Gid, Uid, fchown, fchownat};

use super::users::User;
use crate::protocol::{AgentFailure, AgentFailureKind, Own};

/// How a directory is opened on the way: never through a link, which the user may have put in its
/// place.
const DIRECTORY: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// Gives all files of the workspace to the user, and says how many were another's.
pub(super) fn own(request: &Own) -> Result<u64, AgentFailure> {
    let user = User::find(Some(&request.user))?;
    let root = Path::new(request.root.as_os_str());
    give(root, Uid::from_raw(user.uid), Gid::from_raw(user.gid)).map_err(|error| {
        let message =
            format!("cannot give the working tree `{}` to `{}` in the guest: {error}", root.display(), user.name);
        AgentFailure::new(AgentFailureKind::Other, message)
    })
}

fn give(root: &Path, uid: Uid, gid: Gid) -> io::Result<u64> {
    let folder = open(root, DIRECTORY, Mode::empty())?;
    let found = fstat(&folder)?;
    let mut owner = Owner { uid, gid, device: found.st_dev, is_apart: found.st_dev != stat("/")?.st_dev, given: 0 };
    if owner.is_wanted(&found) {
        fchown(&folder, Some(uid), Some(gid))?;
        owner.given += 1;
    }
    owner.walk(folder, 0)?;
    Ok(owner.given)
}

/// Directories in one another that are given away; what is in deeper ones stays root's.
const MAX_DEPTH: usize = 256;

struct Owner {
    uid: Uid,
    gid: Gid,
    /// What is mounted in the workspace is no part of it.
    device: u64,
    /// The workspace's file system has nothing else: a hard link leads to no file of the system's.
    is_apart: bool,
    given: u64,
}

impl Owner {
    fn is_wanted(&self, found: &FileStat) -> bool {
        found.st_uid != self.uid.as_raw() || found.st_gid != self.gid.as_raw()
    }

    fn walk(&mut self, folder: OwnedFd, depth: usize) -> io::Result<()> {
        // A descriptor each is open on the way, and the agent needs some for others.
        if depth > MAX_DEPTH {
            return Ok(());
        }
        let mut folder = Dir::from_fd(folder)?;
        let mut names = Vec::new();
        for entry in folder.iter() {
            let entry = entry?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                names.push(entry.file_name().to_owned());
            }
        }
        for name in names {
            match self.entry(&folder, &name, depth) {
                // What is gone meanwhile is nobody's.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                done => done?,
            }
        }
        Ok(())
    }

    fn entry(&mut self, folder: &Dir, name: &CStr, depth: usize) -> io::Result<()> {
        let found = fstatat(folder, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        if found.st_dev != self.device {
            return Ok(());
        }
        let is_folder = found.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits();
        let may_be_anybodys = !is_folder && found.st_nlink > 1 && !self.is_apart;
        if self.is_wanted(&found) && !may_be_anybodys {
            fchownat(folder, name, Some(self.uid), Some(self.gid), AtFlags::AT_SYMLINK_NOFOLLOW)?;
            self.given += 1;
        }
        if is_folder { self.walk(openat(folder, name, DIRECTORY, Mode::empty())?, depth + 1) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    #[test]
    #[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
    fn chown_is_recursive_and_follows_no_symlink() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: only root gives files away");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let (root, outside) = (folder.path().join("root"), folder.path().join("outside"));
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::create_dir(&outside).unwrap();
        for file in [root.join("a/b/file"), outside.join("file"), outside.join("linked")] {
            fs::write(file, "").unwrap();
        }
        symlink(&outside, root.join("link")).unwrap();
        fs::hard_link(outside.join("linked"), root.join("linked")).unwrap();
        let give = || give(&root, Uid::from_raw(1234), Gid::from_raw(99)).unwrap();
        let of = |path: &Path| fs::symlink_metadata(path).map(|found| (found.uid(), found.gid())).unwrap();
        let hard_links = u64::from(fs::metadata(&root).unwrap().dev() != fs::metadata("/").unwrap().dev());
        assert_eq!((give(), give()), (5 + hard_links, 0));
        for given in ["", "a", "a/b", "a/b/file", "link"] {
            assert_eq!(of(&root.join(given)), (1234, 99), "{given}");
        }
        assert_eq!(of(&outside), (0, 0));
        assert_eq!(of(&outside.join("file")), (0, 0));
        assert!(super::give(&root.join("link"), Uid::from_raw(1), Gid::from_raw(1)).is_err());
        // A tree that is deeper than there are descriptors is no error.
        let mut deep = root.clone();
        (0..400).for_each(|_| deep.push("d"));
        fs::create_dir_all(&deep).unwrap();
        assert_eq!(give(), MAX_DEPTH as u64 + 1);
    }
}
