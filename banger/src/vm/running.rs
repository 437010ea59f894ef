//! A VM that runs and is in use.

use std::time::Duration;

use banger_vmm::{Hold, NetPlan, Ready, Vm};

/// A running VM, which does not stop for being idle before this is dropped.
pub struct RunningVm {
    /// The VM.
    pub vm: Vm,
    /// When the VM counts as started.
    pub ready: Ready,
    /// How the guest reaches other machines, and they the guest.
    pub net: NetPlan,
    /// How long the start took; none: the VM ran already.
    pub boot: Option<Duration>,
    /// The process id of its supervisor, if the VM was seen running.
    pub(crate) supervisor: Option<i32>,
    /// The use of the VM.
    pub(super) _hold: Hold,
}
