//! Whose a VM is: the repository that it was made for, as its record knows it, and what has become
//! of that.

use std::path::{Path, PathBuf};

use banger_agent::protocol::WireBytes;
use banger_util::process::Stat;
use banger_vmm::{Owner, Vm, VmRecord, VmState, VmStore};
use serde::{Deserialize, Serialize};

use crate::git::{Identity, Workspace};

/// The workspace that a VM was made for, as the VM's record keeps it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VmOwner {
    /// The canonical root of the workspace.
    pub root: WireBytes,
    /// Device, inode and birth of the git folder: what a moved workspace is known by.
    pub git: (u64, u64, Option<i64>),
    /// For an ephemeral VM: the process that made it, and when that started (`/proc/<pid>/stat`,
    /// field 22). Versions that know no [`Vm::owner`] go by it.
    #[serde(rename = "owner")]
    pub process: Option<(u32, u64)>,
    /// It holds the workspace's files, and is not the workspace's own VM: it is found by its name
    /// alone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_name: bool,
}

impl VmOwner {
    /// To serve `workspace`; an ephemeral VM, for as long as this process lives.
    pub fn new(workspace: &Workspace, ephemeral: bool) -> VmOwner {
        let Identity { device, inode, birth_ns, .. } = workspace.identity;
        let process = ephemeral.then(this_process);
        VmOwner { root: workspace.root.as_os_str().into(), git: (device, inode, birth_ns), process, by_name: false }
    }

    /// The owner of a VM with the files of `workspace` that is found by its name alone.
    pub fn by_name(workspace: &Workspace, ephemeral: bool) -> VmOwner {
        VmOwner { by_name: true, ..VmOwner::new(workspace, ephemeral) }
    }

    /// What a record says the VM is for; none for what was not made for a workspace.
    pub fn of(record: &VmRecord) -> Option<VmOwner> {
        serde_json::from_value(record.workspace.clone()).ok()
    }

    /// As a record has it.
    pub fn to_value(&self) -> serde_json::Value {
        serde_json::to_value(self).expect("plain data has a JSON form")
    }

    /// The root, as a path.
    pub fn path(&self) -> &Path {
        Path::new(self.root.as_os_str())
    }
}

/// What the record of a bare VM has in the place of a [`VmOwner`]: nothing, or whose end is its
/// own.
pub fn bare(ephemeral: bool) -> serde_json::Value {
    if ephemeral { serde_json::json!({ PROCESS: this_process() }) } else { serde_json::Value::Null }
}

/// The key of [`VmOwner::process`].
const PROCESS: &str = "owner";

fn this_process() -> (u32, u64) {
    let this = std::process::id();
    (this, start_time(this).unwrap_or_default())
}

/// How a VM belongs to a workspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OwnerMatch {
    /// The VM was made for the workspace, or its record cannot be read.
    Here,
    /// The VM was made for the workspace, whose repository was at another path then.
    Moved {
        /// The former root of the workspace.
        from: PathBuf,
    },
    /// The VM was made for another repository, which had the workspace's path before.
    Replaced,
}

/// What has become of the repository that a VM was made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Repository {
    /// The repository is at its path.
    Present,
    /// There is no repository at the path any more.
    Gone,
    /// Another repository is at the path.
    Replaced,
}

/// The VM of `workspace`, which has the name `name` unless the repository was moved.
///
/// # Errors
/// If the store cannot be read.
pub fn find(store: &VmStore, name: &str, workspace: &Workspace) -> Result<Option<(Vm, OwnerMatch)>, banger_vmm::Error> {
    if let Some(vm) = store.get(name)? {
        match vm.record().map(|record| workspace_owner(&record)) {
            // It has gone, or got another name.
            Err(banger_vmm::Error::NotFound(_)) | Ok(None) => {}
            // One that cannot be read is found, so that this is said.
            Err(_) => return Ok(Some((vm, OwnerMatch::Here))),
            Ok(Some(owner)) if owner.path() == workspace.root && is_same(&owner, &workspace.identity) => {
                return Ok(Some((vm, OwnerMatch::Here)));
            }
            Ok(Some(_)) => {}
        }
    }
    let (mut moved, mut replaced) = (None, None);
    for vm in store.list()? {
        let Some(owner) = vm.record().ok().and_then(|record| workspace_owner(&record)) else { continue };
        match (owner.path() == workspace.root, is_same(&owner, &workspace.identity)) {
            (true, true) => return Ok(Some((vm, OwnerMatch::Here))),
            // Where it can be seen in two places at once it was not moved.
            (false, true) if is_born_with(&owner, &workspace.identity) && !is_there(&owner) => {
                moved = Some((vm, OwnerMatch::Moved { from: owner.path().to_owned() }));
            }
            (true, false) => replaced = Some((vm, OwnerMatch::Replaced)),
            _ => {}
        }
    }
    Ok(moved.or(replaced))
}

