//! `banger delete`.

use std::path::Path;
use std::time::Duration;

use banger_vmm::Vm;
use serde::Serialize;

use crate::error::{CommandError, ErrorKind};
use crate::host::paths::Paths;
use crate::output::command_output::{CommandOutput, Message};
use crate::output::ui::Ui;
use crate::vm::machine::Machines;
use crate::vm::unsynced::UnsyncedChanges;

/// How often a VM is stopped again that others start before it is gone.
const FORCED_TRIES: u32 = 5;

/// A VM that is gone after `banger delete`, or was kept.
#[derive(Clone, Debug, Serialize)]
pub struct DeletedVm {
    /// The VM's name; none: the workspace had no VM.
    pub vm: Option<String>,
    /// Whether the VM was deleted; false: there was none, or the user said no.
    pub deleted: bool,
}

/// Deletes the VM named `name`, or without a name the VM of the workspace around `here`. A VM that
/// has, or may have, changes of its own is deleted with `force`, or if the user at the terminal
/// agrees; a VM that is in use with `force` alone.
///
/// # Errors
/// If the VM is in use, has changes and there is nobody to ask, or cannot be deleted.
pub fn delete(name: Option<&str>, force: bool, here: &Path, paths: &Paths, ui: &Ui) -> Result<DeletedVm, CommandError> {
    let machines = Machines::new(paths, ui);
    let Some(vm) = super::chosen(name, here, paths, &machines)? else {
        return Ok(DeletedVm { vm: None, deleted: false });
    };
    if force {
        remove_by_force(&vm, &machines)?;
    } else {
        let Some(unsynced) = agreed(&vm, name, ui)? else {
            return Ok(DeletedVm { vm: Some(vm.name().to_owned()), deleted: false });
        };
        remove_unused(&vm, &unsynced, name, &machines)?;
    }
    Ok(DeletedVm { vm: Some(vm.name().to_owned()), deleted: true })
}

impl CommandOutput for DeletedVm {
    fn messages(&self) -> Vec<Message> {
        vec![Message::status(match (&self.vm, self.deleted) {
            (None, _) => "this repository has no VM".to_owned(),
            (Some(_), false) => "nothing was deleted".to_owned(),
            (Some(vm), true) => format!("deleted `{vm}`"),
        })]
    }
}

/// Deletes the VM whatever runs in it. Who forces it means it, whoever starts it meanwhile.
fn remove_by_force(vm: &Vm, machines: &Machines<'_>) -> Result<(), CommandError> {
    let remove = || machines.remove(vm, Duration::ZERO);
    let mut removed = remove();
    for _ in 1..FORCED_TRIES {
        if !removed.as_ref().is_err_and(|error| error.kind == ErrorKind::VmRunning) {
            break;
        }
        removed = remove();
    }
    removed.map_err(|error| match error.kind {
        ErrorKind::VmRunning => used_meanwhile(vm, "another command has started"),
        _ => error,
    })
}

/// Deletes the VM unless somebody uses it. `unsynced` is what may be lost with it: it is looked at
/// again when nobody can use the VM any more.
fn remove_unused(
    vm: &Vm,
    unsynced: &UnsyncedChanges,
    name: Option<&str>,
    machines: &Machines<'_>,
) -> Result<(), CommandError> {
    let removed = machines.remove_unused(vm, |vm| Ok(unsynced.covers(&UnsyncedChanges::noted(vm)?)));
    match removed {
        Err(banger_vmm::Error::InUse(_)) => {
            let error = CommandError::from(banger_vmm::Error::InUse(vm.name().to_owned()));
            Err(error.hint(format!("end it with the VM: {}", by_force(name))))
        }
        removed => match removed? {
            true => Ok(()),
            false => Err(used_meanwhile(vm, "another command has used")),
        },
    }
}

fn used_meanwhile(vm: &Vm, what: &str) -> CommandError {
    let error = CommandError::new(format!("{what} `{}` meanwhile", vm.name()));
    error.kind(ErrorKind::VmBusy).hint("run it again")
}

/// What deletes the VM that the user has called by `name`, whatever it holds.
fn by_force(name: Option<&str>) -> String {
    let named = name.map(|name| format!(" {name}")).unwrap_or_default();
    format!("banger delete --force{named}")
}

/// What may be lost with the VM, which the user has called by `name`: nothing, or what somebody at
/// the terminal agrees to lose. None if they do not.
fn agreed(vm: &Vm, name: Option<&str>, ui: &Ui) -> Result<Option<UnsyncedChanges>, CommandError> {
    let unsynced = UnsyncedChanges::now(vm)?;
    if unsynced.is_nothing() {
        return Ok(Some(unsynced));
    }
    let error = unsynced.error(vm.name());
    let named = if error.details.is_empty() { String::new() } else { format!(" ({})", error.details.join(", ")) };
    match ui.confirm(&format!("{}{named}. Delete it all the same?", error.message)) {
        Err(nobody) if nobody.kind == ErrorKind::InputNeeded => {
            let error = error.hint(format!("delete it all the same: {}", by_force(name)));
            Err(match unsynced {
                UnsyncedChanges::Unknown if name.is_none() => error.hint("look into it before: banger"),
                _ => error,
            })
        }
        answer => Ok(answer?.then_some(unsynced)),
    }
}
