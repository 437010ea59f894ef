//! `banger stop`.

use std::path::Path;
use std::time::Duration;

use banger_vmm::{Stopped, Vm, VmState};
use serde::Serialize;

use crate::error::CommandError;
use crate::host::paths::Paths;
use crate::output::ui::Ui;
use crate::vm::machine::Machines;

/// How long services may take to stop.
const LIMIT: Duration = Duration::from_secs(30);

/// The answer, as `--json` has it.
#[derive(Debug, Serialize)]
struct Answer {
    /// The VM; none: the repository has none.
    vm: Option<String>,
    /// Whether there was one to stop.
    stopped: bool,
}

/// Stops the VM: without `force`, its services get the time to stop.
pub(super) fn stop_vm(vm: &Vm, force: bool, ui: &Ui) -> Result<(), CommandError> {
    if vm.stop(if force { Duration::ZERO } else { LIMIT })? == Stopped::Killed {
        ui.warning(&format!("the supervisor of `{}` did not answer, and was killed", vm.name()));
    }
    Ok(())
}

/// Stops the VM named `name`, or the workspace's. One that does not run, or that a workspace does
/// not have, is stopped.
///
/// # Errors
/// If it does not stop.
pub fn stop(name: Option<&str>, force: bool, here: &Path, paths: &Paths, ui: &Ui) -> Result<(), CommandError> {
    let machines = Machines::new(paths, ui);
    let Some(vm) = super::chosen(name, here, paths, &machines)? else {
        ui.status("this repository has no VM");
        return ui.answer(&Answer { vm: None, stopped: false }, String::new);
    };
    if let VmState::Stopped { .. } = vm.state()? {
        ui.status(&format!("`{}` does not run", vm.name()));
        return ui.answer(&Answer { vm: Some(vm.name().to_owned()), stopped: false }, String::new);
    }
    stop_vm(&vm, force, ui)?;
    ui.status(&format!("stopped `{}`", vm.name()));
    ui.answer(&Answer { vm: Some(vm.name().to_owned()), stopped: true }, String::new)
}
