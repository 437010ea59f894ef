//! What runs a VM: one trait, so that the rest does not know which.

mod definition;
mod firecracker;
#[cfg(feature = "process")]
pub(crate) mod process;
pub(crate) mod qemu;
mod vmm;
mod vsock;

use std::future::ready;
use std::path::Path;
use std::time::Duration;

use banger_agent::net::{NetMode, NetPlan};
use futures::future::LocalBoxFuture;

use crate::error::{Error, Failure, Result};
use crate::kvm::Accelerator;
use crate::program::Programs;
use crate::record::BackendKind;

pub(crate) use definition::VmDefinition;
use firecracker::Firecracker;
pub use firecracker::FirecrackerInstallation;
pub(crate) use vmm::{
    AgentConnector, AgentStream, Launched, SingleConnection, SocketPair, Vmm, VmmCommand, VmmControl, VmmEvent,
};

/// A kind of VMM.
pub(crate) trait Backend {
    /// Which kind it is.
    fn kind(&self) -> BackendKind;

    /// Its name, for people.
    fn name(&self) -> &'static str;

    /// How long a guest may take to come up, and when it is started anew.
    fn boot_policy(&self, accelerator: Accelerator) -> BootPolicy;

    /// Whether this host and this VM have what the backend needs.
    ///
    /// # Errors
    /// What is missing, and what to do about it.
    fn check(&self, vm: &VmDefinition) -> Result<(), Failure>;

    /// The version of its program. Only the version that has written a snapshot goes on from it.
    ///
    /// # Errors
    /// Its program cannot be asked, or it has no snapshots.
    fn version(&self) -> LocalBoxFuture<'_, Result<String, Failure>> {
        let failure = Failure::new(format!("{} has no snapshots", self.name()));
        Box::pin(ready(Err(failure)))
    }

    /// Starts the VMM for `vm`; with `snapshot`, one that goes on where the snapshot in that
    /// directory was made, with disks as they were then. The VMM dies when this thread's process
    /// does. To be called on the main thread.
    fn launch<'a>(
        &'a self,
        vm: &'a VmDefinition,
        accelerator: Accelerator,
        snapshot: Option<&'a Path>,
    ) -> LocalBoxFuture<'a, Result<Launched, Failure>>;
}

/// What is done about a guest that does not come up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BootPolicy {
    /// How long the guest may take until its agent answers, if the user does not say.
    pub(crate) limit: Duration,
    /// A guest that resets itself, or is not up after this time, is started once more, with the
    /// rest of the limit; `None`: the first failure is the last.
    pub(crate) retry_after: Option<Duration>,
}

/// Finds a backend of this kind on the host.
///
/// # Errors
/// [`crate::Error::ProgramMissing`] if its program is not installed.
pub(crate) fn find(kind: BackendKind, programs: &Programs) -> Result<Box<dyn Backend>> {
    match kind {
        BackendKind::Firecracker => Ok(Box::new(Firecracker::find(programs).map_err(Error::Backend)?)),
        BackendKind::Qemu => Ok(Box::new(qemu::Qemu::find(programs)?)),
    }
}

/// The network of a VM of this mode under this backend: what its VMM, its guest and the commands for
/// it go by.
pub fn net_plan(mode: NetMode, backend: BackendKind) -> NetPlan {
    match (mode, backend) {
        (NetMode::None, _) => NetPlan::NONE,
        (NetMode::User, BackendKind::Qemu) => qemu::USER_NETWORK,
        // The addresses are the same, so that a guest does not care which of the two runs it.
        (NetMode::User, BackendKind::Firecracker) => NetPlan { host_alias: None, ..qemu::USER_NETWORK },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Error, Failure, FailureKind};

    #[test]
    fn backend_that_is_not_installed_is_named_whoever_looks_for_it() {
        let nowhere = Programs::new("/nonexistent");
        let error = find(BackendKind::Qemu, &nowhere).err().unwrap();
        assert!(matches!(error, Error::ProgramMissing { program: "qemu-system-x86_64", .. }), "{error}");
        assert_eq!(Failure::from(error).kind, FailureKind::ProgramMissing);
        // A supervisor looks where its command would.
        let told: Programs = serde_json::from_value(serde_json::to_value(&nowhere).unwrap()).unwrap();
        assert!(find(BackendKind::Qemu, &told).is_err());
    }
}
