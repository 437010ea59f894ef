//! The store of VMs: one folder each.
//!
//! A folder appears complete, by a rename, and goes in one step too. What a killed command leaves
//! starts with a dot and is swept by the next one: its lock is free, so its maker is dead.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use crate::disk;
use crate::error::{Error, IoContext, Result};
use crate::file;
use crate::owner;
use crate::paths::StorePaths;
use crate::program::Programs;
use crate::record::{VmRecord, check_name};
use crate::vm::{OPERATION_LOCK, Vm, VmState};
use crate::vm_host::{self, LocalHost, VmHost};

/// Folders that are being made start with this,
const MAKING: &str = ".tmp-";
/// and those being deleted with this.
const DELETING: &str = ".del-";

/// While there is one, no VM gets another name, or is about to appear; given back when dropped.
#[derive(Debug)]
pub struct NamesLock(#[expect(dead_code, reason = "closing the file is what unlocks it")] File);

/// All VMs of a user.
#[derive(Clone, Debug)]
pub struct VmStore {
    /// The machine that has the VMs.
    host: Arc<dyn VmHost>,
    paths: StorePaths,
    programs: Programs,
}

impl VmStore {
    /// The VMs of this machine, in these directories, which need not exist yet.
    pub fn new(paths: StorePaths, programs: Programs) -> Self {
        VmStore::on(Arc::new(LocalHost::new(&paths.vms)), paths, programs)
    }

    /// The VMs of `host`. What this machine keeps of each, such as the state of its syncs, is in
    /// `paths.vms`.
    pub fn on(host: Arc<dyn VmHost>, paths: StorePaths, programs: Programs) -> Self {
        VmStore { host, paths, programs }
    }

    /// Makes a VM: its folder, record and disk. Of an ephemeral VM this process is the owner, until
    /// the last clone of what is returned is dropped.
    ///
    /// # Errors
    /// [`Error::Exists`], [`Error::InvalidName`], [`Error::ProgramMissing`] without `mke2fs`, or
    /// the file system's refusal.
    pub fn create(&self, record: &VmRecord) -> Result<Vm> {
        record.check()?;
        file::create_folder(&self.paths.vms)?;
        self.sweep()?;
        let place = self.paths.vms.join(&record.name);
        if fs::symlink_metadata(&place).is_ok() {
            return Err(Error::Exists(record.name.clone()));
        }
        let (making, _lock) = self.begin(MAKING, &record.name)?;
        let fill = || -> Result<Vm> {
            let vm = self.vm(&record.name);
            if record.ephemeral {
                vm.own(owner::begin(&making)?);
            }
            record.write(&making.join(Vm::RECORD))?;
            disk::create(&self.programs, &self.paths.cache, record.disk_bytes, &making.join(Vm::DISK))?;
            disk::create_blank(record.disk_bytes, &making.join(Vm::WORKSPACE))?;
            file::sync_folder(&making)?;
            match renameat2(AT_FDCWD, &making, AT_FDCWD, &place, RenameFlags::RENAME_NOREPLACE) {
                Err(nix::Error::EEXIST) => Err(Error::Exists(record.name.clone())),
                renamed => renamed.at("make", &place).map(|()| vm),
            }
        };
        let vm = fill().inspect_err(|_| _ = fs::remove_dir_all(&making))?;
        file::sync_folder(&self.paths.vms)?;
        Ok(vm)
    }

    /// Gives a VM that is stopped another name. It is complete under one of the two at any time;
    /// a command that is killed in between leaves a record with the former name, which
    /// [`VmRecord::rename`] corrects.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Exists`], [`Error::InvalidName`], [`Error::Running`], since
    /// what runs a VM knows where it is, [`Error::Busy`], or the file system's refusal.
    pub fn rename(&self, name: &str, to: &str) -> Result<Vm> {
        check_name(to)?;
        let vm = self.get(name)?.ok_or_else(|| Error::NotFound(name.to_owned()))?;
        let lock = vm.lock()?;
        // Before anything is changed: one that cannot be read keeps its name.
        let mut record = vm.record()?;
        if !matches!(vm.state()?, VmState::Stopped { .. }) {
            return Err(Error::Running(name.to_owned()));
        }
        let renamed = self.vm(to);
        {
            let _store = self.lock()?;
            match renameat2(AT_FDCWD, vm.folder(), AT_FDCWD, renamed.folder(), RenameFlags::RENAME_NOREPLACE) {
                Err(nix::Error::EEXIST) => return Err(Error::Exists(to.to_owned())),
                moved => moved.at("rename", vm.folder())?,
            }
        }
        file::sync_folder(&self.paths.vms)?;
        record.rename(to);
        renamed.set_record(&lock, &record)?;
        Ok(renamed)
    }

    /// Keeps VMs from getting other names, so that a look through all of them misses none. For a
    /// short time only: making and renaming a VM wait for it.
    ///
    /// # Errors
    /// The file system's refusal.
    pub fn lock_names(&self) -> Result<NamesLock> {
        file::create_folder(&self.paths.vms)?;
        Ok(NamesLock(self.lock()?))
    }

    /// The VM of this name, if there is one.
    ///
    /// # Errors
    /// [`Error::InvalidName`], or the file system's refusal.
    pub fn get(&self, name: &str) -> Result<Option<Vm>> {
        check_name(name)?;
        Ok(self.host.has(name)?.then(|| self.vm(name)))
    }

    /// All VMs by name. A VM's record is read when it is asked for, so that one that is damaged
    /// does not hide the others.
    ///
    /// # Errors
    /// The file system's refusal.
    pub fn list(&self) -> Result<Vec<Vm>> {
        Ok(self.host.names()?.iter().map(|name| self.vm(name)).collect())
    }

    /// Deletes a VM that is stopped, with its disk.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Running`], [`Error::Busy`], or the file system's refusal.
    pub fn delete(&self, name: &str) -> Result<()> {
        match self.delete_if(name, |_| Ok(true))? {
            true => Ok(()),
            false => Err(Error::Running(name.to_owned())),
        }
    }

    /// Deletes a VM that is stopped, with its disk, if `may_go` says so. That is asked when nobody
    /// can start the VM any more: what was seen before may not hold then. False: the VM runs, or is
    /// not to go.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Busy`], or the file system's refusal.
    pub fn delete_if(&self, name: &str, may_go: impl FnOnce(&Vm) -> Result<bool>) -> Result<bool> {
        let vm = self.get(name)?.ok_or_else(|| Error::NotFound(name.to_owned()))?;
        let _lock = vm.lock()?;
        if !matches!(vm.state()?, VmState::Stopped { .. }) || !may_go(&vm)? {
            return Ok(false);
        }
        discard(vm.folder())?;
        Ok(true)
    }

    /// The folders that commands which died left half-made or half-deleted.
    ///
    /// # Errors
    /// The file system's refusal.
    pub fn leftovers(&self) -> Result<Vec<PathBuf>> {
        let names = vm_host::entries(&self.paths.vms)?
            .into_iter()
            .filter(|name| name.starts_with(MAKING) || name.starts_with(DELETING));
        let folders = names.map(|name| self.paths.vms.join(name));
        let is_left = |folder: &PathBuf| {
            let lock = File::open(folder.join(OPERATION_LOCK));
            !lock.is_ok_and(|lock| matches!(lock.try_lock(), Err(fs::TryLockError::WouldBlock)))
        };
        Ok(folders.filter(is_left).collect())
    }

    /// Removes what [`VmStore::leftovers`] finds. [`VmStore::create`] does it too.
    ///
    /// # Errors
    /// The file system's refusal.
    pub fn sweep(&self) -> Result<()> {
        let Ok(_store) = self.lock() else { return Ok(()) };
        self.leftovers()?.iter().try_for_each(|leftover| remove_folder(leftover))
    }

    /// Makes a folder that starts with a dot, locked. The store's lock keeps a sweep away until
    /// that is so.
    fn begin(&self, prefix: &str, name: &str) -> Result<(PathBuf, File)> {
        let _store = self.lock()?;
        let folder = temporary(&self.paths.vms, prefix, name);
        file::create_folder(&folder)?;
        let path = folder.join(OPERATION_LOCK);
        let lock = file::open_lock(&path)?;
        lock.lock().at("lock", &path)?;
        Ok((folder, lock))
    }

    fn lock(&self) -> Result<File> {
        let path = self.paths.vms.join(".lock");
        let lock = file::open_lock(&path)?;
        lock.lock().at("lock", &path)?;
        Ok(lock)
    }

    fn vm(&self, name: &str) -> Vm {
        Vm::new(name.to_owned(), self.host.clone(), &self.paths, self.programs.clone())
    }
}

fn temporary(vms: &Path, prefix: &str, name: &str) -> PathBuf {
    vms.join(format!("{prefix}{name}-{}", file::random_hex(4)))
}

/// Deletes a VM's folder. The caller has made sure that nobody uses it.
pub(crate) fn discard(folder: &Path) -> Result<()> {
    let vms = folder.parent().unwrap_or(Path::new("/"));
    let deleting = temporary(vms, DELETING, &folder.file_name().unwrap_or_default().to_string_lossy());
    fs::rename(folder, &deleting).at("delete", folder)?;
    file::sync_folder(vms)?;
    remove_folder(&deleting)
}

/// Removes a folder that a sweep may be removing too.
fn remove_folder(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).at("remove", path),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Home {
        folder: tempfile::TempDir,
        store: VmStore,
    }

    fn home() -> Home {
        let folder = tempfile::tempdir().unwrap();
        let [vms, host, cache] = ["vms", "host", "cache"].map(|name| folder.path().join(name));
        Home { store: VmStore::new(StorePaths { vms, host, cache }, Programs::new("/usr/bin:/bin")), folder }
    }

    fn record(name: &str) -> VmRecord {
        let mut record = VmRecord::new(name, "image", "kernel", 0);
        record.disk_bytes = 256 << 20;
        record
    }

    #[test]
    fn store_creates_lists_and_deletes_vms() {
        let Home { folder, store } = home();
        assert!(store.list().unwrap().is_empty());
        assert!(matches!(store.delete("one"), Err(Error::NotFound(_))));
        let vm = store.create(&record("one")).unwrap();
        store.create(&record("two")).unwrap();
        assert!(matches!(store.create(&record("one")), Err(Error::Exists(_))));
        assert_eq!(store.list().unwrap().iter().map(Vm::name).collect::<Vec<_>>(), ["one", "two"]);
        assert_eq!(vm.state().unwrap(), VmState::Stopped { crash: None });
        assert!(vm.disk_allocated().unwrap() < 8 << 20);

        let lock = vm.lock().unwrap();
        let mut changed = vm.record().unwrap();
        changed.cpus = 4;
        vm.set_record(&lock, &changed).unwrap();
        drop(lock);
        assert_eq!(store.get("one").unwrap().unwrap().record().unwrap().cpus, 4);

        store.delete("one").unwrap();
        assert!(store.get("one").unwrap().is_none());
        assert!(matches!(vm.lock(), Err(Error::NotFound(_))));
        let left: Vec<_> = fs::read_dir(folder.path().join("vms")).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert!(left.iter().all(|name| name == ".lock" || name == "two"), "{left:?}");
    }

    #[test]
    fn rename_needs_a_free_name_and_a_stopped_vm() {
        let Home { folder, store } = home();
        let mut first = record("one");
        first.workspace = serde_json::json!({"root": "/r"});
        let vm = store.create(&first).unwrap();
        store.create(&record("two")).unwrap();
        assert!(matches!(store.rename("one", "two"), Err(Error::Exists(_))));
        assert!(matches!(store.rename("one", "one"), Err(Error::Exists(_))));
        assert!(matches!(store.rename("one", "../x"), Err(Error::InvalidName(_))));
        assert!(matches!(store.rename("none", "three"), Err(Error::NotFound(_))));
        let supervisor = File::create(vm.folder().join("supervisor.lock")).unwrap();
        supervisor.lock().unwrap();
        assert!(matches!(store.rename("one", "three"), Err(Error::Running(_))));
        drop(supervisor);
        assert!(!vm.was_started());

        let renamed = store.rename("one", "three.x").unwrap();
        let record = renamed.record().unwrap();
        assert_eq!((record.name.as_str(), record.hostname.as_str()), ("three.x", "three-x"));
        assert_eq!((&record.workspace, &record.machine_id), (&first.workspace, &first.machine_id));
        assert_eq!(store.list().unwrap().iter().map(Vm::name).collect::<Vec<_>>(), ["three.x", "two"]);
        assert!(matches!(vm.lock(), Err(Error::NotFound(_))));
        assert!(matches!(vm.record(), Err(Error::NotFound(_))));

        // Who was killed in between has left the former name in the record, and the next start
        // corrects it.
        fs::rename(renamed.folder(), folder.path().join("vms/four")).unwrap();
        let mut record = store.get("four").unwrap().unwrap().record().unwrap();
        assert!(record.rename("four") && !record.rename("four"));
        assert_eq!(record.hostname, "four");
        fs::write(folder.path().join("vms/two").join(Vm::RECORD), "{").unwrap();
        assert!(matches!(store.rename("two", "five"), Err(Error::Damaged { .. })));
    }

    #[test]
    fn vm_directories_and_files_are_private() {
        use std::os::unix::fs::PermissionsExt;
        let Home { folder, store } = home();
        let vm = store.create(&record("one")).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&folder.path().join("vms")), mode(vm.folder())), (0o700, 0o700));
        for entry in fs::read_dir(vm.folder()).unwrap() {
            assert_eq!(mode(&entry.unwrap().path()), 0o600);
        }
    }

    #[test]
    fn concurrent_creations_make_one_vm() {
        let Home { folder: _folder, store } = home();
        let made = std::thread::scope(|scope| {
            let tries: Vec<_> = (0..8).map(|_| scope.spawn(|| store.create(&record("one")))).collect();
            tries.into_iter().map(|made| made.join().unwrap()).filter(Result::is_ok).count()
        });
        assert_eq!(made, 1);
        assert_eq!(store.list().unwrap().len(), 1);
    }

    #[test]
    fn sweep_removes_only_leftovers_of_dead_processes() {
        let Home { folder, store } = home();
        store.create(&record("one")).unwrap();
        let vms = folder.path().join("vms");
        for leftover in [".tmp-x-1", ".del-y-2"] {
            fs::create_dir(vms.join(leftover)).unwrap();
            fs::write(vms.join(leftover).join("disk.ext4"), "half").unwrap();
        }
        let (making, _lock) = store.begin(MAKING, "z").unwrap();
        store.sweep().unwrap();
        assert!(!vms.join(".tmp-x-1").exists() && !vms.join(".del-y-2").exists());
        assert!(making.exists() && vms.join("one").exists());
        assert_eq!(store.list().unwrap().len(), 1);
    }

    #[test]
    fn damaged_vm_is_listed_and_deletable() {
        let Home { folder: _folder, store } = home();
        let vm = store.create(&record("one")).unwrap();
        store.create(&record("two")).unwrap();
        fs::write(vm.folder().join(Vm::RECORD), "").unwrap();
        assert_eq!(store.list().unwrap().len(), 2);
        assert!(matches!(vm.record(), Err(Error::Damaged { .. })));
        store.delete("one").unwrap();
        assert_eq!(store.list().unwrap().len(), 1);
    }

    #[test]
    fn failed_disk_creation_leaves_nothing() {
        let Home { folder, store } = home();
        let mut record = record("one");
        record.disk_bytes = 4096;
        let error = store.create(&record).unwrap_err();
        assert!(matches!(error, Error::ProgramFailed { program: "mke2fs", .. }), "{error}");
        assert!(store.get("one").unwrap().is_none());
        for (below, kept) in [("vms", ".lock"), ("cache/disks", ".lock")] {
            let left: Vec<_> =
                fs::read_dir(folder.path().join(below)).unwrap().map(|e| e.unwrap().file_name()).collect();
            assert_eq!(left, [kept]);
        }
    }
}
