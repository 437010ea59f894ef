//! The store of VMs: one folder each.
//!
//! A folder appears complete, by a rename, and goes in one step too. What a killed command leaves starts with a dot and is
//! swept by the next one: its lock is free, so its maker is dead.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use crate::disk;
use crate::error::{Error, IoContext, Result};
use crate::file;
use crate::program::Programs;
use crate::record::{VmRecord, check_name};
use crate::vm::{OPERATION_LOCK, Vm, VmState};

/// Folders that are being made start with this,
const MAKING: &str = ".tmp-";
/// and those being deleted with this.
const DELETING: &str = ".del-";

/// The folders that banger's VMs live in.
#[derive(Clone, Debug)]
pub struct StorePaths {
    /// A folder for each VM.
    pub vms: PathBuf,
    /// What was found out about this host.
    pub host: PathBuf,
    /// What can be made again.
    pub cache: PathBuf,
}

/// All VMs of a user.
#[derive(Clone, Debug)]
pub struct VmStore {
    paths: StorePaths,
    programs: Programs,
}

impl VmStore {
    /// The store in these folders, which need not exist yet.
    pub fn new(paths: StorePaths, programs: Programs) -> Self {
        VmStore { paths, programs }
    }

    /// Makes a VM: its folder, record and disk.
    ///
    /// # Errors
    /// [`Error::Exists`], [`Error::InvalidName`], [`Error::ProgramMissing`] without `mke2fs`, or the file system's refusal.
    pub fn create(&self, record: &VmRecord) -> Result<Vm> {
        record.check()?;
        file::create_folder(&self.paths.vms)?;
        self.sweep()?;
        let place = self.paths.vms.join(&record.name);
        if fs::symlink_metadata(&place).is_ok() {
            return Err(Error::Exists(record.name.clone()));
        }
        let (making, _lock) = self.begin(MAKING, &record.name)?;
        let fill = || {
            record.write(&making.join(Vm::RECORD))?;
            disk::create(&self.programs, &self.paths.cache, record.disk_bytes, &making.join(Vm::DISK))?;
            file::sync_folder(&making)?;
            match renameat2(AT_FDCWD, &making, AT_FDCWD, &place, RenameFlags::RENAME_NOREPLACE) {
                Err(nix::Error::EEXIST) => Err(Error::Exists(record.name.clone())),
                renamed => renamed.at("make", &place),
            }
        };
        fill().inspect_err(|_| _ = fs::remove_dir_all(&making))?;
        file::sync_folder(&self.paths.vms)?;
        Ok(self.vm(&record.name))
    }

    /// The VM of this name, if there is one.
    ///
    /// # Errors
    /// [`Error::InvalidName`], or the file system's refusal.
    pub fn get(&self, name: &str) -> Result<Option<Vm>> {
        check_name(name)?;
        let place = self.paths.vms.join(name);
        match fs::symlink_metadata(&place) {
            Ok(metadata) if metadata.is_dir() => Ok(Some(self.vm(name))),
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).at("read", &place),
        }
    }

    /// All VMs by name. A VM's record is read when it is asked for, so that one that is damaged does not hide the others.
    ///
    /// # Errors
    /// The file system's refusal.
    pub fn list(&self) -> Result<Vec<Vm>> {
        let mut names: Vec<String> = self.names()?.into_iter().filter(|name| check_name(name).is_ok()).collect();
        names.sort_unstable();
        Ok(names.iter().map(|name| self.vm(name)).collect())
    }

    /// Deletes a VM that is stopped, with its disk.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Running`], [`Error::Busy`], or the file system's refusal.
    pub fn delete(&self, name: &str) -> Result<()> {
        let vm = self.get(name)?.ok_or_else(|| Error::NotFound(name.to_owned()))?;
        let _lock = vm.lock()?;
        if !matches!(vm.state()?, VmState::Stopped { .. }) {
            return Err(Error::Running(name.to_owned()));
        }
        let deleting = self.temporary(DELETING, name);
        fs::rename(vm.folder(), &deleting).at("delete", vm.folder())?;
        file::sync_folder(&self.paths.vms)?;
        fs::remove_dir_all(&deleting).at("delete", &deleting)
    }

    /// Removes what commands that died left half-made or half-deleted. [`VmStore::create`] does it too.
    ///
    /// # Errors
    /// The file system's refusal.
    pub fn sweep(&self) -> Result<()> {
        let Ok(_store) = self.lock() else { return Ok(()) };
        for name in self.names()? {
            if !name.starts_with(MAKING) && !name.starts_with(DELETING) {
                continue;
            }
            let leftover = self.paths.vms.join(name);
            let lock = File::open(leftover.join(OPERATION_LOCK));
            if lock.is_ok_and(|lock| matches!(lock.try_lock(), Err(fs::TryLockError::WouldBlock))) {
                continue;
            }
            match fs::remove_dir_all(&leftover) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error).at("remove", &leftover),
                _ => {}
            }
        }
        Ok(())
    }

    /// Makes a folder that starts with a dot, locked. The store's lock keeps a sweep away until that is so.
    fn begin(&self, prefix: &str, name: &str) -> Result<(PathBuf, File)> {
        let _store = self.lock()?;
        let folder = self.temporary(prefix, name);
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

    fn temporary(&self, prefix: &str, name: &str) -> PathBuf {
        self.paths.vms.join(format!("{prefix}{name}-{}", file::random_hex(4)))
    }

    fn names(&self) -> Result<Vec<String>> {
        let vms: &Path = &self.paths.vms;
        match fs::read_dir(vms) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            entries => {
                let name = |entry: io::Result<fs::DirEntry>| entry.map(|entry| entry.file_name().into_string().ok());
                entries
                    .at("read", vms)?
                    .filter_map(|entry| name(entry).transpose())
                    .collect::<io::Result<_>>()
                    .at("read", vms)
            }
        }
    }

    fn vm(&self, name: &str) -> Vm {
        Vm::new(name.to_owned(), &self.paths, self.programs.clone())
    }
}
