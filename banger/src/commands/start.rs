//! `banger start`.

use std::path::Path;

use serde::Serialize;

use crate::error::CommandError;
use crate::host::paths::Paths;
use crate::output::command_output::{CommandOutput, Message, Millis};
use crate::output::ui::Ui;
use crate::output::units::elapsed;
use crate::vm::machine::Machines;

/// A VM that runs after `banger start`.
#[derive(Clone, Debug, Serialize)]
pub struct StartedVm {
    /// The VM's name.
    pub vm: String,
    /// Whether the VM was started now; false: it ran already.
    pub started: bool,
    /// How long the start took; none: the VM ran already.
    pub boot_ms: Option<Millis>,
}

/// Starts the VM named `name`, or without a name the VM of the workspace around `here`. Starting a
/// VM that runs is not an error.
///
/// # Errors
/// If there is no VM, or it does not start.
pub fn start(name: Option<&str>, here: &Path, paths: &Paths, ui: &Ui) -> Result<StartedVm, CommandError> {
    let machines = Machines::new(paths, ui);
    let vm = super::existing(name, here, paths, &machines)?;
    let boot_ms = machines.start_found(&vm, &super::resources(&vm, paths)?)?.boot.map(Millis);
    Ok(StartedVm { vm: vm.name().to_owned(), started: boot_ms.is_some(), boot_ms })
}

impl CommandOutput for StartedVm {
    fn messages(&self) -> Vec<Message> {
        vec![Message::status(match self.boot_ms {
            Some(Millis(boot)) => format!("started `{}`; boot {}", self.vm, elapsed(boot)),
            None => format!("`{}` runs already", self.vm),
        })]
    }
}
