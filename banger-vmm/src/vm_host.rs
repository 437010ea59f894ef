//! Where VMs live: the seam between a [`Vm`](crate::Vm) and the machine that has it.
//!
//! [`LocalHost`] is this machine. A [`VmHost`] that reaches another machine relays its agent's
//! connections through socket pairs, and sends a disk when it is complete.

use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::client;
use crate::error::{Error, IoContext, Result};
use crate::record::{VmRecord, check_name};

/// The record in a VM's directory.
pub(crate) const RECORD: &str = "vm.json";
/// The workspace's disk in a VM's directory.
pub(crate) const WORKSPACE: &str = "workspace.ext4";

/// A machine that VMs live on, this one or another. It knows VMs by name; a name is valid if
/// [`crate::is_name`] says so.
pub trait VmHost: Debug + Send + Sync {
    /// The names of all VMs, sorted. What is being made or deleted is none.
    ///
    /// # Errors
    /// The file system's refusal.
    fn names(&self) -> Result<Vec<String>>;

    /// Whether there is a VM of this valid name.
    ///
    /// # Errors
    /// The file system's refusal.
    fn has(&self, name: &str) -> Result<bool>;

    /// Reads what is written down about a VM.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such VM, [`Error::Newer`], [`Error::Damaged`], or the
    /// file system's refusal.
    fn record(&self, name: &str) -> Result<VmRecord>;

    /// Opens a stream to the agent of a running VM, which carries one operation. Waits while the VM
    /// starts.
    ///
    /// # Errors
    /// [`Error::NotRunning`], [`Error::GoingDown`], or [`Error::Refused`] if the agent is lost.
    fn connect_agent(&self, name: &str, access: AgentAccess) -> Result<UnixStream>;

    /// Opens a file for a file system with the VM's workspace. The file is as long as the VM's
    /// disk. [`VmHost::upload_workspace`] brings it to the VM.
    ///
    /// # Errors
    /// The file system's refusal.
    fn open_workspace(&self, name: &str) -> Result<File>;

    /// Brings a file of [`VmHost::open_workspace`] to the VM as its workspace's disk. Only before
    /// the guest has been told to take that disk.
    ///
    /// # Errors
    /// The file system's refusal.
    fn upload_workspace(&self, name: &str, disk: File) -> Result<()>;
}

/// What a stream to an agent is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AgentAccess {
    /// Using the VM, which does not stop for being idle meanwhile.
    Use,
    /// Looking how the VM is, which does not keep it from stopping. The stream is there within this
    /// time, or it is an error.
    Look(Duration),
}

/// This machine, which has a directory for each VM.
#[derive(Clone, Debug)]
pub struct LocalHost {
    vms: PathBuf,
}

impl LocalHost {
    /// The VMs whose directories are in `vms`, which need not exist.
    pub fn new(vms: &Path) -> LocalHost {
        LocalHost { vms: vms.to_owned() }
    }

    fn folder(&self, name: &str) -> PathBuf {
        self.vms.join(name)
    }
}

impl VmHost for LocalHost {
    fn names(&self) -> Result<Vec<String>> {
        let mut names: Vec<_> = entries(&self.vms)?.into_iter().filter(|name| check_name(name).is_ok()).collect();
        names.sort_unstable();
        Ok(names)
    }

    fn has(&self, name: &str) -> Result<bool> {
        let folder = self.folder(name);
        match fs::symlink_metadata(&folder) {
            Ok(metadata) => Ok(metadata.is_dir()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error).at("read", &folder),
        }
    }

    fn record(&self, name: &str) -> Result<VmRecord> {
        let folder = self.folder(name);
        match VmRecord::read(&folder.join(RECORD)) {
            Err(Error::Io { .. }) if !folder.exists() => Err(Error::NotFound(name.to_owned())),
            record => record,
        }
    }

    fn connect_agent(&self, name: &str, access: AgentAccess) -> Result<UnixStream> {
        let connection = client::connect_or_restore(name, &self.folder(name))?;
        match access {
            AgentAccess::Use => connection.agent(false),
            AgentAccess::Look(limit) => connection.within(limit).agent(true),
        }
    }

    fn open_workspace(&self, name: &str) -> Result<File> {
        let path = self.folder(name).join(WORKSPACE);
        OpenOptions::new().read(true).write(true).open(&path).at("write", &path)
    }

    fn upload_workspace(&self, _name: &str, _disk: File) -> Result<()> {
        // It was written in place.
        Ok(())
    }
}

/// The names of what is in the directory `vms`, which need not exist. Those that are not UTF-8 are
/// left out.
pub(crate) fn entries(vms: &Path) -> Result<Vec<String>> {
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
