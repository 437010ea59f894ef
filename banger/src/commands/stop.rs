//! `banger stop`.

use std::path::Path;
use std::time::Duration;

use banger_vmm::VmState;
use serde::Serialize;

use crate::error::CommandError;
use crate::machine::Machines;
use crate::paths::Paths;
use crate::ui::Ui;

/// How long services may take to stop.
pub(super) const LIMIT: Duration = Duration::from_secs(30);

/// The answer, as `--json` has it.
#[derive(Debug, Serialize)]
struct Stopped {
    /// The VM; none: the repository has none.
    vm: Option<String>,
    /// Whether there was one to stop.
    stopped: bool,
}

/// Stops the VM named `name`, or the workspace's. One that does not run, or that a workspace does not have, is stopped.
///
/// # Errors
/// If it does not stop.
pub fn stop(name: Option<&str>, force: bool, here: &Path, paths: &Paths, ui: &Ui) -> Result<(), CommandError> {
    let machines = Machines::new(paths, ui);
    let Some(vm) = super::chosen(name, here, paths, &machines)? else {
        ui.status("this repository has no VM");
        return ui.answer(&Stopped { vm: None, stopped: false }, String::new);
    };
    if let VmState::Stopped { .. } = vm.state()? {
        ui.status(&format!("`{}` does not run", vm.name()));
        return ui.answer(&Stopped { vm: Some(vm.name().to_owned()), stopped: false }, String::new);
    }
    vm.stop(if force { Duration::ZERO } else { LIMIT })?;
    ui.status(&format!("stopped `{}`", vm.name()));
    ui.answer(&Stopped { vm: Some(vm.name().to_owned()), stopped: true }, String::new)
}
