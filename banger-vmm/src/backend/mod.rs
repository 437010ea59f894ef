//! What runs a VM: one trait, so that the rest does not know which.

mod definition;
#[cfg(feature = "process")]
pub(crate) mod process;
mod qemu;
mod vmm;

use std::time::Duration;

use banger_agent::net::{NetMode, NetPlan};
use futures::future::LocalBoxFuture;

use crate::error::Result;
use crate::kvm::Accelerator;
use crate::program::Programs;
use crate::record::{BackendKind, VmRecord};

pub(crate) use definition::VmDefinition;
pub(crate) use vmm::{AgentStream, Launched, SocketPair, Vmm, VmmEvent, VmmPlan};

/// A kind of VMM.
pub(crate) trait Backend {
    /// Its name, for people.
    fn name(&self) -> &'static str;

    /// How long a guest may take to come up, and when it is started anew.
    fn boot_policy(&self, accelerator: Accelerator) -> BootPolicy;

    /// What will be run for `vm`.
    fn plan<'a>(&'a self, vm: &'a VmDefinition, accelerator: Accelerator) -> LocalBoxFuture<'a, Result<VmmPlan>>;

    /// Starts the VMM of a plan that this backend made. The VMM dies when this thread's process
    /// does. To be called on the main thread, in a tokio runtime.
    fn spawn(&self, plan: VmmPlan) -> Result<Launched>;
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
        BackendKind::Qemu => Ok(Box::new(qemu::Qemu::find(programs)?)),
    }
}

/// The network of a VM with this record, whenever it runs: what its VMM, its guest and the commands
/// for it go by.
pub fn net_plan(record: &VmRecord) -> NetPlan {
    match (record.net, record.backend) {
        (NetMode::None, _) => NetPlan::NONE,
        (NetMode::User, BackendKind::Qemu) => qemu::USER_NETWORK,
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
