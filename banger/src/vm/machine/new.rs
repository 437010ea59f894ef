//! Making VMs: a workspace's own, those for one command, and those by name.

use std::time::{Duration, SystemTime};

use banger_vmm::{Ready, Vm, VmRecord};
use serde_json::Value;

use super::fits::check_fits;
use super::start::adjust;
use super::{Machines, VmSpec, names};
use crate::config::{DEFAULT_IMAGE, ImageAccess, default_cpus, default_memory};
use crate::error::{CommandError, WHOLE_CONSOLE};
use crate::git::Workspace;
use crate::output::report::RunPhase;
use crate::store::images::Images;
use crate::vm::ownership::{self, VmOwner};
use crate::vm::running::RunningVm;

/// Why no VM was made.
pub(super) enum CreateError {
    /// There is a VM of this name, or of this workspace.
    Exists,
    Failed(CommandError),
}

impl From<CommandError> for CreateError {
    fn from(error: CommandError) -> Self {
        CreateError::Failed(error)
    }
}

impl From<banger_vmm::Error> for CreateError {
    fn from(error: banger_vmm::Error) -> Self {
        match error {
            banger_vmm::Error::Exists(_) => CreateError::Exists,
            error => CreateError::Failed(error.into()),
        }
    }
}

/// What the record of a VM that is to be made says of it.
struct NewVmRecord<'a> {
    name: &'a str,
    /// The guest's host name; none: it follows from `name`.
    hostname: Option<String>,
    /// The [`VmOwner`], or [`ownership::bare`].
    owner: Value,
    ephemeral: bool,
}

