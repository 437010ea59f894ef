//! `banger restart`.

use std::path::Path;

use banger_vmm::Stopped;
use serde::Serialize;

use super::stop::{killed, stop_vm};
use crate::error::CommandError;
use crate::host::paths::Paths;
use crate::output::command_output::{CommandOutput, Message, Millis};
use crate::output::ui::Ui;
use crate::output::units::elapsed;
use crate::vm::machine::Machines;

/// A VM that was stopped and started again.
#[derive(Clone, Debug, Serialize)]
pub struct RestartedVm {
    /// The VM's name.
    pub vm: String,
    /// How long the start took; zero if another command started the VM first.
    pub boot_ms: Millis,
}

/// Stops the VM named `name`, or without a name the VM of the workspace around `here`, and starts
/// it with this version of banger and the configured processors and memory. With `force`, services
/// get no time to stop.
///
/// # Errors
/// If there is no VM, or it does not stop or start.
pub fn restart(
    name: Option<&str>,
    force: bool,
    here: &Path,
    paths: &Paths,
    ui: &Ui,
) -> Result<RestartedVm, CommandError> {
    let machines = Machines::new(paths, ui);
    let vm = super::existing(name, here, paths, &machines)?;
    if stop_vm(&vm, force)? == Stopped::Killed {
        // The start that follows takes its time, and may fail.
        ui.warning(&killed(vm.name()));
    }
    let machine = machines.start_found(&vm, &super::resources(&vm, paths)?)?;
    Ok(RestartedVm { vm: vm.name().to_owned(), boot_ms: Millis(machine.boot.unwrap_or_default()) })
}

impl CommandOutput for RestartedVm {
    fn messages(&self) -> Vec<Message> {
        vec![Message::status(format!("restarted `{}`; boot {}", self.vm, elapsed(self.boot_ms.0)))]
    }
}
