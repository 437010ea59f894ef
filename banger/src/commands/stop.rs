//! `banger stop`.

use std::path::Path;
use std::time::Duration;

use banger_vmm::{Stopped, Vm, VmState};
use serde::Serialize;

use crate::error::CommandError;
use crate::host::paths::Paths;
use crate::output::command_output::{CommandOutput, Message};
use crate::output::ui::Ui;
use crate::vm::machine::Machines;

/// How long services may take to stop.
const LIMIT: Duration = Duration::from_secs(30);

/// A VM that does not run after `banger stop`.
#[derive(Clone, Debug, Serialize)]
pub struct StoppedVm {
    /// The VM's name; none: the workspace has no VM.
    pub vm: Option<String>,
    /// Whether the VM was stopped now; false: it did not run.
    pub stopped: bool,
    /// Whether the VM's supervisor did not answer, and was killed.
    #[serde(skip)]
    pub was_killed: bool,
}

/// Stops the VM named `name`, or without a name the VM of the workspace around `here`. Stopping a
/// VM that does not run, or one that a workspace does not have, is not an error. With `force`,
/// services get no time to stop.
///
/// # Errors
/// If there is no VM named `name`, or the VM does not stop.
pub fn stop(name: Option<&str>, force: bool, here: &Path, paths: &Paths, ui: &Ui) -> Result<StoppedVm, CommandError> {
    let machines = Machines::new(paths, ui);
    let Some(vm) = super::chosen(name, here, paths, &machines)? else {
        return Ok(StoppedVm { vm: None, stopped: false, was_killed: false });
    };
    let name = Some(vm.name().to_owned());
    if let VmState::Stopped { .. } = vm.state()? {
        return Ok(StoppedVm { vm: name, stopped: false, was_killed: false });
    }
    let was_killed = stop_vm(&vm, force)? == Stopped::Killed;
    Ok(StoppedVm { vm: name, stopped: true, was_killed })
}

impl CommandOutput for StoppedVm {
    fn messages(&self) -> Vec<Message> {
        let Some(vm) = &self.vm else { return vec![Message::status("this repository has no VM")] };
        let mut messages = Vec::new();
        if self.was_killed {
            messages.push(Message::warning(killed(vm)));
        }
        messages.push(Message::status(match self.stopped {
            true => format!("stopped `{vm}`"),
            false => format!("`{vm}` does not run"),
        }));
        messages
    }
}

/// Stops the VM. Without `force`, its services get [`LIMIT`] to stop.
///
/// # Errors
/// If the VM does not stop.
pub(super) fn stop_vm(vm: &Vm, force: bool) -> Result<Stopped, CommandError> {
    Ok(vm.stop(if force { Duration::ZERO } else { LIMIT })?)
}

/// The warning about a supervisor that was killed.
pub(super) fn killed(vm: &str) -> String {
    format!("the supervisor of `{vm}` did not answer, and was killed")
}
