//! `banger stop`.

use std::path::Path;
use std::time::Duration;

use banger_vmm::VmState;

use crate::error::CommandError;
use crate::machine::Machines;
use crate::paths::Paths;
use crate::ui::Ui;

/// How long services may take to stop.
const LIMIT: Duration = Duration::from_secs(30);

/// Stops the workspace's VM. One that does not run, or does not exist, is stopped.
///
/// # Errors
/// If it does not stop.
pub fn stop(force: bool, here: &Path, paths: &Paths, ui: &Ui) -> Result<(), CommandError> {
    let machines = Machines::new(paths, ui);
    let (_, vm) = super::vm_of(here, paths, &machines)?;
    let Some(vm) = vm else {
        ui.status("this repository has no VM");
        return Ok(());
    };
    if let VmState::Stopped { .. } = vm.state()? {
        ui.status(&format!("`{}` does not run", vm.name()));
        return Ok(());
    }
    vm.stop(if force { Duration::ZERO } else { LIMIT })?;
    ui.status(&format!("stopped `{}`", vm.name()));
    Ok(())
}
