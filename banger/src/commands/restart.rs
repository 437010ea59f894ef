//! `banger restart`.

use std::path::Path;

use serde::Serialize;

use super::stop::stop_vm;
use crate::error::CommandError;
use crate::host::paths::Paths;
use crate::output::ui::Ui;
use crate::output::units::elapsed;
use crate::vm::machine::Machines;

/// The answer, as `--json` has it.
#[derive(Debug, Serialize)]
struct Restarted {
    vm: String,
    /// How long it took to start.
    boot_ms: u128,
}

/// Stops the VM named `name`, or the workspace's, and starts it with the banger, processors and
/// memory of now.
///
/// # Errors
/// If there is none, or it does not stop or start.
pub fn restart(name: Option<&str>, force: bool, here: &Path, paths: &Paths, ui: &Ui) -> Result<(), CommandError> {
    let machines = Machines::new(paths, ui);
    let vm = super::existing(name, here, paths, &machines)?;
    stop_vm(&vm, force, ui)?;
    let machine = machines.start_found(&vm, &super::resources(&vm, paths)?)?;
    // Another command may have been faster.
    let boot = machine.boot.unwrap_or_default();
    ui.status(&format!("restarted `{}`; boot {}", vm.name(), elapsed(boot)));
    ui.answer(&Restarted { vm: vm.name().to_owned(), boot_ms: boot.as_millis() }, String::new)
}
