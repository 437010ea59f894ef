//! Firecracker: a VM of virtio devices and little else, under KVM.
//!
//! It runs in a [directory of its own](run_directory) and is told over its [API](api), on a socket
//! there, what the VM is.

mod api;
mod end_signs;
mod installation;
mod jailer;
mod machine;
mod process;
mod run_directory;
mod snapshot;
mod start;

use std::cell::OnceCell;
use std::future::ready;
use std::path::{Path, PathBuf};
use std::time::Duration;

use banger_agent::net::NetMode;
use futures::future::LocalBoxFuture;

use super::{Backend, BootPolicy, Launched, VmDefinition};
use crate::error::{Failure, Result};
use crate::kvm::Accelerator;
use crate::network::{self, NetworkProgram, NetworkSupport};
use crate::program::Programs;
use crate::record::BackendKind;
pub use installation::FirecrackerInstallation;
use start::Host;

/// Firecracker on this host.
pub(crate) struct Firecracker {
    installation: FirecrackerInstallation,
    programs: Programs,
    /// The binary `banger-vmm`.
    launcher: PathBuf,
    /// Found out once, when a VM with a network is to be run.
    network: OnceCell<NetworkSupport>,
}

impl Firecracker {
    /// The Firecracker of this host.
    ///
    /// # Errors
    /// There is none that can be run.
    pub(crate) fn find(programs: &Programs) -> Result<Firecracker, Failure> {
        Ok(Firecracker {
            installation: FirecrackerInstallation::find(programs)?,
            programs: programs.clone(),
            // The supervisor is that binary.
            launcher: "/proc/self/exe".into(),
            network: OnceCell::new(),
        })
    }

    /// What connects `vm` to other machines; none: it has no network.
    ///
    /// # Errors
    /// It is to have one, and this host cannot give it one.
    fn network(&self, vm: &VmDefinition) -> Result<Option<NetworkProgram>, Failure> {
        if vm.net.mode == NetMode::None {
            return Ok(None);
        }
        match self.network.get_or_init(|| network::support(&self.launcher, &self.programs)) {
            NetworkSupport::Works(program) => Ok(Some(program.clone())),
            NetworkSupport::Unusable { reason, hint } => {
                let message = format!("a VM of Firecracker's cannot have a network here, because {reason}");
                Err(Failure::new(message).with_hint(hint))
            }
        }
    }
}

impl Backend for Firecracker {
    fn kind(&self) -> BackendKind {
        BackendKind::Firecracker
    }

    fn name(&self) -> &'static str {
        "Firecracker"
    }

    fn boot_policy(&self, _: Accelerator) -> BootPolicy {
        BootPolicy { limit: Duration::from_secs(30), retry_after: None }
    }

    fn check(&self, vm: &VmDefinition) -> Result<(), Failure> {
        machine::kernel(vm)?;
        self.network(vm).map(drop)
    }

    fn version(&self) -> LocalBoxFuture<'_, Result<String, Failure>> {
        Box::pin(ready(Ok(self.installation.version())))
    }

    fn launch<'a>(
        &'a self,
        vm: &'a VmDefinition,
        _: Accelerator,
        snapshot: Option<&'a Path>,
    ) -> LocalBoxFuture<'a, Result<Launched, Failure>> {
        Box::pin(async move {
            let FirecrackerInstallation { program: firecracker, jailer, .. } = &self.installation;
            let (jailer, launcher) = (jailer.as_ref(), &*self.launcher);
            start::start(Host { firecracker, jailer, launcher, network: self.network(vm)? }, vm, snapshot).await
        })
    }
}

#[cfg(test)]
mod tests;
