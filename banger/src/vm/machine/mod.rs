//! VMs, as commands use them: found, made, started, stopped.
//!
//! A workspace has a VM of its own, which it is found by ([`Machines::ensure`]). Others are made,
//! and found, by name ([`Machines::create_by_name`], [`Machines::named`]): bare ones, and those
//! with a workspace's files in them.

mod find;
mod fits;
mod names;
mod new;
mod start;

use std::time::Duration;

use banger_agent::protocol::{AgentRequest, Stat};
use banger_vmm::{BackendChoice, NetMode, RateLimits, Vm, VmStore};

pub(crate) use self::find::{chosen, vm_of};
pub use self::find::{existing, named};
pub(crate) use self::fits::{check_fits, most};
use self::new::CreateError;
use self::start::{StartError, lock};
use crate::config::{ImageAccess, Settings};
use crate::error::{CommandError, ErrorKind};
use crate::git::Workspace;
use crate::host::paths::Paths;
use crate::output::report::{RunPhase, RunReport};
use crate::output::ui::Ui;
use crate::vm::agent::Call;
use crate::vm::ownership::{self, OwnerMatch, VmOwner};
use crate::vm::post_mortem;
use crate::vm::running::RunningVm;

/// What a command wants of its VM. None: what an existing VM has, or the default of a new one.
#[derive(Clone, Debug, Default)]
pub struct VmSpec {
    /// Image of a new VM.
    pub image: Option<String>,
    /// With whose credentials `image` is pulled.
    pub image_access: ImageAccess,
    /// Image of a new VM if `image` is none.
    pub default_image: Option<String>,
    /// Virtual processors.
    pub cpus: Option<u32>,
    /// Memory in MiB.
    pub memory_mib: Option<u64>,
    /// Size of a new VM's disk, in bytes.
    pub disk_bytes: Option<u64>,
    /// How much of this machine's disks and network the VM may use.
    pub limits: Option<RateLimits>,
    /// Network of a new VM.
    pub net: Option<NetMode>,
    /// What runs the VM.
    pub backend: Option<BackendChoice>,
    /// The Firecracker program, as the configuration has it.
    pub firecracker: Option<String>,
    /// The user whom Firecracker's jailer is to become.
    pub jailer_user: Option<String>,
    /// After how long without a command the VM stops by itself; zero: never.
    pub idle_timeout: Option<Duration>,
    /// Messages about a new VM: which values are less than its repository asks for.
    pub notes: Vec<String>,
}

impl From<&Settings> for VmSpec {
    fn from(settings: &Settings) -> Self {
        VmSpec {
            image: settings.wanted_image().map(str::to_owned),
            image_access: settings.image_access(),
            default_image: Some(settings.image().to_owned()),
            cpus: settings.cpus(),
            memory_mib: settings.memory_mib(),
            disk_bytes: settings.disk_bytes(),
            limits: Some(settings.rate_limits()),
            net: settings.net(),
            backend: settings.backend(),
            firecracker: settings.firecracker_bin().map(str::to_owned),
            jailer_user: settings.jailer_user().map(str::to_owned),
            idle_timeout: Some(settings.idle_timeout()),
            notes: settings.limit_notes(),
        }
    }
}

impl VmSpec {
    /// What the user's settings say of a VM that exists, and that nothing else is wanted of.
    pub fn of_existing(settings: &Settings) -> VmSpec {
        VmSpec {
            idle_timeout: Some(settings.idle_timeout()),
            backend: settings.backend(),
            firecracker: settings.firecracker_bin().map(str::to_owned),
            jailer_user: settings.jailer_user().map(str::to_owned),
            ..VmSpec::default()
        }
    }
}

/// All VMs of a user.
pub struct Machines<'a> {
    store: VmStore,
    paths: &'a Paths,
    ui: &'a Ui,
    report: Option<&'a RunReport>,
}

impl<'a> Machines<'a> {
    /// The VMs below the user's directories.
    pub fn new(paths: &'a Paths, ui: &'a Ui) -> Self {
        Machines::of(paths.vm_store(), paths, ui)
    }

    /// The VMs of `store`.
    pub(crate) fn of(store: VmStore, paths: &'a Paths, ui: &'a Ui) -> Self {
        Machines { store, paths, ui, report: None }
    }

    /// Notes in `report` how long each step takes.
    #[must_use]
    pub fn reported(mut self, report: &'a RunReport) -> Self {
        self.report = Some(report);
        self
    }

    fn time<T>(&self, phase: RunPhase, work: impl FnOnce() -> T) -> T {
        match self.report {
            Some(report) => report.time(phase, work),
            None => work(),
        }
    }

