//! The commands besides running one. Each returns data, a [`CommandOutput`] that the caller prints.
//!
//! [`CommandOutput`]: crate::output::command_output::CommandOutput

mod config;
mod cp;
mod delete;
mod doctor;
mod du;
mod fetch;
mod list;
mod logs;
mod overview;
mod port;
mod prune;
mod restart;
mod start;
mod status;
mod stop;
#[cfg(test)]
mod test_home;
mod trust;
mod why;

pub use config::{ConfigChange, ConfigOutput, ConfigOverview, config};
pub use cp::cp;
pub use delete::{DeletedVm, delete};
pub use doctor::{Diagnosis, doctor};
pub use du::{DiskUsage, DiskUsageItem, du};
pub use fetch::{FetchReport, fetch};
pub use list::{VmEntry, VmList, list};
pub use logs::{FollowedLog, LogEvent, VmLog, follow_logs, logs};
pub use overview::{CommandEntry, CommandKind, CommandList, overview};
pub use port::{PortAction, PortEntry, VmPorts, port};
pub use prune::{KeptVm, PruneReason, PruneReport, PrunedBlobs, PrunedItem, Prunes, prune};
pub use restart::{RestartedVm, restart};
pub use start::{StartedVm, start};
pub use status::{AdditionalRepository, VmStatus, WorkspaceStatus, status};
pub use stop::{StoppedVm, stop};
pub use trust::{RepositoryTrust, TrustAction, TrustDecision, trust};
pub use why::{Direction, ExplainedPath, Explanations, RuleLine, why};

use banger_vmm::Vm;

use crate::config::{Overrides, Settings};
use crate::error::CommandError;
use crate::host::paths::Paths;
use crate::vm::machine::{VmSpec, chosen, existing, named, vm_of};
use crate::vm::ownership::VmOwner;

/// What the configuration says of an existing VM's processors, memory and disk: the user's, and
/// that of the repository that it is of.
fn resources(vm: &Vm, paths: &Paths) -> Result<VmSpec, CommandError> {
    let owner = vm.record().ok().and_then(|record| VmOwner::of(&record));
    let root = owner.as_ref().map(VmOwner::path).filter(|root| root.is_dir());
    let spec = VmSpec::from(&Settings::of_process(paths, root, &Overrides::default())?);
    Ok(VmSpec { image: None, default_image: None, net: None, ..spec })
}
