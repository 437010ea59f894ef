//! The VM that a backend is to run.

use std::path::{Path, PathBuf};

use banger_agent::boot_config::{AgentDevice, BootConfig, DiskConfig, DiskNaming, DiskRole, GuestIdentity};
use banger_agent::net::NetPlan;

#[cfg(test)]
use crate::record::BackendKind;
use crate::record::VmRecord;

/// A VM to run: its record, its network, and the files that it is made of.
pub(crate) struct VmDefinition {
    pub(crate) record: VmRecord,
    /// Its network, as [`super::net_plan`] made it.
    pub(crate) net: NetPlan,
    /// The kernel as QEMU's `-kernel` takes it.
    pub(crate) kernel: PathBuf,
    /// The kernel as an ELF file, for a VMM that takes no other; none: there is no such file.
    pub(crate) vmlinux: Option<PathBuf>,
    pub(crate) initramfs: PathBuf,
    /// The image, read-only.
    pub(crate) base: PathBuf,
    /// The VM's own disk.
    pub(crate) disk: PathBuf,
    /// The disk for the workspace; none for a VM without one.
    pub(crate) workspace: Option<PathBuf>,
    /// The kernel's modules, read-only.
    pub(crate) modules: Option<PathBuf>,
}

impl VmDefinition {
    /// A VM with this record, of files that need not be there, and without a workspace and modules.
    #[cfg(test)]
    pub(crate) fn for_test(record: VmRecord, backend: BackendKind) -> Self {
        VmDefinition {
            net: super::net_plan(record.net, backend),
            record,
            kernel: "/k".into(),
            vmlinux: None,
            initramfs: "/i".into(),
            base: "/b".into(),
            disk: "/d".into(),
            workspace: None,
            modules: None,
        }
    }

    /// The disks in the order of their attachment, each with its role and its file.
    pub(crate) fn disks(&self) -> Vec<(DiskRole, &Path)> {
        let workspace = self.workspace.iter().map(|file| (DiskRole::Workspace, &**file));
        let modules = self.modules.iter().map(|file| (DiskRole::Modules, &**file));
        [(DiskRole::Base, &*self.base), (DiskRole::Disk, &*self.disk)]
            .into_iter()
            .chain(workspace)
            .chain(modules)
            .collect()
    }

    /// What the guest is to be called, and how it reaches other machines.
    pub(crate) fn identity(&self) -> GuestIdentity {
        GuestIdentity {
            hostname: self.record.hostname.clone(),
            machine_id: Some(self.record.machine_id.clone()),
            net: self.net.interface,
        }
    }

    /// What the guest is told when it boots; the two arguments are the backend's own.
    pub(crate) fn boot_config(&self, agent: AgentDevice, naming: DiskNaming) -> BootConfig {
        BootConfig {
            identity: self.identity(),
            volatile: self.record.ephemeral,
            agent,
            disks: DiskConfig { naming, attached: self.disks().into_iter().map(|(role, _)| role).collect() },
        }
    }
}