    /// All VMs, sorted by name.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn all(&self) -> Result<Vec<Vm>, CommandError> {
        Ok(self.store.list()?)
    }

    /// The names of all VMs, sorted.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn names(&self) -> Result<Vec<String>, CommandError> {
        Ok(self.all()?.iter().map(|vm| vm.name().to_owned()).collect())
    }

    /// The VM of this name, if there is one.
    ///
    /// # Errors
    /// If the name is invalid, or the store cannot be read.
    pub fn named(&self, name: &str) -> Result<Option<Vm>, CommandError> {
        Ok(self.store.get(name)?)
    }

    /// The store that the VMs are in.
    pub fn store(&self) -> &VmStore {
        &self.store
    }

    /// The VM of `workspace`, if it has one.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn find(&self, workspace: &Workspace) -> Result<Option<Vm>, CommandError> {
        Ok(ownership::find(&self.store, &names::of_workspace(workspace), workspace)?.map(|(vm, _)| vm))
    }

    /// The VM of `workspace`, if it has one. The VM of a repository that was moved gets its new
    /// path; the VM of a repository that was replaced does not count.
    fn adopt(&self, workspace: &Workspace) -> Result<Option<Vm>, StartError> {
        let found = ownership::find(&self.store, &names::of_workspace(workspace), workspace)?;
        let Some((vm, owner_match)) = found else { return Ok(None) };
        match owner_match {
            OwnerMatch::Here => {}
            OwnerMatch::Moved { from } => {
                let lock = lock(&vm)?;
                let mut record = vm.record()?;
                record.workspace = VmOwner::new(workspace, false).to_value();
                vm.set_record(&lock, &record)?;
                let (from, here) = (from.display(), workspace.root.display());
                self.ui.status(&format!("this repository was at {from}: its VM `{}` comes along to {here}", vm.name()));
            }
            OwnerMatch::Replaced => {
                let message = format!(
                    "the VM `{}` belongs to another repository, which was at {} before this one",
                    vm.name(),
                    workspace.root.display()
                );
                let error = CommandError::new(message).kind(ErrorKind::RepositoryReplaced);
                return Err(error
                    .hint("make a new VM, without what that one has: banger delete")
                    .hint("get something out of it before: banger cp :PATH .")
                    .into());
            }
        }
        Ok(Some(vm))
    }

    /// The running VM of `workspace`, which is made and started if it has to be. A start that fails
    /// is not repeated; a VM that somebody stops meanwhile is started again.
    ///
    /// # Errors
    /// If the VM cannot be made or started.
    pub fn ensure(&self, workspace: &Workspace, spec: &VmSpec) -> Result<RunningVm, CommandError> {
        let mut restarts = 0..post_mortem::RESTARTS;
        loop {
            let vm = match self.adopt(workspace) {
                Ok(Some(vm)) => vm,
                Err(StartError::Deleted) => continue,
                Err(StartError::Ended(error) | StartError::Failed(error)) => return Err(error),
                Ok(None) => match self.make(workspace, spec) {
                    Ok(vm) => vm,
                    // Another command was faster.
                    Err(CreateError::Exists) => continue,
                    Err(CreateError::Failed(error)) => return Err(error),
                },
            };
            match self.machine(&vm, spec) {
                Err(StartError::Deleted) => continue,
                Err(StartError::Ended(error))
                    if post_mortem::is_over(&error, &vm, None) && restarts.next().is_some() => {}
                Err(StartError::Ended(error) | StartError::Failed(error)) => return Err(error),
                Ok(machine) => return Ok(machine),
            }
        }
    }

    /// Starts a VM that was found, if it does not run.
    ///
    /// # Errors
    /// If the VM does not start, or is gone.
    pub fn start_found(&self, vm: &Vm, spec: &VmSpec) -> Result<RunningVm, CommandError> {
        let start = || self.machine(vm, spec).map_err(CommandError::from);
        let machine = start()?;
        // One that was killed may have looked alive.
        match Call::ask::<Stat>(vm, &AgentRequest::Stat).map_err(CommandError::from) {
            Err(error) if post_mortem::is_over(&error, vm, Some(&machine)) => start(),
            _ => Ok(machine),
        }
    }

    /// Stops a VM, by force after `limit`, and deletes it.
    ///
    /// # Errors
    /// If the VM does not stop or cannot be deleted.
    pub fn remove(&self, vm: &Vm, limit: Duration) -> Result<(), CommandError> {
        vm.stop(limit)?;
        Ok(self.store.delete(vm.name())?)
    }

    /// Deletes a VM that nobody uses, if `may_go` says so when nobody can start it any more. False
    /// if it does not, or the VM runs again.
    ///
    /// # Errors
    /// [`banger_vmm::Error::InUse`] if somebody uses it; if it does not stop, or cannot be deleted.
    pub fn remove_unused(
        &self,
        vm: &Vm,
        may_go: impl FnOnce(&Vm) -> Result<bool, banger_vmm::Error>,
    ) -> Result<bool, banger_vmm::Error> {
        vm.stop_unused()?;
        self.store.delete_if(vm.name(), may_go)
    }

    /// Gives a stopped VM another name, and the host name that follows from it. A workspace finds
    /// its VM by any name.
    ///
    /// # Errors
    /// If the VM runs, or the name is taken or invalid.
    pub fn rename(&self, vm: &Vm, name: &str) -> Result<Vm, CommandError> {
        Ok(self.store.rename(vm.name(), name)?)
    }

    /// Removes ephemeral VMs whose command was killed.
    pub(crate) fn sweep(&self) {
        for vm in self.store.list().unwrap_or_default() {
            if vm.record().is_ok_and(|record| ownership::is_abandoned(&vm, &record)) {
                self.ui.status(&format!("removing the ephemeral VM `{}`, whose command was killed", vm.name()));
                // The next sweep tries again.
                let _ = self.remove(&vm, Duration::ZERO);
            }
        }
    }
}