/// What a VM is for that is a workspace's own.
fn workspace_owner(record: &VmRecord) -> Option<VmOwner> {
    VmOwner::of(record).filter(|owner| owner.process.is_none() && !owner.by_name)
}

/// Whether the VM is the own one of a workspace at `root`, whichever that is.
pub fn is_at(vm: &Vm, root: &Path) -> bool {
    vm.record().ok().and_then(|record| workspace_owner(&record)).is_some_and(|owner| owner.path() == root)
}

/// Whether the git folder of `identity` is the one that `owner` knows. Devices get other numbers
/// when a machine starts, so they do not count.
pub fn is_same(owner: &VmOwner, identity: &Identity) -> bool {
    let (_, inode, birth_ns) = owner.git;
    let born = birth_ns.zip(identity.birth_ns);
    inode == identity.inode && born.is_none_or(|(before, now)| before == now)
}

/// Whether the git folder is known by its birth too. By its inode alone another one may be taken
/// for it, on a file system of its own, or once the first was deleted: that is enough at the same
/// place, and not to say that it was moved.
fn is_born_with(owner: &VmOwner, identity: &Identity) -> bool {
    owner.git.2.is_some() && owner.git.2 == identity.birth_ns
}

/// Whether the repository is where it was.
fn is_there(owner: &VmOwner) -> bool {
    Identity::at(owner.path()).is_some_and(|identity| is_same(owner, &identity))
}

/// What has become of the repository. Looks, but opens nothing. One that cannot be seen, such as on
/// a disk that is not mounted, is not gone.
pub fn repository(owner: &VmOwner) -> Repository {
    let root = owner.path();
    match Identity::at(root) {
        None if root.exists() || root.parent().is_some_and(Path::exists) => Repository::Gone,
        None => Repository::Present,
        Some(identity) if is_same(owner, &identity) => Repository::Present,
        Some(_) => Repository::Replaced,
    }
}

/// Whether the VM was for one command, which has ended without taking it along. One that cannot be
/// told is not.
pub fn is_abandoned(vm: &Vm, record: &VmRecord) -> bool {
    let maker = record.workspace.get(PROCESS).and_then(|owner| serde_json::from_value(owner.clone()).ok());
    let Some((pid, start)): Option<(u32, u64)> = maker else { return false };
    match vm.owner() {
        Ok(Owner::Dead) => true,
        Ok(Owner::Alive) | Err(_) => false,
        // Of a version without the lock. While such a VM runs, its supervisor sees the end of the
        // process, wherever that is. One that does not run holds nothing that anybody waits for.
        Ok(Owner::Unknown) => matches!(vm.state(), Ok(VmState::Stopped { .. })) && start_time(pid) != Some(start),
    }
}

