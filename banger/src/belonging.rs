//! Whose a VM is: the repository that it was made for, as its record knows it, and what has become of that.

use std::path::Path;

use banger_vmm::{Vm, VmRecord};
use serde::Serialize;

use crate::git::Identity;
use crate::machine::Purpose;

/// What has become of the repository that a VM was made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Repository {
    /// It is where it was.
    Present,
    /// There is none any more.
    Gone,
    /// There is another one in its place.
    Replaced,
}

/// What a record says the VM is for; none for what was not made for a workspace.
pub fn purpose(record: &VmRecord) -> Option<Purpose> {
    serde_json::from_value(record.workspace.clone()).ok()
}

/// Whether the git folder of `identity` is the one that `purpose` knows. Devices get other numbers when a machine starts, so they count
/// only where the file system records no births.
pub fn is_same(purpose: &Purpose, identity: &Identity) -> bool {
    let (device, inode, birth_ns) = purpose.git;
    match (birth_ns, identity.birth_ns) {
        (Some(before), Some(now)) => (inode, before) == (identity.inode, now),
        _ => (device, inode) == (identity.device, identity.inode),
    }
}

/// What has become of the repository. Looks, but opens nothing.
pub fn repository(purpose: &Purpose) -> Repository {
    match Identity::at(Path::new(&purpose.root)) {
        None => Repository::Gone,
        Some(identity) if is_same(purpose, &identity) => Repository::Present,
        Some(_) => Repository::Replaced,
    }
}

/// Whether the VM was for one command, which has ended without taking it along.
pub fn is_abandoned(purpose: &Purpose) -> bool {
    purpose.owner.is_some_and(|(pid, start)| start_time(pid) != Some(start))
}

/// When a process started, in clock ticks since the host did: proc_pid_stat(5). A pid alone may be another process by now.
pub fn start_time(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// Whether the VM has ever got the workspace's files. One that has not holds nothing of anybody's.
pub fn was_synced(vm: &Vm) -> bool {
    vm.folder().join("sync/manifest").exists()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    fn purpose_of(root: &Path) -> Purpose {
        let identity = Identity::at(root).unwrap();
        let git = (identity.device, identity.inode, identity.birth_ns);
        Purpose { root: root.to_str().unwrap().to_owned(), git, owner: None }
    }

    fn init(root: &Path) {
        for folder in ["objects", "refs"] {
            fs::create_dir_all(root.join(".git").join(folder)).unwrap();
        }
        fs::write(root.join(".git/HEAD"), "ref: refs/heads/main\n").unwrap();
    }

    #[test]
    fn a_process_has_a_start_and_a_dead_one_has_none() {
        assert!(start_time(std::process::id()).is_some());
        assert!(start_time(u32::MAX).is_none());
    }

    #[test]
    fn a_repository_is_known_by_its_git_folder() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().canonicalize().unwrap();
        let root = folder.join("repo");
        init(&root);
        let purpose = purpose_of(&root);
        assert_eq!(repository(&purpose), Repository::Present);

        let moved = folder.join("moved");
        fs::rename(&root, &moved).unwrap();
        assert_eq!(repository(&purpose), Repository::Gone);
        assert!(is_same(&purpose, &Identity::at(&moved).unwrap()));

        init(&root);
        assert_eq!(repository(&purpose), Repository::Replaced);

        // The number of a device says nothing after the machine has started again, unless there is nothing better.
        let mut purpose = purpose_of(&moved);
        purpose.git.0 += 1;
        assert_eq!(
            repository(&purpose),
            if purpose.git.2.is_some() { Repository::Present } else { Repository::Replaced }
        );
        purpose.git.2 = None;
        assert_eq!(repository(&purpose), Repository::Replaced);
    }
}
