//! `banger start`.

use std::path::Path;

use serde::Serialize;

use crate::error::CommandError;
use crate::host::paths::Paths;
use crate::output::ui::Ui;
use crate::output::units::elapsed;
use crate::vm::machine::Machines;

/// The answer, as `--json` has it.
#[derive(Debug, Serialize)]
struct Started {
    vm: String,
    /// Whether it had to be started.
    started: bool,
    /// How long that took; none: it ran already.
    boot_ms: Option<u128>,
}

/// Starts the VM named `name`, or the workspace's. One that runs is started.
///
/// # Errors
/// If there is none, or it does not start.
pub fn start(name: Option<&str>, here: &Path, paths: &Paths, ui: &Ui) -> Result<(), CommandError> {
    let machines = Machines::new(paths, ui);
    let vm = super::existing(name, here, paths, &machines)?;
    let machine = machines.start_found(&vm, &super::resources(&vm, paths)?)?;
    match machine.boot {
        Some(boot) => ui.status(&format!("started `{}`; boot {}", vm.name(), elapsed(boot))),
        None => ui.status(&format!("`{}` runs already", vm.name())),
    }
    let boot_ms = machine.boot.map(|boot| boot.as_millis());
    ui.answer(&Started { vm: vm.name().to_owned(), started: boot_ms.is_some(), boot_ms }, String::new)
}