/// When a process started, in clock ticks since the host did: proc_pid_stat(5). A pid alone may be
/// another process by now.
pub fn start_time(pid: u32) -> Option<u64> {
    Stat::read(i32::try_from(pid).ok()?).ok().map(|stat| stat.start_ticks)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use banger_vmm::{Programs, StorePaths};

    use super::*;

    fn owner_of(root: &Path) -> VmOwner {
        let identity = Identity::at(root).unwrap();
        let git = (identity.device, identity.inode, identity.birth_ns);
        VmOwner { root: root.as_os_str().into(), git, process: None, by_name: false }
    }

    fn init(root: &Path) {
        for folder in ["objects", "refs"] {
            fs::create_dir_all(root.join(".git").join(folder)).unwrap();
        }
        fs::write(root.join(".git/HEAD"), "ref: refs/heads/main\n").unwrap();
    }

    #[test]
    fn start_time_exists_only_for_live_processes() {
        assert!(start_time(std::process::id()).is_some());
        assert!(start_time(u32::MAX).is_none());
    }

    #[test]
    fn ephemeral_vm_is_abandoned_when_its_owner_ends() {
        let folder = tempfile::tempdir().unwrap();
        let [vms, host, cache] = ["vms", "host", "cache"].map(|name| folder.path().join(name));
        let store = VmStore::new(StorePaths { vms, host, cache }, Programs::new("/usr/bin:/bin"));
        let mut record = VmRecord::new("vm", "image", "kernel", 0);
        record.disk_bytes = 256 << 20;
        record.workspace = bare(true);
        record.ephemeral = true;
        // As seen from another PID namespace, or by another process that has the pid now.
        record.workspace["owner"] = serde_json::json!([u32::MAX, 1]);
        let vm = store.create(&record).unwrap();
        let seen = store.get("vm").unwrap().unwrap();
        assert!(!is_abandoned(&seen, &record));
        drop(vm);
        assert!(is_abandoned(&seen, &record));

        // Of a version without the lock, the pid says it if nothing of the VM runs.
        fs::remove_file(seen.folder().join("owner.lock")).unwrap();
        assert!(is_abandoned(&seen, &record));
        let supervisor = fs::File::create(seen.folder().join("supervisor.lock")).unwrap();
        supervisor.lock().unwrap();
        assert!(!is_abandoned(&seen, &record));
        drop(supervisor);
        record.workspace = bare(true);
        assert!(!is_abandoned(&seen, &record));
    }

    #[test]
    fn repository_is_identified_by_its_git_directory() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().canonicalize().unwrap();
        let root = folder.join("repo");
        init(&root);
        let owner = owner_of(&root);
        assert_eq!(repository(&owner), Repository::Present);

        let moved = folder.join("moved");
        fs::rename(&root, &moved).unwrap();
        assert_eq!(repository(&owner), Repository::Gone);
        assert!(is_same(&owner, &Identity::at(&moved).unwrap()));

        init(&root);
        assert_eq!(repository(&owner), Repository::Replaced);

        // The number of a device says nothing after the machine has started again.
        let mut owner = owner_of(&moved);
        owner.git.0 += 1;
        assert_eq!(repository(&owner), Repository::Present);
        // A file system may record no births.
        owner.git.2 = None;
        assert_eq!(repository(&owner), Repository::Present);
        // Where the disk is not mounted, nothing is known to be gone.
        owner.root = folder.join("no-disk/repo").as_os_str().into();
        assert_eq!(repository(&owner), Repository::Present);
    }

    fn workspace(root: &Path) -> Workspace {
        let host = crate::git::Host::default();
        Workspace::discover(root, host).unwrap()
    }

    #[test]
    fn vm_follows_its_repository_when_moved_but_not_a_copy() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().canonicalize().unwrap();
        let [vms, host, cache] = ["vms", "host", "cache"].map(|name| folder.join(name));
        let store = VmStore::new(StorePaths { vms, host, cache }, Programs::new("/usr/bin:/bin"));
        let make = |name: &str, root: &Path| {
            let mut record = VmRecord::new(name, "image", "kernel", 0);
            record.disk_bytes = 256 << 20;
            record.workspace = VmOwner::new(&workspace(root), false).to_value();
            store.create(&record).unwrap()
        };
        let found = |name: &str, root: &Path| {
            find(&store, name, &workspace(root)).unwrap().map(|(vm, owner_match)| (vm.name().to_owned(), owner_match))
        };
        let [one, two, three] = ["one", "two", "three"].map(|name| folder.join(name));
        init(&one);
        assert_eq!(found("one", &one), None);
        make("one", &one);
        assert_eq!(found("one", &one), Some(("one".into(), OwnerMatch::Here)));

        // A copy is another repository, and stays one when the first has moved.
        init(&two);
        assert_eq!(found("two", &two), None);
        fs::rename(&one, &three).unwrap();
        let moved = Some(("one".to_owned(), OwnerMatch::Moved { from: one.clone() }));
        assert_eq!(found("three", &three), moved);
        assert_eq!(found("two", &two), None);
        // Where no birth is known, another repository may have got its inode.
        let vm = store.get("one").unwrap().unwrap();
        let record = vm.record().unwrap();
        let mut unborn = record.clone();
        unborn.workspace["git"][2] = serde_json::Value::Null;
        vm.set_record(&vm.lock().unwrap(), &unborn).unwrap();
        assert_eq!(found("three", &three), None);
        vm.set_record(&vm.lock().unwrap(), &record).unwrap();

        // In the place of the first there is another one now.
        fs::rename(&two, &one).unwrap();
        assert_eq!(found("one", &one), Some(("one".into(), OwnerMatch::Replaced)));
        assert_eq!(found("three", &three), moved);

        // It has been adopted: its name is of the old place, which is another's now.
        let vm = store.get("one").unwrap().unwrap();
        let mut record = vm.record().unwrap();
        record.workspace = VmOwner::new(&workspace(&three), false).to_value();
        vm.set_record(&vm.lock().unwrap(), &record).unwrap();
        assert_eq!(found("three", &three), Some(("one".into(), OwnerMatch::Here)));
        assert_eq!(found("one", &one), None);
        assert!(is_at(&vm, &three) && !is_at(&vm, &one));

        // One by name is nobody's own, be its name what it may: not even one that had its name of
        // this.
        let renamed = store.rename("one", "two").unwrap();
        assert_eq!(found("one", &three), Some(("two".into(), OwnerMatch::Here)));
        let by_name = make("one", &three);
        let mut record = by_name.record().unwrap();
        for value in [VmOwner::by_name(&workspace(&three), false).to_value(), bare(false), bare(true)] {
            record.workspace = value;
            by_name.set_record(&by_name.lock().unwrap(), &record).unwrap();
            assert_eq!(found("one", &three), Some(("two".into(), OwnerMatch::Here)));
            assert!(!is_at(&by_name, &three) && !is_abandoned(&by_name, &record));
        }
        store.delete("one").unwrap();
        let vm = store.rename(renamed.name(), "one").unwrap();

        fs::write(vm.folder().join("vm.json"), "").unwrap();
        assert_eq!(found("one", &one), Some(("one".into(), OwnerMatch::Here)));
        assert_eq!(found("three", &three), None);
    }
}
