//! `banger vm rename`.

use banger::error::{CommandError, ErrorKind};
use banger::host::paths::Paths;
use banger::output::ui::Ui;
use banger::vm::machine::{Machines, named};
use serde::Serialize;

/// The answer, as `--json` has it.
#[derive(Debug, Serialize)]
struct Renamed<'a> {
    vm: &'a str,
    /// What it was called before.
    former: &'a str,
}

pub(super) fn rename(former: &str, name: &str, paths: &Paths, ui: &Ui) -> Result<(), CommandError> {
    let machines = Machines::new(paths, ui);
    let vm = named(former, &machines)?;
    if former == name {
        return Err(CommandError::new(format!("`{name}` is what it is called already")).kind(ErrorKind::VmExists));
    }
    let vm = machines.rename(&vm, name)?;
    ui.status(&format!("`{former}` is called `{}` now", vm.name()));
    ui.answer(&Renamed { vm: vm.name(), former }, String::new)
}
