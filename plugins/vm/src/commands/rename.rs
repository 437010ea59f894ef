//! `banger vm rename`.

use banger::error::{CommandError, ErrorKind};
use banger::host::paths::Paths;
use banger::output::command_output::{CommandOutput, Message};
use banger::output::ui::Ui;
use banger::vm::machine::{Machines, named};
use serde::Serialize;

/// A VM that got another name.
#[derive(Clone, Debug, Serialize)]
pub(super) struct RenamedVm {
    /// The VM's name.
    vm: String,
    /// The name that the VM had before.
    former: String,
}

/// Gives the stopped VM named `former` the name `name`.
///
/// # Errors
/// If there is no such VM, it runs, or the name is taken or invalid.
pub(super) fn rename(former: &str, name: &str, paths: &Paths, ui: &Ui) -> Result<RenamedVm, CommandError> {
    let machines = Machines::new(paths, ui);
    let vm = named(former, &machines)?;
    if former == name {
        return Err(CommandError::new(format!("`{name}` is what it is called already")).kind(ErrorKind::VmExists));
    }
    let vm = machines.rename(&vm, name)?;
    Ok(RenamedVm { vm: vm.name().to_owned(), former: former.to_owned() })
}

impl CommandOutput for RenamedVm {
    fn messages(&self) -> Vec<Message> {
        vec![Message::status(format!("`{}` is called `{}` now", self.former, self.vm))]
    }
}