impl Machines<'_> {
    /// Makes the VM of `workspace`.
    pub(super) fn make(&self, workspace: &Workspace, spec: &VmSpec) -> Result<Vm, CreateError> {
        {
            // One that was just getting another name may have been missed.
            let _names = self.store.lock_names()?;
            if ownership::find(&self.store, &names::of_workspace(workspace), workspace)?.is_some() {
                return Err(CreateError::Exists);
            }
        }
        let name = self.free_name(workspace)?.ok_or(CreateError::Exists)?;
        let owner = VmOwner::new(workspace, false).to_value();
        let hostname = Some(names::host_name(&workspace.root));
        self.create(&NewVmRecord { name: &name, hostname, owner, ephemeral: false }, spec)
    }

    /// A name for a new VM of `workspace`; none: another command has made the VM meanwhile.
    fn free_name(&self, workspace: &Workspace) -> Result<Option<String>, CommandError> {
        let base = names::of_workspace(workspace);
        // One of the same name is for a repository that was here and is elsewhere now, or somebody
        // chose the name.
        for name in std::iter::once(base.clone()).chain((2..100).map(|number| format!("{base}-{number}"))) {
            match self.store.get(&name)? {
                None => return Ok(Some(name)),
                Some(vm) if ownership::is_at(&vm, &workspace.root) => return Ok(None),
                Some(_) => {}
            }
        }
        Err(CommandError::new(format!("there are too many VMs named `{base}`"))
            .hint("remove those nobody needs: banger prune"))
    }

    /// Makes and starts a VM of `workspace` for one command, which is deleted with this process.
    ///
    /// # Errors
    /// If it cannot be made or started.
    pub fn ephemeral(&self, workspace: &Workspace, spec: &VmSpec) -> Result<RunningVm, CommandError> {
        self.sweep();
        let name = format!("{}-rm-{:08x}", names::of_workspace(workspace), names::random() as u32);
        let owner = VmOwner::new(workspace, true).to_value();
        let hostname = Some(names::host_name(&workspace.root));
        let new = NewVmRecord { name: &name, hostname, owner, ephemeral: true };
        let vm = self.create(&new, spec).map_err(|made| match made {
            CreateError::Exists => CommandError::new("an ephemeral VM of the same name exists").hint("run it again"),
            CreateError::Failed(error) => error,
        })?;
        self.start_new(&vm, spec)
    }

    /// Makes a VM that is found by its name alone. Without `name`, a name is chosen; without
    /// `workspace`, the VM is bare. With `ephemeral`, it is deleted with this process.
    ///
    /// # Errors
    /// If the name is taken or invalid, or the VM cannot be made.
    pub fn create_by_name(
        &self,
        name: Option<&str>,
        workspace: Option<&Workspace>,
        spec: &VmSpec,
        ephemeral: bool,
    ) -> Result<Vm, CommandError> {
        self.sweep();
        // Said before an image is pulled for it.
        if let Some(taken) = name.map(|name| self.store.get(name)).transpose()?.flatten() {
            return Err(banger_vmm::Error::Exists(taken.name().to_owned()).into());
        }
        let owner = match workspace {
            Some(workspace) => VmOwner::by_name(workspace, ephemeral).to_value(),
            None => ownership::bare(ephemeral),
        };
        loop {
            let chosen = match name {
                Some(name) => name.to_owned(),
                None => names::readable(&self.names()?),
            };
            let new = NewVmRecord { name: &chosen, hostname: None, owner: owner.clone(), ephemeral };
            match self.create(&new, spec) {
                // Another command was faster, with a name that nobody has asked for.
                Err(CreateError::Exists) if name.is_none() => {}
                Err(CreateError::Exists) => return Err(banger_vmm::Error::Exists(chosen).into()),
                Err(CreateError::Failed(error)) => return Err(error),
                Ok(vm) => return Ok(vm),
            }
        }
    }

    /// Starts a VM that this command has just made. If it does not start, it is deleted.
    ///
    /// # Errors
    /// If the VM does not start.
    pub fn start_new(&self, vm: &Vm, spec: &VmSpec) -> Result<RunningVm, CommandError> {
        self.machine(vm, spec).map_err(|started| {
            // That it could not be removed either is not the news.
            let _ = self.remove(vm, Duration::ZERO);
            let mut error = CommandError::from(started);
            error.hints.retain(|hint| !hint.starts_with(WHOLE_CONSOLE));
            error
        })
    }

    fn create(&self, new: &NewVmRecord<'_>, spec: &VmSpec) -> Result<Vm, CreateError> {
        check_fits(spec)?;
        let images = Images::new(self.paths, self.ui);
        let (named, access) = match (&spec.image, &spec.default_image) {
            (Some(image), _) => (&**image, spec.image_access),
            (None, default) => (default.as_deref().unwrap_or(DEFAULT_IMAGE), ImageAccess::User),
        };
        // From here on it cannot be deleted before the VM's record names it.
        let (image, _hold) = loop {
            let image = self.time(RunPhase::Image, || images.ensure(named, access))?;
            let hold = images.store().hold_images().map_err(CommandError::from)?;
            if images.store().image(&image.name).map_err(CommandError::from)?.is_some() {
                break (image, hold);
            }
        };
        let now = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |elapsed| elapsed.as_secs());
        let mut record = VmRecord::new(new.name, &image.name, &image.manifest.kernel, now);
        record.workspace = new.owner.clone();
        record.cpus = spec.cpus.unwrap_or_else(default_cpus);
        record.memory_mib = spec.memory_mib.unwrap_or_else(default_memory);
        record.disk_bytes = spec.disk_bytes.unwrap_or(record.disk_bytes);
        record.net = spec.net.unwrap_or_default();
        if let Some(hostname) = &new.hostname {
            record.hostname.clone_from(hostname);
        }
        record.ephemeral = new.ephemeral;
        // An ephemeral VM goes with its command.
        adjust(&mut record, spec);
        record.ready = match image.manifest.ready {
            banger_image::Ready::Agent => Ready::Agent,
            banger_image::Ready::System => Ready::System,
        };
        let vm = self.store.create(&record)?;
        spec.notes.iter().for_each(|note| self.ui.status(note));
        Ok(vm)
    }
}
